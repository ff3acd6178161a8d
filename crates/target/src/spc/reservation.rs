//! PERSISTENT RESERVE IN and OUT (SPC-4 6.15, 6.16), RESERVE and RELEASE, and what becomes of their answers.

use std::sync::Arc;

use lunar_scsi::reservation::{In, Out, Parameters, report_capabilities};
use lunar_scsi::{AdditionalSense, Sense};

use super::Primary;
use crate::reservation::{OutRequest, Persisted, Preempted, Refusal};
use crate::{Aborter, Command, Completion, LuState, Outcome};

/// RESERVE of SPC-2.
pub(super) fn reserve(lu: &dyn Primary, command: &Command<'_>) -> Outcome {
    let result = lu.state().reserve(command.nexus);
    match lu.state().visits_over().filter(|_| result.is_ok()) {
        Some(over) => Outcome::task(async move {
            over.await;
            completion(result, 0)
        }),
        None => outcome(result, 0),
    }
}

/// RELEASE of SPC-2.
pub(super) fn release(lu: &dyn Primary, command: &Command<'_>) -> Outcome {
    outcome(lu.state().release(command.nexus), 0)
}

/// How a command ends after which reservations are as `result` says.
fn outcome(result: Result<(), Refusal>, transferred: usize) -> Outcome {
    Outcome::Done(completion(result, transferred))
}

fn completion<T>(result: Result<T, Refusal>, transferred: usize) -> Completion {
    match result {
        Ok(_) => Completion::good(transferred),
        Err(Refusal::Conflict) => Completion::CONFLICT,
        Err(Refusal::Check(sense)) => Completion::check(sense),
    }
}

pub(super) fn persistent_in(lu: &dyn Primary, command: &mut Command<'_>) -> Outcome {
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
    let aborter = (action == Out::PreemptAndAbort).then(|| command.around.aborter());
    let state = Arc::clone(lu.state());
    Ok(match state.persistent_reserve_out(command.nexus, request) {
        Persisted::Now(Ok(_)) if aborter.is_none() && state.visits_over().is_none() => {
            Outcome::good(transferred)
        }
        Persisted::Now(result) => Outcome::task(settle(state, aborter, result, transferred)),
        Persisted::Later(saved) => {
            Outcome::task(async move { settle(state, aborter, saved.await, transferred).await })
        }
    })
}

/// What was begun before a change of the reservations does not go on after it: the commands of those who were thrown
/// out are over (SC-044), and so are the steps of copies. The reservation is in force already, so nothing follows them.
/// The auto contingent allegiances of those who were thrown out end, too.
async fn settle(
    state: Arc<LuState>,
    aborter: Option<Aborter>,
    result: Result<Preempted, Refusal>,
    transferred: usize,
) -> Completion {
    if let Ok(preempted) = &result {
        if let Some(aborter) = aborter
            && !preempted.is_empty()
        {
            aborter(preempted.clone()).await;
            for &nexus in preempted {
                state.clear_aca(nexus);
            }
        }
        if let Some(over) = state.visits_over() {
            over.await;
        }
    }
    completion(result, transferred)
}
