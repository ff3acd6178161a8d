//! Commands that have to be alone, and those that wait for them.

use std::collections::VecDeque;
use std::sync::Arc;

use super::fake::{BLOCK, Fake};
use super::harness::*;

const ABORT_TASK: u32 = 0;
const ABORT_TASK_SET: u32 = 1;
const CLEAR_TASK_SET: u32 = 3;
const UNIT_RESET: u32 = 5;
const QUERY_TASK: u32 = 6;

const COMPLETE: u8 = 0;
const SUCCEEDED: u8 = 10;
const ABORTED: u8 = 2;
const RESET: u8 = 4;

const LUN: u16 = 0;

/// Two guests, each with a controller and so many queues, to one unit on two workers.
fn pair(queues: u16) -> (Arc<Fake>, [Guest; 2]) {
    let workers = workers(2);
    let fake = Fake::new(0);
    let mut guests = [
        Guest::running(&workers, queues),
        Guest::running(&workers, queues),
    ];
    for guest in &mut guests {
        guest.controller.attach(0, LUN, fake.clone()).unwrap();
        guest.attentions(lun(0, LUN));
    }
    (fake, guests)
}

fn read(guest: &mut Guest, queue: usize, tag: u64, lba: u32) -> Ticket {
    guest.send(queue, lun(0, LUN), tag, &read10(lba, 1), &[], BLOCK)
}

fn write(guest: &mut Guest, queue: usize, tag: u64, lba: u32, word: u64) -> Ticket {
    let block = word.to_le_bytes().repeat(BLOCK / 8);
    guest.send(queue, lun(0, LUN), tag, &write10(lba, 1), &block, 0)
}

fn add(guest: &mut Guest, queue: usize, tag: u64, lba: u32) -> Ticket {
    guest.send(queue, lun(0, LUN), tag, &increment(lba), &[], 0)
}

fn ordered(guest: &mut Guest, queue: usize, tag: u64, lba: u32, word: u64) -> Ticket {
    let block = word.to_le_bytes().repeat(BLOCK / 8);
    let cdb = write10(lba, 1);
    guest.send_as(ORDERED, queue, lun(0, LUN), tag, &cdb, &block, 0)
}

#[test]
fn no_increment_is_lost_and_nothing_sees_half_of_one() {
    /// Commands of each queue.
    const ROUNDS: usize = 300;
    /// Commands in flight on each queue.
    const DEPTH: usize = 8;
    let (fake, mut guests) = pair(2);
    let mut open: [[VecDeque<(Ticket, bool)>; 2]; 2] = Default::default();
    let (mut counts, mut state) = ([0u64; 2], 1u64);
    for _ in 0..ROUNDS {
        for (guest, open) in guests.iter_mut().zip(&mut open) {
            for (queue, open) in open.iter_mut().enumerate() {
                let queue = REQUEST + queue;
                if open.len() == DEPTH {
                    finish(guest, open.pop_front().unwrap());
                }
                state = state.wrapping_mul(6_364_136_223_846_793_005) + 1;
                let dice = (state >> 33) as usize;
                // Blocks 0 (a section of its own) and 1 (the whole unit) are only incremented and read, 2 and 3 also
                // written.
                let block = (dice >> 8) % 4;
                let lba = block as u32;
                let ticket = match dice % 4 {
                    0 | 1 => {
                        if let Some(count) = counts.get_mut(block) {
                            *count += 1;
                        }
                        (add(guest, queue, 1, lba), false)
                    }
                    2 => (read(guest, queue, 1, lba), true),
                    _ => (write(guest, queue, 1, 2 + lba % 2, dice as u64), false),
                };
                open.push_back(ticket);
            }
        }
    }
    for (guest, open) in guests.iter_mut().zip(&mut open) {
        for ticket in open.iter_mut().flat_map(std::mem::take) {
            finish(guest, ticket);
        }
    }
    assert!(counts.iter().all(|&count| count > 50), "{counts:?}");
    assert_eq!(
        counts,
        [fake.gate.word(0), fake.gate.word(BLOCK)],
        "increments were lost"
    );
}

/// Waits for a command; a block that was read is the same word from beginning to end.
#[track_caller]
fn finish(guest: &mut Guest, (ticket, is_read): (Ticket, bool)) {
    let reply = guest.wait(&ticket);
    reply.good();
    if is_read {
        let words: Vec<_> = reply.data().chunks(8).collect();
        assert!(words.iter().all(|word| *word == words[0]), "{words:x?}");
    }
}

#[test]
fn to_be_alone_means_to_wait_for_what_overlaps_and_to_keep_it_waiting() {
    let (fake, [mut a, mut b]) = pair(2);
    fake.gate.shut();
    let before = read(&mut b, REQUEST, 1, 0);
    fake.gate.await_waiting(1);
    let alone = add(&mut a, REQUEST, 1, 0);
    a.stays_open(&alone);
    fake.gate.await_waiting(1);
    let behind = [
        read(&mut a, REQUEST + 1, 2, 0),
        write(&mut b, REQUEST + 1, 2, 0, 7),
    ];
    // Another part of the medium, and what has nothing to do with it, go on.
    let beside = read(&mut b, REQUEST, 3, 4);
    fake.gate.await_waiting(2);
    b.command(lun(0, LUN), &inquiry(36), &[], 36).good();
    assert_eq!(b.attentions(lun(0, LUN)), []);
    assert!(a.reap(&behind[0]).is_none());
    fake.gate.release();
    b.wait(&before).good();
    a.wait(&alone).good();
    assert_eq!(a.wait(&behind[0]).good().data()[..8].len(), 8);
    b.wait(&behind[1]).good();
    b.wait(&beside).good();
    assert_eq!(fake.gate.word(0), 7, "the write came after the increment");
}

#[test]
fn task_management_ends_waiting_commands_at_once_and_waits_for_the_one_that_is_alone() {
    let (fake, [mut a, mut b]) = pair(2);
    fake.gate.shut();
    let alone = add(&mut a, REQUEST, 1, 1);
    fake.gate.await_waiting(1);
    let (parked, next) = (read(&mut b, REQUEST, 2, 0), add(&mut b, REQUEST + 1, 3, 0));
    b.stays_open(&parked);
    assert_eq!(b.manage(QUERY_TASK, lun(0, LUN), 2), SUCCEEDED);
    // Neither waits for the gate.
    assert_eq!(b.manage(ABORT_TASK, lun(0, LUN), 2), COMPLETE);
    assert_eq!(b.reap(&parked).unwrap().response(), ABORTED);
    assert_eq!(b.manage(ABORT_TASK_SET, lun(0, LUN), 0), COMPLETE);
    assert_eq!(b.reap(&next).unwrap().response(), ABORTED);
    // The one that is alone has a step in flight.
    let behind = read(&mut b, REQUEST, 4, 0);
    b.stays_open(&behind);
    let clear = b.ask(CLEAR_TASK_SET, lun(0, LUN), 0);
    b.stays_open(&clear);
    assert_eq!(b.reap(&behind).unwrap().response(), ABORTED);
    fake.gate.release();
    b.wait(&clear);
    assert_eq!(a.reap(&alone).unwrap().response(), ABORTED);
    // Nobody is left in the line.
    a.attentions(lun(0, LUN));
    let again = add(&mut a, REQUEST, 5, 1);
    a.wait(&again).good();
}

#[test]
fn a_command_that_waits_for_others_to_be_over_can_be_ended_meanwhile() {
    let (fake, [mut a, mut b]) = pair(1);
    fake.gate.shut();
    let before = read(&mut a, REQUEST, 1, 0);
    fake.gate.await_waiting(1);
    let alone = add(&mut b, REQUEST, 2, 1);
    b.stays_open(&alone);
    let behind = read(&mut a, REQUEST, 3, 4);
    a.stays_open(&behind);
    assert_eq!(b.manage(ABORT_TASK, lun(0, LUN), 2), COMPLETE);
    assert_eq!(b.reap(&alone).unwrap().response(), ABORTED);
    // Those behind it do not wait any longer.
    fake.gate.await_waiting(2);
    fake.gate.release();
    a.wait(&before).good();
    a.wait(&behind).good();
    assert_eq!(fake.gate.word(BLOCK), 0);
}

#[test]
fn a_reset_of_the_unit_empties_the_line() {
    let (fake, [mut a, mut b]) = pair(2);
    fake.gate.shut();
    let alone = add(&mut a, REQUEST, 1, 1);
    fake.gate.await_waiting(1);
    let more: Vec<_> = (0..8u64)
        .map(|tag| match tag % 2 {
            0 => add(&mut b, REQUEST, tag, 1),
            _ => read(&mut b, REQUEST + 1, tag, 1),
        })
        .collect();
    let reset = b.ask(UNIT_RESET, lun(0, LUN), 0);
    b.stays_open(&reset);
    fake.gate.release();
    b.wait(&reset);
    assert_eq!(a.reap(&alone).unwrap().response(), RESET);
    for ticket in more {
        assert_eq!(b.reap(&ticket).unwrap().response(), RESET);
    }
    assert_eq!(a.attentions(lun(0, LUN)), [(0x29, 3)]);
    assert_eq!(b.attentions(lun(0, LUN)), [(0x29, 3)]);
}

#[test]
fn stopping_detaching_and_swapping_memory_wait_for_the_line() {
    let (fake, [mut a, mut b]) = pair(2);
    let swap = |guest: &Guest| {
        let (controller, memory) = (guest.controller.clone(), guest.remapped());
        std::thread::spawn(move || controller.set_memory(memory).unwrap())
    };
    for round in 0..30u64 {
        fake.gate.shut();
        let alone = add(&mut a, REQUEST, 1, 1);
        let behind = [read(&mut b, REQUEST, 2, 1), add(&mut b, REQUEST + 1, 3, 1)];
        // A query has taken what is in the rings before it is answered.
        assert_eq!(b.manage(QUERY_TASK, lun(0, LUN), 3), SUCCEEDED);
        fake.gate.await_waiting(1);
        let (first, second) = (a.controller.clone(), b.controller.clone());
        let changes = match round % 3 {
            0 => vec![swap(&a), swap(&b)],
            1 => vec![
                std::thread::spawn(move || second.detach(0, LUN).unwrap()),
                swap(&a),
            ],
            _ => vec![
                std::thread::spawn(move || first.reset()),
                std::thread::spawn(move || second.reset()),
            ],
        };
        fake.gate.release();
        for change in changes {
            change.join().unwrap();
        }
        a.wait(&alone).good();
        for ticket in &behind {
            b.wait(ticket).good();
        }
        match round % 3 {
            0 => {}
            1 => b.controller.attach(0, LUN, fake.clone()).unwrap(),
            _ => {
                for guest in [&mut a, &mut b] {
                    guest.connect();
                    guest.start_all();
                }
            }
        }
        for guest in [&mut a, &mut b] {
            guest.attentions(lun(0, LUN));
        }
    }
    assert_eq!(fake.gate.word(BLOCK), 60);
}

#[test]
fn an_ordered_task_runs_after_all_before_it_and_before_all_after_it() {
    let (fake, [mut a, mut b]) = pair(2);
    fake.gate.shut();
    let before = [
        write(&mut a, REQUEST, 1, 0, 1),
        write(&mut b, REQUEST, 1, 5, 1),
    ];
    fake.gate.await_waiting(2);
    let barrier = ordered(&mut a, REQUEST, 2, 0, 2);
    a.stays_open(&barrier);
    let after = [
        write(&mut a, REQUEST + 1, 3, 0, 3),
        read(&mut b, REQUEST + 1, 3, 9),
    ];
    b.stays_open(&after[1]);
    fake.gate.await_waiting(2);
    let last = ordered(&mut b, REQUEST, 4, 0, 4);
    b.stays_open(&last);
    fake.gate.release();
    a.wait(&before[0]).good();
    b.wait(&before[1]).good();
    a.wait(&barrier).good();
    a.wait(&after[0]).good();
    b.wait(&after[1]).good();
    b.wait(&last).good();
    assert_eq!(fake.gate.word(0), 4);
}

#[test]
fn an_ordered_command_may_be_one_that_wants_to_be_alone() {
    let (fake, [mut a, _b]) = pair(1);
    for _ in 0..20 {
        let cdb = increment(0);
        let ticket = a.send_as(ORDERED, REQUEST, lun(0, LUN), 1, &cdb, &[], 0);
        a.wait(&ticket).good();
    }
    assert_eq!(fake.gate.word(0), 20);
}

#[test]
fn a_head_of_queue_task_overtakes_those_that_wait() {
    let (fake, [mut a, mut b]) = pair(2);
    fake.gate.shut();
    let alone = add(&mut a, REQUEST, 1, 1);
    fake.gate.await_waiting(1);
    let waits = ordered(&mut b, REQUEST, 1, 0, 1);
    b.stays_open(&waits);
    let word = 2u64.to_le_bytes().repeat(BLOCK / 8);
    let cdb = write10(0, 1);
    let at = lun(0, LUN);
    let first = b.send_as(HEAD_OF_QUEUE, REQUEST + 1, at, 2, &cdb, &word, 0);
    b.stays_open(&first);
    fake.gate.release();
    a.wait(&alone).good();
    b.wait(&first).good();
    b.wait(&waits).good();
    assert_eq!(fake.gate.word(0), 1, "the ordered write came last");
}

#[test]
fn a_command_that_waits_and_then_wants_to_be_alone_keeps_its_place_before_an_ordered_task() {
    let (fake, [mut a, mut b]) = pair(2);
    for round in 0..20 {
        fake.gate.shut();
        let alone = add(&mut a, REQUEST, 1, 1);
        fake.gate.await_waiting(1);
        let first = add(&mut b, REQUEST, 2, 0);
        let second = ordered(&mut b, REQUEST, 3, 0, 100);
        let third = add(&mut b, REQUEST, 4, 0);
        // A query has taken what is in the rings before it is answered.
        assert_eq!(b.manage(QUERY_TASK, lun(0, LUN), 4), SUCCEEDED);
        fake.gate.release();
        a.wait(&alone).good();
        for ticket in [first, second, third] {
            b.wait(&ticket).good();
        }
        assert_eq!(fake.gate.word(0), 101, "round {round}");
    }
}

#[test]
fn nobody_waits_for_a_command_that_stands_aside() {
    let (fake, [mut a, mut b]) = pair(1);
    fake.gate.shut();
    let format = a.send(REQUEST, lun(0, LUN), 1, &[0x04, 0, 0, 0, 0, 0], &[], 0);
    fake.gate.await_waiting(1);
    for guest in [&mut b, &mut a] {
        let at = lun(0, LUN);
        let ticket = guest.send_as(ORDERED, REQUEST, at, 2, &TEST_UNIT_READY, &[], 0);
        guest.wait(&ticket).good();
    }
    assert!(a.reap(&format).is_none());
    fake.gate.release();
    a.wait(&format).good();
}
