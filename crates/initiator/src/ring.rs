//! One ring of the controller: the driver's side of the queue, and the descriptors by which both sides wake each other.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use lunar_virtqueue::{AddressSpace, DriverQueue, PACKED_BASE, RingFeatures, RingLayout, Used};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use rustix::io::Errno;

use crate::message::{Channel, Request, RingAddresses, poll_until};
use crate::ram::Ram;
use crate::{Error, Session, feature};

/// How long a ring without call descriptor is left alone between two looks.
const LOOK_INTERVAL: Duration = Duration::from_micros(100);

/// How a ring is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// With a kick descriptor; without one the server has to poll.
    pub kick: bool,
    /// With a call descriptor; without one this side polls.
    pub call: bool,
    /// Enabled as well.
    pub enable: bool,
}

impl Default for Start {
    fn default() -> Self {
        Start {
            kick: true,
            call: true,
            enable: true,
        }
    }
}

/// One ring, as its driver sees it.
#[derive(Debug)]
pub struct Ring {
    index: u16,
    layout: RingLayout,
    queue: DriverQueue,
    features: RingFeatures,
    /// Where the server is to start.
    base: u32,
    kick: Option<OwnedFd>,
    call: Option<OwnedFd>,
    err: Option<OwnedFd>,
    channel: Channel,
    kicks: u64,
    interrupts: u64,
}

impl Ring {
    /// Bytes that a ring of `size` entries needs.
    pub(crate) fn bytes(size: u16) -> u64 {
        let (_, _, end) = Ring::parts(size);
        end
    }

    /// Offsets of the available ring, of the used ring and of the end. A packed ring's event suppression structures,
    /// which take their places, need less.
    fn parts(size: u16) -> (u64, u64, u64) {
        let size = u64::from(size);
        let avail = 16 * size;
        let used = (avail + 6 + 2 * size).next_multiple_of(4);
        (avail, used, used + 6 + 8 * size)
    }

    /// A new ring, which the server does not know yet.
    pub(crate) fn new(
        index: u16,
        size: u16,
        ram: &mut Ram,
        session: &Session,
    ) -> Result<Ring, Error> {
        let at = ram.take(Ring::bytes(size))?;
        let (avail, used, _) = Ring::parts(size);
        let layout = RingLayout {
            size,
            desc: at,
            avail: at + avail,
            used: at + used,
            space: AddressSpace::Guest,
        };
        let features = ring_features(session);
        Ok(Ring {
            index,
            layout,
            queue: DriverQueue::new(ram.memory(), layout, features)?,
            features,
            base: new_base(features),
            kick: None,
            call: None,
            err: None,
            channel: session.channel().clone(),
            kicks: 0,
            interrupts: 0,
        })
    }

    /// Its number: 0 control, 1 event, then requests.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Where it is, in guest addresses.
    pub fn layout(&self) -> RingLayout {
        self.layout
    }

    /// The driver's side of the queue itself.
    pub fn queue(&mut self) -> &mut DriverQueue {
        &mut self.queue
    }

    /// Sets the ring up in the server and starts it, at the index where it was stopped.
    pub(crate) fn start(
        &mut self,
        session: &Session,
        ram: &Ram,
        start: Start,
    ) -> Result<(), Error> {
        let new = |wanted: bool| {
            let fd = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
            wanted
                .then(fd)
                .transpose()
                .map_err(|e| Error::System("eventfd", e))
        };
        self.channel = session.channel().clone();
        (self.kick, self.call, self.err) = (new(start.kick)?, new(start.call)?, new(true)?);
        let addresses = RingAddresses {
            desc: ram.user_addr(self.layout.desc),
            used: ram.user_addr(self.layout.used),
            avail: ram.user_addr(self.layout.avail),
        };
        session.set_ring_size(self.index, self.layout.size)?;
        session.set_ring_base(self.index, self.base)?;
        session.set_ring_addresses(self.index, addresses)?;
        session.set_ring_fd(Request::SetVringErr, self.index, self.err.as_ref())?;
        session.set_ring_fd(Request::SetVringCall, self.index, self.call.as_ref())?;
        session.set_ring_fd(Request::SetVringKick, self.index, self.kick.as_ref())?;
        if start.enable {
            session.enable_ring(self.index, true)?;
        }
        // Some servers take a kick that overtakes the enabling, and forget it.
        session.settle()
    }

    /// Notes where the server stopped: the next start goes on there.
    pub(crate) fn stopped_at(&mut self, base: u32) {
        self.base = base;
    }

    /// Makes the ring anew, from its beginning, as a driver does that has just been loaded.
    pub(crate) fn renew(&mut self, session: &Session) -> Result<(), Error> {
        self.features = ring_features(session);
        self.queue = DriverQueue::new(self.queue.memory(), self.layout, self.features)?;
        self.base = new_base(self.features);
        Ok(())
    }

    /// What a front end does that has lost its server: the ring goes on where the server had returned everything.
    pub(crate) fn resume_at_used(&mut self) {
        self.base = self.queue.base_at_used();
    }

    /// Whether chains may be indirect tables.
    pub(crate) fn has_indirect(&self) -> bool {
        self.features.indirect
    }

    /// Makes what is staged visible, and kicks if the server wants it.
    pub fn send(&mut self) -> Result<(), Error> {
        if self.queue.publish() {
            self.kick()?;
        }
        Ok(())
    }

    /// Kicks whether the server wants it or not.
    pub fn kick(&mut self) -> Result<(), Error> {
        let Some(kick) = &self.kick else {
            return Ok(());
        };
        self.kicks += 1;
        match rustix::io::write(kick, &1u64.to_ne_bytes()) {
            // A full counter wakes as well.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(e) => Err(Error::System("eventfd write", e)),
        }
    }

    /// Takes a returned chain, if there is one.
    pub fn reap(&mut self) -> Result<Option<Used>, Error> {
        Ok(self.queue.reap()?)
    }

    /// Waits for a returned chain; `None` if the deadline came first.
    pub fn wait(&mut self, deadline: Instant) -> Result<Option<Used>, Error> {
        loop {
            if let Some(used) = self.reap()? {
                self.queue.disable_interrupts();
                return Ok(Some(used));
            }
            if self.queue.enable_interrupts() {
                continue;
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(None);
            }
            // Without call descriptor, the socket alone would not wake this thread.
            let until = match self.call {
                Some(_) => deadline,
                None => deadline.min(now + LOOK_INTERVAL),
            };
            if let Err(error) = self.sleep(until) {
                // What the server returned before it failed still counts.
                return self.reap()?.map_or(Err(error), |used| Ok(Some(used)));
            }
        }
    }

    /// Sleeps until an interrupt or `until`. An error on the ring or the end of the connection is an error.
    fn sleep(&mut self, until: Instant) -> Result<(), Error> {
        let watched = [&self.call, &self.err].into_iter().flatten();
        let mut fds = vec![PollFd::from_borrowed_fd(
            self.channel.socket(),
            PollFlags::RDHUP,
        )];
        fds.extend(watched.map(|fd| PollFd::new(fd, PollFlags::IN)));
        poll_until(&mut fds, until)?;
        self.take_interrupts()?;
        self.check()
    }

    fn take_interrupts(&mut self) -> Result<(), Error> {
        if let Some(call) = &self.call {
            self.interrupts += drain(call)?;
        }
        Ok(())
    }

    /// How often this side has kicked, and the server interrupted, since the ring was made.
    pub(crate) fn signals(&mut self) -> Result<(u64, u64), Error> {
        self.take_interrupts()?;
        Ok((self.kicks, self.interrupts))
    }

    /// Whether the ring and the connection are as they should be.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if let Some(err) = &self.err
            && drain(err)? != 0
        {
            return Err(Error::RingError(self.index));
        }
        if self.channel.is_closed() {
            return Err(Error::Disconnected);
        }
        Ok(())
    }
}

/// Sets an eventfd back to 0; gives what it was, which is how often it was signalled.
fn drain(fd: &OwnedFd) -> Result<u64, Error> {
    let mut count = [0u8; 8];
    match rustix::io::read(fd, &mut count) {
        Ok(_) => Ok(u64::from_ne_bytes(count)),
        Err(Errno::AGAIN) => Ok(0),
        Err(e) => Err(Error::System("eventfd read", e)),
    }
}

fn ring_features(session: &Session) -> RingFeatures {
    RingFeatures {
        indirect: session.features() & feature::INDIRECT_DESC != 0,
        event_idx: session.features() & feature::EVENT_IDX != 0,
        packed: session.features() & feature::RING_PACKED != 0,
    }
}

/// Where a server starts in a new ring.
fn new_base(features: RingFeatures) -> u32 {
    match features.packed {
        false => 0,
        true => PACKED_BASE,
    }
}
