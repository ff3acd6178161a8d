//! Keeping two writers out of one image file, together with QEMU.
//!
//! The scheme is QEMU's, so that `qemu-system`, `qemu-img` and Lunar exclude each other. A user of an image takes read
//! locks (open-file-description locks) on single bytes of the file: byte `100 + p` says "I use permission `p`", byte
//! `200 + p` says "others must not use permission `p`". After taking its own it looks for conflicting ones: a lock on
//! `100 + p` for each `p` it does not share, and on `200 + p` for each `p` it uses. Nobody ever takes a write lock; it is
//! only asked whether one could be had. The bytes need not exist, and locking changes nothing in the file.
#![allow(
    unsafe_code,
    reason = "open-file-description locks have no safe interface"
)]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::Locking;

/// Set of permissions, by QEMU's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permissions(u8);

impl Permissions {
    /// Reads that must give what was written.
    pub const CONSISTENT_READ: Permissions = Permissions(1 << 0);
    pub const WRITE: Permissions = Permissions(1 << 1);
    /// Writes that do not change what is read.
    pub const WRITE_UNCHANGED: Permissions = Permissions(1 << 2);
    pub const RESIZE: Permissions = Permissions(1 << 3);
    const ALL: u8 = 0b1111;

    pub const fn and(self, other: Permissions) -> Permissions {
        Permissions(self.0 | other.0)
    }

    fn not(self) -> Permissions {
        Permissions(!self.0 & Permissions::ALL)
    }

    /// The permissions in the set, as bit numbers.
    fn bits(self) -> impl Iterator<Item = u8> {
        (0..4).filter(move |bit| self.0 & (1 << bit) != 0)
    }
}

fn name(bit: u8) -> &'static str {
    match bit {
        0 => "consistent read",
        1 => "write",
        2 => "write unchanged",
        _ => "resize",
    }
}

/// Byte of permission 0 in use; byte of permission 0 not shared.
const USED_BASE: i64 = 100;
const UNSHARED_BASE: i64 = 200;

/// Why an image could not be locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Somebody uses what we do not share, or does not share what we use: the permission's name.
    InUse(&'static str),
    /// The file system cannot lock.
    Host(Errno),
}

/// Declares that this open file uses `used` and lets others use `shared`, if nobody objects. The locks go with the last
/// duplicate of the descriptor.
pub(crate) fn acquire(
    fd: BorrowedFd<'_>,
    used: Permissions,
    shared: Permissions,
    locking: Locking,
) -> Result<(), Refusal> {
    if locking == Locking::Off {
        return Ok(());
    }
    match declare(fd, used, shared) {
        Err(Refusal::Host(errno)) if locking == Locking::Auto && cannot_lock(errno) => {
            tracing::warn!(%errno, "the file system cannot lock: nothing keeps another process from writing to the image");
            Ok(())
        }
        other => other,
    }
}

fn declare(fd: BorrowedFd<'_>, used: Permissions, shared: Permissions) -> Result<(), Refusal> {
    for bit in used.bits() {
        set(fd, libc::F_RDLCK, USED_BASE + i64::from(bit), 1).map_err(Refusal::Host)?;
    }
    for bit in shared.not().bits() {
        set(fd, libc::F_RDLCK, UNSHARED_BASE + i64::from(bit), 1).map_err(Refusal::Host)?;
    }
    let conflict = |base: i64, set: Permissions| {
        for bit in set.bits() {
            if is_locked(fd, base + i64::from(bit)).map_err(Refusal::Host)? {
                return Err(Refusal::InUse(name(bit)));
            }
        }
        Ok(())
    };
    let result = conflict(USED_BASE, shared.not()).and_then(|()| conflict(UNSHARED_BASE, used));
    if result.is_err() {
        release(fd);
    }
    result
}

/// Gives all locks of this open file back, also those of its duplicates.
pub(crate) fn release(fd: BorrowedFd<'_>) {
    for base in [USED_BASE, UNSHARED_BASE] {
        // Closing the last duplicate does the same, so a failure is of no consequence.
        let _ = set(fd, libc::F_UNLCK, base, 4);
    }
}

fn cannot_lock(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::INVAL | Errno::NOSYS | Errno::NOTSUP | Errno::NOLCK
    )
}

fn request(kind: i32, start: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: 0, // SEEK_SET
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

fn set(fd: BorrowedFd<'_>, kind: i32, start: i64, len: i64) -> Result<(), Errno> {
    let lock = request(kind, start, len);
    // SAFETY: `fd` is open and `lock` is a valid argument of this command.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } == 0 {
        return Ok(());
    }
    Err(last_errno())
}

/// Whether another open file holds a lock on the byte.
fn is_locked(fd: BorrowedFd<'_>, byte: i64) -> Result<bool, Errno> {
    let mut lock = request(libc::F_WRLCK, byte, 1);
    // SAFETY: as in `set`; the kernel writes into `lock`.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } == 0 {
        return Ok(i32::from(lock.l_type) != libc::F_UNLCK);
    }
    Err(last_errno())
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    const READ: Permissions = Permissions::CONSISTENT_READ;
    const WRITE: Permissions = Permissions::CONSISTENT_READ.and(Permissions::WRITE);

    fn twice() -> (File, File) {
        let file = tempfile::NamedTempFile::new().unwrap();
        (file.reopen().unwrap(), file.reopen().unwrap())
    }

    fn lock(file: &File, used: Permissions, shared: Permissions) -> Result<(), Refusal> {
        acquire(file.as_fd(), used, shared, Locking::On)
    }

    #[test]
    fn two_readers_share_and_a_writer_excludes_both_kinds() {
        let (a, b) = twice();
        lock(&a, READ, READ).unwrap();
        lock(&b, READ, READ).unwrap();
        release(b.as_fd());
        assert_eq!(lock(&b, WRITE, READ), Err(Refusal::InUse("write")));
        release(a.as_fd());
        lock(&b, WRITE, READ).unwrap();
        assert_eq!(lock(&a, WRITE, READ), Err(Refusal::InUse("write")));
        assert_eq!(lock(&a, READ, READ), Err(Refusal::InUse("write")));
    }

    #[test]
    fn a_refused_user_leaves_no_lock_behind() {
        let (a, b) = twice();
        lock(&a, WRITE, READ).unwrap();
        lock(&b, WRITE, READ).unwrap_err();
        release(a.as_fd());
        lock(&a, WRITE, READ).unwrap();
    }

    #[test]
    fn writers_that_share_writing_do_not_exclude_each_other() {
        let (a, b) = twice();
        lock(&a, WRITE, WRITE).unwrap();
        lock(&b, WRITE, WRITE).unwrap();
    }

    #[test]
    fn without_locking_nothing_is_excluded() {
        let (a, b) = twice();
        lock(&a, WRITE, READ).unwrap();
        acquire(b.as_fd(), WRITE, READ, Locking::Off).unwrap();
    }
}
