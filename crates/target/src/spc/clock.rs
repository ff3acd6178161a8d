//! REPORT TIMESTAMP and SET TIMESTAMP (SPC-4 6.38, 6.46): milliseconds since 1970, the host's until an initiator knows
//! better.

use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use lunar_scsi::Sense;
use lunar_scsi::be::{bytes_at, u8_at};

use super::Primary;
use crate::{Command, Outcome, UnitAttention, Who};

/// TIMESTAMP ORIGIN: SET TIMESTAMP.
const BY_COMMAND: u8 = 2;
/// TIMESTAMP ORIGIN: some other way.
const BY_OTHER_MEANS: u8 = 3;

/// What an initiator has set, and when.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<Option<(u64, Instant)>>);

pub(super) fn report(lu: &dyn Primary, command: &mut Command<'_>) -> Outcome {
    let set = *lu
        .common()
        .clock
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let (origin, now) = match set {
        Some((time, at)) => (BY_COMMAND, u128::from(time) + at.elapsed().as_millis()),
        None => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            (BY_OTHER_MEANS, now.unwrap_or_default().as_millis())
        }
    };
    let [_, _, timestamp @ ..] = u64::try_from(now).unwrap_or(u64::MAX).to_be_bytes();
    command.reply.extend([0, 10, origin, 0]);
    command.reply.extend(timestamp);
    command.reply.extend([0, 0]);
    command.replied()
}

pub(super) fn set(lu: &dyn Primary, command: &Command<'_>) -> Result<Outcome, Sense> {
    let Some(list) = command.parameter_list() else {
        return Ok(Outcome::Overrun);
    };
    if list.is_empty() {
        return Ok(Outcome::good(0));
    }
    let Some([a, b, c, d, e, f]) = bytes_at(&list, 4).filter(|_| list.len() >= 12) else {
        let length = lunar_scsi::AdditionalSense::PARAMETER_LIST_LENGTH_ERROR;
        return Err(Sense::illegal_request(length));
    };
    if let Some(at) = (0..list.len())
        .filter(|at| !(4..10).contains(at))
        .find(|&at| u8_at(&list, at) != Some(0))
    {
        let at = u16::try_from(at).unwrap_or(u16::MAX);
        return Err(Sense::invalid_field_in_parameters(at));
    }
    let time = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    *lu.common()
        .clock
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = Some((time, Instant::now()));
    lu.state()
        .raise(Who::AllBut(command.nexus), UnitAttention::TimestampChanged);
    Ok(Outcome::good(list.len()))
}
