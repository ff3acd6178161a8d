//! A command on its way through the target: how it arrives, and what becomes of it.

use std::any::Any;
use std::cell::Cell;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use lunar_block::{Cancel, Canceller, DataHandle, Op};
use lunar_scsi::sense::Format;
use lunar_scsi::{Cdb, Sense, Status};
use lunar_sgl::Sgl;

use crate::{Extent, LogicalUnit, NexusId, Ticket};

/// One command as a transport delivers it.
pub struct Command<'a> {
    /// Who has sent it.
    pub nexus: NexusId,
    /// The CDB, copied from the guest once; 32 bytes, zero-padded.
    pub cdb: &'a [u8; 32],
    /// Data from the initiator. Like `data_in` it stays valid until the command has completed.
    pub data_out: Sgl,
    /// Where data for the initiator goes.
    pub data_in: Sgl,
    /// Parameter data for the initiator is built here; empty at the start, its capacity is reused.
    pub reply: &'a mut Vec<u8>,
    /// This reactor's data handle of the logical unit, if there is a unit and it has an image.
    pub io: Option<&'a Rc<dyn DataHandle>>,
    /// The reactor that serves the command.
    pub reactor: &'a lunar_reactor::Handle,
    /// It has waited in line (see [`Place`](crate::Place)), and nothing is in its way any more.
    pub admitted: bool,
    /// Names it among those with the ACA attribute, if it is one of them.
    pub aca: Option<Ticket>,
    /// Whether task management has ended it meanwhile.
    pub ended: &'a Ended,
    /// What it reaches besides its unit.
    pub around: &'a dyn Surroundings,
}

/// What a command reaches besides its own unit: the others of its transport.
pub trait Surroundings {
    /// Makes what ends other nexuses' commands to this unit, for PREEMPT AND ABORT.
    fn aborter(&self) -> Aborter;

    /// What else is behind this target port (for REPORT LUNS): appends the LUNs of the addressed target, ascending.
    fn luns(&self, list: &mut Vec<u16>);

    /// What this nexus reaches, behind every target port: shows all units that have an image (for EXTENDED COPY). A command
    /// that asks does everything that it does to a medium, its own unit's included, as a [`Visit`](crate::Visit).
    fn units(&self, visit: Visitor<'_>);
}

/// Is shown one unit after the other.
pub type Visitor<'a> = &'a mut dyn FnMut(Reached<'_>);

/// A logical unit that a nexus reaches, and this reactor's way to it.
pub struct Reached<'a> {
    /// The unit.
    pub unit: &'a Arc<dyn LogicalUnit>,
    /// Its data handle.
    pub io: &'a Rc<dyn DataHandle>,
    /// Whoever uses the handle later than now holds this: until it is dropped the unit is not taken away.
    pub attached: Rc<dyn Any>,
}

impl Command<'_> {
    /// The CDB's fields.
    #[inline]
    pub fn fields(&self) -> Cdb<'_> {
        Cdb(self.cdb)
    }

    /// The parameter list of a command whose CDB announces its length, copied once; `None` when the transport's buffer
    /// holds less (VS-037).
    pub fn parameter_list(&self) -> Option<Vec<u8>> {
        let len = usize::try_from(self.fields().parameter_list_length()).ok()?;
        // The buffer exists in the guest's memory, which bounds what a guest can make us allocate.
        let mut list = vec![0; len.min(self.data_out.len())];
        (self.data_out.read_at(0, &mut list) == len).then_some(list)
    }

    /// GOOD with what has been built in [`reply`](Command::reply), cut to the CDB's ALLOCATION LENGTH (never an error:
    /// SPC-4 4.2.5.6).
    pub fn replied(&mut self) -> Outcome {
        let room = usize::try_from(self.fields().allocation_length()).unwrap_or(usize::MAX);
        self.reply.truncate(room);
        self.replied_whole()
    }

    /// GOOD with what has been built in [`reply`](Command::reply), for a command whose CDB has no ALLOCATION LENGTH.
    pub fn replied_whole(&self) -> Outcome {
        if self.reply.len() > self.data_in.len() {
            return Outcome::Overrun;
        }
        Outcome::good(self.reply.len())
    }
}

impl std::fmt::Debug for Command<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Command")
            .field("nexus", &self.nexus)
            .field("cdb", self.cdb)
            .field("data_out", &self.data_out)
            .field("data_in", &self.data_in)
            .finish_non_exhaustive()
    }
}

/// Task management has ended a command that takes several steps: the transport says so here, and the [`Task`] looks
/// before each step that would take long. What it completes with then does not matter.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    canceller: Canceller,
    stands_aside: Rc<Cell<bool>>,
}

impl Ended {
    /// Ends the command.
    pub fn set(&self) {
        self.canceller.cancel(Cancel::Abandoned);
    }

    /// Whether it was ended.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.canceller.reason() == Some(Cancel::Abandoned)
    }

    /// The command goes on, but its operations may not wait for anything but the medium: see [`Cancel::Hurried`].
    pub fn hurry(&self) {
        self.canceller.cancel(Cancel::Hurried);
    }

    /// The way to an image for the command's steps, on which the end of the command ends what it waits for.
    #[must_use]
    pub fn guard(&self, io: &Rc<dyn DataHandle>) -> Rc<dyn DataHandle> {
        self.canceller.guard(io)
    }

    /// All that the command does is to wait for something that goes on by itself and keeps others from the medium: those
    /// who want to be alone do not wait for it, but hear from the unit that this is not the time.
    pub fn stand_aside(&self) {
        self.stands_aside.set(true);
    }

    /// Whether nobody waits for it.
    #[must_use]
    pub fn stands_aside(&self) -> bool {
        self.stands_aside.get()
    }
}

/// Ends the commands that the given nexuses have sent to a logical unit: the future is over when the last of them is.
/// Commands that wait for such a future themselves are left out, or they might wait for each other.
pub type Aborter = Box<dyn FnOnce(Vec<NexusId>) -> Pin<Box<dyn Future<Output = ()>>>>;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The SCSI status.
    pub status: Status,
    /// With CHECK CONDITION, and only then. The transport puts it on the wire with [`encode_sense`].
    pub sense: Option<Sense>,
    /// Bytes of the data buffer that were moved; the transport derives the residual.
    pub transferred: usize,
}

impl Completion {
    /// BUSY: nothing was done, and the initiator is to send the command again.
    pub const fn busy() -> Completion {
        Completion {
            status: Status::BUSY,
            sense: None,
            transferred: 0,
        }
    }

    /// GOOD, with so many bytes moved.
    #[inline]
    pub const fn good(transferred: usize) -> Completion {
        Completion {
            status: Status::GOOD,
            sense: None,
            transferred,
        }
    }

    /// RESERVATION CONFLICT: somebody else has reserved the unit.
    pub const CONFLICT: Completion = Completion::refused(Status::RESERVATION_CONFLICT);

    /// A status that says all there is to say. Nothing was moved.
    pub const fn refused(status: Status) -> Completion {
        Completion {
            status,
            sense: None,
            transferred: 0,
        }
    }

    /// CHECK CONDITION. Whatever was moved before does not count.
    pub const fn check(sense: Sense) -> Completion {
        Completion {
            status: Status::CHECK_CONDITION,
            sense: Some(sense),
            transferred: 0,
        }
    }
}

/// What to do with a command.
pub enum Outcome {
    /// It is over. Bytes for the initiator, if any, are in [`Command::reply`]; the transport copies them to data-in,
    /// clipped to the buffer (the command itself has clipped them to the ALLOCATION LENGTH).
    Done(Completion),
    /// The CDB implies more data than the transport's buffers hold: nothing was done.
    Overrun,
    /// One block operation; when it is over, [`LogicalUnit::finish`] makes the completion.
    Io(Op),
    /// Several steps: run this, it makes the completion (it moves its data itself).
    Task(Task),
    /// The same, when no other command that overlaps is running, and none starts until it is over, whoever sends it.
    Exclusive(Extent, Alone),
    /// Somebody wants to be alone with what the command may touch: wait in line with [`Place::shared`](crate::Place),
    /// then begin the command again, as one that was [admitted](Command::admitted). Nothing was done.
    Wait(Extent),
}

/// A command of several steps. It must be run to its end: an operation in flight uses the guest's buffers.
pub type Task = Pin<Box<dyn Future<Output = Completion>>>;

/// The steps of a command that has to be alone.
pub type Alone = Pin<Box<dyn Future<Output = Then>>>;

/// What follows when a command need not be alone any more.
pub enum Then {
    /// It is over.
    Done(Completion),
    /// The rest of its steps. Others run beside it, and whoever wants to be alone does not wait for it: the unit itself
    /// sees to it that they do not disturb each other.
    Rest(Task),
}

impl Outcome {
    /// GOOD at once.
    #[inline]
    pub const fn good(transferred: usize) -> Outcome {
        Outcome::Done(Completion::good(transferred))
    }

    /// CHECK CONDITION at once.
    pub const fn check(sense: Sense) -> Outcome {
        Outcome::Done(Completion::check(sense))
    }

    /// Several steps.
    pub fn task(steps: impl Future<Output = Completion> + 'static) -> Outcome {
        Outcome::Task(Box::pin(steps))
    }

    /// Several steps that are one to everybody else: nothing that overlaps runs meanwhile, on any queue, nexus or worker.
    /// The task must come to its end whatever other commands do.
    pub fn exclusive(extent: Extent, steps: impl Future<Output = Completion> + 'static) -> Outcome {
        Outcome::exclusive_first(extent, async { Then::Done(steps.await) })
    }

    /// The same for a command that has to be alone only at its beginning.
    pub fn exclusive_first(extent: Extent, steps: impl Future<Output = Then> + 'static) -> Outcome {
        Outcome::Exclusive(extent, Box::pin(steps))
    }
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Done(completion) => f.debug_tuple("Done").field(completion).finish(),
            Outcome::Overrun => f.write_str("Overrun"),
            Outcome::Io(op) => f.debug_tuple("Io").field(op).finish(),
            Outcome::Task(_) => f.write_str("Task"),
            Outcome::Exclusive(extent, _) => f.debug_tuple("Exclusive").field(extent).finish(),
            Outcome::Wait(extent) => f.debug_tuple("Wait").field(extent).finish(),
        }
    }
}

/// Puts sense data on the wire, once, when a command completes: in descriptor format if
/// [`LuState::descriptor_sense`](crate::LuState::descriptor_sense) says so (an absent logical unit uses the fixed
/// format), cut to `to`. Returns the bytes written.
pub fn encode_sense(sense: &Sense, descriptor: bool, to: &mut [u8]) -> usize {
    let format = if descriptor {
        Format::Descriptor
    } else {
        Format::Fixed
    };
    let data = sense.encode(format);
    to.iter_mut()
        .zip(data.as_slice())
        .map(|(to, from)| *to = *from)
        .count()
}
