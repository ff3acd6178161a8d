//! The SCSI target core: what SAM and SPC say about every logical unit, whatever it stores.
//!
//! Bytes in, [`Outcome`] out; no I/O and no transport. A transport (virtio-scsi) finds the logical unit in its
//! [`LunMap`], calls [`begin`], and does what the outcome says: answer at once, run one block operation, or run a
//! task of several steps. Tested byte for byte, without a guest or a ring.
//!
//! # The central type
//! [`LogicalUnit`]: a disk, a CD drive, a tape. Its [`LuState`] is the part that SAM gives every unit.
//!
//! # Threading
//! A logical unit is shared by all reactors and nexuses. Its data path takes no lock: see [`LuState`].
//!
//! # Errors
//! A command never fails towards the caller: what is wrong with it is its [`Completion`], CHECK CONDITION with sense
//! data. The one exception, buffers too small for the data that the CDB implies, is a matter of the transport and
//! therefore an outcome of its own, [`Outcome::Overrun`].
#![allow(
    clippy::unimplemented,
    missing_docs,
    unused_variables,
    reason = "SKELETON: the flow follows when the command table exists"
)]

mod attention;
mod lun_map;
mod state;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use lunar_block::{DataHandle, Error as BlockError, Image, Op};
use lunar_sgl::Sgl;

pub use attention::UnitAttention;
pub use lun_map::LunMap;
pub use state::{LuState, NexusId, Seen, Who};

/// How a command ends. `transferred` bytes of its data buffer were moved; the transport derives the residual.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    pub status: Status,
    /// With CHECK CONDITION, and only then. The transport puts it on the wire with [`encode_sense`].
    pub sense: Option<Sense>,
    pub transferred: usize,
}
// Status and Sense come from lunar-scsi once they exist there.
#[derive(Clone, Copy, Debug)]
pub struct Status(pub u8);
#[derive(Clone, Copy, Debug)]
pub struct Sense;

/// Puts sense data on the wire, once, when a command completes: in descriptor format if
/// [`LuState::descriptor_sense`] says so (an absent logical unit uses the fixed format), cut to `to`. Returns the
/// bytes written.
pub fn encode_sense(sense: &Sense, descriptor: bool, to: &mut [u8]) -> usize {
    unimplemented!()
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
}

/// A command of several steps. Dropping it before its end abandons the command between two steps.
pub type Task = Pin<Box<dyn Future<Output = Completion>>>;

/// One command as a transport delivers it.
pub struct Command<'a> {
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
    pub reactor: &'a lunar_reactor::Handle,
    /// What else is behind this target port (for REPORT LUNS): LUNs of the addressed target, ascending.
    pub luns: &'a dyn Fn(&mut Vec<u16>),
}

/// A logical unit, shared by all reactors and nexuses.
pub trait LogicalUnit: Send + Sync {
    /// The part every logical unit has: unit attentions per nexus, and later reservations and task management.
    fn state(&self) -> &LuState;
    fn execute(&self, command: Command<'_>) -> Outcome;
    /// The block operation of [`Outcome::Io`] is over.
    fn finish(&self, op: &Op, result: Result<(), BlockError>) -> Completion;
    /// LOGICAL UNIT RESET: the transport has ended the tasks; what is changeable goes back to its defaults.
    fn reset(&self) {
        self.state().reset();
    }
    /// What the data handles are opened from, for units that have an image.
    fn image(&self) -> Option<Arc<dyn Image>>;
}

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
