//! What the host fails, a guest does not notice if its disk is to stop: it sees a delay, and no error.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Figures, Lab, PRELUDE};
use crate::monitor::Monitor;
use crate::process::{quote, read, tied};
use crate::qemu::{Job, Machine, path_value};
use crate::scratch::Scratch;
use crate::storage::{Disks, Server, Storage, create};

/// A disk that waits takes its time.
const PATIENCE: Duration = Duration::from_secs(300);
/// What the guest's kernel gives a command, and for how much longer than that a disk waits.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Writes to all disks at a time, and verifies what was written.
const VERIFY: &str = r#"
jobs=
for target in $targets; do
	disk=$(basename $(readlink /dev/lun/0:0:$target:0))
	echo 5 >/sys/block/$disk/device/timeout
	jobs="$jobs --name=target$target --filename=/dev/$disk"
done
echo begun
from=$(now)
fio --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bs=64k --size=10M --verify=crc32c --verify_fatal=1 $jobs >/tmp/fio 2>&1 ||
	{ cat /tmp/fio; dmesg | tail -30; exit 1; }
complaints=$(kernel_complaints | grep -v 'thin provisioning soft threshold' || true)
[ -z "$complaints" ] || { echo "$complaints"; exit 1; }
echo took=$(($(now) - from))
echo verified
"#;

/// Wants to be told when 4 MiB are left for a disk, by thresholds of the Logical Block Provisioning mode page.
const WATCH: &str = r#"
for target in $targets; do
	disk=/dev/$(basename $(readlink /dev/lun/0:0:$target:0))
	sg_logs --page=0xc $disk | grep 'Available LBA mapping threshold resource count: 7'
	sg_wr_mode --page=0x1c,2 --contents=5c,2,0,1c,0,0,0,0,0,0,0,0,0,0,0,0,80,1,0,0,0,0,0,4,1,2,0,0,0,0,0,0 $disk
done
"#;
/// Has been told, and sees what the disks take.
const WATCHED: &str = r#"
for target in $targets; do
	disk=/dev/$(basename $(readlink /dev/lun/0:0:$target:0))
	sg_logs --page=0xc $disk | grep 'Used LBA mapping threshold resource count: 1[01]'
done
[ $(dmesg | grep -c 'thin provisioning soft threshold') = 2 ]
"#;

/// A machine that looks at the first targets, and does `VERIFY` between other things.
fn machine<'l>(
    lab: &'l Lab,
    storage: &Storage,
    targets: &[u8],
    [before, after]: [&str; 2],
) -> (Machine<'l>, Job) {
    let text: Vec<String> = targets.iter().map(u8::to_string).collect();
    let machine = Machine {
        extras: true,
        targets: Some(text.join(",")),
        ..lab.machine(storage)
    };
    let targets = text.join(" ");
    let script = format!("{PRELUDE}targets='{targets}'\n{before}{VERIFY}{after}");
    (machine, Job::new(&script, PATIENCE))
}

/// A server whose images are on a file system of 32 MiB that only it has, with ballast that leaves 8 MiB.
struct Small {
    storage: Storage,
    /// Where that is, as we see it.
    directory: PathBuf,
}

/// In namespaces of its own, for which nobody has to be root. Images are made there, because nobody else sees them.
const SMALL: &str = r#"#!/bin/sh
exec unshare --user --map-root-user --mount sh -eu -c '
mount -t tmpfs -o size=32m small "$1"
truncate -s 64M "$1"/disk.raw
qemu-img create -q -f qcow2 "$1"/disk.qcow2 64M
fallocate -l 24M "$1"/ballast
echo $$ >"$1.pid"
lunar=$2
shift 2
exec setpriv --pdeathsig TERM -- "$lunar" "$@"
' sh "#;

impl Small {
    fn serve(lab: &Lab, scratch: &Scratch) -> Result<Self> {
        ensure!(lab.server == Server::Lunar, "a test of Lunar's own");
        let directory = scratch.join("small");
        std::fs::create_dir(&directory)?;
        let mut disks = Disks::default();
        for (target, format) in ["raw", "qcow2"].iter().enumerate() {
            let path = path_value(&directory.join(format!("disk.{format}")));
            // What QEMU does if it is told nothing stops a disk that has no room.
            disks.drive(&format!(
                "file={path},format={format},if=none,id={format},discard=unmap"
            ));
            disks.device(&format!(
                "scsi-hd,drive={format},id={format},scsi-id={target}"
            ));
        }
        let program = scratch.join("lunar-in-small");
        let words = [&directory, &lab.lunar].map(|path| quote(&path.display().to_string()));
        std::fs::write(&program, format!("{SMALL}{} \"$@\"\n", words.join(" ")))?;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
        let storage = lab.server.start(&program, scratch, &disks, 2, &[])?;
        let pid = std::fs::read_to_string(scratch.join("small.pid"))?;
        let root = PathBuf::from(format!("/proc/{}/root", pid.trim()));
        let inside = directory.strip_prefix("/")?;
        Ok(Self {
            storage,
            directory: root.join(inside),
        })
    }
}

pub fn a_full_file_system_delays_writes_until_there_is_room(lab: &Lab) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let small = Small::serve(lab, &scratch)?;
    let mut monitor = monitor(&small.storage)?;
    let (machine, job) = machine(lab, &small.storage, &[0, 1], [WATCH, WATCHED]);
    let mut running = machine.start(&job)?;
    running.wait_for("begun")?;
    let mut stopped = BTreeSet::new();
    while stopped.len() < 2 {
        let failed = monitor.event("BLOCK_IO_ERROR")?;
        ensure!(
            member(&failed, "action") == "stop" && failed.get("nospace") == Some(&json!(true)),
            "not for want of space: {failed}"
        );
        stopped.insert(member(&failed, "device").to_owned());
    }
    monitor.event("STOP")?;
    for name in ["raw", "qcow2"] {
        ensure!(io_status(&mut monitor, name)? == "nospace");
    }
    let listed = ls(lab, &scratch)?;
    ensure!(listed.matches("no space").count() == 2, "{listed}");
    // Longer than the guest's kernel gives a command, and to no avail.
    std::thread::sleep(TIMEOUT + Duration::from_secs(2));
    monitor.execute("cont", json!({}))?;
    monitor.event("RESUME")?;
    for _ in ["raw", "qcow2"] {
        monitor.event("STOP")?;
    }
    ensure!(!running.has_said("verified"));
    std::fs::remove_file(small.directory.join("ballast")).context("the ballast")?;
    monitor.execute("cont", json!({}))?;
    monitor.event("RESUME")?;
    let outcome = running.finish()?.success()?;
    for name in ["raw", "qcow2"] {
        ensure!(io_status(&mut monitor, name)? == "ok");
    }
    let listed = ls(lab, &scratch)?;
    ensure!(!listed.contains("no space"), "{listed}");
    // The file system lives on as long as a file is open.
    let mut image = File::open(small.directory.join("disk.qcow2"))?;
    small.storage.stop()?;
    let copy = scratch.join("copy.qcow2");
    std::io::copy(&mut image, &mut File::create(&copy)?)?;
    read(tied("qemu-img").args(["check", "-q"]).arg(&copy))?;
    Ok(vec![format!(
        "written and verified in {} ms, of which 7 s and more without room",
        outcome.number("took")?
    )])
}

pub fn faults_of_the_host_delay_reads_and_writes_until_they_are_taken_away(
    lab: &Lab,
) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let mut disks = Disks::default();
    let mut nodes = Vec::new();
    for (target, format) in ["raw", "qcow2"].iter().enumerate() {
        let path = scratch.join(&format!("disk.{format}"));
        create(format, &path, "64M")?;
        let file = format!("file.driver=file,file.filename={}", path_value(&path));
        // A write fails once, reads do until the fault is taken away.
        let faults = "inject-error.0.iotype=write,inject-error.0.errno=5,inject-error.0.skip=40,inject-error.0.once=on,\
                      inject-error.1.iotype=read,inject-error.1.errno=5,inject-error.1.skip=60";
        nodes.push(format!(
            "--blockdev={format},node-name=image-{format},{file}"
        ));
        nodes.push(format!(
            "--blockdev=blkdebug,node-name={format},image=image-{format},{faults}"
        ));
        disks.device(&format!(
            "scsi-hd,drive={format},id=disk-{format},scsi-id={target},rerror=stop,werror=stop"
        ));
    }
    let storage = lab.server.start(&lab.lunar, &scratch, &disks, 2, &nodes)?;
    let mut monitor = monitor(&storage)?;
    let (machine, job) = machine(lab, &storage, &[0, 1], ["", ""]);
    let mut running = machine.start(&job)?;
    running.wait_for("begun")?;
    let mut seen = BTreeSet::new();
    while seen.len() < 4 {
        let failed = monitor.event("BLOCK_IO_ERROR")?;
        ensure!(
            member(&failed, "action") == "stop" && failed.get("nospace") == Some(&json!(false)),
            "{failed}"
        );
        let (node, operation) = (member(&failed, "node-name"), member(&failed, "operation"));
        // Later, the other disk's turn may have let this one go on already.
        if seen.is_empty() {
            ensure!(io_status(&mut monitor, &format!("disk-{node}"))? == "failed");
            ensure!(ls(lab, &scratch)?.contains("stopped"));
            // Longer than the guest's kernel gives a command.
            std::thread::sleep(TIMEOUT + Duration::from_secs(2));
        }
        seen.insert((node.to_owned(), operation.to_owned()));
        if operation == "read" {
            let image = format!("image-{node}");
            let mended = json!({"driver": "blkdebug", "node-name": node, "image": image});
            monitor.execute("blockdev-reopen", json!({"options": [mended]}))?;
        }
        monitor.execute("cont", json!({}))?;
    }
    let outcome = running.finish()?.success()?;
    storage.stop()?;
    read(
        tied("qemu-img")
            .args(["check", "-q"])
            .arg(scratch.join("disk.qcow2")),
    )?;
    Ok(vec![format!(
        "a write and reads of either disk failed; written and verified in {} ms",
        outcome.number("took")?
    )])
}

pub fn a_machine_is_paused_and_resumed_with_its_disk(lab: &Lab) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let path = scratch.join("disk.raw");
    create("raw", &path, "64M")?;
    let qmp = scratch.join("pause.qmp");
    let mut disks = Disks::default();
    disks.device("scsi-hd,drive=bad,scsi-id=0");
    let file = path_value(&path);
    let more = [
        format!("--blockdev=file,node-name=image,filename={file}"),
        "--blockdev=blkdebug,node-name=bad,image=image,inject-error.0.iotype=write,inject-error.0.errno=28,\
         inject-error.0.skip=40"
            .to_owned(),
        format!("--qemu-monitor={}", qmp.display()),
    ];
    let storage = lab.server.start(&lab.lunar, &scratch, &disks, 2, &more)?;
    let mut monitor = monitor(&storage)?;
    let (mut machine, job) = machine(lab, &storage, &[0], ["", ""]);
    machine.extra = vec![
        "-qmp".to_owned(),
        format!("unix:{},server=on,wait=off", path_value(&qmp)),
    ];
    let mut running = machine.start(&job)?;
    running.wait_for("begun")?;
    let mut qemu = running.monitor()?;
    monitor.event("STOP")?;
    qemu.event("STOP")?;
    let status = qemu.execute("query-status", json!({}))?;
    ensure!(member(&status, "status") == "paused", "{status}");
    // Whoever lets the machine go on means the disk as well; it fails again.
    qemu.execute("cont", json!({}))?;
    monitor.event("RESUME")?;
    monitor.event("STOP")?;
    qemu.event("STOP")?;
    let mended = json!({"driver": "blkdebug", "node-name": "bad", "image": "image"});
    monitor.execute("blockdev-reopen", json!({"options": [mended]}))?;
    // The guest's clock stands still: this is no time at all.
    std::thread::sleep(TIMEOUT + TIMEOUT);
    monitor.execute("cont", json!({}))?;
    qemu.event("RESUME")?;
    let outcome = running.finish()?.success()?;
    storage.stop()?;
    Ok(vec![format!(
        "written and verified in {} ms of the guest's time",
        outcome.number("took")?
    )])
}

fn monitor(storage: &Storage) -> Result<Monitor> {
    let daemon = storage.daemon.as_ref();
    daemon.context("a test of Lunar's own")?.monitor()
}

/// What `lunar ls` prints.
fn ls(lab: &Lab, scratch: &Scratch) -> Result<String> {
    let monitor: &Path = &scratch.join("lunar.qmp");
    read(tied(&lab.lunar).args(["ls", "--monitor"]).arg(monitor))
}

/// How a device fares.
fn io_status(monitor: &mut Monitor, device: &str) -> Result<String> {
    let all = monitor.execute("query-block", json!({}))?;
    let mut all = all.as_array().into_iter().flatten();
    let found = all.find(|block| member(block, "qdev") == device);
    let found = found.with_context(|| format!("query-block does not list {device}"))?;
    Ok(member(found, "io-status").to_owned())
}

fn member<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}
