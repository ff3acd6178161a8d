//! The event queue: buffers out, events in (VS-060 to VS-066).

use std::time::{Duration, Instant};

use lunar_virtqueue::{Buffer, Used};

use crate::ram::Ram;
use crate::wire::{EVENT, EVENT_LEN};
use crate::{Error, Event, Options, Ring, Session};

/// The event queue.
#[derive(Debug)]
pub struct EventQueue {
    ring: Ring,
    /// One buffer for each entry of the ring.
    buffers: u64,
    /// For each head on the ring, its buffer.
    owners: Vec<Option<u16>>,
    free: Vec<u16>,
}

impl EventQueue {
    pub(crate) fn bytes(options: &Options) -> u64 {
        u64::from(options.queue_size) * u64::from(EVENT_LEN)
    }

    pub(crate) fn new(options: &Options, ram: &mut Ram, ring: Ring) -> Result<Self, Error> {
        let mut queue = EventQueue {
            ring,
            buffers: ram.take(EventQueue::bytes(options))?,
            owners: Vec::new(),
            free: Vec::new(),
        };
        queue.forget();
        Ok(queue)
    }

    fn forget(&mut self) {
        let size = self.ring.layout().size;
        self.owners = vec![None; usize::from(size)];
        self.free = (0..size).rev().collect();
    }

    pub(crate) fn renew(&mut self, session: &Session) -> Result<(), Error> {
        self.ring.renew(session)?;
        self.forget();
        Ok(())
    }

    /// The ring.
    pub fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// Buffers that the server has.
    pub fn posted(&self) -> usize {
        self.owners.len() - self.free.len()
    }

    /// Gives the server `count` buffers more.
    pub fn post(&mut self, count: u16) -> Result<(), Error> {
        for _ in 0..count {
            let buffer = self.free.pop().ok_or(Error::Full)?;
            let event = Buffer {
                addr: self.address(buffer),
                len: EVENT_LEN,
            };
            let head = self.ring.queue().add(&[], &[event])?;
            if let Some(owner) = self.owners.get_mut(usize::from(head)) {
                *owner = Some(buffer);
            }
        }
        self.ring.send()
    }

    fn address(&self, buffer: u16) -> u64 {
        self.buffers + u64::from(buffer) * u64::from(EVENT_LEN)
    }

    /// Waits for an event; its buffer is not given back to the server. `None` if none came in time.
    pub fn take(&mut self, timeout: Duration) -> Result<Option<Event>, Error> {
        let used = self.ring.wait(Instant::now() + timeout)?;
        used.map(|used| self.finish(used)).transpose()
    }

    /// Waits for an event and gives its buffer back to the server, as a driver does.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Event>, Error> {
        let event = self.take(timeout)?;
        if event.is_some() {
            self.post(1)?;
        }
        Ok(event)
    }

    fn finish(&mut self, used: Used) -> Result<Event, Error> {
        let owner = self.owners.get_mut(usize::from(used.head));
        let unknown = lunar_virtqueue::Error::UsedUnknown {
            id: used.head.into(),
        };
        let buffer = owner.and_then(Option::take).ok_or(unknown)?;
        self.free.push(buffer);
        if used.written < EVENT_LEN {
            return Err(Error::ShortResponse(used.written));
        }
        let mut bytes = [0; EVENT];
        let at = self.address(buffer);
        self.ring.queue().memory().read(at, &mut bytes)?;
        Ok(Event::parse(&bytes))
    }
}
