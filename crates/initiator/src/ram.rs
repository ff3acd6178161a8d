//! Memory that plays the guest's.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use lunar_virtqueue as virtqueue;
use lunar_virtqueue::GuestMemory;

use crate::message::Region;
use crate::{Error, Session, protocol};

/// Guest addresses start here, so that no ring has address 0.
const START: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// The memory of a guest that does not exist: adjacent regions, each with a file that the server maps.
#[derive(Debug)]
pub struct Ram {
    regions: Vec<(Region, OwnedFd)>,
    memory: Arc<GuestMemory>,
    /// The first address not handed out.
    next: u64,
}

impl Ram {
    /// Memory of `rings` bytes in one region, and `data` bytes in `pieces` adjacent ones behind it.
    pub(crate) fn new(rings: u64, data: u64, pieces: u16) -> Result<Ram, Error> {
        let mut ram = Ram {
            regions: Vec::new(),
            memory: Arc::default(),
            next: START,
        };
        let pieces = u64::from(pieces.max(1));
        let piece = data.div_ceil(pieces).next_multiple_of(PAGE).max(PAGE);
        let sizes = std::iter::repeat_n(piece, usize::try_from(pieces).unwrap_or(1));
        for size in std::iter::once(rings.next_multiple_of(PAGE)).chain(sizes) {
            ram.append(size)?;
        }
        Ok(ram)
    }

    /// Adds a region right behind the last one.
    fn append(&mut self, size: u64) -> Result<Region, Error> {
        // Behind what was unplugged, too: on this side it is still there.
        let last = self.memory.regions().last();
        let gpa = last.map_or(START, |r| r.gpa() + r.size());
        let (region, fd) = virtqueue::Region::allocate(gpa, size)?;
        let described = Region {
            gpa,
            size,
            user_addr: region.user_addr(),
            offset: 0,
        };
        self.memory = Arc::new(self.memory.with_region(Arc::new(region))?);
        self.regions.push((described, fd));
        Ok(described)
    }

    /// The memory as the rings see it, to be read and written by guest address.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Takes `size` bytes that nobody else uses.
    pub(crate) fn take(&mut self, size: u64) -> Result<u64, Error> {
        let at = self.next.next_multiple_of(PAGE);
        let end = self.regions.last().map_or(START, |(r, _)| r.gpa + r.size);
        if at + size > end {
            return Err(Error::System("memory layout", rustix::io::Errno::NOMEM));
        }
        self.next = at + size;
        Ok(at)
    }

    /// This side's own address of a guest address.
    pub(crate) fn user_addr(&self, gpa: u64) -> u64 {
        let region = self
            .regions
            .iter()
            .find(|(r, _)| gpa.wrapping_sub(r.gpa) < r.size);
        region.map_or(0, |(r, _)| r.user_addr + (gpa - r.gpa))
    }

    /// Tells the server of the regions: one by one if it takes them so (as newer front ends do), else in one table.
    pub(crate) fn announce(&self, session: &Session) -> Result<(), Error> {
        if session.protocol_features() & protocol::CONFIGURE_MEM_SLOTS != 0 {
            for (region, fd) in &self.regions {
                session.add_region(*region, fd)?;
            }
            return Ok(());
        }
        self.announce_table(session)
    }

    /// Tells the server of all regions in one table, which replaces what it had.
    pub(crate) fn announce_table(&self, session: &Session) -> Result<(), Error> {
        let regions: Vec<_> = self.regions.iter().map(|(r, fd)| (*r, fd)).collect();
        session.set_memory(&regions)
    }

    /// Plugs `size` bytes more into the guest and tells the server; gives their guest address.
    pub(crate) fn plug(&mut self, session: &Session, size: u64) -> Result<u64, Error> {
        let region = self.append(size.next_multiple_of(PAGE))?;
        if session.protocol_features() & protocol::CONFIGURE_MEM_SLOTS == 0 {
            self.announce_table(session)?;
        } else if let Some((_, fd)) = self.regions.last() {
            session.add_region(region, fd)?;
        }
        Ok(region.gpa)
    }

    /// Unplugs the region at `gpa` and tells the server; on this side it stays mapped.
    pub(crate) fn unplug(&mut self, session: &Session, gpa: u64) -> Result<(), Error> {
        let Some(at) = self.regions.iter().position(|(r, _)| r.gpa == gpa) else {
            return Err(virtqueue::Error::RegionUnknown { addr: gpa, size: 0 }.into());
        };
        let (region, _fd) = self.regions.remove(at);
        if session.protocol_features() & protocol::CONFIGURE_MEM_SLOTS == 0 {
            self.announce_table(session)
        } else {
            session.remove_region(region)
        }
    }
}
