//! What nobody should send: every command of the table with reserved bits, ranges at and across the end, lengths of nothing
//! and of everything, and buffers that are too short. Each is answered, and the medium is what the model says.
#![cfg(test)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "the numbers of these tests are small"
)]

#[path = "support/model.rs"]
mod model;
mod support;

use std::ops::Range;

use lunar_devices::DiskConfig;
use lunar_scsi::table::Direction;
use lunar_scsi::{Cdb, DeviceType, Features, Profile, Row, Status, decode};
use lunar_target::LogicalUnit;
use model::Model;
use proptest::prelude::*;
use support::*;

const BLOCKS: u64 = 64;
const SIZE: usize = BLOCKS as usize * 512;

/// Every command that a disk can have.
fn rows() -> Vec<&'static Row> {
    let all = Profile::new(DeviceType::Disk).with(Features::all());
    all.rows().collect()
}

fn config() -> DiskConfig {
    DiskConfig {
        removable: true,
        ..DiskConfig::default()
    }
}

/// What is fixed in a command's CDB: its opcode and service action.
fn bare(row: &Row, profile: Profile) -> [u8; 32] {
    let map = row.usage_map(profile);
    let mut cdb = [0; 32];
    cdb[0] = map[0];
    match cdb[0] {
        0x7F => cdb[7..10].copy_from_slice(&[0x18, map[8], map[9]]),
        // Service actions are the only fixed bits of this byte; of all others the map has a field or nothing.
        0x48 | 0x5E | 0x5F | 0x83 | 0x84 | 0x9E | 0xA3 | 0xA4 => cdb[1] = map[1] & 0x1F,
        _ => {}
    }
    cdb
}

/// Where CDBs of this opcode have their address and their length.
fn fields(opcode: u8) -> (Range<usize>, Range<usize>) {
    match opcode >> 5 {
        0 => (1..4, 4..5),
        3 => (12..20, 28..32),
        4 => (2..10, 10..14),
        5 => (2..6, 6..10),
        _ => (2..6, 7..9),
    }
}

/// Puts the lowest bytes of a number into a field; only what the command knows is changed.
fn put(cdb: &mut [u8; 32], map: &[u8; 32], field: Range<usize>, number: u64) {
    let bytes = number.to_be_bytes();
    for (at, byte) in field.rev().zip(bytes.into_iter().rev()) {
        cdb[at] |= byte & map[at];
    }
}

#[test]
fn a_reserved_bit_is_refused_in_every_command() {
    on_disk(SIZE, config(), |disk| async move {
        let profile = disk.disk.profile();
        let before = disk.bytes();
        let mut refused = 0;
        for row in profile.rows() {
            let map = row.usage_map(profile);
            let len = match map[0] >> 5 {
                0 => 6,
                3 => 32,
                4 => 16,
                5 => 12,
                _ => 10,
            };
            for bit in 8..len * 8 {
                let (at, bit) = (bit / 8, 1 << (bit % 8));
                let mut cdb = bare(row, profile);
                if map[at] & bit != 0 || cdb[at] & bit != 0 {
                    continue;
                }
                cdb[at] |= bit;
                if decode(profile, &cdb).is_ok() {
                    continue; // a service action of its own
                }
                let sense = disk.from(A, &cdb, &[], 0).await.sense();
                let code = (sense.key as u8, sense.additional.asc);
                assert!(
                    matches!(code, (0x5, 0x20 | 0x24)),
                    "{}: {cdb:x?}: {sense:?}",
                    row.name
                );
                refused += 1;
            }
        }
        assert!(refused > 1000, "{refused}");
        assert_eq!(disk.bytes(), before);
    });
}

#[test]
fn what_an_initiator_has_no_room_for_is_cut_off() {
    on_disk(SIZE, config(), |disk| async move {
        let profile = disk.disk.profile();
        let mut commands = 0;
        for row in profile.rows().filter(|row| row.direction == Direction::In) {
            let map = row.usage_map(profile);
            let with = |room: u64| {
                let mut cdb = bare(row, profile);
                let length = fields(cdb[0]).1;
                put(&mut cdb, &map, length, room);
                let knows = Cdb(&cdb).allocation_length() == room as u32;
                knows.then_some(cdb)
            };
            let Some(all) = with(250) else { continue };
            let Some(answer) = disk.try_from(A, &all, &[], 250).await else {
                continue;
            };
            if answer.completion.status != Status::GOOD || answer.data.is_empty() {
                continue;
            }
            commands += 1;
            for room in 0..=answer.data.len() {
                if row.name == "REPORT LUNS" && room < 16 {
                    // The one command that does not take so little (SPC-4 6.33).
                    let code = disk
                        .from(A, &with(room as u64).unwrap(), &[], room)
                        .await
                        .code();
                    assert_eq!(code, (0x5, 0x24, 0x00));
                    continue;
                }
                let cut = disk
                    .from(A, &with(room as u64).unwrap(), &[], room)
                    .await
                    .good();
                assert_eq!(cut.len(), room, "{}", row.name);
                // A clock goes on.
                if row.name != "REPORT TIMESTAMP" {
                    assert_eq!(cut, answer.data[..room], "{}", row.name);
                }
            }
        }
        assert!(commands >= 10, "{commands}");
    });
}

#[derive(Clone, Debug)]
struct Step {
    row: &'static Row,
    bits: [u8; 32],
    lba: u64,
    length: u64,
    out: Vec<u8>,
    room: usize,
    second: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let lba = prop_oneof![
        0..=BLOCKS + 1,
        Just(BLOCKS - 1),
        Just(BLOCKS),
        Just(u64::MAX),
        Just(u64::MAX - BLOCKS),
        Just(u64::from(u32::MAX)),
    ];
    let length = prop_oneof![0..9u64, Just(BLOCKS), Just(u64::MAX), 0..1200u64];
    let out = prop_oneof![
        2 => (0usize..9, any::<u8>()).prop_map(|(blocks, byte)| vec![byte; blocks * 512]),
        2 => prop::collection::vec(any::<u8>(), 0..64),
        1 => prop::collection::vec(any::<u8>(), 0..1200),
        1 => (0usize..64).prop_map(|len| vec![0; len]),
    ];
    let bits = prop_oneof![3 => Just([0; 32]), 1 => any::<[u8; 32]>()];
    let room = prop_oneof![Just(0usize), Just(4096), 0..700usize];
    let row = prop::sample::select(rows());
    (row, bits, lba, length, out, room, any::<bool>()).prop_map(
        |(row, bits, lba, length, out, room, second)| Step {
            row,
            bits,
            lba,
            length,
            out,
            room,
            second,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn every_command_with_any_fields_and_buffers_follows_the_model(
        steps in prop::collection::vec(step(), 1..48),
        slow: bool,
    ) {
        let mut image = Recorder::new(SIZE);
        image.slow = slow;
        on_image(image, config(), move |disk| async move {
            let profile = disk.disk.profile();
            let mut model = Model { bytes: disk.bytes(), block: 512 };
            for step in steps {
                let map = step.row.usage_map(profile);
                let mut cdb = bare(step.row, profile);
                for at in 1..32 {
                    cdb[at] |= step.bits[at] & map[at];
                }
                let (address, length) = fields(cdb[0]);
                put(&mut cdb, &map, address, step.lba);
                put(&mut cdb, &map, length, step.length);
                let nexus = if step.second { B } else { A };
                let answer = disk.try_from(nexus, &cdb, &step.out, step.room).await;
                disk.settle().await;
                if let Some(answer) = answer.filter(|a| a.completion.status == Status::GOOD) {
                    model.good(&cdb, &step.out);
                    if let Some(read) = model.read(&cdb) {
                        assert!(answer.data == read, "{step:x?}");
                    }
                }
                assert!(disk.bytes() == model.bytes, "{step:x?}");
            }
        });
    }
}
