//! Any bytes are a MODE SELECT parameter list: it changes changeable bits only, or nothing; and what MODE SENSE returns
//! afterwards can be sent back.
//!
//! The input is the difference between the list and the one that changes nothing: every list can be reached, and those
//! that get past the first checks are near.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lunar_scsi::Cdb;
use lunar_scsi::mode::{BlockDescriptor, ModePage, ModePages, Preamble, disk_parameter};

const SELECT_6: [u8; 32] = cdb([0x15, 0x10, 0, 0, 255, 0, 0, 0, 0, 0]);
const SELECT_10: [u8; 32] = cdb([0x55, 0x10, 0, 0, 0, 0, 0, 255, 255, 0]);
const ALL_SENSE_6: [u8; 32] = cdb([0x1a, 0, 0x3f, 0xff, 255, 0, 0, 0, 0, 0]);
const ALL_SENSE_10: [u8; 32] = cdb([0x5a, 0x10, 0x3f, 0xff, 0, 0, 0, 255, 255, 0]);
const CHANGEABLE_SENSE_10: [u8; 32] = cdb([0x5a, 0x10, 0x7f, 0xff, 0, 0, 0, 255, 255, 0]);

const fn cdb(bytes: [u8; 10]) -> [u8; 32] {
    let mut cdb = [0; 32];
    let mut at = 0;
    while at < bytes.len() {
        cdb[at] = bytes[at];
        at += 1;
    }
    cdb
}

fuzz_target!(|input: (bool, &[u8])| {
    let (ten, difference) = input;
    let before = ModePages::new([
        ModePage::read_write_error_recovery(),
        ModePage::caching(true),
        ModePage::control()
            .with_changeable(2, 0x04)
            .with_changeable(4, 0x08),
        ModePage::control_extension(),
        ModePage::informational_exceptions(),
    ]);
    let preamble = Preamble {
        medium_type: 0,
        device_specific: disk_parameter(false, true),
        blocks: Some(BlockDescriptor {
            blocks: 1 << 33,
            block_length: 512,
        }),
    };
    let sensed = |pages: &ModePages, cdb: &[u8; 32]| {
        let mut out = Vec::new();
        pages
            .sense(&mut out, Cdb(cdb), &preamble)
            .expect("all pages are there");
        out
    };
    let (select, sense) = if ten {
        (SELECT_10, ALL_SENSE_10)
    } else {
        (SELECT_6, ALL_SENSE_6)
    };
    let unchanged = sensed(&before, &sense);
    let same = unchanged.into_iter().chain(std::iter::repeat(0));
    let list: Vec<u8> = difference
        .iter()
        .zip(same)
        .map(|(difference, same)| difference ^ same)
        .collect();
    let Ok(after) = before.select(Cdb(&select), &list, &preamble) else {
        return;
    };

    let (old, new) = (
        sensed(&before, &ALL_SENSE_10),
        sensed(&after, &ALL_SENSE_10),
    );
    let mask = sensed(&before, &CHANGEABLE_SENSE_10);
    for (at, ((old, new), mask)) in old.iter().zip(&new).zip(mask).enumerate().skip(24) {
        assert_eq!(
            (old ^ new) & !mask,
            0,
            "byte {at} changed from {old:02x} to {new:02x}"
        );
    }
    assert_eq!(
        before.select(Cdb(&SELECT_10), &new, &preamble).as_ref(),
        Ok(&after)
    );
});
