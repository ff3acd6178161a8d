//! A running host is changed while guests use it, over its real sockets.
#![cfg(test)]
#![allow(clippy::print_stdout, reason = "figures are for people")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lunar_host::{
    DeviceInfo, DeviceState, End, Event, Limited, Limits, NodeInfo, RunState, ShutdownReason,
};
use lunar_initiator::{Access, Failure, Limit, Load, Waiting, response};
use support::*;

const REMOVED: u32 = 2;
const RESCAN: u32 = 1;
const MIB: u64 = 1 << 20;

#[test]
fn a_disk_arrives_and_leaves_under_the_eyes_of_its_guest() {
    let place = Place::new(&[
        CONTROLLER,
        "blockdev null-co,node-name=n0",
        "device scsi-hd,drive=n0,id=d0",
    ]);
    let host = &place.host;
    let mut guest = place.guest("s");
    guest.attentions(0, 0);
    let events = host.events();

    place.add("blockdev memory,node-name=n1,size=1M").unwrap();
    let path = place
        .add("device scsi-hd,drive=n1,id=d1,scsi-id=0,lun=7")
        .unwrap();
    assert_eq!(path, "/machine/peripheral/d1");
    assert_eq!(guest.event(), transport_reset(0, 7, RESCAN));
    assert_eq!(guest.attentions(0, 0), [(0x3F, 0x0E)]);
    let found: Vec<_> = guest
        .0
        .scan()
        .unwrap()
        .iter()
        .map(|u| (u.target, u.lun.number()))
        .collect();
    assert_eq!(found, [(0, 0), (0, 7)]);
    let info = host.device("d1").unwrap().unwrap();
    assert_eq!(
        (info.target, info.lun, info.size, info.node.as_str()),
        (0, 7, MIB, "n1")
    );
    assert_eq!(info.state, DeviceState::Running);

    host.remove_device("d1").unwrap();
    assert_eq!(guest.event(), transport_reset(0, 7, REMOVED));
    assert_eq!(guest.attentions(0, 0), [(0x3F, 0x0E)]);
    assert_eq!(events.next().unwrap().event, deleted("d1"));
    assert_eq!(host.devices().len(), 1);
    let refused = host.remove_device("d1").unwrap_err().line();
    assert_eq!(refused, "there is no device \"d1\"");
    // The node was declared by itself, and stays.
    place
        .add("device scsi-hd,drive=n1,id=d1,scsi-id=0,lun=7")
        .unwrap();
    host.remove_device(&path).unwrap();
    host.remove_node("n1").unwrap();
    assert_eq!(names(host.nodes()), ["n0"]);
}

#[test]
fn a_controller_with_its_disks_comes_and_goes() {
    let place = Place::new(&[CONTROLLER]);
    let host = &place.host;
    let events = host.events();
    for _ in 0..3 {
        place
            .add("device virtio-scsi-pci,id=more,socket=@/t")
            .unwrap();
        place.add("blockdev memory,node-name=n1,size=1M").unwrap();
        place
            .add("device scsi-hd,drive=n1,id=d1,bus=more.0")
            .unwrap();
        let mut guest = place.guest("t");
        assert_eq!(guest.0.scan().unwrap().len(), 1);
        assert!(host.controllers()[1].connected);
        host.remove_device("more").unwrap();
        assert_eq!(events.next().unwrap().event, deleted("d1"));
        assert_eq!(events.next().unwrap().event, deleted("more"));
        assert!(!place.path("t").exists());
        assert_eq!(host.controllers().len(), 1);
        host.remove_node("n1").unwrap();
    }
    let refused = place.add("device virtio-scsi-pci,id=more").unwrap_err();
    assert!(
        refused.starts_with("controller more has no socket"),
        "{refused}"
    );
    let refused = place
        .add("device virtio-scsi-pci,id=more,socket=@/s")
        .unwrap_err();
    assert!(
        refused.starts_with("controllers scsi0 and more have the same socket"),
        "{refused}"
    );
    let refused = place
        .add("device virtio-scsi-pci,id=more,socket=@/none/s")
        .unwrap_err();
    assert!(refused.contains("create it first"), "{refused}");
    assert_eq!(host.controllers().len(), 1);
}

#[test]
fn what_fails_leaves_nothing_behind() {
    let place = Place::new(&[
        CONTROLLER,
        "blockdev memory,node-name=n0,size=1M",
        "device scsi-hd,drive=n0,id=d0,scsi-id=0",
    ]);
    place.file("a.img", MIB);
    let before = place.all();
    for (order, reason) in [
        (
            "blockdev file,node-name=x,filename=@/none.img",
            "no such file",
        ),
        ("drive file=@/none.img,format=raw,id=x", "no such file"),
        ("drive file=@/a.img,format=qcow2,id=x", "qcow2"),
        ("blockdev null-co,node-name=n0", "exists already"),
        ("device scsi-hd,drive=n0,id=d1", "\"n0\" is in use by d0"),
        ("device scsi-hd,drive=none", "no drive or node is called"),
        (
            "device scsi-hd,drive=n0,id=d0",
            "the device \"d0\" exists already",
        ),
        (
            "device virtio-scsi-pci,id=c,socket=@/none/s",
            "does not exist",
        ),
    ] {
        let refused = place.add(order).unwrap_err();
        assert!(refused.contains(reason), "{order}: {refused}");
        assert_eq!(place.all(), before, "{order}");
    }
    let remove = |result: Result<(), lunar_host::Error>| result.unwrap_err().line();
    let host = &place.host;
    assert_eq!(
        remove(host.remove_node("n0")),
        "\"n0\" is in use by d0; remove that first"
    );
    assert_eq!(remove(host.remove_node("x")), "there is no node \"x\"");
    assert_eq!(remove(host.remove_drive("x")), "there is no drive \"x\"");
    assert_eq!(remove(host.remove_device("x")), "there is no device \"x\"");
    // Properties that no disk can have are found when the disk is made.
    place.add("blockdev memory,node-name=n1,size=1M").unwrap();
    let before = place.all();
    for (order, reason) in [
        (
            "device scsi-hd,drive=n1,logical_block_size=1000",
            "not a block size",
        ),
        ("device scsi-hd,drive=n1,scsi-id=0,lun=0", "is taken by d0"),
    ] {
        let refused = place.add(order).unwrap_err();
        assert!(refused.contains(reason), "{order}: {refused}");
        assert_eq!(place.all(), before, "{order}");
    }
    // The image that was declined is locked by nobody.
    place
        .add("drive file=@/a.img,format=raw,id=x,locking=on")
        .unwrap();
}

#[test]
fn a_drive_goes_with_its_last_device_and_can_be_added_again() {
    let place = Place::new(&[CONTROLLER, "device virtio-scsi-pci,id=scsi1,socket=@/t"]);
    let host = &place.host;
    place.file("a.img", MIB);
    for _ in 0..3 {
        place
            .add("drive file=@/a.img,format=raw,id=a,if=none,locking=on")
            .unwrap();
        place
            .add("device scsi-hd,drive=a,id=d0,share-rw=on")
            .unwrap();
        place
            .add("device scsi-hd,drive=a,id=d1,share-rw=on,bus=scsi1.0")
            .unwrap();
        assert!(
            place
                .add("drive file=@/a.img,format=raw,id=b,if=none,locking=on")
                .is_err()
        );
        assert_eq!(
            host.remove_drive("a").unwrap_err().line(),
            "\"a\" is in use by d0; remove that first"
        );
        host.remove_device("d0").unwrap();
        assert_eq!(host.nodes().len(), 1, "d1 uses it");
        host.remove_device("d1").unwrap();
        assert_eq!(host.nodes(), []);
    }
    place
        .add("drive file=@/a.img,format=raw,id=b,if=none,locking=on")
        .unwrap();
    host.remove_drive("b").unwrap();
    place
        .add("blockdev file,node-name=f,filename=@/a.img")
        .unwrap();
    place.add("blockdev raw,node-name=r,file=f").unwrap();
    assert_eq!(
        host.remove_node("f").unwrap_err().line(),
        "\"f\" is in use by node r; remove that first"
    );
    host.remove_node("r").unwrap();
    host.remove_node("f").unwrap();
}

#[test]
fn the_other_path_keeps_the_unit_and_its_reservation() {
    let place = Place::new(&[
        CONTROLLER,
        "device virtio-scsi-pci,id=scsi1,socket=@/t",
        "blockdev memory,node-name=n,size=1M",
        "device scsi-hd,drive=n,id=d0,share-rw=on",
    ]);
    let mut first = place.guest("s");
    let mut second = place.guest("t");
    first.attentions(0, 0);
    first.write(0, 0, 3, 0xAB);
    place
        .add("device scsi-hd,drive=n,id=d1,share-rw=on,bus=scsi1.0")
        .unwrap();
    assert_eq!(second.event(), transport_reset(0, 0, RESCAN));
    assert_eq!(second.attentions(0, 0), [(0x29, 0)]);
    assert_eq!(second.read(0, 0, 3)[0], 0xAB);
    // RESERVE(6) by the second path holds against the first, until that path goes.
    assert!(second.run(0, 0, &[0x16, 0, 0, 0, 0, 0]).is_good());
    const RESERVATION_CONFLICT: u8 = 0x18;
    assert_eq!(first.run(0, 0, &[0; 6]).status, RESERVATION_CONFLICT);
    place.host.remove_device("d1").unwrap();
    assert_eq!(second.event(), transport_reset(0, 0, REMOVED));
    assert_eq!(second.run(0, 0, &[0; 6]).response, response::BAD_TARGET);
    assert_eq!(first.read(0, 0, 3)[0], 0xAB);
    let refused = place.add("device scsi-hd,drive=n,id=d1,share-rw=on,bus=scsi1.0,serial=other");
    assert!(refused.unwrap_err().contains("second path to the disk of"));
    place
        .add("device scsi-hd,drive=n,id=d1,share-rw=on,bus=scsi1.0")
        .unwrap();
    assert_eq!(second.read(0, 0, 3)[0], 0xAB);
}

#[test]
fn requests_wait_while_the_host_is_paused() {
    let place = Place::new(&[
        CONTROLLER,
        "blockdev memory,node-name=n,size=1M",
        "device scsi-hd,drive=n",
    ]);
    let host = &place.host;
    let events = host.events();
    let mut guest = place.guest("s");
    guest.attentions(0, 0);
    host.pause().unwrap();
    host.pause().unwrap();
    assert_eq!(host.status(), RunState::Paused);
    assert_eq!(events.next().unwrap().event, Event::Stop);
    let resumed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            resumed.store(true, Ordering::SeqCst);
            host.resume().unwrap();
        });
        assert!(guest.run(0, 0, &[0; 6]).is_good());
        assert!(resumed.load(Ordering::SeqCst), "it was answered before");
    });
    assert_eq!(events.next().unwrap().event, Event::Resume);
    // A controller that comes while requests wait lets them wait, too.
    host.pause().unwrap();
    place
        .add("device virtio-scsi-pci,id=scsi1,socket=@/t")
        .unwrap();
    place.add("blockdev memory,node-name=m,size=1M").unwrap();
    place.add("device scsi-hd,drive=m,bus=scsi1.0").unwrap();
    let mut other = place.guest_with_timeout("t", Duration::from_secs(2));
    assert!(other.try_run(0, 0, &[0; 6]).is_err());
}

/// Waits for what another thread brings about.
fn until(done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "it does not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_storage_that_hangs_holds_up_its_own_removal_only() {
    let place = Place::new(&[
        CONTROLLER,
        "device virtio-scsi-pci,id=scsi1,socket=@/t",
        "blockdev null-co,node-name=slow,latency-ns=2000000000",
        "blockdev null-co,node-name=n",
        "device scsi-hd,drive=slow,id=slow,bus=scsi1.0",
    ]);
    let host = &place.host;
    let mut guest = place.guest("t");
    guest.attentions(0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(
                guest
                    .run_in(0, 0, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], 512)
                    .is_good()
            )
        });
        let read = |node: &NodeInfo| node.name == "slow" && node.stats.reads > 0;
        until(|| host.nodes().iter().any(read));
        let removal = scope.spawn(|| host.remove_device("slow"));
        let leaving = |device: DeviceInfo| device.state == DeviceState::Leaving;
        until(|| host.device("slow").unwrap().is_some_and(leaving));
        let refused = host.remove_device("slow").unwrap_err().line();
        assert_eq!(refused, "slow is being removed");
        assert!(
            place.add("device scsi-hd,drive=n,id=slow").is_err(),
            "the id is not free yet"
        );
        place.add("device scsi-hd,drive=n,id=quick").unwrap();
        host.remove_device("quick").unwrap();
        // On the same controller, too.
        let neighbour = "device scsi-hd,drive=n,id=quick,bus=scsi1.0,lun=1";
        place.add(neighbour).unwrap();
        host.remove_device("quick").unwrap();
        assert!(!removal.is_finished(), "the command is in flight");
        removal.join().unwrap().unwrap();
    });
    place
        .add("device scsi-hd,drive=n,id=slow,bus=scsi1.0")
        .unwrap();
}

#[test]
fn every_command_of_a_disk_that_goes_is_answered() {
    let place = Place::new(&[CONTROLLER]);
    place.file("a.img", MIB);
    let mut guest = place.guest("s");
    for _ in 0..5 {
        let drive = "drive file=@/a.img,format=raw,id=a,if=none";
        place.add(drive).unwrap();
        place.add("device scsi-hd,drive=a,id=d").unwrap();
        guest.attentions(0, 0);
        let busy = Load {
            disks: vec![address(0, 0)],
            access: Access::RandomWrite,
            block_size: 4096,
            depth: 32,
            queues: 1,
            limit: Limit::Time(Duration::from_millis(400)),
            ramp: Duration::ZERO,
            waiting: Waiting::Sleep,
            seed: 1,
        };
        std::thread::scope(|scope| {
            let load = scope.spawn(|| guest.0.load(&busy, &mut |_| {}).unwrap());
            std::thread::sleep(Duration::from_millis(200));
            place.host.remove_device("d").unwrap();
            let report = load.join().unwrap();
            assert!(report.completed() > 0, "{report:?}");
            let gone = |failure: &Failure| matches!(failure, Failure::Scsi { response, .. } if *response == response::BAD_TARGET);
            assert!(report.failures.keys().any(gone), "{report:?}");
        });
    }
}

/// Descriptors, threads, and KiB of memory of this process.
fn costs() -> (usize, usize, u64) {
    let count = |what: &str| {
        std::fs::read_dir(format!("/proc/self/{what}"))
            .unwrap()
            .count()
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    let memory = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    (count("fd"), count("task"), memory)
}

/// What runs in this process beside one test would be counted with it: `cargo test` runs it in a process of its own.
#[test]
fn coming_and_going_for_ever_costs_nothing() {
    alone("coming_and_going_for_ever_costs_nothing", || {
        let place = Place::new(&[
            CONTROLLER,
            "blockdev memory,node-name=n0,size=1M",
            "device scsi-hd,drive=n0,scsi-id=0,lun=0",
        ]);
        place.file("a.img", MIB);
        let host = Arc::clone(&place.host);
        let events = host.events();
        let mut guest = place.guest("s");
        guest.attentions(0, 0);
        let busy = Load {
            disks: vec![address(0, 0)],
            access: Access::RandomWrite,
            block_size: 4096,
            depth: 8,
            queues: 1,
            limit: Limit::Time(Duration::from_secs(6)),
            ramp: Duration::ZERO,
            waiting: Waiting::Sleep,
            seed: 1,
        };
        std::thread::scope(|scope| {
            let neighbour = scope.spawn(|| guest.0.load(&busy, &mut |_| {}).unwrap());
            let disk = || {
                place
                    .add("drive file=@/a.img,format=raw,id=a,if=none,locking=on")
                    .unwrap();
                place
                    .add("device scsi-hd,drive=a,id=d,scsi-id=1,lun=0")
                    .unwrap();
                host.remove_device("d").unwrap();
                assert_eq!(events.next().unwrap().event, deleted("d"));
            };
            let controller = || {
                place.add("device virtio-scsi-pci,id=c,socket=@/t").unwrap();
                place.add("blockdev null-co,node-name=m").unwrap();
                place.add("device scsi-hd,drive=m,id=d,bus=c.0").unwrap();
                assert_eq!(place.guest("t").0.report_luns(0).unwrap().len(), 1);
                host.remove_device("c").unwrap();
                host.remove_node("m").unwrap();
                for id in ["d", "c"] {
                    assert_eq!(events.next().unwrap().event, deleted(id));
                }
            };
            (0..50).for_each(|_| disk());
            (0..5).for_each(|_| controller());
            let before = costs();
            let start = Instant::now();
            (0..500).for_each(|_| disk());
            let disks = start.elapsed();
            (0..50).for_each(|_| controller());
            let after = costs();
            println!("500 disks in {disks:?}; before {before:?}, after {after:?}");
            assert_eq!(
                (before.0, before.1),
                (after.0, after.1),
                "descriptors and threads"
            );
            assert!(
                after.2 < before.2 + 1024,
                "memory in KiB: {} then {}",
                before.2,
                after.2
            );
            let report = neighbour.join().unwrap();
            assert_eq!(report.failures.len(), 0, "{report:?}");
            assert!(report.completed() > 1000);
        });
    });
}

#[test]
fn a_thousand_units_come_one_by_one() {
    let place = Place::new(&[CONTROLLER]);
    let mut guest = place.guest("s");
    let mut times = Vec::new();
    for n in 0..1000 {
        place
            .add(&format!("blockdev null-co,node-name=n{n}"))
            .unwrap();
        let start = Instant::now();
        place
            .add(&format!(
                "device scsi-hd,drive=n{n},id=d{n},scsi-id={},lun={}",
                n / 500,
                n % 500
            ))
            .unwrap();
        times.push(start.elapsed());
    }
    let sum = |times: &[Duration]| times.iter().sum::<Duration>();
    let (first, last) = (sum(&times[..100]) / 100, sum(&times[900..]) / 100);
    println!(
        "attached 1000 in {:?}: the first 100 in {first:?} each, the last in {last:?}",
        sum(&times)
    );
    assert_eq!(
        guest.0.report_luns(0).unwrap().len() + guest.0.report_luns(1).unwrap().len(),
        1000
    );
    // There were buffers for some events; that others were lost is said.
    let mut missed = false;
    while let Some(event) = guest.0.events().next(Duration::from_millis(200)).unwrap() {
        missed |= event.missed;
    }
    assert!(missed);
    let start = Instant::now();
    for n in 0..1000 {
        place.host.remove_device(&format!("d{n}")).unwrap();
    }
    println!("detached 1000 in {:?}", start.elapsed());
    assert_eq!(guest.0.scan().unwrap(), []);
    assert!(last < Duration::from_millis(100), "{last:?} each");
}

#[test]
fn the_end_is_told_and_then_nothing_more_is_done() {
    let place = Place::new(&[CONTROLLER]);
    let events = place.host.events();
    place.host.quit();
    place.host.shut_down(ShutdownReason::HostQmpQuit).unwrap();
    let (guest, reason) = (false, ShutdownReason::HostQmpQuit);
    assert_eq!(
        events.next().unwrap().event,
        Event::Shutdown { guest, reason }
    );
    assert_eq!(events.next(), Err(End::Over));
    assert_eq!(
        place.add("blockdev null-co,node-name=n").unwrap_err(),
        "the server is ending"
    );
    assert!(!place.path("s").exists());
}

#[test]
fn the_configuration_is_what_there_is_now() {
    let place = Place::new(&[CONTROLLER, "blockdev memory,node-name=m,size=1M"]);
    let host = &place.host;
    let before = host.configuration();
    place.add("blockdev null-co,node-name=n").unwrap();
    place
        .add("device scsi-hd,drive=n,id=d,scsi-id=3,noshare-rw")
        .unwrap();
    host.resize("n", 2 * MIB, true).unwrap();
    let now = host.configuration();
    let expected = "[[blockdev]]\ndriver = \"null-co\"\nnode-name = \"n\"\nsize = 2097152\n";
    assert!(now.contains(expected), "{now}");
    let expected = "[[device]]\ndriver = \"scsi-hd\"\nid = \"d\"\ndrive = \"n\"\nscsi-id = 3\n\
                    share-rw = false\nbus = \"scsi0.0\"\nlun = 0\n";
    assert!(now.contains(expected), "{now}");
    host.remove_device("d").unwrap();
    host.remove_node("n").unwrap();
    assert_eq!(host.configuration(), before);
}

#[test]
fn limits_of_a_device_that_names_a_node_are_in_the_configuration() {
    let mut place = Place::new(&[
        CONTROLLER,
        "blockdev null-co,node-name=n,size=1M",
        "device scsi-hd,drive=n,id=d0",
    ]);
    let limits = Limits {
        iops_total: lunar_host::Limit {
            average: 500,
            ..lunar_host::Limit::default()
        },
        ..Limits::default()
    };
    let limit = |place: &Place, limits| {
        let limited = place.host.set_limits(Limited::Device("d0"), limits, None);
        limited.unwrap();
    };
    let shown = |place: &Place| {
        let throttling = place.host.nodes()[0].throttling.clone();
        throttling.map(|throttling| (throttling.group, throttling.limits))
    };
    let identity = |place: &Place| {
        place
            .guest("s")
            .run_in(0, 0, &[0x12, 1, 0x83, 0, 255, 0], 255)
    };
    let before = identity(&place).data;

    limit(&place, limits);
    assert_eq!(shown(&place), Some(("d0".to_owned(), limits)));
    let declared = place.host.configuration();
    place.restart();
    assert_eq!(shown(&place), Some(("d0".to_owned(), limits)));
    assert_eq!(place.host.configuration(), declared);
    assert_eq!(identity(&place).data, before, "it is the same disk");

    limit(&place, Limits::default());
    place.restart();
    assert_eq!(shown(&place), None);
}

#[test]
fn a_disk_that_an_error_has_stopped_goes_on_when_the_fault_has_been_taken_away() {
    let place = Place::new(&[
        CONTROLLER,
        "blockdev memory,node-name=m,size=1M",
        "blockdev blkdebug,node-name=b,image=m,inject-error.0.iotype=write,inject-error.0.errno=28",
        "device scsi-hd,drive=b,id=d0,werror=stop",
    ]);
    let host = &place.host;
    let mut guest = place.guest("s");
    guest.attentions(0, 0);
    let events = host.events();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| guest.write(0, 0, 5, 0xAB));
        let failed = events.next().unwrap().event;
        assert!(
            matches!(failed, Event::BlockIoError { nospace: true, .. }),
            "{failed:?}"
        );
        assert_eq!(events.next().unwrap().event, Event::Stop);
        assert_eq!(host.status(), RunState::IoError);
        assert!(!writing.is_finished(), "the guest waits");

        let mended = "blkdebug,node-name=b,image=m";
        let mended = lunar_host::keyval::Options::parse(mended, lunar_host::keyval::BLOCKDEV);
        host.reopen([mended.unwrap()]).unwrap();
        host.resume().unwrap();
        assert_eq!(events.next().unwrap().event, Event::Resume);
        writing.join().unwrap();
    });
    assert_eq!(host.status(), RunState::Running);
    assert_eq!(guest.read(0, 0, 5)[0], 0xAB);
}
