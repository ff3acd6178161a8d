//! The control queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::fake::{BLOCK, Fake};
use super::harness::*;

const ABORT_TASK: u32 = 0;
const ABORT_TASK_SET: u32 = 1;
const CLEAR_ACA: u32 = 2;
const CLEAR_TASK_SET: u32 = 3;
const NEXUS_RESET: u32 = 4;
const UNIT_RESET: u32 = 5;
const QUERY_TASK: u32 = 6;
const QUERY_TASK_SET: u32 = 7;

const COMPLETE: u8 = 0;
const BAD_TARGET: u8 = 3;
const FAILURE: u8 = 9;
const SUCCEEDED: u8 = 10;
const REJECTED: u8 = 11;
const INCORRECT_LUN: u8 = 12;

const ABORTED: u8 = 2;
const RESET: u8 = 4;

/// A guest with a unit at target 0 LUN 0 on two workers, its unit attention taken.
fn disk(queues: u16) -> (Arc<Fake>, Guest) {
    let mut guest = Guest::running(&workers(2), queues);
    let fake = Fake::new(1);
    guest.controller.attach(0, 0, fake.clone()).unwrap();
    guest.attentions(lun(0, 0));
    (fake, guest)
}

fn read(guest: &mut Guest, queue: usize, at: [u8; 8], tag: u64) -> Ticket {
    guest.send(queue, at, tag, &read10(0, 1), &[], BLOCK)
}

#[test]
fn abort_task_ends_that_task_and_is_answered_after_it() {
    let (fake, mut guest) = disk(2);
    fake.gate.shut();
    let victim = read(&mut guest, REQUEST + 1, lun(0, 0), 7);
    let other = read(&mut guest, REQUEST + 1, lun(0, 0), 8);
    fake.gate.await_waiting(2);
    let abort = guest.ask(ABORT_TASK, lun(0, 0), 7);
    guest.stays_open(&abort);
    fake.gate.release();
    assert_eq!(guest.wait(&abort).bytes, [COMPLETE]);
    let ended = guest
        .reap(&victim)
        .expect("in the used ring before the answer");
    assert_eq!((ended.response(), ended.residual()), (ABORTED, BLOCK));
    assert_eq!(guest.wait(&other).good().data(), [1; BLOCK]);
}

#[test]
fn a_task_of_several_steps_is_aborted_as_well() {
    let (fake, mut guest) = disk(1);
    fake.gate.shut();
    let victim = guest.send(REQUEST, lun(0, 0), 7, &SYNCHRONIZE_CACHE, &[], 0);
    fake.gate.await_waiting(1);
    let abort = guest.ask(ABORT_TASK, lun(0, 0), 7);
    guest.stays_open(&abort);
    fake.gate.release();
    guest.wait(&abort);
    assert_eq!(guest.reap(&victim).unwrap().response(), ABORTED);
}

#[test]
fn a_command_that_was_available_before_the_function_is_not_left_in_the_ring() {
    // The guest does not kick the request queue: the control message has to find the command on its own.
    let (fake, mut guest) = disk(1);
    fake.gate.shut();
    std::thread::sleep(GRACE);
    let request = header(lun(0, 0), 7, &read10(0, 1));
    let victim = guest.stage(REQUEST, &[&request], &[108, BLOCK]);
    guest.publish_quietly(REQUEST);
    let abort = guest.ask(ABORT_TASK, lun(0, 0), 7);
    fake.gate.await_waiting(1);
    guest.stays_open(&abort);
    fake.gate.release();
    guest.wait(&abort);
    assert_eq!(guest.reap(&victim).unwrap().response(), ABORTED);
}

#[test]
fn abort_task_set_spares_other_units_and_other_nexuses() {
    let workers = workers(2);
    let (fake, other) = (Fake::new(1), Fake::new(2));
    let mut guests = [Guest::running(&workers, 2), Guest::running(&workers, 2)];
    for guest in &mut guests {
        guest.controller.attach(0, 0, fake.clone()).unwrap();
        guest.attentions(lun(0, 0));
    }
    let [mine, theirs] = &mut guests;
    mine.controller.attach(0, 1, other.clone()).unwrap();
    mine.attentions(lun(0, 1));
    mine.attentions(lun(0, 0));
    fake.gate.shut();
    other.gate.shut();
    let victims = [
        read(mine, REQUEST, lun(0, 0), 1),
        read(mine, REQUEST + 1, lun(0, 0), 2),
    ];
    let spared = read(mine, REQUEST, lun(0, 1), 3);
    let foreign = read(theirs, REQUEST, lun(0, 0), 1);
    fake.gate.await_waiting(3);
    other.gate.await_waiting(1);
    let abort = mine.ask(ABORT_TASK_SET, lun(0, 0), 0);
    mine.stays_open(&abort);
    fake.gate.release();
    assert_eq!(mine.wait(&abort).bytes, [COMPLETE]);
    for victim in &victims {
        assert_eq!(mine.reap(victim).unwrap().response(), ABORTED);
    }
    theirs.wait(&foreign).good();
    assert!(mine.reap(&spared).is_none());
    other.gate.release();
    mine.wait(&spared).good();
}

#[test]
fn clear_task_set_ends_everybodys_tasks_and_tells_the_others() {
    let workers = workers(2);
    let fake = Fake::new(1);
    let mut guests = [Guest::running(&workers, 1), Guest::running(&workers, 1)];
    for guest in &mut guests {
        guest.controller.attach(0, 0, fake.clone()).unwrap();
        guest.attentions(lun(0, 0));
    }
    let [mine, theirs] = &mut guests;
    fake.gate.shut();
    let (own, foreign) = (
        read(mine, REQUEST, lun(0, 0), 1),
        read(theirs, REQUEST, lun(0, 0), 1),
    );
    fake.gate.await_waiting(2);
    let clear = mine.ask(CLEAR_TASK_SET, lun(0, 0), 0);
    mine.stays_open(&clear);
    fake.gate.release();
    assert_eq!(mine.wait(&clear).bytes, [COMPLETE]);
    assert_eq!(mine.reap(&own).unwrap().response(), ABORTED);
    assert_eq!(
        theirs
            .reap(&foreign)
            .expect("ended before the answer")
            .response(),
        ABORTED
    );
    assert_eq!(theirs.attentions(lun(0, 0)), [(0x2F, 0)]);
    assert_eq!(mine.attentions(lun(0, 0)), []);
}

#[test]
fn unit_reset_ends_everybodys_tasks_and_everybody_hears_of_it() {
    let workers = workers(2);
    let fake = Fake::new(1);
    let mut guests = [Guest::running(&workers, 2), Guest::running(&workers, 2)];
    for guest in &mut guests {
        guest.controller.attach(3, 300, fake.clone()).unwrap();
        guest.attentions(lun(3, 300));
    }
    let [mine, theirs] = &mut guests;
    fake.gate.shut();
    let own = read(mine, REQUEST + 1, lun(3, 300), 1);
    let foreign = read(theirs, REQUEST + 1, lun(3, 300), 1);
    fake.gate.await_waiting(2);
    let reset = mine.ask(UNIT_RESET, lun(3, 300), 0);
    mine.stays_open(&reset);
    assert_eq!(fake.resets.load(Ordering::SeqCst), 0);
    fake.gate.release();
    assert_eq!(mine.wait(&reset).bytes, [COMPLETE]);
    assert_eq!(fake.resets.load(Ordering::SeqCst), 1);
    assert_eq!(mine.reap(&own).unwrap().response(), RESET);
    assert_eq!(theirs.reap(&foreign).unwrap().response(), RESET);
    assert_eq!(mine.attentions(lun(3, 300)), [(0x29, 3)]);
    assert_eq!(theirs.attentions(lun(3, 300)), [(0x29, 3)]);
}

#[test]
fn nexus_reset_is_for_one_nexus_and_all_units_of_the_target() {
    let workers = workers(2);
    let (a, b, elsewhere) = (Fake::new(1), Fake::new(2), Fake::new(3));
    let mut guests = [Guest::running(&workers, 1), Guest::running(&workers, 1)];
    for guest in &mut guests {
        guest.controller.attach(4, 0, a.clone()).unwrap();
        guest.controller.attach(4, 1, b.clone()).unwrap();
        guest.controller.attach(5, 0, elsewhere.clone()).unwrap();
        for at in [lun(4, 0), lun(4, 1), lun(5, 0)] {
            guest.attentions(at);
        }
    }
    let [mine, theirs] = &mut guests;
    a.gate.shut();
    let (own, foreign) = (
        read(mine, REQUEST, lun(4, 0), 1),
        read(theirs, REQUEST, lun(4, 0), 1),
    );
    a.gate.await_waiting(2);
    // Bytes 2 and 3 of the LUN do not matter, whatever they are.
    let reset = mine.ask(NEXUS_RESET, [1, 4, 0xFF, 0xFF, 0, 0, 0, 0], 0);
    mine.stays_open(&reset);
    a.gate.release();
    assert_eq!(mine.wait(&reset).bytes, [COMPLETE]);
    assert_eq!(mine.reap(&own).unwrap().response(), RESET);
    theirs.wait(&foreign).good();
    assert_eq!(mine.attentions(lun(4, 0)), [(0x29, 7)]);
    assert_eq!(mine.attentions(lun(4, 1)), [(0x29, 7)]);
    assert_eq!(mine.attentions(lun(5, 0)), []);
    assert_eq!(theirs.attentions(lun(4, 0)), []);
    assert_eq!(mine.manage(NEXUS_RESET, lun(6, 0), 0), BAD_TARGET);
}

#[test]
fn queries_say_whether_a_task_is_present() {
    let (fake, mut guest) = disk(2);
    assert_eq!(guest.manage(QUERY_TASK_SET, lun(0, 0), 0), COMPLETE);
    fake.gate.shut();
    let command = read(&mut guest, REQUEST + 1, lun(0, 0), 9);
    fake.gate.await_waiting(1);
    assert_eq!(guest.manage(QUERY_TASK, lun(0, 0), 9), SUCCEEDED);
    assert_eq!(guest.manage(QUERY_TASK, lun(0, 0), 10), COMPLETE);
    assert_eq!(guest.manage(QUERY_TASK_SET, lun(0, 0), 0), SUCCEEDED);
    fake.gate.release();
    guest.wait(&command).good();
    assert_eq!(guest.manage(QUERY_TASK, lun(0, 0), 9), COMPLETE);
}

#[test]
fn functions_for_what_is_not_there_are_answered() {
    let (_fake, mut guest) = disk(1);
    assert_eq!(guest.manage(ABORT_TASK, lun(0, 0), 99), COMPLETE);
    assert_eq!(guest.manage(CLEAR_ACA, lun(0, 0), 0), COMPLETE);
    assert_eq!(guest.manage(8, lun(0, 0), 0), REJECTED);
    assert_eq!(guest.manage(UNIT_RESET, lun(1, 0), 0), BAD_TARGET);
    assert_eq!(guest.manage(UNIT_RESET, [0; 8], 0), BAD_TARGET);
    assert_eq!(guest.manage(UNIT_RESET, lun(0, 1), 0), INCORRECT_LUN);
    assert_eq!(
        guest.manage(UNIT_RESET, [0xC1, 1, 0, 0, 0, 0, 0, 0], 0),
        COMPLETE
    );
}

#[test]
fn no_asynchronous_notification_is_supported() {
    let (_fake, mut guest) = disk(1);
    for kind in [1u32, 2] {
        for (at, response) in [
            (lun(0, 0), 0),
            (lun(0, 1), INCORRECT_LUN),
            (lun(1, 0), BAD_TARGET),
        ] {
            let mut message = kind.to_le_bytes().to_vec();
            message.extend(at);
            message.extend(0x7Eu32.to_le_bytes());
            let ticket = guest.submit(CONTROL, &[&message], &[5]);
            assert_eq!(guest.wait(&ticket).bytes, [0, 0, 0, 0, response]);
        }
    }
}

#[test]
fn an_unknown_control_message_fails_and_the_queue_goes_on() {
    let (_fake, mut guest) = disk(1);
    let unknown = guest.submit(CONTROL, &[&77u32.to_le_bytes()], &[1]);
    assert_eq!(guest.wait(&unknown).bytes, [FAILURE]);
    let longer = guest.submit(CONTROL, &[&77u32.to_le_bytes(), &[0; 100]], &[64]);
    assert_eq!(guest.wait(&longer).bytes[..5], [0, 0, 0, 0, FAILURE]);
    assert_eq!(guest.manage(QUERY_TASK_SET, lun(0, 0), 0), COMPLETE);
}

#[test]
fn many_functions_at_once_while_commands_come_and_go_are_all_answered() {
    let (fake, mut guest) = disk(4);
    let mut commands = Vec::new();
    let mut functions = Vec::new();
    for round in 0..20u64 {
        if round % 5 == 0 {
            fake.gate.shut();
        }
        for queue in REQUEST..REQUEST + 4 {
            commands.push(read(&mut guest, queue, lun(0, 0), round));
        }
        let function = [
            ABORT_TASK,
            ABORT_TASK_SET,
            UNIT_RESET,
            NEXUS_RESET,
            QUERY_TASK,
        ][round as usize % 5];
        functions.push(guest.ask(function, lun(0, 0), round));
        if round % 5 == 4 {
            fake.gate.release();
            for function in functions.drain(..) {
                let response = guest.wait(&function).bytes[0];
                assert!([COMPLETE, SUCCEEDED].contains(&response), "{response}");
            }
            for command in commands.drain(..) {
                let reply = guest.wait(&command);
                assert!([0, ABORTED, RESET].contains(&reply.response()));
            }
        }
    }
    guest.attentions(lun(0, 0));
    assert_eq!(
        guest
            .command(lun(0, 0), &read10(0, 1), &[], BLOCK)
            .good()
            .data(),
        [1; BLOCK]
    );
}
