//! `lunar serve`: builds what is declared, serves it until a signal comes, and takes it down again.
//!
//! Order is the point. Everything that can fail for a reason of the command line fails before an image is opened;
//! every image is opened before a socket exists; every socket is bound before a front end is answered. At the end the
//! same backwards: front ends are let go after what they had in flight, then the images are flushed and closed.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use lunar_target::LogicalUnit;
use lunar_vhost_user::{Running, Server};
use lunar_virtio_scsi::{Controller, ControllerConfig, Workers, WorkersConfig};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Resource};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::args::Serve;
use crate::declare::{self, Socket};
use crate::images::Images;
use crate::model::{Address, Model, Node, NodeDriver};
use crate::qemu::{self, Row, Served};
use crate::units::{self, Units};
use crate::{Failure, say, warn};

/// How often a server for one given connection is asked whether it has ended.
const FINISHED_POLL: Duration = Duration::from_millis(100);

/// Runs until a signal.
pub fn run(serve: &Serve) -> Result<(), Failure> {
    if let Some(text) = declare::help(serve).map_err(Failure::usage)? {
        say(&text);
        return Ok(());
    }
    let model = declare::model(serve).map_err(Failure::usage)?;
    let sockets = declare::sockets(serve, &model).map_err(Failure::usage)?;
    start_log(&serve.log).map_err(Failure::Usage)?;
    raise_descriptor_limit();
    let signals = Signals::watch()
        .context("signals")
        .map_err(Failure::Runtime)?;

    let mut images = Images::new(&model);
    let built = build(serve, &model, &mut images)?;
    let running = listen(&built.controllers, &model, &sockets).map_err(Failure::Runtime)?;

    announce(&model, &sockets, &built);
    signals
        .wait(&sockets, &running)
        .context("signals")
        .map_err(Failure::Runtime)?;

    running.into_iter().for_each(Running::stop);
    drop(built.controllers);
    built.workers.stop();
    images.close().map_err(Failure::runtime)
}

/// The data path of a model.
struct Built {
    workers: Arc<Workers>,
    controllers: Vec<Arc<Controller>>,
    /// By controller.
    rows: Vec<Vec<Row>>,
}

fn build(serve: &Serve, model: &Model, images: &mut Images<'_>) -> Result<Built, Failure> {
    let mut units = Units::new(model);
    let mut attached = Vec::new();
    for (number, controller) in (1..).zip(model.controllers()) {
        let mut disks = Vec::new();
        for (address, disk) in &controller.disks {
            let unit = units.unit(disk, images)?;
            let image = unit.image().map(|image| image.info());
            let row = Row {
                address: *address,
                name: disk.name.clone(),
                size: image.as_ref().map_or(0, |info| info.size),
                read_only: image.is_some_and(|info| info.read_only),
                image: model
                    .node(&disk.node)
                    .map_or_else(String::new, |node| describe(model, node)),
            };
            disks.push((row, units::port(disk, number), unit));
        }
        attached.push(disks);
    }
    warn_of_content(model);

    let workers = Workers::start(WorkersConfig {
        count: serve.workers.into(),
        spin: Duration::from_micros(serve.poll_us.into()),
        ..WorkersConfig::default()
    });
    let workers = workers
        .context("cannot start the workers")
        .map_err(Failure::Runtime)?;
    let mut controllers = Vec::new();
    let mut rows = Vec::new();
    for (declared, disks) in model.controllers().iter().zip(attached) {
        let options = &declared.options;
        let config = ControllerConfig {
            id: declared.name().to_owned(),
            initiator: options.initiator.clone(),
            request_queues: options.num_queues.unwrap_or_else(|| queues(serve)),
            max_sectors: options.max_sectors,
            cmd_per_lun: options.cmd_per_lun,
            hotplug: options.hotplug,
            param_change: options.param_change,
            ..ControllerConfig::default()
        };
        let controller = Controller::new(&workers, config).map_err(Failure::runtime)?;
        let mut shown = Vec::new();
        for (row, port, disk) in disks {
            let Address { target, lun } = row.address;
            controller
                .attach_through(port, target, lun, disk)
                .map_err(Failure::runtime)?;
            shown.push(row);
        }
        controllers.push(controller);
        rows.push(shown);
    }
    Ok(Built {
        workers,
        controllers,
        rows,
    })
}

/// One for each CPU of the host, as QEMU takes one for each of the guest.
fn queues(serve: &Serve) -> u16 {
    let cpus = || std::thread::available_parallelism().map_or(1, usize::from);
    serve.queues.unwrap_or_else(|| {
        u16::try_from(cpus()).map_or(crate::catalog::MAX_QUEUES, |n| {
            n.min(crate::catalog::MAX_QUEUES)
        })
    })
}

fn listen(
    controllers: &[Arc<Controller>],
    model: &Model,
    sockets: &[Socket],
) -> anyhow::Result<Vec<Running>> {
    let mut servers = Vec::new();
    for ((controller, declared), socket) in controllers.iter().zip(model.controllers()).zip(sockets)
    {
        let options = lunar_vhost_user::Options {
            config: declared.options.config,
        };
        let device = Arc::clone(controller);
        servers.push(match socket {
            Socket::Path(path) => Server::bind(path, device, options)?,
            Socket::Fd(number) => {
                let fd = inherited(*number).with_context(|| format!("--fd {number}"))?;
                Server::from_fd(fd, device, options)?
            }
        });
    }
    servers
        .into_iter()
        .map(|server| Ok(server.start()?))
        .collect()
}

/// A second descriptor for the open file that is number `number` in this process.
fn inherited(number: i32) -> std::io::Result<std::os::fd::OwnedFd> {
    let this: Pid = rustix::process::getpid();
    let this = rustix::process::pidfd_open(this, PidfdFlags::empty())?;
    Ok(rustix::process::pidfd_getfd(
        &this,
        number,
        PidfdGetfdFlags::empty(),
    )?)
}

fn announce(model: &Model, sockets: &[Socket], built: &Built) {
    for drive in model.unused_drives() {
        warn(&format!("{}: no device uses this drive", drive.origin));
    }
    let mut all = Vec::new();
    for (((controller, socket), rows), started) in model
        .controllers()
        .iter()
        .zip(sockets)
        .zip(&built.rows)
        .zip(&built.controllers)
    {
        for warning in qemu::boot_warnings(controller) {
            warn(&warning);
        }
        all.push(Served {
            controller,
            socket,
            queues: started.config().request_queues,
            disks: rows,
        });
    }
    let disks = all.iter().map(|served| served.disks.len()).sum();
    say(&format!(
        "Lunar {} serves {} on {}.\n\n{}\n{}",
        env!("CARGO_PKG_VERSION"),
        qemu::count(disks, "disk"),
        qemu::count(all.len(), "controller"),
        qemu::table(&all),
        qemu::options(&all),
    ));
}

/// `qcow2 system.qcow2`.
fn describe(model: &Model, node: &Node) -> String {
    let below = |name: &str| {
        model
            .node(name)
            .map_or_else(String::new, |node| describe(model, node))
    };
    match &node.driver {
        NodeDriver::File { filename } | NodeDriver::HostDevice { filename } => {
            filename.display().to_string()
        }
        NodeDriver::Raw {
            file,
            offset: 0,
            size: None,
        } => below(file),
        NodeDriver::Raw { file, .. } => format!("part of {}", below(file)),
        NodeDriver::Qcow2 { file } => format!("{} (qcow2)", below(file)),
        NodeDriver::Null { .. } => "nothing (null-co)".to_owned(),
        NodeDriver::Memory { .. } => "RAM (memory)".to_owned(),
    }
}

/// A raw image that nobody called raw and that begins like a qcow2 image: probably a mistake, and one that destroys it.
fn warn_of_content(model: &Model) {
    for (drive, path) in model.presumed_raw() {
        let mut magic = [0; 4];
        let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
        if read.is_ok() && magic == *b"QFI\xfb" {
            warn(&format!(
                "{}: this looks like a qcow2 image and is served as raw; give format=qcow2, \
                 or format=raw if it is meant",
                drive.origin
            ));
        }
    }
}

fn start_log(level: &str) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(level).with_context(|| {
        format!("--log {level}: must be error, warn, info, debug, trace or filters")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}

/// Every image and every ring takes descriptors. If the limit cannot be raised, opening will say so.
fn raise_descriptor_limit() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// SIGTERM, SIGINT and SIGHUP: the first ends the server properly, one that comes a good while later at once. Several
/// within that while are one wish: supervisors signal the process and its group.
struct Signals {
    woken: UnixStream,
    /// From now on a signal ends the process at once.
    insistent: Arc<AtomicBool>,
}

/// How much later a second signal means that somebody has lost patience.
const PATIENCE: Duration = Duration::from_secs(1);

impl Signals {
    fn watch() -> std::io::Result<Signals> {
        let (woken, wake) = UnixStream::pair()?;
        let insistent = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&insistent))?;
            signal_hook::low_level::pipe::register(signal, wake.try_clone()?)?;
        }
        Ok(Signals { woken, insistent })
    }

    /// Returns at the first signal, or when every server has ended by itself.
    fn wait(&self, sockets: &[Socket], running: &[Running]) -> std::io::Result<()> {
        // Only a connection that was given comes to an end; all else sleeps undisturbed.
        if sockets.iter().any(|socket| matches!(socket, Socket::Fd(_))) {
            self.woken.set_read_timeout(Some(FINISHED_POLL))?;
        }
        loop {
            match (&self.woken).read(&mut [0]) {
                Ok(_) => {
                    let insistent = Arc::clone(&self.insistent);
                    std::thread::spawn(move || {
                        std::thread::sleep(PATIENCE);
                        insistent.store(true, Ordering::Relaxed);
                    });
                    return Ok(());
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if running.iter().all(Running::is_finished) {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
