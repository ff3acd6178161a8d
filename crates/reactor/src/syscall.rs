//! What an operation on a file does, and how the kernel is told.

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};
use lunar_sgl::Sgl;

/// The most segments one vectored call takes (`UIO_MAXIOV`); longer lists end in a short result.
pub(crate) const MAX_SEGMENTS: usize = 1024;

/// What an operation does.
#[derive(Clone, Copy, Debug)]
pub enum Syscall {
    /// `preadv2` at `offset`. The result may be short: at the end of the file, and for more than 1024 segments.
    Read {
        /// Where the bytes go.
        data: Sgl,
        /// Position in the file, in bytes.
        offset: u64,
        /// `RWF_*`.
        rw_flags: i32,
    },
    /// `pwritev2` at `offset`. The result may be short.
    Write {
        /// Where the bytes come from.
        data: Sgl,
        /// Position in the file, in bytes.
        offset: u64,
        /// `RWF_*`, for example `RWF_DSYNC`.
        rw_flags: i32,
    },
    /// `fsync`, or `fdatasync` with `data_only`.
    Sync {
        /// Leave out metadata that is not needed to read the data back.
        data_only: bool,
    },
    /// `fallocate`.
    Allocate {
        /// `FALLOC_FL_*`.
        mode: i32,
        /// Start of the range, in bytes.
        offset: u64,
        /// Length of the range, in bytes.
        len: u64,
    },
}

/// The result of an operation that has not been carried out: there was no time for it in that turn, and there is now. See
/// [`Handle::defer`](crate::Handle::defer). The kernel has no such result.
pub const DEFERRED: i32 = i32::MIN;

impl Syscall {
    /// The entry that has the kernel carry it out; `fixed` is the piece of registered memory in which its buffer lies. The
    /// caller sees to it that memory and descriptor live until then.
    #[inline]
    pub(crate) fn entry(self, fd: Fd, fixed: Option<u16>) -> squeue::Entry {
        match self {
            Syscall::Read {
                data,
                offset,
                rw_flags,
            } => match (data.segments(), fixed) {
                ([one], None) => opcode::Read::new(fd, one.iov_base.cast(), small(one.iov_len))
                    .offset(offset)
                    .rw_flags(rw_flags)
                    .build(),
                ([one], Some(piece)) => {
                    opcode::ReadFixed::new(fd, one.iov_base.cast(), small(one.iov_len), piece)
                        .offset(offset)
                        .rw_flags(rw_flags)
                        .build()
                }
                (many, None) => opcode::Readv::new(fd, data.as_ptr(), count(many))
                    .offset(offset)
                    .rw_flags(rw_flags)
                    .build(),
                (many, Some(piece)) => {
                    opcode::ReadvFixed::new(fd, data.as_ptr(), count(many), piece)
                        .offset(offset)
                        .rw_flags(rw_flags)
                        .build()
                }
            },
            Syscall::Write {
                data,
                offset,
                rw_flags,
            } => match (data.segments(), fixed) {
                ([one], None) => opcode::Write::new(fd, one.iov_base.cast(), small(one.iov_len))
                    .offset(offset)
                    .rw_flags(rw_flags)
                    .build(),
                ([one], Some(piece)) => {
                    opcode::WriteFixed::new(fd, one.iov_base.cast(), small(one.iov_len), piece)
                        .offset(offset)
                        .rw_flags(rw_flags)
                        .build()
                }
                (many, None) => opcode::Writev::new(fd, data.as_ptr(), count(many))
                    .offset(offset)
                    .rw_flags(rw_flags)
                    .build(),
                (many, Some(piece)) => {
                    opcode::WritevFixed::new(fd, data.as_ptr(), count(many), piece)
                        .offset(offset)
                        .rw_flags(rw_flags)
                        .build()
                }
            },
            Syscall::Sync { data_only } => {
                let flags = if data_only {
                    FsyncFlags::DATASYNC
                } else {
                    FsyncFlags::empty()
                };
                opcode::Fsync::new(fd).flags(flags).build()
            }
            Syscall::Allocate { mode, offset, len } => opcode::Fallocate::new(fd, len)
                .offset(offset)
                .mode(mode)
                .build(),
        }
    }
}

/// Segments beyond what one call takes end in a short result.
fn count(segments: &[libc::iovec]) -> u32 {
    small(segments.len().min(MAX_SEGMENTS))
}

/// Lengths beyond what one call moves end in a short result.
fn small(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(!4095)
}
