//! Prints a libFuzzer dictionary: one CDB for every command of the table, its usage map as the example.
#![allow(clippy::print_stdout, reason = "standard output is the product")]

use lunar_scsi::{DeviceType, Features, Profile};

fn main() {
    let devices = [
        DeviceType::Disk,
        DeviceType::Tape,
        DeviceType::Optical,
        DeviceType::Changer,
        DeviceType::WellKnown,
    ];
    for device in devices {
        let profile = Profile::new(device).with(Features::all());
        for row in profile.rows() {
            let map = row.usage_map(profile);
            let bytes: String = map
                .iter()
                .take(row.cdb_length())
                .map(|byte| format!("\\x{byte:02x}"))
                .collect();
            println!("# {device:?}: {}\n\"{bytes}\"", row.name);
        }
    }
}
