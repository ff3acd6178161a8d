//! Child processes that never outlive this one, and progress lines.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Whether to print the commands that are run.
pub fn set_verbose(verbose: bool) {
    VERBOSE.store(verbose, Ordering::Relaxed);
}

/// A command that the kernel terminates when the thread that started it ends, for whatever reason.
///
/// `setpriv` sets the parent-death signal and then becomes the program, so the child's id is the
/// program's own.
pub fn tied(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// Runs a command that shares our output; an error unless it succeeds.
pub fn run(command: &mut Command) -> Result<()> {
    announce(command);
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", line(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", line(command));
    }
    Ok(())
}

/// Runs a command for its standard output; an error, with its messages, unless it succeeds.
pub fn read(command: &mut Command) -> Result<String> {
    let output = try_read(command)?;
    if !output.status.success() {
        let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
        if said.trim().is_empty() {
            said = String::from_utf8_lossy(&output.stdout).into_owned();
        }
        bail!(
            "{} failed: {}\n{}",
            line(command),
            output.status,
            said.trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command and returns what it said, whether it succeeded or not.
pub fn try_read(command: &mut Command) -> Result<Output> {
    announce(command);
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", line(command)))
}

/// What a command said and how it ended.
pub struct Said {
    pub text: String,
    pub status: std::process::ExitStatus,
}

/// Runs a command, passes on its standard output and keeps a copy.
pub fn tee(command: &mut Command) -> Result<Said> {
    let mut child = spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let mut text = String::new();
    for line in BufReader::new(child.stdout.take().context("no pipe")?).lines() {
        let line = line?;
        println!("{line}");
        text.push_str(&line);
        text.push('\n');
    }
    Ok(Said {
        text,
        status: child.wait()?,
    })
}

/// Starts a command that goes on beside us.
pub fn spawn(command: &mut Command) -> Result<Child> {
    announce(command);
    command
        .spawn()
        .with_context(|| format!("cannot run {}", line(command)))
}

/// Asks a child to end, insists after `patience`, and says how it ended.
pub fn stop(child: &mut Child, patience: Duration) -> Result<std::process::ExitStatus> {
    if let Some(status) = child.try_wait()? {
        return Ok(status);
    }
    kill_process(Pid::from_child(child), Signal::TERM)?;
    if let Some(status) = wait(child, patience)? {
        return Ok(status);
    }
    child.kill()?;
    let status = child.wait()?;
    bail!(
        "process {} ignored SIGTERM for {patience:?} and had to be killed ({status})",
        child.id()
    )
}

/// Waits for a child's end, for a limited time.
pub fn wait(child: &mut Child, patience: Duration) -> Result<Option<std::process::ExitStatus>> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The processor time that a process or a thread has used, in clock ticks; `proc` is its directory.
pub fn ticks(proc: &Path) -> Result<u64> {
    let stat = std::fs::read_to_string(proc.join("stat"))?;
    // The fields after the program's name, which may itself contain spaces; `proc_pid_stat(5)` counts from 1.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let field = |number: usize| {
        fields
            .get(number - 3)
            .and_then(|field| field.parse::<u64>().ok())
    };
    field(14)
        .zip(field(15))
        .map(|(user, system)| user + system)
        .context("unexpected /proc/PID/stat")
}

/// Does one step of the work, says so before and how long it took after (if worth mentioning).
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {what}");
    let start = Instant::now();
    let done = work().with_context(|| format!("{what}: failed"))?;
    let took = start.elapsed();
    if took > Duration::from_secs(1) {
        eprintln!("    {:.1} s", took.as_secs_f64());
    }
    Ok(done)
}

fn announce(command: &Command) {
    if VERBOSE.load(Ordering::Relaxed) {
        eprintln!("  $ {}", line(command));
    }
}

/// The command as a shell would take it, without the wrapper of [`tied`].
pub fn line(command: &Command) -> String {
    let mut words: Vec<&OsStr> = vec![command.get_program()];
    words.extend(command.get_args());
    if command.get_program() == "setpriv" {
        words.drain(..4.min(words.len()));
    }
    let mut line = String::new();
    for word in words {
        let separator = if line.is_empty() { "" } else { " " };
        let _ = write!(line, "{separator}{}", quote(&word.to_string_lossy()));
    }
    line
}

/// One word as a shell would take it.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
