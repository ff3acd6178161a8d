//! A file or block device of the host: opening it with good manners, and what it is like.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use lunar_reactor::AlignedBuf;
use rustix::fs::{self, AtFlags, FallocateFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::lock::{self, Permissions, Refusal};
use crate::route::Medium;
use crate::{Allocation, Error, NodeOptions, Space};

/// What the user has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// A regular file.
    File,
    /// A block device.
    Device,
    /// Either.
    Any,
}

/// What `O_DIRECT` asks of a request; 1 and 1 without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Align {
    /// Of memory addresses.
    pub memory: u32,
    /// Of offsets and lengths.
    pub request: u32,
}

/// An open file or block device.
#[derive(Debug)]
pub(crate) struct HostFile {
    fd: OwnedFd,
    pub path: PathBuf,
    pub is_device: bool,
    pub writable: bool,
    pub align: Align,
    pub medium: Medium,
    /// Holes can be punched, and read as zeroes.
    pub can_punch: bool,
    pub granularity: u32,
}

impl HostFile {
    /// Opens and locks `path`. `resizes` says that the image's format grows and shrinks the file.
    pub fn open(
        path: &Path,
        expect: Expect,
        options: &NodeOptions,
        resizes: bool,
    ) -> Result<HostFile, Error> {
        let writable = !options.read_only;
        let refuse = |what: String| Error::Open(format!("{}: {what}", path.display()));
        let explain = |errno| refuse(explain_open(errno, writable, options.direct));

        // Looked at before it is opened: opening can have effects (a FIFO blocks, a tape rewinds).
        check_type(&fs::stat(path).map_err(explain)?, expect).map_err(refuse)?;
        let mut flags = OFlags::CLOEXEC;
        flags |= if writable {
            OFlags::RDWR
        } else {
            OFlags::RDONLY
        };
        if options.direct {
            flags |= OFlags::DIRECT;
        }
        let fd = fs::open(path, flags, Mode::empty()).map_err(explain)?;
        // And again, because the name may mean something else by now.
        let stat = fs::fstat(&fd).map_err(explain)?;
        check_type(&stat, expect).map_err(refuse)?;
        let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;

        acquire(fd.as_fd(), options, resizes).map_err(|refusal| match refusal {
            Refusal::InUse(permission) => {
                let what = explain_in_use(permission, options);
                Error::InUse(format!("{}: {what}", path.display()))
            }
            Refusal::Host(errno) => refuse(format!(
                "the file system cannot lock the image ({errno}); open it with locking=off"
            )),
        })?;
        let align = if options.direct {
            direct_align(fd.as_fd(), is_device).map_err(refuse)?
        } else {
            Align {
                memory: 1,
                request: 1,
            }
        };
        #[cfg(test)]
        let align = tests::pretend(align);
        let medium = match () {
            () if !is_device && lives_in_memory(fd.as_fd()) => Medium::Memory,
            () if options.direct => Medium::Device,
            () => Medium::Cache,
        };
        #[cfg(test)]
        let medium = tests::MEDIUM.get().unwrap_or(medium);
        let (can_punch, granularity) = if is_device {
            device_discard(stat.st_rdev)
        } else {
            let block = u32::try_from(stat.st_blksize).unwrap_or(4096);
            (writable && file_punches(fd.as_fd()), block)
        };
        Ok(HostFile {
            fd,
            path: path.to_owned(),
            is_device,
            writable,
            align,
            medium,
            can_punch,
            granularity: if granularity.is_power_of_two() {
                granularity.clamp(512, 1 << 20)
            } else {
                4096
            },
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A descriptor of the same open file, for a reactor.
    pub fn duplicate(&self) -> Result<OwnedFd, Error> {
        Ok(self.fd.try_clone()?)
    }

    /// Where the file ends now, in bytes.
    pub fn end(&self) -> Result<u64, Errno> {
        if self.is_device {
            fs::seek(&self.fd, fs::SeekFrom::End(0))
        } else {
            Ok(u64::try_from(fs::fstat(&self.fd)?.st_size).unwrap_or(0))
        }
    }

    /// Lets the file end elsewhere. What is added is a hole.
    pub fn set_end(&self, end: u64) -> Result<(), Errno> {
        fs::ftruncate(&self.fd, end)
    }

    /// Reads `len` bytes; what is behind the end is zero. The buffer may be longer. Blocking, as the next two are.
    pub fn read_blocking(&self, offset: u64, len: usize) -> Result<AlignedBuf, Errno> {
        let block = self.align.request.max(self.align.memory) as usize;
        let mut buf = AlignedBuf::new(len.next_multiple_of(block), block);
        let mut done = 0;
        while let Some(part) = buf.get_mut(done..)
            && !part.is_empty()
        {
            match rustix::io::pread(&self.fd, part, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                // `O_DIRECT` after a last block that was cut short.
                Err(Errno::INVAL) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(buf)
    }

    /// Writes all of `buf`.
    pub fn write_blocking(&self, offset: u64, buf: &[u8]) -> Result<(), Errno> {
        let mut done = 0;
        while let Some(part) = buf.get(done..)
            && !part.is_empty()
        {
            match rustix::io::pwrite(&self.fd, part, offset + done as u64) {
                Ok(0) => return Err(Errno::NOSPC),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// `fallocate` by `mode`, or writes zeroes.
    pub fn zero_blocking(&self, offset: u64, len: u64, mode: FallocateFlags) -> Result<(), Errno> {
        match fs::fallocate(&self.fd, mode, offset, len) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            other => return other,
        }
        let zeroes = AlignedBuf::new(1 << 20, 4096);
        let end = offset.checked_add(len).ok_or(Errno::INVAL)?;
        let mut at = offset;
        while at < end {
            let n = usize::try_from(end - at)
                .unwrap_or(zeroes.len())
                .min(zeroes.len());
            self.write_blocking(at, zeroes.get(..n).unwrap_or_default())?;
            at += n as u64;
        }
        Ok(())
    }

    /// How the file system stores `offset..offset + len`. Blocking.
    pub fn allocation(&self, offset: u64, len: u64) -> Result<Allocation, Errno> {
        if self.is_device {
            return Ok(Allocation::data(len));
        }
        match fs::seek(&self.fd, fs::SeekFrom::Data(offset)) {
            Ok(data) if data > offset => Ok(Allocation::hole(len.min(data - offset))),
            Ok(_) => {
                let hole = fs::seek(&self.fd, fs::SeekFrom::Hole(offset))?;
                // A hole right here was punched between the two calls: then it was data when the first one was made.
                Ok(Allocation::data(
                    len.min(hole.saturating_sub(offset).max(1)),
                ))
            }
            // Only a hole follows.
            Err(Errno::NXIO) => Ok(Allocation::hole(len)),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Allocation::data(len)),
            Err(e) => Err(e),
        }
    }

    /// What the file takes of its file system, which has what is left for it. Nobody asks what is behind a device.
    pub fn space(&self) -> Option<Space> {
        if self.is_device {
            return None;
        }
        let blocks = u64::try_from(fs::fstat(&self.fd).ok()?.st_blocks).ok()?;
        let system = fs::fstatvfs(&self.fd).ok()?;
        Some(Space {
            // The unit of `st_blocks`, whatever the file system's blocks are.
            used: blocks.saturating_mul(512),
            available: system.f_bavail.saturating_mul(system.f_frsize),
        })
    }

    /// The name for people.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Makes everything durable (if `flush`) and lets go of the locks; doing it twice is harmless.
    pub fn close(&self, flush: bool) -> Result<(), Error> {
        let result = if self.writable && flush {
            fs::fdatasync(&self.fd).map_err(Error::from)
        } else {
            Ok(())
        };
        lock::release(self.fd.as_fd());
        result
    }
}

fn explain_open(errno: Errno, writable: bool, direct: bool) -> String {
    match errno {
        Errno::NOENT => "no such file; correct the name, or create the image with qemu-img create".into(),
        Errno::ACCESS | Errno::PERM if writable => {
            "no permission to read and write it; change its owner or mode, or open it with read-only=on".into()
        }
        Errno::ACCESS | Errno::PERM => "no permission to read it; change its owner or mode".into(),
        Errno::ROFS => "it is on a read-only file system; open it with read-only=on".into(),
        Errno::INVAL if direct => {
            "its file system does not support O_DIRECT; use cache=writeback (cache.direct=off)".into()
        }
        Errno::BUSY => "the device is in use on the host; unmount or release it".into(),
        Errno::NXIO | Errno::NODEV => "there is no device behind this name; attach it or correct the name".into(),
        other => format!("cannot be opened: {other}"),
    }
}

fn check_type(stat: &fs::Stat, expect: Expect) -> Result<(), String> {
    let found = FileType::from_raw_mode(stat.st_mode);
    match (found, expect) {
        (FileType::RegularFile, Expect::File | Expect::Any)
        | (FileType::BlockDevice, Expect::Device | Expect::Any) => Ok(()),
        (FileType::BlockDevice, Expect::File) => {
            Err("it is a block device, not a file; use driver=host_device".into())
        }
        (FileType::RegularFile, Expect::Device) => {
            Err("it is a regular file, not a block device; use driver=file".into())
        }
        (FileType::Directory, _) => {
            Err("it is a directory, not an image; give the name of a file in it".into())
        }
        (FileType::CharacterDevice, _) => Err(
            "it is a character device, which holds no image; give a file or a block device".into(),
        ),
        (FileType::Fifo | FileType::Socket, _) => {
            Err("it is a pipe or a socket, not an image; give a file or a block device".into())
        }
        _ => Err("it is neither a file nor a block device".into()),
    }
}

fn acquire(fd: BorrowedFd<'_>, options: &NodeOptions, resizes: bool) -> Result<(), Refusal> {
    let read = Permissions::CONSISTENT_READ;
    let mut shared = read.and(Permissions::WRITE_UNCHANGED);
    let mut used = read;
    if !options.read_only {
        used = used.and(Permissions::WRITE);
    }
    if resizes {
        // The format's metadata allows one writer only, whatever the guests agree upon.
        if !options.read_only {
            used = used.and(Permissions::RESIZE);
        }
    } else if options.share_rw {
        shared = shared.and(Permissions::WRITE);
    }
    if !resizes {
        shared = shared.and(Permissions::RESIZE);
    }
    if options.force_share {
        shared = shared.and(Permissions::WRITE).and(Permissions::RESIZE);
    }
    lock::acquire(fd, used, shared, options.locking)
}

fn explain_in_use(permission: &str, options: &NodeOptions) -> String {
    let remedy = match options.read_only {
        true => "or open the image with force-share=on",
        false => "or open the image with read-only=on,force-share=on",
    };
    format!(
        "another process is using the image (it holds the \"{permission}\" lock); stop that process, {remedy}"
    )
}

/// Whether the file system keeps its files in memory.
#[allow(
    clippy::useless_conversion,
    reason = "the width of the number differs between architectures"
)]
fn lives_in_memory(fd: BorrowedFd<'_>) -> bool {
    const TMPFS: u32 = 0x0102_1994;
    const RAMFS: u32 = 0x8584_58f6;
    const HUGETLBFS: u32 = 0x9584_58f6;
    // 32 bits everywhere, whatever the sign makes of them.
    fs::fstatfs(fd).is_ok_and(|s| {
        [TMPFS, RAMFS, HUGETLBFS]
            .iter()
            .any(|&magic| i64::from(s.f_type) & 0xffff_ffff == i64::from(magic))
    })
}

/// Asks the kernel (since Linux 6.1), else tries.
fn direct_align(fd: BorrowedFd<'_>, is_device: bool) -> Result<Align, String> {
    const REFUSED: &str =
        "its file system does not support O_DIRECT; use cache=writeback (cache.direct=off)";
    if let Ok(x) = fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        && StatxFlags::from_bits_retain(x.stx_mask).contains(StatxFlags::DIOALIGN)
    {
        let align = Align {
            memory: x.stx_dio_mem_align,
            request: x.stx_dio_offset_align,
        };
        return if align.memory.is_power_of_two() && align.request.is_power_of_two() {
            Ok(align)
        } else {
            Err(REFUSED.into())
        };
    }
    if is_device && let Ok(block) = fs::ioctl_blksszget(fd) {
        return Ok(Align {
            memory: block,
            request: block,
        });
    }
    let mut buf = AlignedBuf::new(4096, 4096);
    for request in [512usize, 1024, 2048, 4096] {
        let Some(part) = buf.get_mut(..request) else {
            break;
        };
        if rustix::io::pread(fd, part, 0).is_ok() {
            let request = u32::try_from(request).unwrap_or(4096);
            return Ok(Align {
                memory: request,
                request,
            });
        }
    }
    Err(REFUSED.into())
}

/// Whether the file system punches holes: tried far behind the end of the file, where it changes nothing.
fn file_punches(fd: BorrowedFd<'_>) -> bool {
    let end = fs::fstat(fd).map_or(0, |s| u64::try_from(s.st_size).unwrap_or(0));
    let behind = end.next_multiple_of(1 << 20);
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fs::fallocate(fd, mode, behind, 4096).is_ok()
}

/// Whether the device can zero and free a range by itself, and in what units it frees.
fn device_discard(device: u64) -> (bool, u32) {
    let (major, minor) = (fs::major(device), fs::minor(device));
    let limit = |name: &str| -> Option<u64> {
        // A partition has its disk's queue.
        ["queue", "../queue"].iter().find_map(|queue| {
            std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/{queue}/{name}"))
                .ok()?
                .trim()
                .parse()
                .ok()
        })
    };
    let granularity = limit("discard_granularity").and_then(|n| u32::try_from(n).ok());
    let can = limit("write_zeroes_max_bytes").is_some_and(|n| n > 0)
        && granularity.is_some_and(|n| n > 0);
    (can, granularity.unwrap_or(4096))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// What files that this thread opens shall want of offsets and lengths, whatever they are on.
        pub(crate) static REQUEST_ALIGN: Cell<Option<u32>> = const { Cell::new(None) };
    }

    thread_local! {
        /// Where files that this thread opens shall seem to be.
        pub(crate) static MEDIUM: Cell<Option<Medium>> = const { Cell::new(None) };
    }

    pub(super) fn pretend(align: Align) -> Align {
        Align {
            request: REQUEST_ALIGN.get().unwrap_or(align.request),
            ..align
        }
    }

    #[test]
    fn an_open_error_names_its_remedy() {
        for (errno, writable, direct, remedy) in [
            (Errno::NOENT, true, false, "qemu-img create"),
            (Errno::ACCESS, true, false, "read-only=on"),
            (Errno::ACCESS, false, false, "owner or mode"),
            (Errno::ROFS, true, false, "read-only=on"),
            (Errno::INVAL, true, true, "cache.direct=off"),
            (Errno::BUSY, true, false, "unmount"),
        ] {
            let message = explain_open(errno, writable, direct);
            assert!(message.contains(remedy), "{errno:?}: {message}");
        }
    }
}
