//! Disks that get another size while a guest uses them.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Figures, Lab, PRELUDE};
use crate::process::{read, tied, try_read};
use crate::qemu::{Job, Machine};
use crate::scratch::Scratch;
use crate::storage::{Disks, create};

const PATIENCE: Duration = Duration::from_secs(300);

/// A file system on each disk, which grows with it while it is mounted. Nobody asks the kernel to look again.
const GROW: &str = r#"
size_is() {
	local try
	for try in $(seq 600); do
		[ $(cat /sys/block/$1/size) = $(($2 * 2048)) ] && return
		sleep 0.1
	done
	echo "$1 has $(cat /sys/block/$1/size) blocks and not $2 MiB"
	dmesg | tail
	exit 1
}
dd if=/dev/urandom of=/tmp/seed bs=1M count=2 2>/dev/null
for target in 0 1; do
	disk=$(basename $(readlink /dev/lun/0:0:$target:0))
	eval disk$target=$disk
	size_is $disk 24
	mkfs.ext4 -q /dev/$disk
	mkdir -p /mnt/$target
	mount /dev/$disk /mnt/$target
	for number in 1 2 3; do cp /tmp/seed /mnt/$target/file$number; done
done
sync
echo mounted
for target in 0 1; do
	eval disk=\$disk$target
	size_is $disk 64
	resize2fs /dev/$disk
	[ $(df -k /mnt/$target | awk 'END { print $2 }') -gt 50000 ]
	for number in 4 5 6 7 8 9 10; do cp /tmp/seed /mnt/$target/file$number; done
	sync
	umount /mnt/$target
	e2fsck -fn /dev/$disk
	mount -o ro /dev/$disk /mnt/$target
	for number in $(seq 10); do cmp /tmp/seed /mnt/$target/file$number; done
	umount /mnt/$target
	dmesg | grep "$disk: detected capacity change from 49152 to 131072" >/dev/null
done
echo grown
for target in 0 1; do
	eval disk=\$disk$target
	size_is $disk 16
	blockdev --flushbufs /dev/$disk
	dd if=/tmp/seed of=/dev/$disk bs=1M seek=14 oflag=direct 2>/dev/null
	! dd if=/tmp/seed of=/dev/$disk bs=1M seek=16 count=1 oflag=direct 2>/dev/null
	dd if=/dev/$disk bs=1M skip=14 count=2 iflag=direct 2>/dev/null | cmp - /tmp/seed
done
# New sizes are news and no complaints.
[ -z "$(kernel_complaints)" ] || { kernel_complaints; exit 1; }
"#;

pub fn a_mounted_file_system_grows_with_its_disk(lab: &Lab) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let mut disks = Disks::default();
    let [raw, qcow2] = ["raw", "qcow2"].map(|format| scratch.join(&format!("disk.{format}")));
    for (format, path) in [("raw", &raw), ("qcow2", &qcow2)] {
        create(format, path, "24M")?;
        disks.image(path, &scratch)?;
    }
    let storage = lab.serve(&scratch, &disks)?;
    let monitor: &Path = &scratch.join("lunar.qmp");
    let resize = |drive: &str, size: &str| {
        let mut command = tied(&lab.lunar);
        command.arg("resize").arg("--monitor").arg(monitor);
        command.args([drive, size]);
        command
    };
    let machine = Machine {
        targets: Some("0,1".to_owned()),
        ..lab.machine(&storage)
    };
    let mut running = machine.start(&Job::new(&format!("{PRELUDE}{GROW}"), PATIENCE))?;
    running.wait_for("mounted")?;
    // One grows by another program's hand, the other by order.
    File::options().write(true).open(&raw)?.set_len(64 << 20)?;
    read(&mut resize("drive1", "+40M"))?;
    for drive in ["drive0", "drive1"] {
        let refused = try_read(&mut resize(drive, "16M"))?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(
            !refused.status.success() && said.contains("force"),
            "{said}"
        );
    }
    running.wait_for("grown")?;
    for drive in ["drive0", "drive1"] {
        read(resize(drive, "16M").arg("--force"))?;
    }
    running.finish()?.success()?;
    storage.stop()?;
    ensure!(std::fs::metadata(&raw)?.len() == 16 << 20);
    read(tied("qemu-img").args(["check", "-q"]).arg(&qcow2))?;
    Ok(Vec::new())
}
