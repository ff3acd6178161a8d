//! What was done with a device, how long it took, and what failed.
//!
//! Each data handle counts for itself. The time is that of the reactor's turn ([`Handle::now`](lunar_reactor::Handle::now)):
//! nobody reads a clock for one operation. An operation begins in the turn in which its command was taken from the ring,
//! and ends in the one in which its completion was; what began and ended in the same turn took no time, unless it was a call
//! that was carried out in place. Waiting for a limit, or for an error to be mended, is time like any other, as the guest
//! sees it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use lunar_sgl::prefetch::Lines;

use super::books::{Counters, add};
use super::latency::{Classes, Latencies};
use crate::{Error, OpKind};

/// What an operation is for those who count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
    /// Or write-zeroes.
    Discard,
}

impl Kind {
    #[inline]
    pub fn of(op: OpKind) -> Kind {
        match op {
            OpKind::Read => Kind::Read,
            OpKind::Write { .. } => Kind::Write,
            OpKind::Flush => Kind::Flush,
            OpKind::Discard | OpKind::WriteZeroes { .. } => Kind::Discard,
        }
    }
}

/// What was done of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Operations that have succeeded.
    pub operations: u64,
    /// Bytes that they were about.
    pub bytes: u64,
    /// What they, and those that failed, took in all.
    pub nanoseconds: u64,
    /// Operations that the host has failed.
    pub failed: u64,
    /// Operations that the image had to refuse.
    pub invalid: u64,
    /// How long they took, those that failed included.
    pub latencies: Latencies,
}

/// What was done with a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activities {
    /// Reads.
    pub reads: Activity,
    /// Writes.
    pub writes: Activity,
    /// Flushes.
    pub flushes: Activity,
    /// Discards and write-zeroes.
    pub discards: Activity,
    /// How long nothing has been done, in nanoseconds. `None`: nothing ever was.
    pub idle: Option<u64>,
}

/// The counters of one data handle.
#[derive(Debug, Default)]
pub(super) struct Account {
    kinds: [Counts; 4],
}

/// Those of one kind of operation, in one cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Counts {
    operations: AtomicU64,
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
    failed: AtomicU64,
    invalid: AtomicU64,
    /// When one ended last.
    last: AtomicU64,
    /// Only for kinds that there are.
    classes: OnceLock<Box<Classes>>,
}

const _: () = assert!(size_of::<Counts>() == 64);

impl Account {
    #[inline]
    fn kind(&self, kind: Kind) -> &Counts {
        let [reads, writes, flushes, discards] = &self.kinds;
        match kind {
            Kind::Read => reads,
            Kind::Write => writes,
            Kind::Flush => flushes,
            Kind::Discard => discards,
        }
    }

    /// Adds where that is in memory which each read looks at.
    pub fn lines(&self, lines: &mut Lines) {
        lines.add_first(self.kind(Kind::Read));
    }

    /// An operation has succeeded.
    #[inline]
    pub fn succeeded(&self, kind: Kind, bytes: u64, ns: u64, now: u64) {
        let counts = self.kind(kind);
        add(&counts.operations, 1);
        add(&counts.bytes, bytes);
        counts.took(ns, now);
    }

    #[cold]
    pub fn failed(&self, kind: Kind, error: &Error, ns: u64, now: u64) {
        let counts = self.kind(kind);
        if error.is_host_failure() {
            add(&counts.failed, 1);
            counts.took(ns, now);
        } else if *error != Error::Cancelled {
            add(&counts.invalid, 1);
        }
    }

    pub fn collect(self, now: u64) -> Activities {
        let ends = self.kinds.iter().map(|c| c.last.load(Ordering::Relaxed));
        let last = ends.max().unwrap_or_default();
        let [reads, writes, flushes, discards] = self.kinds.map(Counts::collect);
        Activities {
            reads,
            writes,
            flushes,
            discards,
            idle: (last > 0).then(|| now.saturating_sub(last)),
        }
    }
}

impl Counters for Account {
    fn absorb(&self, other: &Account) {
        for (sum, counts) in self.kinds.iter().zip(&other.kinds) {
            for field in Counts::SUMS {
                add(field(sum), field(counts).load(Ordering::Relaxed));
            }
            if let Some(classes) = counts.classes.get() {
                sum.classes.get_or_init(Box::default).absorb(classes);
            }
            let last = counts.last.load(Ordering::Relaxed);
            sum.last.fetch_max(last, Ordering::Relaxed);
        }
    }
}

impl Counts {
    const SUMS: [fn(&Counts) -> &AtomicU64; 5] = [
        |c| &c.operations,
        |c| &c.bytes,
        |c| &c.nanoseconds,
        |c| &c.failed,
        |c| &c.invalid,
    ];

    #[inline]
    fn took(&self, ns: u64, now: u64) {
        add(&self.nanoseconds, ns);
        self.classes.get_or_init(Box::default).count(ns);
        self.last.store(now, Ordering::Relaxed);
    }

    fn collect(self) -> Activity {
        Activity {
            operations: self.operations.into_inner(),
            bytes: self.bytes.into_inner(),
            nanoseconds: self.nanoseconds.into_inner(),
            failed: self.failed.into_inner(),
            invalid: self.invalid.into_inner(),
            latencies: self.classes.get().map(|c| c.collect()).unwrap_or_default(),
        }
    }
}
