//! REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.36).

use crate::{Command, Outcome};

/// REPD in byte 2 of the CDB: the extended format.
const EXTENDED: u8 = 0x80;
/// ABORT TASK, ABORT TASK SET, CLEAR ACA, CLEAR TASK SET, LOGICAL UNIT RESET, QUERY TASK.
const FUNCTIONS: u8 = 0x80 | 0x40 | 0x20 | 0x10 | 0x08 | 0x04;
/// QUERY TASK SET, I_T NEXUS RESET.
const MORE_FUNCTIONS: u8 = 0x02 | 0x01;
/// Bytes that the extended format has more: timeouts, none of which is indicated.
const TIMEOUTS: u8 = 12;

/// What a transport does for every unit.
pub(super) fn report(command: &mut Command<'_>) -> Outcome {
    let [_, _, flags, ..] = *command.cdb;
    let more = if flags & EXTENDED != 0 { TIMEOUTS } else { 0 };
    command.reply.extend([FUNCTIONS, MORE_FUNCTIONS, 0, more]);
    command.reply.resize(4 + usize::from(more), 0);
    command.replied()
}
