//! REPORT LUNS (SPC-4 6.33).

use lunar_scsi::report_luns::{SelectReport, encode};
use lunar_scsi::{Lun, LunAddress};

use crate::{Command, Outcome};

/// Lists the logical units behind the target that the command was sent to (VS-025). LUN 0 is always listed: it is
/// where an initiator starts, and it answers even when nothing is there.
pub fn report_luns(command: &mut Command<'_>) -> Outcome {
    let select = match SelectReport::parse(command.fields()) {
        Ok(select) => select,
        Err(sense) => return Outcome::check(sense),
    };
    let mut luns = vec![0];
    command.around.luns(&mut luns);
    luns.dedup();
    let listed = luns
        .into_iter()
        .filter_map(Lun::new)
        .map(LunAddress::Unit)
        .chain([LunAddress::REPORT_LUNS])
        .filter(|&lun| select.wants(lun));
    encode(command.reply, listed);
    command.replied()
}
