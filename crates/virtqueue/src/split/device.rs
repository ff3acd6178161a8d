//! The device's side of a split ring.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::ring::{DESCRIPTOR, Ring};
use super::{Descriptor, RingFeatures, RingLayout};
use crate::heads::Heads;
use crate::memory::Window;
use crate::{Chain, Error, GuestMemory, notify};

/// Descriptors of the longest indirect table that is accepted. Drivers exceed both the ring's size and the announced
/// `seg_max` (Windows does), so neither is the limit; this one is what 1024 data segments, as many as one system call
/// takes, and generously split headers need.
pub const MAX_INDIRECT: u16 = 1024 + 32;

/// The device's side of a split ring. See the crate documentation for the life of a chain.
#[derive(Debug)]
pub struct Queue {
    ring: Ring,
    layout: RingLayout,
    features: RingFeatures,
    /// The next available entry to take.
    next_avail: u16,
    /// The available index as last read: entries before it may be taken without looking again.
    avail_idx: u16,
    /// The next used entry to fill; ahead of the published index by what is staged.
    next_used: u16,
    /// The used index as last published.
    used_idx: u16,
    /// Whether the driver was ever told of a used index. Until then it is told in any case: an interrupt of the
    /// predecessor on this ring may have been lost.
    signalled: bool,
    /// Heads that the device owns.
    in_flight: Heads,
    /// The region that held the last buffer: it mostly holds the next one as well.
    window: Window,
    broken: bool,
}

impl Queue {
    /// Sets up the device's side of the ring at `layout`, to take the available entry `next_avail` first. The used index
    /// goes on from where the ring says it is.
    pub fn new(
        memory: &Arc<GuestMemory>,
        layout: RingLayout,
        features: RingFeatures,
        next_avail: u16,
    ) -> Result<Queue, Error> {
        let ring = Ring::new(memory, &layout)?;
        let used_idx = ring.used_idx().load(Ordering::Relaxed);
        let queue = Queue {
            in_flight: Heads::new(layout.size),
            ring,
            layout,
            features,
            next_avail,
            avail_idx: next_avail,
            next_used: used_idx,
            used_idx,
            signalled: false,
            window: Window::NONE,
            broken: false,
        };
        if features.event_idx {
            // The flags of a predecessor without EVENT_IDX must not stay (VS-073: used.flags = 0).
            notify::ask(0, &queue.ring.device_suppression(false));
        }
        Ok(queue)
    }

    /// Goes on with another memory map: finds the ring in it by the same addresses. The lists of chains that are in
    /// flight still point into the old map, so it is the caller who waits for them or keeps it.
    ///
    /// If the ring is not in the new map, the queue is broken (and keeps the old one until it is dropped).
    pub fn set_memory(&mut self, memory: &Arc<GuestMemory>) -> Result<(), Error> {
        match Ring::new(memory, &self.layout) {
            Ok(ring) => {
                self.ring = ring;
                self.window = Window::NONE;
                Ok(())
            }
            Err(error) => {
                self.broken = true;
                Err(error)
            }
        }
    }

    /// The memory map in use.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        self.ring.memory()
    }

    /// Entries of the ring.
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// The available entry that would be taken next: where a successor is to start (VU-013, GET_VRING_BASE).
    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// Chains that were popped and not yet pushed; never more than the ring's size.
    pub fn in_flight(&self) -> u16 {
        self.in_flight.len()
    }

    /// Whether the driver violated the protocol. A broken queue looks empty.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Declares the queue broken, for violations that only the owner of the protocol above can see.
    pub fn set_broken(&mut self) {
        self.broken = true;
    }

    /// Takes the next available chain into `chain`; false if there is none. The available index is read only when all
    /// that it covered has been taken.
    ///
    /// An error is a violation by the driver; it is reported this once.
    #[inline]
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, Error> {
        chain.clear();
        let popped = self.try_pop(chain);
        if popped.is_err() {
            self.broken = true;
            chain.clear();
        }
        popped
    }

    #[inline]
    fn try_pop(&mut self, chain: &mut Chain) -> Result<bool, Error> {
        if self.broken || (self.next_avail == self.avail_idx && !self.look()?) {
            return Ok(false);
        }
        let head = self
            .ring
            .avail_entry(self.next_avail)
            .load(Ordering::Relaxed);
        self.walk(head, chain)?;
        if !self.in_flight.insert(head) {
            return Err(Error::HeadInFlight { head });
        }
        chain.head = head;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(true)
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
    fn walk(&mut self, head: u16, chain: &mut Chain) -> Result<(), Error> {
        let mut walk = Walk {
            head,
            table: self.ring.size(),
            writing: false,
        };
        let mut index = walk.check(head)?;
        for _ in 0..walk.table {
            let d = self.ring.descriptor(index);
            if d.flags & Descriptor::INDIRECT != 0 {
                // The WRITE flag means nothing here.
                if !self.features.indirect || d.flags & Descriptor::NEXT != 0 {
                    return Err(Error::IndirectMisplaced { head });
                }
                return self.walk_table(walk, d, chain);
            }
            self.append(&mut walk, d, chain)?;
            if d.flags & Descriptor::NEXT == 0 {
                return Ok(());
            }
            index = walk.check(d.next)?;
        }
        Err(Error::ChainLoops { head })
    }

    /// Follows the rest of a chain through the indirect table that `table` points to.
    fn walk_table(
        &mut self,
        mut walk: Walk,
        table: Descriptor,
        chain: &mut Chain,
    ) -> Result<(), Error> {
        let head = walk.head;
        let bad_length = Error::IndirectLength { len: table.len };
        let len = table.len as usize;
        walk.table = u16::try_from(len / DESCRIPTOR).map_err(|_| bad_length)?;
        if walk.table == 0 || walk.table > MAX_INDIRECT || !len.is_multiple_of(DESCRIPTOR) {
            return Err(bad_length);
        }
        let contiguous = self.translate(table.addr, table.len);
        let mut index = 0;
        for _ in 0..walk.table {
            let offset = usize::from(index) * DESCRIPTOR;
            let d = if let Some(host) = contiguous {
                // SAFETY: `index` is below `walk.table`, and the whole table is mapped by the map that `ring` keeps.
                unsafe { Descriptor::load(host.wrapping_add(offset)) }
            } else {
                let unmapped = Error::BufferUnmapped {
                    addr: table.addr,
                    len: table.len,
                };
                let addr = table.addr.checked_add(offset as u64).ok_or(unmapped)?;
                let mut bytes = [0; DESCRIPTOR];
                self.ring.memory().read(addr, &mut bytes)?;
                Descriptor::from_bytes(bytes)
            };
            if d.flags & Descriptor::INDIRECT != 0 {
                return Err(Error::IndirectMisplaced { head });
            }
            self.append(&mut walk, d, chain)?;
            if d.flags & Descriptor::NEXT == 0 {
                return Ok(());
            }
            index = walk.check(d.next)?;
        }
        Err(Error::ChainLoops { head })
    }

    /// Adds a descriptor's buffer to its side of the chain.
    #[inline]
    fn append(&mut self, walk: &mut Walk, d: Descriptor, chain: &mut Chain) -> Result<(), Error> {
        let head = walk.head;
        let writable = d.flags & Descriptor::WRITE != 0;
        if walk.writing && !writable {
            return Err(Error::ReadableAfterWritable { head });
        }
        walk.writing = writable;
        let len = d.len as usize;
        if chain.readable.len() + chain.writable.len() + len > 1 << 32 {
            return Err(Error::ChainTooLong { head });
        }
        let side = if writable {
            &mut chain.writable
        } else {
            &mut chain.readable
        };
        if len == 0 {
            return Ok(());
        }
        if let Some(host) = self.translate(d.addr, d.len) {
            side.append(host, len);
            return Ok(());
        }
        for piece in self.ring.memory().pieces(d.addr, len) {
            let (host, len) = piece?;
            side.append(host, len);
        }
        Ok(())
    }

    /// The host address of a buffer (of at least 1 byte) that lies in one region.
    #[inline]
    fn translate(&mut self, gpa: u64, len: u32) -> Option<*mut u8> {
        if let Some(host) = self.window.translate(gpa, u64::from(len)) {
            return Some(host);
        }
        self.window = self.ring.memory().window(gpa)?;
        self.window.translate(gpa, u64::from(len))
    }

    /// Stages a finished chain for [`Queue::publish`]. This is the one place where a chain completes.
    ///
    /// `written` counts the bytes that were written from the first writable byte on, without a gap (VS-041).
    #[inline]
    pub fn push(&mut self, chain: &Chain, written: u32) {
        let known = self.in_flight.remove(chain.head);
        debug_assert!(known, "chain {} was not in flight", chain.head);
        if known {
            self.ring
                .set_used(self.next_used, u32::from(chain.head), written);
            self.next_used = self.next_used.wrapping_add(1);
        }
    }

    /// Makes the staged chains visible to the driver; whether it wants an interrupt for them.
    #[inline]
    #[must_use = "the driver may be waiting for an interrupt"]
    pub fn publish(&mut self) -> bool {
        if self.next_used == self.used_idx {
            return false;
        }
        let wanted = notify::publish(
            self.ring.used_idx(),
            self.used_idx,
            self.next_used,
            &self.ring.driver_suppression(self.features.event_idx),
        );
        self.used_idx = self.next_used;
        wanted | !std::mem::replace(&mut self.signalled, true)
    }

    /// Asks the driver not to kick, while the ring is being looked at anyway. A hint: kicks may still come.
    pub fn disable_notifications(&self) {
        notify::disarm(&self.ring.device_suppression(self.features.event_idx));
    }

    /// Asks the driver to kick when it makes the next chain available; to be called before going to sleep. True if
    /// there is one already (or the ring needs looking at), so that the caller must not sleep.
    #[must_use = "what came in between causes no kick"]
    pub fn enable_notifications(&self) -> bool {
        let moved = notify::arm(
            self.ring.avail_idx(),
            self.next_avail,
            &self.ring.device_suppression(self.features.event_idx),
        );
        moved && !self.broken
    }
}

/// Where a walk along a chain is.
struct Walk {
    head: u16,
    /// Entries of the table that it is in.
    table: u16,
    /// Whether a writable buffer has been seen.
    writing: bool,
}

impl Walk {
    /// `index`, if it is inside the table.
    #[inline]
    fn check(&self, index: u16) -> Result<u16, Error> {
        if index < self.table {
            Ok(index)
        } else {
            Err(Error::DescriptorIndex {
                index,
                size: self.table,
            })
        }
    }
}
