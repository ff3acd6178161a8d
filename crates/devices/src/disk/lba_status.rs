//! GET LBA STATUS: from the image's own allocation.

use std::sync::Arc;

use lunar_scsi::Sense;
use lunar_scsi::lba_status::{DESCRIPTOR, HEADER, LbaStatus, Provisioning, to_bytes};
use lunar_target::{Command, Outcome};

use super::medium::Medium;
use super::transfer::task;
use super::{Unit, error};

/// Questions to the image for one command. An initiator that wants to know more asks again from where the answer ends.
const QUESTIONS: u32 = 64;

pub(super) fn get_lba_status(unit: &Arc<Unit>, command: &Command<'_>) -> Result<Outcome, Sense> {
    unit.power.ready()?;
    let cdb = command.fields();
    let (start, end) = (cdb.lba(), unit.capacity());
    if start >= end {
        return Err(error::out_of_range());
    }
    let asked = usize::try_from(cdb.allocation_length()).unwrap_or(usize::MAX);
    let to = command.data_in;
    // There is always one descriptor; where there is no room for it, the data is cut as all parameter data is.
    if to.len() < asked.min(HEADER + DESCRIPTOR) {
        return Ok(Outcome::Overrun);
    }
    let room = (asked.min(to.len()).saturating_sub(HEADER) / DESCRIPTOR).max(1);
    let medium = Medium::of(unit, command)?;
    Ok(task(async move {
        let mut list: Vec<LbaStatus> = Vec::new();
        let mut lba = start;
        for _ in 0..QUESTIONS {
            if lba >= end {
                break;
            }
            let status = medium.lba_status(lba, end).await?;
            lba += u64::from(status.blocks);
            let full = list.len() == room;
            match list.last_mut() {
                Some(last)
                    if last.provisioning == status.provisioning
                        && last.blocks.checked_add(status.blocks).is_some() =>
                {
                    last.blocks += status.blocks;
                }
                _ if full => break,
                _ => list.push(status),
            }
            medium.pause().await?;
        }
        let mut data = to_bytes(&list);
        data.truncate(asked);
        Ok(to.write_at(0, &data))
    }))
}

impl Medium {
    /// The status of some blocks from `lba` on, which is before `end`.
    async fn lba_status(&self, lba: u64, end: u64) -> Result<LbaStatus, Sense> {
        let unit = self.unit();
        let most = u32::try_from(end - lba).unwrap_or(u32::MAX);
        let mut status = LbaStatus {
            lba,
            blocks: most,
            provisioning: Provisioning::Mapped,
        };
        // Where blocks cannot be given back they all are mapped, whatever the image is made of.
        if !unit.limits.unmap {
            return Ok(status);
        }
        let extent = unit.extent(lba, most.into())?;
        let found = self.allocation(extent.offset, extent.len).await?;
        let shift = unit.limits.block_shift;
        let whole = found.len >> shift;
        // A block is mapped if any part of it is.
        let blocks = if found.allocated || whole == 0 {
            found.len.div_ceil(1 << shift)
        } else {
            status.provisioning = Provisioning::Deallocated;
            whole
        };
        status.blocks = u32::try_from(blocks).unwrap_or(most).min(most);
        Ok(status)
    }
}
