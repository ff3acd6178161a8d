//! A load generator: how many requests a second, how long each takes, and whether what is read is what was written.
//!
//! [`Device::load`] gives each queue a thread with a [`driver`] of its own, which keeps a number of requests in flight: a
//! [`choice`] says what each does, a [`mod@format`] how it is said to a SCSI controller or to a block device. The rest is
//! the same for both, so that what is measured is the server.
//!
//! Requests are chains of three descriptors: header, data, response. A turn takes back all that is there,
//! begins as many anew, and then sends one message at most. The clock is read once in a turn.

mod choice;
mod driver;
mod format;
mod latency;
mod report;
mod stamp;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::request::Lane;
use crate::{Address, Capacity, Device, Error, Initiator, Kind};
use driver::{Driver, Shared};
use format::Disk;
pub use latency::Latencies;
pub use report::{Failure, Mismatch, Report};

/// What is done to the disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads anywhere.
    RandomRead,
    /// Writes anywhere.
    RandomWrite,
    /// Both.
    RandomMixed {
        /// Percent of reads.
        reads: u8,
    },
    /// Reads one after another; each queue begins in its own part of the disk.
    Read,
    /// Writes in the same way.
    Write,
    /// Writes data that name their place and time, reads them back in between and at the end, and compares. Every queue
    /// has its own part of the disk.
    Verify,
}

/// How a queue's thread waits for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Looks at the used ring all the time, and lets the server not interrupt: measures the server.
    Poll,
    /// Sleeps until an interrupt: measures what a guest would see.
    Sleep,
}

/// When it is over, counted from the end of the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// After this time.
    Time(Duration),
    /// After so many requests, of all queues together.
    Count(u64),
}

/// What load to put on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Which logical units, of a SCSI controller; they get as many requests each.
    pub disks: Vec<Address>,
    /// What is done to them.
    pub access: Access,
    /// Bytes of each request: a multiple of the disks' block size.
    pub block_size: u32,
    /// Requests in flight on each queue, up to what the device was connected with.
    pub depth: u16,
    /// Queues, from the first on, each with a thread, up to what the device was connected with.
    pub queues: u16,
    /// How long.
    pub limit: Limit,
    /// How long before anything is counted.
    pub ramp: Duration,
    /// How threads wait.
    pub waiting: Waiting,
    /// Makes the random choices. When verifying it names the run, and must differ from that of runs before.
    pub seed: u64,
}

/// Something to be told while a load is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The warm-up is over.
    Measuring,
    /// Another second is.
    Second {
        /// Since the warm-up.
        elapsed: Duration,
        /// Requests since then.
        completed: u64,
    },
    /// All is.
    Over,
}

impl Device {
    /// Puts a load on the device and measures. Nothing may be in flight there.
    pub fn load(&mut self, load: &Load, observe: &mut dyn FnMut(Moment)) -> Result<Report, Error> {
        match self {
            Device::Scsi(initiator) => initiator.load(load, observe),
            Device::Block(device) => {
                let disks = [disk(Address([0; 8]), device.capacity(), load)?];
                measure(Kind::Block, device.lanes(), &disks, load, observe)
            }
        }
    }
}

impl Initiator {
    /// Puts a load on logical units and measures. Nothing may be in flight on the request queues.
    pub fn load(&mut self, load: &Load, observe: &mut dyn FnMut(Moment)) -> Result<Report, Error> {
        if load.disks.is_empty() {
            return Err(Error::Missing("a logical unit to be loaded"));
        }
        let disks = load.disks.iter().map(|&address| {
            let capacity = self.capacity_of(address)?;
            disk(address, capacity, load)
        });
        let disks: Vec<Disk> = disks.collect::<Result<_, Error>>()?;
        let lanes = self.queues().iter_mut().map(|queue| queue.lend());
        let lanes = lanes.collect::<Result<_, Error>>()?;
        measure(Kind::Scsi, lanes, &disks, load, observe)
    }
}

/// Gives each queue a thread, and tells what happens.
fn measure(
    kind: Kind,
    mut lanes: Vec<Lane<'_>>,
    disks: &[Disk],
    load: &Load,
    observe: &mut dyn FnMut(Moment),
) -> Result<Report, Error> {
    lanes.truncate(usize::from(load.queues.max(1)));
    // What was asked for counts, and it is what there is.
    let load = &Load {
        queues: u16::try_from(lanes.len()).unwrap_or(u16::MAX),
        ..load.clone()
    };
    let shared: Vec<Shared> = lanes.iter().map(|_| Shared::default()).collect();
    let start = Barrier::new(lanes.len() + 1);
    let stop = AtomicBool::new(false);
    let (done, results) = channel();
    std::thread::scope(|scope| {
        for ((lane, shared), queue) in lanes.into_iter().zip(&shared).zip(0u64..) {
            let (start, stop, done) = (&start, &stop, done.clone());
            scope.spawn(move || {
                let driver = Driver::new(kind, lane, load, disks, queue);
                start.wait();
                let report = driver.and_then(|driver| driver.run(shared, stop));
                // The other end is there until all have sent.
                let _ = done.send(report);
            });
        }
        drop(done);
        start.wait();
        let begun = Instant::now();
        let mut measuring = None;
        let mut next = begun + load.ramp;
        let mut total = Ok(Report::default());
        loop {
            match results.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Ok(report)) => {
                    if let Ok(total) = &mut total {
                        total.merge(report);
                    }
                }
                Ok(Err(error)) => {
                    stop.store(true, Ordering::Relaxed);
                    total = total.and(Err(error));
                }
                Err(RecvTimeoutError::Timeout) => {
                    observe(match measuring {
                        None => Moment::Measuring,
                        Some(since) => Moment::Second {
                            elapsed: Instant::now().saturating_duration_since(since),
                            completed: shared
                                .iter()
                                .map(|shared| shared.completed.load(Ordering::Relaxed))
                                .sum(),
                        },
                    });
                    measuring.get_or_insert(next);
                    next += Duration::from_secs(1);
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        observe(Moment::Over);
        total
    })
}

/// How requests fit a disk.
fn disk(address: Address, capacity: Capacity, load: &Load) -> Result<Disk, Error> {
    let Capacity { blocks, block_size } = capacity;
    let blocks_each = load.block_size.checked_div(block_size).unwrap_or(0);
    let available = blocks.checked_div(blocks_each.into()).unwrap_or(0);
    if available == 0 || !load.block_size.is_multiple_of(block_size) {
        return Err(Error::BlockSize {
            wanted: load.block_size,
            blocks,
            unit: block_size,
        });
    }
    Ok(Disk {
        address,
        block_size,
        blocks_each,
        available,
    })
}
