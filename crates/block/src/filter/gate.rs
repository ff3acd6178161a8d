//! What every image does to an operation before its own driver sees it: read-only, discard, detect-zeroes and
//! no-flush, and the counting.
//!
//! These are options of a block node, not nodes of their own: a filter that is a wrapper around a data handle would
//! cost every operation another indirect call. [`Gate`] is a plain struct inside each data handle instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lunar_sgl::prefetch::Lines;

use super::WriteThreshold;
use super::books::{Books, Counters, add};
use crate::{DetectZeroes, Error, Info, NodeOptions, Op, OpKind, Progress};

/// The options of a node that rewrite operations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub read_only: bool,
    pub no_flush: bool,
    /// `discard=unmap`, and the driver can.
    pub unmap: bool,
    pub detect_zeroes: DetectZeroes,
}

impl Policy {
    pub fn new(options: &NodeOptions, can_discard: bool) -> Policy {
        Policy {
            read_only: options.read_only,
            no_flush: options.no_flush,
            unmap: options.discard_unmap && can_discard && !options.read_only,
            detect_zeroes: options.detect_zeroes,
        }
    }

    /// The options of a filter node above an image.
    ///
    /// # Errors
    /// [`Error::Open`]: it would write to an image that is read-only.
    pub fn above(below: &Info, options: &NodeOptions, driver: &str) -> Result<Policy, Error> {
        if below.read_only && !options.read_only {
            return Err(Error::Open(format!(
                "{}: the node is read-only; open the {driver} node with read-only=on too",
                below.name
            )));
        }
        Ok(Policy::new(options, below.can_discard))
    }

    /// What an image is with these options.
    pub fn over(&self, below: Info) -> Info {
        Info {
            read_only: self.read_only,
            can_discard: self.unmap,
            discard_zeroes: self.unmap && below.discard_zeroes,
            flushes: below.flushes && !self.no_flush,
            ..below
        }
    }

    /// Rewrites `op` as the options say. `Some` when nothing is left to do.
    #[inline]
    fn apply(&self, op: &mut Op) -> Option<Result<(), Error>> {
        match &mut op.kind {
            OpKind::Read => (op.len == 0).then_some(Ok(())),
            // Nothing can be pending in an image that nobody has written to.
            OpKind::Flush => (self.no_flush || self.read_only).then_some(Ok(())),
            _ if self.read_only => Some(Err(Error::ReadOnly)),
            _ if op.len == 0 => Some(Ok(())),
            OpKind::Write { fua } => {
                *fua &= !self.no_flush;
                if self.detect_zeroes != DetectZeroes::Off && op.data.is_zero() {
                    op.kind = OpKind::WriteZeroes {
                        unmap: self.unmap && self.detect_zeroes == DetectZeroes::Unmap,
                        fua: *fua,
                    };
                }
                None
            }
            OpKind::Discard => (!self.unmap).then_some(Ok(())),
            OpKind::WriteZeroes { unmap, fua } => {
                *unmap &= self.unmap;
                *fua &= !self.no_flush;
                None
            }
        }
    }
}

/// What was done to an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Reads started.
    pub reads: u64,
    /// Bytes they asked for.
    pub read_bytes: u64,
    /// Writes started.
    pub writes: u64,
    /// Bytes they carried.
    pub written_bytes: u64,
    /// Flushes started, those that `cache.no-flush` drops included.
    pub flushes: u64,
    /// Discards and write-zeroes started.
    pub discards: u64,
    /// Operations of any kind that failed.
    pub errors: u64,
    /// Operations that went through a buffer of our own because the guest's did not suit `O_DIRECT`.
    pub bounces: u64,
    /// Where the write ended that went furthest into the image.
    pub highest: u64,
    /// Reads, writes and flushes that were carried out in place, without the ring.
    pub inline: u64,
    /// Attempts to carry out a read in place that failed, because it would have had to wait.
    pub inline_misses: u64,
    /// Operations that a format has passed on to its file as they were, because it knew the place.
    pub straight: u64,
    /// Bytes of memory in which a format remembers such places, now.
    pub map_memory: u64,
}

impl Stats {
    /// These counts of an image that is above another one, with what only the one beneath knows: how operations went.
    pub(crate) fn above(self, below: Stats) -> Stats {
        Stats {
            bounces: below.bounces,
            inline: below.inline,
            inline_misses: below.inline_misses,
            straight: below.straight,
            map_memory: below.map_memory,
            ..self
        }
    }
}

/// The counters of one data handle: those of reads and writes in a cache line, then those of everything else.
#[derive(Debug, Default)]
#[repr(C, align(64))]
struct Counts {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    highest: AtomicU64,
    inline: AtomicU64,
    flushes: AtomicU64,
    discards: AtomicU64,
    errors: AtomicU64,
    bounces: AtomicU64,
    inline_misses: AtomicU64,
}

/// What a read or a write counts.
const _: () = assert!(std::mem::offset_of!(Counts, flushes) <= 64);

impl Counters for Counts {
    fn absorb(&self, other: &Counts) {
        for field in Counts::SUMS {
            add(field(self), field(other).load(Ordering::Relaxed));
        }
        let highest = other.highest.load(Ordering::Relaxed);
        self.highest.fetch_max(highest, Ordering::Relaxed);
    }
}

impl Counts {
    const SUMS: [fn(&Counts) -> &AtomicU64; 10] = [
        |c| &c.reads,
        |c| &c.read_bytes,
        |c| &c.writes,
        |c| &c.written_bytes,
        |c| &c.flushes,
        |c| &c.discards,
        |c| &c.errors,
        |c| &c.bounces,
        |c| &c.inline,
        |c| &c.inline_misses,
    ];
}

/// All counters of an image, and its write threshold.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    books: Books<Counts>,
    threshold: Arc<WriteThreshold>,
}

impl Ledger {
    pub fn total(&self) -> Stats {
        let counts = self.books.total();
        Stats {
            reads: counts.reads.into_inner(),
            read_bytes: counts.read_bytes.into_inner(),
            writes: counts.writes.into_inner(),
            written_bytes: counts.written_bytes.into_inner(),
            flushes: counts.flushes.into_inner(),
            discards: counts.discards.into_inner(),
            errors: counts.errors.into_inner(),
            bounces: counts.bounces.into_inner(),
            inline: counts.inline.into_inner(),
            inline_misses: counts.inline_misses.into_inner(),
            highest: counts.highest.into_inner(),
            ..Stats::default()
        }
    }

    pub fn threshold(&self) -> &Arc<WriteThreshold> {
        &self.threshold
    }

    /// The gate of a new data handle.
    pub fn gate(&self, policy: Policy) -> Gate {
        Gate {
            policy,
            counts: self.books.open(),
            threshold: Arc::clone(&self.threshold),
        }
    }
}

/// The door of a data handle: every operation enters through [`Gate::admit`] and leaves through [`Gate::done`].
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    policy: Policy,
    counts: Arc<Counts>,
    threshold: Arc<WriteThreshold>,
}

impl Gate {
    /// Adds where that is in memory which each operation looks at.
    pub fn lines(&self, lines: &mut Lines) {
        lines.add(self);
        lines.add_first(&*self.counts);
    }

    /// Counts and filters `op`. `Some` when it is over already.
    #[inline]
    pub fn admit(&self, op: &mut Op) -> Option<Progress> {
        let c = &*self.counts;
        match op.kind {
            OpKind::Read => {
                add(&c.reads, 1);
                add(&c.read_bytes, op.len);
            }
            OpKind::Write { .. } => {
                add(&c.writes, 1);
                add(&c.written_bytes, op.len);
                self.reaches(op);
            }
            OpKind::Flush => add(&c.flushes, 1),
            OpKind::Discard => add(&c.discards, 1),
            OpKind::WriteZeroes { .. } => {
                add(&c.discards, 1);
                self.reaches(op);
            }
        }
        self.policy.apply(op).map(|result| self.done(result))
    }

    /// Something is written.
    #[inline]
    fn reaches(&self, op: &Op) {
        let end = op.offset.saturating_add(op.len);
        let highest = &self.counts.highest;
        if end > highest.load(Ordering::Relaxed) {
            highest.store(end, Ordering::Relaxed);
        }
        self.threshold.look(end);
    }

    /// The operation is over.
    #[inline]
    pub fn done(&self, result: Result<(), Error>) -> Progress {
        if result.is_err() {
            add(&self.counts.errors, 1);
        }
        Progress::Done(result)
    }

    /// An operation needs a buffer of our own.
    pub fn bounced(&self) {
        add(&self.counts.bounces, 1);
    }

    /// An operation has been carried out in place.
    #[inline]
    pub fn inlined(&self) {
        add(&self.counts.inline, 1);
    }

    /// One could not be.
    pub fn missed(&self) {
        add(&self.counts.inline_misses, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_data_handle_leaves_its_counts_and_nothing_else() {
        let ledger = Ledger::default();
        let policy = Policy::new(&NodeOptions::default(), true);
        let open = ledger.gate(policy);
        for _ in 0..1000 {
            let gate = ledger.gate(policy);
            gate.admit(&mut Op::flush());
        }
        open.bounced();
        let total = ledger.total();
        assert_eq!((total.flushes, total.bounces), (1000, 1));
        assert!(ledger.books.len() <= 3);
    }
}
