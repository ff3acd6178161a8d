//! Commands that nothing overlapping may run beside: COMPARE AND WRITE (SBC-3 5.2, SC-063), ORWRITE (SBC-3 5.6) and WRITE
//! ATOMIC (SBC-4 5.48).
//!
//! A unit gives them their blocks for themselves, so they are one step to every other command, whatever queue, nexus or
//! worker it comes from. They are no more than that: a write that the host's power failure cuts short may be torn. Initiators
//! take WRITE ATOMIC for more, so it is offered only where that is so: see [`DiskConfig::atomic_writes`].

use std::sync::Arc;

use lunar_block::{Buffer, OpKind};
use lunar_scsi::Sense;
use lunar_sgl::Sgl;
use lunar_target::{Command, Outcome};

#[cfg(doc)]
use super::DiskConfig;
use super::Unit;
use super::medium::{CHUNK, Medium, chunks};
use super::transfer::{Extent, complete, length_field};
use super::verify::{Against, compare};

/// Either all of the data that the initiator expects is there, and is replaced, or nothing happens.
pub(super) fn compare_and_write(unit: &Arc<Unit>, command: &Command<'_>) -> Result<Outcome, Sense> {
    unit.power.ready()?;
    unit.writable()?;
    let cdb = command.fields();
    let blocks = cdb.transfer_length();
    if blocks > u32::from(unit.limits.max_compare_and_write) {
        return Err(Sense::invalid_field_in_cdb(length_field(cdb.opcode())));
    }
    let extent = unit.extent(cdb.lba(), blocks.into())?;
    let data = command.data_out;
    if blocks == 0 && !data.is_empty() {
        // A number too large for its field of one byte comes as none, with data.
        return Err(Sense::invalid_field_in_cdb(length_field(cdb.opcode())));
    }
    let Some(len) = sent(data, extent.len * 2) else {
        return Ok(Outcome::Overrun);
    };
    if len == 0 {
        return Ok(Outcome::good(0));
    }
    let fua = cdb.fua() || !unit.write_cache();
    let block = u64::from(unit.limits.block_size());
    let medium = Medium::of(unit, command)?;
    Ok(alone(unit, extent, async move {
        compare(&medium, extent, Against::Bytes(data), block).await?;
        let new = data.slice(len / 2, len / 2);
        medium
            .run_list(OpKind::Write { fua }, extent.offset, new)
            .await?;
        Ok(len)
    }))
}

/// Bits are set where the initiator has sent ones.
pub(super) fn or_write(unit: &Arc<Unit>, command: &Command<'_>) -> Result<Outcome, Sense> {
    unit.power.ready()?;
    unit.writable()?;
    let extent = unit.transfer(command)?;
    let data = command.data_out;
    let Some(len) = sent(data, extent.len) else {
        return Ok(Outcome::Overrun);
    };
    if len == 0 {
        return Ok(Outcome::good(0));
    }
    let fua = command.fields().fua() || !unit.write_cache();
    let medium = Medium::of(unit, command)?;
    Ok(alone(unit, extent, async move {
        let mut buffer = Buffer::new(CHUNK as usize);
        let mut ones = vec![0; CHUNK as usize];
        let mut done = 0;
        for (offset, len) in chunks(extent.offset, extent.len) {
            let len = len as usize;
            buffer = medium.run_owned(OpKind::Read, offset, len, buffer).await?;
            data.read_at(done, &mut ones);
            for (byte, ones) in buffer.iter_mut().zip(&ones) {
                *byte |= ones;
            }
            let kind = OpKind::Write { fua };
            buffer = medium.run_owned(kind, offset, len, buffer).await?;
            done += len;
            medium.pause().await?;
        }
        Ok(len)
    }))
}

/// All of the blocks change at once. ATOMIC BOUNDARY is a field that the command table refuses: there is one write only.
pub(super) fn write_atomic(unit: &Arc<Unit>, command: &Command<'_>) -> Result<Outcome, Sense> {
    unit.power.ready()?;
    unit.writable()?;
    let cdb = command.fields();
    let (lba, blocks) = (cdb.lba(), cdb.transfer_length());
    if blocks > unit.limits.max_atomic {
        return Err(Sense::invalid_field_in_cdb(length_field(cdb.opcode())));
    }
    let extent = unit.extent(lba, blocks.into())?;
    let physical = 1 << unit.limits.physical_exponent;
    if !lba.is_multiple_of(physical) {
        return Err(Sense::invalid_field_in_cdb(2)); // ATOMIC ALIGNMENT
    }
    if !u64::from(blocks).is_multiple_of(physical) {
        return Err(Sense::invalid_field_in_cdb(length_field(cdb.opcode()))); // ATOMIC TRANSFER LENGTH GRANULARITY
    }
    let data = command.data_out;
    let Some(len) = sent(data, extent.len) else {
        return Ok(Outcome::Overrun);
    };
    if len == 0 {
        return Ok(Outcome::good(0));
    }
    let fua = cdb.fua() || !unit.write_cache();
    let medium = Medium::of(unit, command)?;
    Ok(alone(unit, extent, async move {
        let data = data.slice(0, len);
        medium
            .run_list(OpKind::Write { fua }, extent.offset, data)
            .await?;
        Ok(len)
    }))
}

/// The bytes that a command uses of the data-out buffer, if they are all there.
fn sent(data: Sgl, len: u64) -> Option<usize> {
    usize::try_from(len).ok().filter(|&len| len <= data.len())
}

/// A task that has its blocks for itself. While it waited for them the disk may have been stopped or erased.
fn alone(
    unit: &Arc<Unit>,
    extent: Extent,
    steps: impl Future<Output = Result<usize, Sense>> + 'static,
) -> Outcome {
    let unit = Arc::clone(unit);
    let range = extent.offset..extent.offset + extent.len;
    Outcome::exclusive(
        Some(range),
        complete(async move {
            unit.power.ready()?;
            unit.writable()?;
            steps.await
        }),
    )
}
