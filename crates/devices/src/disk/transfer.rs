//! READ, WRITE and SYNCHRONIZE CACHE.

use std::sync::Arc;

use lunar_block::{Op, OpKind};
use lunar_scsi::Sense;
use lunar_sgl::Sgl;
use lunar_target::{Command, Completion, Outcome};

use super::medium::Medium;
use super::{Unit, error};

/// A range of the medium in bytes, known to lie inside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Unit {
    /// The bytes of `blocks` logical blocks from `lba` on. No blocks at the end of the medium are a range, too (SC-007).
    ///
    /// # Errors
    /// 5/21/00
    #[inline]
    pub(super) fn extent(&self, lba: u64, blocks: u64) -> Result<Extent, Sense> {
        match lba.checked_add(blocks) {
            // Inside the medium, whose size in bytes is a u64, neither shift can lose a bit.
            Some(end) if end <= self.capacity() => Ok(Extent {
                offset: lba << self.limits.block_shift,
                len: blocks << self.limits.block_shift,
            }),
            _ => Err(error::out_of_range()),
        }
    }

    /// The range that a READ, WRITE or VERIFY command names.
    ///
    /// # Errors
    /// 5/24/00 beyond the MAXIMUM TRANSFER LENGTH (SC-073), 5/21/00
    #[inline]
    pub(super) fn transfer(&self, command: &Command<'_>) -> Result<Extent, Sense> {
        let cdb = command.fields();
        let blocks = cdb.transfer_length();
        if blocks > self.limits.max_io {
            return Err(Sense::invalid_field_in_cdb(length_field(cdb.opcode())));
        }
        self.extent(cdb.lba(), u64::from(blocks))
    }
}

/// Where the TRANSFER LENGTH starts in a CDB.
pub(super) fn length_field(opcode: u8) -> u16 {
    match opcode {
        0x00..=0x1F => 4,
        0x20..=0x5F => 7,
        0x7F => 28,
        0x89 => 13,
        0x9C => 12,
        0x80..=0x9F => 10,
        _ => 6,
    }
}

/// How the transport's buffer compares with what a CDB implies (VS-037).
enum Buffer {
    Exact,
    Longer,
    Shorter,
}

#[inline]
fn compare(data: &Sgl, len: u64) -> Buffer {
    match (data.len() as u64).cmp(&len) {
        std::cmp::Ordering::Equal => Buffer::Exact,
        std::cmp::Ordering::Greater => Buffer::Longer,
        std::cmp::Ordering::Less => Buffer::Shorter,
    }
}

#[inline]
pub(super) fn read(unit: &Arc<Unit>, command: &Command<'_>) -> Result<Outcome, Sense> {
    unit.power.ready()?;
    let extent = unit.transfer(command)?;
    // FUA: what is read is on the medium, too (SBC-3 5.10).
    let flush = command.fields().fua() && unit.write_cache();
    match compare(&command.data_in, extent.len) {
        _ if extent.len == 0 => Ok(Outcome::good(0)),
        Buffer::Exact if !flush => Ok(Outcome::Io(Op::read(extent.offset, command.data_in))),
        Buffer::Exact | Buffer::Longer => several_steps(unit, command, OpKind::Read, extent, flush),
        Buffer::Shorter => Ok(Outcome::Overrun),
    }
}

#[inline]
pub(super) fn write(unit: &Arc<Unit>, command: &Command<'_>) -> Result<Outcome, Sense> {
    unit.power.ready()?;
    unit.writable()?;
    let extent = unit.transfer(command)?;
    // Without a write cache every write is durable when it ends.
    let fua = command.fields().fua() || !unit.write_cache();
    match compare(&command.data_out, extent.len) {
        _ if extent.len == 0 => Ok(Outcome::good(0)),
        Buffer::Exact => Ok(Outcome::Io(Op::write(extent.offset, command.data_out, fua))),
        Buffer::Longer => several_steps(unit, command, OpKind::Write { fua }, extent, false),
        Buffer::Shorter => Ok(Outcome::Overrun),
    }
}

/// A transfer that is not one operation on the whole buffer.
#[cold]
fn several_steps(
    unit: &Arc<Unit>,
    command: &Command<'_>,
    kind: OpKind,
    extent: Extent,
    flush_first: bool,
) -> Result<Outcome, Sense> {
    let medium = Medium::of(unit, command)?;
    let data = match kind {
        OpKind::Read => command.data_in,
        _ => command.data_out,
    };
    let steps = async move {
        if flush_first {
            medium.flush_cache().await?;
        }
        // An extent is not longer than the buffer, so it fits.
        let len = usize::try_from(extent.len).unwrap_or(usize::MAX);
        medium
            .run_list(kind, extent.offset, data.slice(0, len))
            .await?;
        Ok(len)
    };
    Ok(task(steps))
}

/// A task whose steps end with the number of bytes moved, or with sense data.
pub(super) fn task(steps: impl Future<Output = Result<usize, Sense>> + 'static) -> Outcome {
    Outcome::task(complete(steps))
}

pub(super) async fn complete(steps: impl Future<Output = Result<usize, Sense>>) -> Completion {
    match steps.await {
        Ok(transferred) => Completion::good(transferred),
        Err(sense) => Completion::check(sense),
    }
}

/// SYNCHRONIZE CACHE flushes everything, whatever range it names (no blocks mean "to the end"). With IMMED the status
/// comes when the flush is over all the same: then nothing is left in the background that a stop or a detach would
/// have to wait for, and an error has a command to be reported with.
pub(super) fn synchronize(unit: &Arc<Unit>, command: &Command<'_>) -> Result<Outcome, Sense> {
    unit.power.ready()?;
    let cdb = command.fields();
    unit.extent(cdb.lba(), u64::from(cdb.transfer_length()))?;
    Ok(Outcome::Io(Op::flush()))
}
