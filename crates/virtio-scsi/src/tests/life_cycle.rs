//! Rings, memory, resets, and units that come and go.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use super::fake::{BLOCK, Fake};
use super::harness::*;
use crate::{Error, Features};

fn guest_with_disk(workers: usize, queues: u16) -> (Arc<Fake>, Guest) {
    let mut guest = Guest::running(&super::harness::workers(workers), queues);
    let fake = Fake::new(1);
    guest.controller.attach(0, 0, fake.clone()).unwrap();
    guest.attentions(lun(0, 0));
    (fake, guest)
}

#[test]
fn what_was_available_before_the_start_is_served_without_a_kick() {
    let mut guest = Guest::new(&workers(1), 1);
    guest.controller.attach(0, 0, Fake::new(1)).unwrap();
    let setup = guest.prepare(REQUEST);
    let request = header(lun(0, 0), 1, &inquiry(36));
    let ticket = guest.stage(REQUEST, &[&request], &[108, 36]);
    guest.publish_quietly(REQUEST);
    guest.controller.start_queue(REQUEST, setup, true).unwrap();
    guest.wait(&ticket).good();
}

#[test]
fn a_disabled_ring_is_not_served_and_what_came_meanwhile_is_served_when_it_is_enabled() {
    let mut guest = Guest::new(&workers(1), 1);
    guest.controller.attach(0, 0, Fake::new(1)).unwrap();
    let setup = guest.prepare(REQUEST);
    guest.controller.start_queue(REQUEST, setup, false).unwrap();
    let ticket = guest.send(REQUEST, lun(0, 0), 1, &inquiry(36), &[], 36);
    guest.stays_open(&ticket);
    guest.controller.enable_queue(REQUEST, true).unwrap();
    guest.wait(&ticket).good();
}

#[test]
fn stopping_drains_and_the_ring_restarts_where_it_was_or_anew_at_index_0() {
    let (fake, mut guest) = guest_with_disk(2, 1);
    let before = guest.controller.stop_queue(REQUEST).unwrap();
    let setup = guest.setup(REQUEST, before);
    guest.controller.start_queue(REQUEST, setup, true).unwrap();
    fake.gate.shut();
    let ticket = guest.send(REQUEST, lun(0, 0), 1, &read10(0, 1), &[], BLOCK);
    fake.gate.await_waiting(1);
    let stopping = thread::spawn({
        let controller = guest.controller.clone();
        move || controller.stop_queue(REQUEST).unwrap()
    });
    guest.stays_open(&ticket);
    assert!(!stopping.is_finished(), "stopped with a command in flight");
    fake.gate.release();
    assert_eq!(stopping.join().unwrap(), before + 1);
    guest
        .reap(&ticket)
        .expect("published before the stop")
        .good();

    // A driver that starts afterwards knows nothing of the one before.
    guest.start(REQUEST);
    guest.command(lun(0, 0), &read10(0, 1), &[], BLOCK).good();
    assert_eq!(guest.controller.stop_queue(REQUEST).unwrap(), 1);
}

#[test]
fn a_packed_ring_goes_on_at_the_base_where_it_stopped_and_a_wrong_base_is_refused() {
    let (_fake, mut guest) = guest_with_disk(2, 1);
    guest.controller.reset();
    guest.features |= Features::RING_PACKED;
    guest.connect();
    guest.start(REQUEST);
    let read = |guest: &mut Guest| {
        let ticket = guest.send(REQUEST, lun(0, 0), 1, &read10(0, 1), &[], BLOCK);
        guest.wait(&ticket)
    };
    // The reset is reported first.
    let _ = read(&mut guest);
    for _ in 0..3 {
        read(&mut guest).good();
        let base = guest.controller.stop_queue(REQUEST).unwrap();
        assert_eq!(base & 0xffff, base >> 16, "nothing was in flight");
        assert_ne!(base & 0x7fff, 0);
        let wrong = guest.setup(REQUEST, base | 0x7fff);
        let error = guest.controller.start_queue(REQUEST, wrong, true);
        assert!(matches!(error, Err(Error::Ring { .. })), "{error:?}");
        let setup = guest.setup(REQUEST, base);
        guest.controller.start_queue(REQUEST, setup, true).unwrap();
    }
}

#[test]
fn a_ring_without_kick_descriptor_is_polled_and_gets_one_later() {
    let mut guest = Guest::new(&workers(1), 1);
    guest.controller.attach(0, 0, Fake::new(1)).unwrap();
    let mut setup = guest.prepare(REQUEST);
    let kick = setup.kick.take();
    guest.controller.start_queue(REQUEST, setup, true).unwrap();
    thread::sleep(GRACE);
    let request = header(lun(0, 0), 1, &inquiry(36));
    let ticket = guest.stage(REQUEST, &[&request], &[108, 36]);
    guest.publish_quietly(REQUEST);
    guest.wait(&ticket).good();
    guest.controller.set_kick(REQUEST, kick).unwrap();
    thread::sleep(GRACE);
    guest.command(lun(0, 0), &inquiry(36), &[], 36).good();
}

#[test]
fn a_ring_without_call_descriptor_completes_silently() {
    let (_fake, mut guest) = guest_with_disk(1, 1);
    guest.controller.set_call(REQUEST, None).unwrap();
    guest.interrupts(REQUEST);
    let ticket = guest.send(REQUEST, lun(0, 0), 1, &TEST_UNIT_READY, &[], 0);
    let reply = loop {
        if let Some(reply) = guest.reap(&ticket) {
            break reply;
        }
        thread::yield_now();
    };
    reply.good();
    assert_eq!(guest.interrupts(REQUEST), 0);
}

/// What completed before went to a descriptor that nobody may look at any more.
#[test]
fn a_new_call_descriptor_is_signalled_at_once() {
    let (_fake, guest) = guest_with_disk(1, 1);
    let call = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    guest
        .controller
        .set_call(REQUEST, Some(call.try_clone().unwrap()))
        .unwrap();
    let mut count = [0; 8];
    rustix::io::ioctl_fionbio(&call, true).unwrap();
    rustix::io::read(&call, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);
}

#[test]
fn works_without_event_idx_and_indirect_descriptors() {
    let mut guest = Guest::new(&workers(1), 1);
    guest.features -= Features::RING_EVENT_IDX | Features::RING_INDIRECT_DESC;
    guest.connect();
    guest.start_all();
    guest.controller.attach(0, 0, Fake::new(1)).unwrap();
    guest.attentions(lun(0, 0));
    for _ in 0..3 {
        guest.command(lun(0, 0), &read10(0, 1), &[], BLOCK).good();
        thread::sleep(GRACE / 10);
    }
}

#[test]
fn only_some_queues_may_be_started_and_each_only_once() {
    let mut guest = Guest::new(&workers(2), 4);
    let absent = guest.prepare(REQUEST);
    guest.controller.disconnect();
    assert!(matches!(
        guest.controller.start_queue(REQUEST, absent, true),
        Err(Error::NoMemory)
    ));
    guest.connect();
    guest.start(REQUEST + 3);
    guest.controller.attach(0, 0, Fake::new(1)).unwrap();
    let ticket = guest.send(REQUEST + 3, lun(0, 0), 1, &inquiry(36), &[], 36);
    guest.wait(&ticket).good();
    let again = guest.setup(REQUEST + 3, 0);
    assert!(matches!(
        guest.controller.start_queue(REQUEST + 3, again, true),
        Err(Error::Running(5))
    ));
    assert!(matches!(
        guest.controller.stop_queue(REQUEST),
        Err(Error::NotRunning(2))
    ));
    assert!(matches!(
        guest.controller.stop_queue(6),
        Err(Error::NoQueue { index: 6, count: 6 })
    ));
    let mut outside = guest.prepare(REQUEST);
    outside.desc = 16;
    assert!(matches!(
        guest.controller.start_queue(REQUEST, outside, true),
        Err(Error::Ring { index: 2, .. })
    ));
    guest.start(REQUEST);
}

#[test]
fn a_new_memory_map_waits_for_what_is_in_flight_and_the_rings_go_on_in_it() {
    let (fake, mut guest) = guest_with_disk(2, 2);
    fake.gate.shut();
    let before = guest.send(REQUEST + 1, lun(0, 0), 1, &read10(0, 1), &[], BLOCK);
    fake.gate.await_waiting(1);
    let map = guest.remapped();
    let old = Arc::downgrade(&std::mem::replace(&mut guest.memory, map.clone()));
    let swapping = thread::spawn({
        let controller = guest.controller.clone();
        move || controller.set_memory(map).unwrap()
    });
    thread::sleep(GRACE);
    assert!(!swapping.is_finished(), "swapped with a command in flight");
    let during = guest.send(REQUEST + 1, lun(0, 0), 2, &read10(0, 1), &[], BLOCK);
    guest.stays_open(&during);
    fake.gate.release();
    swapping.join().unwrap();
    assert!(
        old.strong_count() > 0,
        "the driver's rings of this test still use the old map"
    );
    for ticket in [before, during] {
        assert_eq!(guest.wait(&ticket).good().data(), [1; BLOCK]);
    }
}

#[test]
fn a_ring_that_is_no_longer_in_memory_is_broken_and_can_be_started_again() {
    let (_fake, mut guest) = guest_with_disk(1, 1);
    guest.controller.set_memory(guest.truncated()).unwrap();
    assert_eq!(guest.errors(REQUEST), 1);
    let ticket = guest.send(REQUEST, lun(0, 0), 1, &TEST_UNIT_READY, &[], 0);
    guest.stays_open(&ticket);
    guest.controller.set_memory(guest.remapped()).unwrap();
    guest.stays_open(&ticket);
    guest.controller.stop_queue(REQUEST).unwrap();
    guest.start(REQUEST);
    guest.command(lun(0, 0), &TEST_UNIT_READY, &[], 0).good();
}

#[test]
fn a_reset_ends_commands_stops_rings_and_is_a_loss_of_this_nexus_only() {
    let workers = workers(2);
    let fake = Fake::new(1);
    let mut guests = [Guest::running(&workers, 1), Guest::running(&workers, 1)];
    for guest in &mut guests {
        guest.controller.attach(0, 0, fake.clone()).unwrap();
        guest.attentions(lun(0, 0));
    }
    let [mine, theirs] = &mut guests;
    mine.controller
        .write_config(20, &18u32.to_le_bytes())
        .unwrap();
    fake.gate.shut();
    let ticket = mine.send(REQUEST, lun(0, 0), 1, &read10(0, 1), &[], BLOCK);
    fake.gate.await_waiting(1);
    let resetting = thread::spawn({
        let controller = mine.controller.clone();
        move || controller.reset()
    });
    thread::sleep(GRACE);
    assert!(!resetting.is_finished(), "reset with a command in flight");
    fake.gate.release();
    resetting.join().unwrap();
    assert!(mine.reap(&ticket).is_some());
    assert!(matches!(
        mine.controller.stop_queue(REQUEST),
        Err(Error::NotRunning(_))
    ));
    assert_eq!(*fake.losses.lock().unwrap(), [mine.controller.nexus()]);

    mine.connect();
    mine.start_all();
    assert_eq!(mine.attentions(lun(0, 0)), [(0x29, 7)]);
    assert_eq!(theirs.attentions(lun(0, 0)), []);
}

/// What is logged by those who are told to.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(line)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn says(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock().unwrap()).contains(text)
    }
}

#[test]
fn a_queue_that_waits_for_storage_says_for_which() {
    let (fake, mut guest) = guest_with_disk(2, 2);
    fake.gate.shut();
    for (tag, queue) in [(1, REQUEST), (2, REQUEST), (3, REQUEST + 1)] {
        guest.send(queue, lun(0, 0), tag, &read10(0, 1), &[], BLOCK);
    }
    fake.gate.await_waiting(3);
    let log = Log::default();
    let stopping = thread::spawn({
        let (controller, log) = (guest.controller.clone(), log.clone());
        let subscriber = tracing_subscriber::fmt().with_writer(move || log.clone());
        move || {
            tracing::subscriber::with_default(subscriber.finish(), || {
                controller.stop_queue(REQUEST).unwrap()
            })
        }
    });
    let begun = Instant::now();
    while !log.says("queue 2: has to stop, and waits for commands in flight: 3 of target 0 LUN 0") {
        assert!(begun.elapsed() < DEADLINE, "{log:?}");
        thread::sleep(GRACE);
    }
    assert!(!stopping.is_finished(), "stopped with a command in flight");
    fake.gate.release();
    stopping.join().unwrap();
    assert!(log.says("queue 2: has stopped after "), "{log:?}");
}

#[test]
fn after_a_disconnect_nothing_uses_guest_memory() {
    let (_fake, mut guest) = guest_with_disk(2, 2);
    let memory = guest.remapped();
    guest.controller.set_memory(memory.clone()).unwrap();
    guest.command(lun(0, 0), &read10(0, 1), &[], BLOCK).good();
    guest.controller.disconnect();
    assert_eq!(Arc::strong_count(&memory), 1);
}

#[test]
fn a_removed_unit_finishes_its_commands_first_and_then_is_gone() {
    let (fake, mut guest) = guest_with_disk(2, 2);
    let missed = guest.expect_events(1);
    guest.wait(&missed[0]);
    let buffers = guest.expect_events(3);
    guest.controller.attach(0, 1, Fake::new(2)).unwrap();
    guest.wait(&buffers[0]);
    assert_eq!(fake.gate.handles(), 2, "one data handle per worker");
    guest.attentions(lun(0, 0));
    fake.gate.shut();
    let command = guest.send(REQUEST + 1, lun(0, 0), 1, &read10(0, 1), &[], BLOCK);
    let task = guest.send(REQUEST, lun(0, 0), 1, &SYNCHRONIZE_CACHE, &[], 0);
    fake.gate.await_waiting(2);
    let detaching = thread::spawn({
        let controller = guest.controller.clone();
        move || controller.detach(0, 0).unwrap()
    });
    guest.stays_open(&buffers[1]);
    // Its address and itself are not free yet, others are.
    let attach = |number, unit| guest.controller.attach(0, number, unit);
    assert!(matches!(
        attach(0, Fake::new(4)),
        Err(Error::Occupied { target: 0, lun: 0 })
    ));
    assert!(matches!(
        attach(2, fake.clone()),
        Err(Error::Attached { target: 0, lun: 0 })
    ));
    attach(2, Fake::new(5)).unwrap();
    assert_eq!(guest.wait(&buffers[1]).bytes[12], 1);
    guest.stays_open(&buffers[2]);
    let late = guest.command(lun(0, 0), &TEST_UNIT_READY, &[], 0);
    assert_eq!(late.asc(), Some((0x25, 0)), "takes no more commands");
    fake.gate.release();
    detaching.join().unwrap();
    guest
        .reap(&command)
        .expect("finished before the address was free")
        .good();
    guest.reap(&task).unwrap().good();
    assert_eq!(guest.wait(&buffers[2]).bytes[12], 2);
    assert_eq!(fake.gate.handles(), 0);
    guest.controller.attach(0, 0, Fake::new(3)).unwrap();
    guest.attentions(lun(0, 0));
    assert_eq!(
        guest
            .command(lun(0, 0), &read10(0, 1), &[], BLOCK)
            .good()
            .data(),
        [3; BLOCK]
    );
}

#[test]
fn addresses_are_checked() {
    let guest = Guest::running(&workers(1), 1);
    let fake = Fake::new(1);
    guest.controller.attach(0, 0, fake.clone()).unwrap();
    let attach = |target, number, unit| guest.controller.attach(target, number, unit);
    assert!(matches!(
        attach(0, 0, Fake::new(2)),
        Err(Error::Occupied { target: 0, lun: 0 })
    ));
    assert!(matches!(
        attach(0, 16384, Fake::new(2)),
        Err(Error::Lun(16384))
    ));
    assert!(matches!(
        attach(1, 1, fake),
        Err(Error::Attached { target: 0, lun: 0 })
    ));
    assert!(matches!(
        guest.controller.detach(0, 1),
        Err(Error::Absent { target: 0, lun: 1 })
    ));
    let unopenable = Fake::new(2);
    unopenable.gate.fails_to_open.store(true, Ordering::SeqCst);
    assert!(matches!(
        attach(0, 1, unopenable),
        Err(Error::Image {
            target: 0,
            lun: 1,
            ..
        })
    ));
    attach(0, 1, Fake::new(3)).unwrap();
}

#[test]
fn units_are_shared_by_controllers_and_each_nexus_has_its_own_attentions() {
    let workers = workers(2);
    let fake = Fake::new(1);
    let mut guests = [Guest::running(&workers, 1), Guest::running(&workers, 1)];
    for guest in &mut guests {
        guest.controller.attach(0, 0, fake.clone()).unwrap();
    }
    let [a, b] = &mut guests;
    assert_ne!(a.controller.nexus(), b.controller.nexus());
    assert_eq!(a.attentions(lun(0, 0)), [(0x29, 0)]);
    a.command(lun(0, 0), &write10(0, 1), &[0xAB; BLOCK], 0)
        .good();
    assert_eq!(b.attentions(lun(0, 0)), [(0x29, 0)]);
    assert_eq!(
        b.command(lun(0, 0), &read10(0, 1), &[], BLOCK)
            .good()
            .data(),
        [0xAB; BLOCK]
    );
    let gone = Arc::downgrade(&a.controller);
    guests.into_iter().for_each(drop);
    assert_eq!(gone.strong_count(), 0);
    assert_eq!(
        fake.gate.handles(),
        0,
        "dropped controllers let go of their units"
    );
}

#[test]
fn stopped_workers_are_an_error_and_not_a_hang() {
    let workers = workers(2);
    let mut guest = Guest::running(&workers, 2);
    workers.stop();
    assert!(matches!(
        guest.controller.stop_queue(REQUEST),
        Err(Error::Stopped)
    ));
    assert!(matches!(
        guest.controller.attach(0, 0, Fake::new(1)),
        Err(Error::Stopped)
    ));
    guest.controller.reset();
    let setup = guest.prepare(REQUEST);
    drop(setup);
}
