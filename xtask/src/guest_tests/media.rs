//! Media that come and go under a guest's own tools.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, ensure};

use super::{Figures, Lab, job};
use crate::process::{read, tied, try_read};
use crate::qemu::{Machine, path_value};
use crate::scratch::Scratch;
use crate::storage::{Daemon, Server};

/// The guest says what it has seen, and the host goes on from there.
const SCRIPT: &str = r#"
link_luns
disk=$(readlink -f /dev/lun/0:0:0:0)
name=$(basename $disk)
# Waits until the disk has this many sectors: each time it is opened, the driver asks whether its medium has changed.
sectors() {
	for try in $(seq 600); do
		blockdev --rereadpt $disk 2>/dev/null || true
		[ $(cat /sys/block/$name/size) = $1 ] && return
		sleep 0.1
	done
	echo "$(cat /sys/block/$name/size) sectors instead of $1"
	exit 1
}
starts_with() { [ "$(dd if=$disk bs=512 count=1 2>/dev/null | head -n 1)" = $1 ]; }
[ $(cat /sys/block/$name/removable) = 1 ]
sectors 32768
starts_with first
# By its other name: to open the disk itself is to lock the medium.
sg_start --eject /dev/$(ls /sys/block/$name/device/scsi_generic)
! sg_turs $disk 2>/dev/null
echo ejected
sectors 65536
starts_with second
mke2fs -q $disk
mkdir -p /mnt/medium
mount $disk /mnt/medium
echo kept >/mnt/medium/file
echo mounted
# The host does not get it, says so with another disk, and the guest goes on.
for try in $(seq 600); do
	[ -e /sys/class/scsi_device/0:0:1:0 ] && break
	sleep 0.1
done
[ $try != 600 ]
echo more >>/mnt/medium/file
sync -d /mnt/medium/file
umount /mnt/medium
echo unmounted
sectors 32768
starts_with first
"#;

pub fn a_guest_ejects_a_medium_gets_another_and_locks_it_by_mounting(lab: &Lab) -> Result<Figures> {
    ensure!(lab.server == Server::Lunar, "the orders are Lunar's");
    let scratch = Scratch::new()?;
    let (first, second) = (scratch.join("first.img"), scratch.join("second.img"));
    image(&first, "first\n", 16 << 20)?;
    image(&second, "second\n", 32 << 20)?;
    let (socket, monitor) = (scratch.join("vm.sock"), scratch.join("vm.qmp"));
    let arguments = [
        format!("--monitor=unix:{}", path_value(&monitor)),
        format!(
            "--device=virtio-scsi-pci,id=scsi0,num_queues=1,socket={}",
            path_value(&socket)
        ),
        format!(
            "--drive=file={},format=raw,if=none,id=bay",
            path_value(&first)
        ),
        "--device=scsi-hd,drive=bay,id=stick,scsi-id=0,lun=0,removable=on".to_owned(),
    ];
    let daemon = Daemon::start(&lab.lunar, &scratch, &arguments, &[&socket])?;
    let order = |words: &[&str]| {
        let mut command = tied(&lab.lunar);
        command.args(words).arg("--monitor").arg(&monitor);
        command
    };
    let path = |image: &Path| image.display().to_string();
    let machine = Machine {
        targets: Some("0".to_owned()),
        ..Machine::new(&lab.image, daemon.qemu_options()?)
    };
    let mut guest = machine.start(&job(SCRIPT))?;
    guest.wait_for("ejected\n")?;
    read(&mut order(&["insert", "stick", &path(&second)]))?;
    guest.wait_for("mounted\n")?;
    let refused = try_read(&mut order(&["eject", "stick"]))?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        !refused.status.success() && why.contains("is locked"),
        "a mounted medium was ejected: {why}"
    );
    read(&mut order(&["attach", "--target", "1", &path(&first)]))?;
    guest.wait_for("unmounted\n")?;
    read(&mut order(&["eject", "stick"]))?;
    let said = read(tied("debugfs").args(["-R", "cat file"]).arg(&second))?;
    ensure!(
        said.contains("kept\nmore"),
        "what the guest has written is not in the image: {said}"
    );
    read(&mut order(&["detach", "first"]))?;
    read(&mut order(&["insert", "stick", &path(&first)]))?;
    guest.finish()?.success()?;
    daemon.stop()?;
    Ok(Vec::new())
}

fn image(path: &Path, begin: &str, size: u64) -> Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(begin.as_bytes())?;
    file.set_len(size)?;
    Ok(())
}
