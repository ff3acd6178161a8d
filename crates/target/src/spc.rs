//! The commands that SPC defines for every kind of logical unit.
//!
//! A unit that describes itself as [`Primary`] gets them from [`execute`], to which it passes whatever its own command
//! set does not have.

mod buffer;
mod clock;
mod diagnostic;
mod identifying;
mod inquiry;
mod log;
mod mode;
mod ports;
mod report_luns;
mod reservation;
mod task_management;

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use lunar_scsi::log::{Parameter, Values};
use lunar_scsi::mode::{ModePages, Preamble};
use lunar_scsi::{AdditionalSense, Cdb, Features, Operation, Row, Sense, rsoc};

pub use diagnostic::{SelfTest, SelfTestResult, SelfTests};
pub(crate) use inquiry::{inquiry_without_unit, no_unit_sense, request_sense};
pub use mode::save;
pub(crate) use report_luns::report_luns;

use crate::{Command, LogicalUnit, Outcome};

/// What the common commands need to know of a logical unit.
pub trait Primary: LogicalUnit {
    /// Appends the standard INQUIRY data.
    fn inquiry(&self, data: &mut Vec<u8>);

    /// The VPD pages the unit has besides 00h and 88h, ascending.
    fn vpd_pages(&self) -> &'static [u8];

    /// Appends a VPD page (with its header) that [`vpd_pages`](Primary::vpd_pages) lists. The designators of target
    /// ports in page 83h are added to it.
    fn vpd(&self, page: u8, data: &mut Vec<u8>);

    /// Whether the unit can do what it is for: what TEST UNIT READY answers.
    ///
    /// # Errors
    /// 2/xx/xx
    fn ready(&self) -> Result<(), Sense>;

    /// What REQUEST SENSE reports when nothing else is to be reported: why the unit is not ready, or its power condition.
    fn condition(&self) -> Sense;

    /// Its mode pages. The changeable bits of the control page live on in [`LuState`](crate::LuState), too, where the
    /// data path reads them.
    fn mode_pages(&self) -> &Mutex<ModePages>;

    /// What stands before the mode pages.
    fn mode_preamble(&self) -> Preamble;

    /// MODE SELECT has changed the pages: makes the change effective, stores the saved values if the command says so, and
    /// completes it with `transferred` bytes. The pages are locked meanwhile.
    ///
    /// # Errors
    /// What keeps the change from becoming effective.
    fn mode_changed(
        &self,
        pages: &ModePages,
        command: &Command<'_>,
        transferred: usize,
    ) -> Result<Outcome, Sense>;

    /// What the common commands remember.
    fn common(&self) -> &Common;

    /// The log pages of the unit, ascending; 00h and 00h/FFh are the first two.
    fn log_pages(&self) -> &'static [(u8, u8)];

    /// The parameters of a log page that [`log_pages`](Primary::log_pages) lists. The lists of pages and the results of
    /// self-tests are known here.
    fn log_page(&self, key: (u8, u8), values: Values) -> Vec<Parameter>;

    /// The counters of a log page, or of all pages for 00h, start anew.
    fn reset_log(&self, key: (u8, u8));

    /// Runs a self-test, none being under way, and completes the command.
    ///
    /// # Errors
    /// What keeps the test from being run.
    fn self_test(&self, test: SelfTest, command: &Command<'_>) -> Result<Outcome, Sense>;

    /// Aborts the background self-test; whether there was one.
    fn abort_self_test(&self) -> bool;

    /// Stores the saved mode pages and [`Common::record`] as they are when this is called.
    fn keep_settings(&self) -> Stored;
}

/// Ends when something has been stored, or with what has kept it from being stored.
pub type Stored = Pin<Box<dyn Future<Output = Result<(), Sense>>>>;

/// What the common commands remember of a unit.
#[derive(Debug, Default)]
pub struct Common {
    buffers: buffer::Buffers,
    clock: clock::Clock,
    identifying: Arc<identifying::Identifying>,
    /// The self-tests that were run.
    pub self_tests: SelfTests,
}

impl Common {
    /// What outlives a restart.
    #[must_use]
    pub fn record(&self) -> Vec<u8> {
        self.identifying.record()
    }

    /// Takes over what [`record`](Common::record) had returned; returns what follows it.
    pub fn restore<'a>(&self, record: &'a [u8]) -> &'a [u8] {
        self.identifying.restore(record)
    }
}

/// Runs a command that all kinds of units share.
pub fn execute(lu: &dyn Primary, row: &Row, command: &mut Command<'_>) -> Outcome {
    match row.operation {
        Operation::TestUnitReady => match lu.ready() {
            Ok(()) => Outcome::good(0),
            Err(sense) => Outcome::check(sense),
        },
        Operation::Inquiry => inquiry::inquiry(lu, command),
        Operation::RequestSense => {
            let sense = match lu.state().take_attention(command.nexus) {
                Some(attention) => attention.sense(),
                None => lu.condition(),
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
            let mut profile = lu.profile();
            if !lu.state().is_moved_by_initiators() {
                profile.features.remove(Features::EXPLICIT_ALUA);
            }
            match rsoc::report(command.reply, profile, Cdb(command.cdb)) {
                Ok(()) => command.replied(),
                Err(sense) => Outcome::check(sense),
            }
        }
        Operation::ReportSupportedTaskManagementFunctions => task_management::report(command),
        Operation::ModeSense6 | Operation::ModeSense10 => mode::sense(lu, command),
        Operation::ModeSelect6 | Operation::ModeSelect10 => {
            mode::select(lu, command).unwrap_or_else(Outcome::check)
        }
        Operation::LogSense => log::sense(lu, command),
        Operation::LogSelect => log::select(lu, command).unwrap_or_else(Outcome::check),
        Operation::SendDiagnostic => diagnostic::send(lu, command).unwrap_or_else(Outcome::check),
        Operation::ReceiveDiagnosticResults => diagnostic::receive(command),
        Operation::ReadBuffer => buffer::read(lu, command),
        Operation::WriteBuffer => buffer::write(lu, command).unwrap_or_else(Outcome::check),
        Operation::ReportTimestamp => clock::report(lu, command),
        Operation::SetTimestamp => clock::set(lu, command).unwrap_or_else(Outcome::check),
        Operation::ReportIdentifyingInformation => identifying::report(lu, command),
        Operation::SetIdentifyingInformation => {
            identifying::set(lu, command).unwrap_or_else(Outcome::check)
        }
        Operation::PersistentReserveIn => reservation::persistent_in(lu, command),
        Operation::PersistentReserveOut => {
            reservation::persistent_out(lu, command).unwrap_or_else(Outcome::check)
        }
        Operation::Reserve => reservation::reserve(lu, command),
        Operation::Release => reservation::release(lu, command),
        Operation::ReportTargetPortGroups => ports::report(lu, command),
        Operation::SetTargetPortGroups => ports::set(lu, command).unwrap_or_else(Outcome::check),
        // The profile of a unit names only commands that it runs.
        _ => Outcome::check(Sense::illegal_request(
            AdditionalSense::INVALID_OPERATION_CODE,
        )),
    }
}
