//! Firmware, and the boot disk that the printed QEMU options point it to.

use anyhow::{Result, ensure};

use super::{Figures, Lab, job};
use crate::qemu::{Firmware, Machine};
use crate::scratch::Scratch;
use crate::storage::Disks;

pub fn seabios_boots_from_a_disk_that_is_not_the_first(lab: &Lab) -> Result<Figures> {
    boots(lab, Firmware::Seabios, &[(0, 0)], 200)
}

/// OVMF before 2023 ends its scan at the first address without a disk, and looks at LUNs 0 to 7 of each target.
pub fn ovmf_boots_from_a_disk_that_is_not_the_first(lab: &Lab) -> Result<Figures> {
    let others: Vec<(u32, u32)> = (0..8).map(|lun| (0, lun)).collect();
    boots(lab, Firmware::Ovmf, &others, 1)
}

/// Boots from LUN 0 of `target`, with empty disks at `others`.
fn boots(lab: &Lab, firmware: Firmware, others: &[(u32, u32)], target: u32) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let path = scratch.join("boot.raw");
    let mut machine = Machine {
        firmware,
        ..Machine::new(&lab.image, Vec::new())
    };
    let script = format!(
        "ls /dev/lun/0:0:{target}:0\nls /dev/lun | wc -l\n[ -z \"$(kernel_complaints)\" ]\n"
    );
    machine.create_boot_disk(&path, &job(&script))?;
    let mut disks = Disks::sparse(others, &scratch)?;
    disks.boot_disk(&path, target);
    let storage = lab.serve(&scratch, &disks)?;
    machine.storage.clone_from(&storage.attach);
    let outcome = machine.start(&job(""))?.finish()?.success()?;
    let expected = format!("/dev/lun/0:0:{target}:0\n{}\n", others.len() + 1);
    ensure!(
        outcome.stdout == expected,
        "the guest sees other disks:\n{}",
        outcome.stdout
    );
    storage.stop()?;
    Ok(vec![format!(
        "power-on to power-off: {:.1} s",
        outcome.took.as_secs_f64()
    )])
}
