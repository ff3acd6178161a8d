//! VERIFY, and WRITE AND VERIFY: the medium is read, and compared with what the initiator has sent if BYTCHK says so.

use std::sync::Arc;

use lunar_block::{Buffer, OpKind};
use lunar_scsi::{AdditionalSense, Sense, SenseKey};
use lunar_sgl::Sgl;
use lunar_target::{Command, Outcome};

use super::Unit;
use super::medium::{CHUNK, Medium, chunks};
use super::transfer::{Extent, task};

/// What the medium is compared with.
#[derive(Clone, Copy)]
pub(super) enum Against {
    /// Nothing: it only has to be readable.
    Nothing,
    /// As many bytes.
    Bytes(Sgl),
    /// One block, again and again.
    Block(Sgl),
}

pub(super) fn verify(unit: &Arc<Unit>, command: &Command<'_>) -> Result<Outcome, Sense> {
    unit.power.ready()?;
    let extent = unit.transfer(command)?;
    let data = command.data_out;
    let block = u64::from(unit.limits.block_size());
    let (against, sent) = match command.fields().bytchk() {
        0 => (Against::Nothing, 0),
        1 => (Against::Bytes(data), extent.len),
        3 => (Against::Block(data), block),
        _ => {
            let flags = if command.fields().opcode() == 0x7F {
                10
            } else {
                1
            };
            return Err(Sense::invalid_bits_in_cdb(flags, 2));
        }
    };
    if extent.len == 0 {
        return Ok(Outcome::good(0));
    }
    if (data.len() as u64) < sent {
        return Ok(Outcome::Overrun);
    }
    let medium = Medium::of(unit, command)?;
    Ok(task(async move {
        // What is verified is the medium (SBC-3 5.28).
        medium.flush_cache().await?;
        compare(&medium, extent, against, block).await?;
        // Not longer than the buffer, whose length is a usize.
        Ok(usize::try_from(sent).unwrap_or(usize::MAX))
    }))
}

/// The data is on the medium before it is read back.
pub(super) fn write_and_verify(unit: &Arc<Unit>, command: &Command<'_>) -> Result<Outcome, Sense> {
    unit.power.ready()?;
    unit.writable()?;
    let extent = unit.transfer(command)?;
    if extent.len == 0 {
        return Ok(Outcome::good(0));
    }
    let data = command.data_out;
    let len = match usize::try_from(extent.len) {
        Ok(len) if len <= data.len() => len,
        _ => return Ok(Outcome::Overrun),
    };
    let against = match command.fields().bytchk() {
        0 => Against::Nothing,
        _ => Against::Bytes(data),
    };
    let block = u64::from(unit.limits.block_size());
    let medium = Medium::of(unit, command)?;
    Ok(task(async move {
        let fua = !medium.unit().write_cache();
        let kind = OpKind::Write { fua };
        medium
            .run_list(kind, extent.offset, data.slice(0, len))
            .await?;
        medium.flush_cache().await?;
        compare(&medium, extent, against, block).await?;
        Ok(len)
    }))
}

/// Reads a range and compares it.
///
/// # Errors
/// E/1D/00 with the first byte of the data-out buffer that differs (SC-031).
pub(super) async fn compare(
    medium: &Medium,
    extent: Extent,
    against: Against,
    block: u64,
) -> Result<(), Sense> {
    let mut buffer = Buffer::new(CHUNK as usize);
    for (offset, len) in chunks(extent.offset, extent.len) {
        let len = len as usize;
        buffer = medium.run_owned(OpKind::Read, offset, len, buffer).await?;
        let read = buffer.get(..len).unwrap_or_default();
        let at = offset - extent.offset;
        let difference = match against {
            Against::Nothing => None,
            Against::Bytes(data) => first_difference(read, data, at).map(|d| at + d),
            Against::Block(data) => read
                .chunks(usize::try_from(block).unwrap_or(usize::MAX))
                .find_map(|read| first_difference(read, data, 0)),
        };
        if let Some(at) = difference {
            let miscompare = AdditionalSense::MISCOMPARE_DURING_VERIFY;
            return Err(Sense::new(SenseKey::Miscompare, miscompare).with_information(at));
        }
        medium.pause().await?;
    }
    Ok(())
}

/// Where `read` and the bytes of `data` from `at` on differ first, counted from their beginning.
fn first_difference(read: &[u8], data: Sgl, at: u64) -> Option<u64> {
    let mut piece = [0u8; 4096];
    let mut done = 0u64;
    for read in read.chunks(piece.len()) {
        let offset = usize::try_from(at + done).unwrap_or(usize::MAX);
        let piece = piece.get_mut(..read.len()).unwrap_or_default();
        // `data` is at least as long as the range (checked at the start), so the piece is filled.
        data.read_at(offset, piece);
        if read != piece {
            let same = read.iter().zip(&*piece).take_while(|(a, b)| a == b).count();
            return Some(done + same as u64);
        }
        done += read.len() as u64;
    }
    None
}
