//! Operations that are carried out at once, in the loop itself.
//!
//! A system call that only copies memory costs less than an entry in the ring, but while it runs nothing else does. So
//! each turn of the loop has an allowance for such calls; what exceeds it has its turn later, or goes through the ring.
#![allow(
    unsafe_code,
    reason = "the other place where memory and descriptors are handed to the kernel"
)]

use std::cell::Cell;
use std::os::fd::RawFd;

use crate::syscall::{MAX_SEGMENTS, Syscall};

/// Bytes that one turn moves in place at most: a few hundred microseconds' worth.
const TURN: u64 = 1 << 20;
/// What a call is counted as at least, because it has a price without any bytes, too.
const CALL: u64 = 4096;

/// What is left of a turn's allowance. Once it was not enough for a call it is not for a shorter one either, so that
/// none overtakes another.
#[derive(Debug)]
pub(crate) struct Allowance(Cell<u64>);

/// What `call` takes of it.
#[inline]
fn price(call: &Syscall) -> u64 {
    let bytes = match *call {
        Syscall::Read { data, .. } | Syscall::Write { data, .. } => data.len() as u64,
        Syscall::Sync { .. } => 0,
        Syscall::Allocate { len, .. } => len,
    };
    bytes.max(CALL)
}

impl Allowance {
    pub fn new() -> Allowance {
        Allowance(Cell::new(TURN))
    }

    /// A new turn begins.
    #[inline]
    pub fn renew(&self) {
        self.0.set(TURN);
    }

    /// Whether there is nothing left.
    pub fn is_used_up(&self) -> bool {
        self.0.get() == 0
    }

    /// Whether a turn that does nothing else is enough for `call`.
    #[inline]
    pub fn covers(call: &Syscall) -> bool {
        price(call) <= TURN
    }

    /// Whether there is enough left for `call`, which is then taken.
    #[inline]
    pub fn take(&self, call: &Syscall) -> bool {
        if !Allowance::covers(call) {
            return false;
        }
        let left = self.0.get().checked_sub(price(call));
        self.0.set(left.unwrap_or(0));
        left.is_some()
    }
}

/// Makes the system call; the result is what the ring would report.
pub(crate) fn carry_out(fd: RawFd, call: Syscall) -> i32 {
    let Some(offset) = call.offset() else {
        return -libc::EINVAL;
    };
    // SAFETY: the list's creator has promised that array and segments are valid until the operation has completed, which
    // it does here; the descriptor is open, because the caller holds the file.
    let result = unsafe {
        match call {
            // The C library's own functions for these look each time whether the thread is to be cancelled.
            Syscall::Read { data, rw_flags, .. } => match data.segments() {
                [one] if rw_flags == 0 => {
                    libc::syscall(libc::SYS_pread64, fd, one.iov_base, one.iov_len, offset)
                }
                many => long(libc::preadv2(
                    fd,
                    data.as_ptr(),
                    count(many.len()),
                    offset,
                    rw_flags,
                )),
            },
            Syscall::Write { data, rw_flags, .. } => match data.segments() {
                [one] if rw_flags == 0 => {
                    libc::syscall(libc::SYS_pwrite64, fd, one.iov_base, one.iov_len, offset)
                }
                many => long(libc::pwritev2(
                    fd,
                    data.as_ptr(),
                    count(many.len()),
                    offset,
                    rw_flags,
                )),
            },
            Syscall::Sync { data_only: true } => word(libc::fdatasync(fd)),
            Syscall::Sync { data_only: false } => word(libc::fsync(fd)),
            Syscall::Allocate { mode, len, .. } => match libc::off_t::try_from(len) {
                Ok(len) => word(libc::fallocate(fd, mode, offset, len)),
                Err(_) => return -libc::EINVAL,
            },
        }
    };
    if result < 0 {
        -std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO)
    } else {
        i32::try_from(result).unwrap_or(i32::MAX)
    }
}

fn long(result: libc::ssize_t) -> libc::c_long {
    libc::c_long::try_from(result).unwrap_or(-1)
}

fn word(result: libc::c_int) -> libc::c_long {
    if result < 0 { -1 } else { 0 }
}

fn count(segments: usize) -> libc::c_int {
    libc::c_int::try_from(segments.min(MAX_SEGMENTS)).unwrap_or(0)
}

impl Syscall {
    /// Where in the file it begins, as system calls want it; `None` where no file reaches.
    fn offset(&self) -> Option<libc::off_t> {
        match *self {
            Syscall::Read { offset, .. }
            | Syscall::Write { offset, .. }
            | Syscall::Allocate { offset, .. } => offset.try_into().ok(),
            Syscall::Sync { .. } => Some(0),
        }
    }
}
