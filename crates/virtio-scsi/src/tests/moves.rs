//! Queues that move between workers while they are in use.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::fake::{BLOCK, Fake};
use super::harness::*;
use crate::workers::WorkerConfig;
use crate::{Features, WorkerId, Workers};

fn more(workers: &Workers, name: &str) -> WorkerId {
    let config = WorkerConfig {
        name: name.into(),
        spin: Duration::ZERO,
        cpus: Vec::new(),
    };
    workers.add(config).unwrap()
}

/// Commands on two queues and task management, while the queues move about.
fn moved_under_load(features: Features) {
    let workers = workers(2);
    let places = [None, Some(more(&workers, "a")), Some(more(&workers, "b"))];
    let mut guest = Guest::new(&workers, 2);
    guest.features |= features;
    guest.connect();
    guest.start_all();
    guest.controller.attach(0, 0, Fake::new(1)).unwrap();
    guest.attentions(lun(0, 0));
    let over = AtomicBool::new(false);
    let controller = guest.controller.clone();
    let moves = thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let mut moves = 0;
            while !over.load(Ordering::Relaxed) {
                controller.move_to(places[moves % 3]).unwrap();
                moves += 1;
                if moves >= 300 {
                    over.store(true, Ordering::Relaxed);
                }
            }
            moves
        });
        let mut rounds = 0u32;
        while !over.load(Ordering::Relaxed) {
            rounds += 1;
            let byte = rounds as u8;
            let tickets: Vec<_> = (0..4u32)
                .map(|i| {
                    let queue = REQUEST + (i % 2) as usize;
                    let data = [byte; BLOCK];
                    guest.send(queue, lun(0, 0), i.into(), &write10(i, 1), &data, 0)
                })
                .collect();
            for ticket in &tickets {
                guest.wait(ticket).good();
            }
            for i in 0..4 {
                let queue = REQUEST + (i % 2) as usize;
                let ticket = guest.send(queue, lun(0, 0), 9, &read10(i, 1), &[], BLOCK);
                let reply = guest.wait(&ticket);
                assert_eq!(reply.good().data(), [byte; BLOCK]);
            }
            // ABORT TASK of none.
            assert_eq!(guest.manage(0, lun(0, 0), 77), 0);
        }
        mover.join().unwrap()
    });
    assert_eq!(moves, 300);
    guest.controller.move_to(None).unwrap();
}

#[test]
fn queues_that_move_lose_no_kick_and_no_data() {
    moved_under_load(Features::empty());
}

#[test]
fn packed_rings_that_move_lose_no_kick_and_no_data() {
    moved_under_load(Features::RING_PACKED);
}

#[test]
fn a_queue_moves_when_its_commands_are_over_and_serves_what_came_meanwhile() {
    let workers = workers(1);
    let other = more(&workers, "other");
    let mut guest = Guest::running(&workers, 1);
    let fake = Fake::new(1);
    guest.controller.attach(0, 0, fake.clone()).unwrap();
    guest.attentions(lun(0, 0));
    fake.gate.shut();
    let first = guest.send(REQUEST, lun(0, 0), 1, &read10(0, 1), &[], BLOCK);
    fake.gate.await_waiting(1);
    let moving = thread::spawn({
        let controller = guest.controller.clone();
        move || controller.move_to(Some(other))
    });
    thread::sleep(GRACE);
    let kicked = guest.send(REQUEST, lun(0, 0), 2, &inquiry(36), &[], 36);
    guest.stays_open(&kicked);
    assert!(!moving.is_finished(), "moved with a command in flight");
    fake.gate.release();
    guest.wait(&first).good();
    guest.wait(&kicked).good();
    moving.join().unwrap().unwrap();
    // The other has nothing to do with it any more.
    assert_eq!(fake.gate.handles(), 1);
    guest.controller.move_to(None).unwrap();
    assert_eq!(fake.gate.handles(), 1);
    workers.remove(other);
    guest.command(lun(0, 0), &inquiry(36), &[], 36).good();
}

#[test]
fn a_missed_event_is_reported_by_the_worker_that_has_the_event_queue_then() {
    let workers = workers(1);
    let other = more(&workers, "other");
    let mut guest = Guest::running(&workers, 1);
    // There is no buffer for it.
    guest.controller.attach(0, 0, Fake::new(1)).unwrap();
    guest.controller.move_to(Some(other)).unwrap();
    let event = guest.expect_events(1).remove(0);
    let reply = guest.wait(&event);
    let [a, b, c, d] = *reply.bytes.first_chunk().unwrap();
    assert_eq!(u32::from_le_bytes([a, b, c, d]), 0x8000_0000);
}
