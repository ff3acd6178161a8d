//! One virtqueue in service: its ring, its event descriptors, and what it waits for.

use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use lunar_reactor::{Handle, Token, Watch};
use lunar_virtqueue::{AddressSpace, Chain, GuestMemory, Queue, RingFeatures, RingLayout};

use crate::Features;
use crate::barrier::{Barrier, Reply};
use crate::coalescing::{Coalescing, Interrupts};
use crate::statistics::Counters;

/// Of a token's bits, those that name the slot; the ring's key is above. There are never 2^32 slots, and never 2^30 rings.
pub(crate) const SLOT_BITS: u32 = 32;

/// A ring as the driver set it up. The addresses are the front end's own (user addresses in vhost-user).
#[derive(Debug)]
pub struct RingSetup {
    /// Entries, at most 32768; a power of two unless the ring is packed.
    pub size: u16,
    /// Address of the descriptor table, or of a packed ring itself.
    pub desc: u64,
    /// Address of the available ring, or of a packed ring's driver event suppression.
    pub avail: u64,
    /// Address of the used ring, or of a packed ring's device event suppression.
    pub used: u64,
    /// Where to go on, in the encoding of the ring's format (VU-015): in a split ring, the available entry to take first.
    pub base: u32,
    /// Signalled by the driver when buffers are available. Without it the ring is polled: while it is enabled, its
    /// worker does not sleep.
    pub kick: Option<OwnedFd>,
    /// Interrupts the driver.
    pub call: Option<OwnedFd>,
    /// Tells the front end that the ring is broken.
    pub err: Option<OwnedFd>,
}

/// A replacement for one of a ring's event descriptors.
#[derive(Debug)]
pub(crate) enum Descriptor {
    Kick(Option<OwnedFd>),
    Call(Option<OwnedFd>),
    Err(Option<OwnedFd>),
}

/// A ring on its way to another worker, with nothing in flight.
pub(crate) struct Carried {
    queue: Queue,
    name: (Arc<str>, usize),
    enabled: bool,
    /// To be kept, and to be watched.
    kick: Option<(OwnedFd, OwnedFd)>,
    call: Option<OwnedFd>,
    err: Option<OwnedFd>,
    abandoned: u16,
}

/// What becomes of a ring when nothing is in flight.
enum End {
    /// The answer is where a successor goes on.
    Stop(Reply<u32>),
    /// It goes on elsewhere, where this second descriptor of the kick is watched.
    Carry(Option<OwnedFd>, Reply<std::io::Result<Carried>>),
}

/// A ring that has been started.
pub(crate) struct Ring {
    queue: Queue,
    /// For the log: the controller and the queue's index.
    name: (Arc<str>, usize),
    key: usize,
    enabled: bool,
    /// Kicks wake the loop, which then looks at every ring. The event counter is never read: each signal wakes the
    /// poll whatever the counter says, and a read could block if the front end had been there before.
    kick: Option<(OwnedFd, Watch)>,
    call: Option<OwnedFd>,
    err: Option<OwnedFd>,
    /// Chains that were taken and will never be handed back: those that broke the ring.
    abandoned: u16,
    /// Chains that were handed back, ever.
    completed: u32,
    interrupts: Interrupts,
    /// Whoever waits for chains that are pushed and not yet published.
    unpublished: Vec<Barrier>,
    /// To be done when nothing is in flight; until then nothing new is taken.
    new_memory: Option<(Arc<GuestMemory>, Barrier)>,
    end: Option<End>,
}

impl Ring {
    /// Sets a ring up; `key` names it in its worker.
    pub fn start(
        reactor: &Handle,
        key: usize,
        name: (Arc<str>, usize),
        setup: RingSetup,
        memory: &Arc<GuestMemory>,
        features: Features,
    ) -> Result<Ring, crate::Error> {
        let index = name.1;
        let layout = RingLayout {
            size: setup.size,
            desc: setup.desc,
            avail: setup.avail,
            used: setup.used,
            space: AddressSpace::User,
        };
        let features = RingFeatures {
            indirect: features.contains(Features::RING_INDIRECT_DESC),
            event_idx: features.contains(Features::RING_EVENT_IDX),
            packed: features.contains(Features::RING_PACKED),
        };
        let queue = Queue::new(memory, layout, features, setup.base)
            .map_err(|source| crate::Error::Ring { index, source })?;
        let mut ring = Ring {
            queue,
            name,
            key,
            enabled: false,
            kick: None,
            call: None,
            err: None,
            abandoned: 0,
            completed: 0,
            interrupts: Interrupts::default(),
            unpublished: Vec::new(),
            new_memory: None,
            end: None,
        };
        for descriptor in [
            Descriptor::Kick(setup.kick),
            Descriptor::Call(setup.call),
            Descriptor::Err(setup.err),
        ] {
            ring.set_descriptor(reactor, descriptor)
                .map_err(|source| crate::Error::Descriptor { index, source })?;
        }
        Ok(ring)
    }

    pub fn set_descriptor(&mut self, reactor: &Handle, new: Descriptor) -> std::io::Result<()> {
        match new {
            Descriptor::Kick(fd) => {
                let watch = |fd: OwnedFd| {
                    let watch = reactor.watch(&fd, self.token(0))?;
                    Ok::<_, std::io::Error>((fd, watch))
                };
                self.kick = fd.map(watch).transpose()?;
            }
            Descriptor::Call(fd) => {
                self.call = fd.map(nonblocking).transpose()?;
                // A front end may start a ring and only then set the descriptor that leads to its guest (QEMU does);
                // what completed in between went to the old one, where nobody looks. A spurious interrupt is harmless.
                self.interrupt();
            }
            Descriptor::Err(fd) => self.err = fd.map(nonblocking).transpose()?,
        }
        Ok(())
    }

    pub fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    /// Names it in its worker.
    pub fn key(&self) -> usize {
        self.key
    }

    /// Names an operation of one of its slots in the reactor.
    #[inline]
    pub fn token(&self, slot: usize) -> Token {
        Token((self.key as u64) << SLOT_BITS | slot as u64)
    }

    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Whether the ring is to be looked into for new chains.
    pub fn is_open(&self) -> bool {
        self.is_live() && !self.is_draining()
    }

    /// Whether it waits for what is in flight to end.
    pub fn is_draining(&self) -> bool {
        self.end.is_some() || self.new_memory.is_some()
    }

    /// Whether chains can be taken at all. A ring that drains can still give up what was made available before a task
    /// management function that concerns it.
    pub fn is_live(&self) -> bool {
        self.enabled && !self.queue.is_broken()
    }

    /// Takes the next available chain; `false` if there is none. A violation by the driver breaks the ring.
    #[inline]
    pub fn pop(&mut self, chain: &mut Chain) -> bool {
        match self.queue.pop(chain) {
            Ok(popped) => popped,
            Err(error) => {
                self.fail(&error);
                false
            }
        }
    }

    /// A chain that was popped cannot be served, nor answered: it breaks the ring.
    #[cold]
    pub fn abandon(&mut self, reason: &dyn Display) {
        self.abandoned += 1;
        // A chain taken for a task management function may find the ring broken by one before it.
        if !self.queue.is_broken() {
            self.fail(reason);
        }
    }

    /// The ring is broken (VS-039): nothing more is taken from it; what is in flight may still complete.
    #[cold]
    fn fail(&mut self, reason: &dyn Display) {
        self.queue.set_broken();
        let (controller, queue) = &self.name;
        tracing::error!(
            "controller {controller}, queue {queue}: {reason}; the ring is broken until it is started again"
        );
        if let Some(err) = &self.err {
            signal(err);
        }
    }

    /// Hands a chain back: the one place where a request completes. `waiting` learns of it once the driver can see it.
    #[inline]
    pub fn complete(&mut self, chain: &Chain, written: usize, waiting: &mut Vec<Barrier>) {
        // An under-estimate is legal (VS-041); chains hold 2^32 bytes at most.
        self.queue
            .push(chain, u32::try_from(written).unwrap_or(u32::MAX));
        self.completed = self.completed.wrapping_add(1);
        if !waiting.is_empty() {
            self.unpublished.append(waiting);
        }
    }

    /// Lets `barrier` wait until everything pushed so far is published.
    pub fn await_publish(&mut self, barrier: Barrier) {
        self.unpublished.push(barrier);
    }

    /// Makes what has completed visible, with at most one interrupt, and does what had to wait for it. Returns whether
    /// the ring has come to its [end](Ring::end).
    #[inline]
    pub fn flush(&mut self, reactor: &Handle, counters: &Counters) -> bool {
        let wanted = self.queue.publish();
        let due = match self.interrupts.are_sent_at_once() {
            true => wanted,
            false => self.is_due(wanted, reactor),
        };
        if due {
            // Whoever has been interrupted finds it counted.
            counters.interrupts.add(1);
            self.interrupt();
        } else if wanted {
            counters.held.add(1);
        }
        if !self.unpublished.is_empty() {
            self.unpublished.clear();
        }
        if self.end.is_none() && self.new_memory.is_none() {
            return false;
        }
        self.settle()
    }

    /// Whether an interrupt that may be held back is to be sent now.
    fn is_due(&mut self, wanted: bool, reactor: &Handle) -> bool {
        let open = self.is_open();
        let (queue, abandoned) = (&self.queue, self.abandoned);
        let more = || queue.in_flight() > abandoned || open && !queue.is_empty();
        let now = || reactor.now();
        self.interrupts.is_due(wanted, self.completed, more, now)
    }

    /// Interrupts the driver.
    #[inline]
    fn interrupt(&mut self) {
        self.interrupts.sent();
        self.call.iter().for_each(signal);
    }

    /// How far interrupts are held back from now on.
    pub fn set_coalescing(&mut self, coalescing: Coalescing) {
        if self.interrupts.set(coalescing, self.completed) {
            self.interrupt();
        }
    }

    /// When an interrupt is due that is held back.
    pub fn interrupt_until(&self) -> Option<u64> {
        self.interrupts.until()
    }

    #[cold]
    fn settle(&mut self) -> bool {
        if self.queue.in_flight() > self.abandoned {
            return false;
        }
        if let Some((memory, _done)) = self.new_memory.take() {
            let was_broken = self.queue.is_broken();
            if let Err(error) = self.queue.set_memory(&memory)
                && !was_broken
            {
                self.fail(&error);
            }
        }
        self.end.is_some()
    }

    /// Whether it has come to its end.
    pub fn is_over(&self) -> bool {
        self.end.is_some() && self.new_memory.is_none() && self.queue.in_flight() <= self.abandoned
    }

    /// Tells whoever waits for it.
    pub fn end(self) {
        // Control threads give up waiting only by ending.
        match self.end {
            None => {}
            Some(End::Stop(reply)) => {
                let _: Result<(), _> = reply.send(self.queue.base());
            }
            Some(End::Carry(second, reply)) => {
                let kick = self.kick.map(|(kick, _watch)| kick);
                let _: Result<(), _> = reply.send(Ok(Carried {
                    queue: self.queue,
                    name: self.name,
                    enabled: self.enabled,
                    kick: kick.zip(second),
                    call: self.call,
                    err: self.err,
                    abandoned: self.abandoned,
                }));
            }
        }
    }

    /// Goes on here with a ring of another worker: it is looked into without waiting for a kick, so none is lost that
    /// came on the way.
    pub fn resume(reactor: &Handle, key: usize, carried: Carried) -> Ring {
        let mut ring = Ring {
            queue: carried.queue,
            name: carried.name,
            key,
            enabled: carried.enabled,
            kick: None,
            call: carried.call,
            err: carried.err,
            abandoned: carried.abandoned,
            completed: 0,
            interrupts: Interrupts::default(),
            unpublished: Vec::new(),
            new_memory: None,
            end: None,
        };
        let token = ring.token(0);
        ring.kick = carried
            .kick
            .map(|(kick, second)| (kick, reactor.watch_owned(second, token)));
        ring
    }

    /// The memory map.
    pub fn memory(&self) -> &GuestMemory {
        self.queue.memory()
    }

    /// Swaps the memory map as soon as nothing is in flight.
    pub fn set_memory(&mut self, memory: Arc<GuestMemory>, done: Barrier) {
        self.new_memory = Some((memory, done));
    }

    /// Ends the ring as soon as nothing is in flight; the answer is where a successor goes on.
    pub fn stop(&mut self, reply: Reply<u32>) {
        self.end = Some(End::Stop(reply));
    }

    /// Gives the ring away as soon as nothing is in flight.
    pub fn carry(&mut self, reply: Reply<std::io::Result<Carried>>) {
        let second = self.kick.as_ref().map(|(kick, _)| kick.try_clone());
        match second.transpose() {
            Ok(second) => self.end = Some(End::Carry(second, reply)),
            Err(error) => {
                let _: Result<(), _> = reply.send(Err(error));
            }
        }
    }

    /// Asks for a wake-up by the next chain. `true` if there is one already, or if the ring has to be polled.
    pub fn arm(&self) -> bool {
        self.is_open() && (self.kick.is_none() || self.queue.enable_notifications())
    }

    /// Whether the driver can announce new chains.
    pub fn has_kick(&self) -> bool {
        self.kick.is_some()
    }

    /// The ring is being looked at anyway.
    pub fn disarm(&self) {
        if self.is_open() {
            self.queue.disable_notifications();
        }
    }
}

/// The descriptors come from the front end: a full counter must not block a worker.
fn nonblocking(fd: OwnedFd) -> std::io::Result<OwnedFd> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}

/// Signals an eventfd. A counter that is full is a signal that nobody has taken yet, and a closed one nobody waits for.
fn signal(fd: &OwnedFd) {
    let _: rustix::io::Result<usize> = rustix::io::write(fd, &1u64.to_ne_bytes());
}
