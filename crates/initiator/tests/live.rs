//! Scans and loads, against a real server in the same process.
#![cfg(test)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lunar_block::{Driver, NodeOptions, open_node};
use lunar_devices::{Disk, DiskConfig};
use lunar_initiator::{
    Access, Address, Capacity, Command, Data, Device, Error, Failure, Initiator, Limit, Load,
    Moment, Options, Report, Start, TaskAttribute, TaskFunction, Waiting, feature, response,
};
use lunar_scsi::Lun;
use lunar_vhost_user::{Running, Server};
use lunar_virtio_scsi::{Controller, ControllerConfig, WorkerConfig, Workers, WorkersConfig};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A server with disks of 16 MiB at the given targets and LUNs.
struct Host {
    workers: Arc<Workers>,
    directory: TempDir,
    server: Option<(Arc<Controller>, Running)>,
}

impl Host {
    fn start(disks: &[(u8, u16)]) -> Host {
        let workers = Workers::start(WorkersConfig {
            count: 2,
            ..WorkersConfig::default()
        })
        .unwrap();
        let config = ControllerConfig {
            id: "scsi0".into(),
            request_queues: 2,
            ..ControllerConfig::default()
        };
        let controller = Controller::new(&workers, config).unwrap();
        for &(target, lun) in disks {
            let disk = DiskConfig {
                identity: format!("disk-{target}-{lun}"),
                ..DiskConfig::default()
            };
            let image = Driver::Memory { size: 16 * MIB };
            let image = open_node(image, &NodeOptions::default()).unwrap();
            let disk = Disk::new(disk, image).unwrap();
            controller.attach(target, lun, disk).unwrap();
        }
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("s");
        let options = lunar_vhost_user::Options { config: true };
        let server = Server::bind(&path, controller.clone(), options).unwrap();
        Host {
            workers,
            directory,
            server: Some((controller, server.start().unwrap())),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    fn connect(&self) -> Initiator {
        self.connect_with(0)
    }

    /// With these features beside the usual ones.
    fn connect_with(&self, more: u64) -> Initiator {
        let usual = Options::default();
        let options = Options {
            queues: 2,
            features: usual.features | more,
            ..usual
        };
        let initiator = Initiator::connect(self.path(), options).unwrap();
        assert_eq!(initiator.session().features() & more, more);
        initiator
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.server = None;
        self.workers.stop();
    }
}

fn address(target: u8, lun: u16) -> Address {
    Address::new(target, Lun::new(lun).unwrap())
}

/// A load that checks what it reads, while the queues move from thread to thread.
#[test]
fn a_verified_load_sees_nothing_of_queues_that_move() {
    let host = Host::start(&[(1, 0)]);
    let thread = |name: &str| {
        let config = WorkerConfig {
            name: name.into(),
            spin: Duration::ZERO,
            cpus: Vec::new(),
        };
        Some(host.workers.add(config).unwrap())
    };
    let places = [thread("a"), None, thread("b")];
    for more in [0, feature::RING_PACKED] {
        let mut device = Device::Scsi(Box::new(host.connect_with(more)));
        let load = Load {
            limit: Limit::Time(Duration::from_millis(1500)),
            ..wanted(Access::Verify, Waiting::Sleep)
        };
        let controller = host.server.as_ref().unwrap().0.clone();
        let over = AtomicBool::new(false);
        let moves = std::thread::scope(|scope| {
            let mover = scope.spawn(|| {
                let mut moves = 0;
                while !over.load(Ordering::Relaxed) {
                    controller.move_to(places[moves % places.len()]).unwrap();
                    moves += 1;
                }
                moves
            });
            let report = put_under_load(&mut device, &load);
            over.store(true, Ordering::Relaxed);
            assert!(report.checked > 0 && report.kicks > 0, "{report:?}");
            assert!(
                report.failures.is_empty() && report.mismatch.is_none(),
                "{report:?}"
            );
            mover.join().unwrap()
        });
        assert!(moves >= 100, "{moves} moves");
    }
}

#[test]
fn a_scan_finds_every_disk_and_no_other_with_size_and_names() {
    let disks = [(0, 0), (0, 1), (7, 255), (7, 256), (7, 16383), (255, 0)];
    let host = Host::start(&disks);
    let found = host.connect().scan().unwrap();
    let places: Vec<_> = found.iter().map(|u| (u.target, u.lun.number())).collect();
    assert_eq!(places, disks);
    let mut names: Vec<_> = Vec::new();
    for unit in &found {
        assert_eq!(unit.device_type, 0);
        assert!(!unit.vendor.is_empty() && !unit.product.is_empty());
        let size = Capacity {
            blocks: 16 * MIB / 512,
            block_size: 512,
        };
        assert_eq!(unit.capacity, Some(size));
        names.extend(
            unit.designators
                .iter()
                .filter(|d| d.kind == 3)
                .map(ToString::to_string),
        );
    }
    names.sort();
    names.dedup();
    assert_eq!(
        names.len(),
        disks.len(),
        "an NAA name of its own for each: {names:?}"
    );
    assert!(names[0].starts_with("naa."));
}

#[test]
fn a_target_with_more_luns_than_one_answer_holds_is_listed_completely() {
    let disks: Vec<_> = (0..600).map(|lun| (3, lun)).collect();
    let host = Host::start(&disks);
    let luns = host.connect().report_luns(3).unwrap();
    let numbers: Vec<_> = luns.iter().map(|l| l.number()).collect();
    assert_eq!(numbers, (0..600).collect::<Vec<_>>());
}

fn wanted(access: Access, waiting: Waiting) -> Load {
    Load {
        disks: vec![address(1, 0)],
        access,
        block_size: 4096,
        depth: 8,
        queues: 2,
        limit: Limit::Time(Duration::from_millis(100)),
        ramp: Duration::ZERO,
        waiting,
        seed: 1,
    }
}

fn put_under_load(device: &mut Device, load: &Load) -> Report {
    device.load(load, &mut |_| {}).unwrap()
}

#[test]
fn every_kind_of_load_does_what_it_says_with_every_way_of_waiting() {
    let host = Host::start(&[(1, 0)]);
    let mut device = Device::Scsi(Box::new(host.connect()));
    // Where threads take turns on a busy processor one of the loads may find everything done whenever it looks.
    let (mut interrupts, mut kicks) = (0, 0);
    for (access, reads, writes) in [
        (Access::RandomRead, true, false),
        (Access::RandomWrite, false, true),
        (Access::RandomMixed { reads: 50 }, true, true),
        (Access::Read, true, false),
        (Access::Write, false, true),
        (Access::Verify, true, true),
    ] {
        for waiting in [Waiting::Poll, Waiting::Sleep] {
            let report = put_under_load(&mut device, &wanted(access, waiting));
            assert_eq!(report.failures.len(), 0, "{access:?}: {report:?}");
            assert_eq!(report.mismatch, None);
            assert_eq!(report.reads.count() > 0, reads, "{access:?}");
            assert_eq!(report.writes.count() > 0, writes, "{access:?}");
            assert_eq!(report.checked > 0, access == Access::Verify);
            assert!(report.elapsed >= Duration::from_millis(99), "{report:?}");
            let mut all = report.reads.clone();
            all.merge(&report.writes);
            let median = all.percentile(50.0);
            assert!(median > Duration::ZERO && median <= all.max());
            assert_eq!(all.count(), report.completed());
            if waiting == Waiting::Sleep {
                interrupts += report.interrupts;
                kicks += report.kicks;
                assert!(report.interrupts <= report.completed() + 2);
            }
        }
    }
    assert!(interrupts > 0 && kicks > 0, "{interrupts}, {kicks}");
    // Nothing is left over: the queues can be used for commands again.
    let Device::Scsi(mut initiator) = device else {
        unreachable!();
    };
    let mut cdb = [0; 10];
    cdb[0] = 0x28;
    cdb[8] = 1;
    let read = Command::new(address(1, 0), &cdb, Data::In(512));
    assert!(initiator.command(&read).unwrap().is_good());
}

#[test]
fn packed_rings_carry_every_kind_of_load() {
    let host = Host::start(&[(1, 0)]);
    let mut device = Device::Scsi(Box::new(host.connect_with(feature::RING_PACKED)));
    for access in [Access::RandomMixed { reads: 50 }, Access::Verify] {
        for waiting in [Waiting::Poll, Waiting::Sleep] {
            let load = Load {
                limit: Limit::Count(3000),
                ..wanted(access, waiting)
            };
            let report = put_under_load(&mut device, &load);
            assert!(report.failures.is_empty() && report.mismatch.is_none());
            assert_eq!(report.completed(), 3000);
            assert_eq!(report.checked > 0, access == Access::Verify);
        }
    }
}

#[test]
fn packed_rings_go_on_where_they_were_and_begin_anew_after_a_reset() {
    let host = Host::start(&[(1, 0)]);
    let mut initiator = host.connect_with(feature::RING_PACKED);
    let mut cdb = [0; 10];
    cdb[0] = 0x28;
    cdb[8] = 1;
    let read = Command::new(address(1, 0), &cdb, Data::In(512));
    let mut bases = Vec::new();
    for round in 0..12 {
        for _ in 0..35 {
            let response = initiator.command_after_attentions(&read).unwrap();
            assert!(response.is_good());
        }
        if round % 6 == 5 {
            initiator.session().reset_device().unwrap();
            let features = initiator.session().features();
            initiator.session().set_features(features).unwrap();
            initiator.restart().unwrap();
            continue;
        }
        for ring in 0..initiator.ring_count() {
            let base = initiator.stop_ring(ring).unwrap();
            assert_eq!(base & 0xffff, base >> 16, "nothing was in flight");
            bases.push(base);
            initiator.start_ring(ring, Start::default()).unwrap();
        }
    }
    // The ring has 128 places: the wrap counters have turned over.
    assert!(bases.iter().any(|base| base & 0x8000 == 0), "{bases:x?}");
}

#[test]
fn a_load_of_a_number_of_requests_does_exactly_these() {
    let host = Host::start(&[(1, 0), (1, 1), (2, 0)]);
    let mut device = Device::Scsi(Box::new(host.connect()));
    let load = Load {
        disks: vec![address(1, 0), address(1, 1), address(2, 0)],
        limit: Limit::Count(1001),
        ..wanted(Access::RandomRead, Waiting::Sleep)
    };
    assert_eq!(put_under_load(&mut device, &load).completed(), 1001);
    let few = Load {
        limit: Limit::Count(1),
        ..load
    };
    assert_eq!(put_under_load(&mut device, &few).completed(), 1);
}

#[test]
fn the_warm_up_is_not_counted_and_every_second_is_told() {
    let host = Host::start(&[(1, 0)]);
    let mut device = Device::Scsi(Box::new(host.connect()));
    let load = Load {
        ramp: Duration::from_millis(200),
        limit: Limit::Time(Duration::from_millis(1200)),
        ..wanted(Access::RandomRead, Waiting::Sleep)
    };
    let mut moments = Vec::new();
    let begun = std::time::Instant::now();
    let report = device
        .load(&load, &mut |moment| moments.push(moment))
        .unwrap();
    let all = begun.elapsed();
    assert!(report.elapsed >= Duration::from_millis(1190));
    assert!(report.elapsed <= all - Duration::from_millis(150));
    assert!(
        matches!(
            moments[..],
            [
                Moment::Measuring,
                Moment::Second { completed: 1.., .. },
                ..,
                Moment::Over
            ]
        ),
        "{moments:?}"
    );
}

#[test]
fn failures_of_a_load_are_counted_by_their_sense() {
    let host = Host::start(&[(1, 0), (1, 1)]);
    let mut device = Device::Scsi(Box::new(host.connect()));
    let controller = &host.server.as_ref().unwrap().0;
    let mut load = wanted(Access::RandomRead, Waiting::Sleep);
    load.disks = vec![address(1, 0), address(1, 1)];
    load.limit = Limit::Time(Duration::from_millis(1500));
    let report = device
        .load(&load, &mut |moment| {
            if matches!(moment, Moment::Second { .. }) {
                controller.detach(1, 0).unwrap();
            }
        })
        .unwrap();
    assert!(report.completed() > 0);
    let unsupported = report.failures.keys().any(|failure| {
        matches!(
            failure,
            Failure::Scsi {
                sense: Some((5, 0x25, 0)),
                ..
            }
        ) || matches!(
            failure,
            Failure::Scsi {
                response: response::INCORRECT_LUN,
                ..
            }
        ) || matches!(
            failure,
            Failure::Scsi {
                response: response::BAD_TARGET,
                ..
            }
        )
    });
    assert!(unsupported, "{:?}", report.failures);
}

#[test]
fn a_load_on_nothing_or_of_odd_size_is_an_error() {
    let host = Host::start(&[(1, 0)]);
    let mut device = Device::Scsi(Box::new(host.connect()));
    let mut load = wanted(Access::RandomRead, Waiting::Sleep);
    load.disks = vec![address(2, 0)];
    let mut refused = |load: &Load| device.load(load, &mut |_| {});
    assert!(matches!(refused(&load), Err(Error::Missing(_))));
    load.disks = Vec::new();
    assert!(matches!(refused(&load), Err(Error::Missing(_))));
    load.disks = vec![address(1, 0)];
    for block_size in [0, 511, 4097, 32 << 20] {
        load.block_size = block_size;
        assert!(
            matches!(refused(&load), Err(Error::BlockSize { .. })),
            "{block_size}"
        );
    }
    load.block_size = 2 << 20;
    assert!(matches!(refused(&load), Err(Error::DataTooLong { .. })));
}

#[test]
fn more_queues_than_the_server_has_are_an_error_that_says_so() {
    let host = Host::start(&[(1, 0)]);
    let options = Options {
        queues: 3,
        ..Options::default()
    };
    let refused = Device::connect(host.path(), None, options).err();
    assert!(
        matches!(
            refused,
            Some(Error::TooFewQueues {
                wanted: 3,
                offered: 2
            })
        ),
        "{refused:?}"
    );
}

#[test]
fn task_management_and_event_questions_are_answered() {
    let host = Host::start(&[(1, 0)]);
    let mut initiator = host.connect();
    let tag = lunar_initiator::Tag(1);
    let mut ask = |function, at| {
        initiator
            .control()
            .task_management(function, at, tag)
            .unwrap()
    };
    assert_eq!(ask(TaskFunction::LunReset, address(1, 0)), response::OK);
    assert_eq!(ask(TaskFunction::QueryTask, address(1, 0)), response::OK);
    assert_eq!(
        ask(TaskFunction::LunReset, address(2, 0)),
        response::BAD_TARGET
    );
    assert_eq!(
        ask(TaskFunction::LunReset, address(1, 1)),
        response::INCORRECT_LUN
    );
    let answer = initiator.control().query(address(1, 0), u32::MAX).unwrap();
    assert_eq!(answer.response, response::OK);
    // The reset shows as a unit attention, once.
    let ready = [0; 6];
    let ready = Command::new(address(1, 0), &ready, Data::None);
    let first = initiator.command(&ready).unwrap();
    assert_eq!(
        first.sense_key().map(|(key, asc, _)| (key, asc)),
        Some((6, 0x29))
    );
    assert!(
        initiator
            .command_after_attentions(&ready)
            .unwrap()
            .is_good()
    );
}

#[test]
fn an_error_with_naca_is_met_with_aca_commands_and_clear_aca() {
    const CHECK_CONDITION: u8 = 0x02;
    const ACA_ACTIVE: u8 = 0x30;
    let host = Host::start(&[(1, 0)]);
    let mut initiator = host.connect();
    let run = |initiator: &mut Initiator, cdb: &[u8], room, attribute| {
        let command = Command {
            attribute,
            ..Command::new(address(1, 0), cdb, Data::In(room))
        };
        initiator.command_after_attentions(&command).unwrap()
    };
    let inquiry = [0x12, 0, 0, 0, 96, 0x04];
    let data = run(&mut initiator, &inquiry, 96, TaskAttribute::Simple).data;
    assert_eq!(data[3], 0x32, "NORMACA, HISUP, response data format 2");
    let functions = [0xA3, 0x0D, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0];
    let data = run(&mut initiator, &functions, 4, TaskAttribute::Simple).data;
    assert_eq!(data, [0xFC, 0x03, 0, 0], "CLEAR ACA among them");

    let read = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0x04];
    assert!(run(&mut initiator, &read, 512, TaskAttribute::Simple).is_good());
    // One block past the end of the disk.
    let beyond = [0x28, 0, 0, 0, 0x80, 0, 0, 0, 1, 0x04];
    let failed = run(&mut initiator, &beyond, 512, TaskAttribute::Simple);
    assert_eq!(failed.status, CHECK_CONDITION);
    assert_eq!(failed.sense_key(), Some((5, 0x21, 0)));
    for attribute in [
        TaskAttribute::Simple,
        TaskAttribute::Ordered,
        TaskAttribute::HeadOfQueue,
    ] {
        let refused = run(&mut initiator, &read, 512, attribute);
        assert_eq!((refused.response, refused.status), (0, ACA_ACTIVE));
        assert_eq!((refused.residual, refused.sense.len()), (512, 0));
    }
    assert!(run(&mut initiator, &read, 512, TaskAttribute::Aca).is_good());
    let control = initiator.control();
    let cleared = control.task_management(
        TaskFunction::ClearAca,
        address(1, 0),
        lunar_initiator::Tag(0),
    );
    assert_eq!(cleared.unwrap(), response::OK);
    assert!(run(&mut initiator, &read, 512, TaskAttribute::Simple).is_good());
    let refused = run(&mut initiator, &read, 512, TaskAttribute::Aca);
    assert_eq!(refused.sense_key(), Some((5, 0x49, 0)));
}

#[test]
fn hot_plug_is_reported_on_the_event_queue() {
    let host = Host::start(&[(1, 0)]);
    let mut initiator = host.connect();
    let controller = &host.server.as_ref().unwrap().0;
    controller.detach(1, 0).unwrap();
    let event = initiator
        .events()
        .next(Duration::from_secs(5))
        .unwrap()
        .expect("an event");
    let removed = (lunar_initiator::Event::TRANSPORT_RESET, 2);
    assert_eq!((event.event, event.reason), removed);
    assert_eq!(event.address.0[..2], [1, 1]);
    assert!(!event.missed);
    assert_eq!(
        initiator.events().take(Duration::from_millis(20)).unwrap(),
        None
    );
}
