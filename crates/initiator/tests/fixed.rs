//! A guest's memory that the kernel knows, against a real server in the same process.
#![cfg(test)]

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lunar_block::{Driver, NodeOptions, open_node};
use lunar_devices::{Disk, DiskConfig};
use lunar_initiator::{Access, Address, Device, Initiator, Limit, Load, Options, Waiting};
use lunar_scsi::Lun;
use lunar_vhost_user::Server;
use lunar_virtio_scsi::{Controller, ControllerConfig, WorkerConfig, Workers, WorkersConfig};

/// KiB that the kernel holds in place for this process.
fn pinned() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPin:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

fn wait_until(what: &str, reached: impl Fn(u64) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !reached(pinned()) {
        assert!(Instant::now() < deadline, "{} KiB are {what}", pinned());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Verified transfers of one piece and of several, on one worker and then on another one, under way while queues move.
#[test]
fn fixed_buffers_carry_the_data_and_are_let_go_with_the_guest() {
    let count = WorkersConfig {
        count: 2,
        ..WorkersConfig::default()
    };
    let workers = Workers::start(count).unwrap();
    let other = WorkerConfig {
        name: "other".into(),
        spin: Duration::ZERO,
        cpus: Vec::new(),
    };
    let places = [Some(workers.add(other).unwrap()), None];
    let config = ControllerConfig {
        fixed_buffers: true,
        request_queues: 2,
        ..ControllerConfig::default()
    };
    let controller = Controller::new(&workers, config).unwrap();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("disk.raw");
    File::create(&path).unwrap().set_len(16 << 20).unwrap();
    let options = NodeOptions {
        direct: true,
        ..NodeOptions::default()
    };
    let image = open_node(Driver::File { filename: path }, &options).unwrap();
    let disk = Disk::new(DiskConfig::default(), Arc::clone(&image)).unwrap();
    controller.attach(0, 0, disk).unwrap();
    let socket = directory.path().join("s");
    let options = lunar_vhost_user::Options { config: false };
    let server = Server::bind(&socket, controller.clone(), options).unwrap();
    let running = server.start().unwrap();

    let before = pinned();
    // So little that everybody may lock it, and in two regions, so that some buffers cannot be fixed.
    let options = Options {
        queues: 2,
        depth: 4,
        max_data: 1 << 16,
        regions: 2,
        ..Options::default()
    };
    let mut initiator = Initiator::connect(&socket, options).unwrap();
    // Each worker has a queue.
    let all_of = |initiator: &Initiator| {
        let regions = initiator.memory().regions().iter();
        before + 2 * regions.map(|region| region.size() >> 10).sum::<u64>()
    };
    let little = all_of(&initiator);
    wait_until("fixed", |now| now == little);
    let plugged = initiator.plug_memory(256 << 10).unwrap();
    let more = all_of(&initiator);
    assert!(more > little);
    wait_until("fixed after more was plugged", |now| now == more);
    initiator.unplug_memory(plugged).unwrap();
    wait_until("fixed after that was unplugged", |now| now == little);
    let mut device = Device::Scsi(Box::new(initiator));
    for block_size in [4096, 1 << 16] {
        let load = Load {
            disks: vec![Address::new(0, Lun::new(0).unwrap())],
            access: Access::Verify,
            block_size,
            depth: 4,
            queues: 2,
            limit: Limit::Time(Duration::from_millis(400)),
            ramp: Duration::ZERO,
            waiting: Waiting::Sleep,
            seed: 1,
        };
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let mover = scope.spawn(|| {
                let mut moves = 0;
                while !over.load(Ordering::Relaxed) {
                    controller.move_to(places[moves % places.len()]).unwrap();
                    moves += 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
                moves
            });
            let report = device.load(&load, &mut |_| {}).unwrap();
            over.store(true, Ordering::Relaxed);
            assert!(report.checked > 0, "{report:?}");
            assert!(
                report.failures.is_empty() && report.mismatch.is_none(),
                "{report:?}"
            );
            assert!(mover.join().unwrap() > 3);
        });
    }
    wait_until("fixed after the moves", |now| now > before);
    drop(device);
    wait_until("fixed without a guest", |now| now == before);
    drop(running);
    workers.stop();
}
