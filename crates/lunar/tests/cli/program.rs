//! Running the binary.

use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A directory to work in, in which the program runs.
pub struct Place {
    directory: TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place {
            directory: TempDir::new().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A raw image of `size` zeroes.
    pub fn image(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        path
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lunar"));
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("LUNAR_RUNTIME_DIR", self.path("run"))
            .stdin(Stdio::null());
        command
    }

    /// Runs the program, which must end by itself.
    pub fn run(&self, arguments: &[&str]) -> Output {
        finish(self.command(arguments))
    }

    /// Starts a server.
    pub fn start(&self, mut command: Command) -> Server {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Server {
            child: command.spawn().unwrap(),
            _service_manager: None,
        }
    }

    /// Starts `lunar serve` and waits until it says that it is ready: a socket is there a moment before anybody listens.
    pub fn serve(&self, arguments: &[&str], sockets: &[&str]) -> Server {
        let directory = TempDir::new().unwrap();
        let notifications = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        let patience = Duration::from_millis(5);
        notifications.set_read_timeout(Some(patience)).unwrap();
        let mut command = self.command(&["serve"]);
        command.args(arguments);
        command.env("NOTIFY_SOCKET", directory.path().join("notify"));
        let mut server = self.start(command);
        let deadline = Instant::now() + PATIENCE;
        let mut message = [0; 4096];
        while !notifications.recv(&mut message).is_ok_and(|len| {
            let text = String::from_utf8_lossy(&message[..len]);
            text.lines().any(|line| line == "READY=1")
        }) {
            if server.child.try_wait().unwrap().is_some() {
                panic!("ended early: {:?}", server.rest());
            }
            assert!(Instant::now() < deadline, "not ready in time");
        }
        assert!(sockets.iter().all(|socket| self.path(socket).exists()));
        server._service_manager = Some((directory, notifications));
        server
    }
}

/// Runs `command`, which must end by itself.
pub fn finish(mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let status = wait(&mut child);
    let mut output = Output {
        status,
        stdout: Vec::new(),
        stderr: Vec::new(),
    };
    child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut output.stdout)
        .unwrap();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_end(&mut output.stderr)
        .unwrap();
    output
}

fn wait(child: &mut Child) -> std::process::ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A running `lunar serve`, killed when the test gives it up.
pub struct Server {
    child: Child,
    /// It may have more to say.
    _service_manager: Option<(TempDir, UnixDatagram)>,
}

/// How a server ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Server {
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Ends it with a signal.
    pub fn stop(mut self, signal: Signal) -> Ended {
        self.signal(signal);
        self.rest()
    }

    /// Waits for its end.
    pub fn ended(mut self) -> Ended {
        self.rest()
    }

    fn rest(&mut self) -> Ended {
        let status = wait(&mut self.child);
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut stdout)
            .unwrap();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        Ended {
            code: status.code(),
            stdout,
            stderr,
        }
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Clock ticks of CPU that it has used.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<_> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// `path` where the user `nobody` can get at it.
pub fn open_to_all(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Compares with `tests/golden/NAME.txt`; `LUNAR_BLESS=1` writes it.
pub fn golden(name: &str, text: &str) {
    let path = format!("{}/tests/golden/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("LUNAR_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, expected, "{name}: LUNAR_BLESS=1 accepts the new text");
}
