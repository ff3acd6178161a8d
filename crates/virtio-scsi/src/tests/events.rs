//! The event queue.

use super::fake::Fake;
use super::harness::*;
use crate::Features;

fn event(kind: u32, at: [u8; 8], reason: u32) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(at);
    bytes.extend(reason.to_le_bytes());
    bytes
}

const MISSED: u32 = 1 << 31;

#[test]
fn arrival_and_removal_are_reported_with_the_lun_as_report_luns_gives_it() {
    let mut guest = Guest::running(&workers(2), 2);
    let buffers = guest.expect_events(4);
    guest.controller.attach(3, 255, Fake::new(1)).unwrap();
    guest.controller.attach(3, 256, Fake::new(2)).unwrap();
    guest.controller.detach(3, 255).unwrap();
    guest.controller.param_changed(3, 256, 0x2A, 0x09).unwrap();
    let events: Vec<_> = buffers
        .iter()
        .map(|buffer| guest.wait(buffer).bytes)
        .collect();
    let (small, large) = ([1, 3, 0, 255, 0, 0, 0, 0], [1, 3, 0x41, 0, 0, 0, 0, 0]);
    assert_eq!(events[0], event(1, small, 1));
    assert_eq!(events[1], event(1, large, 1));
    assert_eq!(events[2], event(1, small, 2));
    assert_eq!(events[3], event(3, large, 0x092A));
}

#[test]
fn siblings_of_a_new_unit_report_that_the_luns_have_changed() {
    let mut guest = Guest::new(&workers(1), 1);
    guest.controller.attach(0, 0, Fake::new(1)).unwrap();
    guest.controller.attach(0, 1, Fake::new(1)).unwrap();
    guest.start_all();
    assert_eq!(
        guest.attentions(lun(0, 0)),
        [(0x29, 0)],
        "nobody knew the LUNs before"
    );
    guest.controller.attach(0, 2, Fake::new(2)).unwrap();
    assert_eq!(guest.attentions(lun(0, 0)), [(0x3F, 0x0E)]);
    assert_eq!(guest.attentions(lun(0, 2)), [(0x29, 0)]);
    guest.controller.detach(0, 2).unwrap();
    assert_eq!(guest.attentions(lun(0, 0)), [(0x3F, 0x0E)]);
}

#[test]
fn a_lost_event_is_announced_as_soon_as_there_is_a_buffer() {
    let mut guest = Guest::running(&workers(1), 1);
    guest.controller.attach(0, 0, Fake::new(1)).unwrap();
    guest.controller.attach(0, 1, Fake::new(2)).unwrap();
    std::thread::sleep(GRACE);
    let buffers = guest.expect_events(2);
    assert_eq!(guest.wait(&buffers[0]).bytes, event(MISSED, [0; 8], 0));
    guest.stays_open(&buffers[1]);
    guest.controller.detach(0, 1).unwrap();
    assert_eq!(
        guest.wait(&buffers[1]).bytes,
        event(1, [1, 0, 0, 1, 0, 0, 0, 0], 2),
        "reported once"
    );
}

#[test]
fn a_reset_forgets_what_was_missed() {
    let mut guest = Guest::running(&workers(1), 1);
    guest.controller.attach(0, 0, Fake::new(1)).unwrap();
    guest.controller.reset();
    guest.connect();
    guest.start_all();
    let buffers = guest.expect_events(1);
    guest.stays_open(&buffers[0]);
}

#[test]
fn events_the_driver_has_not_asked_for_are_not_sent() {
    let mut guest = Guest::new(&workers(1), 1);
    guest.features -= Features::HOTPLUG | Features::CHANGE;
    guest.connect();
    guest.start_all();
    let buffers = guest.expect_events(1);
    guest.controller.attach(0, 0, Fake::new(1)).unwrap();
    guest.controller.param_changed(0, 0, 0x2A, 9).unwrap();
    guest.controller.detach(0, 0).unwrap();
    guest.stays_open(&buffers[0]);
}

#[test]
fn a_larger_buffer_gets_an_event_and_a_smaller_one_breaks_the_queue() {
    let mut guest = Guest::running(&workers(1), 1);
    let large = guest.submit(EVENT, &[], &[8, 100]);
    guest.controller.attach(0, 0, Fake::new(1)).unwrap();
    let reply = guest.wait(&large);
    assert_eq!((reply.written, &reply.bytes[16..]), (16, &[0xEE; 92][..]));
    let small = guest.submit(EVENT, &[], &[15]);
    guest.controller.detach(0, 0).unwrap();
    assert_eq!(guest.errors(EVENT), 1);
    guest.stays_open(&small);
}
