//! What is written stays written.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Figures, Lab, PRELUDE};
use crate::process::{read, tied};
use crate::qemu::{Job, Machine, path_value};
use crate::scratch::Scratch;
use crate::storage::{Disks, create};

pub fn file_systems_keep_their_files_over_a_power_cycle(lab: &Lab) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let mut disks = Disks::default();
    for format in ["raw", "qcow2"] {
        let path = scratch.join(&format!("disk.{format}"));
        create(format, &path, "1G")?;
        disks.image(&path, &scratch)?;
    }
    let storage = lab.serve(&scratch, &disks)?;
    let filled = lab.guest(
        &storage,
        r#"
dd if=/dev/urandom of=/tmp/seed bs=1M count=4 2>/dev/null
for target in 0 1; do
	start=$(now)
	disk=$(readlink /dev/lun/0:0:$target:0)
	echo 'label: gpt
size=900M' | sfdisk -q $disk
	mkfs.ext4 -q ${disk}1
	mount ${disk}1 /mnt
	for number in $(seq 64); do
		{ echo "$target $number"; cat /tmp/seed; } >/mnt/file$number
	done
	(cd /mnt && md5sum file* >sums)
	umount /mnt
	echo filled$target=$(($(now) - start))
done
[ -z "$(kernel_complaints)" ] || { kernel_complaints; exit 1; }
"#,
    )?;
    let checked = lab.guest(
        &storage,
        r#"
for target in 0 1; do
	start=$(now)
	disk=$(readlink /dev/lun/0:0:$target:0)
	e2fsck -fn ${disk}1
	mount -o ro ${disk}1 /mnt
	[ $(ls /mnt/file* | wc -l) = 64 ]
	(cd /mnt && md5sum -c sums >/dev/null)
	read -r owner number </mnt/file7 && [ "$owner $number" = "$target 7" ]
	umount /mnt
	echo checked$target=$(($(now) - start))
done
[ -z "$(kernel_complaints)" ] || { kernel_complaints; exit 1; }
"#,
    )?;
    storage.stop()?;
    read(
        tied("qemu-img")
            .args(["check", "-q"])
            .arg(scratch.join("disk.qcow2")),
    )?;
    Ok(vec![format!(
        "256 MiB filled and checked: raw {} and {} ms, qcow2 {} and {} ms",
        filled.number("filled0")?,
        checked.number("checked0")?,
        filled.number("filled1")?,
        checked.number("checked1")?,
    )])
}

pub fn a_qcow2_written_like_its_raw_twin_compares_equal(lab: &Lab) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let (raw, qcow2) = (scratch.join("disk.raw"), scratch.join("disk.qcow2"));
    let mut disks = Disks::default();
    for (format, path) in [("raw", &raw), ("qcow2", &qcow2)] {
        create(format, path, "256M")?;
        let drive = format!("file={},format={format},discard=unmap", path_value(path));
        disks.add(&drive, &scratch)?;
    }
    let storage = lab.serve(&scratch, &disks)?;
    lab.guest(
        &storage,
        r#"
dd if=/dev/urandom of=/tmp/seed bs=1M count=8 2>/dev/null
RANDOM=1
for round in $(seq 120); do
	length=$((1 + RANDOM % 2000))
	place=$((RANDOM * 16 % (524288 - length)))
	from=$((RANDOM % (16384 - length)))
	for target in 0 1; do
		disk=/dev/lun/0:0:$target:0
		case $((round % 6)) in
		0) blkdiscard -z -o $((place * 512)) -l $((length * 512)) $disk ;;
		1) dd if=/tmp/seed of=$disk bs=512 skip=$from seek=$place count=9 oflag=direct conv=notrunc 2>/dev/null ;;
		*) dd if=/tmp/seed of=$disk bs=$((length * 512)) count=1 oflag=direct,seek_bytes seek=$((place * 512)) \
			conv=notrunc 2>/dev/null ;;
		esac
	done
done
cmp /dev/lun/0:0:0:0 /dev/lun/0:0:1:0
[ -z "$(kernel_complaints)" ] || { kernel_complaints; exit 1; }
"#,
    )?;
    storage.stop()?;
    read(tied("qemu-img").args(["check", "-q"]).arg(&qcow2))?;
    read(
        tied("qemu-img")
            .args(["compare", "-q", "-f", "raw", "-F", "qcow2"])
            .arg(&raw)
            .arg(&qcow2),
    )?;
    // Equal because both are empty would prove nothing.
    let written = read(tied("du").args(["--block-size=1M"]).arg(&raw))?;
    anyhow::ensure!(
        !written.starts_with("0\t"),
        "nothing was written: {written}"
    );
    Ok(Vec::new())
}

pub fn with_fixed_buffers_a_guest_reads_what_it_has_written(lab: &Lab) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let path = scratch.join("disk.raw");
    create("raw", &path, "64M")?;
    let mut disks = Disks::default();
    disks.device("virtio-scsi-pci,id=scsi0,num_queues=1,fixed-buffers=on");
    let file = path_value(&path);
    disks.drive(&format!(
        "file={file},format=raw,if=none,id=disk,cache=none"
    ));
    disks.device("scsi-hd,drive=disk,scsi-id=0");
    let storage = lab.serve(&scratch, &disks)?;
    let daemon = storage.daemon.as_ref().context("a test of Lunar's own")?;
    let machine = Machine {
        extras: true,
        targets: Some("0".to_owned()),
        ..lab.machine(&storage)
    };
    // Page by page, and in one piece, as far as the guest finds one.
    let script = format!(
        "{PRELUDE}{}",
        r#"
disk=$(readlink /dev/lun/0:0:0:0)
echo begun
for size in 4k 256k; do
	fio --name=job --filename=$disk --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bs=$size --size=24M \
		--verify=crc32c --verify_fatal=1 >/tmp/fio 2>&1 || { cat /tmp/fio; exit 1; }
done
[ -z "$(kernel_complaints)" ] || { kernel_complaints; exit 1; }
"#
    );
    let mut running = machine.start(&Job::new(&script, Duration::from_secs(120)))?;
    running.wait_for("begun")?;
    // In the background.
    let reaches = |what: &str, reached: fn(u64) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match daemon.pinned()? >> 10 {
                held if reached(held) => return Ok(held),
                held => ensure!(Instant::now() < deadline, "{held} MiB are held {what}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let held = reaches("for the guest", |held| held >= 512)?;
    running.finish()?.success()?;
    reaches("without a guest", |held| held == 0)?;
    storage.stop()?;
    Ok(vec![format!("{held} MiB fixed")])
}
