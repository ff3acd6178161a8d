//! Request queues.

use super::fake::{BLOCK, Fake};
use super::harness::*;

fn one_disk() -> (std::sync::Arc<Fake>, Guest) {
    let mut guest = Guest::running(&workers(1), 1);
    let fake = Fake::new(0x11);
    guest.controller.attach(0, 0, fake.clone()).unwrap();
    assert_eq!(guest.attentions(lun(0, 0)), [(0x29, 0)]);
    (fake, guest)
}

#[test]
fn data_goes_to_the_unit_and_comes_back() {
    let (_fake, mut guest) = one_disk();
    let data: Vec<u8> = (0..BLOCK).map(|i| i as u8).collect();
    let written = guest.command(lun(0, 0), &write10(3, 1), &data, 0);
    assert_eq!(written.good().residual(), 0);
    let read = guest.command(lun(0, 0), &read10(3, 1), &[], BLOCK);
    assert_eq!(read.good().data(), data);
    assert_eq!((read.residual(), read.written), (0, 12 + 96 + BLOCK));
}

#[test]
fn both_forms_of_a_lun_reach_the_unit_and_each_unit_holds_its_own_data() {
    let mut guest = Guest::running(&workers(2), 2);
    let places = [(0, 0), (0, 255), (0, 256), (7, 1), (255, 16383)];
    for (name, (target, number)) in places.into_iter().enumerate() {
        guest
            .controller
            .attach(target, number, Fake::new(name as u8))
            .unwrap();
    }
    for (name, (target, number)) in places.into_iter().enumerate() {
        let [hi, lo] = number.to_be_bytes();
        let peripheral = [1, target, hi, lo, 0, 0, 0, 0];
        let forms = if number < 256 {
            vec![lun(target, number), peripheral]
        } else {
            vec![lun(target, number)]
        };
        for form in forms {
            guest.attentions(form);
            let read = guest.command(form, &read10(0, 1), &[], BLOCK);
            assert_eq!(read.good().data(), [name as u8; BLOCK]);
        }
    }
}

#[test]
fn an_unknown_target_is_a_bad_target_and_an_unknown_lun_is_scsi() {
    let (_fake, mut guest) = one_disk();
    for field in [
        lun(1, 0),
        [0; 8],
        [1, 0, 0, 0, 0, 0, 0, 1],
        [2, 0, 0, 0, 0, 0, 0, 0],
        [1, 9, 0xC1, 1, 0, 0, 0, 0],
    ] {
        let reply = guest.command(field, &TEST_UNIT_READY, &[], 0);
        assert_eq!(
            (reply.response(), reply.sense().len()),
            (3, 0),
            "{field:x?}"
        );
    }
    let absent = guest.command(lun(0, 9), &TEST_UNIT_READY, &[], 0);
    assert_eq!(
        (absent.response(), absent.status(), absent.asc()),
        (0, 2, Some((0x25, 0)))
    );
    let inquiry = guest.command(lun(0, 9), &inquiry(36), &[], 36);
    assert_eq!(inquiry.good().data()[0], 0x7F);
    let luns = guest.command(lun(0, 9), &report_luns(64), &[], 64);
    assert_eq!(luns.good().data()[..4], 8u32.to_be_bytes());
}

#[test]
fn the_report_luns_unit_answers_on_the_device_and_behind_a_target() {
    let (_fake, mut guest) = one_disk();
    guest.controller.attach(0, 300, Fake::new(1)).unwrap();
    let behind_target = guest.command([1, 0, 0xC1, 1, 0, 0, 0, 0], &report_luns(64), &[], 64);
    assert_eq!(behind_target.good().data()[..4], 16u32.to_be_bytes());
    assert_eq!(behind_target.data()[16..18], [0x41, 0x2C]);
    let device = [0xC1, 1, 0, 0, 0, 0, 0, 0];
    assert_eq!(
        guest.command(device, &inquiry(36), &[], 36).good().data()[0] & 0x1F,
        0x1E
    );
    guest.command(device, &TEST_UNIT_READY, &[], 0).good();
}

#[test]
fn the_residual_is_what_was_not_moved() {
    let (_fake, mut guest) = one_disk();
    let read = guest.command(lun(0, 0), &read10(0, 1), &[], 2 * BLOCK);
    assert_eq!(
        (read.good().residual(), read.written),
        (BLOCK, 12 + 96 + BLOCK)
    );
    let inquiry = guest.command(lun(0, 0), &inquiry(10), &[], 64);
    assert_eq!(
        (inquiry.good().residual(), inquiry.written),
        (54, 12 + 96 + 10)
    );
    assert_eq!(inquiry.data()[10..], [0xEE; 54]);
    let written = guest.command(lun(0, 0), &write10(0, 1), &[7; 2 * BLOCK], 0);
    assert_eq!(
        (written.good().residual(), written.written),
        (BLOCK, 12 + 96)
    );
}

#[test]
fn buffers_smaller_than_the_cdb_implies_are_an_overrun_and_nothing_is_done() {
    let (fake, mut guest) = one_disk();
    let read = guest.command(lun(0, 0), &read10(0, 2), &[], BLOCK);
    assert_eq!((read.response(), read.residual()), (1, BLOCK));
    assert_eq!(read.data(), [0xEE; BLOCK]);
    let written = guest.command(lun(0, 0), &write10(0, 2), &[7; BLOCK], 0);
    assert_eq!((written.response(), written.residual()), (1, BLOCK));
    assert_eq!(fake.gate.data.lock().unwrap()[..BLOCK], [0x11; BLOCK]);
    let inquiry = guest.command(lun(0, 0), &inquiry(36), &[], 20);
    assert_eq!(inquiry.response(), 1);
}

#[test]
fn data_in_both_directions_is_a_failure() {
    let (_fake, mut guest) = one_disk();
    let reply = guest.command(lun(0, 0), &write10(0, 1), &[7; BLOCK], BLOCK);
    assert_eq!((reply.response(), reply.residual()), (9, 2 * BLOCK));
}

#[test]
fn sense_has_its_length_and_the_rest_of_its_field_is_zero() {
    let (_fake, mut guest) = one_disk();
    let reply = guest.command(lun(0, 9), &TEST_UNIT_READY, &[], 0);
    let len = reply.sense().len();
    assert!((18..96).contains(&len));
    assert_eq!(reply.sense()[0], 0x70);
    assert!(reply.bytes[12 + len..12 + 96].iter().all(|&byte| byte == 0));
    assert_eq!(reply.written, 12 + 96);
}

#[test]
fn the_sizes_that_the_driver_chooses_hold_for_every_request_after() {
    let (_fake, mut guest) = one_disk();
    for (sense_size, cdb_size) in [(0u32, 16u32), (4, 6), (252, 255), (65535, 32)] {
        guest
            .controller
            .write_config(20, &sense_size.to_le_bytes())
            .unwrap();
        guest
            .controller
            .write_config(24, &cdb_size.to_le_bytes())
            .unwrap();
        let (sense, cdb) = (sense_size as usize, cdb_size as usize);
        let mut request = header(lun(0, 9), 1, &TEST_UNIT_READY)[..19].to_vec();
        request.resize(19 + cdb, 0);
        let ticket = guest.submit(REQUEST, &[&request], &[12 + sense]);
        let reply = guest.wait(&ticket);
        assert_eq!(
            (reply.response(), reply.status(), reply.written),
            (0, 2, 12 + sense)
        );
        assert_eq!(reply.sense().len(), sense.min(18));
        let mut request = header(lun(0, 0), 1, &read10(0, 1))[..19 + cdb.min(10)].to_vec();
        request.resize(19 + cdb, 0);
        let ticket = guest.submit(REQUEST, &[&request], &[12 + sense, BLOCK]);
        if cdb >= 10 {
            assert_eq!(
                guest.wait(&ticket).good().bytes[12 + sense..],
                [0x11; BLOCK]
            );
        } else {
            // The transfer length was cut off: 0 blocks.
            assert_eq!(guest.wait(&ticket).good().residual(), BLOCK);
        }
    }
    guest.controller.reset();
    let mut sizes = [0; 8];
    guest.controller.read_config(20, &mut sizes).unwrap();
    assert_eq!(sizes, [96, 0, 0, 0, 32, 0, 0, 0]);
}

#[test]
fn header_and_data_boundaries_may_fall_anywhere_in_the_chain() {
    let (fake, mut guest) = one_disk();
    let data: Vec<u8> = (0..BLOCK).map(|i| (i * 7) as u8).collect();
    let mut request = header(lun(0, 0), 5, &write10(1, 1));
    request.extend(&data);
    for cut in [1, 18, 19, 50, 51, 52, 200, request.len() - 1] {
        fake.gate.data.lock().unwrap()[BLOCK..2 * BLOCK].fill(0);
        let (a, b) = request.split_at(cut);
        let ticket = guest.submit(REQUEST, &[a, b], &[1, 11, 95, 1]);
        assert_eq!(guest.wait(&ticket).good().residual(), 0);
        assert_eq!(fake.gate.data.lock().unwrap()[BLOCK..2 * BLOCK], data);
    }
    let request = header(lun(0, 0), 5, &read10(1, 1));
    for cut in [1, 12, 107, 108, 109, 300] {
        let ticket = guest.submit(REQUEST, &[&request], &[cut, 12 + 96 + BLOCK - cut]);
        assert_eq!(guest.wait(&ticket).good().data(), data);
    }
}

#[test]
fn chains_of_more_segments_than_announced_are_served() {
    let (_fake, mut guest) = one_disk();
    let request = header(lun(0, 0), 5, &read10(0, 1));
    let mut answer = vec![108];
    answer.extend([1; BLOCK]);
    let ticket = guest.submit(REQUEST, &[&request], &answer);
    assert_eq!(guest.wait(&ticket).good().data(), [0x11; BLOCK]);
}

#[test]
fn a_batch_is_published_with_one_interrupt() {
    let (_fake, mut guest) = one_disk();
    guest.interrupts(REQUEST);
    guest.controller.enable_queue(REQUEST, false).unwrap();
    let request = header(lun(0, 0), 0, &TEST_UNIT_READY);
    let tickets: Vec<_> = (0..32)
        .map(|_| guest.submit(REQUEST, &[&request], &[108]))
        .collect();
    guest.stays_open(&tickets[0]);
    guest.controller.enable_queue(REQUEST, true).unwrap();
    for ticket in &tickets {
        guest.wait(ticket).good();
    }
    assert!(guest.interrupts(REQUEST) <= 1);
}

#[test]
fn every_queue_on_every_worker_reaches_every_unit() {
    let workers = workers(2);
    let mut guest = Guest::running(&workers, 4);
    for target in 0..4 {
        guest
            .controller
            .attach(target, 0, Fake::new(target))
            .unwrap();
        guest.attentions(lun(target, 0));
    }
    let mut tickets = Vec::new();
    for round in 0..8 {
        for queue in REQUEST..REQUEST + 4 {
            for target in 0..4u8 {
                let ticket = guest.send(queue, lun(target, 0), round, &read10(0, 1), &[], BLOCK);
                tickets.push((target, ticket));
            }
        }
        for (target, ticket) in tickets.drain(..) {
            assert_eq!(guest.wait(&ticket).good().data(), [target; BLOCK]);
        }
    }
}
