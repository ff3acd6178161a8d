//! What a hostile or broken driver does.

use proptest::prelude::*;

use super::fake::{BLOCK, Fake};
use super::harness::*;

#[test]
fn a_chain_too_short_for_its_headers_breaks_that_queue_once_and_no_other() {
    let mut guest = Guest::running(&workers(1), 2);
    guest.controller.attach(0, 0, Fake::new(1)).unwrap();
    let request = header(lun(0, 0), 1, &TEST_UNIT_READY);
    let bad = guest.submit(REQUEST, &[&request[..50]], &[108]);
    assert_eq!(guest.errors(REQUEST), 1);
    let after = guest.submit(REQUEST, &[&request], &[108]);
    guest.stays_open(&bad);
    guest.stays_open(&after);
    let ticket = guest.send(REQUEST + 1, lun(0, 0), 1, &inquiry(36), &[], 36);
    guest.wait(&ticket).good();

    // It can be stopped, although the chain is never returned, and started again.
    assert_eq!(guest.controller.stop_queue(REQUEST).unwrap(), 1);
    guest.start(REQUEST);
    guest.command(lun(0, 0), &inquiry(36), &[], 36).good();
    let bad = guest.submit(REQUEST, &[&request], &[107]);
    assert_eq!(guest.errors(REQUEST), 1);
    guest.stays_open(&bad);
}

#[test]
fn a_ring_that_breaks_lets_what_is_in_flight_complete() {
    let mut guest = Guest::running(&workers(1), 1);
    let fake = Fake::new(1);
    guest.controller.attach(0, 0, fake.clone()).unwrap();
    guest.attentions(lun(0, 0));
    fake.gate.shut();
    let ticket = guest.send(REQUEST, lun(0, 0), 1, &read10(0, 1), &[], BLOCK);
    fake.gate.await_waiting(1);
    guest.submit(REQUEST, &[&[1]], &[1]);
    assert_eq!(guest.errors(REQUEST), 1);
    fake.gate.release();
    assert_eq!(guest.wait(&ticket).good().data(), [1; BLOCK]);
}

#[test]
fn control_messages_that_cannot_be_read_or_answered_break_the_control_queue_only() {
    let message = {
        let mut message = vec![0; 8];
        message.extend(lun(0, 0));
        message.extend([0; 8]);
        message
    };
    let broken: [(&[u8], usize); 4] = [
        (&message[..3], 1),
        (&message[..23], 1),
        (&message, 0),
        (&[1, 0, 0, 0], 5),
    ];
    for (bytes, room) in broken {
        let mut guest = Guest::running(&workers(1), 1);
        guest.controller.attach(0, 0, Fake::new(1)).unwrap();
        let answer = if room > 0 { vec![room] } else { vec![] };
        guest.submit(CONTROL, &[bytes], &answer);
        assert_eq!(guest.errors(CONTROL), 1);
        guest.command(lun(0, 0), &inquiry(36), &[], 36).good();
    }
}

/// Lengths of pieces to cut a buffer into.
fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1usize..8, 1usize..600], 1..12)
}

fn any_lun() -> impl Strategy<Value = [u8; 8]> {
    prop_oneof![
        Just(lun(0, 0)),
        Just(lun(0, 1)),
        Just([1, 0, 0, 0, 0, 0, 0, 0]),
        Just([0xC1, 1, 0, 0, 0, 0, 0, 0]),
        any::<[u8; 8]>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any well-formed request, whatever it says and however it is cut, is answered exactly once.
    #[test]
    fn every_chain_that_holds_its_headers_is_used_exactly_once(
        requests in prop::collection::vec(
            (any_lun(), any::<[u8; 19]>(), 0usize..3, 0usize..1200, cuts(), 0usize..1200, cuts()), 1..16),
    ) {
        let mut guest = Guest::running(&workers(1), 1);
        guest.controller.attach(0, 0, Fake::new(1)).unwrap();
        guest.attentions(lun(0, 0));
        let mut tickets = Vec::new();
        for (at, noise, known, out, out_cuts, room, in_cuts) in requests {
            // Commands that the unit knows, within its medium; or anything at all for a unit that is not there.
            let cdb: Vec<u8> = match known {
                0 => read10(u32::from(noise[0] & 63), u16::from(noise[1] & 3)).to_vec(),
                1 => write10(u32::from(noise[0] & 63), u16::from(noise[1] & 3)).to_vec(),
                _ => inquiry(noise[0]).to_vec(),
            };
            let mut bytes = header(at, u64::from(noise[2]), &cdb);
            bytes[16..19].copy_from_slice(&noise[3..6]);
            bytes.resize(bytes.len() + out, noise[6]);
            let pieces = cut(&bytes, &out_cuts);
            let lens: Vec<usize> = cut(&vec![0; 108 + room], &in_cuts).iter().map(|p| p.len()).collect();
            tickets.push((guest.submit(REQUEST, &pieces, &lens), out, room));
        }
        for (ticket, out, room) in &tickets {
            let reply = guest.wait(ticket);
            prop_assert!(reply.response() <= 9);
            prop_assert!(reply.residual() <= out + room);
            prop_assert!((108..=108 + room).contains(&reply.written));
            prop_assert!(reply.bytes[reply.written..].iter().all(|&b| b == 0xEE), "written past used.len");
        }
        for (ticket, ..) in &tickets {
            prop_assert!(guest.reap(ticket).is_none(), "used twice");
        }
        prop_assert_eq!(guest.controller.stop_queue(REQUEST).unwrap() as usize, tickets.len() + 2);
    }

    /// Any chain at all: it is answered, or it breaks its ring; either way the ring can be stopped and another serves.
    #[test]
    fn no_chain_stops_the_device(
        chains in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), cuts(), 0usize..200, cuts(), 0usize..3), 1..8),
    ) {
        let mut guest = Guest::running(&workers(1), 2);
        guest.controller.attach(0, 0, Fake::new(1)).unwrap();
        for (bytes, out_cuts, room, in_cuts, queue) in chains {
            let bytes = if bytes.len() < 20 { bytes } else { [&[2][..], &bytes[1..]].concat() };
            let lens: Vec<usize> = cut(&vec![0; room], &in_cuts).iter().map(|p| p.len()).collect();
            let pieces = cut(&bytes, &out_cuts);
            if !pieces.is_empty() || !lens.is_empty() {
                guest.submit(queue, &pieces, &lens);
            }
        }
        let ticket = guest.send(REQUEST + 1, lun(0, 0), 1, &inquiry(36), &[], 36);
        guest.wait(&ticket).good();
        for queue in 0..4 {
            guest.controller.stop_queue(queue).unwrap();
        }
    }
}

/// Cuts bytes into pieces of these lengths; the rest is the last piece.
fn cut<'a>(bytes: &'a [u8], lens: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    for &len in lens {
        let (piece, after) = rest.split_at(len.min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces.retain(|piece| !piece.is_empty());
    pieces
}
