//! LOG SENSE and LOG SELECT (SPC-4 6.5, 6.6).

use lunar_scsi::Sense;
use lunar_scsi::be::Fields;
use lunar_scsi::log::{Values, code, parameters, supported};

use super::Primary;
use crate::{Command, Outcome, UnitAttention, Who};

/// PCR of LOG SELECT: parameter code reset.
const RESET: u8 = 0x02;

/// Page and subpage that either command names.
fn key(command: &Command<'_>) -> (u8, u8) {
    let [_, _, page, subpage, ..] = *command.cdb;
    (page & 0x3f, subpage)
}

/// Whether there is such a page.
fn check(lu: &dyn Primary, (page, subpage): (u8, u8)) -> Result<(), Sense> {
    let pages = lu.log_pages();
    if pages.contains(&(page, subpage)) {
        return Ok(());
    }
    Err(if pages.iter().any(|known| known.0 == page) {
        Sense::invalid_field_in_cdb(3)
    } else {
        Sense::invalid_bits_in_cdb(2, 5)
    })
}

pub(super) fn sense(lu: &dyn Primary, command: &mut Command<'_>) -> Outcome {
    let key = key(command);
    let (values, from) = (Values::of(command.fields()), command.cdb.u16::<5>());
    let built = check(lu, key).and_then(|()| match key {
        code::SUPPORTED_PAGES | code::SUPPORTED_SUBPAGES if from != 0 => {
            Err(Sense::invalid_field_in_cdb(5))
        }
        code::SUPPORTED_PAGES | code::SUPPORTED_SUBPAGES => {
            supported(
                command.reply,
                lu.log_pages(),
                key == code::SUPPORTED_SUBPAGES,
            );
            Ok(())
        }
        code::SELF_TEST_RESULTS => {
            let results = lu.common().self_tests.parameters();
            parameters(command.reply, key, &results, from)
        }
        key => parameters(command.reply, key, &lu.log_page(key, values), from),
    });
    match built {
        Ok(()) => command.replied(),
        Err(sense) => Outcome::check(sense),
    }
}

/// Counters can be set back, all at once, and to nothing else.
pub(super) fn select(lu: &dyn Primary, command: &Command<'_>) -> Result<Outcome, Sense> {
    let (page, subpage) = key(command);
    let [_, flags, ..] = *command.cdb;
    let length = command.fields().parameter_list_length();
    if (page, subpage) != (0, 0) {
        check(lu, (page, subpage))?;
    }
    if length != 0 {
        return Err(Sense::invalid_field_in_cdb(if flags & RESET != 0 {
            1
        } else {
            7
        }));
    }
    let defaults = Values::of(command.fields()) == Values::DefaultCumulative;
    if flags & RESET != 0 || defaults {
        lu.reset_log((page, subpage));
        lu.state().raise(
            Who::AllBut(command.nexus),
            UnitAttention::LogParametersChanged,
        );
    }
    Ok(Outcome::good(0))
}
