//! WRITE SAME (SBC-3 5.41 f., SC-061).

use std::sync::Arc;

use lunar_block::{Buffer, Op, OpKind};
use lunar_scsi::{AdditionalSense, Sense};
use lunar_target::{Command, Outcome};

use super::Unit;
use super::medium::{CHUNK, Medium, chunks};
use super::transfer::{Extent, length_field, task};

/// UNMAP: the blocks may be given back if they read as the pattern afterwards.
const UNMAP: u8 = 0x08;
/// NDOB of WRITE SAME(16): no data-out buffer, the pattern is zeroes.
const NDOB: u8 = 0x01;

pub(super) fn write_same(unit: &Arc<Unit>, command: &Command<'_>) -> Result<Outcome, Sense> {
    unit.power.ready()?;
    unit.writable()?;
    let cdb = command.fields();
    let extent = unit.transfer(command)?;
    if extent.len == 0 {
        // WSNZ of VPD B0: "no blocks" does not mean "to the end".
        return Err(Sense::invalid_field_in_cdb(length_field(cdb.opcode())));
    }
    let flags = cdb.block_flags();
    let mut pattern = vec![0; unit.limits.block_size() as usize];
    let sent = if flags & NDOB != 0 {
        0
    } else {
        // The data-out buffer is one block, whatever the range is (SBC-3 5.41): an initiator that sends anything else means
        // another block size, and is not to overwrite a range with the wrong pattern.
        if command.data_out.len() != pattern.len() {
            return Err(Sense::illegal_request(
                AdditionalSense::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT,
            ));
        }
        command.data_out.read_at(0, &mut pattern)
    };
    let medium = Medium::of(unit, command)?;
    let unmap = flags & UNMAP != 0;
    Ok(task(async move {
        let fua = !medium.unit().write_cache();
        if pattern.iter().all(|&byte| byte == 0) {
            let op = Op::write_zeroes(extent.offset, extent.len, unmap, fua);
            medium.run(op).await?;
        } else {
            repeat(&medium, extent, &pattern, fua).await?;
        }
        Ok(sent)
    }))
}

/// Writes the pattern to every block of the range.
async fn repeat(medium: &Medium, extent: Extent, pattern: &[u8], fua: bool) -> Result<(), Sense> {
    let longest = u32::try_from(extent.len).unwrap_or(CHUNK).min(CHUNK);
    let mut buffer = Buffer::new(longest as usize);
    for block in buffer.chunks_mut(pattern.len()) {
        for (to, from) in block.iter_mut().zip(pattern) {
            *to = *from;
        }
    }
    for (offset, len) in chunks(extent.offset, extent.len) {
        buffer = medium
            .run_owned(OpKind::Write { fua }, offset, len as usize, buffer)
            .await?;
        medium.pause().await?;
    }
    Ok(())
}
