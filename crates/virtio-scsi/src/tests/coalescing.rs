//! Interrupts that are held back, and that none is lost.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::fake::{BLOCK, Fake};
use super::harness::*;
use crate::workers::WorkerConfig;
use crate::{Coalescing, Controller, ControllerConfig, Features, Workers};

/// Longer than a test may take.
const NEVER: Duration = Duration::from_secs(600);

fn guest(workers: &Arc<Workers>, time: Duration, completions: u32) -> Guest {
    let config = ControllerConfig {
        coalescing: Coalescing { time, completions },
        ..ControllerConfig::default()
    };
    Guest::on(Controller::new(workers, config).unwrap())
}

/// A guest whose unit does not answer READ(10) before its gate is opened, and a READ(10) that waits there.
fn gated(workers: &Arc<Workers>, time: Duration, completions: u32) -> (Guest, Arc<Fake>, Ticket) {
    let mut guest = guest(workers, time, completions);
    guest.start_all();
    let fake = Fake::new(1);
    guest.controller.attach(0, 0, fake.clone()).unwrap();
    guest.attentions(lun(0, 0));
    fake.gate.shut();
    let slow = read(&mut guest);
    fake.gate.await_waiting(1);
    (guest, fake, slow)
}

fn read(guest: &mut Guest) -> Ticket {
    guest.send(REQUEST, lun(0, 0), 1, &read10(0, 1), &[], BLOCK)
}

/// A command that is answered at once, by a driver that sleeps until it is interrupted.
fn inquire(guest: &mut Guest) -> Ticket {
    guest.want_interrupt(REQUEST);
    guest.send(REQUEST, lun(0, 0), 2, &inquiry(36), &[], 36)
}

/// Waits for an answer without waiting for an interrupt.
fn seen(guest: &mut Guest, ticket: &Ticket) {
    let start = Instant::now();
    while guest.reap(ticket).is_none() {
        assert!(start.elapsed() < DEADLINE, "not even published");
        thread::yield_now();
    }
}

/// Whether the driver is interrupted within the time that it must not be.
fn interrupted(guest: &mut Guest) -> bool {
    thread::sleep(GRACE);
    guest.interrupts(REQUEST) > 0
}

#[test]
fn one_command_at_a_time_is_never_kept_waiting() {
    let workers = workers(1);
    for features in [Features::empty(), Features::RING_PACKED] {
        let mut guest = guest(&workers, NEVER, 1000);
        guest.features |= features;
        guest.connect();
        guest.start_all();
        guest.controller.attach(0, 0, Fake::new(1)).unwrap();
        guest.attentions(lun(0, 0));
        for _ in 0..50 {
            for ticket in [read(&mut guest), inquire(&mut guest)] {
                // By its interrupt, and there is no other way to get one than at once.
                guest.wait(&ticket).good();
            }
        }
    }
}

#[test]
fn while_more_is_to_come_completions_are_seen_and_not_signalled() {
    let workers = workers(1);
    let (mut guest, fake, slow) = gated(&workers, NEVER, 1000);
    for _ in 0..3 {
        let quick = inquire(&mut guest);
        seen(&mut guest, &quick);
    }
    assert!(!interrupted(&mut guest));
    let before = workers.threads()[0].stats;
    assert!(before.held > 0, "{before:?}");
    fake.gate.release();
    guest.wait(&slow).good();
    assert_eq!(workers.threads()[0].stats.interrupts, before.interrupts + 1);
}

#[test]
fn enough_completions_are_signalled_together() {
    let workers = workers(1);
    let (mut guest, fake, slow) = gated(&workers, NEVER, 3);
    for _ in 0..4 {
        for rest in (0..3).rev() {
            let quick = inquire(&mut guest);
            seen(&mut guest, &quick);
            assert_eq!(
                interrupted(&mut guest),
                rest == 0,
                "{rest} before the third"
            );
        }
    }
    fake.gate.release();
    guest.wait(&slow).good();
}

#[test]
fn when_the_time_is_over_a_sleeping_worker_wakes_and_signals() {
    let workers = workers(1);
    let time = Duration::from_millis(30);
    let (mut guest, fake, slow) = gated(&workers, time, 1000);
    for _ in 0..3 {
        let start = Instant::now();
        let quick = inquire(&mut guest);
        guest.expect_interrupt(REQUEST);
        assert!(start.elapsed() >= time, "{:?}", start.elapsed());
        assert!(guest.reap(&quick).is_some());
    }
    fake.gate.release();
    guest.wait(&slow).good();
}

#[test]
fn what_is_held_back_is_sent_when_the_setting_changes() {
    let workers = workers(1);
    let (mut guest, fake, slow) = gated(&workers, NEVER, 1000);
    let quick = inquire(&mut guest);
    seen(&mut guest, &quick);
    assert!(!interrupted(&mut guest));
    guest
        .controller
        .set_coalescing(Coalescing::default())
        .unwrap();
    assert_eq!(guest.controller.coalescing(), Coalescing::default());
    guest.expect_interrupt(REQUEST);
    // From now on each is sent at once.
    let quick = inquire(&mut guest);
    guest.wait(&quick).good();
    fake.gate.release();
    guest.wait(&slow).good();
}

/// Interrupts for 32 commands that were made available at once, by a driver that wants one for everything.
fn interrupts_of_a_batch(coalescing: Coalescing, features: Features) -> u64 {
    let workers = workers(1);
    let mut guest = guest(&workers, coalescing.time, coalescing.completions);
    guest.features = (guest.features - Features::RING_EVENT_IDX) | features;
    guest.connect();
    guest.start_all();
    guest.controller.attach(0, 0, Fake::new(1)).unwrap();
    guest.attentions(lun(0, 0));
    let tickets: Vec<_> = (0..32)
        .map(|tag| {
            let test_unit_ready = header(lun(0, 0), tag, &[0; 6]);
            guest.stage(REQUEST, &[&test_unit_ready], &[12 + 96])
        })
        .collect();
    guest.interrupts(REQUEST);
    guest.kick(REQUEST);
    for ticket in &tickets {
        seen(&mut guest, ticket);
    }
    // The signal follows what it is for.
    guest.controller.stop_queue(REQUEST).unwrap();
    guest.interrupts(REQUEST)
}

#[test]
fn a_batch_takes_fewer_interrupts() {
    for features in [Features::empty(), Features::RING_PACKED] {
        let interrupts =
            |time, completions| interrupts_of_a_batch(Coalescing { time, completions }, features);
        let plain = interrupts(Duration::ZERO, 1000);
        assert!(plain > 2, "{plain}: no batch to speak of");
        assert_eq!(interrupts(NEVER, 1), plain);
        assert_eq!(interrupts(NEVER, 16), 2);
        assert_eq!(interrupts(NEVER, 1000), 1);
    }
}

/// Drivers that know of their answers only by interrupts, while queues move and the setting changes.
fn none_is_lost(features: Features) {
    let workers = workers(2);
    let config = WorkerConfig {
        name: "other".into(),
        spin: Duration::ZERO,
        cpus: Vec::new(),
    };
    let other = workers.add(config).unwrap();
    let mut guest = guest(&workers, NEVER, 1000);
    guest.features |= features;
    guest.connect();
    guest.start_all();
    guest.controller.attach(0, 0, Fake::new(1)).unwrap();
    guest.attentions(lun(0, 0));
    for round in 0..300u32 {
        let depth = 1 + round % 7;
        let tickets: Vec<_> = (0..depth)
            .map(|i| match (round + i) % 3 {
                0 => read(&mut guest),
                _ => inquire(&mut guest),
            })
            .collect();
        match round % 20 {
            7 => guest.controller.move_to(Some(other)).unwrap(),
            13 => guest.controller.move_to(None).unwrap(),
            17 => {
                let time = [NEVER, Duration::from_micros(50), Duration::ZERO];
                let time = time[(round / 20 % 3) as usize];
                let completions = 1 + round % 4;
                let coalescing = Coalescing { time, completions };
                guest.controller.set_coalescing(coalescing).unwrap();
            }
            _ => {}
        }
        for ticket in &tickets {
            guest.wait(ticket).good();
        }
    }
}

#[test]
fn no_interrupt_is_lost() {
    none_is_lost(Features::empty());
}

#[test]
fn no_interrupt_of_a_packed_ring_is_lost() {
    none_is_lost(Features::RING_PACKED);
}
