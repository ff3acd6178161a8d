//! The driver's side of a split ring.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Descriptor;
use super::ring::Ring;
use crate::notify::{self, Suppression};
use crate::{Buffer, Error, GuestMemory, RingFeatures, RingLayout, Used};

/// The driver's side of a split ring. What its methods promise, [`DriverQueue`](crate::DriverQueue) says.
#[derive(Debug)]
pub(crate) struct SplitDriver {
    ring: Ring,
    features: RingFeatures,
    /// For each descriptor its successor, in its chain or among the free ones; kept here because the table is shared.
    successors: Vec<u16>,
    /// For each descriptor that heads an outstanding chain, the chain's descriptors; else 0.
    lengths: Vec<u16>,
    /// The first free descriptor, if any is free.
    first_free: u16,
    free: u16,
    outstanding: u16,
    /// The next available entry to fill; ahead of the published index by what is staged.
    next_avail: u16,
    /// The available index as last published.
    avail_idx: u16,
    /// The next used entry to take.
    next_used: u16,
}

impl SplitDriver {
    /// Sets up a new ring at `layout`: both indices start at 0, the flags are cleared.
    pub(crate) fn new(
        memory: &Arc<GuestMemory>,
        layout: RingLayout,
        features: RingFeatures,
    ) -> Result<SplitDriver, Error> {
        let ring = Ring::new(memory, &layout)?;
        ring.avail_idx().store(0, Ordering::Relaxed);
        ring.used_idx().store(0, Ordering::Relaxed);
        for event_idx in [false, true] {
            // Flags 0 and event 0: both sides want to hear of the first move.
            notify::ask(0, &ring.driver_suppression(event_idx));
            notify::ask(0, &ring.device_suppression(event_idx));
        }
        Ok(SplitDriver {
            successors: (1..=layout.size).collect(),
            lengths: vec![0; usize::from(layout.size)],
            first_free: 0,
            free: layout.size,
            ring,
            features,
            outstanding: 0,
            next_avail: 0,
            avail_idx: 0,
            next_used: 0,
        })
    }

    pub(crate) fn memory(&self) -> &Arc<GuestMemory> {
        self.ring.memory()
    }

    pub(crate) fn free(&self) -> u16 {
        self.free
    }

    pub(crate) fn outstanding(&self) -> u16 {
        self.outstanding
    }

    /// The used index: how many chains, modulo 2^16, the device has returned.
    pub(crate) fn base_at_used(&self) -> u32 {
        self.ring.used_idx().load(Ordering::Acquire).into()
    }

    pub(crate) fn add(&mut self, readable: &[Buffer], writable: &[Buffer]) -> Result<u16, Error> {
        self.stage(readable.len() + writable.len(), chain(readable, writable))
    }

    pub(crate) fn add_indirect(
        &mut self,
        readable: &[Buffer],
        table: Buffer,
    ) -> Result<u16, Error> {
        let indirect = Descriptor {
            addr: table.addr,
            len: table.len,
            flags: Descriptor::INDIRECT,
            next: 0,
        };
        let direct = chain(readable, &[]);
        self.stage(readable.len() + 1, direct.chain([indirect]))
    }

    /// Puts `count` descriptors into free places of the table, linked, and the first into the available ring.
    fn stage(
        &mut self,
        count: usize,
        descriptors: impl Iterator<Item = Descriptor>,
    ) -> Result<u16, Error> {
        let no_room = Error::NoRoom { needed: count };
        let length = u16::try_from(count).map_err(|_| no_room)?;
        if length == 0 || length > self.free {
            return Err(no_room);
        }
        let head = self.first_free;
        for (left, d) in (0..length).rev().zip(descriptors) {
            let next = self.successor(self.first_free);
            let link = if left == 0 { 0 } else { Descriptor::NEXT };
            let descriptor = Descriptor {
                flags: d.flags | link,
                next: if left == 0 { 0 } else { next },
                ..d
            };
            self.ring.set_descriptor(self.first_free, descriptor);
            self.first_free = next;
        }
        self.free -= length;
        if let Some(entry) = self.lengths.get_mut(usize::from(head)) {
            *entry = length;
        }
        let entry = self.ring.avail_entry(self.next_avail);
        entry.store(head, Ordering::Relaxed);
        self.next_avail = self.next_avail.wrapping_add(1);
        self.outstanding += 1;
        Ok(head)
    }

    fn successor(&self, index: u16) -> u16 {
        self.successors
            .get(usize::from(index))
            .copied()
            .unwrap_or(0)
    }

    /// Puts the descriptors of the chain at `head` back among the free ones; false if the device does not have it.
    fn release(&mut self, head: u16) -> bool {
        let length = self
            .lengths
            .get_mut(usize::from(head))
            .map_or(0, std::mem::take);
        if length == 0 {
            return false;
        }
        let last = (1..length).fold(head, |index, _| self.successor(index));
        if let Some(next) = self.successors.get_mut(usize::from(last)) {
            *next = self.first_free;
        }
        self.first_free = head;
        self.free += length;
        self.outstanding -= 1;
        true
    }

    pub(crate) fn publish(&mut self) -> bool {
        if self.next_avail == self.avail_idx {
            return false;
        }
        let wanted = notify::publish(
            self.ring.avail_idx(),
            self.avail_idx,
            self.next_avail,
            &self.ring.device_suppression(self.features.event_idx),
        );
        self.avail_idx = self.next_avail;
        wanted
    }

    pub(crate) fn reap(&mut self) -> Result<Option<Used>, Error> {
        // Acquire: pairs with the device's release of the entries before it.
        let used = self.ring.used_idx().load(Ordering::Acquire);
        if used == self.next_used {
            return Ok(None);
        }
        if used.wrapping_sub(self.next_used) > self.outstanding {
            return Err(Error::UsedIndex {
                used,
                next: self.next_used,
                outstanding: self.outstanding,
            });
        }
        let (id, written) = self.ring.used(self.next_used);
        let unknown = Error::UsedUnknown { id };
        let head = u16::try_from(id).map_err(|_| unknown)?;
        if !self.release(head) {
            return Err(unknown);
        }
        self.next_used = self.next_used.wrapping_add(1);
        Ok(Some(Used { head, written }))
    }

    pub(crate) fn disable_interrupts(&self) {
        // With EVENT_IDX nothing needs to be said, because the index moves past the event only once.
        if let Suppression::Flags(flags) = self.ring.driver_suppression(self.features.event_idx) {
            flags.store(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn enable_interrupts(&self) -> bool {
        notify::arm(
            self.ring.used_idx(),
            self.next_used,
            &self.ring.driver_suppression(self.features.event_idx),
        )
    }

    /// The bytes of an indirect table: its entries linked.
    pub(crate) fn indirect_table(readable: &[Buffer], writable: &[Buffer]) -> Vec<u8> {
        let count = readable.len() + writable.len();
        let link = |(d, next): (Descriptor, u16)| match usize::from(next) < count {
            true => Descriptor {
                flags: d.flags | Descriptor::NEXT,
                next,
                ..d
            },
            false => d,
        };
        chain(readable, writable)
            .zip(1..)
            .flat_map(|linked| link(linked).to_bytes())
            .collect()
    }
}

/// The descriptors of a chain, not linked yet.
fn chain(readable: &[Buffer], writable: &[Buffer]) -> impl Iterator<Item = Descriptor> {
    let descriptor = |b: &Buffer, flags| Descriptor {
        addr: b.addr,
        len: b.len,
        flags,
        next: 0,
    };
    let readable = readable.iter().map(move |b| descriptor(b, 0));
    let writable = writable
        .iter()
        .map(move |b| descriptor(b, Descriptor::WRITE));
    readable.chain(writable)
}
