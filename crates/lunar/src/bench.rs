//! `lunar bench`: how fast what is behind a socket is, as a virtual machine would find it.

mod args;
mod cpu;
mod report;
mod suite;
mod wanted;

use std::io::{IsTerminal, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use lunar_initiator::{
    Access, Address, Device, Initiator, Kind, Limit, Load, Moment, Options, Report, Waiting,
    feature,
};

use crate::qemu::count;
use crate::{Failure, say};
pub use args::{Bench, Benches};
pub use report::{grouped, rate};

/// What was measured.
struct Measured<'a> {
    bench: &'a Bench,
    kind: Kind,
    /// The logical units under load.
    disks: Vec<Place>,
    report: Report,
    /// The server's process.
    server: Option<i32>,
    /// The processor time that the server used.
    cpu: Option<Duration>,
}

/// Where a logical unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    target: u8,
    lun: lunar_scsi::Lun,
}

/// Room for what is asked before the load: the longest REPORT LUNS.
const LEAST_DATA: u32 = 256 << 10;
/// Descriptors of a request.
const CHAIN: u16 = 3;
/// The ring's least size, which is what guests usually have.
const LEAST_RING: u16 = 128;

/// One measurement, or the whole suite.
pub fn run(benches: &Benches) -> Result<(), Failure> {
    match (&benches.suite, &benches.bench) {
        (Some(args::Which::Suite(options)), _) => suite::run(options),
        (None, Some(bench)) => one(bench),
        (None, None) => Err(Failure::Usage(anyhow::Error::msg(
            "a socket, or the word suite, is missing; see lunar bench --help",
        ))),
    }
}

/// Connects, measures, prints.
fn one(bench: &Bench) -> Result<(), Failure> {
    let luns = bench.luns.as_deref().map(wanted::luns).transpose();
    let luns = luns.context("--luns").map_err(Failure::Usage)?;
    let measured = measure(bench, luns)
        .with_context(|| bench.socket.display().to_string())
        .map_err(Failure::Runtime)?;
    say(&match bench.json {
        true => report::json(&measured),
        false => report::text(&measured),
    });
    verdict(&measured).map_err(Failure::Runtime)
}

/// Something that went wrong on the way makes the whole run fail, with its figures printed.
fn verdict(measured: &Measured<'_>) -> anyhow::Result<()> {
    let report = &measured.report;
    let wrong = usize::try_from(report.mismatches).unwrap_or(usize::MAX);
    let failed = usize::try_from(report.failed()).unwrap_or(usize::MAX);
    match (wrong, failed) {
        (0, 0) => Ok(()),
        (0, _) => bail!("{} failed", count(failed, "request")),
        _ => bail!("{} not what had been written", count(wrong, "block")),
    }
}

fn measure(bench: &Bench, luns: Option<wanted::Luns>) -> anyhow::Result<Measured<'_>> {
    let packed = match bench.packed {
        true => feature::RING_PACKED,
        false => 0,
    };
    let defaults = Options::default();
    let options = Options {
        features: defaults.features | packed,
        queues: bench.queues,
        queue_size: (bench.iodepth * CHAIN).next_power_of_two().max(LEAST_RING),
        depth: bench.iodepth,
        max_data: bench.bs.max(LEAST_DATA),
        ..defaults
    };
    let kind = match bench.device {
        args::DeviceKind::Auto => None,
        args::DeviceKind::Scsi => Some(Kind::Scsi),
        args::DeviceKind::Block => Some(Kind::Block),
    };
    let mut device = Device::connect(&bench.socket, kind, options)?;
    if device.session().features() & packed != packed {
        bail!("the server does not offer packed rings");
    }
    let disks = match &mut device {
        Device::Scsi(initiator) => places(initiator, luns)?,
        Device::Block(_) if luns.is_some() => bail!("a block device has no --luns"),
        Device::Block(_) => Vec::new(),
    };
    let address = |place: &Place| Address::new(place.target, place.lun);
    let wanted = Load {
        disks: disks.iter().map(address).collect(),
        access: access(bench),
        block_size: bench.bs,
        depth: bench.iodepth,
        queues: bench.queues,
        limit: bench.count.map_or(Limit::Time(bench.runtime), Limit::Count),
        ramp: bench.ramp,
        waiting: if bench.busy_poll {
            Waiting::Poll
        } else {
            Waiting::Sleep
        },
        seed: seed(),
    };
    let server = bench.pid.or_else(|| device.session().server());
    let mut progress = Progress::new(server);
    let report = device.load(&wanted, &mut |moment| progress.note(moment))?;
    Ok(Measured {
        bench,
        kind: device.kind(),
        disks,
        report,
        server,
        // The last look at what was written belongs to no request that is counted.
        cpu: progress.cpu().filter(|_| wanted.access != Access::Verify),
    })
}

fn access(bench: &Bench) -> Access {
    match bench.rw {
        args::Rw::Randread => Access::RandomRead,
        args::Rw::Randwrite => Access::RandomWrite,
        args::Rw::Randrw => Access::RandomMixed {
            reads: bench.rwmixread,
        },
        args::Rw::Read => Access::Read,
        args::Rw::Write => Access::Write,
        args::Rw::Verify => Access::Verify,
    }
}

/// The logical units that are meant: the first disk, unless something is said.
fn places(initiator: &mut Initiator, luns: Option<wanted::Luns>) -> anyhow::Result<Vec<Place>> {
    let luns = match luns {
        Some(wanted::Luns::These(places)) => return Ok(places),
        other => other,
    };
    let units = initiator.scan().context("while looking for disks")?;
    let mut found: Vec<Place> = units
        .into_iter()
        .filter(|unit| unit.device_type == 0 && unit.capacity.is_some())
        .map(|unit| Place {
            target: unit.target,
            lun: unit.lun,
        })
        .collect();
    if found.is_empty() {
        bail!("there is no disk behind this socket");
    }
    if luns.is_none() {
        found.truncate(1);
    }
    Ok(found)
}

/// Different in every run.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let ns = now.unwrap_or_default().as_nanos() & u128::from(u64::MAX);
    u64::try_from(ns).unwrap_or(0) ^ u64::from(std::process::id()) << 40
}

/// What is watched while the load is on.
struct Progress {
    server: Option<i32>,
    before: Option<Duration>,
    after: Option<Duration>,
    terminal: bool,
}

impl Progress {
    fn new(server: Option<i32>) -> Progress {
        Progress {
            server,
            before: None,
            after: None,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    fn note(&mut self, moment: Moment) {
        match moment {
            Moment::Measuring => self.before = self.server.and_then(cpu::used),
            Moment::Over => {
                self.after = self.server.and_then(cpu::used);
                self.show("");
            }
            Moment::Second { elapsed, completed } => {
                let seconds = elapsed.as_secs_f64();
                let rate = rate(completed, elapsed);
                self.show(&format!("{seconds:.0} s: {} IOPS", grouped(rate)));
            }
        }
    }

    /// Replaces the line on a terminal.
    fn show(&self, line: &str) {
        if self.terminal {
            let mut err = std::io::stderr().lock();
            // A terminal that has gone is no reason to stop.
            let _ = write!(err, "\r\x1b[K{line}").and_then(|()| err.flush());
        }
    }

    fn cpu(&self) -> Option<Duration> {
        self.after?.checked_sub(self.before?)
    }
}
