//! Firmware, and the boot disk that the printed QEMU options point it to.

use anyhow::{Result, ensure};

use super::{Figures, Lab, job};
use crate::qemu::{Firmware, Machine};
use crate::scratch::Scratch;
use crate::storage::Disks;

pub fn seabios_boots_from_a_disk_that_is_not_the_first(lab: &Lab) -> Result<Figures> {
    boots_from_the_second_disk(lab, Firmware::Seabios)
}

pub fn ovmf_boots_from_a_disk_that_is_not_the_first(lab: &Lab) -> Result<Figures> {
    boots_from_the_second_disk(lab, Firmware::Ovmf)
}

fn boots_from_the_second_disk(lab: &Lab, firmware: Firmware) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let path = scratch.join("boot.raw");
    let mut machine = Machine {
        firmware,
        ..Machine::new(&lab.image, Vec::new())
    };
    machine.create_boot_disk(
        &path,
        &job("ls /dev/lun\n[ -z \"$(kernel_complaints)\" ]\n"),
    )?;
    let mut disks = Disks::default();
    disks.add("64M", &scratch)?;
    disks.boot_disk(&path);
    let storage = lab.serve(&scratch, &disks)?;
    machine.storage.clone_from(&storage.attach);
    let outcome = machine.start(&job(""))?.finish()?.success()?;
    ensure!(
        outcome.stdout == "0:0:0:0\n0:0:30:0\n",
        "the guest sees other disks:\n{}",
        outcome.stdout
    );
    storage.stop()?;
    Ok(vec![format!(
        "power-on to power-off: {:.1} s",
        outcome.took.as_secs_f64()
    )])
}
