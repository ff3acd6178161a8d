//! Any 32 bytes are a CDB: `decode` accepts it exactly if the usage map that the initiator is shown allows all its bits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lunar_scsi::report_luns::SelectReport;
use lunar_scsi::table::Profile;
use lunar_scsi::{AdditionalSense, Cdb, DeviceType, Features, Operation, decode, rsoc};

fuzz_target!(|input: (u8, u32, [u8; 32])| {
    let (device, features, cdb) = input;
    let device = match device % 4 {
        0 => DeviceType::Disk,
        1 => DeviceType::Optical,
        2 => DeviceType::WellKnown,
        _ => DeviceType::Absent,
    };
    let profile = Profile::new(device).with(Features::from_bits_truncate(features));
    check(profile, cdb);
    for row in profile.rows() {
        let mut near = cdb;
        near[0] = row.opcode();
        if let Some(action) = row.service_action() {
            near[1] = near[1] & 0xe0 | action.to_be_bytes()[1];
        }
        check(profile, near);
        let map = row.usage_map(profile);
        near.iter_mut()
            .zip(map)
            .for_each(|(byte, usage)| *byte &= usage);
        assert_eq!(check(profile, near), Some(row.operation), "{}", row.name);
    }
});

/// Decodes, compares with the usage map, and reads every field of an accepted CDB.
fn check(profile: Profile, cdb: [u8; 32]) -> Option<Operation> {
    let view = Cdb(&cdb);
    let expected = profile.rows_of(view.opcode()).find(|row| {
        row.service_action()
            .is_none_or(|action| action == view.service_action())
    });
    let allowed = expected.is_some_and(|row| {
        let map = row.usage_map(profile);
        let identity = if row.service_action().is_some() {
            0x1f
        } else {
            0
        };
        cdb[1] & !(map[1] | identity) == 0
            && cdb
                .iter()
                .zip(map)
                .take(row.cdb_length())
                .skip(2)
                .all(|(byte, usage)| byte & !usage == 0)
    });
    let decoded = decode(profile, &cdb);
    assert_eq!(decoded.is_ok(), allowed);
    match decoded {
        Ok(row) => {
            let fields = (view.lba(), view.transfer_length(), view.allocation_length());
            let flags = (view.fua(), view.dpo(), view.protect(), view.bytchk());
            std::hint::black_box((fields, flags, view.parameter_list_length()));
            match row.operation {
                Operation::ReportLuns => _ = std::hint::black_box(SelectReport::parse(view)),
                Operation::ReportSupportedOperationCodes => {
                    let mut out = Vec::new();
                    let reported = rsoc::report(&mut out, profile, view);
                    assert_eq!(reported.is_ok(), !out.is_empty());
                }
                _ => {}
            }
            Some(row.operation)
        }
        Err(sense) => {
            assert_eq!(
                sense.additional == AdditionalSense::INVALID_FIELD_IN_CDB,
                sense.key_specific.is_some()
            );
            None
        }
    }
}
