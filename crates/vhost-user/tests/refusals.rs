//! Requests that a front end should not send: each is refused, or ends the session, and the device hears of none.
#![cfg(test)]

mod common;
#[path = "common/talk.rs"]
mod talk;

use common::*;
use lunar_vhost_user::{Message, Options};
use talk::{Answer, Test};
use vhost::vhost_user::message::FrontendReq as R;

#[test]
fn impossible_memory_is_refused_and_the_old_map_stays() {
    let mut test = Test::negotiated();
    let good = [0x1000, 0x2000, 0x7000_0000, 0];
    test.ok_with(R::ADD_MEM_REG, memory_region(good), memory_file(0x2000));
    test.device.take();
    let bad = [
        ("overlaps", [0x2000, 0x2000, 0x8000_0000, 0]),
        ("is the same", good),
        ("is empty", [0x8000, 0, 0x8000_0000, 0]),
        (
            "wraps the guest's addresses",
            [u64::MAX - 0xfff, 0x2000, 0x8000_0000, 0],
        ),
        (
            "wraps the user's addresses",
            [0x8000, 0x2000, u64::MAX - 0xfff, 0],
        ),
        (
            "wraps the file",
            [0x8000, 0x2000, 0x8000_0000, u64::MAX - 0xfff],
        ),
        (
            "passes the end of its file",
            [0x8000, 0x2000, 0x8000_0000, 0x1000],
        ),
        (
            "is larger than any address space",
            [0x8000, 1 << 60, 0x8000_0000, 0],
        ),
    ];
    for (what, region) in bad {
        let files = vec![memory_file(0x2000)];
        assert_eq!(
            test.send(R::ADD_MEM_REG, memory_region(region), files),
            Answer::Refused,
            "{what}"
        );
        let table = memory_table(&[good, region]);
        let files = vec![memory_file(0x2000), memory_file(0x2000)];
        assert_eq!(
            test.send(R::SET_MEM_TABLE, table, files),
            Answer::Refused,
            "{what}"
        );
    }
    test.refused(
        R::REM_MEM_REG,
        memory_region([0x1000, 0x1000, 0x7000_0000, 0]),
    );
    assert_eq!(
        test.send(
            R::ADD_MEM_REG,
            memory_region([0x8000, 0x1000, 0, 0]),
            vec![descriptor()]
        ),
        Answer::Refused
    );
    assert_eq!(test.device.take(), []);
    test.ok(R::REM_MEM_REG, memory_region(good));
    assert_eq!(test.device.take(), [Told::Memory(vec![])]);
}

#[test]
fn slots_end_at_the_number_that_was_announced() {
    let mut test = Test::negotiated();
    let file = memory_file(0x1000);
    for slot in 0..509 {
        let region = [slot * 0x1000, 0x1000, 0x7000_0000 + slot * 0x1000, 0];
        test.ok_with(
            R::ADD_MEM_REG,
            memory_region(region),
            file.try_clone().unwrap(),
        );
    }
    let region = memory_region([1 << 40, 0x1000, 1 << 40, 0]);
    assert_eq!(
        test.send(R::ADD_MEM_REG, region, vec![file]),
        Answer::Refused
    );
}

#[test]
fn configuration_that_was_not_negotiated_is_refused() {
    let mut test = Test::fresh(Options { config: false });
    test.session
        .handle(message(
            R::SET_PROTOCOL_FEATURES,
            words64(&[REPLY_ACK]),
            vec![],
        ))
        .unwrap();
    test.refused(R::SET_CONFIG, words32(&[20, 4, 0, 96]));
    assert_eq!(
        test.send(R::GET_CONFIG, words32(&[20, 4, 0, 0]), vec![]),
        Answer::SessionEnded
    );
}

/// Requests that no front end should send, each with what is wrong with it.
fn bad_requests() -> Vec<(&'static str, u32, Vec<u8>, usize)> {
    let mut bad = vec![
        (
            "ring index out of range",
            R::SET_VRING_NUM.into(),
            words32(&[6, 128]),
            0,
        ),
        (
            "ring index out of range",
            R::SET_VRING_BASE.into(),
            words32(&[u32::MAX, 0]),
            0,
        ),
        (
            "ring index out of range",
            R::SET_VRING_ENABLE.into(),
            words32(&[6, 1]),
            0,
        ),
        (
            "ring index out of range",
            R::SET_VRING_ADDR.into(),
            ring_addresses(6, 0, 0),
            0,
        ),
        (
            "ring index out of range",
            R::SET_VRING_KICK.into(),
            words64(&[255]),
            1,
        ),
        (
            "ring index out of range",
            R::SET_VRING_CALL.into(),
            words64(&[0x1ff]),
            0,
        ),
        (
            "ring of size 0",
            R::SET_VRING_NUM.into(),
            words32(&[0, 0]),
            0,
        ),
        (
            "ring of size 32769",
            R::SET_VRING_NUM.into(),
            words32(&[0, 32769]),
            0,
        ),
        (
            "ring of size 2^16 + 128",
            R::SET_VRING_NUM.into(),
            words32(&[0, 65664]),
            0,
        ),
        (
            "logging",
            R::SET_VRING_ADDR.into(),
            ring_addresses(0, 1, 0x1000),
            0,
        ),
        (
            "enabled twice over",
            R::SET_VRING_ENABLE.into(),
            words32(&[0, 2]),
            0,
        ),
        (
            "kick without descriptor",
            R::SET_VRING_KICK.into(),
            words64(&[0]),
            0,
        ),
        (
            "no descriptor, with descriptor",
            R::SET_VRING_KICK.into(),
            words64(&[0x100]),
            1,
        ),
        (
            "reserved bits",
            R::SET_VRING_ERR.into(),
            words64(&[0x1000]),
            1,
        ),
        (
            "two descriptors",
            R::SET_VRING_CALL.into(),
            words64(&[0]),
            2,
        ),
        (
            "status of 9 bits",
            R::SET_STATUS.into(),
            words64(&[0x100]),
            0,
        ),
        ("no region", R::SET_MEM_TABLE.into(), memory_table(&[]), 0),
        (
            "region without file",
            R::SET_MEM_TABLE.into(),
            memory_table(&[[0, 4096, 0, 0]]),
            0,
        ),
        (
            "one region, two files",
            R::SET_MEM_TABLE.into(),
            memory_table(&[[0, 4096, 0, 0]]),
            2,
        ),
        (
            "nine regions",
            R::SET_MEM_TABLE.into(),
            memory_table(&[[0; 4]; 9]),
            9,
        ),
        (
            "region without file",
            R::ADD_MEM_REG.into(),
            memory_region([0, 4096, 0, 0]),
            0,
        ),
        ("no socket", R::SET_BACKEND_REQ_FD.into(), vec![], 0),
        ("message 0", 0, vec![], 0),
        ("unknown message", 1000, vec![1, 2, 3], 1),
        ("a newer message than known", 45, words32(&[0, 0]), 0),
        ("not offered", R::SET_LOG_BASE.into(), words64(&[0, 0]), 1),
        ("not offered", R::VRING_KICK.into(), words32(&[0, 0]), 0),
        ("not offered", R::IOTLB_MSG.into(), vec![0; 40], 0),
        ("not offered", R::POSTCOPY_LISTEN.into(), vec![], 0),
        ("not offered", R::SET_INFLIGHT_FD.into(), vec![0; 24], 1),
        (
            "not offered",
            R::SET_VRING_ENDIAN.into(),
            words32(&[0, 0]),
            0,
        ),
    ];
    let mut miscounted = memory_table(&[[0, 4096, 0, 0]]);
    miscounted[0] = 2;
    bad.push((
        "two regions announced, one described",
        R::SET_MEM_TABLE.into(),
        miscounted,
        1,
    ));
    // Every request with a payload a byte short or long, and with a descriptor too many.
    for (request, size, fds) in [
        (R::SET_FEATURES, 8, 0),
        (R::SET_OWNER, 0, 0),
        (R::RESET_OWNER, 0, 0),
        (R::SET_PROTOCOL_FEATURES, 8, 0),
        (R::SET_VRING_NUM, 8, 0),
        (R::SET_VRING_ADDR, 40, 0),
        (R::SET_VRING_BASE, 8, 0),
        (R::SET_VRING_KICK, 8, 1),
        (R::SET_VRING_CALL, 8, 1),
        (R::SET_VRING_ERR, 8, 1),
        (R::SET_VRING_ENABLE, 8, 0),
        (R::SET_MEM_TABLE, 40, 1),
        (R::ADD_MEM_REG, 40, 1),
        (R::REM_MEM_REG, 40, 1),
        (R::SET_BACKEND_REQ_FD, 0, 1),
        (R::RESET_DEVICE, 0, 0),
        (R::SET_STATUS, 8, 0),
    ] {
        bad.push(("a byte too long", request.into(), vec![0; size + 1], fds));
        bad.push((
            "a descriptor too many",
            request.into(),
            vec![0; size],
            fds + 1,
        ));
        if let Some(shorter) = size.checked_sub(1) {
            bad.push(("a byte too short", request.into(), vec![0; shorter], fds));
        }
    }
    bad
}

#[test]
fn bad_requests_are_refused_aloud_or_end_the_session_and_never_reach_the_device() {
    for (what, request, payload, fds) in bad_requests() {
        for need_reply in [true, false] {
            let mut test = Test::negotiated();
            let descriptors = (0..fds).map(|_| descriptor()).collect();
            let message = Message {
                request,
                need_reply,
                payload: payload.clone(),
                descriptors,
            };
            match (test.session.handle(message), need_reply) {
                (Ok(Some(reply)), true) => {
                    assert_eq!(reply.payload, words64(&[1]), "{request}: {what}")
                }
                (Err(_), false) => {}
                (other, _) => panic!("{request}: {what}: {other:?}"),
            }
            assert_eq!(test.device.take(), [], "{request}: {what}");
        }
    }
}

#[test]
fn requests_with_a_reply_of_their_own_end_the_session_when_they_are_bad() {
    for (request, payload) in [
        (R::GET_FEATURES, vec![0]),
        (R::GET_STATUS, vec![0; 8]),
        (R::GET_VRING_BASE, words32(&[6, 0])),
        (R::GET_VRING_BASE, vec![0; 7]),
        (R::GET_CONFIG, vec![0; 11]),
        (R::GET_CONFIG, vec![0; 12 + 257]),
        (R::GET_INFLIGHT_FD, vec![0; 24]),
    ] {
        let mut test = Test::negotiated();
        assert_eq!(
            test.send(request, payload, vec![]),
            Answer::SessionEnded,
            "{request:?}"
        );
    }
}
