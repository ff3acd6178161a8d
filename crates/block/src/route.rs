//! Which way an operation takes to a file: in place, or through the ring.
//!
//! `io_uring` starts many operations with one system call and never waits; but what it cannot do at once it gives to
//! worker threads, which costs several microseconds an operation. Whether it can depends on the file:
//!
//! - [`Medium::Memory`]: `tmpfs` refuses `RWF_NOWAIT`, so the ring sends everything to its workers, although it is only a
//!   copy. Here it is made in place.
//! - [`Medium::Cache`]: what is in the page cache is only a copy as well, and what is not is not known beforehand.
//!   `RWF_NOWAIT` tells: a read is attempted in place, and goes through the ring if it would have to wait. While attempts
//!   fail they are made less and less often.
//! - [`Medium::Device`]: everything waits, so everything goes through the ring.
//!
//! In place is never for long: the reactor has an allowance for each of its turns ([`Handle::attempt`]). What exceeds it
//! waits for the next one, if its file is in memory: that takes less time than a worker thread. What changes
//! a whole range at once, holding the file's lock in the kernel, always goes through the ring, with all writes that come
//! meanwhile.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lunar_reactor::{File, Handle, Syscall, Token};
use lunar_sgl::Sgl;

use crate::filter::Gate;

/// Where the bytes of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    /// In memory, always. (It may have been swapped out. So may the memory of the guest, which every driver touches: who
    /// lets the host swap virtual machines waits for it anyway.)
    Memory,
    /// In the page cache, perhaps.
    Cache,
    /// Behind `O_DIRECT`.
    Device,
}

/// How many operations on whole ranges are under way in a file. Each may hold the file's lock in the kernel for long.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sweeps(Arc<AtomicU32>);

impl Sweeps {
    /// One begins.
    pub fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One is over.
    pub fn end(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// One that lasts as long as the guard.
    pub fn during(&self) -> Sweep {
        self.begin();
        Sweep(self.clone())
    }

    #[inline]
    fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// See [`Sweeps::during`].
#[derive(Debug)]
pub(crate) struct Sweep(Sweeps);

impl Drop for Sweep {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// One reactor's way to a file.
pub(crate) struct Route {
    reactor: Handle,
    file: File,
    medium: Medium,
    sweeps: Sweeps,
    luck: Luck,
    /// Counts.
    gate: Gate,
}

impl Route {
    pub fn new(reactor: Handle, file: File, medium: Medium, sweeps: Sweeps, gate: Gate) -> Route {
        Route {
            reactor,
            file,
            medium,
            sweeps,
            luck: Luck::default(),
            gate,
        }
    }

    /// Starts `call`. `Some`: it is over, with this result. `None`: `token` will get the result. Either way it is what the
    /// kernel says: a count, which may be short, or a negated error number; but if `token` gets [`lunar_reactor::DEFERRED`],
    /// `call` is to be started once more.
    #[inline]
    pub fn start(&self, call: Syscall, token: Token) -> Option<i32> {
        let result = match (self.medium, call) {
            (Medium::Device, _) | (_, Syscall::Allocate { .. }) => None,
            (Medium::Memory, Syscall::Write { .. }) if self.sweeps.any() => None,
            (Medium::Memory, call) => match self.reactor.attempt(&self.file, call) {
                None if self.reactor.defer(&call, token) => return None,
                result => result,
            },
            (
                Medium::Cache,
                Syscall::Read {
                    data,
                    offset,
                    rw_flags,
                },
            ) if self.luck.is_worth_a_try() => self.attempt_read(data, offset, rw_flags),
            (Medium::Cache, _) => None,
        };
        match result {
            Some(_) => self.gate.inlined(),
            None => self.submit(call, token),
        }
        result
    }

    /// Starts `call` through the ring: `token` will get the result.
    #[inline]
    pub fn submit(&self, call: Syscall, token: Token) {
        self.reactor.submit(&self.file, call, token);
    }

    /// Reads what is in the page cache. Anything but all of it is for the ring to find out.
    fn attempt_read(&self, data: Sgl, offset: u64, rw_flags: i32) -> Option<i32> {
        let call = Syscall::Read {
            data,
            offset,
            rw_flags: rw_flags | libc::RWF_NOWAIT,
        };
        let result = self.reactor.attempt(&self.file, call)?;
        let hit = usize::try_from(result) == Ok(data.len());
        self.luck.learn(hit);
        if !hit {
            self.gate.missed();
        }
        hit.then_some(result)
    }
}

/// Whether attempts have succeeded lately.
#[derive(Debug, Default)]
struct Luck {
    /// Operations to go without an attempt.
    skip: Cell<u32>,
    /// How many it will be after the next failure.
    patience: Cell<u32>,
}

/// At most so many operations go without an attempt. A failed attempt costs half a microsecond, a cold read at least
/// twenty: this bounds the loss to next to nothing, and the time until a file that has become warm is noticed.
const MOST_SKIPPED: u32 = 256;

impl Luck {
    #[inline]
    fn is_worth_a_try(&self) -> bool {
        match self.skip.get().checked_sub(1) {
            Some(left) => {
                self.skip.set(left);
                false
            }
            None => true,
        }
    }

    #[inline]
    fn learn(&self, hit: bool) {
        if hit {
            self.patience.set(self.patience.get() / 2);
        } else {
            let patience = (self.patience.get() * 2).clamp(1, MOST_SKIPPED);
            self.patience.set(patience);
            self.skip.set(patience - 1);
        }
    }
}

#[cfg(test)]
mod tests;
