//! A whole controller, from the driver's side.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lunar_virtqueue::GuestMemory;

use crate::message::Channel;
use crate::ram::Ram;
use crate::{
    Command, ControlQueue, Error, EventQueue, Framing, RequestQueue, Response, Ring, Session,
    Start, feature, protocol,
};

/// The control queue's number.
const CONTROL: u16 = 0;
/// The event queue's number.
const EVENT: u16 = 1;
/// The first request queue's number.
const REQUESTS: u16 = 2;

/// What kind of guest to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Request queues. The server may have more.
    pub queues: u16,
    /// Entries of every ring.
    pub queue_size: u16,
    /// Commands that can be in flight on one request queue.
    pub depth: u16,
    /// Bytes that a command can move in one direction.
    pub max_data: u32,
    /// Regions that the memory for data is made of; with more than one, buffers cross from one to the next.
    pub regions: u16,
    /// Virtio features to accept, where offered.
    pub features: u64,
    /// Protocol features to accept, where offered; 0 does not even ask.
    pub protocol_features: u64,
    /// How chains are laid out.
    pub framing: Framing,
    /// How the rings are started.
    pub start: Start,
    /// Event buffers to post at once, if hot-plug or change events were agreed on.
    pub event_buffers: u16,
    /// How long to wait for any answer.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            queues: 1,
            queue_size: 128,
            depth: 32,
            max_data: 1 << 20,
            regions: 1,
            features: feature::HOTPLUG
                | feature::CHANGE
                | feature::INDIRECT_DESC
                | feature::EVENT_IDX,
            protocol_features: protocol::MQ
                | protocol::REPLY_ACK
                | protocol::CONFIG
                | protocol::RESET_DEVICE
                | protocol::CONFIGURE_MEM_SLOTS
                | protocol::STATUS,
            framing: Framing::default(),
            start: Start::default(),
            event_buffers: 8,
            timeout: Duration::from_secs(10),
        }
    }
}

/// A stream to the socket at `path`.
pub(crate) fn connect(path: &Path) -> Result<UnixStream, Error> {
    UnixStream::connect(path).map_err(|source| Error::Connect {
        path: path.display().to_string(),
        source,
    })
}

/// A controller behind a vhost-user socket, with its rings running.
#[derive(Debug)]
pub struct Initiator {
    session: Session,
    ram: Ram,
    options: Options,
    queues: Queues,
}

#[derive(Debug)]
struct Queues {
    control: ControlQueue,
    events: EventQueue,
    requests: Vec<RequestQueue>,
}

impl Queues {
    fn ring(&mut self, index: u16) -> Result<&mut Ring, Error> {
        match index {
            CONTROL => Ok(self.control.ring()),
            EVENT => Ok(self.events.ring()),
            _ => {
                let index = usize::from(index - REQUESTS);
                let queue = self.requests.get_mut(index);
                Ok(queue.ok_or(Error::NoQueue(index))?.ring())
            }
        }
    }
}

impl Initiator {
    /// Connects to the socket at `path` and starts all rings.
    pub fn connect(path: impl AsRef<Path>, options: Options) -> Result<Initiator, Error> {
        Initiator::attach(connect(path.as_ref())?, options)
    }

    /// Starts all rings over a connected socket.
    pub fn attach(stream: UnixStream, options: Options) -> Result<Initiator, Error> {
        let channel = Channel::new(stream, options.timeout);
        let session = Session::negotiate(channel, &options)?;
        Initiator::start(session, options)
    }

    /// Starts all rings of a session.
    pub(crate) fn start(session: Session, options: Options) -> Result<Initiator, Error> {
        let mut initiator = Initiator::build(session, options)?;
        initiator.ram.announce(&initiator.session)?;
        for index in 0..initiator.ring_count() {
            initiator.start_ring(index, initiator.options.start)?;
        }
        initiator.post_events()?;
        Ok(initiator)
    }

    /// Memory and rings, of which the server knows nothing yet.
    fn build(session: Session, options: Options) -> Result<Initiator, Error> {
        let page = |bytes: u64| bytes.next_multiple_of(4096);
        let rings = page(Ring::bytes(options.queue_size)) * u64::from(REQUESTS + options.queues);
        let fixed = page(ControlQueue::bytes(&options)) + page(EventQueue::bytes(&options));
        let slots = page(RequestQueue::bytes(&options)) * u64::from(options.queues);
        let mut ram = Ram::new(rings, fixed + slots, options.regions)?;
        // Rings first: they must not straddle the regions that follow.
        let rings: Vec<Ring> = (0..REQUESTS + options.queues)
            .map(|index| Ring::new(index, options.queue_size, &mut ram, &session))
            .collect::<Result<_, Error>>()?;
        let mut rings = rings.into_iter();
        let mut ring = || rings.next().ok_or(Error::NoQueue(0));
        let control = ControlQueue::new(&options, &mut ram, ring()?)?;
        let events = EventQueue::new(&options, &mut ram, ring()?)?;
        let requests = (0..options.queues)
            .map(|index| RequestQueue::new(index, &options, &mut ram, ring()?))
            .collect::<Result<_, Error>>()?;
        Ok(Initiator {
            session,
            ram,
            options,
            queues: Queues {
                control,
                events,
                requests,
            },
        })
    }

    fn post_events(&mut self) -> Result<(), Error> {
        let wanted = feature::HOTPLUG | feature::CHANGE;
        if self.session.features() & wanted != 0 {
            self.queues.events.post(self.options.event_buffers)?;
        }
        Ok(())
    }

    /// The connection, for any message.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The guest's memory, by guest address.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        self.ram.memory()
    }

    /// The control queue.
    pub fn control(&mut self) -> &mut ControlQueue {
        &mut self.queues.control
    }

    /// The event queue.
    pub fn events(&mut self) -> &mut EventQueue {
        &mut self.queues.events
    }

    /// The request queues; each can be lent to a thread of its own.
    pub fn queues(&mut self) -> &mut [RequestQueue] {
        &mut self.queues.requests
    }

    /// One request queue.
    pub fn queue(&mut self, index: usize) -> Result<&mut RequestQueue, Error> {
        self.queues
            .requests
            .get_mut(index)
            .ok_or(Error::NoQueue(index))
    }

    /// Issues one command on the first request queue and waits for it.
    pub fn command(&mut self, command: &Command<'_>) -> Result<Response, Error> {
        self.queue(0)?.execute(command)
    }

    /// Like [`Initiator::command`], but takes unit attentions off the logical unit, as an operating system does when it
    /// finds one.
    pub fn command_after_attentions(&mut self, command: &Command<'_>) -> Result<Response, Error> {
        const UNIT_ATTENTION: u8 = 6;
        /// More than any logical unit queues up for good reasons.
        const ATTENTIONS: usize = 32;
        for _ in 0..ATTENTIONS {
            let response = self.command(command)?;
            let key = response.sense_key().map(|(key, _, _)| key);
            if response.status != 2 || key != Some(UNIT_ATTENTION) {
                return Ok(response);
            }
        }
        self.command(command)
    }

    /// Rings of the controller that this side uses.
    pub fn ring_count(&self) -> u16 {
        REQUESTS + self.options.queues
    }

    /// Starts a ring where it was stopped, or at index 0 if it is new.
    pub fn start_ring(&mut self, index: u16, start: Start) -> Result<(), Error> {
        let ring = self.queues.ring(index)?;
        ring.start(&self.session, &self.ram, start)
    }

    /// Stops a ring; the server first finishes what is in flight on it. Gives where it stopped, in the encoding of the
    /// ring's format (VU-015).
    pub fn stop_ring(&mut self, index: u16) -> Result<u32, Error> {
        let base = self.session.get_ring_base(index)?;
        self.queues.ring(index)?.stopped_at(base);
        Ok(base)
    }

    /// Stops all rings.
    pub fn stop(&mut self) -> Result<(), Error> {
        for index in 0..self.ring_count() {
            self.stop_ring(index)?;
        }
        Ok(())
    }

    /// Makes all (stopped) rings anew and starts them at index 0, as a driver does after a reboot.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.queues.control.ring().renew(&self.session)?;
        self.queues.events.renew(&self.session)?;
        for queue in &mut self.queues.requests {
            queue.renew(&self.session)?;
        }
        for index in 0..self.ring_count() {
            self.start_ring(index, self.options.start)?;
        }
        self.post_events()
    }

    /// Goes on over a new connection with memory and rings as they are, as a front end does when its server comes back.
    /// Requests that the server had not returned are staged nowhere: the server finds them in the rings again.
    pub fn reattach(&mut self, stream: UnixStream) -> Result<(), Error> {
        let channel = Channel::new(stream, self.options.timeout);
        self.session = Session::negotiate(channel, &self.options)?;
        self.ram.announce(&self.session)?;
        for index in 0..self.ring_count() {
            self.queues.ring(index)?.resume_at_used();
            self.start_ring(index, self.options.start)?;
        }
        Ok(())
    }

    /// Plugs `size` bytes more of memory into the guest, with rings running; gives their guest address.
    pub fn plug_memory(&mut self, size: u64) -> Result<u64, Error> {
        self.ram.plug(&self.session, size)
    }

    /// Takes the region at `gpa` away from the server.
    pub fn unplug_memory(&mut self, gpa: u64) -> Result<(), Error> {
        self.ram.unplug(&self.session, gpa)
    }

    /// Sends the whole memory table anew, with rings running.
    pub fn resend_memory_table(&mut self) -> Result<(), Error> {
        self.ram.announce_table(&self.session)
    }
}
