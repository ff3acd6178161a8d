//! The SCSI target core: what SAM and SPC say about every logical unit, whatever it stores.
//!
//! Bytes in, [`Outcome`] out; no I/O and no transport. A transport (virtio-scsi) finds the logical unit in its
//! [`LunMap`], calls [`begin`], and does what the outcome says.
#![allow(
    clippy::unimplemented,
    missing_docs,
    unused_variables,
    dead_code,
    reason = "SKELETON: replace"
)]

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use lunar_block::{DataHandle, Error as BlockError, Op};
use lunar_sgl::Sgl;

/// An I_T nexus: one initiator port (a controller, that is, one VM port) as this target sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NexusId(pub u32);

/// How a command ends. `transferred` bytes of its data buffer were moved; the transport derives the residual.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    pub status: Status,
    pub sense: Option<Sense>,
    pub transferred: usize,
}
// Status and Sense come from lunar-scsi once they exist there.
#[derive(Clone, Copy, Debug)]
pub struct Status(pub u8);
#[derive(Clone, Copy, Debug)]
pub struct Sense;

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
    Task(Pin<Box<dyn Future<Output = Completion>>>),
}

/// One command as a transport delivers it.
pub struct Command<'a> {
    pub nexus: NexusId,
    /// The CDB, copied from the guest once; 32 bytes, zero-padded.
    pub cdb: &'a [u8; 32],
    pub data_out: Sgl,
    pub data_in: Sgl,
    /// Parameter data for the initiator is built here; empty at the start, its capacity is reused.
    pub reply: &'a mut Vec<u8>,
    /// This reactor's data handle of the logical unit.
    pub io: &'a Rc<dyn DataHandle>,
    pub reactor: &'a lunar_reactor::Handle,
    /// What else is behind this target port (for REPORT LUNS): LUNs of the addressed target, ascending.
    pub luns: &'a dyn Fn(&mut Vec<u16>),
}

/// A logical unit, shared by all reactors and nexuses.
pub trait LogicalUnit: Send + Sync {
    /// The part every logical unit has: unit attentions per nexus, and later reservations and task management.
    fn state(&self) -> &LuState;
    fn execute(&self, command: Command<'_>) -> Outcome;
    fn finish(&self, op: &Op, result: Result<(), BlockError>) -> Completion;
    fn image(&self) -> Option<Arc<dyn lunar_block::Image>>;
}

/// What SAM keeps for every logical unit. The hot path reads one atomic epoch and takes the lock only when it moved.
#[derive(Debug, Default)]
pub struct LuState {}
impl LuState {
    /// A nexus can reach this unit from now on: it gets 29/00 first.
    pub fn add_nexus(&self, nexus: NexusId) {
        unimplemented!()
    }
    pub fn remove_nexus(&self, nexus: NexusId) {
        unimplemented!()
    }
    /// Queues a unit attention.
    pub fn raise(&self, who: Who, attention: UnitAttention) {
        unimplemented!()
    }
    /// LOGICAL UNIT RESET happened (the transport has ended the tasks): 29/03 for everyone, per-LU state to its defaults.
    pub fn reset(&self) {
        unimplemented!()
    }
    /// The nexus was lost or its device was reset.
    pub fn nexus_loss(&self, nexus: NexusId) {
        unimplemented!()
    }
}
/// Whom a unit attention concerns.
#[derive(Clone, Copy, Debug)]
pub enum Who {
    All,
    Only(NexusId),
    AllBut(NexusId),
}
#[derive(Clone, Copy, Debug)]
pub enum UnitAttention {
    PowerOn,
    /* ... */ ReportedLunsChanged,
    CapacityChanged,
}

/// A reactor's memory of the epoch up to which it has seen a logical unit's state for one nexus.
#[derive(Debug, Default)]
pub struct Seen(std::cell::Cell<u64>);

/// Starts a command on a present logical unit: CDB validity, unit attention, reservation, state; then [`LogicalUnit::execute`].
pub fn begin(lu: &dyn LogicalUnit, seen: &Seen, command: Command<'_>) -> Outcome {
    unimplemented!()
}
/// A command to an absent LUN of a known target.
pub fn begin_absent(command: Command<'_>) -> Outcome {
    unimplemented!()
}
/// A command to the REPORT LUNS well-known logical unit.
pub fn begin_report_luns(command: Command<'_>) -> Outcome {
    unimplemented!()
}

/// target (0-255) x LUN (0-16383) -> `T`, looked up in constant time.
#[derive(Debug)]
pub struct LunMap<T> {
    _t: std::marker::PhantomData<T>,
}
impl<T> LunMap<T> {
    pub fn new() -> Self {
        unimplemented!()
    }
    pub fn get(&self, target: u8, lun: u16) -> Option<&T> {
        unimplemented!()
    }
    pub fn has_target(&self, target: u8) -> bool {
        unimplemented!()
    }
    pub fn insert(&mut self, target: u8, lun: u16, value: T) -> Result<(), T> {
        unimplemented!()
    }
    pub fn remove(&mut self, target: u8, lun: u16) -> Option<T> {
        unimplemented!()
    }
    /// LUNs of a target, ascending.
    pub fn luns(&self, target: u8) -> impl Iterator<Item = (u16, &T)> {
        std::iter::empty()
    }
    pub fn iter(&self) -> impl Iterator<Item = (u8, u16, &T)> {
        std::iter::empty()
    }
}
