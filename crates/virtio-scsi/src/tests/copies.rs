//! EXTENDED COPY between units, and those who have business of their own there.

use std::sync::Arc;

use lunar_devices::{Disk, DiskConfig};

use super::fake::{BLOCK, Fake};
use super::harness::*;

const ABORT_TASK: u32 = 0;
const ORDER: [u8; 2] = [SIMPLE, ORDERED];

/// Two disks, LUN 0 and 1 of two guests on two workers; the bytes of disk N are all N.
struct Lab {
    fakes: [Arc<Fake>; 2],
    guests: [Guest; 2],
    /// A CSCD descriptor of each disk.
    names: [Vec<u8>; 2],
}

fn lab(queues: u16) -> Lab {
    let workers = workers(2);
    let fakes = [0, 1].map(Fake::new);
    let disks = [0, 1].map(|number: usize| {
        let config = DiskConfig {
            identity: format!("disk {number}"),
            ..DiskConfig::default()
        };
        Disk::new(config, Arc::new(fakes[number].gate.clone())).unwrap()
    });
    let mut guests = [(); 2].map(|()| Guest::running(&workers, queues));
    for guest in &mut guests {
        for (number, disk) in (0..).zip(&disks) {
            guest.controller.attach(0, number, disk.clone()).unwrap();
        }
        for number in 0..2 {
            guest.attentions(lun(0, number));
        }
    }
    let names = [0, 1].map(|number| {
        let page = guests[0].command(lun(0, number), &[0x12, 1, 0x83, 0, 255, 0], &[], 255);
        let page = page.data();
        let naa = page.windows(4).position(|w| w == [1, 3, 0, 8]).unwrap();
        let mut name = vec![0xE4, 0, 0, 0];
        name.extend(&page[naa..naa + 12]);
        name.resize(30, 0);
        name.extend((BLOCK as u16).to_be_bytes());
        name
    });
    Lab {
        fakes,
        guests,
        names,
    }
}

impl Lab {
    /// Copies a block from the disk that receives the command to the other one, once for each of these addresses.
    fn copy(&mut self, guest: usize, queue: usize, to: usize, lbas: &[u64]) -> Ticket {
        let from = 1 - to;
        let mut list = vec![0, 0x18, 0, 64, 0, 0, 0, 0];
        list.extend((lbas.len() as u32 * 28).to_be_bytes());
        list.extend([0; 4]);
        list.extend(self.names.concat());
        for lba in lbas {
            list.extend([2, 0, 0, 0x18, 0, from as u8, 0, to as u8, 0, 0, 0, 1]);
            list.extend(lba.to_be_bytes());
            list.extend(lba.to_be_bytes());
        }
        let mut cdb = [0; 16];
        cdb[0] = 0x83;
        cdb[10..14].copy_from_slice(&(list.len() as u32).to_be_bytes());
        self.guests[guest].send(queue, lun(0, from as u16), 7, &cdb, &list, 0)
    }
}

/// COMPARE AND WRITE of one block.
fn swap(guest: &mut Guest, attribute: u8, at: u16, lba: u8, from: u8, to: u8) -> Ticket {
    let mut cdb = [0; 16];
    (cdb[0], cdb[9], cdb[13]) = (0x89, lba, 1);
    let both = [[from; BLOCK], [to; BLOCK]].concat();
    guest.send_as(attribute, REQUEST, lun(0, at), 8, &cdb, &both, 0)
}

fn word(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

#[test]
fn a_copy_does_not_touch_blocks_of_another_unit_that_somebody_has_for_himself() {
    for attribute in ORDER {
        let mut lab = lab(1);
        lab.fakes[1].gate.shut();
        let alone = swap(&mut lab.guests[1], attribute, 1, 5, 1, 9);
        lab.fakes[1].gate.await_waiting(1);
        let there = lab.copy(0, REQUEST, 1, &[5]);
        lab.guests[0].stays_open(&there);
        let beside = lab.copy(0, REQUEST, 1, &[6]);
        // The one to the other block is all that has reached the medium.
        lab.fakes[1].gate.await_waiting(2);
        lab.fakes[1].gate.release();
        lab.guests[1].wait(&alone).good();
        lab.guests[0].wait(&there).good();
        lab.guests[0].wait(&beside).good();
        assert_eq!(lab.fakes[1].gate.word(5 * BLOCK), word(0));
    }
}

#[test]
fn whoever_wants_blocks_for_himself_waits_for_the_step_of_a_copy_there() {
    for attribute in ORDER {
        let mut lab = lab(1);
        lab.fakes[1].gate.shut();
        let copy = lab.copy(0, REQUEST, 1, &[5]);
        lab.fakes[1].gate.await_waiting(1);
        let alone = swap(&mut lab.guests[1], attribute, 1, 5, 0, 9);
        lab.guests[1].stays_open(&alone);
        lab.fakes[1].gate.await_waiting(1);
        lab.fakes[1].gate.release();
        lab.guests[0].wait(&copy).good();
        // It has found what was copied.
        lab.guests[1].wait(&alone).good();
        assert_eq!(lab.fakes[1].gate.word(5 * BLOCK), word(9));
    }
}

#[test]
fn a_command_that_wants_blocks_of_the_copying_unit_waits_only_for_a_step() {
    let mut lab = lab(1);
    lab.fakes[1].gate.shut();
    let copy = lab.copy(0, REQUEST, 1, &[5]);
    lab.fakes[1].gate.await_waiting(1);
    // Its own unit is not in use.
    let alone = swap(&mut lab.guests[1], SIMPLE, 0, 5, 0, 9);
    lab.guests[1].wait(&alone).good();
    // One that is to come after the copy does.
    let after = swap(&mut lab.guests[1], ORDERED, 0, 5, 9, 10);
    lab.guests[1].stays_open(&after);
    lab.fakes[1].gate.release();
    lab.guests[0].wait(&copy).good();
    lab.guests[1].wait(&after).good();
}

#[test]
fn no_step_of_a_copy_lands_after_a_reservation_that_keeps_it_out() {
    let mut lab = lab(1);
    let reserve = |guest: &mut Guest, action: u8, key: u64| {
        let mut list = [0; 24];
        list[if action == 0 { 8..16 } else { 0..8 }].copy_from_slice(&key.to_be_bytes());
        let cdb = [0x5F, action, 1, 0, 0, 0, 0, 0, 24, 0];
        guest.send(REQUEST, lun(0, 1), 9, &cdb, &list, 0)
    };
    let register = reserve(&mut lab.guests[1], 0, 77);
    lab.guests[1].wait(&register).good();
    lab.fakes[1].gate.shut();
    let copy = lab.copy(0, REQUEST, 1, &[5, 6]);
    lab.fakes[1].gate.await_waiting(1);
    let reserved = reserve(&mut lab.guests[1], 1, 77);
    lab.guests[1].stays_open(&reserved);
    lab.fakes[1].gate.release();
    lab.guests[1].wait(&reserved).good();
    let failed = lab.guests[0].wait(&copy);
    assert_eq!(failed.asc(), Some((0x0D, 0x01)));
    // The first was begun before, the second was not.
    assert_eq!(lab.fakes[1].gate.word(5 * BLOCK), word(0));
    assert_eq!(lab.fakes[1].gate.word(6 * BLOCK), word(1));
}

#[test]
fn copies_that_cross_each_other_end_whatever_stands_in_their_way() {
    const ROUNDS: usize = 60;
    let mut lab = lab(4);
    for guest in &mut lab.guests {
        // Registered with both, for the sake of PREEMPT AND ABORT.
        for at in 0..2 {
            let mut list = [0; 24];
            list[15] = 1;
            let cdb = [0x5F, 6, 0, 0, 0, 0, 0, 0, 24, 0];
            guest.command(lun(0, at), &cdb, &list, 0).good();
        }
    }
    let mut dice = 1u64;
    let mut roll = move |sides: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005) + 1;
        ((dice >> 33) % sides) as usize
    };
    let (mut copies, mut copied) = (0, 0);
    for _ in 0..ROUNDS {
        let mut open = Vec::new();
        for who in 0..2 {
            for _ in 0..4 {
                copies += 1;
                open.push((who, lab.copy(who, REQUEST + 1, roll(2), &[1, 2, 3, 2])));
            }
            for _ in 0..6 {
                let (at, lba, attribute) = (roll(2) as u16, roll(4) as u8, ORDER[roll(2)]);
                let guest = &mut lab.guests[who];
                open.push((who, swap(guest, attribute, at, lba, 0, 1)));
            }
            if roll(2) == 0 {
                let mut list = [0; 24];
                (list[7], list[15]) = (1, 2);
                let cdb = [0x5F, 5, 0, 0, 0, 0, 0, 0, 24, 0];
                let guest = &mut lab.guests[who];
                let at = lun(0, roll(2) as u16);
                open.push((who, guest.send(REQUEST + 2, at, 9, &cdb, &list, 0)));
            }
            if roll(3) == 0 {
                let at = lun(0, roll(2) as u16);
                let ticket = lab.guests[who].ask(ABORT_TASK, at, 7);
                open.push((who, ticket));
            }
        }
        for (who, ticket) in open {
            let reply = lab.guests[who].wait(&ticket);
            let is_copy = ticket.queue == REQUEST + 1;
            copied += usize::from(is_copy && (reply.response(), reply.status()) == (0, 0));
        }
    }
    assert!(copied > copies / 4, "{copied} of {copies}");
}
