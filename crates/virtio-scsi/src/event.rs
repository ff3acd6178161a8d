//! The event queue: what the device tells the driver unasked.
//!
//! Buffers stay in the ring until there is an event: the ring is the store, so that stopping it loses nothing.

use crate::ring::Ring;
use crate::slot::Parts;
use crate::wire::{EVENT, Event};

/// The event queue's side of a worker.
pub(crate) struct Events {
    parts: Parts,
}

impl Events {
    pub fn new() -> Events {
        Events {
            parts: Parts::new(),
        }
    }

    /// Sends an event if the driver has left a buffer; whether it had.
    pub fn send(&mut self, ring: &mut Ring, event: Event, missed: bool) -> bool {
        if !ring.is_open() || !ring.pop(self.parts.chain_mut()) {
            return false;
        }
        if let Err(error) = self.parts.split_response(EVENT) {
            ring.abandon(&error);
            return false;
        }
        let response = self.parts.response();
        let written = response.write_at(0, &event.encode(missed));
        ring.complete(self.parts.chain(), written, &mut Vec::new());
        true
    }
}
