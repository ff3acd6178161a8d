//! The device's side of a ring, whatever its format.

use std::sync::Arc;

use crate::heads::Heads;
use crate::memory::Window;
use crate::packed::PackedDevice;
use crate::split::SplitDevice;
use crate::{Chain, Error, GuestMemory, RingFeatures, RingLayout};

/// The device's side of a ring, split or packed. See the crate documentation for the life of a chain.
#[derive(Debug)]
pub struct Queue {
    format: Format,
    layout: RingLayout,
    held: Held,
    /// Whether the driver was ever told of returned chains. Until then it is told in any case: an interrupt of the
    /// predecessor on this ring may have been lost.
    signalled: bool,
    broken: bool,
}

#[derive(Debug)]
enum Format {
    Split(SplitDevice),
    Packed(PackedDevice),
}

/// What taking chains needs to know beyond the ring.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) features: RingFeatures,
    /// Chains that the device owns.
    pub(crate) in_flight: Heads,
    /// The region that held the last buffer: it mostly holds the next one as well.
    pub(crate) window: Window,
}

impl Queue {
    /// Sets up the device's side of the ring at `layout`, to go on at `base` (VU-015): for a split ring the available
    /// entry to take first, while the used index goes on from where the ring says it is; for a packed ring both
    /// positions with their wrap counters, [`PACKED_BASE`](crate::PACKED_BASE) for a new one.
    pub fn new(
        memory: &Arc<GuestMemory>,
        layout: RingLayout,
        features: RingFeatures,
        base: u32,
    ) -> Result<Queue, Error> {
        let (format, heads) = match features.packed {
            false => {
                let device = SplitDevice::new(memory, &layout, features, base)?;
                (Format::Split(device), layout.size)
            }
            // A buffer's ID is any number that its driver likes.
            true => {
                let device = PackedDevice::new(memory, &layout, base)?;
                (Format::Packed(device), u16::MAX)
            }
        };
        Ok(Queue {
            format,
            layout,
            held: Held {
                features,
                in_flight: Heads::new(heads),
                window: Window::NONE,
            },
            signalled: false,
            broken: false,
        })
    }

    /// Goes on with another memory map: finds the ring in it by the same addresses. The lists of chains that are in
    /// flight still point into the old map, so it is the caller who waits for them or keeps it.
    ///
    /// If the ring is not in the new map, the queue is broken (and keeps the old one until it is dropped).
    pub fn set_memory(&mut self, memory: &Arc<GuestMemory>) -> Result<(), Error> {
        let moved = match &mut self.format {
            Format::Split(device) => device.set_memory(memory, &self.layout),
            Format::Packed(device) => device.set_memory(memory, &self.layout),
        };
        match moved {
            Ok(()) => self.held.window = Window::NONE,
            Err(_) => self.set_broken(),
        }
        moved
    }

    /// The memory map in use.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        match &self.format {
            Format::Split(device) => device.memory(),
            Format::Packed(device) => device.memory(),
        }
    }

    /// Entries of the ring.
    pub fn size(&self) -> u16 {
        self.layout.size
    }

    /// Where a successor is to start, in the encoding of [`Queue::new`] (VU-013, GET_VRING_BASE). What is in flight or
    /// staged does not count as returned.
    pub fn base(&self) -> u32 {
        match &self.format {
            Format::Split(device) => device.base(),
            Format::Packed(device) => device.base(),
        }
    }

    /// Chains that were popped and not yet pushed; never more than the ring's size.
    pub fn in_flight(&self) -> u16 {
        self.held.in_flight.len()
    }

    /// Whether the driver violated the protocol. A broken queue looks empty.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Declares the queue broken, for violations that only the owner of the protocol above can see.
    #[cold]
    pub fn set_broken(&mut self) {
        self.broken = true;
        if let Format::Split(device) = &mut self.format {
            // What it knows to be available is not looked at any more either.
            device.forget();
        }
    }

    /// Takes the next available chain into `chain`; false if there is none. Of a split ring the available index is read
    /// only when all that it covered has been taken.
    ///
    /// An error is a violation by the driver; it is reported this once.
    #[inline]
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, Error> {
        chain.clear();
        let popped = match &mut self.format {
            Format::Split(device) => device.pop(&mut self.held, self.broken, chain),
            Format::Packed(device) => match self.broken {
                true => Ok(false),
                false => device.pop(&mut self.held, chain),
            },
        };
        if popped.is_err() {
            self.set_broken();
            chain.clear();
        }
        popped
    }

    /// Whether nothing is available at the moment. What looks available may still turn out to break the rules.
    pub fn is_empty(&self) -> bool {
        self.broken
            || match &self.format {
                Format::Split(device) => device.is_empty(),
                Format::Packed(device) => device.is_empty(),
            }
    }

    /// Stages a finished chain for [`Queue::publish`]. This is the one place where a chain completes.
    ///
    /// `written` counts the bytes that were written from the first writable byte on, without a gap (VS-041).
    #[inline]
    pub fn push(&mut self, chain: &Chain, written: u32) {
        let known = self.held.in_flight.remove(chain.head);
        debug_assert!(known, "chain {} was not in flight", chain.head);
        if known {
            match &mut self.format {
                Format::Split(device) => device.push(chain, written),
                Format::Packed(device) => device.push(chain, written),
            }
        }
    }

    /// Makes the staged chains visible to the driver; whether it wants an interrupt for them.
    #[inline]
    #[must_use = "the driver may be waiting for an interrupt"]
    pub fn publish(&mut self) -> bool {
        let event_idx = self.held.features.event_idx;
        let published = match &mut self.format {
            Format::Split(device) => device.publish(event_idx),
            Format::Packed(device) => device.publish(event_idx),
        };
        published.is_some_and(|wanted| wanted | !std::mem::replace(&mut self.signalled, true))
    }

    /// Asks the driver not to kick, while the ring is being looked at anyway. A hint: kicks may still come.
    pub fn disable_notifications(&self) {
        match &self.format {
            Format::Split(device) => device.disarm(self.held.features.event_idx),
            Format::Packed(device) => device.disarm(),
        }
    }

    /// Asks the driver to kick when it makes the next chain available; to be called before going to sleep. True if
    /// there is one already (or the ring needs looking at), so that the caller must not sleep.
    #[must_use = "what came in between causes no kick"]
    pub fn enable_notifications(&self) -> bool {
        let event_idx = self.held.features.event_idx;
        let moved = match &self.format {
            Format::Split(device) => device.arm(event_idx),
            Format::Packed(device) => device.arm(event_idx),
        };
        moved && !self.broken
    }
}
