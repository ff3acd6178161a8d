//! READ BUFFER and WRITE BUFFER (SPC-4 6.17, 6.49): a little memory of the unit, to try the way there and back with.
//! There is no microcode to download.

use std::sync::{Mutex, PoisonError};

use lunar_scsi::Sense;
use lunar_scsi::be::Fields;

use super::Primary;
use crate::{Command, Outcome};

/// MODE 02h: data.
const DATA: u8 = 0x02;
/// MODE 03h: the descriptor of the data buffer.
const DESCRIPTOR: u8 = 0x03;
/// MODE 0Ah: the echo buffer.
const ECHO: u8 = 0x0a;
/// MODE 0Bh: the descriptor of the echo buffer.
const ECHO_DESCRIPTOR: u8 = 0x0b;

/// Bytes in each buffer.
const CAPACITY: u16 = 4096;

/// The data buffer and the echo buffer of a unit.
#[derive(Debug)]
pub(super) struct Buffers {
    data: Mutex<Box<[u8]>>,
    /// Empty until it is written.
    echo: Mutex<Vec<u8>>,
}

impl Default for Buffers {
    fn default() -> Buffers {
        Buffers {
            data: Mutex::new(vec![0; CAPACITY.into()].into()),
            echo: Mutex::default(),
        }
    }
}

/// BUFFER OFFSET of either command.
fn offset(command: &Command<'_>) -> usize {
    usize::try_from(command.cdb.u24::<3>()).unwrap_or(usize::MAX)
}

pub(super) fn read(lu: &dyn Primary, command: &mut Command<'_>) -> Outcome {
    let buffers = &lu.common().buffers;
    let [_, mode, id, ..] = *command.cdb;
    let [_, high, low] = [0, CAPACITY.to_be_bytes()[0], CAPACITY.to_be_bytes()[1]];
    match mode {
        DATA if id != 0 => return Outcome::check(Sense::invalid_field_in_cdb(2)),
        DATA => {
            let data = buffers.data.lock().unwrap_or_else(PoisonError::into_inner);
            match data.get(offset(command)..) {
                Some(rest) => command.reply.extend(rest),
                None => return Outcome::check(Sense::invalid_field_in_cdb(3)),
            }
        }
        // OFFSET BOUNDARY 2^0; no buffer is all zeroes.
        DESCRIPTOR if id == 0 => command.reply.extend([0, 0, high, low]),
        DESCRIPTOR => command.reply.extend([0; 4]),
        ECHO => {
            let echo = buffers.echo.lock().unwrap_or_else(PoisonError::into_inner);
            if echo.is_empty() {
                let sequence = lunar_scsi::AdditionalSense::COMMAND_SEQUENCE_ERROR;
                return Outcome::check(Sense::illegal_request(sequence));
            }
            command.reply.extend(&*echo);
        }
        // EBOS = 0: another nexus may overwrite it, unnoticed.
        ECHO_DESCRIPTOR => command.reply.extend([0, 0, high, low]),
        _ => return Outcome::check(Sense::invalid_bits_in_cdb(1, 4)),
    }
    command.replied()
}

pub(super) fn write(lu: &dyn Primary, command: &Command<'_>) -> Result<Outcome, Sense> {
    let buffers = &lu.common().buffers;
    let [_, mode, id, ..] = *command.cdb;
    if mode != DATA && mode != ECHO {
        return Err(Sense::invalid_bits_in_cdb(1, 4));
    }
    if id != 0 && mode == DATA {
        return Err(Sense::invalid_field_in_cdb(2));
    }
    let start = if mode == DATA { offset(command) } else { 0 };
    let len = usize::try_from(command.fields().parameter_list_length()).unwrap_or(usize::MAX);
    if start > CAPACITY.into() {
        return Err(Sense::invalid_field_in_cdb(3));
    }
    if len > usize::from(CAPACITY) - start {
        return Err(Sense::invalid_field_in_cdb(6));
    }
    let Some(list) = command.parameter_list() else {
        return Ok(Outcome::Overrun);
    };
    if mode == DATA {
        let mut data = buffers.data.lock().unwrap_or_else(PoisonError::into_inner);
        for (to, from) in data.iter_mut().skip(start).zip(&list) {
            *to = *from;
        }
    } else if !list.is_empty() {
        let mut echo = buffers.echo.lock().unwrap_or_else(PoisonError::into_inner);
        echo.clone_from(&list);
    }
    Ok(Outcome::good(list.len()))
}
