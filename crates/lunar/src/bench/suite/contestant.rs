//! Who takes part: this program, and those that it is measured against.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::Suite;
use super::case::{Case, Image};
use super::figures::Sample;
use super::fio::{self, Engine};
use super::pinning::{Processors, stay_on};
use crate::bench::args::{Bench, DeviceKind};
use crate::bench::{self, wanted};

/// How long a server may take until it can be connected to.
const PATIENCE: Duration = Duration::from_secs(30);

/// Before figures count: caches are filled, and a server that adapts has done so.
pub const RAMP: Duration = Duration::from_millis(200);

/// A program that takes part if it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Qemu,
    Fio,
    VhostDeviceScsi,
}

impl Program {
    const ALL: [Program; 3] = [Program::Qemu, Program::Fio, Program::VhostDeviceScsi];

    pub fn name(self) -> &'static str {
        match self {
            Program::Qemu => "qemu-storage-daemon",
            Program::Fio => "fio",
            Program::VhostDeviceScsi => "vhost-device-scsi",
        }
    }

    /// Those in the directories of `PATH`.
    pub fn found() -> Vec<Program> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let is_here = |program: &Program| {
            let mut directories = directories.iter();
            directories.any(|directory| directory.join(program.name()).is_file())
        };
        Program::ALL.into_iter().filter(is_here).collect()
    }
}

/// One who takes part in a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contestant {
    /// This program, with so many disks, asked through split or packed rings.
    Lunar { luns: u16, packed: bool },
    /// QEMU's server of block devices, with one of its ways of I/O.
    Qemu { aio: &'static str },
    /// The published SCSI server of the rust-vmm project. It goes through the host's page cache, whether or not the others
    /// do.
    VhostDeviceScsi { alone: bool },
    /// Without any machine.
    Fio(Engine),
    /// A loop that copies within memory.
    Copying,
}

impl Contestant {
    /// Those who can be asked for I/O on such an image.
    pub fn for_image(
        image: Image,
        polling: bool,
        programs: &[Program],
        options: &Suite,
    ) -> Vec<Contestant> {
        let mut all = vec![Contestant::with_luns(1)];
        if image == Image::Null {
            all.push(Contestant::Lunar {
                luns: 1,
                packed: true,
            });
        }
        let has = |program| programs.contains(&program);
        if has(Program::Qemu) {
            let ways: &[&str] = match image {
                Image::Null => &["none"],
                Image::Memory => &[],
                _ => &["native", "io_uring", "threads"],
            };
            all.extend(ways.iter().map(|aio| Contestant::Qemu { aio }));
        }
        let raw = matches!(image, Image::Tmpfs | Image::Direct);
        if has(Program::VhostDeviceScsi) && raw {
            all.push(Contestant::VhostDeviceScsi {
                alone: image.is_direct(),
            });
        }
        // They have no client, so they need no second turn with another one.
        if has(Program::Fio) && raw && polling {
            all.extend(Engine::ALL.map(Contestant::Fio));
        }
        if image == Image::Memory && polling && options.size > 0 {
            all.push(Contestant::Copying);
        }
        all
    }

    pub fn with_luns(luns: u16) -> Contestant {
        Contestant::Lunar {
            luns,
            packed: false,
        }
    }

    pub fn name(&self) -> String {
        match self {
            Contestant::Lunar { packed: true, .. } => "lunar (packed)".to_owned(),
            Contestant::Lunar { luns: 1, .. } => "lunar".to_owned(),
            Contestant::Lunar { luns, .. } => format!("lunar ({luns} disks)"),
            Contestant::Qemu { aio: "none" } => Program::Qemu.name().to_owned(),
            Contestant::Qemu { aio } => format!("{} ({aio})", Program::Qemu.name()),
            Contestant::VhostDeviceScsi { alone } => {
                let which = if *alone { " (page cache)" } else { "" };
                format!("{}{which}", Program::VhostDeviceScsi.name())
            }
            Contestant::Fio(engine) => format!("fio ({})", engine.name()),
            Contestant::Copying => "memcpy".to_owned(),
        }
    }

    /// A turn.
    pub fn measure(
        &self,
        case: &Case,
        image: Option<&Path>,
        options: &Suite,
        processors: &Processors,
    ) -> anyhow::Result<Sample> {
        match self {
            Contestant::Fio(engine) => {
                let image = image.context("fio needs a file")?;
                fio::measure(*engine, case, image, options, processors)
            }
            Contestant::Copying => copying(case, options, processors),
            Contestant::Lunar { .. }
            | Contestant::Qemu { .. }
            | Contestant::VhostDeviceScsi { .. } => {
                let sockets = tempfile::tempdir().context("a directory for the socket")?;
                let socket = sockets.path().join("s");
                let command = self.command(case, image, options, &socket)?;
                let server = Server::start(command, &socket, sockets.path(), processors)?;
                let sample = ask(case, &socket, &server, options, processors, *self);
                sample.map_err(|error| server.explain(error))
            }
        }
    }

    fn command(
        &self,
        case: &Case,
        image: Option<&Path>,
        options: &Suite,
        socket: &Path,
    ) -> anyhow::Result<Command> {
        let socket = socket.display();
        let path = image.map(|path| path.display().to_string().replace(',', ",,"));
        let path = path.unwrap_or_default();
        let size = u64::from(options.size) << 20;
        let on_off = |on| if on { "on" } else { "off" };
        let mut arguments: Vec<String> = Vec::new();
        let program = match self {
            Contestant::Lunar { luns, .. } => {
                let spin = if case.polling { options.poll_us } else { 32 };
                arguments.extend(
                    ["serve", "--monitor=none", "--queues=1", "--workers=1"].map(str::to_owned),
                );
                arguments.push(format!("--socket-path={socket}"));
                arguments.push(format!("--poll-us={spin}"));
                let cached = format!("cache.direct={}", on_off(case.image.is_direct()));
                for lun in 0..*luns {
                    let node = format!("node-name=n{lun}");
                    let file = format!("file.driver=file,file.filename={path}");
                    arguments.push(match case.image {
                        Image::Null => format!("--blockdev=null-co,{node},size={size}"),
                        Image::Memory => format!("--blockdev=memory,{node},size={size}"),
                        Image::Tmpfs | Image::Direct => {
                            format!("--blockdev=raw,{node},{cached},{file}")
                        }
                        Image::Qcow2Tmpfs | Image::Qcow2Direct => {
                            format!("--blockdev=qcow2,{node},{cached},{file}")
                        }
                    });
                    arguments.push(format!("--device=scsi-hd,drive=n{lun},scsi-id=0,lun={lun}"));
                }
                std::env::current_exe().context("this program")?
            }
            Contestant::Qemu { aio } => {
                // The only way that its native I/O takes a file.
                let direct = on_off(case.image.is_direct() || *aio == "native");
                let file =
                    format!("file,node-name=f,filename={path},aio={aio},cache.direct={direct}");
                arguments.extend(match case.image {
                    Image::Null => vec![format!("--blockdev=null-co,node-name=n,size={size}")],
                    Image::Qcow2Tmpfs | Image::Qcow2Direct => vec![
                        format!("--blockdev={file}"),
                        format!("--blockdev=qcow2,node-name=n,file=f,cache.direct={direct}"),
                    ],
                    _ => vec![
                        format!("--blockdev={file}"),
                        format!("--blockdev=raw,node-name=n,file=f,cache.direct={direct}"),
                    ],
                });
                arguments.push(format!(
                    "--export=vhost-user-blk,id=e,node-name=n,writable=on,addr.type=unix,addr.path={socket}"
                ));
                PathBuf::from(Program::Qemu.name())
            }
            Contestant::VhostDeviceScsi { .. } => {
                arguments.extend([format!("--socket-path={socket}"), path]);
                PathBuf::from(Program::VhostDeviceScsi.name())
            }
            Contestant::Fio(_) | Contestant::Copying => bail!("it is no server"),
        };
        let mut command = Command::new(program);
        command.args(arguments);
        Ok(command)
    }
}

/// A server at work; it ends when this goes.
struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    fn start(
        mut command: Command,
        socket: &Path,
        directory: &Path,
        processors: &Processors,
    ) -> anyhow::Result<Server> {
        let log = directory.join("log");
        let messages = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(messages.try_clone()?);
        stay_on(processors.server)?;
        let child = command.stderr(messages).spawn();
        let program = command.get_program().display().to_string();
        let mut server = Server {
            child: child.context(program)?,
            log,
        };
        let deadline = Instant::now() + PATIENCE;
        while !socket.exists() {
            if let Some(status) = server.child.try_wait()? {
                let error = anyhow!("it ended with {status}");
                return Err(server.explain(error));
            }
            if Instant::now() > deadline {
                let error = anyhow!("no socket after {PATIENCE:?}");
                return Err(server.explain(error));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    fn process(&self) -> Option<i32> {
        i32::try_from(self.child.id()).ok()
    }

    /// What went wrong, and what the server said last.
    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        match log.lines().rev().find(|line| !line.trim().is_empty()) {
            Some(last) => anyhow!("{error:#}; the server's last words: {}", last.trim()),
            None => error,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It cannot have gone without being waited for.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Does what `lunar bench` does.
fn ask(
    case: &Case,
    socket: &Path,
    server: &Server,
    options: &Suite,
    processors: &Processors,
    contestant: Contestant,
) -> anyhow::Result<Sample> {
    // A server may listen a moment after its socket is there; to try would be to connect, which some take once only.
    std::thread::sleep(Duration::from_millis(50));
    stay_on(processors.client)?;
    let bench = Bench {
        socket: socket.to_owned(),
        rw: case.rw,
        rwmixread: 50,
        bs: case.bs,
        iodepth: case.depth,
        queues: 1,
        luns: None,
        runtime: options.runtime,
        count: None,
        ramp: RAMP,
        busy_poll: case.polling,
        pid: server.process(),
        packed: matches!(contestant, Contestant::Lunar { packed: true, .. }),
        device: DeviceKind::Auto,
        json: true,
    };
    let luns = match contestant {
        Contestant::Lunar { luns: 2.., .. } => Some(wanted::Luns::All),
        _ => None,
    };
    let measured = bench::measure(&bench, luns)?;
    bench::verdict(&measured)?;
    Ok(Sample::of(&measured))
}

/// Copies blocks from anywhere in as much memory as the images have to a few places.
fn copying(case: &Case, options: &Suite, processors: &Processors) -> anyhow::Result<Sample> {
    stay_on(processors.server)?;
    let block = usize::try_from(case.bs)?;
    let memory = vec![1_u8; usize::try_from(options.size)? << 20];
    let mut places = vec![0_u8; block * usize::from(case.depth)];
    let blocks = memory.len() / block;
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut copied = 0_u64;
    let start = Instant::now();
    while start.elapsed() < options.runtime {
        for place in places.chunks_exact_mut(block) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let from = usize::try_from(state >> 8)? % blocks * block;
            if let Some(from) = memory.get(from..from + block) {
                place.copy_from_slice(from);
            }
            copied += 1;
        }
        std::hint::black_box(&mut places);
    }
    let iops = bench::report::rate(copied, start.elapsed());
    Ok(Sample {
        iops,
        p50_us: 1e6 / iops,
        p99_us: 1e6 / iops,
        cpu_us: Some(1e6 / iops),
        kicks: None,
        interrupts: None,
    })
}
