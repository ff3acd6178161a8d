//! A virtqueue of a controller, with the role its index gives it (VS-001).

use lunar_target::NexusId;

use crate::coalescing::Coalescing;
use crate::control::Control;
use crate::event::Events;
use crate::request::Requests;
use crate::ring::Ring;

/// The index of the control queue.
pub(crate) const CONTROL_QUEUE: usize = 0;
/// The index of the event queue.
pub(crate) const EVENT_QUEUE: usize = 1;
/// The index of the first request queue.
pub(crate) const FIRST_REQUEST_QUEUE: usize = 2;

/// A queue that has been started.
pub(crate) struct Queue {
    pub nexus: NexusId,
    pub index: usize,
    pub ring: Ring,
    pub role: Role,
}

/// What the messages in a queue are.
pub(crate) enum Role {
    Control(Control),
    Event(Events),
    Request(Requests),
}

impl Role {
    pub fn of(index: usize) -> Role {
        match index {
            CONTROL_QUEUE => Role::Control(Control::default()),
            EVENT_QUEUE => Role::Event(Events::new()),
            _ => Role::Request(Requests::default()),
        }
    }

    /// Whether commands come by it.
    pub fn has_commands(&self) -> bool {
        matches!(self, Role::Request(_))
    }

    /// Has the interrupts of its ring held back, if it is one of those where that is done.
    pub fn coalesce(&self, ring: &mut Ring, coalescing: Coalescing) {
        if self.has_commands() {
            ring.set_coalescing(coalescing);
        }
    }
}
