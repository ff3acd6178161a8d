//! The SCSI target core: what SAM and SPC say about every logical unit, whatever it stores.
//!
//! Bytes in, [`Outcome`] out; no I/O and no transport. A transport (virtio-scsi) finds the logical unit in its
//! [`LunMap`], calls [`begin`], and does what the outcome says: answer at once, run one block operation, run a task of
//! several steps, perhaps alone, or wait in [line](Place). Tested byte for byte, without a guest or a ring.
//!
//! # The central type
//! [`LogicalUnit`]: a disk, a CD drive, a tape. Its [`LuState`] is the part that SAM gives every unit. The commands
//! that SPC defines for all kinds of units are in [`spc`]; a unit describes itself to them as [`spc::Primary`].
//!
//! # Threading
//! A logical unit is shared by all reactors and nexuses. Its data path takes no lock: see [`LuState`].
//!
//! # Errors
//! A command never fails towards the caller: what is wrong with it is its [`Completion`], CHECK CONDITION with sense
//! data. The one exception, buffers too small for the data that the CDB implies, is a matter of the transport and
//! therefore an outcome of its own, [`Outcome::Overrun`].

mod access;
mod allegiance;
mod attention;
mod command;
mod flow;
mod line;
mod lun_map;
mod path;
pub mod reservation;
pub mod spc;
mod state;
mod visit;

use std::any::Any;
use std::sync::Arc;

use lunar_block::{Error as BlockError, Image};
use lunar_scsi::{Cdb, Profile, Row};
use lunar_sgl::prefetch::Lines;

pub use access::Alua;
pub use allegiance::{Fault, Manner};
pub use attention::UnitAttention;
pub use command::{
    Aborter, Alone, Command, Completion, Ended, Outcome, Reached, Surroundings, Task, Then,
    Visitor, encode_sense,
};
pub use flow::{begin, begin_absent, begin_report_luns};
pub use line::{Extent, Place, Rank, Ticket, overlap};
pub use lun_map::LunMap;
pub use path::{Path, TargetPort};
pub use state::{Asked, Look, LuState, NexusId, PortTaken, Seen, Who};
pub use visit::Visit;

/// A logical unit, shared by all reactors and nexuses.
pub trait LogicalUnit: Any + Send + Sync {
    /// The part every logical unit has: unit attentions per nexus, reservations, access states.
    fn state(&self) -> &Arc<LuState>;

    /// Which rows of the command table apply.
    fn profile(&self) -> Profile;

    /// Runs a command that [`begin`] has let through. `row` is its row in the command table, and its CDB has no bit
    /// that means nothing there.
    fn execute(&self, row: &'static Row, command: &mut Command<'_>) -> Outcome;

    /// What a command may touch, asked only while another one is, or wants to be, alone with something.
    fn extent(&self, _row: &'static Row, _cdb: Cdb<'_>) -> Extent {
        None
    }

    /// The block operation of [`Outcome::Io`] is over.
    fn finish(&self, asked: &lunar_block::Asked, result: Result<(), BlockError>) -> Completion;

    /// LOGICAL UNIT RESET: the transport has ended the tasks; what is changeable goes back to its defaults.
    fn reset(&self) {
        self.state().reset();
    }

    /// A nexus was lost, or its device was reset; the transport has ended its tasks.
    fn nexus_loss(&self, nexus: NexusId) {
        self.state().nexus_loss(nexus);
    }

    /// Adds where that is in memory which each command looks at.
    fn lines(&self, _lines: &mut Lines) {}

    /// The unit has been detached from a controller: if nobody can reach it any more, whatever it does in the background
    /// stops, and has let go of the image when this returns. Called by control threads; it may wait.
    fn detached(&self) {}

    /// What the data handles are opened from, for units that have an image.
    fn image(&self) -> Option<Arc<dyn Image>>;
}
