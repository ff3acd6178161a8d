//! The guest's memory: regions mapped from the front end's files, and snapshots of the map.

use std::ffi::c_void;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use lunar_sgl::{Mapped, prefetch};
use rustix::fs::{self, FileType, MemfdFlags};
use rustix::mm::{self, Advice, MapFlags, ProtFlags};

use crate::Error;

/// What an address means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSpace {
    /// The guest's physical addresses, as in every descriptor.
    Guest,
    /// The front end's own virtual addresses, as in vhost-user's ring addresses (VU-043).
    User,
}

/// One piece of guest memory: a mapping of a part of a file that the front end passed, unmapped on drop.
#[derive(Debug)]
pub struct Region {
    gpa: u64,
    user_addr: u64,
    size: u64,
    /// Where `gpa` is in this process.
    host: *mut u8,
    /// The mapping, which may start below `host` and end above the region.
    map: *mut c_void,
    map_len: usize,
}

// SAFETY: a region owns its mapping, and hands out addresses and copies only; the bytes are shared with a guest anyway.
unsafe impl Send for Region {}
// SAFETY: as above; no method changes the region itself.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `size` bytes from `offset` of `file` as guest memory at `gpa`, which the front end sees at `user_addr`.
    ///
    /// The file must be a regular one (memfd, tmpfs, hugetlbfs) that is at least `offset + size` long: the end of a
    /// file raises SIGBUS when touched (VU-044). The offset needs no alignment.
    pub fn map(
        file: BorrowedFd<'_>,
        gpa: u64,
        size: u64,
        user_addr: u64,
        offset: u64,
    ) -> Result<Region, Error> {
        if size == 0 {
            return Err(Error::RegionEmpty);
        }
        let wraps = |addr| Error::RegionWraps { addr, size };
        gpa.checked_add(size).ok_or(wraps(gpa))?;
        user_addr.checked_add(size).ok_or(wraps(user_addr))?;
        let end = offset.checked_add(size).ok_or(wraps(offset))?;

        let stat = fs::fstat(file).map_err(Error::Map)?;
        let actual = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => u64::try_from(stat.st_size).unwrap_or(0),
            _ => 0,
        };
        if actual < end {
            return Err(Error::FileTooShort {
                needed: end,
                actual,
            });
        }
        // hugetlbfs wants whole pages of its own size in mmap and munmap, and tells that size as the block size.
        let page = u64::try_from(stat.st_blksize)
            .unwrap_or(0)
            .max(4096)
            .next_power_of_two();
        let start = offset & !(page - 1);
        let map_len = end
            .checked_next_multiple_of(page)
            .and_then(|end| usize::try_from(end - start).ok())
            .ok_or(wraps(offset))?;
        let skip = usize::try_from(offset - start).map_err(|_| wraps(offset))?;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        let map = unsafe {
            mm::mmap(
                ptr::null_mut(),
                map_len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                start,
            )
        }
        .map_err(Error::Map)?;
        // A guest's memory has no place in our core dumps. Where the kernel cannot, dumps are larger: no error.
        // SAFETY: the range is the mapping just made; the advice does not change its contents.
        let _ = unsafe { mm::madvise(map, map_len, Advice::LinuxDontDump) };
        Ok(Region {
            gpa,
            user_addr,
            size,
            host: map.cast::<u8>().wrapping_add(skip),
            map,
            map_len,
        })
    }

    /// Makes new memory for a guest at `gpa`, as a front end does: zeroed, and seen by user addresses that are this
    /// process's own. The descriptor is what a back end maps, at offset 0.
    pub fn allocate(gpa: u64, size: u64) -> Result<(Region, OwnedFd), Error> {
        let fd = fs::memfd_create("guest-memory", MemfdFlags::CLOEXEC).map_err(Error::Map)?;
        fs::ftruncate(&fd, size).map_err(Error::Map)?;
        let mut region = Region::map(fd.as_fd(), gpa, size, 0, 0)?;
        region.user_addr = region.host.expose_provenance() as u64;
        Ok((region, fd))
    }

    /// The guest-physical address of the first byte.
    pub fn gpa(&self) -> u64 {
        self.gpa
    }

    /// The front end's address of the first byte.
    pub fn user_addr(&self) -> u64 {
        self.user_addr
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn start(&self, space: AddressSpace) -> u64 {
        match space {
            AddressSpace::Guest => self.gpa,
            AddressSpace::User => self.user_addr,
        }
    }

    pub(crate) fn window(&self, space: AddressSpace) -> Window {
        Window {
            start: self.start(space),
            size: self.size,
            host: self.host,
        }
    }
}

// SAFETY: the mapping lives as long as the region, and contains all of it.
unsafe impl Mapped for Region {
    fn range(&self) -> (*mut u8, usize) {
        // It is mapped, so it fits the address space.
        (self.host, usize::try_from(self.size).unwrap_or(0))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `map` made, and addresses in it are used only while the region is alive:
        // queues hold the snapshot, and whoever makes a list of a chain's segments promises to hold it as well.
        let _ = unsafe { mm::munmap(self.map, self.map_len) };
    }
}

/// A range of addresses and where it lies in this process: all that a translation needs, copied out of a [`Region`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    start: u64,
    size: u64,
    host: *mut u8,
}

// SAFETY: an address is only a number; who follows it has to show that the region lives.
unsafe impl Send for Window {}

impl Window {
    /// A window that holds no address.
    pub(crate) const NONE: Window = Window {
        start: 0,
        size: 0,
        host: ptr::null_mut(),
    };

    /// The host address of `len` (at least 1) bytes at `addr`, if all are inside.
    #[inline]
    pub(crate) fn translate(&self, addr: u64, len: u64) -> Option<*mut u8> {
        let (host, available) = self.translate_some(addr)?;
        (len <= available).then_some(host)
    }

    /// The host address of `addr`, and the bytes from there to the end.
    #[inline]
    fn translate_some(&self, addr: u64) -> Option<(*mut u8, u64)> {
        let offset = addr.wrapping_sub(self.start);
        if offset >= self.size {
            return None;
        }
        // `offset` is inside the mapping, so it fits the address space.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "64-bit targets only, see the crate root"
        )]
        let host = self.host.wrapping_add(offset as usize);
        Some((host, self.size - offset))
    }
}

/// An immutable snapshot of a guest's memory map: regions that do not overlap in guest-physical addresses, sorted by
/// them. Snapshots share regions; a region is unmapped when the last snapshot that has it is gone.
#[derive(Clone, Debug, Default)]
pub struct GuestMemory {
    regions: Vec<Arc<Region>>,
}

impl GuestMemory {
    /// A map of these regions.
    pub fn new(regions: impl IntoIterator<Item = Arc<Region>>) -> Result<GuestMemory, Error> {
        let mut regions: Vec<_> = regions.into_iter().collect();
        regions.sort_by_key(|r| r.gpa);
        for (a, b) in regions.iter().zip(regions.iter().skip(1)) {
            if b.gpa - a.gpa < a.size {
                return Err(Error::RegionOverlap { addr: b.gpa });
            }
        }
        Ok(GuestMemory { regions })
    }

    /// This map and one region more (VU-023, ADD_MEM_REG).
    pub fn with_region(&self, region: Arc<Region>) -> Result<GuestMemory, Error> {
        GuestMemory::new(self.regions.iter().cloned().chain([region]))
    }

    /// This map without the region that has exactly this place (VU-023, REM_MEM_REG).
    pub fn without_region(
        &self,
        gpa: u64,
        size: u64,
        user_addr: u64,
    ) -> Result<GuestMemory, Error> {
        let is_it = |r: &Arc<Region>| (r.gpa, r.size, r.user_addr) == (gpa, size, user_addr);
        if !self.regions.iter().any(is_it) {
            return Err(Error::RegionUnknown { addr: gpa, size });
        }
        let regions = self.regions.iter().filter(|r| !is_it(r)).cloned().collect();
        Ok(GuestMemory { regions })
    }

    /// The regions, by rising guest address.
    pub fn regions(&self) -> &[Arc<Region>] {
        &self.regions
    }

    /// Copies guest memory at `gpa` into `to`, which may span adjacent regions.
    pub fn read(&self, gpa: u64, to: &mut [u8]) -> Result<(), Error> {
        let mut rest = &mut *to;
        for piece in self.pieces(gpa, rest.len()) {
            let (host, len) = piece?;
            let (now, later) = rest.split_at_mut(len);
            // SAFETY: `pieces` gives addresses inside regions that `self` keeps mapped; `now` is ours and `len` long.
            unsafe { ptr::copy_nonoverlapping(host.cast_const(), now.as_mut_ptr(), len) };
            rest = later;
        }
        Ok(())
    }

    /// Tells the processor that what is at `gpa` will be read soon.
    #[inline]
    pub fn expect_read(&self, gpa: u64) {
        if let Some((host, _)) = self.window(gpa).and_then(|w| w.translate_some(gpa)) {
            prefetch::to_read(host);
        }
    }

    /// Copies `from` into guest memory at `gpa`; it may span adjacent regions. On an error a part may have been written.
    pub fn write(&self, gpa: u64, from: &[u8]) -> Result<(), Error> {
        let mut rest = from;
        for piece in self.pieces(gpa, rest.len()) {
            let (host, len) = piece?;
            let (now, later) = rest.split_at(len);
            // SAFETY: `pieces` gives addresses inside regions that `self` keeps mapped; `now` is ours and `len` long.
            unsafe { ptr::copy_nonoverlapping(now.as_ptr(), host, len) };
            rest = later;
        }
        Ok(())
    }

    /// The window that holds a guest address.
    pub(crate) fn window(&self, gpa: u64) -> Option<Window> {
        let after = self.regions.partition_point(|r| r.gpa <= gpa);
        let region = self.regions.get(after.checked_sub(1)?)?;
        (gpa - region.gpa < region.size).then(|| region.window(AddressSpace::Guest))
    }

    /// The host address of `len` bytes at `addr`, if all are in one region.
    pub(crate) fn contiguous(&self, space: AddressSpace, addr: u64, len: u64) -> Option<*mut u8> {
        self.regions
            .iter()
            .find_map(|r| r.window(space).translate(addr, len))
    }

    /// The pieces, one per region, of `len` bytes of guest memory at `gpa`.
    pub(crate) fn pieces(
        &self,
        gpa: u64,
        len: usize,
    ) -> impl Iterator<Item = Result<(*mut u8, usize), Error>> {
        let mut done = 0usize;
        std::iter::from_fn(move || {
            if done == len {
                return None;
            }
            let addr = gpa.checked_add(done as u64);
            let found = addr.and_then(|a| self.window(a)?.translate_some(a));
            let Some((host, available)) = found else {
                done = len;
                return Some(Err(Error::BufferUnmapped {
                    addr: gpa,
                    len: u32::try_from(len).unwrap_or(u32::MAX),
                }));
            };
            let now = usize::try_from(available)
                .unwrap_or(usize::MAX)
                .min(len - done);
            done += now;
            Some(Ok((host, now)))
        })
    }
}
