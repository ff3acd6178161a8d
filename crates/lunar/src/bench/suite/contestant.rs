//! Who takes part: this program, and those that it is measured against.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};

use super::Suite;
use super::case::{Case, Image};
use super::figures::Sample;
use super::fio::{self, Engine};
use super::pinning::{Processors, stay_on};
use super::server::Server;
use crate::bench::args::{Bench, DeviceKind, Rw};
use crate::bench::{self, wanted};

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

/// How many of what this program has, and how it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub luns: u16,
    pub queues: u16,
    pub workers: u16,
    /// Each with a disk and a client of its own.
    pub controllers: u16,
    /// Which rings the client has.
    pub packed: bool,
}

impl Shape {
    pub const ONE: Shape = Shape {
        luns: 1,
        queues: 1,
        workers: 1,
        controllers: 1,
        packed: false,
    };

    /// What is not one.
    fn name(&self) -> String {
        let counts = [
            (self.luns, "disks"),
            (self.controllers, "controllers"),
            (self.queues, "queues"),
            (self.workers, "workers"),
        ];
        let counts = counts.into_iter().filter(|&(number, _)| number > 1);
        let mut words: Vec<String> = counts.map(|(n, what)| format!("{n} {what}")).collect();
        words.extend(self.packed.then(|| "packed".to_owned()));
        match words.as_slice() {
            [] => "lunar".to_owned(),
            words => format!("lunar ({})", words.join(", ")),
        }
    }
}

/// One who takes part in a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contestant {
    /// This program.
    Lunar(Shape),
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
        let mut all = vec![Contestant::Lunar(Shape::ONE)];
        if image == Image::Null {
            all.push(Contestant::Lunar(Shape {
                packed: true,
                ..Shape::ONE
            }));
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

    pub fn name(&self) -> String {
        match self {
            Contestant::Lunar(shape) => shape.name(),
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
            Contestant::Lunar(_) | Contestant::Qemu { .. } | Contestant::VhostDeviceScsi { .. } => {
                let directory = tempfile::tempdir().context("a directory for the socket")?;
                let directory = directory.path();
                let shape = self.shape();
                let sockets = (0..shape.controllers).map(|n| directory.join(format!("s{n}")));
                let sockets: Vec<PathBuf> = sockets.collect();
                let command = self.command(case, image, options, &sockets)?;
                let server = Server::start(command, &sockets, directory, processors)?;
                stay_on(processors.client)?;
                let sample = ask(case, &sockets, &server, options, shape);
                sample.map_err(|error| server.explain(error))
            }
        }
    }

    /// How it is asked.
    fn shape(&self) -> Shape {
        match self {
            Contestant::Lunar(shape) => *shape,
            _ => Shape::ONE,
        }
    }

    fn command(
        &self,
        case: &Case,
        image: Option<&Path>,
        options: &Suite,
        sockets: &[PathBuf],
    ) -> anyhow::Result<Command> {
        let socket = sockets.first().context("a socket")?.display();
        let path = image.map(|path| path.display().to_string().replace(',', ",,"));
        let path = path.unwrap_or_default();
        let size = u64::from(options.size) << 20;
        let on_off = |on| if on { "on" } else { "off" };
        let mut arguments: Vec<String> = Vec::new();
        let program = match self {
            Contestant::Lunar(shape) => {
                let spin = if case.polling { options.poll_us } else { 32 };
                arguments.extend([
                    "serve".to_owned(),
                    "--monitor=none".to_owned(),
                    format!("--workers={}", shape.workers),
                    format!("--poll-us={spin}"),
                ]);
                for (n, socket) in sockets.iter().enumerate() {
                    let (socket, queues) = (socket.display(), shape.queues);
                    arguments.push(format!(
                        "--device=virtio-scsi-pci,id=c{n},socket={socket},num_queues={queues}"
                    ));
                }
                let cached = format!("cache.direct={}", on_off(case.image.is_direct()));
                for lun in 0..shape.luns.max(shape.controllers) {
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
                    let bus = lun % shape.controllers;
                    arguments.push(format!(
                        "--device=scsi-hd,bus=c{bus}.0,drive=n{lun},scsi-id=0,lun={lun}"
                    ));
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

/// Does what `lunar bench` does, on every socket at the same time.
fn ask(
    case: &Case,
    sockets: &[PathBuf],
    server: &Server,
    options: &Suite,
    shape: Shape,
) -> anyhow::Result<Sample> {
    // All that there is shares the depth.
    let depth = case.depth / shape.queues / shape.controllers;
    let bench = |socket: &PathBuf| Bench {
        socket: socket.clone(),
        rw: case.rw,
        rwmixread: 50,
        bs: case.bs,
        iodepth: depth.max(1),
        queues: shape.queues,
        luns: None,
        runtime: options.runtime,
        count: None,
        ramp: RAMP,
        busy_poll: case.polling,
        pid: server.process(),
        packed: shape.packed,
        device: DeviceKind::Auto,
        json: true,
    };
    let luns = (shape.luns > 1).then_some(wanted::Luns::All);
    let benches: Vec<Bench> = sockets.iter().map(bench).collect();
    if case.image == Image::Memory {
        benches
            .iter()
            .try_for_each(|bench| fill(bench, options.size))?;
    }
    let all: anyhow::Result<Vec<_>> = std::thread::scope(|scope| {
        let measure = |bench| {
            let luns = luns.clone();
            scope.spawn(move || bench::measure(bench, luns))
        };
        let clients: Vec<_> = benches.iter().map(measure).collect();
        let gone = |_| Err(anyhow!("a client has ended"));
        let all = clients.into_iter();
        all.map(|client| client.join().unwrap_or_else(gone))
            .collect()
    });
    let all = all?;
    all.iter().try_for_each(bench::verdict)?;
    Sample::of(&all).context("nothing was measured")
}

/// Writes all of a disk in the server's memory, as files are filled beforehand: what nobody has written is one page of zeroes
/// however long the disk is, and always in the cache.
fn fill(bench: &Bench, mebibytes: u32) -> anyhow::Result<()> {
    let all = Bench {
        socket: bench.socket.clone(),
        luns: None,
        rw: Rw::Write,
        bs: 1 << 20,
        iodepth: 1,
        queues: 1,
        count: Some(mebibytes.into()),
        ramp: Duration::ZERO,
        ..*bench
    };
    bench::verdict(&bench::measure(&all, None)?)
}

/// Copies blocks from anywhere in as much memory as the images have to a few places, or the other way round.
fn copying(case: &Case, options: &Suite, processors: &Processors) -> anyhow::Result<Sample> {
    stay_on(processors.server)?;
    let block = usize::try_from(case.bs)?;
    let mut memory = vec![1_u8; usize::try_from(options.size)? << 20];
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
            let at = usize::try_from(state >> 8)? % blocks * block;
            match (memory.get_mut(at..at + block), case.rw) {
                (Some(block), Rw::Randwrite | Rw::Write) => block.copy_from_slice(place),
                (Some(block), _) => place.copy_from_slice(block),
                (None, _) => {}
            }
            copied += 1;
        }
        std::hint::black_box((&mut places, &mut memory));
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
