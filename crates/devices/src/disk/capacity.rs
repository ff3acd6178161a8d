//! READ CAPACITY.

use lunar_scsi::Sense;
use lunar_scsi::capacity::Capacity;
use lunar_target::{Command, Outcome};

use super::Unit;

pub(super) fn read_capacity_10(unit: &Unit, command: &mut Command<'_>) -> Result<Outcome, Sense> {
    unit.power.ready()?;
    command.reply.extend(unit.capacity_data().to_bytes_10());
    Ok(command.replied_whole())
}

pub(super) fn read_capacity_16(unit: &Unit, command: &mut Command<'_>) -> Result<Outcome, Sense> {
    unit.power.ready()?;
    command.reply.extend(unit.capacity_data().to_bytes_16());
    Ok(command.replied())
}

impl Unit {
    fn capacity_data(&self) -> Capacity {
        Capacity {
            blocks: self.capacity(),
            block_length: self.limits.block_size(),
            physical_exponent: self.limits.physical_exponent,
            lowest_aligned: 0,
            provisioning: self.limits.unmap,
            reads_zeroes: self.limits.unmapped_reads_zero,
        }
    }
}
