//! UNMAP (SBC-3 5.27).

use std::sync::Arc;

use lunar_block::Op;
use lunar_scsi::Sense;
use lunar_scsi::unmap::{Limits, parse};
use lunar_target::{Command, Outcome};

use super::Unit;
use super::medium::Medium;
use super::transfer::{Extent, task};

/// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT of VPD B0.
pub(super) const MAX_DESCRIPTORS: u32 = 255;

pub(super) fn unmap(unit: &Arc<Unit>, command: &Command<'_>) -> Result<Outcome, Sense> {
    unit.power.ready()?;
    unit.writable()?;
    let Some(list) = command.parameter_list() else {
        return Ok(Outcome::Overrun);
    };
    let limits = Limits {
        capacity: unit.capacity(),
        max_blocks: unit.limits.max_unmap,
        max_descriptors: MAX_DESCRIPTORS,
    };
    let extents = parse(&list, limits)?
        .filter(|range| range.blocks != 0)
        .map(|range| unit.extent(range.lba, range.blocks.into()))
        .collect::<Result<Vec<Extent>, Sense>>()?;
    if extents.is_empty() {
        return Ok(Outcome::good(list.len()));
    }
    let medium = Medium::of(unit, command)?;
    Ok(task(async move {
        for extent in extents {
            medium.run(Op::discard(extent.offset, extent.len)).await?;
            medium.pause().await?;
        }
        if !medium.unit().write_cache() {
            medium.run(Op::flush()).await?;
        }
        Ok(list.len())
    }))
}
