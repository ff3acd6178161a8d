//! One queue under load.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use lunar_virtqueue::Used;

use super::choice::{Choice, Chooser};
use super::format::{self, Disk, Op};
use super::stamp::{Stamp, mix};
use super::{Access, Limit, Load, Report, Waiting};
use crate::request::{Lane, Places};
use crate::{Error, Kind};

/// What one queue's thread shares with the one that watches.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Requests completed since the warm-up.
    pub(crate) completed: AtomicU64,
}

/// One request's place, and what it does at the moment.
struct Slot {
    at: Places,
    choice: Choice,
    started: Instant,
}

/// What the queue is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    WarmUp,
    /// Since when, and how many requests may still be begun.
    Measured(Instant, u64),
    /// Looks at all that was written.
    Sweep,
}

/// One queue under load.
pub(crate) struct Driver<'a> {
    kind: Kind,
    lane: Lane<'a>,
    load: &'a Load,
    disks: &'a [Disk],
    queue: u64,
    chooser: Chooser,
    slots: Vec<Slot>,
    /// For each head on the ring, the slot whose chain it is.
    owners: Vec<Option<usize>>,
    in_flight: usize,
    phase: Phase,
    /// The ring's signals before what is measured.
    signals: (u64, u64),
    report: Report,
    /// A request's data.
    scratch: Vec<u8>,
}

impl<'a> Driver<'a> {
    pub(crate) fn new(
        kind: Kind,
        lane: Lane<'a>,
        load: &'a Load,
        disks: &'a [Disk],
        queue: u64,
    ) -> Result<Self, Error> {
        let chooser = Chooser::new(load, disks, queue);
        let wanted = usize::from(load.depth.max(1)).min(lane.places.len());
        let depth = chooser.depth(wanted)?;
        let needed = usize::try_from(load.block_size).unwrap_or(usize::MAX);
        if needed > lane.room {
            let slot = lane.room;
            return Err(Error::DataTooLong { needed, slot });
        }
        let mut scratch = vec![0; needed];
        let nothing = Choice {
            op: Op::Read,
            disk: 0,
            place: 0,
            generation: 0,
        };
        let now = Instant::now();
        let slots = lane.places.iter().take(depth).map(|&at| Slot {
            at,
            choice: nothing,
            started: now,
        });
        let slots: Vec<_> = slots.collect();
        // Data that no storage can make smaller.
        for (index, slot) in (1u64..).zip(&slots) {
            let stamp = Stamp {
                run: mix(load.seed ^ queue),
                disk: 0,
                generation: 0,
                lba: index,
            };
            stamp.fill(&mut scratch);
            lane.memory.write(slot.at.data, &scratch)?;
        }
        let owners = vec![None; usize::from(lane.ring.layout().size)];
        Ok(Driver {
            kind,
            lane,
            load,
            disks,
            queue,
            chooser,
            slots,
            owners,
            in_flight: 0,
            phase: Phase::WarmUp,
            signals: (0, 0),
            report: Report::default(),
            scratch,
        })
    }

    pub(crate) fn run(mut self, shared: &Shared, stop: &AtomicBool) -> Result<Report, Error> {
        if self.load.waiting == Waiting::Poll {
            self.lane.ring.queue().disable_interrupts();
        }
        let last = self.drive(shared, stop)?;
        if let Phase::Measured(since, _) = self.phase {
            self.report.elapsed = last.saturating_duration_since(since);
        }
        let (kicks, interrupts) = self.lane.ring.signals()?;
        self.report.kicks = kicks - self.signals.0;
        self.report.interrupts = interrupts - self.signals.1;
        if self.load.access == Access::Verify {
            self.phase = Phase::Sweep;
            self.drive(shared, stop)?;
        }
        Ok(self.report)
    }

    /// Keeps all slots busy until nothing more may be begun and everything has ended; gives the time of the last end.
    fn drive(&mut self, shared: &Shared, stop: &AtomicBool) -> Result<Instant, Error> {
        let start = Instant::now();
        let warm = start + self.load.ramp;
        self.measure_from(start, warm)?;
        let mut last = start;
        for slot in 0..self.slots.len() {
            self.issue(slot, start)?;
        }
        self.lane.ring.send()?;
        let mut returned_slots = Vec::with_capacity(self.slots.len());
        while self.in_flight > 0 {
            let mut used = self.next_used(last)?;
            let now = Instant::now();
            last = now;
            self.measure_from(now, warm)?;
            let go_on = !stop.load(Ordering::Relaxed);
            // All that is there, then one message to the server. The responses, which the server's processor has, are on
            // their way here while the others are taken.
            while let Some(returned) = used {
                returned_slots.push((self.take(returned)?, returned.written));
                used = self.lane.ring.reap()?;
            }
            for (slot, written) in returned_slots.drain(..) {
                self.complete(slot, written, now)?;
                if go_on {
                    self.issue(slot, now)?;
                }
            }
            self.lane.ring.send()?;
            let completed = self.report.completed();
            shared.completed.store(completed, Ordering::Relaxed);
        }
        Ok(last)
    }

    /// Begins to measure, if the warm-up is over.
    fn measure_from(&mut self, now: Instant, warm: Instant) -> Result<(), Error> {
        if self.phase != Phase::WarmUp || now < warm {
            return Ok(());
        }
        let budget = match self.load.limit {
            Limit::Time(_) => u64::MAX,
            Limit::Count(count) => {
                let queues = u64::from(self.load.queues.max(1));
                count / queues + u64::from(self.queue < count % queues)
            }
        };
        self.phase = Phase::Measured(now, budget);
        self.report = Report::default();
        self.signals = self.lane.ring.signals()?;
        Ok(())
    }

    /// What to do next, if anything.
    fn choose(&mut self, now: Instant) -> Option<Choice> {
        match &mut self.phase {
            Phase::WarmUp => self.chooser.next(),
            Phase::Sweep => self.chooser.sweep(),
            Phase::Measured(since, budget) => {
                if let Limit::Time(time) = self.load.limit
                    && now.saturating_duration_since(*since) >= time
                {
                    return None;
                }
                *budget = budget.checked_sub(1)?;
                self.chooser.next()
            }
        }
    }

    /// Stages the next request in a slot that is free.
    fn issue(&mut self, slot: usize, now: Instant) -> Result<(), Error> {
        let Some(choice) = self.choose(now) else {
            return Ok(());
        };
        let (Some(disk), Some(entry)) = (self.disks.get(choice.disk), self.slots.get_mut(slot))
        else {
            return Err(Error::Full);
        };
        entry.choice = choice;
        entry.started = now;
        let at = entry.at;
        let tag = self.queue << 48 | u64::try_from(slot).unwrap_or(0);
        let (op, place) = (choice.op, choice.place);
        format::write_header(self.kind, &self.lane.memory, &at, op, disk, place, tag)?;
        if self.load.access == Access::Verify {
            match op {
                Op::Write => self.stamp(&choice, disk).fill(&mut self.scratch),
                // What the server leaves out must not look like what was there before.
                Op::Read => self.scratch.fill(0xFF),
            }
            self.lane.memory.write(at.data, &self.scratch)?;
        }
        let bytes = self.scratch.len();
        let head = format::stage(self.kind, self.lane.ring.queue(), &at, op, bytes)?;
        if let Some(owner) = self.owners.get_mut(usize::from(head)) {
            *owner = Some(slot);
        }
        self.in_flight += 1;
        Ok(())
    }

    fn stamp(&self, choice: &Choice, disk: &Disk) -> Stamp {
        Stamp {
            run: self.load.seed,
            disk: u32::try_from(choice.disk).unwrap_or(u32::MAX),
            generation: choice.generation,
            lba: disk.lba(choice.place),
        }
    }

    /// Takes a request back; gives its slot.
    fn take(&mut self, used: Used) -> Result<usize, Error> {
        let owner = self.owners.get_mut(usize::from(used.head));
        let unknown = lunar_virtqueue::Error::UsedUnknown {
            id: used.head.into(),
        };
        let index = owner.and_then(Option::take).ok_or(unknown)?;
        self.in_flight -= 1;
        if let Some(slot) = self.slots.get(index) {
            self.lane.memory.expect_read(slot.at.response);
        }
        Ok(index)
    }

    /// Looks at how a request has ended that was taken back.
    fn complete(&mut self, index: usize, written: u32, now: Instant) -> Result<(), Error> {
        let slot = self.slots.get(index).ok_or(Error::Full)?;
        let (at, choice, started) = (slot.at, slot.choice, slot.started);
        let failure = format::outcome(self.kind, &self.lane.memory, &at, written)?;
        let mut known = failure.is_none();
        if let Some(failure) = failure {
            self.report.fail(failure);
        } else if self.phase != Phase::Sweep {
            let latency = now.saturating_duration_since(started);
            match choice.op {
                Op::Read => self.report.reads.add(latency),
                Op::Write => self.report.writes.add(latency),
            }
        }
        if self.load.access == Access::Verify {
            if known && choice.op == Op::Read {
                known = self.check(&at, &choice)?;
            }
            self.chooser.done(&choice, known);
        }
        Ok(())
    }

    /// Whether what was read is what was written.
    fn check(&mut self, at: &Places, choice: &Choice) -> Result<bool, Error> {
        let disk = self.disks.get(choice.disk).ok_or(Error::Full)?;
        self.lane.memory.read(at.data, &mut self.scratch)?;
        let mismatch = self.stamp(choice, disk).check(&self.scratch);
        self.report.checked += 1;
        let Some(mismatch) = mismatch else {
            return Ok(true);
        };
        self.report.mismatches += 1;
        self.report.mismatch.get_or_insert(mismatch);
        Ok(false)
    }

    /// Waits for the next returned chain.
    fn next_used(&mut self, since: Instant) -> Result<Option<Used>, Error> {
        let timeout = self.lane.timeout;
        let ring = &mut *self.lane.ring;
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
}
