//! READ DEFECT DATA (SBC-3 5.14 f.): an image has no flaws that it knows of, so every list is empty, and an empty list
//! has any format.

use lunar_scsi::Sense;
use lunar_target::{Command, Outcome};

use super::Unit;

/// REQ_PLIST and REQ_GLIST, which the answer repeats as PLISTV and GLISTV.
const LISTS: u8 = 0x18;
/// DEFECT LIST FORMAT.
const FORMAT: u8 = 0x07;
/// The highest format that is neither vendor specific nor reserved.
const PHYSICAL_SECTOR: u8 = 0b101;

pub(super) fn read_defect_data_10(
    unit: &Unit,
    command: &mut Command<'_>,
) -> Result<Outcome, Sense> {
    unit.power.ready()?;
    let [_, _, asked, ..] = *command.cdb;
    check_format(asked, 2)?;
    command.reply.extend([0, asked & (LISTS | FORMAT), 0, 0]);
    Ok(command.replied())
}

pub(super) fn read_defect_data_12(
    unit: &Unit,
    command: &mut Command<'_>,
) -> Result<Outcome, Sense> {
    unit.power.ready()?;
    let asked = command.fields().byte1();
    check_format(asked, 1)?;
    let header = [0, asked & (LISTS | FORMAT), 0, 0, 0, 0, 0, 0];
    command.reply.extend(header);
    Ok(command.replied())
}

fn check_format(asked: u8, byte: u16) -> Result<(), Sense> {
    if asked & FORMAT > PHYSICAL_SECTOR {
        return Err(Sense::invalid_bits_in_cdb(byte, 2));
    }
    Ok(())
}
