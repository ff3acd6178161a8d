//! Disks that come and go while a guest runs.
//!
//! The guest follows what the server does: it says what it sees appear and vanish, and the test waits for that.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Figures, Lab, PRELUDE};
use crate::monitor::Monitor;
use crate::qemu::{Job, Machine, Running};
use crate::scratch::Scratch;
use crate::storage::{Daemon, Disks, Holdings, Server};

/// Hundreds of disks are looked at by an emulated processor.
const PATIENCE: Duration = Duration::from_secs(900);

/// `appears`, `vanishes HOST:CHANNEL:TARGET:LUN`: waits until the guest has a disk there, or nothing.
const FOLLOW: &str = r#"
block() { echo /sys/class/scsi_device/$1/device/block/*; }
disk() { echo /dev/$(basename $(block $1)); }
# Waits until a command says yes.
wait_for() {
	local end=$((SECONDS + 60))
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
# Of a disk that has gone the kernel still wants to flush the cache, and says that there is no such unit or target.
complaints() {
	kernel_complaints | grep -vE 'Synchronize Cache.* failed|Sense Key : Illegal Request|Add. Sense: Logical unit not supported' || true
}
quiet_kernel() { [ -z "$(complaints)" ] || { complaints; exit 1; }; }
"#;

/// Writes to the neighbours all the while, and reads again what was written.
const NEIGHBOURS: &str = r#"
fio --direct=1 --ioengine=libaio --iodepth=4 --rw=randwrite --bs=4k --size=4M --verify=crc32c --verify_backlog=32 \
	--verify_fatal=1 --rate_iops=50 --time_based --runtime=3600 \
	--name=first --filename=$(readlink -f /dev/lun/0:0:0:0) --name=second --filename=$(readlink -f /dev/lun/0:0:0:1) >/tmp/fio 2>&1 &
fio=$!
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
echo '- - -' >/sys/class/scsi_host/host0/scan
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
neighbours_were_well
"#
        ),
    )?;
    let mut figures = Cycles::default();
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
    let outcome = guest.finish()?.success()?;
    server.stop()?;
    said.push(format!(
        "{} reads of the neighbours verified",
        outcome.number("verified")?
    ));
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
        let node = format!("node{number}");
        let add = json!({ "driver": "null-co", "node-name": node, "size": 1 << 20 });
        monitor.execute("blockdev-add", add)?;
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
        let node = format!("node{number}");
        let add = json!({ "driver": "null-co", "node-name": node, "size": 1 << 20 });
        monitor.execute("blockdev-add", add)?;
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
    machine.start(&Job::new(
        &format!("{PRELUDE}{FOLLOW}{NEIGHBOURS}{script}quiet_kernel\n"),
        PATIENCE,
    ))
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
#[derive(Default)]
struct Cycles {
    start: Option<(Instant, Holdings)>,
}

impl Cycles {
    /// How many cycles it takes until everything is there that stays.
    const WARM: u32 = 5;
    /// Threads that do what blocks end some time after there was such work.
    const REST: Duration = Duration::from_secs(30);

    fn begin(&mut self, server: &Daemon, cycle: u32) -> Result<()> {
        if cycle == Self::WARM + 1 {
            self.start = Some((Instant::now(), server.holdings()?));
        }
        Ok(())
    }

    fn end(self, server: &Daemon, cycles: u32) -> Result<Figures> {
        let (start, before) = self.start.context("there were few cycles")?;
        let took = start.elapsed() / (cycles - Self::WARM);
        let (descriptors, threads) = (before.descriptors, before.threads);
        let deadline = Instant::now() + Self::REST;
        let after = loop {
            let after = server.holdings()?;
            if after.descriptors <= descriptors && after.threads <= threads {
                break after;
            }
            ensure!(
                Instant::now() < deadline,
                "{descriptors} descriptors and {threads} threads have become {} and {}",
                after.descriptors,
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
