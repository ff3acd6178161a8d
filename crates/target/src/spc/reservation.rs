//! PERSISTENT RESERVE IN and OUT (SPC-4 6.15, 6.16), and what becomes of the answers of reservations.

use lunar_scsi::reservation::{In, Out, Parameters, report_capabilities};
use lunar_scsi::{AdditionalSense, Sense, SenseKey};

use super::Primary;
use crate::reservation::{OutRequest, Persisted, Preempted, Refusal};
use crate::{Aborter, Command, Completion, Outcome};

/// How a command ends after which reservations are as `result` says.
pub(super) fn outcome(result: Result<(), Refusal>, transferred: usize) -> Outcome {
    Outcome::Done(completion(result, transferred))
}

fn completion<T>(result: Result<T, Refusal>, transferred: usize) -> Completion {
    match result {
        Ok(_) => Completion::good(transferred),
        Err(Refusal::Conflict) => Completion::CONFLICT,
        Err(Refusal::Check(sense)) => Completion::check(sense),
    }
}

pub(super) fn persistent_in(lu: &dyn Primary, command: Command<'_>) -> Outcome {
    let Some(action) = In::from_service_action(command.fields().service_action()) else {
        return Outcome::check(Sense::invalid_bits_in_cdb(1, 4));
    };
    let data = &mut *command.reply;
    let shown = lu
        .state()
        .persistent_reservations(|state, capabilities| match action {
            In::ReadKeys => state.read_keys(data),
            In::ReadReservation => state.read_reservation(data),
            In::ReportCapabilities => data.extend(report_capabilities(capabilities)),
            In::ReadFullStatus => state.read_full_status(data),
        });
    match shown {
        Ok(()) => command.replied(),
        refused => outcome(refused, 0),
    }
}

pub(super) fn persistent_out(lu: &dyn Primary, command: &Command<'_>) -> Result<Outcome, Sense> {
    let cdb = command.fields();
    let action = Out::from_service_action(cdb.service_action());
    let action = action.ok_or(Sense::invalid_bits_in_cdb(1, 4))?;
    if cdb.parameter_list_length() > Parameters::MAX_LEN {
        let too_long = AdditionalSense::PARAMETER_LIST_LENGTH_ERROR;
        return Err(Sense::illegal_request(too_long));
    }
    let Some(list) = command.parameter_list() else {
        return Ok(Outcome::Overrun);
    };
    let [_, _, scope_and_type, ..] = *command.cdb;
    let request = OutRequest {
        action,
        scope_and_type,
        parameters: Parameters::parse(action, &list)?,
    };
    let transferred = list.len();
    let aborter = (action == Out::PreemptAndAbort).then(|| (command.aborter)());
    Ok(
        match (
            lu.state().persistent_reserve_out(command.nexus, request),
            aborter,
        ) {
            (Persisted::Now(Ok(preempted)), Some(aborter)) => {
                Outcome::task(abort(aborter, Ok(preempted), transferred))
            }
            (Persisted::Now(result), _) => Outcome::Done(completion(result, transferred)),
            (Persisted::Later(saved), aborter) => Outcome::task(async move {
                let lost = Refusal::Check(Sense::new(
                    SenseKey::HardwareError,
                    AdditionalSense::INTERNAL_TARGET_FAILURE,
                ));
                let result = saved.await.unwrap_or(Err(lost));
                match aborter {
                    Some(aborter) => abort(aborter, result, transferred).await,
                    None => completion(result, transferred),
                }
            }),
        },
    )
}

/// The commands of those who were thrown out are over before the command that did it is (SC-044). The reservation is in
/// force already, so nothing follows them.
async fn abort(
    aborter: Aborter,
    result: Result<Preempted, Refusal>,
    transferred: usize,
) -> Completion {
    if let Ok(preempted) = &result
        && !preempted.is_empty()
    {
        aborter(preempted.clone()).await;
    }
    completion(result, transferred)
}
