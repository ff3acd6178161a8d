//! FORMAT UNIT and SANITIZE while others use the disk.

use std::sync::Arc;

use lunar_devices::{Disk, DiskConfig};

use super::fake::{BLOCK, Fake};
use super::harness::*;

const ABORT_TASK: u32 = 0;
const ADDRESS: [u8; 8] = [1, 0, 0x40, 0, 0, 0, 0, 0];
const REQUEST_SENSE: [u8; 6] = [3, 0, 0, 0, 18, 0];

/// CDB, parameter list, and what others are told meanwhile.
type Eraser = (&'static [u8], &'static [u8], (u8, u8));

/// With IMMED and without.
const ERASERS: [Eraser; 5] = [
    (&[4, 0, 0, 0, 0, 0], &[], (0x04, 0x04)),
    (&[4, 0x10, 0, 0, 0, 0], &[0, 0x82, 0, 0], (0x04, 0x04)),
    (
        &[0x48, 1, 0, 0, 0, 0, 0, 0, 5, 0],
        &[1, 0, 0, 1, 0],
        (0x04, 0x1B),
    ),
    (
        &[0x48, 0x81, 0, 0, 0, 0, 0, 0, 5, 0],
        &[1, 0, 0, 1, 0],
        (0x04, 0x1B),
    ),
    (&[0x48, 2, 0, 0, 0, 0, 0, 0, 0, 0], &[], (0x04, 0x1B)),
];

/// Two guests on two workers with one disk.
fn pair() -> (Arc<Fake>, [Guest; 2]) {
    let workers = workers(2);
    let fake = Fake::new(7);
    let image = Arc::new(fake.gate.clone());
    let disk = Disk::new(DiskConfig::default(), image).unwrap();
    let guests = [(); 2].map(|()| {
        let mut guest = Guest::running(&workers, 2);
        guest.controller.attach(0, 0, disk.clone()).unwrap();
        guest.attentions(ADDRESS);
        guest
    });
    (fake, guests)
}

fn write(guest: &mut Guest, queue: usize, lba: u32, byte: u8) -> Ticket {
    let block = [byte; BLOCK];
    guest.send(queue, ADDRESS, 5, &write10(lba, 1), &block, 0)
}

fn erase(guest: &mut Guest, (cdb, list, _): Eraser) -> Ticket {
    guest.send(REQUEST, ADDRESS, 9, cdb, list, 0)
}

fn await_ready(guest: &mut Guest) {
    while let Some((0x04, _)) = guest.command(ADDRESS, &TEST_UNIT_READY, &[], 0).asc() {}
}

#[test]
fn nothing_that_was_in_flight_lands_on_erased_blocks() {
    for eraser in ERASERS {
        let (fake, [mut a, mut b]) = pair();
        for round in 0..4u32 {
            fake.gate.shut();
            let before: Vec<_> = (0..16)
                .map(|lba| match (lba + round) % 2 {
                    0 => (true, write(&mut a, REQUEST + 1, lba, 1)),
                    _ => (false, write(&mut b, REQUEST + 1, lba, 1)),
                })
                .collect();
            fake.gate.await_waiting(16);
            let erasing = erase(&mut a, eraser);
            // Some come before the disk has heard of it, some wait for it, and some find it at work.
            let after: Vec<_> = (16..32)
                .map(|lba| write(&mut b, REQUEST + (lba as usize) % 2, lba, 2))
                .collect();
            if round == 0 {
                a.stays_open(&erasing);
                assert_eq!(fake.gate.word(40 * BLOCK), u64::from_ne_bytes([7; 8]));
            }
            fake.gate.release();
            a.wait(&erasing).good();
            for (first, ticket) in &before {
                if *first { &mut a } else { &mut b }.wait(ticket).good();
            }
            let mut expected = [0; 32];
            for (lba, ticket) in (16..32).zip(&after) {
                let reply = b.wait(ticket);
                match reply.asc() {
                    None => expected[lba] = 2,
                    Some(code) => assert_eq!(code, eraser.2),
                }
            }
            await_ready(&mut a);
            for (lba, byte) in expected.into_iter().enumerate() {
                let found = fake.gate.word(lba * BLOCK);
                let erased = lba >= 16 && found == 0;
                // A write that came before it is gone all the same.
                assert!(erased || found == u64::from_ne_bytes([byte; 8]), "{lba}");
            }
        }
    }
}

#[test]
fn a_disk_that_is_erased_tells_everybody_at_once_how_far_it_is() {
    for eraser in ERASERS {
        let (fake, [mut a, mut b]) = pair();
        fake.gate.shut();
        let erasing = erase(&mut a, eraser);
        fake.gate.await_waiting(1);
        let mut swap = [0; 16];
        (swap[0], swap[13]) = (0x89, 1);
        let twice = [0; 2 * BLOCK];
        for (cdb, out, room) in [
            (&TEST_UNIT_READY[..], &[][..], 0),
            (&read10(0, 1), &[], BLOCK),
            (&write10(0, 1), &twice[..BLOCK], 0),
            (&swap, &twice, 0),
            (eraser.0, eraser.1, 0),
        ] {
            let reply = b.command(ADDRESS, cdb, out, room);
            assert_eq!(
                (reply.sense()[2], reply.asc()),
                (2, Some(eraser.2)),
                "{cdb:x?}"
            );
            assert_eq!(reply.sense()[15], 0x80, "with a progress indication");
        }
        let sense = b
            .command(ADDRESS, &REQUEST_SENSE, &[], 18)
            .good()
            .data()
            .to_vec();
        assert_eq!((sense[12], sense[13]), eraser.2);
        fake.gate.release();
        a.wait(&erasing).good();
        await_ready(&mut b);
        assert_eq!(fake.gate.word(0), 0);
    }
}

#[test]
fn an_eraser_that_is_aborted_while_it_waits_has_done_nothing() {
    for eraser in ERASERS {
        let (fake, [mut a, mut b]) = pair();
        fake.gate.shut();
        let before = write(&mut b, REQUEST, 3, 1);
        fake.gate.await_waiting(1);
        let erasing = erase(&mut a, eraser);
        a.stays_open(&erasing);
        assert_eq!(a.manage(ABORT_TASK, ADDRESS, 9), 0);
        a.wait(&erasing);
        fake.gate.release();
        b.wait(&before).good();
        a.command(ADDRESS, &TEST_UNIT_READY, &[], 0).good();
        assert_eq!(fake.gate.word(4 * BLOCK), u64::from_ne_bytes([7; 8]));
        // Nothing is left of it: the next one is carried out.
        let again = erase(&mut b, eraser);
        b.wait(&again).good();
        await_ready(&mut a);
        assert_eq!(fake.gate.word(4 * BLOCK), 0);
    }
}
