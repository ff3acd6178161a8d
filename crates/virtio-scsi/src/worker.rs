//! One data-path thread: the rings placed on it, and what it knows of each controller.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use lunar_block::DataHandle;
use lunar_reactor::{App, Handle, Token};
use lunar_sgl::prefetch::Lines;
use lunar_target::{LogicalUnit, LunMap, NexusId, Seen, Ticket};
use lunar_virtqueue::GuestMemory;
use slab::Slab;

use crate::barrier::{Barrier, Reply};
use crate::coalescing::{Alarm, Coalescing};
use crate::config::Sizes;
use crate::fixed::FixedMemory;
use crate::line::Fence;
use crate::queue::{Queue, Role};
use crate::request::{BATCH, Bench};
use crate::ring::{Carried, Descriptor, Ring, RingSetup, SLOT_BITS};
use crate::statistics::Counters;
use crate::tmf::Function;
use crate::wire::{Address, Event, Response};
use crate::workers::Peers;
use crate::{Error, Features};

/// What control threads tell a worker, and workers each other. A barrier that is dropped says that it is so.
pub(crate) enum Message {
    AddPort {
        nexus: NexusId,
        id: Arc<str>,
        task_set_limit: usize,
        coalescing: Coalescing,
        fixed_buffers: bool,
        done: Barrier,
    },
    RemovePort {
        nexus: NexusId,
        done: Barrier,
    },
    /// Back to the state after power-on; no ring is started.
    ResetPort {
        nexus: NexusId,
        done: Barrier,
    },
    SetSizes {
        nexus: NexusId,
        sizes: Sizes,
        done: Barrier,
    },
    SetCoalescing {
        nexus: NexusId,
        coalescing: Coalescing,
        done: Barrier,
    },
    SetMemory {
        nexus: NexusId,
        memory: Arc<GuestMemory>,
        done: Barrier,
    },
    Start(Box<Start>),
    Stop {
        nexus: NexusId,
        index: usize,
        reply: Reply<u32>,
    },
    /// The addresses that a controller's commands in flight are for, one for each command.
    InFlight {
        nexus: NexusId,
        reply: Reply<(u8, u16)>,
    },
    /// Gives a ring away, to go on at another worker.
    Carry {
        nexus: NexusId,
        index: usize,
        reply: Reply<std::io::Result<Carried>>,
    },
    /// Goes on with a ring of another worker.
    Resume {
        nexus: NexusId,
        index: usize,
        ring: Box<Carried>,
        done: Barrier,
    },
    /// Whether the driver has still to be told that it missed an event. Another worker will do that.
    TakeMissed {
        nexus: NexusId,
        reply: Reply<bool>,
    },
    /// The driver has to be told that it missed an event.
    Missed {
        nexus: NexusId,
        done: Barrier,
    },
    Enable {
        nexus: NexusId,
        index: usize,
        enabled: bool,
        done: Barrier,
    },
    SetDescriptor {
        nexus: NexusId,
        index: usize,
        descriptor: Descriptor,
        reply: Reply<std::io::Result<()>>,
    },
    Attach(Attach),
    /// Puts another unit in the place of one. Done when the old unit's commands are over.
    Replace(Attach, Barrier),
    /// Done when the unit's commands are over.
    Detach {
        nexus: NexusId,
        target: u8,
        lun: u16,
        done: Barrier,
    },
    Report {
        nexus: NexusId,
        event: Event,
        done: Barrier,
    },
    /// A task management function. Done when the commands it ends are over and visible.
    Manage {
        function: Function,
        done: Barrier,
    },
    /// The turn of a command that waits in line has come.
    Turn {
        token: Token,
        ticket: Ticket,
    },
    /// Somebody wants to be alone: those in the way let him know when they are over.
    Fence(Fence),
    /// The commands that an error takes with it are over.
    Settled {
        token: Token,
    },
    /// Everything that collides with a command, whose turn it was to be alone, is over.
    Alone {
        token: Token,
        ticket: Ticket,
    },
    /// A task management function that was started here is over.
    Answer {
        ring: usize,
        slot: usize,
        response: Response,
    },
}

/// A ring to be started.
pub(crate) struct Start {
    pub nexus: NexusId,
    pub index: usize,
    pub setup: RingSetup,
    pub enabled: bool,
    pub memory: Arc<GuestMemory>,
    pub features: Features,
    pub reply: Reply<Result<(), Error>>,
}

/// A logical unit to be put at an address.
pub(crate) struct Attach {
    pub nexus: NexusId,
    pub target: u8,
    pub lun: u16,
    pub unit: Arc<dyn LogicalUnit>,
    pub reply: Reply<Result<(), lunar_block::Error>>,
}

/// A controller as one worker knows it.
pub(crate) struct Port {
    pub nexus: NexusId,
    pub units: LunMap<Addressed>,
    pub sizes: Sizes,
    /// Commands that a unit takes at a time from the rings of one worker (VS-008).
    pub task_set_limit: usize,
    /// Of its request queues' interrupts.
    coalescing: Coalescing,
    /// The guest's memory, if the kernel is to know it.
    fixed: Option<FixedMemory>,
    id: Arc<str>,
    /// An event was lost for want of a buffer, and the driver does not know yet (VS-062).
    events_missed: bool,
}

impl Port {
    /// One of its rings is served from now on.
    fn take_up(&self, role: &Role, ring: &mut Ring) {
        role.coalesce(ring, self.coalescing);
        self.fix(role, ring.memory());
    }

    /// Has the kernel know the memory of a ring on which there are commands, and no other, if it is to know any.
    fn fix(&self, role: &Role, memory: &GuestMemory) {
        if let Some(fixed) = &self.fixed
            && role.has_commands()
        {
            fixed.set(memory.regions());
        }
    }
}

/// What is at an address. The lines are beside the unit and not in it, because they are to be known before it.
#[repr(align(64))]
pub(crate) struct Addressed {
    unit: Rc<LocalUnit>,
    lines: Lines,
}

impl Addressed {
    fn new(unit: LocalUnit) -> Addressed {
        let mut lines = Lines::default();
        let unit = Rc::new(unit);
        lines.add(&*unit);
        unit.unit.lines(&mut lines);
        unit.io.iter().for_each(|io| io.lines(&mut lines));
        Addressed { unit, lines }
    }

    /// A command for it is about to be started.
    #[inline]
    pub fn expect(&self) {
        self.lines.expect();
    }
}

impl Deref for Addressed {
    type Target = Rc<LocalUnit>;

    #[inline]
    fn deref(&self) -> &Rc<LocalUnit> {
        &self.unit
    }
}

/// A logical unit at its address, as one worker reaches it. What every command looks at comes first.
#[repr(C)]
pub(crate) struct LocalUnit {
    pub unit: Arc<dyn LogicalUnit>,
    pub io: Option<Rc<dyn DataHandle>>,
    pub seen: Seen,
    /// Set when it was detached: whoever still holds the unit, because it copies from or to it, keeps this up.
    pub gone: OnceCell<Barrier>,
    pub nexus: NexusId,
    pub target: u8,
    pub lun: u16,
}

impl LocalUnit {
    /// Whether it leads to this unit.
    pub fn is(&self, unit: &Arc<dyn LogicalUnit>) -> bool {
        Arc::as_ptr(&self.unit).addr() == Arc::as_ptr(unit).addr()
    }

    /// Where the driver finds it.
    pub fn address(&self) -> Address {
        Address::Unit {
            target: self.target,
            lun: self.lun,
        }
    }
}

/// The application on each reactor.
pub(crate) struct Worker {
    bench: Bench,
    ports: BTreeMap<NexusId, Port>,
    queues: Slab<Queue>,
    /// For interrupts that are held back.
    alarm: Alarm,
    counters: Arc<Counters>,
}

impl Worker {
    /// `number` is which one of the peers it is.
    pub fn new(reactor: Handle, number: usize, peers: Peers, counters: Arc<Counters>) -> Worker {
        Worker {
            bench: Bench::new(reactor, number, peers),
            ports: BTreeMap::new(),
            queues: Slab::new(),
            alarm: Alarm::default(),
            counters,
        }
    }

    /// A controller's queues on this worker.
    fn queues_of(&mut self, nexus: NexusId) -> impl Iterator<Item = &mut Queue> {
        self.queues
            .iter_mut()
            .filter_map(move |(_, queue)| (queue.nexus == nexus).then_some(queue))
    }

    fn queue(&mut self, nexus: NexusId, index: usize) -> Option<&mut Queue> {
        self.queues_of(nexus).find(|queue| queue.index == index)
    }

    fn start(&mut self, start: Start) -> Result<(), Error> {
        let port = self.ports.get(&start.nexus).ok_or(Error::Stopped)?;
        let entry = self.queues.vacant_entry();
        let mut ring = Ring::start(
            &self.bench.reactor,
            entry.key(),
            (port.id.clone(), start.index),
            start.setup,
            &start.memory,
            start.features,
        )?;
        ring.set_enabled(start.enabled);
        let role = Role::of(start.index);
        port.take_up(&role, &mut ring);
        entry.insert(Queue {
            nexus: start.nexus,
            index: start.index,
            ring,
            role,
        });
        Ok(())
    }

    fn attach(&mut self, attach: &Attach) -> Result<(), lunar_block::Error> {
        let unit = self.open(attach)?;
        self.put(unit);
        Ok(())
    }

    /// No command comes between.
    fn replace(&mut self, attach: &Attach, done: &Barrier) -> Result<(), lunar_block::Error> {
        let unit = self.open(attach)?;
        self.detach(attach.nexus, attach.target, attach.lun, done);
        self.put(unit);
        Ok(())
    }

    fn open(&self, attach: &Attach) -> Result<LocalUnit, lunar_block::Error> {
        let image = attach.unit.image();
        let io = image
            .map(|image| image.open(&self.bench.reactor))
            .transpose()?;
        Ok(LocalUnit {
            nexus: attach.nexus,
            target: attach.target,
            lun: attach.lun,
            unit: attach.unit.clone(),
            io,
            seen: Seen::default(),
            gone: OnceCell::new(),
        })
    }

    fn put(&mut self, unit: LocalUnit) {
        if let Some(port) = self.ports.get_mut(&unit.nexus) {
            // The controller has seen to it that the address is free.
            let _: Result<(), _> = port
                .units
                .insert(unit.target, unit.lun, Addressed::new(unit));
        }
    }

    fn detach(&mut self, nexus: NexusId, target: u8, lun: u16, done: &Barrier) {
        let Some(port) = self.ports.get_mut(&nexus) else {
            return;
        };
        let Some(unit) = port.units.remove(target, lun) else {
            return;
        };
        // It was at its address until now, so it has not been detached before.
        let _: Result<(), _> = unit.gone.set(done.clone());
        for queue in self.queues_of(nexus) {
            if let Role::Request(requests) = &mut queue.role {
                for slot in requests.in_flight() {
                    if slot
                        .unit
                        .as_ref()
                        .is_some_and(|other| Rc::ptr_eq(other, &unit))
                    {
                        slot.waiting.push(done.clone());
                    }
                }
                requests.hurry(&queue.ring, Some(&unit));
            }
        }
    }

    /// Tells the driver, or remembers that it was not told.
    fn report(&mut self, nexus: NexusId, event: Event, done: Barrier) {
        let Some(port) = self.ports.get_mut(&nexus) else {
            return;
        };
        let mut queues = self.queues.iter_mut().map(|(_, queue)| queue);
        let sent = queues.any(|queue| match &mut queue.role {
            Role::Event(events) if queue.nexus == nexus => {
                let sent = events.send(&mut queue.ring, event, port.events_missed);
                if sent {
                    queue.ring.await_publish(done.clone());
                }
                sent
            }
            _ => false,
        });
        port.events_missed = !sent;
    }

    /// A task management function: first everything that the driver had made available before it is started, then
    /// what it concerns is found among all that is in flight.
    fn manage(&mut self, function: &Function, done: &Barrier) {
        for (_, queue) in &mut self.queues {
            let Role::Request(requests) = &mut queue.role else {
                continue;
            };
            if !function.concerns_nexus(queue.nexus) {
                continue;
            }
            if let Some(port) = self.ports.get(&queue.nexus)
                && queue.ring.is_live()
            {
                let limit = usize::from(queue.ring.size());
                requests.serve(&mut queue.ring, port, &mut self.bench, limit);
            }
            requests.manage(&mut queue.ring, queue.nexus, function, done);
            // What has been completed meanwhile is to be seen before the answer as well.
            queue.ring.await_publish(done.clone());
        }
    }
}

impl Worker {
    /// The turn of a command may have come.
    fn turn(&mut self, token: Token, ticket: Ticket, alone: bool) {
        let Some((key, slot)) = split(token) else {
            return;
        };
        if let Some(queue) = self.queues.get_mut(key)
            && let Role::Request(requests) = &mut queue.role
            && let Some(port) = self.ports.get(&queue.nexus)
        {
            let bench = &mut self.bench;
            requests.turn(&mut queue.ring, port, bench, (slot, ticket), alone);
        }
    }

    fn settled(&mut self, token: Token) {
        if let Some((key, slot)) = split(token)
            && let Some(queue) = self.queues.get_mut(key)
            && let Role::Request(requests) = &mut queue.role
        {
            requests.settled(&mut queue.ring, slot);
        }
    }

    /// Takes the rings out that have come to their end.
    #[cold]
    fn end_rings(&mut self) {
        let over = |(key, queue): (usize, &Queue)| queue.ring.is_over().then_some(key);
        let over: Vec<usize> = self.queues.iter().filter_map(over).collect();
        for key in over {
            let queue = self.queues.remove(key);
            let has_commands = |other: &mut Queue| other.role.has_commands();
            let was_last = !self.queues_of(queue.nexus).any(has_commands);
            if was_last && let Some(port) = self.ports.get(&queue.nexus) {
                port.fix(&queue.role, &GuestMemory::default());
            }
            queue.ring.end();
        }
    }

    fn fence(&mut self, fence: &Fence) {
        for (_, queue) in &mut self.queues {
            if let Role::Request(requests) = &mut queue.role
                && fence.of.is_none_or(|nexus| nexus == queue.nexus)
            {
                for slot in requests.in_flight() {
                    slot.meet(fence);
                }
            }
        }
    }
}

/// The key of the ring, and the number of the slot, that a token names.
#[inline]
fn split(token: Token) -> Option<(usize, usize)> {
    let (key, slot) = (token.0 >> SLOT_BITS, token.0 & ((1 << SLOT_BITS) - 1));
    Some((usize::try_from(key).ok()?, usize::try_from(slot).ok()?))
}

impl App for Worker {
    type Message = Message;

    fn message(&mut self, message: Message) {
        match message {
            Message::AddPort {
                nexus,
                id,
                task_set_limit,
                coalescing,
                fixed_buffers,
                done,
            } => {
                let fixed = || FixedMemory::new(id.clone(), self.bench.reactor.clone());
                let port = Port {
                    fixed: fixed_buffers.then(fixed),
                    nexus,
                    units: LunMap::new(),
                    sizes: Sizes::default(),
                    task_set_limit,
                    coalescing,
                    id,
                    events_missed: false,
                };
                self.ports.insert(nexus, port);
                drop(done);
            }
            Message::RemovePort { nexus, done } => {
                self.ports.remove(&nexus);
                drop(done);
            }
            Message::ResetPort { nexus, done } => {
                if let Some(port) = self.ports.get_mut(&nexus) {
                    port.sizes = Sizes::default();
                    port.events_missed = false;
                }
                drop(done);
            }
            Message::SetSizes { nexus, sizes, done } => {
                if let Some(port) = self.ports.get_mut(&nexus) {
                    port.sizes = sizes;
                }
                drop(done);
            }
            Message::SetCoalescing {
                nexus,
                coalescing,
                done,
            } => {
                if let Some(port) = self.ports.get_mut(&nexus) {
                    port.coalescing = coalescing;
                }
                for queue in self.queues_of(nexus) {
                    queue.role.coalesce(&mut queue.ring, coalescing);
                }
                drop(done);
            }
            Message::SetMemory {
                nexus,
                memory,
                done,
            } => {
                let Some(port) = self.ports.get(&nexus) else {
                    return;
                };
                for (_, queue) in &mut self.queues {
                    if queue.nexus == nexus {
                        queue.ring.set_memory(memory.clone(), done.clone());
                        port.fix(&queue.role, &memory);
                    }
                }
            }
            Message::Start(start) => {
                let reply = start.reply.clone();
                let _: Result<(), _> = reply.send(self.start(*start));
            }
            Message::Stop {
                nexus,
                index,
                reply,
            } => {
                if let Some(queue) = self.queue(nexus, index) {
                    queue.ring.stop(reply);
                }
            }
            Message::InFlight { nexus, reply } => {
                for queue in self.queues_of(nexus) {
                    if let Role::Request(requests) = &mut queue.role {
                        for unit in requests.in_flight().filter_map(|slot| slot.unit.as_ref()) {
                            let _: Result<(), _> = reply.send((unit.target, unit.lun));
                        }
                    }
                }
            }
            Message::Carry {
                nexus,
                index,
                reply,
            } => {
                if let Some(queue) = self.queue(nexus, index) {
                    queue.ring.carry(reply);
                }
            }
            Message::Resume {
                nexus,
                index,
                ring,
                done,
            } => {
                let entry = self.queues.vacant_entry();
                let mut ring = Ring::resume(&self.bench.reactor, entry.key(), *ring);
                let role = Role::of(index);
                if let Some(port) = self.ports.get(&nexus) {
                    port.take_up(&role, &mut ring);
                }
                entry.insert(Queue {
                    nexus,
                    index,
                    ring,
                    role,
                });
                drop(done);
            }
            Message::TakeMissed { nexus, reply } => {
                if let Some(port) = self.ports.get_mut(&nexus) {
                    let missed = std::mem::take(&mut port.events_missed);
                    let _: Result<(), _> = reply.send(missed);
                }
            }
            Message::Missed { nexus, done } => {
                if let Some(port) = self.ports.get_mut(&nexus) {
                    port.events_missed = true;
                }
                drop(done);
            }
            Message::Enable {
                nexus,
                index,
                enabled,
                done,
            } => {
                if let Some(queue) = self.queue(nexus, index) {
                    queue.ring.set_enabled(enabled);
                }
                drop(done);
            }
            Message::SetDescriptor {
                nexus,
                index,
                descriptor,
                reply,
            } => {
                let reactor = self.bench.reactor.clone();
                if let Some(queue) = self.queue(nexus, index) {
                    let result = queue.ring.set_descriptor(&reactor, descriptor);
                    let _: Result<(), _> = reply.send(result);
                }
            }
            Message::Attach(attach) => {
                let _: Result<(), _> = attach.reply.send(self.attach(&attach));
            }
            Message::Replace(attach, done) => {
                let _: Result<(), _> = attach.reply.send(self.replace(&attach, &done));
            }
            Message::Detach {
                nexus,
                target,
                lun,
                done,
            } => self.detach(nexus, target, lun, &done),
            Message::Report { nexus, event, done } => self.report(nexus, event, done),
            Message::Manage { function, done } => self.manage(&function, &done),
            Message::Settled { token } => self.settled(token),
            Message::Turn { token, ticket } => self.turn(token, ticket, false),
            Message::Fence(fence) => self.fence(&fence),
            Message::Alone { token, ticket } => self.turn(token, ticket, true),
            Message::Answer {
                ring,
                slot,
                response,
            } => {
                if let Some(queue) = self.queues.get_mut(ring)
                    && let Role::Control(control) = &mut queue.role
                {
                    control.answer(&mut queue.ring, slot, response);
                }
            }
        }
    }

    #[inline]
    fn complete(&mut self, token: Token, result: i32) {
        if let Some((key, slot)) = split(token)
            && let Some(queue) = self.queues.get_mut(key)
            && let Role::Request(requests) = &mut queue.role
        {
            requests.resume(&mut queue.ring, &self.bench, slot, result);
        }
    }

    fn ready(&mut self, _token: Token) {
        // The wake-up is all: `poll` looks at every ring.
        self.counters.kicks.add(1);
    }

    #[inline]
    fn poll(&mut self) -> bool {
        let mut served = 0;
        for (_, queue) in &mut self.queues {
            if !queue.ring.is_open() {
                // Each turn, because what waits in line may be started at any time.
                if queue.ring.is_draining()
                    && let Role::Request(requests) = &mut queue.role
                {
                    requests.hurry(&queue.ring, None);
                }
                continue;
            }
            let Some(port) = self.ports.get_mut(&queue.nexus) else {
                continue;
            };
            let ring = &mut queue.ring;
            served += match &mut queue.role {
                Role::Request(requests) => requests.serve(ring, port, &mut self.bench, BATCH),
                Role::Control(control) => {
                    control.serve(ring, port, &self.bench.peers, self.bench.home, BATCH)
                }
                Role::Event(events) => {
                    let sent = port.events_missed && events.send(ring, Event::None, true);
                    port.events_missed &= !sent;
                    usize::from(sent)
                }
            };
        }
        if served > 0 {
            self.counters.rounds.add(1);
            self.counters.requests.add(served);
        }
        served > 0
    }

    #[inline]
    fn flush(&mut self) {
        let mut over = false;
        for (_, queue) in &mut self.queues {
            over |= queue.ring.flush(&self.bench.reactor, &self.counters);
        }
        if over {
            self.end_rings();
        }
    }

    fn arm(&mut self) -> bool {
        let mut work = false;
        let mut interrupt: Option<u64> = None;
        for (_, queue) in &self.queues {
            interrupt = interrupt
                .into_iter()
                .chain(queue.ring.interrupt_until())
                .min();
            work |= match queue.role {
                // Event buffers are of interest only when the driver has to be told that it missed something; a ring
                // without kick descriptor is looked into at the next event.
                Role::Event(_) => {
                    let missed = self
                        .ports
                        .get(&queue.nexus)
                        .is_some_and(|port| port.events_missed);
                    missed && queue.ring.has_kick() && queue.ring.arm()
                }
                _ => queue.ring.arm(),
            };
        }
        if let Some(until) = interrupt {
            work |= self.alarm.set(&self.bench.reactor, until);
        }
        if !work {
            self.counters.sleeps.add(1);
        }
        work
    }

    fn disarm(&mut self) {
        for (_, queue) in &self.queues {
            queue.ring.disarm();
        }
    }
}
