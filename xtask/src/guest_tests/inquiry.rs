//! What the disks say about themselves.

use anyhow::{Result, ensure};

use super::{Figures, Lab};
use crate::qemu::path_value;
use crate::scratch::Scratch;
use crate::storage::{Disks, create};

pub fn scsi_tools_have_nothing_to_complain_about(lab: &Lab) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let mut disks = Disks::default();
    for format in ["raw", "qcow2"] {
        let path = scratch.join(&format!("disk.{format}"));
        create(format, &path, "64M")?;
        let drive = format!("file={},format={format},discard=unmap", path_value(&path));
        disks.add(&drive, &scratch)?;
    }
    let storage = lab.serve(&scratch, &disks)?;
    let outcome = lab.guest(
        &storage,
        r#"
lsscsi -g
[ $(lsscsi | wc -l) = 2 ]
for target in 0 1; do
	disk=/dev/lun/0:0:$target:0
	for command in sg_inq "sg_vpd -a" "sg_vpd -p 0x83" sg_luns "sg_readcap" "sg_readcap --16" sg_opcodes "sg_modes -a" \
		sg_turs sg_requests "sg_sync" "sg_verify --count=8" "blockdev --getsize64" "sg_unmap --force --lba=8 --num=8" \
		"sg_write_same --16 --lba=16 --num=8 --in=/dev/zero --xferlen=512"; do
		echo "--- $command"
		$command $disk 2>&1 || { echo "$command: exit status $?"; exit 1; }
	done
done
echo "--- complaints of the kernel:"
kernel_complaints
"#,
    )?;
    let complaints = outcome
        .stdout
        .rsplit("--- complaints of the kernel:\n")
        .next()
        .unwrap_or_default();
    ensure!(complaints.is_empty(), "the kernel complains:\n{complaints}");
    for word in [
        "malformed",
        "llegal request",
        "nvalid opcode",
        "nvalid field",
    ] {
        let line = outcome.stdout.lines().find(|line| line.contains(word));
        ensure!(
            line.is_none(),
            "a tool complains: {}",
            line.unwrap_or_default()
        );
    }
    ensure!(
        outcome.stderr.is_empty(),
        "a tool complains:\n{}",
        outcome.stderr
    );
    storage.stop()?;
    Ok(Vec::new())
}
