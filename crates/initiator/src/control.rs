//! The control queue: task management, and which asynchronous events are wanted (VS-050 to VS-056).

use std::time::{Duration, Instant};

use crate::ram::Ram;
use crate::wire::u32_at;
use crate::{Address, Error, Options, Ring, Tag, TaskFunction};
use lunar_virtqueue::Buffer;

/// Bytes of memory for one request; its response starts in the middle.
const AREA: u64 = 128;
const MAX_PART: usize = 64;

/// The answer to a question about asynchronous events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncAnswer {
    /// The events, as bits.
    pub actual: u32,
    /// One of [`response`](crate::response).
    pub response: u8,
}

/// The control queue.
#[derive(Debug)]
pub struct ControlQueue {
    ring: Ring,
    /// As many areas as the ring has entries, taken in turn: one that was given up by a time-out may still be written.
    areas: u64,
    next: u64,
    timeout: Duration,
}

impl ControlQueue {
    pub(crate) fn bytes(options: &Options) -> u64 {
        AREA * u64::from(options.queue_size)
    }

    pub(crate) fn new(options: &Options, ram: &mut Ram, ring: Ring) -> Result<Self, Error> {
        Ok(ControlQueue {
            ring,
            areas: ram.take(ControlQueue::bytes(options))?,
            next: 0,
            timeout: options.timeout,
        })
    }

    /// The ring.
    pub fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// Asks for a task management function; gives the response code.
    pub fn task_management(
        &mut self,
        function: TaskFunction,
        address: Address,
        tag: Tag,
    ) -> Result<u8, Error> {
        let mut bytes = [0u32.to_le_bytes(), (function as u32).to_le_bytes()].concat();
        bytes.extend(address.0);
        bytes.extend(tag.0.to_le_bytes());
        let answer = self.request(&bytes, 1)?;
        answer.first().copied().ok_or(Error::ShortResponse(0))
    }

    /// Asks which of `events` a logical unit reports.
    pub fn query(&mut self, address: Address, events: u32) -> Result<AsyncAnswer, Error> {
        self.asynchronous(1, address, events)
    }

    /// Asks a logical unit to report `events`, and no others, from now on.
    pub fn subscribe(&mut self, address: Address, events: u32) -> Result<AsyncAnswer, Error> {
        self.asynchronous(2, address, events)
    }

    fn asynchronous(
        &mut self,
        kind: u32,
        address: Address,
        events: u32,
    ) -> Result<AsyncAnswer, Error> {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(address.0);
        bytes.extend(events.to_le_bytes());
        let answer = self.request(&bytes, 5)?;
        Ok(AsyncAnswer {
            actual: u32_at(&answer, 0),
            response: answer.get(4).copied().ok_or(Error::ShortResponse(4))?,
        })
    }

    /// Sends any bytes (at most 64) as a control request and waits for the answer, of at most `answer_len` (and 64)
    /// bytes. What the server did not write reads as FFh.
    pub fn request(&mut self, bytes: &[u8], answer_len: usize) -> Result<Vec<u8>, Error> {
        let needed = bytes.len().max(answer_len);
        if needed > MAX_PART {
            return Err(Error::DataTooLong {
                needed,
                slot: MAX_PART,
            });
        }
        let size = u64::from(self.ring.layout().size);
        let at = self.areas + AREA * (self.next % size);
        self.next += 1;
        let answer_at = at + MAX_PART as u64;
        let buffer = |addr, len| Buffer {
            addr,
            len: u32::try_from(len).unwrap_or(0),
        };
        let memory = self.ring.queue().memory().clone();
        memory.write(at, bytes)?;
        memory.write(answer_at, &[0xFF; MAX_PART])?;
        let readable = [buffer(at, bytes.len())];
        let writable = [buffer(answer_at, answer_len)];
        let writable = if answer_len == 0 { &[][..] } else { &writable };
        let head = self.ring.queue().add(&readable, writable)?;
        self.ring.send()?;
        let deadline = Instant::now() + self.timeout;
        loop {
            match self.ring.wait(deadline)? {
                Some(used) if used.head == head => break,
                // The late answer to a request that was given up.
                Some(_) => {}
                None => return Err(Error::Timeout("answer on the control queue")),
            }
        }
        let mut answer = vec![0; answer_len];
        memory.read(answer_at, &mut answer)?;
        Ok(answer)
    }
}
