//! What came of a load.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Latencies;

/// What came of a load.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The reads that succeeded.
    pub reads: Latencies,
    /// The writes that succeeded.
    pub writes: Latencies,
    /// The requests that did not, by what the server said.
    pub failures: BTreeMap<Failure, u64>,
    /// From the end of the warm-up to the last completion, of the slowest queue.
    pub elapsed: Duration,
    /// How often this side told the server of requests.
    pub kicks: u64,
    /// How often the server told this side of completions.
    pub interrupts: u64,
    /// Blocks read that were compared with what had been written.
    pub checked: u64,
    /// Of these, those that were not the same.
    pub mismatches: u64,
    /// The first of them.
    pub mismatch: Option<Mismatch>,
}

/// Kinds of failures that are told apart; a server that invents more is not to be trusted with our memory.
const KINDS: usize = 64;

impl Report {
    /// Requests that succeeded.
    pub fn completed(&self) -> u64 {
        self.reads.count() + self.writes.count()
    }

    /// Requests that failed.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    pub(crate) fn fail(&mut self, failure: Failure) {
        self.add_failures(failure, 1);
    }

    fn add_failures(&mut self, failure: Failure, count: u64) {
        let known = self.failures.len() < KINDS || self.failures.contains_key(&failure);
        let failure = if known { failure } else { Failure::Other };
        *self.failures.entry(failure).or_default() += count;
    }

    pub(crate) fn merge(&mut self, other: Report) {
        self.reads.merge(&other.reads);
        self.writes.merge(&other.writes);
        for (failure, count) in other.failures {
            self.add_failures(failure, count);
        }
        self.elapsed = self.elapsed.max(other.elapsed);
        self.kicks += other.kicks;
        self.interrupts += other.interrupts;
        self.checked += other.checked;
        self.mismatches += other.mismatches;
        self.mismatch = self.mismatch.take().or(other.mismatch);
    }
}

/// What a server says of a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// On a SCSI controller.
    Scsi {
        /// One of [`response`](crate::response).
        response: u8,
        /// SCSI status.
        status: u8,
        /// Sense key, ASC and ASCQ.
        sense: Option<(u8, u8, u8)>,
    },
    /// On a block device.
    Block {
        /// 1 for an error of the medium, 2 for what is not supported.
        status: u8,
    },
    /// One more kind, after many.
    Other,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Failure::Scsi {
                sense: Some((key, asc, ascq)),
                ..
            } => write!(f, "sense {key:X}h {asc:02X}h/{ascq:02X}h"),
            Failure::Scsi {
                response: 0,
                status,
                ..
            } => write!(f, "status {status:02X}h"),
            Failure::Scsi { response, .. } => write!(f, "response {response}"),
            Failure::Block { status } => write!(f, "status {status}"),
            Failure::Other => f.write_str("others"),
        }
    }
}

/// A block that is not what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The index of the disk among those under load.
    pub disk: usize,
    /// The request's logical block address.
    pub lba: u64,
    /// How often the place has been written in this run.
    pub generation: u32,
    /// The first wrong byte, to 8.
    pub offset: usize,
    /// Where and as which generation this run wrote what was found, if it is of this run.
    pub found: Option<(u64, u32)>,
}
