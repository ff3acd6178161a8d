//! PRE-FETCH (SBC-3 5.7 f.).
//!
//! The cache is the host's: what is read once is likely to be there when the initiator comes for it. How much of it is
//! free nobody can say, so the status is never CONDITION MET, which would promise that all of the blocks are in it.

use std::sync::Arc;

use lunar_block::{Buffer, OpKind};
use lunar_scsi::Sense;
use lunar_target::{Command, Outcome};

use super::Unit;
use super::medium::{CHUNK, Medium, chunks};
use super::transfer::{Extent, task};

/// What one command brings into the cache at most. It bounds the work that a command without data can cause.
const MOST: u64 = 16 << 20;

/// With IMMED the status comes when the blocks are there, too, as in SYNCHRONIZE CACHE.
pub(super) fn prefetch(unit: &Arc<Unit>, command: &Command<'_>) -> Result<Outcome, Sense> {
    unit.power.ready()?;
    let cdb = command.fields();
    let mut extent = unit.extent(cdb.lba(), u64::from(cdb.transfer_length()))?;
    if cdb.transfer_length() == 0 {
        extent = unit.extent(cdb.lba(), unit.capacity() - cdb.lba())?;
    }
    let extent = Extent {
        len: extent.len.min(MOST),
        ..extent
    };
    // An image that asks for alignment passes by the host's cache.
    if extent.len == 0 || unit.image.info().request_align > 1 {
        return Ok(Outcome::good(0));
    }
    let medium = Medium::of(unit, command)?;
    Ok(task(async move {
        let mut buffer = Buffer::new(CHUNK as usize);
        for (offset, len) in chunks(extent.offset, extent.len) {
            buffer = medium
                .run_owned(OpKind::Read, offset, len as usize, buffer)
                .await?;
            medium.pause().await?;
        }
        Ok(0)
    }))
}
