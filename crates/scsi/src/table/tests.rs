#![allow(
    clippy::cast_possible_truncation,
    reason = "the numbers of a test are chosen to fit"
)]

use proptest::prelude::*;

use super::*;
use crate::sense::{FieldPointer, KeySpecific};

fn cdb(bytes: &[u8]) -> [u8; MAX_LEN] {
    let mut cdb = [0; MAX_LEN];
    cdb[..bytes.len()].copy_from_slice(bytes);
    cdb
}

const PLAIN: Profile = Profile::new(DeviceType::Disk);
const FULL: Profile = PLAIN.with(Features::all());

#[test]
fn rows_are_in_ascending_order_without_duplicates_for_one_device() {
    let keys: Vec<_> = FULL
        .rows()
        .map(|row| (row.opcode(), row.service_action()))
        .collect();
    assert!(keys.len() > 25);
    assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
}

#[test]
fn a_cdb_is_as_long_as_its_group_code_says() {
    for row in FULL.rows() {
        let group = crate::cdb::group_length(row.opcode());
        let length = if row.opcode() == 0x7f {
            32
        } else {
            usize::from(group.unwrap())
        };
        assert_eq!(length, row.cdb_length(), "{}", row.name);
    }
}

#[test]
fn an_unknown_opcode_is_an_invalid_operation_code() {
    let sense = decode(FULL, &cdb(&[0x02, 0, 0, 0, 0, 0])).unwrap_err();
    assert_eq!(
        sense,
        Sense::illegal_request(AdditionalSense::INVALID_OPERATION_CODE)
    );
}

#[test]
fn an_unknown_service_action_is_an_invalid_field_in_byte_1() {
    let sense = decode(FULL, &cdb(&[0x9e, 0x1f])).unwrap_err();
    assert_eq!(sense, Sense::invalid_bits_in_cdb(1, 4));
}

#[test]
fn a_variable_length_cdb_has_its_service_action_in_bytes_8_and_9() {
    let mut read = cdb(&[0x7f, 0, 0, 0, 0, 0, 0, 0x18, 0, 0x09, 0x18]);
    read[31] = 1;
    assert_eq!(decode(FULL, &read).unwrap().operation, Operation::Read);
    read[1] = 0x01;
    assert_eq!(
        decode(FULL, &read).unwrap_err(),
        Sense::invalid_bits_in_cdb(1, 0)
    );
    read[1] = 0;
    read[20] = 0x80; // EXPECTED INITIAL LOGICAL BLOCK REFERENCE TAG: without protection, it is ignored.
    assert_eq!(decode(FULL, &read).unwrap().operation, Operation::Read);
    for length in [0, 0x08, 0x10, 0x17, 0x19] {
        read[7] = length;
        assert_eq!(
            decode(FULL, &read).unwrap_err(),
            Sense::invalid_field_in_cdb(7)
        );
    }
    let unknown = cdb(&[0x7f, 0, 0, 0, 0, 0, 0, 0x18, 0x01, 0x09]);
    assert_eq!(
        decode(FULL, &unknown).unwrap_err(),
        Sense::invalid_field_in_cdb(8)
    );
}

#[test]
fn an_absent_unit_answers_inquiry_and_refuses_the_rest_as_absent() {
    let absent = Profile::new(DeviceType::Absent);
    let inquiry = decode(absent, &cdb(&[0x12, 0, 0, 0, 36, 0])).unwrap();
    assert_eq!(inquiry.operation, Operation::Inquiry);
    for opcode in [0x00, 0x28, 0xff] {
        let sense = decode(absent, &cdb(&[opcode])).unwrap_err();
        assert_eq!(
            sense.additional,
            AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED
        );
    }
}

#[test]
fn naca_is_accepted_by_every_command_of_a_unit() {
    for row in FULL.rows() {
        let mut asking = row.usage_map(Profile::new(DeviceType::WellKnown));
        let control = if row.opcode() == 0x7f {
            1
        } else {
            row.cdb_length() - 1
        };
        assert!(!Cdb(&asking).naca(), "{}", row.name);
        asking[control] = 0x04;
        assert!(Cdb(&asking).naca(), "{}", row.name);
        assert_eq!(row.usage_map(FULL)[control], 0x04, "{}", row.name);
        decode(FULL, &asking).unwrap();
    }
    assert!(!Cdb(&[0xff; MAX_LEN]).naca(), "vendor-specific");
}

#[test]
fn inquiry_ignores_the_lun_where_scsi_2_had_it() {
    for device in [DeviceType::Disk, DeviceType::WellKnown, DeviceType::Absent] {
        let profile = Profile::new(device);
        let row = decode(profile, &cdb(&[0x12, 0xe0, 0, 0, 36, 0])).unwrap();
        assert_eq!(row.usage_map(profile)[1], 0x01, "nor is it announced");
        assert!(decode(profile, &cdb(&[0x12, 0x02, 0, 0, 36, 0])).is_err());
    }
    assert!(decode(FULL, &cdb(&[0x00, 0xe0])).is_err(), "no other does");
}

#[test]
fn naca_is_refused_by_what_is_no_unit() {
    for device in [DeviceType::WellKnown, DeviceType::Absent] {
        let sense = decode(Profile::new(device), &cdb(&[0x12, 0, 0, 0, 36, 0x04]));
        assert_eq!(sense.unwrap_err(), Sense::invalid_bits_in_cdb(5, 2));
    }
}

#[test]
fn link_and_reserved_control_bits_are_refused_where_they_are() {
    for (control, bit) in [(0x01, 0), (0x05, 0), (0xc0, 7)] {
        let sense = decode(FULL, &cdb(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, control])).unwrap_err();
        assert_eq!(sense, Sense::invalid_bits_in_cdb(9, bit));
    }
}

#[test]
fn bytes_behind_the_cdb_are_not_looked_at() {
    let mut long = cdb(&[0x00]);
    long[6..].fill(0xff);
    assert_eq!(
        decode(PLAIN, &long).unwrap().operation,
        Operation::TestUnitReady
    );
}

#[test]
fn fua_is_refused_unless_the_unit_has_it() {
    let read = cdb(&[0x28, 0x08, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(
        decode(PLAIN, &read).unwrap_err(),
        Sense::invalid_bits_in_cdb(1, 3)
    );
    assert_eq!(decode(FULL, &read).unwrap().operation, Operation::Read);
}

#[test]
fn protection_bits_are_refused_without_protection_information() {
    let read = cdb(&[0x28, 0x38, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(
        decode(FULL, &read).unwrap_err(),
        Sense::invalid_bits_in_cdb(1, 5)
    );
}

#[test]
fn a_command_is_absent_without_the_feature_it_requires() {
    let unmap = cdb(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0]);
    assert!(decode(FULL, &unmap).is_ok());
    let sense = decode(PLAIN, &unmap).unwrap_err();
    assert_eq!(sense.additional, AdditionalSense::INVALID_OPERATION_CODE);
}

#[test]
fn usage_maps_are_those_of_the_standards() {
    const MAPS: &[&[u8]] = &[
        &[0x00, 0, 0, 0, 0, 0],
        &[0x03, 0x01, 0, 0, 0xff, 0],
        &[0x12, 0x01, 0xff, 0xff, 0xff, 0],
        &[0x1a, 0x08, 0xff, 0xff, 0xff, 0],
        &[0x1b, 0x01, 0, 0x0f, 0xf7, 0],
        &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x28, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0],
        &[0x2a, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0],
        &[0x2f, 0x16, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0],
        &[0x2e, 0x12, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0],
        &[0x34, 0x02, 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0],
        &[0x35, 0x06, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0],
        &[0x37, 0, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0],
        &[0x41, 0x08, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0],
        &[0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0],
        &[
            0x88, 0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0,
        ],
        &[
            0x93, 0x09, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0,
        ],
        &[
            0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0,
        ],
        &[0x04, 0x3f, 0, 0, 0, 0],
        &[0x48, 0xa1, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        &[0x4d, 0, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0],
        &[0xa3, 0x05, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xfe, 0],
        &[0xa3, 0x0f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        &[0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        &[0x5f, 0x05, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0],
        &[0xa3, 0xea, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        &[
            0xa3, 0x0c, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0,
        ],
        &[
            0x7f, 0, 0, 0, 0, 0, 0, 0x18, 0, 0x09, 0x18, 0, 255, 255, 255, 255, 255, 255, 255, 255,
            255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
        ],
    ];
    for expected in MAPS {
        let mut cdb = [0; MAX_LEN];
        cdb[..expected.len()].copy_from_slice(expected);
        let action = Cdb(&cdb).service_action();
        // The CONTROL byte of all: NACA.
        cdb[if cdb[0] == 0x7f {
            1
        } else {
            expected.len() - 1
        }] = 0x04;
        let named = |row: &&Row| row.service_action().is_none_or(|own| own == action);
        let row = FULL.rows_of(expected[0]).find(named).unwrap();
        assert_eq!(
            &row.usage_map(FULL)[..row.cdb_length()],
            &cdb[..expected.len()],
            "{}",
            row.name
        );
    }
}

fn any_profile() -> impl Strategy<Value = Profile> {
    let device = prop_oneof![
        Just(DeviceType::Disk),
        Just(DeviceType::Optical),
        Just(DeviceType::WellKnown),
        Just(DeviceType::Absent),
    ];
    (device, any::<u32>())
        .prop_map(|(device, bits)| Profile::new(device).with(Features::from_bits_truncate(bits)))
}

/// CDBs that are mostly near a real command: arbitrary bytes would all be unknown opcodes or full of reserved bits.
fn any_cdb() -> impl Strategy<Value = [u8; MAX_LEN]> {
    let flip = proptest::option::of((0usize..32, 0u8..8));
    (
        any::<[u8; 32]>(),
        any::<proptest::sample::Index>(),
        any::<bool>(),
        flip,
    )
        .prop_map(|(mut bytes, row, near, flip)| {
            if near {
                let row = &commands::TABLE[row.index(commands::TABLE.len())];
                let map = row.usage_map(FULL);
                for (byte, usage) in bytes.iter_mut().zip(map).take(row.cdb_length()) {
                    *byte &= usage;
                }
                bytes[0] = row.opcode();
                match row.service_action() {
                    Some(action) if bytes[0] == 0x7f => {
                        bytes[7] = 0x18;
                        bytes[8..10].copy_from_slice(&action.to_be_bytes());
                    }
                    Some(action) => bytes[1] = bytes[1] & 0xe0 | action as u8,
                    None => {}
                }
                if let Some((at, bit)) = flip {
                    bytes[at] ^= 1 << bit;
                }
            }
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The oracle: bit by bit against the usage map that the initiator is shown.
    #[test]
    fn decode_accepts_a_cdb_exactly_if_all_its_bits_are_in_the_usage_map(profile in any_profile(), cdb in any_cdb()) {
        let row = profile.rows().find(|row| {
            let action = match cdb[0] {
                0x7f => u16::from_be_bytes([cdb[8], cdb[9]]),
                _ => u16::from(cdb[1] & 0x1f),
            };
            row.opcode() == cdb[0] && row.service_action().is_none_or(|a| a == action)
        });
        // Of the identity of a variable-length CDB the length is checked before everything else.
        if cdb[0] == 0x7f && cdb[7] != 0x18 && row.is_some() {
            prop_assert_eq!(decode(profile, &cdb).unwrap_err(), Sense::invalid_field_in_cdb(7));
            return Ok(());
        }
        let offending = row.and_then(|row| {
            let map = row.usage_map(profile);
            (1..row.cdb_length()).find_map(|at| {
                let action = if at == 1 && row.service_action().is_some() && cdb[0] != 0x7f { 0x1f } else { 0 };
                let lun = if at == 1 && row.operation == Operation::Inquiry { 0xe0 } else { 0 };
                let odd = cdb[at] & !(map[at] | action | lun);
                (0..8).rev().find(|bit| odd >> bit & 1 == 1).map(|bit| (at, bit))
            })
        });
        match (row, offending, decode(profile, &cdb)) {
            (Some(expected), None, Ok(row)) => {
                prop_assert_eq!(expected.name, row.name);
            }
            (Some(_), Some((byte, bit)), Err(sense)) => {
                prop_assert_eq!(sense.additional, AdditionalSense::INVALID_FIELD_IN_CDB);
                prop_assert_eq!(sense.key_specific, Some(KeySpecific::Field(FieldPointer {
                    in_cdb: true, byte: u16::try_from(byte).unwrap(), bit: Some(bit),
                })));
            }
            (None, _, Err(_)) => {}
            (expected, offending, got) => {
                prop_assert!(false, "{:?} {:?} {:?}", expected.map(|r| r.name), offending, got.map(|r| r.name));
            }
        }
    }
}
