//! The driver's side of a split ring, for the initiator and for tests.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::ring::{DESCRIPTOR, Ring};
use super::{Descriptor, RingFeatures, RingLayout};
use crate::{Error, GuestMemory, notify};

/// A buffer in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Its guest-physical address.
    pub addr: u64,
    /// Its bytes.
    pub len: u32,
}

/// A chain that the device has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// What [`DriverQueue::add`] called the chain.
    pub head: u16,
    /// Bytes that the device says it has written.
    pub written: u32,
}

/// The driver's side of a split ring.
#[derive(Debug)]
pub struct DriverQueue {
    ring: Ring,
    features: RingFeatures,
    /// Free descriptors, the next one to use last.
    free: Vec<u16>,
    /// For each head that the device has, its chain's descriptors; kept here because the table could be overwritten.
    chains: Vec<Vec<u16>>,
    outstanding: u16,
    /// The next available entry to fill; ahead of the published index by what is staged.
    next_avail: u16,
    /// The available index as last published.
    avail_idx: u16,
    /// The next used entry to take.
    next_used: u16,
}

impl DriverQueue {
    /// Sets up a new ring at `layout`: both indices start at 0, the flags are cleared.
    pub fn new(
        memory: &Arc<GuestMemory>,
        layout: RingLayout,
        features: RingFeatures,
    ) -> Result<DriverQueue, Error> {
        let ring = Ring::new(memory, &layout)?;
        ring.avail_idx().store(0, Ordering::Relaxed);
        ring.used_idx().store(0, Ordering::Relaxed);
        for event_idx in [false, true] {
            // Flags 0 and event 0: both sides want to hear of the first move.
            notify::ask(0, &ring.driver_suppression(event_idx));
            notify::ask(0, &ring.device_suppression(event_idx));
        }
        Ok(DriverQueue {
            free: (0..layout.size).rev().collect(),
            chains: vec![Vec::new(); usize::from(layout.size)],
            ring,
            features,
            outstanding: 0,
            next_avail: 0,
            avail_idx: 0,
            next_used: 0,
        })
    }

    /// The memory map in use.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        self.ring.memory()
    }

    /// Descriptors that are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Chains that the device has, staged ones included.
    pub fn outstanding(&self) -> u16 {
        self.outstanding
    }

    /// Stages a chain of direct descriptors for [`DriverQueue::publish`]; gives its head.
    pub fn add(&mut self, readable: &[Buffer], writable: &[Buffer]) -> Result<u16, Error> {
        self.stage(&descriptors(readable, writable))
    }

    /// Stages a chain whose descriptors are in an indirect table, which is written at guest address `table`.
    pub fn add_indirect(
        &mut self,
        table: u64,
        readable: &[Buffer],
        writable: &[Buffer],
    ) -> Result<u16, Error> {
        let mut list = descriptors(readable, writable);
        let needed = list.len();
        let no_room = Error::NoRoom { needed };
        let count = u16::try_from(needed).map_err(|_| no_room)?;
        for (next, d) in (1..count).zip(&mut list) {
            d.next = next;
            d.flags |= Descriptor::NEXT;
        }
        let bytes: Vec<u8> = list.iter().flat_map(|d| d.to_bytes()).collect();
        self.ring.memory().write(table, &bytes)?;
        self.stage(&[Descriptor {
            addr: table,
            len: u32::try_from(needed * DESCRIPTOR).map_err(|_| no_room)?,
            flags: Descriptor::INDIRECT,
            next: 0,
        }])
    }

    /// Puts a list of descriptors into free places of the table, linked, and its head into the available ring.
    fn stage(&mut self, list: &[Descriptor]) -> Result<u16, Error> {
        let no_room = Error::NoRoom { needed: list.len() };
        if list.len() > self.free.len() {
            return Err(no_room);
        }
        let places = self.free.split_off(self.free.len() - list.len());
        let head = *places.last().ok_or(no_room)?;
        let mut next = 0;
        let mut link = 0;
        // Places are used from the back; descriptors are written from the chain's end, so that each knows its successor.
        for (d, &place) in list.iter().rev().zip(&places) {
            self.ring.set_descriptor(
                place,
                Descriptor {
                    flags: d.flags | link,
                    next,
                    ..*d
                },
            );
            next = place;
            link = Descriptor::NEXT;
        }
        if let Some(chain) = self.chains.get_mut(usize::from(head)) {
            *chain = places;
        }
        self.ring
            .avail_entry(self.next_avail)
            .store(head, Ordering::Relaxed);
        self.next_avail = self.next_avail.wrapping_add(1);
        self.outstanding += 1;
        Ok(head)
    }

    /// Makes the staged chains visible to the device; whether it wants a kick for them.
    #[must_use = "the device may be waiting for a kick"]
    pub fn publish(&mut self) -> bool {
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

    /// Takes back the next chain that the device has returned, if any.
    pub fn reap(&mut self) -> Result<Option<Used>, Error> {
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
        let chain = self.chains.get_mut(usize::from(head)).ok_or(unknown)?;
        if chain.is_empty() {
            return Err(unknown);
        }
        self.free.append(chain);
        self.outstanding -= 1;
        self.next_used = self.next_used.wrapping_add(1);
        Ok(Some(Used { head, written }))
    }

    /// Asks the device not to interrupt. A hint: interrupts may still come.
    pub fn disable_interrupts(&self) {
        notify::disarm(&self.ring.driver_suppression(self.features.event_idx));
    }

    /// Asks the device to interrupt when it returns the next chain; to be called before going to sleep. True if it has
    /// returned one already, so that the caller must not sleep.
    #[must_use = "what came in between causes no interrupt"]
    pub fn enable_interrupts(&self) -> bool {
        notify::arm(
            self.ring.used_idx(),
            self.next_used,
            &self.ring.driver_suppression(self.features.event_idx),
        )
    }
}

/// The descriptors of a chain, not linked yet.
fn descriptors(readable: &[Buffer], writable: &[Buffer]) -> Vec<Descriptor> {
    let side = |buffers: &[Buffer], flags| {
        let descriptor = move |b: &Buffer| Descriptor {
            addr: b.addr,
            len: b.len,
            flags,
            next: 0,
        };
        buffers.iter().map(descriptor).collect::<Vec<_>>()
    };
    let mut list = side(readable, 0);
    list.extend(side(writable, Descriptor::WRITE));
    list
}
