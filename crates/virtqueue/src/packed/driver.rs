//! The driver's side of a packed ring.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::PackedDescriptor;
use super::events;
use super::position::{self, Position};
use super::ring::Ring;
use crate::{Buffer, Error, GuestMemory, RingFeatures, RingLayout, Used};

/// The driver's side of a packed ring. What its methods promise, [`DriverQueue`](crate::DriverQueue) says.
#[derive(Debug)]
pub(crate) struct PackedDriver {
    ring: Ring,
    features: RingFeatures,
    /// The next place to fill; ahead of what is published by what is staged.
    next: Position,
    /// Where the first staged chain begins.
    published: Position,
    /// The flags of that descriptor, which are withheld: they make the whole batch visible. `None` if nothing is staged.
    first_flags: Option<u16>,
    /// Where the device returns the next chain.
    used: Position,
    free: u16,
    free_ids: Vec<u16>,
    /// For each buffer ID that is outstanding, the places of its chain; else 0.
    places: Vec<u16>,
    outstanding: u16,
}

impl PackedDriver {
    pub(crate) fn new(
        memory: &Arc<GuestMemory>,
        layout: &RingLayout,
        features: RingFeatures,
    ) -> Result<PackedDriver, Error> {
        let ring = Ring::new(memory, layout)?;
        let size = layout.size;
        for index in 0..size {
            ring.set_descriptor(index, PackedDescriptor::default());
        }
        ring.driver_events()
            .store(events::ENABLE, Ordering::Relaxed);
        ring.device_events()
            .store(events::ENABLE, Ordering::Relaxed);
        Ok(PackedDriver {
            ring,
            features,
            next: Position::START,
            published: Position::START,
            first_flags: None,
            used: Position::START,
            free: size,
            free_ids: (0..size).rev().collect(),
            places: vec![0; usize::from(size)],
            outstanding: 0,
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

    /// Behind what has been returned, seen or not.
    pub(crate) fn base_at_used(&self) -> u32 {
        let mut at = self.used;
        for _ in 0..self.outstanding {
            let flags = self.ring.flags(at.index).load(Ordering::Acquire);
            let places = self.places_of(self.ring.descriptor(at.index).id);
            if !at.is_used(flags) || places == 0 {
                break;
            }
            at = at.advance(places, self.ring.size());
        }
        position::base(at, at)
    }

    fn places_of(&self, id: u16) -> u16 {
        self.places.get(usize::from(id)).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, readable: &[Buffer], writable: &[Buffer]) -> Result<u16, Error> {
        let count = readable.len() + writable.len();
        self.stage(count, buffers(readable, writable))
    }

    pub(crate) fn add_indirect(
        &mut self,
        readable: &[Buffer],
        table: Buffer,
    ) -> Result<u16, Error> {
        let indirect = (table, PackedDescriptor::INDIRECT);
        let direct = buffers(readable, &[]);
        self.stage(readable.len() + 1, direct.chain([indirect]))
    }

    /// Puts `count` descriptors into the next places.
    fn stage(
        &mut self,
        count: usize,
        buffers: impl Iterator<Item = (Buffer, u16)>,
    ) -> Result<u16, Error> {
        let no_room = Error::NoRoom { needed: count };
        let places = u16::try_from(count).map_err(|_| no_room)?;
        if places == 0 || places > self.free {
            return Err(no_room);
        }
        let id = self.free_ids.pop().ok_or(no_room)?;
        for (left, (buffer, flags)) in (0..places).rev().zip(buffers) {
            let at = self.next;
            let next = if left == 0 { 0 } else { PackedDescriptor::NEXT };
            let flags = flags | next | at.available();
            // The first of a batch is not the device's before `publish`: it keeps the flags it has.
            let shown = match self.first_flags {
                Some(_) => flags,
                None => self.ring.flags(at.index).load(Ordering::Relaxed),
            };
            self.first_flags.get_or_insert(flags);
            let descriptor = PackedDescriptor {
                addr: buffer.addr,
                len: buffer.len,
                id,
                flags: shown,
            };
            self.ring.set_descriptor(at.index, descriptor);
            self.next = at.advance(1, self.ring.size());
        }
        self.free -= places;
        if let Some(entry) = self.places.get_mut(usize::from(id)) {
            *entry = places;
        }
        self.outstanding += 1;
        Ok(id)
    }

    pub(crate) fn publish(&mut self) -> bool {
        let Some(flags) = self.first_flags.take() else {
            return false;
        };
        let wanted = events::publish(
            self.ring.flags(self.published.index),
            flags,
            (self.published, self.next, self.ring.size()),
            self.ring.device_events(),
            self.features.event_idx,
        );
        self.published = self.next;
        wanted
    }

    pub(crate) fn reap(&mut self) -> Result<Option<Used>, Error> {
        let at = self.used;
        // Acquire: pairs with the device's release of the rest of the descriptor, and of the buffers.
        let flags = self.ring.flags(at.index).load(Ordering::Acquire);
        if !at.is_used(flags) {
            return Ok(None);
        }
        // The length counts even without the WRITE flag, which not every device sets.
        let PackedDescriptor { id, len, .. } = self.ring.descriptor(at.index);
        let places = self.places_of(id);
        if places == 0 {
            return Err(Error::UsedUnknown { id: id.into() });
        }
        if let Some(entry) = self.places.get_mut(usize::from(id)) {
            *entry = 0;
        }
        self.free_ids.push(id);
        self.free += places;
        self.outstanding -= 1;
        self.used = at.advance(places, self.ring.size());
        Ok(Some(Used {
            head: id,
            written: len,
        }))
    }

    pub(crate) fn disable_interrupts(&self) {
        events::disarm(self.ring.driver_events());
    }

    pub(crate) fn enable_interrupts(&self) -> bool {
        let flags = self.ring.flags(self.used.index);
        let (events, event_idx) = (self.ring.driver_events(), self.features.event_idx);
        self.used
            .is_used(events::arm(flags, self.used, events, event_idx))
    }

    /// The bytes of an indirect table: in the order of its entries, of whose flags WRITE alone means something.
    pub(crate) fn indirect_table(readable: &[Buffer], writable: &[Buffer]) -> Vec<u8> {
        let descriptor = |(buffer, flags): (Buffer, u16)| PackedDescriptor {
            addr: buffer.addr,
            len: buffer.len,
            id: 0,
            flags,
        };
        buffers(readable, writable)
            .flat_map(|b| descriptor(b).to_bytes())
            .collect()
    }
}

/// The buffers of a chain in order, and the flag that says which way each goes.
fn buffers(readable: &[Buffer], writable: &[Buffer]) -> impl Iterator<Item = (Buffer, u16)> {
    let readable = readable.iter().map(|&b| (b, 0));
    let writable = writable.iter().map(|&b| (b, PackedDescriptor::WRITE));
    readable.chain(writable)
}
