//! Images of a running host grow and shrink, and guests hear of it.
#![cfg(test)]

mod support;

use std::time::Duration;

use lunar_host::{Event, IoStatus};
use lunar_initiator::{Command, Data};
use support::*;

const MIB: u64 = 1 << 20;

#[test]
fn a_guest_hears_of_a_new_size() {
    let place = Place::new(&[CONTROLLER]);
    let host = &place.host;
    place.file("a.img", MIB);
    place
        .add("drive file=@/a.img,format=raw,id=a,if=none")
        .unwrap();
    place.add("device scsi-hd,drive=a,id=d0").unwrap();
    let mut guest = place.guest("s");
    guest.attentions(0, 0);
    assert_eq!(guest.blocks(0, 0), 2048);
    host.resize("a", 4 * MIB, false).unwrap();
    let grown = (
        lunar_initiator::Event::PARAM_CHANGE,
        [1, 0, 0, 0, 0, 0, 0, 0],
        0x092A,
    );
    assert_eq!(guest.event(), grown);
    assert_eq!(guest.attentions(0, 0), [(0x2A, 0x09)]);
    assert_eq!(guest.blocks(0, 0), 4 * 2048);
    guest.write(0, 0, 4 * 2048 - 1, 7);
    assert_eq!(host.device("d0").unwrap().unwrap().size, 4 * MIB);

    let refused = host.resize("a", MIB, false).unwrap_err().line();
    assert!(refused.contains("it takes force to shrink it"), "{refused}");
    assert_eq!(guest.blocks(0, 0), 4 * 2048);
    host.resize("a", MIB, true).unwrap();
    assert_eq!(guest.event(), grown);
    assert_eq!(guest.attentions(0, 0), [(0x2A, 0x09)]);
    assert_eq!(guest.blocks(0, 0), 2048);
    for size in [0, 513] {
        assert!(host.resize("a", size, true).is_err());
    }

    // Somebody else makes the file longer: nobody has to say so.
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(place.path("a.img"))
        .unwrap();
    file.set_len(8 * MIB).unwrap();
    drop(file);
    assert_eq!(guest.event(), grown);
    assert_eq!(guest.blocks_after_attentions(0, 0), 8 * 2048);
}

#[test]
fn a_forced_shrink_cuts_the_image_after_the_last_command_beyond_its_end() {
    let slow =
        "inject-error.0.iotype=write,inject-error.0.errno=0,inject-error.0.latency-us=1000000";
    let place = Place::new(&[CONTROLLER]);
    let host = &place.host;
    place.file("a.img", 4 * MIB);
    for line in [
        "blockdev file,node-name=f,filename=@/a.img",
        &format!("blockdev blkdebug,node-name=b,image=f,{slow}"),
        "device scsi-hd,drive=b,id=d0",
    ] {
        place.add(line).unwrap();
    }
    let mut guest = place.guest("s");
    guest.attentions(0, 0);
    let len = || std::fs::metadata(place.path("a.img")).unwrap().len();
    let beyond = [0x2A, 0, 0, 0, 0x10, 0, 0, 0, 1, 0];
    let command = Command::new(address(0, 0), &beyond, Data::Out(&[7; 512]));
    let queue = guest.0.queue(0).unwrap();
    queue.submit(&command).unwrap();
    queue.send().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    std::thread::scope(|scope| {
        let shrinking = scope.spawn(|| host.resize("b", MIB, true));
        let last = 2047_u32.to_be_bytes();
        while guest
            .run_in(0, 0, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8)
            .data[..4]
            != last
        {
            std::thread::yield_now();
        }
        assert_eq!(len(), 4 * MIB, "the write is under way");
        assert!(!shrinking.is_finished());
        let refused = guest.run_in(0, 0, &[0x28, 0, 0, 0, 0x10, 0, 0, 0, 1, 0], 512);
        assert_eq!(refused.sense_key(), Some((5, 0x21, 0)));
        let again = host.resize("b", MIB, true).unwrap_err().line();
        assert!(again.contains("being shrunk"), "{again}");
        let written = guest.0.queue(0).unwrap().wait().unwrap();
        assert!(written.response.is_good(), "{written:?}");
        shrinking.join().unwrap().unwrap();
    });
    assert_eq!(len(), MIB);
    assert_eq!(host.device("d0").unwrap().unwrap().size, MIB);
    guest.write(0, 0, 2047, 1);
}

#[test]
fn a_disk_whose_commands_beyond_the_new_end_do_not_end_stays_as_it_is() {
    let place = Place::new(&[CONTROLLER]);
    let host = &place.host;
    place.file("a.img", 4 * MIB);
    for line in [
        "blockdev file,node-name=f,filename=@/a.img",
        "blockdev blkdebug,node-name=b,image=f,inject-error.0.iotype=write,inject-error.0.errno=28,inject-error.0.once=on",
        "device scsi-hd,drive=b,id=d0",
    ] {
        place.add(line).unwrap();
    }
    let events = host.events();
    let mut guest = place.guest("s");
    guest.attentions(0, 0);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            guest.write(0, 0, 4096, 7);
            guest
        });
        while events.next().unwrap().event != Event::Stop {}
        assert_eq!(
            host.device("d0").unwrap().unwrap().io_status,
            IoStatus::NoSpace
        );
        let refused = host.resize("b", MIB, true).unwrap_err().line();
        assert!(refused.contains("do not end"), "{refused}");
        host.resume().unwrap();
        let mut guest = writing.join().unwrap();
        assert_eq!(guest.blocks_after_attentions(0, 0), 4 * 2048);
        assert_eq!(guest.read(0, 0, 4096)[0], 7);
    });
    assert_eq!(host.device("d0").unwrap().unwrap().io_status, IoStatus::Ok);
    // Now nothing is in the way.
    host.resize("b", MIB, true).unwrap();
}

#[test]
fn a_file_is_not_cut_through_a_part_of_it() {
    let place = Place::new(&[CONTROLLER]);
    let host = &place.host;
    place.file("a.img", 4 * MIB);
    for line in [
        "blockdev file,node-name=f,filename=@/a.img",
        "blockdev raw,node-name=fixed,file=f,offset=1M,size=1M",
        "blockdev raw,node-name=rest,file=f,offset=512",
        "device scsi-hd,drive=fixed,id=d0",
        "device scsi-hd,drive=rest,id=d1",
    ] {
        place.add(line).unwrap();
    }
    let refused = host.resize("f", MIB, true).unwrap_err().line();
    assert!(refused.contains("\"fixed\""), "{refused}");
    host.resize("f", 2 * MIB, true).unwrap();
    let sizes: Vec<u64> = host.devices().iter().map(|device| device.size).collect();
    assert_eq!(sizes, [MIB, 2 * MIB - 512]);
}

#[test]
fn a_new_size_reaches_the_parts_of_a_file() {
    let place = Place::new(&[CONTROLLER]);
    place.file("a.img", 3 * MIB);
    place
        .add("blockdev file,node-name=f,filename=@/a.img")
        .unwrap();
    place
        .add("blockdev raw,node-name=fixed,file=f,size=1M")
        .unwrap();
    place
        .add("blockdev raw,node-name=rest,file=f,offset=1M")
        .unwrap();
    place.add("device scsi-hd,drive=fixed,id=d0").unwrap();
    place.add("device scsi-hd,drive=rest,id=d1").unwrap();
    let mut guest = place.guest("s");
    for target in [0, 1] {
        guest.attentions(target, 0);
    }
    place.host.resize("f", 5 * MIB, false).unwrap();
    assert_eq!(guest.event().1, [1, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(guest.attentions(1, 0), [(0x2A, 0x09)]);
    assert_eq!(guest.blocks(1, 0), 4 * 2048);
    assert_eq!(guest.attentions(0, 0), []);
    assert!(place.host.resize("fixed", 2 * MIB, false).is_err());
}
