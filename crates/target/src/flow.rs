//! The way of a command to its logical unit, or to what answers in place of one.

use lunar_scsi::reservation::Out;
use lunar_scsi::{DeviceType, Operation, Profile, Row, Sense, decode};

use crate::{Asked, Command, Completion, LogicalUnit, Look, Manner, Outcome, Seen, spc};

/// Starts a command on a present logical unit: first whether an auto contingent allegiance is in its way, then whether it
/// has to wait, then unit attentions and reservations, then
/// the validity of its CDB, then the access state of the target port, then the unit's own
/// [`execute`](LogicalUnit::execute).
#[inline]
pub fn begin(lu: &dyn LogicalUnit, seen: &Seen, command: &mut Command<'_>) -> Outcome {
    let profile = lu.profile();
    let row = decode(profile, command.cdb);
    if (!lu.state().is_quiet(seen) || command.aca.is_some())
        && let Some(instead) = look(lu, profile, seen, row.as_ref().ok().copied(), command)
    {
        return instead;
    }
    match row {
        Ok(row) => lu.execute(row, command),
        Err(sense) => Outcome::check(sense),
    }
}

/// Something has changed since this reactor last looked: what has to happen instead of the command.
#[cold]
fn look(
    lu: &dyn LogicalUnit,
    profile: Profile,
    seen: &Seen,
    row: Option<&'static Row>,
    command: &Command<'_>,
) -> Option<Outcome> {
    let passes_attention = profile
        .rows_of(command.fields().opcode())
        .any(|row| row.passes_unit_attention);
    // A command without a row will be refused, and one that was admitted has waited.
    let extent = row
        .filter(|_| !passes_attention && !command.admitted)
        .map(|row| lu.extent(row, command.fields()));
    let fields = command.fields();
    let manner = Manner {
        naca: fields.naca(),
        aca: command.aca,
        preempts: row.is_some_and(|row| row.operation == Operation::PersistentReserveOut)
            && Out::from_service_action(fields.service_action()) == Some(Out::PreemptAndAbort),
    };
    let asked = Asked {
        manner,
        extent: extent.as_ref(),
        row: row.map(|row| (row, command.fields())),
        passes_attention,
    };
    match lu.state().look(command.nexus, seen, asked) {
        Look::Clear => None,
        Look::Wait => Some(Outcome::Wait(extent.flatten())),
        Look::Attention(attention) => Some(Outcome::check(attention.sense())),
        Look::Status(status) => Some(Outcome::Done(Completion::refused(status))),
        Look::Refused(sense) => Some(Outcome::check(sense)),
    }
}

/// Answers a command to an absent LUN of a known target (VS-024): INQUIRY says that there is nothing, REPORT LUNS and
/// REQUEST SENSE work, everything else is 5/25/00.
pub fn begin_absent(command: &mut Command<'_>) -> Outcome {
    begin_without_unit(DeviceType::Absent, command)
}

/// Answers a command to the REPORT LUNS well-known logical unit (VS-021).
pub fn begin_report_luns(command: &mut Command<'_>) -> Outcome {
    begin_without_unit(DeviceType::WellKnown, command)
}

fn begin_without_unit(device: DeviceType, command: &mut Command<'_>) -> Outcome {
    let row = match decode(Profile::new(device), command.cdb) {
        Ok(row) => row,
        Err(sense) => return Outcome::check(sense),
    };
    match row.operation {
        Operation::TestUnitReady => Outcome::good(0),
        Operation::Inquiry => spc::inquiry_without_unit(device, command),
        Operation::ReportLuns => spc::report_luns(command),
        Operation::RequestSense => spc::request_sense(spc::no_unit_sense(device), command),
        _ => Outcome::check(Sense::illegal_request(
            lunar_scsi::AdditionalSense::INVALID_OPERATION_CODE,
        )),
    }
}
