//! The device's side of a packed ring.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::PackedDescriptor;
use super::events;
use super::position::{self, Position};
use super::ring::Ring;
use crate::queue::Held;
use crate::walk::{Table, Walk};
use crate::{Chain, Error, GuestMemory, RingLayout};

/// Where the device is in a packed ring. What its methods promise, [`Queue`](crate::Queue) says.
#[derive(Debug)]
pub(crate) struct PackedDevice {
    ring: Ring,
    /// The next descriptor to take.
    avail: Position,
    /// Where the next chain is returned; ahead of what is published by what is staged.
    used: Position,
    /// Where the first of the staged chains is returned.
    published: Position,
    /// The flags of that descriptor, which are withheld: they make the whole batch visible.
    first_flags: u16,
    /// Places of the staged chains.
    staged: u16,
    /// Places whose descriptors the driver cannot use: taken, and not yet visibly returned. Never more than the ring has,
    /// whatever the descriptors say.
    taken: u16,
}

impl PackedDevice {
    pub(crate) fn new(
        memory: &Arc<GuestMemory>,
        layout: &RingLayout,
        base: u32,
    ) -> Result<PackedDevice, Error> {
        let ring = Ring::new(memory, layout)?;
        let (avail, used, taken) = position::from_base(base, layout.size)?;
        Ok(PackedDevice {
            ring,
            avail,
            used,
            published: used,
            first_flags: 0,
            staged: 0,
            taken,
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
        position::base(self.avail, self.published)
    }

    #[inline]
    pub(crate) fn pop(&mut self, held: &mut Held, chain: &mut Chain) -> Result<bool, Error> {
        let size = self.ring.size();
        let first = self.avail;
        // Acquire: pairs with the driver's release of this chain's descriptors, and of the buffers.
        let mut flags = self.ring.flags(first.index).load(Ordering::Acquire);
        if !first.is_available(flags) {
            return Ok(false);
        }
        let mut walk = Walk::new(first.index, size);
        let mut at = first;
        for places in 1..=size - self.taken {
            let d = self.ring.descriptor(at.index);
            if flags & PackedDescriptor::INDIRECT == 0 {
                let writable = flags & PackedDescriptor::WRITE != 0;
                let buffer = (d.addr, d.len, writable);
                walk.append(self.ring.memory(), &mut held.window, buffer, chain)?;
            } else if !held.features.indirect || flags & PackedDescriptor::NEXT != 0 {
                return Err(Error::IndirectMisplaced { head: walk.head });
            } else {
                self.walk_table(&mut walk, d, held, chain)?;
            }
            at = at.advance(1, size);
            if flags & PackedDescriptor::NEXT == 0 {
                if !held.in_flight.insert(d.id) {
                    return Err(Error::HeadInFlight { head: d.id });
                }
                chain.head = d.id;
                chain.places = places;
                self.taken += places;
                self.avail = at;
                return Ok(true);
            }
            flags = self.ring.flags(at.index).load(Ordering::Relaxed);
            if !at.is_available(flags) {
                break;
            }
        }
        Err(Error::ChainIncomplete { at: first.index })
    }

    pub(crate) fn is_empty(&self) -> bool {
        let flags = self.ring.flags(self.avail.index).load(Ordering::Relaxed);
        !self.avail.is_available(flags)
    }

    /// Takes the buffers of the indirect table that `table` points to: all of them, in order. Of the flags, WRITE alone
    /// means something there (VIRTIO 1.3 §2.8.7).
    fn walk_table(
        &self,
        walk: &mut Walk,
        table: PackedDescriptor,
        held: &mut Held,
        chain: &mut Chain,
    ) -> Result<(), Error> {
        let memory = self.ring.memory();
        walk.enter_table(table.len)?;
        let entries = Table::new(memory, &mut held.window, table.addr, table.len);
        for index in 0..walk.table {
            // SAFETY: `index` is below `walk.table`, and the map is the one above.
            let d = PackedDescriptor::from_words(unsafe { entries.load(memory, index) }?);
            let buffer = (d.addr, d.len, d.flags & PackedDescriptor::WRITE != 0);
            walk.append(memory, &mut held.window, buffer, chain)?;
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn push(&mut self, chain: &Chain, written: u32) {
        let at = self.used;
        self.ring.set_used(at.index, chain.head, written);
        let write = match written {
            0 => 0,
            _ => PackedDescriptor::WRITE,
        };
        let flags = at.used() | write;
        if self.staged == 0 {
            self.first_flags = flags;
        } else {
            // Nobody looks beyond the first of the batch before that one is visible, which the flags there order.
            self.ring.flags(at.index).store(flags, Ordering::Relaxed);
        }
        self.staged += chain.places;
        self.used = at.advance(chain.places, self.ring.size());
    }

    /// Whether to interrupt; `None` if nothing was staged.
    #[inline]
    pub(crate) fn publish(&mut self, event_idx: bool) -> Option<bool> {
        if self.staged == 0 {
            return None;
        }
        let wanted = events::publish(
            self.ring.flags(self.published.index),
            self.first_flags,
            (self.published, self.used, self.ring.size()),
            self.ring.driver_events(),
            event_idx,
        );
        self.taken -= std::mem::take(&mut self.staged);
        self.published = self.used;
        Some(wanted)
    }

    pub(crate) fn disarm(&self) {
        events::disarm(self.ring.device_events());
    }

    pub(crate) fn arm(&self, event_idx: bool) -> bool {
        let flags = self.ring.flags(self.avail.index);
        let now = events::arm(flags, self.avail, self.ring.device_events(), event_idx);
        self.avail.is_available(now)
    }
}
