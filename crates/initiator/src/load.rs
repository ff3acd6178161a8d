//! A load generator: how many commands a second, and how long each takes.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::scan::put;
use crate::{Address, Command, Data, Error, Initiator, RequestQueue, Response};

/// Which blocks are accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Anywhere, evenly.
    Random,
    /// One after another; each queue has its own part of the disk.
    Sequential,
}

/// How a queue's thread waits for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Looks at the used ring all the time, and lets the server not interrupt: measures the server.
    Poll,
    /// Sleeps until an interrupt: measures what a guest would see.
    Sleep,
}

/// What load to put on a logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Which logical unit.
    pub address: Address,
    /// Whether it is written rather than read.
    pub write: bool,
    /// Which blocks.
    pub pattern: Pattern,
    /// Bytes of each command: a multiple of the logical unit's block size.
    pub block_size: u32,
    /// Commands in flight on each queue, up to the queue's own depth.
    pub depth: usize,
    /// Queues, from the first on, each with a thread.
    pub queues: usize,
    /// How long.
    pub duration: Duration,
    /// How threads wait.
    pub waiting: Waiting,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Commands that succeeded.
    pub completed: u64,
    /// Commands that did not.
    pub failed: u64,
    /// The last failure.
    pub failure: Option<Response>,
    /// Bytes of each command.
    pub block_size: u32,
    /// From the first command to the last completion, of the slowest queue.
    pub elapsed: Duration,
    /// How long the commands took.
    pub latencies: Latencies,
}

impl Report {
    /// Commands per second.
    #[expect(clippy::cast_precision_loss, reason = "a rounded figure for people")]
    pub fn iops(&self) -> f64 {
        self.completed as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Bytes per second.
    pub fn bytes_per_second(&self) -> f64 {
        self.iops() * f64::from(self.block_size)
    }
}

/// A histogram of latencies, exact to 1/16.
#[derive(Clone, Debug)]
pub struct Latencies {
    /// Counts of `(16 + i % 16) << (i / 16)` nanoseconds and what is between that and the next.
    buckets: Vec<u64>,
    count: u64,
    max: Duration,
}

/// Up to 2^40 ns, a quarter of an hour.
const BUCKETS: usize = 16 * 37;

impl Latencies {
    fn new() -> Latencies {
        Latencies {
            buckets: vec![0; BUCKETS],
            count: 0,
            max: Duration::ZERO,
        }
    }

    fn add(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos())
            .unwrap_or(u64::MAX)
            .max(16);
        let shift = ns.ilog2() - 4;
        let bucket = u64::from(shift) * 16 + (ns >> shift) - 16;
        let bucket = usize::try_from(bucket).unwrap_or(BUCKETS).min(BUCKETS - 1);
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.count += 1;
        self.max = self.max.max(latency);
    }

    fn merge(&mut self, other: &Latencies) {
        for (to, from) in self.buckets.iter_mut().zip(&other.buckets) {
            *to += from;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The latency that `percent` of the commands did not exceed (to 1/16).
    pub fn percentile(&self, percent: f64) -> Duration {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rounded count between 0 and all"
        )]
        let wanted = (self.count as f64 * percent.clamp(0.0, 100.0) / 100.0).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in (0u64..).zip(&self.buckets) {
            seen += count;
            if seen >= wanted.max(1) {
                // The bucket's upper end.
                let ns = (17 + bucket % 16) << (bucket / 16);
                return Duration::from_nanos(ns).min(self.max);
            }
        }
        self.max
    }
}

/// Puts a load on a logical unit and measures. The queues must have nothing in flight.
pub fn load(initiator: &mut Initiator, load: &Load) -> Result<Report, Error> {
    let capacity = initiator.capacity_of(load.address)?;
    let blocks_each = load.block_size / capacity.block_size.max(1);
    let available = capacity.blocks / u64::from(blocks_each.max(1));
    if blocks_each == 0 || available == 0 || !load.block_size.is_multiple_of(capacity.block_size) {
        return Err(Error::BlockSize {
            wanted: load.block_size,
            unit: capacity.block_size,
        });
    }
    let queues = initiator.queues();
    let count = load.queues.clamp(1, queues.len().max(1));
    let start = Barrier::new(count);
    let results: Vec<Result<Report, Error>> = std::thread::scope(|scope| {
        let threads: Vec<_> = queues
            .iter_mut()
            .take(count)
            .zip(0u64..)
            .map(|(queue, part)| {
                let start = &start;
                scope.spawn(move || {
                    let share = available / u64::try_from(count).unwrap_or(1);
                    let places = Places {
                        pattern: load.pattern,
                        available,
                        blocks_each,
                        next: share * part,
                        random: 0x9E37_79B9_7F4A_7C15 ^ (part + 1),
                    };
                    let driver = Driver::new(queue, load, places);
                    start.wait();
                    driver?.run()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or(Err(Error::Timeout("thread"))))
            .collect()
    });
    let mut total = empty_report(load);
    for report in results {
        let report = report?;
        total.completed += report.completed;
        total.failed += report.failed;
        total.failure = report.failure.or(total.failure);
        total.elapsed = total.elapsed.max(report.elapsed);
        total.latencies.merge(&report.latencies);
    }
    Ok(total)
}

fn empty_report(load: &Load) -> Report {
    Report {
        completed: 0,
        failed: 0,
        failure: None,
        block_size: load.block_size,
        elapsed: Duration::ZERO,
        latencies: Latencies::new(),
    }
}

/// The sequence of places to access.
struct Places {
    pattern: Pattern,
    /// Places of `blocks_each` blocks.
    available: u64,
    blocks_each: u32,
    next: u64,
    random: u64,
}

impl Places {
    /// The next logical block address.
    fn next(&mut self) -> u64 {
        let place = match self.pattern {
            Pattern::Sequential => {
                let place = self.next;
                self.next = (place + 1) % self.available;
                place
            }
            Pattern::Random => {
                // xorshift64*, mapped to the range by its high half.
                self.random ^= self.random >> 12;
                self.random ^= self.random << 25;
                self.random ^= self.random >> 27;
                let word = self.random.wrapping_mul(0x2545_F491_4F6C_DD1D);
                let place = (u128::from(word) * u128::from(self.available)) >> 64;
                u64::try_from(place).unwrap_or(0)
            }
        };
        place * u64::from(self.blocks_each)
    }
}

/// One queue under load. Its slots are written once; each turn changes the address in the CDB only.
struct Driver<'a> {
    queue: &'a mut RequestQueue,
    load: &'a Load,
    places: Places,
    started: Vec<Instant>,
    report: Report,
}

impl<'a> Driver<'a> {
    fn new(queue: &'a mut RequestQueue, load: &'a Load, places: Places) -> Result<Self, Error> {
        let depth = load.depth.clamp(1, queue.depth());
        if queue.in_flight() > 0 {
            return Err(Error::Full);
        }
        let mut cdb = [0; 16];
        put(&mut cdb, 0, &[if load.write { 0x8A } else { 0x88 }]);
        put(&mut cdb, 10, &places.blocks_each.to_be_bytes());
        let len = usize::try_from(load.block_size).unwrap_or(0);
        let bytes = vec![0x5A; if load.write { len } else { 0 }];
        let data = match load.write {
            true => Data::Out(&bytes),
            false => Data::In(len),
        };
        for slot in 0..depth {
            queue.prepare(slot, &Command::new(load.address, &cdb, data))?;
        }
        Ok(Driver {
            queue,
            load,
            places,
            started: vec![Instant::now(); depth],
            report: empty_report(load),
        })
    }

    fn run(mut self) -> Result<Report, Error> {
        let start = Instant::now();
        let end = start + self.load.duration;
        if self.load.waiting == Waiting::Poll {
            self.queue.ring().queue().disable_interrupts();
        }
        for slot in 0..self.started.len() {
            self.issue(slot, start)?;
        }
        self.queue.send()?;
        let mut in_flight = self.started.len();
        let mut last = start;
        while in_flight > 0 {
            let mut used = self.next_used(last)?;
            let now = Instant::now();
            last = now;
            // All that is there, then one message to the server.
            while let Some(returned) = used {
                let slot = self.queue.owner(returned)?;
                self.count(slot, returned.written, now)?;
                if now < end {
                    self.issue(slot, now)?;
                } else {
                    in_flight -= 1;
                }
                used = self.queue.ring().reap()?;
            }
            self.queue.send()?;
        }
        self.report.elapsed = start.elapsed();
        Ok(self.report)
    }

    /// Waits for the next returned chain.
    fn next_used(&mut self, since: Instant) -> Result<Option<lunar_virtqueue::Used>, Error> {
        let timeout = self.queue.timeout();
        let ring = self.queue.ring();
        if self.load.waiting == Waiting::Sleep {
            let used = ring.wait(since + timeout)?;
            return used.map(Some).ok_or(Error::Timeout("completion"));
        }
        let mut looks = 0u32;
        loop {
            if let Some(used) = ring.reap()? {
                return Ok(Some(used));
            }
            std::hint::spin_loop();
            looks = looks.wrapping_add(1);
            // The clock and the socket are dear: seldom.
            if looks.is_multiple_of(1 << 16) {
                ring.check()?;
                if since.elapsed() > timeout {
                    return Err(Error::Timeout("completion"));
                }
            }
        }
    }

    fn issue(&mut self, slot: usize, now: Instant) -> Result<(), Error> {
        let lba = self.places.next();
        self.queue.set_block_address(slot, lba)?;
        self.queue.stage(slot)?;
        if let Some(started) = self.started.get_mut(slot) {
            *started = now;
        }
        Ok(())
    }

    fn count(&mut self, slot: usize, written: u32, now: Instant) -> Result<(), Error> {
        if self.queue.is_good(slot)? {
            self.report.completed += 1;
        } else {
            self.report.failed += 1;
            self.report.failure = Some(self.queue.response(slot, written)?);
        }
        let started = self.started.get(slot).copied().unwrap_or(now);
        self.report
            .latencies
            .add(now.saturating_duration_since(started));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact_to_a_sixteenth() {
        let mut latencies = Latencies::new();
        for us in 1..=1000 {
            latencies.add(Duration::from_micros(us));
        }
        for (percent, us) in [(1.0, 10.0), (50.0, 500.0), (99.0, 990.0), (100.0, 1000.0)] {
            let found = latencies.percentile(percent).as_secs_f64() * 1e6;
            assert!(
                found >= us && found <= us * 17.0 / 16.0,
                "{percent}: {found}"
            );
        }
        assert_eq!(latencies.max(), Duration::from_millis(1));
        latencies.add(Duration::from_secs(100_000));
        assert_eq!(latencies.percentile(100.0), latencies.percentile(99.99));
    }

    #[test]
    fn random_places_cover_the_unit_and_stay_inside() {
        let mut places = Places {
            pattern: Pattern::Random,
            available: 10,
            blocks_each: 8,
            next: 0,
            random: 1,
        };
        let mut hits = [0u32; 10];
        for _ in 0..1000 {
            let lba = places.next();
            assert_eq!(lba % 8, 0);
            hits[usize::try_from(lba / 8).unwrap()] += 1;
        }
        assert!(hits.iter().all(|&n| n > 50), "{hits:?}");
    }
}
