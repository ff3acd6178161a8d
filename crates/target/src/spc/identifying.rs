//! REPORT and SET IDENTIFYING INFORMATION (SPC-4 6.32, 6.43): what an administrator calls the unit. It is kept with the
//! saved mode pages.

use std::sync::{Arc, Mutex, PoisonError};

use lunar_scsi::Sense;

use super::Primary;
use crate::{Command, Completion, Outcome, UnitAttention, Who};

/// INFORMATION TYPE 000_0000b: peripheral device identifying information, and how long it may be.
const IDENTIFIER: (u8, u16) = (0, 64);
/// INFORMATION TYPE 000_0010b: text, null-terminated UTF-8.
const TEXT: (u8, u16) = (2, 256);
/// INFORMATION TYPE 111_1111b: which there are.
const SUPPORTED: u8 = 0x7f;

/// What the unit is called, by type.
#[derive(Debug, Default)]
pub(super) struct Identifying {
    identifier: Mutex<Vec<u8>>,
    text: Mutex<Vec<u8>>,
}

impl Identifying {
    /// The information of a type, and how long it may be.
    fn of(&self, kind: u8) -> Option<(&Mutex<Vec<u8>>, u16)> {
        match kind {
            0 => Some((&self.identifier, IDENTIFIER.1)),
            2 => Some((&self.text, TEXT.1)),
            _ => None,
        }
    }

    /// What is to be kept: each behind its length.
    pub(super) fn record(&self) -> Vec<u8> {
        let mut record = Vec::new();
        for part in [&self.identifier, &self.text] {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            record.extend(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
            record.extend(&*part);
        }
        record
    }

    /// Takes over what was kept; returns what follows it.
    pub(super) fn restore<'a>(&self, mut record: &'a [u8]) -> &'a [u8] {
        for (part, longest) in [(&self.identifier, IDENTIFIER.1), (&self.text, TEXT.1)] {
            let Some((length, rest)) = record.split_first_chunk() else {
                return &[];
            };
            let length = u16::from_be_bytes(*length);
            let Some((kept, rest)) = rest.split_at_checked(length.into()) else {
                return &[];
            };
            if length <= longest {
                *part.lock().unwrap_or_else(PoisonError::into_inner) = kept.to_vec();
            }
            record = rest;
        }
        record
    }
}

impl Identifying {
    /// What was set could not be stored: it is what it was before, unless somebody else has set something meanwhile.
    fn take_back(&self, kind: u8, set: &[u8], before: Vec<u8>) {
        if let Some((information, _)) = self.of(kind) {
            let mut information = information.lock().unwrap_or_else(PoisonError::into_inner);
            if *information == set {
                *information = before;
            }
        }
    }
}

/// INFORMATION TYPE of either command.
fn kind(command: &Command<'_>) -> u8 {
    let [_, _, _, _, _, _, _, _, _, _, kind, ..] = *command.cdb;
    kind >> 1
}

pub(super) fn report(lu: &dyn Primary, command: &mut Command<'_>) -> Outcome {
    let known = &lu.common().identifying;
    let kind = kind(command);
    let information = if kind == SUPPORTED {
        [IDENTIFIER, TEXT]
            .into_iter()
            .flat_map(|(kind, longest)| {
                let [high, low] = longest.to_be_bytes();
                [kind << 1, 0, high, low]
            })
            .collect()
    } else if let Some((information, _)) = known.of(kind) {
        let information = information.lock().unwrap_or_else(PoisonError::into_inner);
        information.clone()
    } else {
        return Outcome::check(Sense::invalid_bits_in_cdb(10, 7));
    };
    let [high, low] = u16::try_from(information.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes();
    command.reply.extend([0, 0, high, low]);
    command.reply.extend(information);
    command.replied()
}

pub(super) fn set(lu: &dyn Primary, command: &Command<'_>) -> Result<Outcome, Sense> {
    let common = lu.common();
    let kind = kind(command);
    let Some((information, longest)) = common.identifying.of(kind) else {
        return Err(Sense::invalid_bits_in_cdb(10, 7));
    };
    if command.fields().parameter_list_length() > longest.into() {
        return Err(Sense::invalid_field_in_cdb(6));
    }
    let Some(list) = command.parameter_list() else {
        return Ok(Outcome::Overrun);
    };
    let before = {
        let mut information = information.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *information, list.clone())
    };
    let stored = lu.keep_settings();
    let (state, nexus) = (Arc::clone(lu.state()), command.nexus);
    let identifying = Arc::clone(&common.identifying);
    Ok(Outcome::task(async move {
        if let Err(sense) = stored.await {
            identifying.take_back(kind, &list, before);
            return Completion::check(sense);
        }
        state.raise(Who::AllBut(nexus), UnitAttention::IdentifierChanged);
        Completion::good(list.len())
    }))
}
