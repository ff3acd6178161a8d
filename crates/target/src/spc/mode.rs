//! MODE SENSE and MODE SELECT (SPC-4 6.12 to 6.15).

use std::sync::PoisonError;

use lunar_scsi::{Cdb, Sense};

use super::Primary;
use crate::{Command, Outcome, UnitAttention, Who};

/// MODE SENSE: the pages as they are.
pub(super) fn sense(lu: &dyn Primary, command: &mut Command<'_>) -> Outcome {
    let pages = lu
        .mode_pages()
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let built = pages.sense(command.reply, Cdb(command.cdb), &lu.mode_preamble());
    drop(pages);
    match built {
        Ok(()) => command.replied(),
        Err(sense) => Outcome::check(sense),
    }
}

/// MODE SELECT: all of the list is applied, or nothing. A change is heard of by every other nexus (SC-035).
pub(super) fn select(lu: &dyn Primary, command: &Command<'_>) -> Result<Outcome, Sense> {
    let Some(list) = command.parameter_list() else {
        return Ok(Outcome::Overrun);
    };
    let mut pages = lu
        .mode_pages()
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let selected = pages.select(command.fields(), &list, &lu.mode_preamble())?;
    if selected == *pages && !save(command) {
        return Ok(Outcome::good(list.len()));
    }
    let changed = !selected.same_values(&pages);
    *pages = selected;
    let state = lu.state();
    state.follow(&pages);
    let outcome = lu.mode_changed(&pages, command, list.len());
    drop(pages);
    if changed {
        state.raise(
            Who::AllBut(command.nexus),
            UnitAttention::ModeParametersChanged,
        );
    }
    outcome
}

/// SP of MODE SELECT: the pages are to be saved, too.
pub fn save(command: &Command<'_>) -> bool {
    command.fields().byte1() & 0x01 != 0
}
