//! Errors of the host as guests see them: with `stop`, as a delay that they can cut short.
#![cfg(test)]

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lunar_block::{
    Action, Backend, Driver, ErrorRules, FaultInjection, FaultOn, FaultRule, Faults, Image,
    IoStatus, NodeOptions, OnError, PolicyEvent, open_node,
};
use lunar_devices::{Disk, DiskConfig};
use lunar_initiator::{Address, Command, Data, Initiator, Options, Start, TaskFunction, response};
use lunar_scsi::Lun;
use lunar_vhost_user::{Running, Server};
use lunar_virtio_scsi::{Controller, ControllerConfig, Workers, WorkersConfig};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 16 * MIB;
const BUSY: u8 = 8;
const COMPLETE: u8 = 0;
const STOP: ErrorRules = ErrorRules {
    read: OnError::Stop,
    write: OnError::Stop,
};

/// A controller with a disk whose errors are injected and kept at LUN 0, and a healthy disk at LUN 1.
struct Host {
    workers: Arc<Workers>,
    directory: TempDir,
    controller: Arc<Controller>,
    server: Option<Running>,
    faults: Arc<FaultInjection>,
    policy: Arc<Backend>,
    events: Receiver<PolicyEvent>,
}

fn memory() -> Arc<dyn Image> {
    open_node(Driver::Memory { size: SIZE }, &NodeOptions::default()).unwrap()
}

fn config(identity: &str) -> DiskConfig {
    DiskConfig {
        identity: identity.into(),
        ..DiskConfig::default()
    }
}

impl Host {
    fn start(rules: ErrorRules) -> Host {
        Host::over(memory(), rules)
    }

    fn over(image: Arc<dyn Image>, rules: ErrorRules) -> Host {
        let options = NodeOptions::default();
        let faults = FaultInjection::new(image, Faults::default(), &options).unwrap();
        let (send, events) = channel();
        let send = Mutex::new(send);
        let policy = Backend::new(faults.clone(), rules, move |event| {
            // The test may be over.
            let _ = send.lock().unwrap().send(event);
        });
        let workers = Workers::start(WorkersConfig {
            count: 2,
            ..WorkersConfig::default()
        })
        .unwrap();
        let config_of = ControllerConfig {
            id: "scsi0".into(),
            request_queues: 2,
            ..ControllerConfig::default()
        };
        let controller = Controller::new(&workers, config_of).unwrap();
        let broken = Disk::new(config("broken"), policy.clone()).unwrap();
        controller.attach(0, 0, broken).unwrap();
        let well = Disk::new(config("well"), memory()).unwrap();
        controller.attach(0, 1, well).unwrap();
        let directory = TempDir::new().unwrap();
        let options = lunar_vhost_user::Options { config: true };
        let server = Server::bind(&directory.path().join("s"), controller.clone(), options);
        Host {
            server: Some(server.unwrap().start().unwrap()),
            workers,
            directory,
            controller,
            faults,
            policy,
            events,
        }
    }

    fn break_down(&self, on: FaultOn, errno: i32) {
        let rule = FaultRule {
            on,
            errno: Some(errno),
            torn: match on {
                FaultOn::Write => 1024,
                _ => 0,
            },
            ..FaultRule::default()
        };
        let rules = vec![rule];
        self.faults.set(Faults { rules, seed: 0 }).unwrap();
    }

    fn mend(&self) {
        self.faults.set(Faults::default()).unwrap();
    }

    fn await_stop(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.policy.is_stopped() {
            assert!(Instant::now() < deadline, "the device does not stop");
            std::thread::yield_now();
        }
    }

    fn guest(&self) -> Guest {
        let options = Options {
            queues: 2,
            max_data: 64 << 10,
            ..Options::default()
        };
        let path = self.directory.path().join("s");
        let mut guest = Guest(Initiator::connect(path, options).unwrap());
        for lun in [0, 1] {
            let ready = guest.command(lun, &[0; 6], Data::None);
            assert!(ready.is_good(), "{:?}", ready.sense_key());
        }
        guest
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.server = None;
        self.workers.stop();
    }
}

struct Guest(Initiator);

fn unit(lun: u16) -> Address {
    Address::new(0, Lun::new(lun).unwrap())
}

const BYTES: usize = 4096;

/// READ(10) or WRITE(10) of 8 blocks.
fn transfer(opcode: u8, lba: u8) -> Vec<u8> {
    vec![opcode, 0, 0, 0, 0, lba, 0, 0, 8, 0]
}

fn read(lba: u8) -> Vec<u8> {
    transfer(0x28, lba)
}

fn write(lba: u8) -> Vec<u8> {
    transfer(0x2a, lba)
}

impl Guest {
    fn command(&mut self, lun: u16, cdb: &[u8], data: Data<'_>) -> lunar_initiator::Response {
        let command = Command::new(unit(lun), cdb, data);
        self.0.command_after_attentions(&command).unwrap()
    }

    /// Sends a command and does not wait for it.
    fn send(&mut self, cdb: &[u8], data: Data<'_>) -> lunar_initiator::Tag {
        let queue = self.0.queue(0).unwrap();
        let tag = queue.submit(&Command::new(unit(0), cdb, data)).unwrap();
        queue.send().unwrap();
        tag
    }

    fn nothing_ends(&mut self) {
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(self.0.queue(0).unwrap().reap().unwrap(), None);
    }

    fn wait(&mut self) -> lunar_initiator::Completion {
        self.0.queue(0).unwrap().wait().unwrap()
    }

    fn is_filled_with(&mut self, lba: u8, byte: u8) {
        let response = self.command(0, &read(lba), Data::In(BYTES));
        assert!(response.is_good(), "{:?}", response.sense_key());
        assert_eq!(response.data, [byte; BYTES]);
    }
}

fn stops_and_goes_on(image: Arc<dyn Image>, errno: i32, no_space: bool) {
    let host = Host::over(image, STOP);
    let mut guest = host.guest();
    assert!(
        guest
            .command(0, &write(0), Data::Out(&[1; BYTES]))
            .is_good()
    );
    for (on, cdb, data) in [
        (FaultOn::Write, write(8), Data::Out(&[7; BYTES][..])),
        (FaultOn::Read, read(0), Data::In(BYTES)),
    ] {
        host.break_down(on, errno);
        let first = guest.send(&cdb, data);
        host.await_stop();
        let later = guest.send(&write(16), Data::Out(&[9; BYTES]));
        guest.nothing_ends();
        assert_eq!(
            host.policy.io_status(),
            if no_space {
                IoStatus::NoSpace
            } else {
                IoStatus::Failed
            }
        );
        // The other disk is not concerned.
        assert!(
            guest
                .command(1, &write(0), Data::Out(&[3; BYTES]))
                .is_good()
        );
        host.mend();
        host.policy.resume();
        for _ in 0..2 {
            let done = guest.wait();
            assert!(done.response.is_good(), "{:?}", done.response.sense_key());
            assert!(done.tag == first || done.tag == later);
            if done.tag == first && on == FaultOn::Read {
                assert_eq!(done.response.data, [1; BYTES]);
            }
        }
        let events: Vec<_> = host.events.try_iter().collect();
        assert!(
            matches!(&events[..], [PolicyEvent::Failed(failure), PolicyEvent::Stopped]
                if failure.action == Action::Stop),
            "{events:?}"
        );
    }
    guest.is_filled_with(8, 7);
    guest.is_filled_with(16, 9);
}

#[test]
fn with_stop_the_guest_sees_a_delay_and_no_error() {
    stops_and_goes_on(memory(), libc_errno::EIO, false);
    stops_and_goes_on(memory(), libc_errno::ENOSPC, true);
    stops_and_goes_on(memory(), libc_errno::ENOENT, false);
}

mod libc_errno {
    pub const ENOENT: i32 = 2;
    pub const EIO: i32 = 5;
    pub const ENOSPC: i32 = 28;
}

#[test]
fn with_stop_a_qcow2_disk_loses_nothing_either() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk.qcow2");
    let done = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&path)
        .arg(SIZE.to_string())
        .status();
    assert!(done.expect("qemu-img").success());
    for errno in [libc_errno::EIO, libc_errno::ENOSPC] {
        let file = path.clone();
        let image = open_node(Driver::Qcow2 { file }, &NodeOptions::default()).unwrap();
        stops_and_goes_on(image.clone(), errno, errno == libc_errno::ENOSPC);
        image.close().unwrap();
    }
}

#[test]
fn nothing_that_a_guest_does_wrong_stops_its_disk() {
    let host = Host::start(STOP);
    let mut guest = host.guest();
    let [beyond, unknown] = [0x28, 0xC1].map(|opcode| [opcode, 0, 0xff, 0, 0, 0, 0, 0, 8, 0]);
    let mut reserved_bit = read(0);
    reserved_bit[6] = 0x80;
    for (cdb, asc) in [
        (beyond.to_vec(), 0x21),
        (unknown.to_vec(), 0x20),
        (reserved_bit, 0x24),
    ] {
        let refused = guest.command(0, &cdb, Data::In(BYTES));
        assert_eq!(refused.sense_key(), Some((5, asc, 0)), "{cdb:02x?}");
    }
    // COMPARE AND WRITE of what is not there.
    let mut compare = [0; 16];
    (compare[0], compare[13]) = (0x89, 1);
    let differs = guest.command(0, &compare, Data::Out(&[7; 1024]));
    assert_eq!(differs.sense_key().map(|(key, ..)| key), Some(0xE));
    // RESERVE by one who has not registered.
    let reserve = [0x5F, 1, 5, 0, 0, 0, 0, 0, 24, 0];
    let conflict = guest.command(0, &reserve, Data::Out(&[0; 24]));
    assert_eq!(conflict.status, 0x18);
    assert!(!host.policy.is_stopped());
    assert!(host.events.try_recv().is_err(), "nobody hears of it");
    guest.is_filled_with(0, 0);
}

#[test]
fn with_report_the_guest_sees_the_error() {
    let host = Host::start(ErrorRules::default());
    let mut guest = host.guest();
    host.break_down(FaultOn::Any, libc_errno::EIO);
    let response = guest.command(0, &read(0), Data::In(BYTES));
    assert_eq!(response.sense_key(), Some((3, 0x11, 0)));
    let response = guest.command(0, &write(0), Data::Out(&[1; BYTES]));
    assert_eq!(response.sense_key(), Some((3, 0x0c, 0)));
    assert!(!host.policy.is_stopped());
}

/// WRITE SAME(16), COMPARE AND WRITE and SYNCHRONIZE CACHE: commands of one step and of several.
fn long_commands() -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut same = vec![0; 16];
    (same[0], same[13]) = (0x93, 64);
    let mut compare = vec![0; 16];
    (compare[0], compare[13]) = (0x89, 1);
    let mut sync = vec![0; 10];
    sync[0] = 0x35;
    vec![
        (write(8), vec![5; BYTES]),
        (same, vec![5; 512]),
        (compare, [[0; 512], [6; 512]].concat()),
        (sync, vec![]),
    ]
}

fn out(data: &[u8]) -> Data<'_> {
    match data {
        [] => Data::None,
        data => Data::Out(data),
    }
}

#[test]
fn whatever_a_command_is_made_of_it_waits_and_goes_on() {
    let host = Host::start(STOP);
    let mut guest = host.guest();
    for (cdb, data) in long_commands() {
        host.break_down(FaultOn::Any, libc_errno::EIO);
        guest.send(&cdb, out(&data));
        host.await_stop();
        guest.nothing_ends();
        host.mend();
        host.policy.resume();
        let response = guest.wait().response;
        // The compared block is not zero any more after WRITE SAME: a miscompare is an end as well.
        let ended = response.is_good() || response.sense_key() == Some((0xe, 0x1d, 0));
        assert!(ended, "{cdb:x?}: {:?}", response.sense_key());
    }
}

#[test]
fn task_management_ends_commands_that_wait_for_an_error_to_be_mended() {
    use TaskFunction::{AbortTask, AbortTaskSet, ClearTaskSet, LunReset};
    let host = Host::start(STOP);
    let mut guest = host.guest();
    for function in [AbortTask, AbortTaskSet, ClearTaskSet, LunReset] {
        for (cdb, data) in long_commands() {
            host.break_down(FaultOn::Any, libc_errno::EIO);
            let tag = guest.send(&cdb, out(&data));
            host.await_stop();
            guest.nothing_ends();
            let answer = guest.0.control().task_management(function, unit(0), tag);
            assert_eq!(answer.unwrap(), COMPLETE, "{function:?}");
            let ended = guest.wait();
            let expected = match function {
                LunReset => response::RESET,
                _ => response::ABORTED,
            };
            assert_eq!((ended.tag, ended.response.response), (tag, expected));
            assert!(host.policy.is_stopped(), "an abort mends nothing");
            host.mend();
            host.policy.resume();
            let ready = guest.command(0, &[0; 6], Data::None);
            assert!(ready.is_good());
        }
    }
}

#[test]
fn a_disk_can_be_detached_while_its_commands_wait() {
    for (cdb, data) in long_commands() {
        let host = Host::start(STOP);
        let mut guest = host.guest();
        host.break_down(FaultOn::Any, libc_errno::EIO);
        guest.send(&cdb, out(&data));
        host.await_stop();
        guest.nothing_ends();
        let begun = Instant::now();
        host.controller.detach(0, 0).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(!guest.wait().response.is_good());
        assert!(
            guest
                .command(1, &write(0), Data::Out(&[3; BYTES]))
                .is_good()
        );
    }
}

#[test]
fn rings_stop_while_commands_wait_and_the_guest_is_asked_to_send_them_again() {
    let host = Host::start(STOP);
    let mut guest = host.guest();
    host.break_down(FaultOn::Write, libc_errno::ENOSPC);
    let tag = guest.send(&write(8), Data::Out(&[7; BYTES]));
    host.await_stop();
    guest.send(&read(0), Data::In(BYTES));
    guest.nothing_ends();
    let begun = Instant::now();
    guest.0.stop().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    for _ in 0..2 {
        let ended = guest.wait();
        let Some(status) = Some(ended.response.status) else {
            unreachable!()
        };
        assert_eq!((ended.response.response, status), (response::OK, BUSY));
        assert!(ended.tag == tag || ended.response.data.len() <= BYTES);
    }
    for index in 0..guest.0.ring_count() {
        guest.0.start_ring(index, Start::default()).unwrap();
    }
    // Sent again it waits, until all is well.
    guest.send(&write(8), Data::Out(&[7; BYTES]));
    guest.nothing_ends();
    host.mend();
    host.policy.resume();
    assert!(guest.wait().response.is_good());
    guest.is_filled_with(8, 7);
}

#[test]
fn memory_is_announced_anew_while_commands_wait() {
    let host = Host::start(STOP);
    let mut guest = host.guest();
    host.break_down(FaultOn::Write, libc_errno::EIO);
    guest.send(&write(8), Data::Out(&[7; BYTES]));
    host.await_stop();
    let begun = Instant::now();
    let gpa = guest.0.plug_memory(MIB).unwrap();
    guest.0.unplug_memory(gpa).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_guest_that_vanishes_while_its_commands_wait_is_followed_by_the_next() {
    let host = Host::start(STOP);
    for (cdb, data) in long_commands() {
        let mut guest = host.guest();
        host.break_down(FaultOn::Any, libc_errno::EIO);
        guest.send(&cdb, out(&data));
        host.await_stop();
        drop(guest);
        host.mend();
        host.policy.resume();
        let mut next = host.guest();
        assert!(next.command(0, &write(0), Data::Out(&[3; BYTES])).is_good());
    }
}

#[test]
fn a_server_stops_while_commands_wait() {
    let host = Host::start(STOP);
    let mut guest = host.guest();
    host.break_down(FaultOn::Any, libc_errno::EIO);
    for (cdb, data) in long_commands() {
        guest.send(&cdb, out(&data));
    }
    host.await_stop();
    let begun = Instant::now();
    drop(host);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// Runs a test of this file again, alone, in mount and user namespaces of its own.
fn in_namespaces(test: &str, directory: &Path) {
    let status = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(SMALL, directory)
        .status();
    assert!(status.expect("unshare (package util-linux)").success());
}

const SMALL: &str = "LUNAR_TEST_SMALL_FILE_SYSTEM";

#[test]
fn a_full_file_system_delays_writes_until_there_is_room() {
    let Some(directory) = std::env::var_os(SMALL) else {
        let directory = TempDir::new().unwrap();
        in_namespaces(
            "a_full_file_system_delays_writes_until_there_is_room",
            directory.path(),
        );
        return;
    };
    let directory = Path::new(&directory);
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "small"])
        .arg(directory)
        .status();
    assert!(mount.unwrap().success());
    let ballast = directory.join("ballast");
    let path = |name: &str| directory.join(name);
    std::fs::File::create(path("disk.raw"))
        .unwrap()
        .set_len(SIZE)
        .unwrap();
    let done = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(path("disk.qcow2"))
        .arg(SIZE.to_string())
        .status();
    assert!(done.unwrap().success());
    let raw = Driver::File {
        filename: path("disk.raw"),
    };
    let qcow2 = Driver::Qcow2 {
        file: path("disk.qcow2"),
    };
    for driver in [raw, qcow2] {
        let image = open_node(driver, &NodeOptions::default()).unwrap();
        // What QEMU does if it is told nothing: writes without space stop the device.
        let host = Host::over(image.clone(), ErrorRules::default());
        let mut guest = host.guest();
        assert!(
            guest
                .command(0, &write(0), Data::Out(&[1; BYTES]))
                .is_good()
        );
        // Filled to the last page.
        let mut file = std::fs::File::create(&ballast).unwrap();
        while std::io::Write::write(&mut file, &[0; 4096]).is_ok_and(|n| n > 0) {}
        let data: Vec<u8> = (0..16 * BYTES)
            .map(|i| u8::try_from(i / 512).unwrap() + 1)
            .collect();
        let large = [0x2a, 0, 0, 0, 0x40, 0, 0, 0, 128, 0];
        guest.send(&large, Data::Out(&data));
        host.await_stop();
        guest.nothing_ends();
        assert_eq!(host.policy.io_status(), IoStatus::NoSpace);
        // Nothing has changed: it stops again.
        host.policy.resume();
        host.await_stop();
        guest.nothing_ends();
        drop(file);
        std::fs::remove_file(&ballast).unwrap();
        host.policy.resume();
        let response = guest.wait().response;
        assert!(response.is_good(), "{:?}", response.sense_key());
        let back = [0x28, 0, 0, 0, 0x40, 0, 0, 0, 128, 0];
        assert!(guest.command(0, &back, Data::In(data.len())).data == data);
        guest.is_filled_with(0, 1);
        drop(host);
        image.close().unwrap();
    }
    let check = std::process::Command::new("qemu-img")
        .args(["check", "-q"])
        .arg(path("disk.qcow2"))
        .status();
    assert!(check.unwrap().success(), "the image is damaged");
}
