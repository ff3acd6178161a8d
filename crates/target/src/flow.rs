//! The way of a command to its logical unit, or to what answers in place of one.

use lunar_scsi::{DeviceType, Operation, Profile, Sense, decode};

use crate::{Command, LogicalUnit, Look, Outcome, Seen, spc};

/// Starts a command on a present logical unit: first whether it has to wait, then unit attention, then the validity of
/// its CDB, then the unit's own [`execute`](LogicalUnit::execute).
#[inline]
pub fn begin(lu: &dyn LogicalUnit, seen: &Seen, command: Command<'_>) -> Outcome {
    let profile = lu.profile();
    if !lu.state().is_quiet(seen)
        && let Some(instead) = look(lu, profile, seen, &command)
    {
        return instead;
    }
    match decode(profile, command.cdb) {
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
    command: &Command<'_>,
) -> Option<Outcome> {
    let passes = profile
        .rows_of(command.fields().opcode())
        .any(|row| row.passes_unit_attention);
    if passes {
        return None;
    }
    let extent = match decode(profile, command.cdb) {
        Ok(row) if !command.admitted => Some(lu.extent(row, command.fields())),
        // It will be refused, or has waited.
        _ => None,
    };
    match lu.state().look(command.nexus, seen, extent.as_ref()) {
        Look::Clear => None,
        Look::Attention(attention) => Some(Outcome::check(attention.sense())),
        Look::Wait => Some(Outcome::Wait(extent.flatten())),
    }
}

/// Answers a command to an absent LUN of a known target (VS-024): INQUIRY says that there is nothing, REPORT LUNS and
/// REQUEST SENSE work, everything else is 5/25/00.
pub fn begin_absent(command: Command<'_>) -> Outcome {
    begin_without_unit(DeviceType::Absent, command)
}

/// Answers a command to the REPORT LUNS well-known logical unit (VS-021).
pub fn begin_report_luns(command: Command<'_>) -> Outcome {
    begin_without_unit(DeviceType::WellKnown, command)
}

fn begin_without_unit(device: DeviceType, command: Command<'_>) -> Outcome {
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
