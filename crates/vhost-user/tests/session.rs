//! The state rules of the protocol, one message after the other, against a device that notes what it is told.
#![cfg(test)]

mod common;
#[path = "common/talk.rs"]
mod talk;

use common::*;
use lunar_vhost_user::{Message, Options};
use talk::{Answer, Test};
use vhost::vhost_user::message::FrontendReq as R;

fn started(index: usize, desc: u64, base: u32, enabled: bool) -> Told {
    Told::Start {
        index,
        size: 128,
        addresses: [desc, desc + 0x1000, desc + 0x2000],
        base,
        kick: true,
        call: false,
        err: false,
        enabled,
    }
}

#[test]
fn only_what_is_implemented_is_offered_and_config_only_when_asked_for() {
    let base = MQ | REPLY_ACK | BACKEND_REQ | RESET_DEVICE | CONFIGURE_MEM_SLOTS | STATUS;
    let mut test = Test::fresh(Options { config: false });
    assert_eq!(test.number(R::GET_PROTOCOL_FEATURES), base);
    assert_eq!(
        test.number(R::GET_FEATURES),
        FakeDevice::FEATURES | PROTOCOL_FEATURES
    );
    assert_eq!(test.number(R::GET_QUEUE_NUM), 6);
    assert_eq!(test.number(R::GET_MAX_MEM_SLOTS), 509);
    let mut test = Test::fresh(Options { config: true });
    assert_eq!(test.number(R::GET_PROTOCOL_FEATURES), base | CONFIG);
}

#[test]
fn the_device_never_sees_transport_bits_and_judges_the_others() {
    let mut test = Test::negotiated();
    let wanted = VERSION_1 | HOTPLUG | CHANGE;
    test.ok(R::SET_FEATURES, words64(&[wanted | PROTOCOL_FEATURES]));
    assert_eq!(test.device.take(), [Told::Features(wanted)]);
}

#[test]
fn features_that_the_device_refuses_are_refused_and_leave_features_ok_clear() {
    let (packed, iommu, log_all) = (1 << 34, 1 << 33, 1 << 26);
    for bit in [T10_PI, packed, iommu, log_all, 1 << 63] {
        let mut test = Test::negotiated();
        test.ok(R::SET_STATUS, words64(&[11]));
        assert_eq!(test.number(R::GET_STATUS), 11);
        test.refused(R::SET_FEATURES, words64(&[VERSION_1 | bit]));
        test.ok(R::SET_STATUS, words64(&[11]));
        assert_eq!(test.number(R::GET_STATUS), 3, "FEATURES_OK stays clear");
        assert_eq!(test.device.take(), [], "bit {bit:#x}");
    }
    let mut test = Test::negotiated();
    test.refused(R::SET_PROTOCOL_FEATURES, words64(&[1 << 1]));
}

#[test]
fn a_ring_starts_with_its_kick_message_and_not_before() {
    let mut test = Test::negotiated();
    test.set_up_ring(2, 0x10000, 5);
    test.ok(R::SET_VRING_ENABLE, words32(&[2, 1]));
    assert_eq!(test.device.take(), []);
    test.ok_with(R::SET_VRING_KICK, words64(&[2]), descriptor());
    assert_eq!(test.device.take(), [started(2, 0x10000, 5, true)]);
}

#[test]
fn a_kick_message_that_comes_early_starts_the_ring_when_its_place_is_known() {
    let mut test = Test::negotiated();
    test.ok_with(R::SET_VRING_KICK, words64(&[1]), descriptor());
    test.ok(R::SET_VRING_NUM, words32(&[1, 128]));
    assert_eq!(test.device.take(), []);
    test.ok(R::SET_VRING_ADDR, ring_addresses(1, 0, 0x10000));
    assert_eq!(test.device.take(), [started(1, 0x10000, 0, false)]);
}

#[test]
fn a_ring_without_kick_descriptor_starts_all_the_same() {
    let mut test = Test::negotiated();
    test.set_up_ring(0, 0x10000, 0);
    test.ok(R::SET_VRING_KICK, words64(&[0x100]));
    let calls = test.device.take();
    assert!(
        matches!(
            calls[..],
            [Told::Start {
                index: 0,
                kick: false,
                ..
            }]
        ),
        "{calls:?}"
    );
}

#[test]
fn rings_that_firmware_never_sets_up_are_enabled_and_stopped_without_reaching_the_device() {
    let mut test = Test::negotiated();
    test.start_ring(2, 0x10000, 0);
    for index in 0..6 {
        test.ok(R::SET_VRING_ENABLE, words32(&[index, 1]));
    }
    for index in 0..6 {
        test.stop_ring(index);
    }
    assert_eq!(
        test.device.take(),
        [
            started(2, 0x10000, 0, false),
            Told::Enable(2, true),
            Told::Stop(2)
        ]
    );
}

#[test]
fn without_protocol_features_rings_start_enabled_and_enable_is_refused() {
    let mut test = Test::negotiated();
    test.ok(R::SET_FEATURES, words64(&[VERSION_1]));
    test.device.take();
    test.start_ring(0, 0x10000, 0);
    assert_eq!(test.device.take(), [started(0, 0x10000, 0, true)]);
    test.refused(R::SET_VRING_ENABLE, words32(&[0, 0]));
    test.ok(R::RESET_OWNER, vec![]);
    assert_eq!(
        test.device.take(),
        [],
        "nothing could enable the ring again"
    );
}

#[test]
fn a_stopped_ring_is_set_up_elsewhere_and_keeps_its_call_and_error_descriptors() {
    let mut test = Test::negotiated();
    test.ok_with(R::SET_VRING_CALL, words64(&[2]), descriptor());
    test.ok_with(R::SET_VRING_ERR, words64(&[2]), descriptor());
    test.start_ring(2, 0x10000, 9);
    assert_eq!(test.stop_ring(2), FakeDevice::STOPPED_AT);
    assert_eq!(test.stop_ring(2), FakeDevice::STOPPED_AT, "stopped twice");
    test.device.take();
    test.start_ring(2, 0x50000, 0);
    let calls = test.device.take();
    assert!(
        matches!(
            calls[..],
            [Told::Start {
                addresses: [0x50000, ..],
                base: 0,
                call: true,
                err: true,
                ..
            }]
        ),
        "{calls:?}"
    );
}

#[test]
fn a_stopped_ring_goes_on_where_it_was_when_only_a_kick_is_sent() {
    let mut test = Test::negotiated();
    test.start_ring(3, 0x10000, 9);
    test.stop_ring(3);
    test.device.take();
    test.ok_with(R::SET_VRING_KICK, words64(&[3]), descriptor());
    assert_eq!(
        test.device.take(),
        [started(3, 0x10000, FakeDevice::STOPPED_AT, false)]
    );
}

#[test]
fn descriptors_of_a_running_ring_are_replaced_and_taken_away() {
    let mut test = Test::negotiated();
    test.start_ring(0, 0x10000, 0);
    test.device.take();
    test.ok_with(R::SET_VRING_KICK, words64(&[0]), descriptor());
    test.ok_with(R::SET_VRING_CALL, words64(&[0]), descriptor());
    test.ok_with(R::SET_VRING_ERR, words64(&[0]), descriptor());
    test.ok(R::SET_VRING_CALL, words64(&[0x100]));
    assert_eq!(
        test.device.take(),
        [
            Told::SetKick(0, true),
            Told::SetCall(0, true),
            Told::SetErr(0, true),
            Told::SetCall(0, false)
        ]
    );
}

#[test]
fn a_running_ring_cannot_be_moved_but_may_be_told_again_where_it_is() {
    let mut test = Test::negotiated();
    test.start_ring(0, 0x10000, 0);
    test.device.take();
    test.ok(R::SET_VRING_NUM, words32(&[0, 128]));
    test.ok(R::SET_VRING_ADDR, ring_addresses(0, 0, 0x10000));
    test.refused(R::SET_VRING_NUM, words32(&[0, 64]));
    test.refused(R::SET_VRING_ADDR, ring_addresses(0, 0, 0x20000));
    test.refused(R::SET_VRING_BASE, words32(&[0, 1]));
    assert_eq!(test.device.take(), []);
}

#[test]
fn a_ring_that_the_guest_has_put_nowhere_is_reported_on_its_error_descriptor_and_the_session_goes_on()
 {
    for need_reply in [true, false] {
        let mut test = Test::negotiated();
        let err = descriptor();
        test.ok_with(R::SET_VRING_ERR, words64(&[4]), err.try_clone().unwrap());
        test.set_up_ring(4, test.device.bad_ring, 0);
        let kick = Message {
            need_reply,
            ..message(R::SET_VRING_KICK, words64(&[4]), vec![descriptor()])
        };
        let reply = test.session.handle(kick).unwrap().map(|r| r.payload);
        assert_eq!(reply, need_reply.then(|| words64(&[1])));
        let mut signalled = [0; 8];
        assert_eq!(rustix::io::read(&err, &mut signalled), Ok(8));
        test.start_ring(5, 0x10000, 0);
        assert_eq!(test.device.take(), [started(5, 0x10000, 0, false)]);
    }
}

#[test]
fn memory_is_replaced_extended_and_reduced_while_rings_run() {
    let mut test = Test::negotiated();
    test.start_ring(0, 0x10000, 0);
    test.device.take();
    let table = memory_table(&[
        [0, 0x10000, 0x7000_0000, 0],
        [0x10_0000, 0x2000, 0x8000_0000, 0x1000],
    ]);
    let files = vec![memory_file(0x10000), memory_file(0x3000)];
    assert_eq!(
        test.send(R::SET_MEM_TABLE, table, files),
        Answer::Acknowledged
    );
    let more = [0x20_0000, 0x1000, 0x9000_0000, 0];
    test.ok_with(R::ADD_MEM_REG, memory_region(more), memory_file(0x1000));
    test.ok(
        R::REM_MEM_REG,
        memory_region([0x10_0000, 0x2000, 0x8000_0000, 0]),
    );
    test.ok_with(R::REM_MEM_REG, memory_region(more), memory_file(0x1000));
    let (a, b, c) = ((0, 0x10000), (0x10_0000, 0x2000), (0x20_0000, 0x1000));
    assert_eq!(
        test.device.take(),
        [
            Told::Memory(vec![a, b]),
            Told::Memory(vec![a, b, c]),
            Told::Memory(vec![a, c]),
            Told::Memory(vec![a])
        ]
    );
}

#[test]
fn reset_device_and_status_zero_reset_the_device_and_keep_memory_and_descriptors() {
    for by_status in [false, true] {
        let mut test = Test::negotiated();
        test.ok_with(
            R::ADD_MEM_REG,
            memory_region([0, 0x1000, 0, 0]),
            memory_file(0x1000),
        );
        test.ok_with(R::SET_VRING_CALL, words64(&[1]), descriptor());
        test.start_ring(1, 0x10000, 3);
        test.ok(R::SET_VRING_ENABLE, words32(&[1, 1]));
        test.ok(R::SET_STATUS, words64(&[15]));
        test.device.take();
        match by_status {
            true => test.ok(R::SET_STATUS, words64(&[0])),
            false => test.ok(R::RESET_DEVICE, vec![]),
        }
        assert_eq!(test.device.take(), [Told::Reset]);
        assert_eq!(test.number(R::GET_STATUS), 0);
        assert_eq!(test.stop_ring(1), 0);
        test.ok(R::SET_FEATURES, words64(&[VERSION_1 | PROTOCOL_FEATURES]));
        test.start_ring(1, 0x20000, 0);
        let calls = test.device.take();
        assert!(
            matches!(
                calls[..],
                [
                    Told::Features(VERSION_1),
                    Told::Start {
                        call: true,
                        enabled: false,
                        ..
                    }
                ]
            ),
            "{calls:?}"
        );
    }
}

#[test]
fn reset_owner_disables_rings_and_keeps_everything_else() {
    let mut test = Test::negotiated();
    test.start_ring(1, 0x10000, 3);
    test.ok(R::SET_VRING_ENABLE, words32(&[1, 1]));
    test.device.take();
    test.ok(R::RESET_OWNER, vec![]);
    assert_eq!(test.device.take(), [Told::Enable(1, false)]);
}

#[test]
fn configuration_is_read_and_written_in_place_and_a_bad_range_reads_as_nothing() {
    let mut test = Test::negotiated();
    let request = |offset: u32, size: u32, bytes: &[u8]| {
        let mut payload = words32(&[offset, size, 0]);
        payload.extend(bytes);
        payload
    };
    let reply = test.send(R::GET_CONFIG, request(20, 4, &[0; 4]), vec![]);
    assert_eq!(reply, Answer::Reply(request(20, 4, &[20, 21, 22, 23])));
    let reply = test.send(R::GET_CONFIG, request(0, 36, &[0; 36]), vec![]);
    assert_eq!(
        reply,
        Answer::Reply(request(0, 36, &(0..36).collect::<Vec<_>>()))
    );
    for (offset, size) in [(33, 4), (u32::MAX, 4), (36, 1)] {
        let payload = request(offset, size, &vec![0; usize::try_from(size).unwrap()]);
        assert_eq!(
            test.send(R::GET_CONFIG, payload, vec![]),
            Answer::Reply(vec![])
        );
    }
    test.ok(R::SET_CONFIG, request(20, 4, &[1, 2, 3, 4]));
    assert_eq!(
        test.device.take(),
        [Told::WriteConfig(20, vec![1, 2, 3, 4])]
    );
    test.refused(R::SET_CONFIG, request(20, 8, &[1, 2, 3, 4]));
    assert_eq!(
        test.send(R::GET_CONFIG, request(20, 8, &[0; 4]), vec![]),
        Answer::SessionEnded
    );
}

#[test]
fn acknowledgements_come_only_when_asked_for_and_negotiated() {
    let mut test = Test::fresh(Options::default());
    let owner = || message(R::SET_OWNER, vec![], vec![]);
    assert_eq!(test.session.handle(owner()), Ok(None), "not negotiated");
    test.session
        .handle(message(
            R::SET_PROTOCOL_FEATURES,
            words64(&[REPLY_ACK]),
            vec![],
        ))
        .unwrap();
    let not_asked = Message {
        need_reply: false,
        ..owner()
    };
    assert_eq!(test.session.handle(not_asked), Ok(None));
    assert_eq!(
        test.session.handle(owner()).unwrap().unwrap().payload,
        words64(&[0])
    );
}

#[test]
fn a_session_that_ends_disconnects_the_device() {
    let Test { session, device } = Test::negotiated();
    drop(session);
    assert_eq!(device.take(), [Told::Disconnect]);
}
