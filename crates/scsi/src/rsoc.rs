//! REPORT SUPPORTED OPERATION CODES (SPC-4 6.35, SC-071): the command table as an initiator reads it.

use crate::be::Fields;
use crate::cdb::Cdb;
use crate::sense::Sense;
use crate::table::{Profile, Row};

/// SERVACTV and CTDP of a command descriptor.
const HAS_SERVICE_ACTION: u8 = 0x01;
const HAS_TIMEOUTS: u8 = 0x02;
/// CTDP and SUPPORT of the one_command format.
const ONE_HAS_TIMEOUTS: u8 = 0x80;
const NOT_SUPPORTED: u8 = 0b001;
const SUPPORTED_AS_STANDARD: u8 = 0b011;

/// Appends the parameter data for a decoded CDB. It is complete: the caller clips it to the ALLOCATION LENGTH.
///
/// # Errors
/// 5/24/00 for unknown REPORTING OPTIONS, and for asking about an opcode without its service action (or with one that it
/// cannot have).
pub fn report(out: &mut Vec<u8>, profile: Profile, cdb: Cdb<'_>) -> Result<(), Sense> {
    let timeouts = cdb.0.u8::<2>() & 0x80 != 0; // RCTD
    let opcode = cdb.0.u8::<3>();
    let service_action = cdb.0.u16::<4>();

    let same_opcode = || profile.rows_of(opcode);
    let same_action = |row: &&Row| row.service_action() == Some(service_action);
    let plain = |row: &&Row| row.service_action().is_none();
    match cdb.0.u8::<2>() & 0x07 {
        0b000 => all(out, profile, timeouts),
        0b001 if same_opcode().any(|row| !plain(&row)) => {
            return Err(Sense::invalid_bits_in_cdb(2, 2));
        }
        0b010 if same_opcode().any(|row| plain(&row)) => {
            return Err(Sense::invalid_bits_in_cdb(2, 2));
        }
        0b001 => one(out, profile, same_opcode().next(), timeouts),
        0b010 => one(out, profile, same_opcode().find(same_action), timeouts),
        0b011 => {
            let row =
                same_opcode().find(|row| same_action(row) || service_action == 0 && plain(row));
            one(out, profile, row, timeouts);
        }
        _ => return Err(Sense::invalid_bits_in_cdb(2, 2)),
    }
    Ok(())
}

/// The all_commands format.
fn all(out: &mut Vec<u8>, profile: Profile, timeouts: bool) {
    let start = out.len();
    out.extend([0; 4]);
    for row in profile.rows() {
        let mut flags = 0;
        if row.service_action().is_some() {
            flags |= HAS_SERVICE_ACTION;
        }
        if timeouts {
            flags |= HAS_TIMEOUTS;
        }
        out.extend([row.opcode(), 0]);
        out.extend(row.service_action().unwrap_or(0).to_be_bytes());
        out.extend([0, flags]);
        out.extend(cdb_size(row));
        if timeouts {
            out.extend(timeouts_descriptor(row));
        }
    }
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(start..start + 4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// The one_command format.
fn one(out: &mut Vec<u8>, profile: Profile, row: Option<&Row>, timeouts: bool) {
    let Some(row) = row else {
        out.extend([0, NOT_SUPPORTED, 0, 0]);
        return;
    };
    let ctdp = if timeouts { ONE_HAS_TIMEOUTS } else { 0 };
    out.extend([0, ctdp | SUPPORTED_AS_STANDARD]);
    out.extend(cdb_size(row));
    out.extend(row.usage_map(profile).iter().take(row.cdb_length()));
    if timeouts {
        out.extend(timeouts_descriptor(row));
    }
}

fn cdb_size(row: &Row) -> [u8; 2] {
    u16::try_from(row.cdb_length())
        .unwrap_or(u16::MAX)
        .to_be_bytes()
}

/// The command timeouts descriptor.
fn timeouts_descriptor(row: &Row) -> [u8; 12] {
    let mut descriptor = [0; 12];
    descriptor.put_u16::<0>(10);
    descriptor.put_u32::<4>(row.nominal_timeout);
    descriptor.put_u32::<8>(row.recommended_timeout);
    descriptor
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{DeviceType, Features, decode};

    const DISK: Profile = Profile::new(DeviceType::Disk).with(Features::all());

    fn asked(options: u8, opcode: u8, action: u16) -> Result<Vec<u8>, Sense> {
        asked_of(DISK, options, opcode, action)
    }

    fn asked_of(profile: Profile, options: u8, opcode: u8, action: u16) -> Result<Vec<u8>, Sense> {
        let mut cdb = [0; 32];
        cdb[..12].copy_from_slice(&[0xa3, 0x0c, options, opcode, 0, 0, 0, 0, 4, 0, 0, 0]);
        cdb.put_u16::<4>(action);
        decode(profile, &cdb)?;
        let mut out = Vec::new();
        report(&mut out, profile, Cdb(&cdb)).map(|()| out)
    }

    /// Opcode, service action, SERVACTV, CDB size of every listed command.
    fn listed(data: &[u8], stride: usize) -> Vec<(u8, u16, bool, u16)> {
        let length = u32::from_be_bytes(data[..4].try_into().unwrap());
        assert_eq!(usize::try_from(length).unwrap(), data.len() - 4);
        let word = |d: &[u8], at: usize| u16::from_be_bytes([d[at], d[at + 1]]);
        let chunks = data[4..].chunks_exact(stride);
        assert!(chunks.remainder().is_empty());
        chunks
            .map(|d| (d[0], word(d, 2), d[5] & 1 == 1, word(d, 6)))
            .collect()
    }

    #[test]
    fn the_list_is_exactly_what_decode_accepts() {
        for profile in [
            DISK,
            Profile::new(DeviceType::Disk),
            Profile::new(DeviceType::Disk).with(Features::PROVISIONING),
            Profile::new(DeviceType::Optical),
        ] {
            let list = listed(&asked_of(profile, 0, 0, 0).unwrap(), 8);
            assert!(list.len() > 4);
            for opcode in 0..=255u8 {
                let mut accepted = 0;
                for action in 0..32u8 {
                    let mut cdb = [0; 32];
                    if opcode == 0x7f {
                        cdb[..10].copy_from_slice(&[opcode, 0, 0, 0, 0, 0, 0, 0x18, 0, action]);
                    } else {
                        cdb[..2].copy_from_slice(&[opcode, action]);
                    }
                    let Ok(row) = decode(profile, &cdb) else {
                        continue;
                    };
                    let entry = (
                        opcode,
                        row.service_action().unwrap_or(0),
                        row.service_action().is_some(),
                        u16::try_from(row.cdb_length()).unwrap(),
                    );
                    assert!(list.contains(&entry), "{} is not listed", row.name);
                    accepted += 1;
                }
                let entries = list.iter().filter(|entry| entry.0 == opcode).count();
                assert!(
                    accepted >= entries,
                    "{opcode:02x} is listed and not accepted"
                );
            }
        }
    }

    #[test]
    fn timeouts_are_reported_with_every_command_when_asked_for() {
        let plain = listed(&asked(0x00, 0, 0).unwrap(), 8);
        let data = asked(0x80, 0, 0).unwrap();
        assert_eq!(listed(&data, 20), plain);
        assert_eq!(
            data[4..24],
            [0, 0, 0, 0, 0, 2, 0, 6, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 30]
        );
    }

    #[test]
    fn one_command_shows_its_usage_map() {
        let read_10 = [
            0, 3, 0, 10, 0x28, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 4,
        ];
        assert_eq!(asked(1, 0x28, 0).unwrap(), read_10);
        assert_eq!(asked(3, 0x28, 0).unwrap(), read_10);
        let rc16 = [
            0, 3, 0, 16, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 4,
        ];
        assert_eq!(asked(2, 0x9e, 0x10).unwrap(), rc16);
        assert_eq!(asked(3, 0x9e, 0x10).unwrap(), rc16);
        let timeouts = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 30];
        let expected = [&[0, 0x83, 0, 6, 0, 0, 0, 0, 0, 4][..], &timeouts].concat();
        assert_eq!(asked(0x81, 0x00, 0).unwrap(), expected);
    }

    #[test]
    fn bits_the_unit_does_not_have_are_absent_from_the_map() {
        let bare = asked_of(Profile::new(DeviceType::Disk), 1, 0x28, 0).unwrap();
        assert_eq!(bare[5], 0);
    }

    #[test]
    fn what_is_not_supported_says_so() {
        for (options, opcode, action) in [
            (1, 0xc0, 0),
            (2, 0x9e, 0x1f),
            (2, 0xc0, 1),
            (3, 0x28, 1),
            (3, 0x9e, 0),
            (0x81, 0xc0, 0),
        ] {
            assert_eq!(
                asked(options, opcode, action).unwrap(),
                [0, 1, 0, 0],
                "{options} {opcode}"
            );
        }
    }

    #[test]
    fn options_that_do_not_fit_the_opcode_are_refused() {
        for (options, opcode) in [(1, 0x9e), (2, 0x28), (4, 0), (7, 0)] {
            assert_eq!(
                asked(options, opcode, 0),
                Err(Sense::invalid_bits_in_cdb(2, 2))
            );
        }
    }
}
