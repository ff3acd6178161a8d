//! Trays open, media come and go, and guests see it.
#![cfg(test)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lunar_host::catalog::Format;
use lunar_host::model::Bay;
use lunar_host::{Event, ReadOnlyMode};
use support::*;

const MIB: u64 = 1 << 20;
const TEST_UNIT_READY: [u8; 6] = [0; 6];
const EJECT: [u8; 6] = [0x1B, 0, 0, 0, 2, 0];
const LOAD: [u8; 6] = [0x1B, 0, 0, 0, 3, 0];
const PREVENT: [u8; 6] = [0x1E, 0, 0, 0, 1, 0];
const ALLOW: [u8; 6] = [0x1E, 0, 0, 0, 0, 0];
const D0: Bay<'_> = Bay::Device("d0");

fn moved(open: bool) -> Event {
    Event::DeviceTrayMoved {
        device: "cd".into(),
        id: "d0".into(),
        tray_open: open,
    }
}

fn with_drive(drive: &str) -> Place {
    let device = "device scsi-hd,drive=cd,id=d0,removable=on";
    let place = Place::new(&[CONTROLLER]);
    place.file("a.img", MIB);
    place.file("b.img", 2 * MIB);
    place.add(drive).unwrap();
    place.add(device).unwrap();
    place
}

fn with_a() -> Place {
    with_drive("drive file=@/a.img,format=raw,id=cd")
}

fn change(place: &Place, file: &str) -> Result<(), String> {
    let path = place.path(file);
    let changed = place.host.change_medium(
        D0,
        path.to_str().unwrap(),
        Some(Format::Raw),
        ReadOnlyMode::Retain,
        false,
    );
    changed.map_err(|error| error.line())
}

#[test]
fn a_medium_is_taken_out_and_another_put_in_under_the_eyes_of_the_guest() {
    let place = with_a();
    let host = &place.host;
    let events = host.events();
    let mut guest = place.guest("s");
    assert_eq!(guest.blocks_after_attentions(0, 0), MIB / 512);
    guest.write(0, 0, 7, 0xAA);

    host.eject(D0, false).unwrap();
    assert_eq!(events.next().unwrap().event, moved(true));
    let answer = guest.run(0, 0, &TEST_UNIT_READY);
    assert_eq!(answer.sense_key(), Some((2, 0x3A, 0x02)));
    let read = guest.run_in(0, 0, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], 512);
    assert_eq!(read.sense_key(), Some((2, 0x3A, 0x02)));
    assert!(host.nodes().is_empty(), "its node went with it");
    assert_eq!(std::fs::read(place.path("a.img")).unwrap()[7 * 512], 0xAA);
    let info = host.device("d0").unwrap().unwrap();
    assert!(info.removable && info.tray_open && !info.inserted && !info.locked);
    assert_eq!((info.size, info.drive.as_deref()), (0, Some("cd")));
    // There is nothing more to take out.
    host.eject(D0, false).unwrap();

    host.close_tray(D0).unwrap();
    assert_eq!(events.next().unwrap().event, moved(false));
    let answer = guest.run(0, 0, &TEST_UNIT_READY);
    assert_eq!(answer.sense_key(), Some((2, 0x3A, 0x01)));
    host.open_tray(D0, false).unwrap();
    assert_eq!(events.next().unwrap().event, moved(true));

    place
        .add("blockdev file,node-name=b,filename=@/b.img")
        .unwrap();
    host.insert_medium(D0, "b").unwrap();
    let refused = host.insert_medium(D0, "b").unwrap_err().line();
    assert_eq!(refused, "There already is a medium in device 'd0'");
    let answer = guest.run(0, 0, &TEST_UNIT_READY);
    assert_eq!(answer.sense_key(), Some((2, 0x3A, 0x02)), "not loaded yet");
    host.close_tray(D0).unwrap();
    assert_eq!(events.next().unwrap().event, moved(false));
    assert_eq!(guest.attentions(0, 0), [(0x28, 0x00)]);
    assert_eq!(guest.blocks(0, 0), 2 * MIB / 512);
    assert_eq!(guest.read(0, 0, 7), [0; 512]);
    guest.write(0, 0, 4095, 0xBB);

    let refused = host.remove_node("b").unwrap_err().line();
    assert_eq!(refused, "\"b\" is in use by d0; remove that first");
    host.eject(D0, false).unwrap();
    assert_eq!(names(host.nodes()), ["b"], "it was declared by itself");
    host.remove_node("b").unwrap();
    assert_eq!(
        std::fs::read(place.path("b.img")).unwrap()[4095 * 512],
        0xBB
    );
    host.remove_device("d0").unwrap();
    assert!(host.nodes().is_empty() && host.model().drive("cd").is_none());
}

#[test]
fn the_guest_that_loads_a_medium_hears_of_it_only_if_it_is_another_one() {
    let place = with_a();
    let mut guest = place.guest("s");
    let events = place.host.events();
    guest.attentions(0, 0);
    assert!(guest.run(0, 0, &EJECT).is_good());
    assert_eq!(events.next().unwrap().event, moved(true));
    assert!(guest.run(0, 0, &LOAD).is_good());
    assert_eq!(events.next().unwrap().event, moved(false));
    assert_eq!(guest.attentions(0, 0), []);

    assert!(guest.run(0, 0, &EJECT).is_good());
    place.host.remove_medium(D0).unwrap();
    place
        .add("blockdev file,node-name=b,filename=@/b.img")
        .unwrap();
    place.host.insert_medium(D0, "b").unwrap();
    assert!(guest.run(0, 0, &LOAD).is_good());
    assert_eq!(guest.attentions(0, 0), [(0x28, 0x00)]);
    assert_eq!(guest.blocks(0, 0), 2 * MIB / 512);
}

#[test]
fn a_locked_tray_is_left_to_the_guest_unless_there_is_force() {
    let place = with_a();
    let host = &place.host;
    let mut guest = place.guest("s");
    guest.attentions(0, 0);
    assert!(guest.run(0, 0, &PREVENT).is_good());
    assert!(host.device("d0").unwrap().unwrap().locked);
    let refused = host.eject(D0, false).unwrap_err().line();
    assert_eq!(
        refused,
        "Device 'd0' is locked and force was not specified, wait for tray to open and try again"
    );
    assert_eq!(
        guest.attentions(0, 0),
        [],
        "Linux would fail what is mounted"
    );
    assert_eq!(guest.read(0, 0, 0), [0; 512]);
    let refused = change(&place, "b.img").unwrap_err();
    assert!(refused.contains("is locked"), "{refused}");
    assert_eq!(names(host.nodes()).len(), 1);
    // It agrees.
    assert!(guest.run(0, 0, &ALLOW).is_good());
    change(&place, "b.img").unwrap();
    assert_eq!(guest.attentions(0, 0), [(0x28, 0x00)]);
    assert_eq!(guest.blocks(0, 0), 2 * MIB / 512);

    assert!(guest.run(0, 0, &PREVENT).is_good());
    host.eject(D0, true).unwrap();
    let answer = guest.run(0, 0, &TEST_UNIT_READY);
    assert_eq!(answer.sense_key(), Some((2, 0x3A, 0x02)));
}

#[test]
fn an_empty_drive_waits_for_its_medium() {
    let place = with_drive("drive if=none,id=cd");
    let host = &place.host;
    let mut guest = place.guest("s");
    guest.attentions(0, 0);
    let answer = guest.run(0, 0, &TEST_UNIT_READY);
    assert_eq!(answer.sense_key(), Some((2, 0x3A, 0x01)));
    assert!(guest.run_in(0, 0, &[0x12, 0, 0, 0, 36, 0], 36).data[1] & 0x80 != 0);
    let closed = host.remove_medium(D0).unwrap_err().line();
    assert_eq!(closed, "Tray of device 'd0' is not open");
    change(&place, "b.img").unwrap();
    assert_eq!(guest.attentions(0, 0), [(0x28, 0x00)]);
    assert_eq!(guest.blocks(0, 0), 2 * MIB / 512);
    guest.write(0, 0, 1, 1);

    let refused = place
        .add("drive if=none,id=none")
        .and_then(|_| place.add("device scsi-hd,drive=none"));
    assert_eq!(
        refused.unwrap_err(),
        "the drive \"none\" is empty, and a disk needs a medium unless it is removable=on"
    );
}

#[test]
fn a_medium_that_does_not_fit_changes_nothing() {
    let place = with_a();
    let host = &place.host;
    let mut guest = place.guest("s");
    guest.attentions(0, 0);
    guest.write(0, 0, 0, 0xAA);
    let refused = change(&place, "none.img").unwrap_err();
    assert!(refused.contains("no such file"), "{refused}");
    place.file("short.img", 0);
    let refused = change(&place, "short.img").unwrap_err();
    assert!(refused.contains("use a larger image"), "{refused}");
    let info = host.device("d0").unwrap().unwrap();
    assert!(info.tray_open && info.inserted);
    assert_eq!(host.nodes().len(), 1);
    host.close_tray(D0).unwrap();
    assert_eq!(guest.attentions(0, 0), [(0x28, 0x00)]);
    assert_eq!(guest.read(0, 0, 0), [0xAA; 512]);

    place.add("blockdev null-co,node-name=n").unwrap();
    place.add("device scsi-hd,drive=n,id=fixed").unwrap();
    let refused = host.eject(Bay::Device("fixed"), true).unwrap_err().line();
    assert_eq!(refused, "Device 'fixed' is not removable");
    assert!(host.eject(Bay::Device("none"), true).is_err());
    assert!(host.eject(Bay::Drive("d0"), true).is_err());
}

#[test]
fn reservations_stay_with_the_drive_when_the_medium_goes() {
    let place = with_a();
    let mut guest = place.guest("s");
    guest.attentions(0, 0);
    let mut parameters = [0; 24];
    parameters[15] = 7;
    let register = [0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    let address = address(0, 0);
    let out = lunar_initiator::Data::Out(&parameters);
    let command = lunar_initiator::Command::new(address, &register, out);
    assert!(guest.0.command(&command).unwrap().is_good());
    change(&place, "b.img").unwrap();
    let keys = guest.run_in(0, 0, &[0x5E, 0, 0, 0, 0, 0, 0, 0, 16, 0], 16);
    assert_eq!(keys.data[4..], [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7]);
}

#[test]
fn media_change_for_ever_while_the_guest_reads() {
    alone("media_change_for_ever_while_the_guest_reads", || {
        let place = with_a();
        std::fs::write(place.path("a.img"), vec![0xAA; 1 << 20]).unwrap();
        std::fs::write(place.path("b.img"), vec![0xBB; 2 << 20]).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let good = Arc::new(AtomicU64::new(0));
        let mut guest = place.guest("s");
        let reader = {
            let (stop, good) = (Arc::clone(&stop), Arc::clone(&good));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let read = guest.run_in(0, 0, &[0x28, 0, 0, 0, 0, 0, 0, 0, 16, 0], 8192);
                    match read.sense_key() {
                        None => {
                            let first = read.data[0];
                            assert!([0xAA, 0xBB].contains(&first), "{first:x}");
                            assert!(read.data.iter().all(|&byte| byte == first), "two media");
                            good.fetch_add(1, Ordering::Relaxed);
                        }
                        Some(sense) => assert_eq!((sense.0, sense.1), (2, 0x3A)),
                    }
                }
            })
        };
        let count = |what| {
            std::fs::read_dir(format!("/proc/self/{what}"))
                .unwrap()
                .count()
        };
        // The first ones make what then stays.
        for file in ["b.img", "a.img"] {
            change(&place, file).unwrap();
        }
        let before = (count("fd"), count("task"));
        for n in 0..200 {
            let seen = good.load(Ordering::Relaxed);
            change(&place, ["b.img", "a.img"][n % 2]).unwrap();
            while good.load(Ordering::Relaxed) == seen && !reader.is_finished() {
                std::thread::yield_now();
            }
        }
        // The kernel may take its time to let go of what a worker has closed.
        let after = || (count("fd"), count("task"));
        for _ in 0..100 {
            if after() == before {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        assert_eq!(before, after(), "descriptors and threads");
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        assert_eq!(place.host.nodes().len(), 1);
        assert_eq!(place.host.model().nodes().count(), 1);
    });
}
