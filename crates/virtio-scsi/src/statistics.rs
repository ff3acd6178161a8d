//! What a worker has done: counted by itself, read by anybody.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a worker has done since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// Turns of its loop in which it found requests.
    pub rounds: u64,
    /// Requests that it took, task management among them.
    pub requests: u64,
    /// Interrupts that it sent.
    pub interrupts: u64,
    /// Times that a driver waited for an interrupt which was held back, because more was to come.
    pub held: u64,
    /// Wake-ups by drivers that had made requests available.
    pub kicks: u64,
    /// Times that it found nothing to do for long enough to go to sleep.
    pub sleeps: u64,
}

/// A worker's own counters, in a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    pub rounds: Counter,
    pub requests: Counter,
    pub interrupts: Counter,
    pub held: Counter,
    pub kicks: Counter,
    pub sleeps: Counter,
}

impl Counters {
    pub fn read(&self) -> WorkerStats {
        WorkerStats {
            rounds: self.rounds.read(),
            requests: self.requests.read(),
            interrupts: self.interrupts.read(),
            held: self.held.read(),
            kicks: self.kicks.read(),
            sleeps: self.sleeps.read(),
        }
    }
}

/// A number that one thread alone adds to, so that it takes no atomic addition.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub fn add(&self, more: usize) {
        self.0
            .store(self.read().wrapping_add(more as u64), Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
