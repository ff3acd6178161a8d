//! Auto contingent allegiance (SAM-5 5.9).

use std::sync::Arc;

use lunar_scsi::mode::TaskRules;
use lunar_target::{LogicalUnit, UnitAttention, Who};

use super::fake::{BLOCK, Fake};
use super::harness::*;

const ABORT_TASK: u32 = 0;
const ABORT_TASK_SET: u32 = 1;
const CLEAR_ACA: u32 = 2;
const CLEAR_TASK_SET: u32 = 3;
const NEXUS_RESET: u32 = 4;
const UNIT_RESET: u32 = 5;
const QUERY_TASK: u32 = 6;

const COMPLETE: u8 = 0;
const SUCCEEDED: u8 = 10;
const ABORTED: u8 = 2;

const GOOD: u8 = 0;
const CHECK_CONDITION: u8 = 2;
const BUSY: u8 = 8;
const ACA_ACTIVE: u8 = 0x30;

const TST: u8 = 0x20;
const QERR_TASK_SET: u8 = 0x02;
const QERR_NEXUS: u8 = 0x06;

const LUN: [u8; 8] = [1, 0, 0x40, 0, 0, 0, 0, 0];

/// READ(10) with a reserved bit.
const INVALID: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0xFF, 0, 1, 0];

/// The same command with NACA set.
fn naca<const N: usize>(mut cdb: [u8; N]) -> [u8; N] {
    cdb[N - 1] |= 0x04;
    cdb
}

/// Two guests with two queues to one unit with these rules.
fn pair(rules: u8) -> (Arc<Fake>, [Guest; 2]) {
    let workers = workers(2);
    let fake = Fake::new(1);
    let mut guests = [Guest::running(&workers, 2), Guest::running(&workers, 2)];
    for guest in &mut guests {
        guest.controller.attach(0, 0, fake.clone()).unwrap();
        guest.attentions(LUN);
    }
    fake.state().set_task_rules(TaskRules::from_bits(rules));
    (fake, guests)
}

fn send(guest: &mut Guest, queue: usize, tag: u64, cdb: &[u8]) -> Ticket {
    guest.send(queue, LUN, tag, cdb, &[], BLOCK)
}

/// The status of a command.
#[track_caller]
fn status(guest: &mut Guest, attribute: u8, cdb: &[u8]) -> u8 {
    let ticket = guest.send_as(attribute, REQUEST, LUN, 1, cdb, &[], BLOCK);
    let reply = guest.wait(&ticket);
    assert_eq!(reply.response(), 0);
    if reply.status() != CHECK_CONDITION {
        assert!(reply.sense().is_empty());
    }
    reply.status()
}

#[track_caller]
fn fault(guest: &mut Guest) {
    assert_eq!(status(guest, SIMPLE, &naca(INVALID)), CHECK_CONDITION);
}

#[test]
fn an_error_with_naca_stops_the_task_set_until_clear_aca_of_the_nexus_that_met_it() {
    let (_fake, [mut a, mut b]) = pair(0);
    fault(&mut a);
    for attribute in [SIMPLE, ORDERED, HEAD_OF_QUEUE] {
        assert_eq!(status(&mut a, attribute, &read10(0, 1)), ACA_ACTIVE);
        assert_eq!(status(&mut b, attribute, &read10(0, 1)), BUSY);
        assert_eq!(status(&mut b, attribute, &naca(read10(0, 1))), ACA_ACTIVE);
    }
    // What passes everything else does not pass this.
    assert_eq!(status(&mut a, SIMPLE, &inquiry(36)), ACA_ACTIVE);
    assert_eq!(status(&mut b, SIMPLE, &inquiry(36)), BUSY);
    assert_eq!(status(&mut a, ACA, &read10(0, 1)), GOOD);
    assert_eq!(status(&mut a, ACA, &naca(inquiry(36))), GOOD);
    assert_eq!(status(&mut b, ACA, &read10(0, 1)), ACA_ACTIVE);
    assert_eq!(b.manage(CLEAR_ACA, LUN, 0), COMPLETE);
    assert_eq!(status(&mut a, SIMPLE, &read10(0, 1)), ACA_ACTIVE);
    assert_eq!(a.manage(CLEAR_ACA, LUN, 0), COMPLETE);
    for guest in [&mut a, &mut b] {
        assert_eq!(status(guest, SIMPLE, &read10(0, 1)), GOOD);
        assert_eq!(guest.attentions(LUN), []);
    }
}

#[test]
fn without_naca_or_without_an_error_nothing_stops() {
    let (_fake, [mut a, mut b]) = pair(0);
    assert_eq!(status(&mut a, SIMPLE, &INVALID), CHECK_CONDITION);
    assert_eq!(status(&mut a, SIMPLE, &naca(read10(0, 1))), GOOD);
    assert_eq!(status(&mut a, SIMPLE, &read10(0, 1)), GOOD);
    assert_eq!(status(&mut b, SIMPLE, &read10(0, 1)), GOOD);
}

#[test]
fn the_aca_attribute_without_an_allegiance_is_refused_and_naca_makes_one_of_that() {
    let (_fake, [mut a, _b]) = pair(0);
    let ticket = a.send_as(ACA, REQUEST, LUN, 1, &naca(read10(0, 1)), &[], BLOCK);
    let refused = a.wait(&ticket);
    assert_eq!(refused.status(), CHECK_CONDITION);
    assert_eq!((refused.sense()[2], refused.asc()), (5, Some((0x49, 0))));
    assert_eq!(status(&mut a, ACA, &read10(0, 1)), GOOD);
    assert_eq!(a.manage(CLEAR_ACA, LUN, 0), COMPLETE);
    assert_eq!(status(&mut a, ACA, &read10(0, 1)), CHECK_CONDITION);
    assert_eq!(status(&mut a, SIMPLE, &read10(0, 1)), GOOD);
}

#[test]
fn a_unit_attention_is_an_error_as_well() {
    let (fake, [mut a, mut b]) = pair(0);
    fake.state().raise(Who::All, UnitAttention::CapacityChanged);
    assert_eq!(
        status(&mut a, SIMPLE, &naca(TEST_UNIT_READY)),
        CHECK_CONDITION
    );
    assert_eq!(status(&mut a, SIMPLE, &TEST_UNIT_READY), ACA_ACTIVE);
    assert_eq!(status(&mut b, SIMPLE, &TEST_UNIT_READY), BUSY);
    assert_eq!(a.manage(CLEAR_ACA, LUN, 0), COMPLETE);
    assert_eq!(a.attentions(LUN), []);
    assert_eq!(b.attentions(LUN), [(0x2A, 9)]);
}

#[test]
fn what_was_begun_is_over_before_the_error_is_reported_and_nothing_else_begins() {
    let (fake, [mut a, mut b]) = pair(0);
    fake.gate.shut();
    let begun = [
        send(&mut a, REQUEST, 1, &read10(0, 1)),
        send(&mut b, REQUEST, 1, &SYNCHRONIZE_CACHE),
    ];
    fake.gate.await_waiting(2);
    // Wants to be alone, and has to wait for that.
    let parked = b.send(REQUEST + 1, LUN, 2, &increment(0), &[], 0);
    b.stays_open(&parked);
    let failed = send(&mut a, REQUEST + 1, 2, &naca(INVALID));
    a.stays_open(&failed);
    assert_eq!(status(&mut a, SIMPLE, &read10(0, 1)), ACA_ACTIVE);
    fake.gate.release();
    assert_eq!(a.wait(&failed).status(), CHECK_CONDITION);
    a.reap(&begun[0]).expect("over before the error").good();
    b.reap(&begun[1]).expect("over before the error").good();
    assert_eq!(b.wait(&parked).status(), BUSY);
    assert_eq!(
        fake.gate.word(0),
        u64::from_le_bytes([1; 8]),
        "not executed"
    );
}

#[test]
fn with_a_task_set_for_each_nexus_the_others_neither_stop_nor_are_waited_for() {
    let (fake, [mut a, mut b]) = pair(TST);
    fake.gate.shut();
    let theirs = send(&mut b, REQUEST, 1, &read10(0, 1));
    fake.gate.await_waiting(1);
    fault(&mut a);
    assert_eq!(status(&mut a, SIMPLE, &inquiry(36)), ACA_ACTIVE);
    let ticket = b.send(REQUEST + 1, LUN, 2, &inquiry(36), &[], 36);
    b.wait(&ticket).good();
    fake.gate.release();
    b.wait(&theirs).good();
    fault(&mut b);
    assert_eq!(a.manage(CLEAR_ACA, LUN, 0), COMPLETE);
    assert_eq!(status(&mut a, SIMPLE, &inquiry(36)), GOOD);
    assert_eq!(status(&mut b, SIMPLE, &inquiry(36)), ACA_ACTIVE);
}

#[test]
fn with_qerr_the_task_set_is_aborted_and_then_stops() {
    for (rules, spared) in [(QERR_TASK_SET, false), (QERR_NEXUS, true)] {
        let (fake, [mut a, mut b]) = pair(rules);
        fake.gate.shut();
        let mine = send(&mut a, REQUEST, 1, &read10(0, 1));
        let theirs = send(&mut b, REQUEST, 1, &read10(0, 1));
        fake.gate.await_waiting(2);
        let failed = send(&mut a, REQUEST + 1, 2, &naca(INVALID));
        a.stays_open(&failed);
        fake.gate.release();
        assert_eq!(a.wait(&failed).status(), CHECK_CONDITION);
        assert_eq!(a.reap(&mine).unwrap().response(), ABORTED);
        let theirs = b.reap(&theirs).expect("over before the error");
        assert_eq!(theirs.response(), if spared { 0 } else { ABORTED });
        assert_eq!(status(&mut a, SIMPLE, &read10(0, 1)), ACA_ACTIVE);
        assert_eq!(status(&mut b, SIMPLE, &read10(0, 1)), BUSY);
    }
}

#[test]
fn one_aca_command_is_executed_at_a_time_and_clear_aca_aborts_it() {
    let (fake, [mut a, _b]) = pair(0);
    fault(&mut a);
    fake.gate.shut();
    let first = a.send_as(ACA, REQUEST, LUN, 7, &read10(0, 1), &[], BLOCK);
    fake.gate.await_waiting(1);
    assert_eq!(status(&mut a, ACA, &read10(0, 1)), ACA_ACTIVE);
    assert_eq!(a.manage(QUERY_TASK, LUN, 7), SUCCEEDED);
    let clear = a.ask(CLEAR_ACA, LUN, 0);
    a.stays_open(&clear);
    fake.gate.release();
    assert_eq!(a.wait(&clear).bytes, [COMPLETE]);
    assert_eq!(a.reap(&first).unwrap().response(), ABORTED);
    assert_eq!(status(&mut a, SIMPLE, &read10(0, 1)), GOOD);
}

#[test]
fn an_aborted_aca_command_makes_room_for_another() {
    let (fake, [mut a, _b]) = pair(0);
    fault(&mut a);
    fake.gate.shut();
    let first = a.send_as(ACA, REQUEST, LUN, 7, &read10(0, 1), &[], BLOCK);
    fake.gate.await_waiting(1);
    let abort = a.ask(ABORT_TASK, LUN, 7);
    fake.gate.release();
    a.wait(&abort);
    assert_eq!(a.wait(&first).response(), ABORTED);
    assert_eq!(status(&mut a, ACA, &read10(0, 1)), GOOD);
    assert_eq!(status(&mut a, SIMPLE, &read10(0, 1)), ACA_ACTIVE);
}

#[test]
fn the_error_of_an_aca_command_ends_the_allegiance_unless_it_has_naca_as_well() {
    let (_fake, [mut a, mut b]) = pair(0);
    fault(&mut a);
    assert_eq!(status(&mut a, ACA, &naca(INVALID)), CHECK_CONDITION);
    assert_eq!(status(&mut a, SIMPLE, &read10(0, 1)), ACA_ACTIVE);
    assert_eq!(status(&mut a, ACA, &INVALID), CHECK_CONDITION);
    assert_eq!(status(&mut a, SIMPLE, &read10(0, 1)), GOOD);
    assert_eq!(status(&mut b, SIMPLE, &read10(0, 1)), GOOD);
}

#[test]
fn resets_end_an_allegiance_and_aborts_do_not() {
    for (own, function, ends) in [
        (true, ABORT_TASK, false),
        (true, ABORT_TASK_SET, false),
        (true, CLEAR_TASK_SET, false),
        (false, CLEAR_TASK_SET, false),
        (false, NEXUS_RESET, false),
        (true, NEXUS_RESET, true),
        (false, UNIT_RESET, true),
        (true, UNIT_RESET, true),
    ] {
        let (_fake, [mut a, mut b]) = pair(0);
        fault(&mut a);
        let by = if own { &mut a } else { &mut b };
        assert_eq!(by.manage(function, LUN, 1), COMPLETE);
        let expected = if ends { CHECK_CONDITION } else { ACA_ACTIVE };
        assert_eq!(status(&mut a, SIMPLE, &TEST_UNIT_READY), expected);
        if ends {
            assert_eq!(status(&mut a, SIMPLE, &TEST_UNIT_READY), GOOD);
        }
    }
}

#[test]
fn a_device_reset_or_a_detached_unit_frees_the_others() {
    let (_fake, [mut a, mut b]) = pair(0);
    fault(&mut a);
    assert_eq!(status(&mut b, SIMPLE, &TEST_UNIT_READY), BUSY);
    a.controller.reset();
    assert_eq!(status(&mut b, SIMPLE, &TEST_UNIT_READY), GOOD);
    a.connect();
    a.start_all();
    assert_eq!(a.attentions(LUN), [(0x29, 7)]);
    fault(&mut a);
    assert_eq!(status(&mut b, SIMPLE, &TEST_UNIT_READY), BUSY);
    a.controller.detach(0, 0).unwrap();
    assert_eq!(status(&mut b, SIMPLE, &TEST_UNIT_READY), GOOD);
}

#[test]
fn of_errors_at_once_one_is_reported_and_the_others_are_told_of_it() {
    let (_fake, [mut a, mut b]) = pair(0);
    for _ in 0..50 {
        let failed: Vec<_> = [REQUEST, REQUEST + 1]
            .into_iter()
            .cycle()
            .take(6)
            .map(|queue| {
                (
                    send(&mut a, queue, 1, &naca(INVALID)),
                    send(&mut b, queue, 1, &naca(INVALID)),
                )
            })
            .collect();
        let mut reported = [0, 0];
        for (mine, theirs) in &failed {
            for (at, status) in [a.wait(mine).status(), b.wait(theirs).status()]
                .into_iter()
                .enumerate()
            {
                match status {
                    CHECK_CONDITION => reported[at] += 1,
                    ACA_ACTIVE => {}
                    other => panic!("status {other:#x}"),
                }
            }
        }
        assert_eq!(reported[0] + reported[1], 1, "one allegiance");
        let faulted = if reported[0] == 1 { &mut a } else { &mut b };
        assert_eq!(faulted.manage(CLEAR_ACA, LUN, 0), COMPLETE);
    }
    assert_eq!(status(&mut a, SIMPLE, &read10(0, 1)), GOOD);
    assert_eq!(status(&mut b, SIMPLE, &read10(0, 1)), GOOD);
}

#[test]
fn busy_leaves_a_unit_attention_if_the_control_page_asks_for_one() {
    let (fake, [mut a, mut b]) = pair(0);
    // UA_INTLCK_CTRL 11b.
    let rules = TaskRules::new([0, 0, 0x30, 0]).unwrap();
    fake.state().set_task_rules(rules);
    fault(&mut a);
    assert_eq!(status(&mut b, SIMPLE, &TEST_UNIT_READY), BUSY);
    assert_eq!(a.manage(CLEAR_ACA, LUN, 0), COMPLETE);
    for _ in 0..2 {
        let reply = b.command(LUN, &TEST_UNIT_READY, &[], 0);
        assert_eq!(reply.asc(), Some((0x2C, 7)));
    }
    let nexus = b.controller.nexus();
    let taken = fake.state().take_attention(nexus);
    assert_eq!(taken, Some(UnitAttention::PreviousBusy));
    assert_eq!(b.attentions(LUN), []);
}
