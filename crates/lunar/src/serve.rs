//! `lunar serve`: builds what is declared, serves it until a signal comes, and takes it down again.
//!
//! Order is the point. Everything that can fail for a reason of the command line fails before an image is opened;
//! every image is opened before a socket exists; every socket is bound before a front end is answered. At the end the
//! same backwards: front ends are let go after what they had in flight, then the images are flushed and closed.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use lunar_host::model::{Model, Node, NodeDriver, Socket};
use lunar_host::{Config, Host, ShutdownReason};
use lunar_virtio_scsi::WorkersConfig;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Resource;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::args::Serve;
use crate::declare;
use crate::machines::Machines;
use crate::monitors::{self, Monitors};
use crate::qemu::{self, Row, Served};
use crate::{Failure, log, metrics, say, say_aside, service, warn};

/// How often a server for one given connection is asked whether it has ended.
const FINISHED_POLL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Runs until a signal.
pub fn run(serve: &Serve) -> Result<(), Failure> {
    if let Some(text) = declare::help(serve).map_err(Failure::usage)? {
        say(&text);
        return Ok(());
    }
    let file = serve.config.as_deref().map(declare::file).transpose();
    let file = file.map_err(Failure::usage)?;
    let model = declare::model(serve, file.as_ref()).map_err(Failure::usage)?;
    let monitors = declare::monitors(serve, file.as_ref()).map_err(Failure::usage)?;
    let mut settings = declare::settings(serve, file.as_ref());
    settings.monitor = monitors.iter().map(monitors::Place::absolute).collect();
    let metrics = declare::metrics(serve, file.as_ref()).map_err(Failure::usage)?;
    let filter = declare::log(serve, file.as_ref()).map_err(Failure::Usage)?;
    let format = declare::log_format(serve, file.as_ref()).map_err(Failure::usage)?;
    log::start(filter, format);
    raise_descriptor_limit();
    let signals = Signals::watch()
        .context("signals")
        .map_err(Failure::Runtime)?;

    let machine = settings.qemu_monitor.as_ref().map(PathBuf::from);
    let workers = settings.workers.clone().unwrap_or_default();
    let config = Config {
        workers: WorkersConfig {
            count: workers.count().into(),
            spin: Duration::from_micros(settings.poll_us.unwrap_or(32).into()),
            cpus: workers.cpus().numbers(),
        },
        queues: settings.queues,
        settings,
    };
    // Who is served already is asked before an image is opened.
    let monitors = Monitors::bind(&monitors).map_err(Failure::Runtime)?;
    let metrics = metrics.map(metrics::Bound::bind).transpose();
    let metrics = metrics.map_err(Failure::Runtime)?;
    let host = Host::start(config, model).map_err(failure)?;
    let monitors = monitors.start(&host).map_err(Failure::Runtime)?;
    let machines = Machines::start(&host, machine).context("cannot start a thread");
    let machines = machines.map_err(Failure::Runtime)?;
    let url = metrics.as_ref().and_then(metrics::Bound::url);
    let metrics = metrics.map(|bound| bound.start(&host)).transpose();
    let metrics = metrics.map_err(Failure::Runtime)?;
    let say = if monitors.is_on_stdout() {
        say_aside
    } else {
        say
    };
    announce(&host, say);
    if let Some(url) = url {
        say(&format!("\nMetrics are at {url}\n"));
    }
    service::ready(&host);
    let reason = signals
        .wait(&host)
        .context("signals")
        .map_err(Failure::Runtime)?;
    service::stopping();
    let ended = host.shut_down(reason);
    machines.stop();
    monitors.stop();
    if let Some(metrics) = metrics {
        metrics.stop();
    }
    ended.map_err(failure)
}

fn failure(error: lunar_host::Error) -> Failure {
    match error.is_usage() {
        true => Failure::usage(error),
        false => Failure::runtime(error),
    }
}

fn announce(host: &Host, say: fn(&str)) {
    let model = host.model();
    warn_of_content(&model);
    for drive in model.unused_drives() {
        warn(&format!("{}: no device uses this drive", drive.origin));
    }
    let (controllers, devices) = (host.controllers(), host.devices());
    let mut all = Vec::new();
    for controller in model.controllers() {
        for warning in qemu::boot_warnings(controller) {
            warn(&warning);
        }
        let disks = devices.iter().filter(|device| device.bus == controller.bus);
        let rows = disks.map(|device| Row {
            target: device.target,
            lun: device.lun,
            name: device.name.clone(),
            size: device.size,
            read_only: device.read_only,
            image: model
                .node(&device.node)
                .map_or_else(String::new, |node| describe(&model, node)),
        });
        let info = controllers.iter().find(|info| info.bus == controller.bus);
        all.push(Served {
            controller,
            queues: info.map_or(0, |info| info.queues),
            disks: rows.collect(),
        });
    }
    say(&format!(
        "Lunar {} serves {} on {}.\n\n{}\n{}",
        env!("CARGO_PKG_VERSION"),
        qemu::count(devices.len(), "disk"),
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
        NodeDriver::Empty => "no medium".to_owned(),
        NodeDriver::Memory { .. } => "RAM (memory)".to_owned(),
        NodeDriver::Throttle { file, .. } => below(file),
        NodeDriver::Blkdebug { image, .. } => format!("{} with faults", below(image)),
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

    /// Returns at the first signal, when the host is asked to end, or when every server has ended by itself.
    fn wait(&self, host: &Host) -> std::io::Result<ShutdownReason> {
        let model = host.model();
        let mut controllers = model.controllers().iter();
        // Only a connection that was given comes to an end; all else sleeps undisturbed.
        let given = controllers.any(|found| matches!(found.socket, Some(Socket::Fd(_))));
        loop {
            let quit = host.quit_wanted();
            let mut ends = [
                PollFd::new(&self.woken, PollFlags::IN),
                PollFd::new(&quit, PollFlags::IN),
            ];
            match poll(&mut ends, given.then_some(&FINISHED_POLL)) {
                Ok(0) if host.is_finished() => return Ok(ShutdownReason::HostSignal),
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            let [signal, _] = ends;
            let insistent = Arc::clone(&self.insistent);
            std::thread::spawn(move || {
                std::thread::sleep(PATIENCE);
                insistent.store(true, Ordering::Relaxed);
            });
            return Ok(match signal.revents().is_empty() {
                false => ShutdownReason::HostSignal,
                true => ShutdownReason::HostQmpQuit,
            });
        }
    }
}
