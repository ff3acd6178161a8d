//! How the commands of one unit affect each other: QERR, TAS, TST, overload.

use std::sync::Arc;

use lunar_scsi::mode::TaskRules;
use lunar_target::LogicalUnit;

use super::fake::{BLOCK, Fake};
use super::harness::*;

const CLEAR_TASK_SET: u32 = 3;
const UNIT_RESET: u32 = 5;
const ABORTED: u8 = 2;
const RESET: u8 = 4;
const CHECK_CONDITION: u8 = 2;
const TASK_SET_FULL: u8 = 0x28;
const TASK_ABORTED: u8 = 0x40;

/// Bits of the rules.
const TST: u8 = 0x20;
const QERR_TASK_SET: u8 = 0x02;
const QERR_NEXUS: u8 = 0x06;
const TAS: u8 = 0x40;

/// No unit has such a command.
const INVALID: [u8; 6] = [0xFF, 0, 0, 0, 0, 0];

/// Two guests with two queues to one unit with these rules, and a READ of each in flight.
fn pair(rules: u8) -> (Arc<Fake>, [Guest; 2], [Ticket; 2]) {
    let workers = workers(2);
    let fake = Fake::new(1);
    let mut guests = [Guest::running(&workers, 2), Guest::running(&workers, 2)];
    for guest in &mut guests {
        guest.controller.attach(0, 0, fake.clone()).unwrap();
        guest.attentions(lun(0, 0));
    }
    fake.state().set_task_rules(TaskRules::from_bits(rules));
    fake.gate.shut();
    let reads = guests
        .each_mut()
        .map(|guest| guest.send(REQUEST + 1, lun(0, 0), 1, &read10(0, 1), &[], BLOCK));
    fake.gate.await_waiting(2);
    (fake, guests, reads)
}

fn fail(guest: &mut Guest, queue: usize) -> Ticket {
    guest.send(queue, lun(0, 0), 9, &INVALID, &[], 0)
}

#[test]
fn without_qerr_an_error_concerns_no_other_command() {
    let (fake, [mut a, mut b], [mine, theirs]) = pair(0);
    let failed = fail(&mut a, REQUEST);
    assert_eq!(a.wait(&failed).status(), CHECK_CONDITION);
    fake.gate.release();
    a.wait(&mine).good();
    b.wait(&theirs).good();
}

#[test]
fn with_qerr_01_an_error_aborts_the_task_set_before_it_is_reported() {
    let (fake, [mut a, mut b], [mine, theirs]) = pair(QERR_TASK_SET);
    let failed = fail(&mut a, REQUEST);
    a.stays_open(&failed);
    fake.gate.release();
    assert_eq!(a.wait(&failed).status(), CHECK_CONDITION);
    assert_eq!(a.reap(&mine).unwrap().response(), ABORTED);
    assert_eq!(b.reap(&theirs).unwrap().response(), ABORTED);
    assert_eq!(b.attentions(lun(0, 0)), [(0x2F, 0)]);
    assert_eq!(a.attentions(lun(0, 0)), []);
}

#[test]
fn with_qerr_11_or_a_task_set_of_its_own_an_error_aborts_the_nexus_own_commands() {
    for rules in [QERR_NEXUS, QERR_TASK_SET | TST] {
        let (fake, [mut a, mut b], [mine, theirs]) = pair(rules);
        let failed = fail(&mut a, REQUEST);
        a.stays_open(&failed);
        fake.gate.release();
        assert_eq!(a.wait(&failed).status(), CHECK_CONDITION);
        assert_eq!(a.reap(&mine).unwrap().response(), ABORTED);
        b.wait(&theirs).good();
        assert_eq!(b.attentions(lun(0, 0)), []);
    }
}

#[test]
fn commands_that_fail_at_once_do_not_wait_for_each_other() {
    let (fake, [mut a, mut b], _) = pair(QERR_TASK_SET);
    fake.gate.release();
    for _ in 0..50 {
        let failed = [REQUEST, REQUEST + 1].map(|queue| {
            (
                [fail(&mut a, queue), fail(&mut a, queue)],
                [fail(&mut b, queue), fail(&mut b, queue)],
            )
        });
        for (mine, theirs) in &failed {
            for ticket in mine {
                a.wait(ticket);
            }
            for ticket in theirs {
                b.wait(ticket);
            }
        }
    }
}

#[test]
fn with_tas_a_task_aborted_by_another_nexus_has_a_status_and_no_unit_attention() {
    let (fake, [mut a, mut b], [mine, theirs]) = pair(TAS);
    let clear = a.ask(CLEAR_TASK_SET, lun(0, 0), 0);
    a.stays_open(&clear);
    fake.gate.release();
    a.wait(&clear);
    assert_eq!(a.reap(&mine).unwrap().response(), ABORTED);
    let ended = b.reap(&theirs).unwrap();
    assert_eq!((ended.response(), ended.status()), (0, TASK_ABORTED));
    assert_eq!(b.attentions(lun(0, 0)), []);
}

#[test]
fn with_tas_a_reset_is_still_called_a_reset() {
    let (fake, [mut a, mut b], [mine, theirs]) = pair(TAS);
    let reset = a.ask(UNIT_RESET, lun(0, 0), 0);
    a.stays_open(&reset);
    fake.gate.release();
    a.wait(&reset);
    assert_eq!(a.reap(&mine).unwrap().response(), RESET);
    assert_eq!(b.reap(&theirs).unwrap().response(), RESET);
    assert_eq!(b.attentions(lun(0, 0)), [(0x29, 3)]);
}

#[test]
fn with_tst_clear_task_set_is_for_the_own_task_set() {
    let (fake, [mut a, mut b], [mine, theirs]) = pair(TST);
    let clear = a.ask(CLEAR_TASK_SET, lun(0, 0), 0);
    a.stays_open(&clear);
    fake.gate.release();
    a.wait(&clear);
    assert_eq!(a.reap(&mine).unwrap().response(), ABORTED);
    b.wait(&theirs).good();
    assert_eq!(b.attentions(lun(0, 0)), []);
}

#[test]
fn more_commands_than_a_task_set_holds_are_told_so_and_the_others_go_on() {
    const QUEUES: u16 = 34;
    const EACH: usize = 32;
    let mut guest = Guest::running(&workers(1), QUEUES);
    let fake = Fake::new(1);
    guest.controller.attach(0, 0, fake.clone()).unwrap();
    guest.attentions(lun(0, 0));
    fake.gate.shut();
    let tickets: Vec<_> = (0..usize::from(QUEUES) * EACH)
        .map(|n| {
            let queue = REQUEST + n / EACH;
            guest.send(queue, lun(0, 0), n as u64, &SYNCHRONIZE_CACHE, &[], 0)
        })
        .collect();
    fake.gate.await_waiting(1024);
    fake.gate.release();
    let full = tickets
        .iter()
        .filter(|ticket| match guest.wait(ticket).status() {
            0 => false,
            TASK_SET_FULL => true,
            other => panic!("status {other:#x}"),
        })
        .count();
    assert_eq!(full, tickets.len() - 1024);
    let again = guest.command(lun(0, 0), &SYNCHRONIZE_CACHE, &[], 0);
    again.good();
}
