//! The device's side of a split ring.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Descriptor;
use super::ring::Ring;
use crate::queue::Held;
use crate::walk::{Table, Walk};
use crate::{Chain, Error, GuestMemory, RingFeatures, RingLayout, notify};

/// Where the device is in a split ring. What its methods promise, [`Queue`](crate::Queue) says.
#[derive(Debug)]
pub(crate) struct SplitDevice {
    ring: Ring,
    /// The next available entry to take.
    next_avail: u16,
    /// The available index as last read: entries before it may be taken without looking again.
    avail_idx: u16,
    /// The next used entry to fill; ahead of the published index by what is staged.
    next_used: u16,
    /// The used index as last published.
    used_idx: u16,
}

impl SplitDevice {
    pub(crate) fn new(
        memory: &Arc<GuestMemory>,
        layout: &RingLayout,
        features: RingFeatures,
        base: u32,
    ) -> Result<SplitDevice, Error> {
        let ring = Ring::new(memory, layout)?;
        let next_avail = u16::try_from(base).map_err(|_| Error::RingBase(base))?;
        let used_idx = ring.used_idx().load(Ordering::Relaxed);
        if features.event_idx {
            // The flags of a predecessor without EVENT_IDX must not stay (VS-073: used.flags = 0).
            notify::ask(0, &ring.device_suppression(false));
        }
        Ok(SplitDevice {
            ring,
            next_avail,
            avail_idx: next_avail,
            next_used: used_idx,
            used_idx,
        })
    }

    pub(crate) fn set_memory(
        &mut self,
        memory: &Arc<GuestMemory>,
        layout: &RingLayout,
    ) -> Result<(), Error> {
        self.ring = Ring::new(memory, layout)?;
        Ok(())
    }

    pub(crate) fn memory(&self) -> &Arc<GuestMemory> {
        self.ring.memory()
    }

    pub(crate) fn base(&self) -> u32 {
        self.next_avail.into()
    }

    /// Whatever it knows to be available, it has to look at again.
    pub(crate) fn forget(&mut self) {
        self.avail_idx = self.next_avail;
    }

    #[inline]
    pub(crate) fn pop(
        &mut self,
        held: &mut Held,
        broken: bool,
        chain: &mut Chain,
    ) -> Result<bool, Error> {
        // A broken queue knows of nothing available.
        if self.next_avail == self.avail_idx && (broken || !self.look()?) {
            return Ok(false);
        }
        let head = self
            .ring
            .avail_entry(self.next_avail)
            .load(Ordering::Relaxed);
        self.walk(head, held, chain)?;
        if !held.in_flight.insert(head) {
            return Err(Error::HeadInFlight { head });
        }
        chain.head = head;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(true)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.next_avail == self.avail_idx
            && self.next_avail == self.ring.avail_idx().load(Ordering::Relaxed)
    }

    /// Reads the available index; whether it covers something new.
    fn look(&mut self) -> Result<bool, Error> {
        // Acquire: pairs with the driver's release of the entries and descriptors before it.
        let avail = self.ring.avail_idx().load(Ordering::Acquire);
        if avail.wrapping_sub(self.next_avail) > self.ring.size() {
            return Err(Error::AvailIndex {
                avail,
                next: self.next_avail,
                size: self.ring.size(),
            });
        }
        self.avail_idx = avail;
        Ok(avail != self.next_avail)
    }

    /// Follows a chain through the ring's table (VS-072).
    #[inline]
    fn walk(&self, head: u16, held: &mut Held, chain: &mut Chain) -> Result<(), Error> {
        let mut walk = Walk::new(head, self.ring.size());
        let mut index = walk.check(head)?;
        for _ in 0..walk.table {
            let d = self.ring.descriptor(index);
            if d.flags & Descriptor::INDIRECT != 0 {
                // The WRITE flag means nothing here.
                if !held.features.indirect || d.flags & Descriptor::NEXT != 0 {
                    return Err(Error::IndirectMisplaced { head });
                }
                return self.walk_table(walk, d, held, chain);
            }
            walk.append(self.ring.memory(), &mut held.window, buffer(d), chain)?;
            if d.flags & Descriptor::NEXT == 0 {
                return Ok(());
            }
            index = walk.check(d.next)?;
        }
        Err(Error::ChainLoops { head })
    }

    /// Follows the rest of a chain through the indirect table that `table` points to.
    fn walk_table(
        &self,
        mut walk: Walk,
        table: Descriptor,
        held: &mut Held,
        chain: &mut Chain,
    ) -> Result<(), Error> {
        let head = walk.head;
        let memory = self.ring.memory();
        walk.enter_table(table.len)?;
        let entries = Table::new(memory, &mut held.window, table.addr, table.len);
        let mut index = 0;
        for _ in 0..walk.table {
            // SAFETY: `check` lets no index pass that is not below `walk.table`, and the map is the one above.
            let d = Descriptor::from_words(unsafe { entries.load(memory, index) }?);
            if d.flags & Descriptor::INDIRECT != 0 {
                return Err(Error::IndirectMisplaced { head });
            }
            walk.append(memory, &mut held.window, buffer(d), chain)?;
            if d.flags & Descriptor::NEXT == 0 {
                return Ok(());
            }
            index = walk.check(d.next)?;
        }
        Err(Error::ChainLoops { head })
    }

    #[inline]
    pub(crate) fn push(&mut self, chain: &Chain, written: u32) {
        self.ring
            .set_used(self.next_used, u32::from(chain.head), written);
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Whether to interrupt; `None` if nothing was staged.
    #[inline]
    pub(crate) fn publish(&mut self, event_idx: bool) -> Option<bool> {
        if self.next_used == self.used_idx {
            return None;
        }
        let wanted = notify::publish(
            self.ring.used_idx(),
            self.used_idx,
            self.next_used,
            &self.ring.driver_suppression(event_idx),
        );
        self.used_idx = self.next_used;
        Some(wanted)
    }

    pub(crate) fn disarm(&self, event_idx: bool) {
        notify::disarm(self.next_avail, &self.ring.device_suppression(event_idx));
    }

    pub(crate) fn arm(&self, event_idx: bool) -> bool {
        notify::arm(
            self.ring.avail_idx(),
            self.next_avail,
            &self.ring.device_suppression(event_idx),
        )
    }
}

/// A descriptor's address, length, and whether the device writes there.
#[inline]
fn buffer(d: Descriptor) -> (u64, u32, bool) {
    (d.addr, d.len, d.flags & Descriptor::WRITE != 0)
}
