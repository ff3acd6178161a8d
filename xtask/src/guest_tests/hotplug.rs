//! Disks that come and go while a guest runs.
//!
//! The guest follows what the server does: it says what it sees appear and vanish, and the test waits for that.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Figures, Lab, PRELUDE};
use crate::monitor::Monitor;
use crate::qemu::{Job, Machine, Running, path_value};
use crate::scratch::Scratch;
use crate::storage::{Daemon, Disks, Holdings, Server};

/// How long a guest may take for all, and how many seconds for one thing that it waits for. Hundreds of disks are looked at
/// by an emulated processor.
const PATIENCE: (Duration, u32) = (Duration::from_secs(900), 60);
/// The same for thorough tests.
const MORE_PATIENCE: (Duration, u32) = (Duration::from_secs(3600), 900);

/// `appears`, `vanishes HOST:CHANNEL:TARGET:LUN`: waits until the guest has a disk there, or nothing.
const FOLLOW: &str = r#"
block() { echo /sys/class/scsi_device/$1/device/block/*; }
disk() { echo /dev/$(basename $(block $1)); }
# Waits until a command says yes.
wait_for() {
	local end=$((SECONDS + patience))
	until "$@"; do
		[ $SECONDS -lt $end ] || { echo "never: $*"; dmesg | tail -n 20; exit 1; }
		sleep 0.05
	done
}
is_there() { [ -e $(block $1) ]; }
# Its driver has let go of it, too: a disk that comes back at once is not asked to flush the cache of the one that went.
is_gone() { [ ! -e /sys/class/scsi_host/host${1%%:*}/device/target${1%:*}/$1 ]; }
appears() { wait_for is_there $1; }
vanishes() { wait_for is_gone $1; }
serial() { tail -c +5 /sys/class/scsi_device/$1/device/vpd_pg80; }
# What the kernel may say of disks behind other targets than the neighbours', which went: it still wants to flush their
# caches, and there is no such unit or target. Of the neighbours, that others came and went beside them.
UNTOLD='^$'
complaints() {
	kernel_complaints | grep -v 'LUN assignments on this target have changed' |
		grep -vE 'sd [0-9]+:0:[1-9][0-9]*:[0-9]+: .*(Synchronize Cache.* failed|Sense Key : Illegal Request|Add. Sense: Logical unit not supported)' |
		grep -vE "$UNTOLD" || true
}
quiet_kernel() { [ -z "$(complaints)" ] || { complaints; exit 1; }; }
"#;

/// Writes to the neighbours all the while, and reads again what was written.
const NEIGHBOURS: &str = r#"
fio --direct=1 --ioengine=libaio --iodepth=4 --rw=randwrite --bs=4k --size=4M --verify=crc32c --verify_backlog=32 \
	--verify_fatal=1 --rate_iops=50 --time_based --runtime=3600 \
	--name=first --filename=$(readlink -f /dev/lun/0:0:0:0) --name=second --filename=$(readlink -f /dev/lun/0:0:0:1) >/tmp/fio 2>&1 &
fio=$!
# Only now does it heed a signal.
is_busy() { [ $(awk '{ print $5 }' /sys/class/block/$(basename $(block 0:0:0:1))/stat) -gt 0 ]; }
wait_for is_busy
# The guest stays as it is until the server has been looked at: then there is one disk more.
stay() { appears 0:0:6:1; }
# A run that was ended by a signal ends with 128, and with more if anything went wrong.
neighbours_were_well() {
	local status=0
	kill -INT $fio
	wait $fio || status=$?
	[ $status = 128 ] || { cat /tmp/fio; exit 1; }
	echo verified=$(sed -n 's/.*issued rwts: total=\([0-9]*\),.*/\1/p' /tmp/fio | awk '{ sum += $1 } END { print sum }')
}
"#;

pub fn a_disk_comes_and_goes_without_a_scan(lab: &Lab) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let (server, attach) = serve(lab, &scratch)?;
    let mut monitor = server.monitor()?;
    let mut guest = start(
        lab,
        attach,
        r#"
echo ready
appears 0:0:5:3
[ "$(serial 0:0:5:3)" = COMER ]
echo precious | dd of=$(disk 0:0:5:3) bs=512 count=1 conv=sync oflag=direct 2>/dev/null
echo came
vanishes 0:0:5:3
echo went
appears 0:0:5:3
[ "$(dd if=$(disk 0:0:5:3) bs=512 count=1 iflag=direct 2>/dev/null | head -n 1)" = precious ]

# What the guest itself takes away and looks for.
echo 1 >/sys/class/scsi_device/0:0:5:3/device/delete
is_gone 0:0:5:3
echo '0 5 -' >/sys/class/scsi_host/host0/scan
is_there 0:0:5:3
neighbours_were_well
"#,
    )?;
    image(&mut monitor, &scratch, "comer")?;
    let comer = "scsi-hd,id=comer,drive=comer,scsi-id=5,lun=3,serial=COMER";
    guest.wait_for("ready\n")?;
    monitor.device_add(comer)?;
    guest.wait_for("came\n")?;
    monitor.device_del("comer")?;
    guest.wait_for("went\n")?;
    monitor.device_add(comer)?;
    guest.finish()?.success()?;
    server.stop()?;
    Ok(Vec::new())
}

/// What administrators have for a guest that is told nothing: its controller has no events.
pub fn rescan_scsi_bus_finds_what_came_and_removes_what_went(lab: &Lab) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let (server, mut attach) = serve(lab, &scratch)?;
    for option in &mut attach {
        if option.starts_with("vhost-user-scsi-pci,") {
            option.push_str(",hotplug=off");
        }
    }
    let mut monitor = server.monitor()?;
    let mut guest = start(
        lab,
        attach,
        r#"
# The kernel finds out about these by itself.
UNTOLD='sd 0:0:(5:0|0:2): |[Dd]ev sd[c-z][,:]'
# Busybox has no pr, by which the script does nothing but indent.
printf '#!/bin/bash\nsed "s/^/    /"\n' >/usr/local/bin/pr
chmod +x /usr/local/bin/pr
# The script of sg3-utils 1.46 looks for "Device_type=" where sg_inq of the same package says "PDT=", and takes every disk
# for one that has gone (mended in 1.47).
script=$(readlink -f $(which rescan-scsi-bus.sh))
sed -i 's/Device_type=/PDT=/; s/  Device\.\*/  PDT.*/' $script
# FOUND REMOVED OPTION...
rescan() {
	local from=$(now)
	$script --nosync "${@:3}" >/tmp/rescan 2>&1 || true
	took=$(($(now) - from))
	said "$1 new or changed device(s) found"
	said "$2 device(s) removed"
}
said() { grep -qF "$1" /tmp/rescan || { echo "not \"$1\":"; cat -v /tmp/rescan; exit 1; }; }
luns_are() { [ "$(sg_luns /dev/lun/0:0:0:0 | grep -c '^ *[0-9a-f]\{16\}$')" = $1 ]; }
echo ready
wait_for luns_are 3
! is_there 0:0:0:2
# Targets that have no disk yet are looked at on demand only.
rescan 2 0 --alltargets --ids=0,5 --remove
[ "$(serial 0:0:0:2) $(serial 0:0:5:0)" = 'THIRD FIFTH' ]
echo came
wait_for luns_are 2
is_there 0:0:0:2
rescan 0 2 --ids=0,5 --remove
is_gone 0:0:0:2
is_gone 0:0:5:0
is_there 0:0:0:0
is_there 0:0:0:1
echo took=$took
neighbours_were_well
# There is another way to be told. The kernel says so, and leaves it at that.
[ "$(dmesg | grep -c 'LUN assignments on this target have changed')" != 0 ]
"#,
    )?;
    image(&mut monitor, &scratch, "third")?;
    image(&mut monitor, &scratch, "fifth")?;
    guest.wait_for("ready\n")?;
    monitor.device_add("scsi-hd,id=fifth,drive=fifth,scsi-id=5,lun=0,serial=FIFTH")?;
    monitor.device_add("scsi-hd,id=third,drive=third,scsi-id=0,lun=2,serial=THIRD")?;
    guest.wait_for("came\n")?;
    monitor.device_del("fifth")?;
    monitor.device_del("third")?;
    let outcome = guest.finish()?.success()?;
    server.stop()?;
    Ok(vec![format!("{} ms a scan", outcome.number("took")?)])
}

pub fn a_disk_comes_and_goes_hundreds_of_times_beside_busy_ones(lab: &Lab) -> Result<Figures> {
    let cycles = if lab.thorough { 500 } else { 50 };
    let scratch = Scratch::new()?;
    let (server, attach) = serve(lab, &scratch)?;
    let mut monitor = server.monitor()?;
    let mut guest = start(
        lab,
        attach,
        &format!(
            r#"
echo ready
for cycle in $(seq {cycles}); do
	appears 0:0:5:3
	[ "$(dd if=$(disk 0:0:5:3) bs=512 count=1 iflag=direct 2>/dev/null | head -n 1)" = comer ]
	echo "came $cycle."
	vanishes 0:0:5:3
	echo "went $cycle."
done
stay
neighbours_were_well
"#
        ),
    )?;
    let mut figures = Cycles::after(5);
    guest.wait_for("ready\n")?;
    for cycle in 1..=cycles {
        figures.begin(&server, cycle)?;
        image(&mut monitor, &scratch, "comer")?;
        monitor.device_add("scsi-hd,id=comer,drive=comer,scsi-id=5,lun=3")?;
        guest.wait_for(&format!("came {cycle}."))?;
        monitor.device_del("comer")?;
        monitor.execute("blockdev-del", json!({ "node-name": "comer" }))?;
        guest.wait_for(&format!("went {cycle}."))?;
    }
    let mut said = figures.end(&server, cycles)?;
    said.push(dismiss(guest, &mut monitor)?);
    server.stop()?;
    Ok(said)
}

pub fn a_controller_comes_and_goes_beside_busy_ones(lab: &Lab) -> Result<Figures> {
    let cycles = if lab.thorough { 50 } else { 5 };
    let scratch = Scratch::new()?;
    let (server, mut attach) = serve(lab, &scratch)?;
    let mut monitor = server.monitor()?;
    image(&mut monitor, &scratch, "comer")?;
    let socket = scratch.join("comer.sock");
    let device = format!(
        "virtio-scsi-pci,id=comer,num_queues=1,socket={}",
        path_value(&socket)
    );
    let address = json!({ "type": "unix", "data": { "path": socket } });
    let chardev = json!({ "id": "comer", "backend": {
        "type": "socket", "data": { "addr": address, "server": false } } });
    attach.extend([
        "-device".to_owned(),
        "pcie-root-port,id=place,chassis=1".to_owned(),
    ]);
    let mut guest = start(
        lab,
        attach,
        &format!(
            r#"
# The kernel's own scan of a new controller looks at 256 targets, each time.
printf manual >/sys/module/scsi_mod/parameters/scan
controllers() {{ ls /sys/class/scsi_host | wc -l; }}
has_come() {{ [ $(controllers) = 2 ]; }}
has_gone() {{ [ $(controllers) = 1 ]; }}
echo ready
for cycle in $(seq {cycles}); do
	wait_for has_come
	host=$(ls /sys/class/scsi_host | grep -v '^host0$')
	echo '0 7 0' >/sys/class/scsi_host/$host/scan
	comer=${{host#host}}:0:7:0
	is_there $comer
	[ "$(dd if=$(disk $comer) bs=512 count=1 iflag=direct 2>/dev/null | head -n 1)" = comer ]
	echo "came $cycle."
	wait_for has_gone
	echo "went $cycle."
done
stay
neighbours_were_well
"#
        ),
    )?;
    let mut figures = Cycles::after(2);
    guest.wait_for("ready\n")?;
    let mut qemu = guest.monitor()?;
    for cycle in 1..=cycles {
        figures.begin(&server, cycle)?;
        monitor.device_add(&device)?;
        monitor.device_add("scsi-hd,id=disk,bus=comer.0,drive=comer,scsi-id=7,lun=0")?;
        qemu.execute("chardev-add", chardev.clone())?;
        qemu.device_add("vhost-user-scsi-pci,id=comer,chardev=comer,num_queues=1,bus=place")?;
        guest.wait_for(&format!("came {cycle}."))?;
        qemu.device_del("comer")?;
        qemu.execute("chardev-remove", json!({ "id": "comer" }))?;
        monitor.device_del("comer")?;
        guest.wait_for(&format!("went {cycle}."))?;
    }
    let mut said = figures.end(&server, cycles)?;
    said.push(dismiss(guest, &mut monitor)?);
    server.stop()?;
    Ok(said)
}

/// Attaches that are in nobody's way but the guest's: it has eight buffers for events.
pub fn a_running_guest_gets_a_thousand_disks_one_by_one(lab: &Lab) -> Result<Figures> {
    let count: u32 = if lab.thorough { 1000 } else { 200 };
    let scratch = Scratch::new()?;
    let (server, attach) = serve(lab, &scratch)?;
    let mut monitor = server.monitor()?;
    let mut guest = start(
        lab,
        attach,
        &format!(
            r#"
shopt -s nullglob
disks() {{ set -- /sys/class/scsi_device/0:0:[1-9]*/device/block; echo $#; }}
all_there() {{ [ $(disks) = {count} ]; }}
none_there() {{ [ $(disks) = 0 ]; }}
echo ready
start=$(now)
wait_for all_there
echo found=$(($(now) - start))
# Each by its address.
for address in $(seq 4 $(({count} + 3))); do echo 0:0:$((address / 4)):$((address % 4)) $((address / 4))-$((address % 4)); done | sort >/tmp/expected
grep -a -o '[0-9]*-[0-9]*$' /sys/class/scsi_device/0:0:[1-9]*/device/vpd_pg80 | sed 's,/sys/class/scsi_device/,,; s,/device/vpd_pg80:, ,' | sort >/tmp/seen
diff /tmp/expected /tmp/seen
echo came
start=$(now)
wait_for none_there
echo lost=$(($(now) - start))
neighbours_were_well
"#
        ),
    )?;
    for number in 0..count {
        null(&mut monitor, &format!("node{number}"))?;
    }
    guest.wait_for("ready\n")?;
    let before = server.holdings()?;
    let mut attaching = Times::default();
    for number in 0..count {
        let (target, lun) = ((number + 4) / 4, number % 4);
        attaching.take(|| {
            monitor.device_add(&format!(
                "scsi-hd,id=disk{number},drive=node{number},scsi-id={target},lun={lun},serial={target}-{lun}"
            ))
        })?;
    }
    guest.wait_for("came\n")?;
    let with_all = server.holdings()?;
    let mut detaching = Times::default();
    for number in 0..count {
        detaching.take(|| monitor.device_del(&format!("disk{number}")))?;
    }
    let outcome = guest.finish()?.success()?;
    let after = server.holdings()?;
    server.stop()?;
    Ok(vec![
        format!(
            "{count} disks: {attaching} to attach, {detaching} to detach; the guest had seen them after {} ms, and lost them after {} ms",
            outcome.number("found")?,
            outcome.number("lost")?
        ),
        format!(
            "{} KiB resident a disk, {} KiB more than before when they are gone",
            with_all.resident.saturating_sub(before.resident) / u64::from(count),
            after.resident.saturating_sub(before.resident)
        ),
    ])
}

/// A guest that does not run takes no events: all that it had no buffers for, it has to find by itself.
pub fn more_events_than_buffers_lose_nothing(lab: &Lab) -> Result<Figures> {
    const COUNT: u32 = 40;
    let scratch = Scratch::new()?;
    let (server, attach) = serve(lab, &scratch)?;
    let mut monitor = server.monitor()?;
    let mut guest = start(
        lab,
        attach,
        &format!(
            r#"
shopt -s nullglob
has() {{ [ "$(cd /sys/class/scsi_device; echo 0:0:9:*)" = "$*" ]; }}
# Some go while the kernel still looks what is on them.
UNTOLD='[Dd]ev sd([c-z]|[a-z][a-z])[,:]|(sd|scsi) 0:0:9:[0-9]+: '
odd=$(for lun in $(seq 1 2 {COUNT}); do echo 0:0:9:$lun; done | sort | xargs)
even=$(for lun in $(seq 2 2 {COUNT}); do echo 0:0:9:$lun; done | sort | xargs)
all=$(echo $odd $even | xargs -n 1 | sort | xargs)
for round in 1 2; do
	echo ready $round
	wait_for has $all
	echo all $round
	wait_for has $even
	echo even $round
	wait_for has $odd
	echo odd $round
	wait_for has
done
echo storm
appears 0:0:9:1
neighbours_were_well
"#
        ),
    )?;
    for number in 1..=COUNT {
        null(&mut monitor, &format!("node{number}"))?;
    }
    let add = |monitor: &mut Monitor, number: u32| {
        monitor.device_add(&format!(
            "scsi-hd,id=disk{number},drive=node{number},scsi-id=9,lun={number}"
        ))
    };
    let remove = |monitor: &mut Monitor, number: u32| monitor.device_del(&format!("disk{number}"));
    let odd = || (1..=COUNT).step_by(2);
    let even = || (2..=COUNT).step_by(2);
    for round in 1..=2 {
        // The first time the machine stands still while its rings are there, then it is paused as for a migration.
        let still = |guest: &mut Running, work: &mut dyn FnMut() -> Result<()>| {
            if round == 1 {
                guest.freeze()?;
                work()?;
                guest.thaw()
            } else {
                let mut qemu = guest.monitor()?;
                qemu.execute("stop", json!({}))?;
                work()?;
                qemu.execute("cont", json!({})).map(drop)
            }
        };
        guest.wait_for(&format!("ready {round}\n"))?;
        still(&mut guest, &mut || {
            (1..=COUNT).try_for_each(|n| add(&mut monitor, n))
        })?;
        guest.wait_for(&format!("all {round}\n"))?;
        still(&mut guest, &mut || {
            odd().try_for_each(|n| remove(&mut monitor, n))
        })?;
        guest.wait_for(&format!("even {round}\n"))?;
        still(&mut guest, &mut || {
            odd().try_for_each(|n| add(&mut monitor, n))?;
            even().try_for_each(|n| remove(&mut monitor, n))
        })?;
        guest.wait_for(&format!("odd {round}\n"))?;
        odd().try_for_each(|n| remove(&mut monitor, n))?;
    }
    guest.wait_for("storm\n")?;
    for _ in 0..100 {
        add(&mut monitor, 1)?;
        remove(&mut monitor, 1)?;
    }
    add(&mut monitor, 1)?;
    guest.finish()?.success()?;
    server.stop()?;
    Ok(Vec::new())
}

/// A server with two disks for neighbours, at LUNs 0 and 1 of target 0, and what attaches its controller.
fn serve(lab: &Lab, scratch: &Scratch) -> Result<(Daemon, Vec<String>)> {
    ensure!(
        lab.server == Server::Lunar,
        "QEMU's disks come and go by QEMU's own monitor"
    );
    let storage = lab.serve(scratch, &Disks::sparse(&[(0, 0), (0, 1)], scratch)?)?;
    let server = storage.daemon.context("lunar has a process")?;
    Ok((server, storage.attach))
}

/// A guest whose neighbours are busy while it runs a script.
fn start(lab: &Lab, attach: Vec<String>, script: &str) -> Result<Running> {
    let machine = Machine {
        extras: true,
        memory: "768M".to_owned(),
        targets: Some("0".to_owned()),
        ..Machine::new(&lab.image, attach)
    };
    let (whole, each) = if lab.thorough {
        MORE_PATIENCE
    } else {
        PATIENCE
    };
    machine.start(&Job::new(
        &format!("{PRELUDE}patience={each}\n{FOLLOW}{NEIGHBOURS}{script}quiet_kernel\n"),
        whole,
    ))
}

/// Lets a guest go that stays until it sees one disk more, and tells how its neighbours have fared.
fn dismiss(guest: Running, monitor: &mut Monitor) -> Result<String> {
    null(monitor, "last")?;
    monitor.device_add("scsi-hd,id=last,drive=last,scsi-id=6,lun=1")?;
    let verified = guest.finish()?.success()?.number("verified")?;
    Ok(format!("{verified} reads of the neighbours verified"))
}

/// Adds a node of nothing.
fn null(monitor: &mut Monitor, name: &str) -> Result<()> {
    let add = json!({ "driver": "null-co", "node-name": name, "size": 1 << 20 });
    monitor.execute("blockdev-add", add).map(drop)
}

/// Adds an image that begins with its name.
fn image(monitor: &mut Monitor, scratch: &Scratch, name: &str) -> Result<()> {
    let path = scratch.join(&format!("{name}.raw"));
    if !path.exists() {
        std::fs::write(&path, format!("{name}\n"))?;
        File::options().write(true).open(&path)?.set_len(1 << 20)?;
    }
    let file = json!({ "driver": "file", "filename": path });
    let add = json!({ "driver": "raw", "node-name": name, "file": file });
    monitor.execute("blockdev-add", add).map(drop)
}

/// How long things took.
#[derive(Default)]
struct Times {
    all: Vec<Duration>,
}

impl Times {
    fn take<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let done = work();
        self.all.push(start.elapsed());
        done
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted = self.all.clone();
        sorted.sort_unstable();
        let (Some(median), Some(longest)) = (sorted.get(sorted.len() / 2), sorted.last()) else {
            return f.write_str("nothing");
        };
        let micros = median.as_micros();
        write!(f, "{micros} µs (at most {} ms)", longest.as_millis())
    }
}

/// Cycles that must leave nothing behind: what there is after the first few is compared with what there is at the end.
struct Cycles {
    /// How many cycles it takes until everything is there that stays.
    warm: u32,
    start: Option<(Instant, Holdings)>,
}

impl Cycles {
    /// Threads that do what blocks end some time after there was such work.
    const REST: Duration = Duration::from_secs(30);

    fn after(warm: u32) -> Self {
        Self { warm, start: None }
    }

    fn begin(&mut self, server: &Daemon, cycle: u32) -> Result<()> {
        if cycle == self.warm + 1 {
            self.start = Some((Instant::now(), server.holdings()?));
        }
        Ok(())
    }

    fn end(self, server: &Daemon, cycles: u32) -> Result<Figures> {
        let (start, before) = self.start.context("there were few cycles")?;
        let took = start.elapsed() / (cycles - self.warm);
        let (descriptors, threads) = (before.descriptors, before.threads.len());
        let deadline = Instant::now() + Self::REST;
        let after = loop {
            let after = server.holdings()?;
            if after.descriptors <= descriptors && after.threads.len() <= threads {
                break after;
            }
            ensure!(
                Instant::now() < deadline,
                "{descriptors} descriptors have become {}, and {:?} {:?}",
                after.descriptors,
                before.threads,
                after.threads
            );
            std::thread::sleep(Duration::from_millis(200));
        };
        let more = after.resident.saturating_sub(before.resident);
        ensure!(more < 2048, "{more} KiB more are resident");
        Ok(vec![format!(
            "{cycles} cycles of {} ms each; {descriptors} descriptors and {threads} threads, no more than before, {more} KiB more resident",
            took.as_millis()
        )])
    }
}
