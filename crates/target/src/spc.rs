//! The commands that SPC defines for every kind of logical unit.
//!
//! A unit that describes itself as [`Primary`] gets them from [`execute`], to which it passes whatever its own command
//! set does not have.

mod inquiry;
mod mode;
mod report_luns;
mod task_management;

use std::sync::Mutex;

use lunar_scsi::mode::{ModePages, Preamble};
use lunar_scsi::{AdditionalSense, Cdb, Operation, Row, Sense, rsoc};

pub(crate) use inquiry::{inquiry_without_unit, no_unit_sense, request_sense};
pub(crate) use report_luns::report_luns;

use crate::{Command, LogicalUnit, Outcome};

/// What the common commands need to know of a logical unit.
pub trait Primary: LogicalUnit {
    /// Appends the standard INQUIRY data.
    fn inquiry(&self, data: &mut Vec<u8>);

    /// The VPD pages the unit has besides 00h, ascending.
    fn vpd_pages(&self) -> &'static [u8];

    /// Appends a VPD page (with its header) that [`vpd_pages`](Primary::vpd_pages) lists.
    fn vpd(&self, page: u8, data: &mut Vec<u8>);

    /// Whether the unit can do what it is for: what TEST UNIT READY answers.
    ///
    /// # Errors
    /// 2/xx/xx
    fn ready(&self) -> Result<(), Sense>;

    /// Its mode pages. The changeable bits of the control page live on in [`LuState`](crate::LuState), too, where the
    /// data path reads them.
    fn mode_pages(&self) -> &Mutex<ModePages>;

    /// What stands before the mode pages.
    fn mode_preamble(&self) -> Preamble;

    /// MODE SELECT has changed the pages: makes the change effective, and completes the command with `transferred`
    /// bytes. The pages are locked meanwhile.
    ///
    /// # Errors
    /// What keeps the change from becoming effective.
    fn mode_changed(
        &self,
        pages: &ModePages,
        command: &Command<'_>,
        transferred: usize,
    ) -> Result<Outcome, Sense>;
}

/// Runs a command that all kinds of units share.
pub fn execute(lu: &dyn Primary, row: &Row, command: Command<'_>) -> Outcome {
    match row.operation {
        Operation::TestUnitReady => match lu.ready() {
            Ok(()) => Outcome::good(0),
            Err(sense) => Outcome::check(sense),
        },
        Operation::Inquiry => inquiry::inquiry(lu, command),
        Operation::RequestSense => {
            let sense = match lu.state().take_attention(command.nexus) {
                Some(attention) => attention.sense(),
                None => lu.ready().err().unwrap_or(Sense::NONE),
            };
            request_sense(sense, command)
        }
        Operation::ReportLuns => {
            let nexus = command.nexus;
            let outcome = report_luns(command);
            if matches!(&outcome, Outcome::Done(done) if done.sense.is_none()) {
                lu.state()
                    .clear_attention(nexus, crate::UnitAttention::ReportedLunsChanged);
            }
            outcome
        }
        Operation::ReportSupportedOperationCodes => {
            match rsoc::report(command.reply, lu.profile(), Cdb(command.cdb)) {
                Ok(()) => command.replied(),
                Err(sense) => Outcome::check(sense),
            }
        }
        Operation::ReportSupportedTaskManagementFunctions => task_management::report(command),
        Operation::ModeSense6 | Operation::ModeSense10 => mode::sense(lu, command),
        Operation::ModeSelect6 | Operation::ModeSelect10 => {
            mode::select(lu, &command).unwrap_or_else(Outcome::check)
        }
        // The profile of a unit names only commands that it runs.
        _ => Outcome::check(Sense::illegal_request(
            AdditionalSense::INVALID_OPERATION_CODE,
        )),
    }
}
