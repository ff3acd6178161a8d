//! Request queues: SCSI commands from the ring to the logical unit and back.
//!
//! A [`Slot`] is a command's place while it is in flight. How commands begin and get on is in `start`, what those do that
//! have to wait for others in `line`, and how they end in `end`.

mod end;
mod line;
mod start;

use std::cell::Cell;
use std::rc::Rc;

use lunar_block::{Cancel, Op};
use lunar_reactor::{Handle, Token};
use lunar_target::{Completion, Ended, Manner, NexusId, Place, Then, Ticket};

use crate::barrier::Barrier;
use crate::config::Sizes;
use crate::line::{Parked, Seat};
use crate::ring::Ring;
use crate::slot::Parts;
use crate::tmf::Function;
use crate::wire::Response;
use crate::worker::{LocalUnit, Port};
use crate::workers::Peers;

pub(crate) use end::End;

/// Chains taken from a ring before the others have their turn, and before what is done already is given back. So few that
/// a driver works on the first of many commands while we work on the last: with 64, the two took turns, and did a fifth to
/// a half less together.
pub(crate) const BATCH: usize = 8;

/// So many logical units stay in the caches of a processor by themselves.
const FEW: usize = 32;

/// What commands share while they are started: one per worker.
pub(crate) struct Bench {
    pub reactor: Handle,
    /// Which one of the peers this worker is, and the way to all of them.
    pub home: usize,
    pub peers: Peers,
    /// Where parameter data is built, one command after the other.
    reply: Vec<u8>,
    /// Of the command that is started, if it becomes a task.
    ended: Ended,
}

impl Bench {
    pub fn new(reactor: Handle, home: usize, peers: Peers) -> Bench {
        Bench {
            reactor,
            home,
            peers,
            reply: Vec::new(),
            ended: Ended::default(),
        }
    }

    fn seat(&self, token: Token) -> Option<Seat> {
        Seat::new(&self.peers, self.home, token)
    }
}

/// The commands of one ring. Slots are reused, last one first, so that they and what they point to stay in the cache.
#[derive(Default)]
pub(crate) struct Requests {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

/// One command in flight, or none.
pub(crate) struct Slot {
    parts: Parts,
    /// The sizes its headers have, whatever the driver chooses meanwhile.
    sizes: Sizes,
    pub tag: u64,
    /// What it has to do with auto contingent allegiances.
    pub manner: Manner,
    pub unit: Option<Rc<LocalUnit>>,
    stage: Stage,
    /// In the unit's line, if it waits, or has to be alone.
    place: Option<Place>,
    /// It may end other nexuses' commands, and wait for that.
    pub aborts: bool,
    /// Those who want to be alone need not wait for all of it: what it does to a medium are visits, or its unit keeps them
    /// out.
    aside: bool,
    /// How it ends instead of its own way: a task management function has ended it.
    pub ended: Option<End>,
    /// Whoever waits for its end.
    pub waiting: Vec<Barrier>,
}

enum Stage {
    Free,
    /// One block operation.
    Io(Op),
    /// A task, which leaves here what follows, and is told there when it was ended.
    Task(Rc<Cell<Option<Then>>>, Ended),
    /// It waits for its turn.
    Parked(Box<Parked>),
    /// It has failed with this, and waits for the end of the commands that it takes with it (QERR), or of all (ACA).
    Failed(Completion),
}

impl Requests {
    /// Takes up to `limit` commands from the ring and starts them; returns how many there were.
    #[inline]
    pub fn serve(
        &mut self,
        ring: &mut Ring,
        port: &Port,
        bench: &mut Bench,
        limit: usize,
    ) -> usize {
        let mut served = 0;
        while served < limit {
            // All are taken before the first is started: while one chain is taken, what the ones before point to is on its
            // way here from the processor of their driver.
            let mut batch = [0; BATCH];
            let mut taken = 0;
            for place in batch.iter_mut().take(limit - served) {
                let Some(number) = self.take(ring, port) else {
                    break;
                };
                *place = number;
                taken += 1;
            }
            if port.units.len() > FEW {
                for slot in batch
                    .iter()
                    .take(taken)
                    .filter_map(|&number| self.slots.get(number))
                {
                    slot.expect_unit(port);
                }
            }
            for &number in batch.iter().take(taken) {
                self.start(ring, port, bench, number);
            }
            served += taken;
            if taken < BATCH {
                break;
            }
        }
        served
    }

    /// Takes the next chain, if there is one; in which slot it is.
    #[inline]
    fn take(&mut self, ring: &mut Ring, port: &Port) -> Option<usize> {
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::new());
            self.slots.len() - 1
        });
        let slot = self.slots.get_mut(number)?;
        if ring.pop(slot.parts.chain_mut()) {
            match slot.receive(port.sizes) {
                Ok(()) => return Some(number),
                Err(error) => ring.abandon(&error),
            }
        }
        self.free.push(number);
        None
    }

    /// Starts the command in a slot.
    #[inline]
    fn start(&mut self, ring: &mut Ring, port: &Port, bench: &mut Bench, number: usize) {
        if let Some(slot) = self.slots.get_mut(number)
            && let Some(mut end) = slot.start(port, bench, ring.token(number))
        {
            self.end(ring, bench, number, &mut end);
        }
    }

    /// A command has come to its end, which is reported now, or when others are over.
    #[inline]
    fn end(&mut self, ring: &mut Ring, bench: &Bench, number: usize, end: &mut End) {
        if let Some(slot) = self.slots.get_mut(number)
            && (end.is_good() || slot.judge(end, bench, ring.token(number)))
        {
            self.finish(ring, number, end);
        }
    }

    /// A command is answered, and its slot free for another.
    #[inline]
    fn finish(&mut self, ring: &mut Ring, number: usize, end: &End) {
        if let Some(slot) = self.slots.get_mut(number) {
            slot.finish(ring, end);
            self.free.push(number);
        }
    }

    /// The operation or task of a command has got on.
    #[inline]
    pub fn resume(&mut self, ring: &mut Ring, bench: &Bench, number: usize, result: i32) {
        if let Some(slot) = self.slots.get_mut(number)
            && let Some(completion) = slot.resume(bench, ring.token(number), result)
        {
            self.end(ring, bench, number, &mut End::Completed(completion));
        }
    }

    /// The commands for which one waits that has failed are over.
    pub fn settled(&mut self, ring: &mut Ring, number: usize) {
        if let Some(slot) = self.slots.get(number)
            && let Stage::Failed(completion) = slot.stage
        {
            self.finish(ring, number, &End::Completed(completion));
        }
    }

    /// It may be the turn of a command that waits in line; `alone` if everything that collides is over.
    pub fn turn(
        &mut self,
        ring: &mut Ring,
        port: &Port,
        bench: &mut Bench,
        (number, ticket): (usize, Ticket),
        alone: bool,
    ) {
        if let Some(slot) = self.slots.get_mut(number)
            && let Some(mut end) = slot.turn(port, bench, (ring.token(number), ticket), alone)
        {
            self.end(ring, bench, number, &mut end);
        }
    }

    /// A task management function: commands that only wait end at once, the others are waited for if they are to end, and
    /// do not wait for anything but the medium themselves.
    pub fn manage(&mut self, ring: &mut Ring, nexus: NexusId, function: &Function, done: &Barrier) {
        for number in 0..self.slots.len() {
            let Some(slot) = self.slots.get_mut(number) else {
                break;
            };
            if slot.is_free() || !function.apply(nexus, slot) {
                continue;
            }
            match &slot.stage {
                Stage::Parked(_) => {
                    // Function::apply has said how.
                    self.finish(ring, number, &End::Transport(Response::Aborted));
                    continue;
                }
                Stage::Task(_, ended) => ended.set(),
                Stage::Io(_) => slot.cancel(ring.token(number), Cancel::Abandoned),
                Stage::Failed(_) | Stage::Free => {}
            }
            slot.waiting.push(done.clone());
        }
    }

    /// The commands in flight, of one unit or all, go on, but may not wait for anything but the medium: where they are
    /// kept until an error is mended, their initiator is asked to send them again.
    #[cold]
    pub fn hurry(&mut self, ring: &Ring, unit: Option<&Rc<LocalUnit>>) {
        for (number, slot) in self.slots.iter().enumerate() {
            let of_unit = |unit| slot.unit.as_ref().is_some_and(|own| Rc::ptr_eq(own, unit));
            if !unit.is_none_or(of_unit) {
                continue;
            }
            match &slot.stage {
                Stage::Task(_, ended) => ended.hurry(),
                Stage::Io(_) => slot.cancel(ring.token(number), Cancel::Hurried),
                Stage::Parked(_) | Stage::Failed(_) | Stage::Free => {}
            }
        }
    }

    /// The commands in flight.
    pub fn in_flight(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut().filter(|slot| !slot.is_free())
    }
}

impl Slot {
    fn new() -> Slot {
        Slot {
            parts: Parts::new(),
            sizes: Sizes::default(),
            tag: 0,
            manner: Manner::default(),
            unit: None,
            stage: Stage::Free,
            place: None,
            ended: None,
            aborts: false,
            aside: false,
            waiting: Vec::new(),
        }
    }

    fn is_free(&self) -> bool {
        matches!(self.stage, Stage::Free)
    }

    /// Its operation may not wait for anything but the medium any longer.
    #[cold]
    fn cancel(&self, token: Token, why: Cancel) {
        if let Some(io) = self.unit.as_ref().and_then(|unit| unit.io.as_ref()) {
            io.cancel(token, why);
        }
    }

    /// Whether it is over, but for the others.
    pub fn has_failed(&self) -> bool {
        matches!(self.stage, Stage::Failed(_))
    }
}
