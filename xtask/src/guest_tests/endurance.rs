//! Many disks, many guests, rough treatment.

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Figures, Lab, job};
use crate::qemu::Machine;
use crate::scratch::Scratch;
use crate::storage::{Daemon, Disks, Server};

pub fn a_controller_carries_300_luns_on_256_targets(lab: &Lab) -> Result<Figures> {
    let mut addresses: Vec<(u32, u32)> = (0..256).map(|target| (target, 0)).collect();
    let high = [255, 256, 257, 511, 512, 1000, 4095, 8191, 16382, 16383];
    addresses.extend((1..=34).map(|lun| (7, lun)));
    addresses.extend(high.map(|lun| (200, lun)));
    ensure!(
        addresses.len() == 300,
        "the test itself is wrong: {} addresses",
        addresses.len()
    );

    let one = Scratch::new()?;
    let small = lab.serve(&one, &Disks::sparse(&[(0, 0)], &one)?)?;
    let resident_with_one = small.daemon.as_ref().map(Daemon::resident).transpose()?;
    small.stop()?;

    let scratch = Scratch::new()?;
    let storage = lab.serve(&scratch, &Disks::sparse(&addresses, &scratch)?)?;
    let mut script = String::from(
        r#"
rmmod virtio_scsi
start=$(now)
modprobe virtio_scsi
echo scan=$(($(now) - start))
# Everything is loaded: only the addresses could differ.
link_luns
ls /dev/lun | wc -l >&2
"#,
    );
    for (target, lun) in &addresses {
        let _ = writeln!(
            script,
            "echo 'target {target} lun {lun}' | dd of=$(lun {target} {lun}) bs=512 count=1 conv=sync oflag=direct 2>/dev/null"
        );
    }
    for (target, lun) in &addresses {
        let _ = writeln!(
            script,
            "[ \"$(dd if=$(lun {target} {lun}) bs=512 count=1 iflag=direct 2>/dev/null | head -n 1)\" = 'target {target} lun {lun}' ]"
        );
    }
    script.push_str("[ -z \"$(kernel_complaints)\" ] || { kernel_complaints; exit 1; }\n");
    // Linux names a LUN above 255 by its flat-space address, 0x4000 + LUN (SAM-5 4.7.7.3).
    let script =
        format!("lun() {{ ls /dev/lun/*:0:$1:$(($2 > 255 ? $2 + 0x4000 : $2)); }}\n{script}");
    let outcome = lab.guest(&storage, &script)?;
    ensure!(
        outcome.stderr.trim() == "300",
        "the guest sees {} disks, not 300",
        outcome.stderr.trim()
    );
    let resident = storage.daemon.as_ref().map(Daemon::resident).transpose()?;
    storage.stop()?;
    for (target, lun) in &addresses {
        ensure!(
            label(&scratch.join(&format!("{target}-{lun}.raw")))?
                == format!("target {target} lun {lun}\n"),
            "target {target} LUN {lun} is not in its own image"
        );
    }
    let mut figures = vec![format!(
        "300 LUNs scanned in {} ms",
        outcome.number("scan")?
    )];
    if let (Some(one), Some(all)) = (resident_with_one, resident) {
        figures.push(format!(
            "{} KiB resident a LUN, {all} KiB in all",
            all.saturating_sub(one) / 299
        ));
    }
    Ok(figures)
}

/// What the guest wrote to the start of a disk.
fn label(path: &Path) -> Result<String> {
    let mut sector = [0; 512];
    File::open(path)?.read_exact_at(&mut sector, 0)?;
    Ok(String::from_utf8_lossy(&sector)
        .trim_end_matches('\0')
        .to_owned())
}

pub fn four_processors_use_four_queues(lab: &Lab) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let mut disks = Disks::default();
    disks.add("64M", &scratch)?;
    let storage = lab.server.start(&lab.lunar, &scratch, &disks, 4, &[])?;
    let machine = Machine {
        cpus: 4,
        ..lab.machine(&storage)
    };
    machine
        .start(&job(r#"
disk=$(readlink /dev/lun/0:0:0:0)
queues=/sys/block/${disk#/dev/}/mq
[ $(ls $queues | wc -l) = 4 ]
requests() { grep -E 'virtio[0-9]+-request' /proc/interrupts | awk '{ sum = $2 + $3 + $4 + $5; print sum }'; }
before=$(requests)
for cpu in 0 1 2 3; do
	( taskset -c $cpu dd if=/dev/urandom of=/tmp/data$cpu bs=64k count=32
	  taskset -c $cpu dd if=/tmp/data$cpu of=$disk bs=64k seek=$((cpu * 32)) oflag=direct ) 2>/dev/null &
done
wait
after=$(requests)
[ $(echo "$after" | wc -l) = 4 ]
# Every queue's interrupt has been busy.
paste <(echo "$before") <(echo "$after") | while read -r old new; do [ $((new - old)) -ge 32 ] || { echo "$old $new"; exit 1; }; done
for cpu in 0 1 2 3; do dd if=$disk bs=64k skip=$((cpu * 32)) count=32 iflag=direct 2>/dev/null | cmp - /tmp/data$cpu; done
[ -z "$(kernel_complaints)" ] || { kernel_complaints; exit 1; }
"#))?
        .finish()?
        .success()?;
    storage.stop()?;
    Ok(Vec::new())
}

pub fn packed_rings_carry_what_split_ones_do(lab: &Lab) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let mut disks = Disks::default();
    disks.add("64M", &scratch)?;
    let storage = lab.serve(&scratch, &disks)?;
    let packed = |option: String| match option.starts_with("vhost-user-scsi-pci") {
        true => option + ",packed=on",
        false => option,
    };
    let machine = Machine {
        cpus: 2,
        storage: storage.attach.iter().cloned().map(packed).collect(),
        ..lab.machine(&storage)
    };
    let outcome = machine
        .start(&job(r#"
disk=$(readlink /dev/lun/0:0:0:0)
# Feature bit 34.
features=$(cat /sys/bus/virtio/drivers/virtio_scsi/virtio*/features)
[ "${features:34:1}" = 1 ]
dd if=/dev/urandom of=/tmp/data bs=1M count=8 2>/dev/null
start=$(now)
# Each round begins with a reset, that is at the beginning of the rings, and goes several times round them.
for round in 1 2 3; do
	for cpu in 0 1; do
		( taskset -c $cpu dd if=/tmp/data of=$disk bs=4k seek=$((cpu * 2048)) oflag=direct
		  taskset -c $cpu dd if=/tmp/data of=$disk bs=512k seek=$((32 + cpu * 16)) oflag=direct ) 2>/dev/null &
	done
	wait
	for part in 0 1 2 3; do
		dd if=$disk bs=1M skip=$((part * 8)) count=8 iflag=direct 2>/dev/null | cmp - /tmp/data
	done
	blkdiscard -z $disk
	rmmod virtio_scsi
	modprobe virtio_scsi
	link_luns
	disk=$(readlink /dev/lun/0:0:0:0)
done
echo rounds=$(($(now) - start))
[ -z "$(kernel_complaints)" ] || { kernel_complaints; exit 1; }
"#))?
        .finish()?
        .success()?;
    storage.stop()?;
    Ok(vec![format!(
        "three times 32 MiB written, read and compared in {} ms",
        outcome.number("rounds")?
    )])
}

pub fn a_reset_guest_comes_back_every_time(lab: &Lab) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let mut disks = Disks::default();
    disks.add("64M", &scratch)?;
    let storage = lab.serve(&scratch, &disks)?;
    let machine = Machine {
        reset_ends: false,
        ..lab.machine(&storage)
    };
    let outcome = machine
        .start(&job(r#"
disk=/dev/lun/0:0:0:0
boots=$(dd if=$disk bs=512 count=1 iflag=direct 2>/dev/null | head -n 1 | tr -d '\0')
boots=$((${boots:-0} + 1))
echo "boot $boots"
echo $boots | dd of=$disk bs=512 count=1 conv=sync oflag=direct 2>/dev/null
if [ $boots -lt 4 ]; then
	# Pull the rug from under running I/O.
	dd if=/dev/zero of=$disk bs=64k seek=16 oflag=direct 2>/dev/null &
	reboot -f
fi
[ -z "$(kernel_complaints)" ] || { kernel_complaints; exit 1; }
"#))?
        .finish()?
        .success()?;
    ensure!(
        outcome.stdout == "boot 1\nboot 2\nboot 3\nboot 4\n",
        "unexpected boots:\n{}",
        outcome.stdout
    );
    storage.stop()?;
    Ok(Vec::new())
}

pub fn a_reloaded_driver_finds_its_disks_again(lab: &Lab) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let mut disks = Disks::default();
    disks.add("64M", &scratch)?;
    disks.add("32M", &scratch)?;
    let storage = lab.serve(&scratch, &disks)?;
    lab.guest(
        &storage,
        r#"
for round in $(seq 20); do
	dd if=/dev/zero of=$(ls /dev/lun/*:0:0:0) bs=64k count=8 oflag=direct 2>/dev/null
	rm -r /dev/lun
	rmmod virtio_scsi
	modprobe virtio_scsi
	link_luns
	[ $(ls /dev/lun | wc -l) = 2 ]
	[ $(blockdev --getsize64 /dev/lun/*:0:1:0) = $((32 << 20)) ]
done
[ -z "$(kernel_complaints)" ] || { kernel_complaints; exit 1; }
"#,
    )?;
    storage.stop()?;
    Ok(Vec::new())
}

pub fn a_killed_guest_leaves_its_socket_usable(lab: &Lab) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let mut disks = Disks::default();
    disks.add("64M", &scratch)?;
    let storage = lab.serve(&scratch, &disks)?;
    for _ in 0..2 {
        let mut running = lab.machine(&storage).start(&job(r#"
echo precious | dd of=/dev/lun/0:0:0:0 bs=512 seek=8 count=1 conv=sync oflag=direct 2>/dev/null
echo writing
while :; do dd if=/dev/zero of=/dev/lun/0:0:0:0 bs=64k seek=16 oflag=direct 2>/dev/null || :; done
"#))?;
        running.wait_for("writing")?;
        std::thread::sleep(Duration::from_millis(500));
        running.kill()?;
    }
    let outcome = lab.guest(
        &storage,
        r#"
dd if=/dev/lun/0:0:0:0 bs=512 skip=8 count=1 iflag=direct 2>/dev/null | head -n 1
[ -z "$(kernel_complaints)" ] || { kernel_complaints; exit 1; }
"#,
    )?;
    ensure!(
        outcome.stdout.starts_with("precious\n"),
        "the disk lost its data: {:?}",
        outcome.stdout
    );
    storage.stop()?;
    Ok(Vec::new())
}

pub fn two_guests_on_one_server_see_only_their_own_disks(lab: &Lab) -> Result<Figures> {
    ensure!(lab.server == Server::Lunar, "QEMU serves one guest only");
    let scratch = Scratch::new()?;
    let mut arguments = Vec::new();
    let sockets = ["left", "right"].map(|name| scratch.join(&format!("{name}.sock")));
    for (number, (name, socket)) in ["left", "right"].iter().zip(&sockets).enumerate() {
        let path = scratch.join(&format!("{name}.raw"));
        File::create(&path)?.set_len(64 << 20)?;
        arguments.extend([
            "--device".to_owned(),
            format!(
                "virtio-scsi-pci,id={name},num_queues=2,socket={}",
                socket.display()
            ),
            "--drive".to_owned(),
            format!("file={},format=raw,if=none,id=drive-{name}", path.display()),
            "--device".to_owned(),
            format!(
                "scsi-hd,bus={name}.0,drive=drive-{name},scsi-id={},lun=0",
                number + 1
            ),
        ]);
    }
    let daemon = Daemon::start(
        &lab.lunar,
        &scratch,
        &arguments,
        &[&sockets[0], &sockets[1]],
    )?;
    let options = daemon.qemu_options()?;
    let start = |number: usize| {
        let mine = options
            .chunks(4)
            .nth(number)
            .context("the server printed too few QEMU options")?
            .to_vec();
        let script = format!(
            r#"
ls /dev/lun
for round in $(seq 200); do
	echo "guest {number} $round" | dd of=/dev/lun/0:0:{target}:0 bs=512 count=1 conv=sync oflag=direct 2>/dev/null
	[ "$(dd if=/dev/lun/0:0:{target}:0 bs=512 count=1 iflag=direct 2>/dev/null | head -n 1)" = "guest {number} $round" ]
done
[ -z "$(kernel_complaints)" ] || {{ kernel_complaints; exit 1; }}
"#,
            target = number + 1
        );
        Machine::new(&lab.image, mine).start(&job(&script))
    };
    let (left, right) = (start(0)?, start(1)?);
    for (number, running) in [left, right].into_iter().enumerate() {
        let outcome = running.finish()?.success()?;
        ensure!(
            outcome.stdout == format!("0:0:{}:0\n", number + 1),
            "guest {number} sees {}",
            outcome.stdout
        );
    }
    daemon.stop()?;
    for (number, name) in ["left", "right"].iter().enumerate() {
        let label = label(&scratch.join(&format!("{name}.raw")))?;
        ensure!(
            label == format!("guest {number} 200\n"),
            "the {name} disk holds {label:?}"
        );
    }
    Ok(Vec::new())
}

pub fn an_idle_guest_costs_no_processor_time(lab: &Lab) -> Result<Figures> {
    const WATCHED: Duration = Duration::from_secs(5);
    let scratch = Scratch::new()?;
    let mut disks = Disks::default();
    disks.add("64M", &scratch)?;
    let storage = lab.serve(&scratch, &disks)?;
    let daemon = storage
        .daemon
        .as_ref()
        .context("QEMU has no server process of its own")?;
    let mut running = lab.machine(&storage).start(&job(
        "echo idle\nsleep 9\necho woke\nsg_turs /dev/lun/0:0:0:0\n",
    ))?;
    running.wait_for("idle")?;
    std::thread::sleep(Duration::from_secs(1));
    let before = daemon.processor_ticks()?;
    std::thread::sleep(WATCHED);
    let spent = daemon.processor_ticks()? - before;
    ensure!(
        !running.has_said("woke"),
        "the guest was not idle for the whole time"
    );
    running.finish()?.success()?;
    storage.stop()?;
    ensure!(
        spent <= 1,
        "{spent} clock ticks of processor time in {WATCHED:?} of idleness"
    );
    Ok(vec![format!("{spent} clock ticks in {WATCHED:?}")])
}
