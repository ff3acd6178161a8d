//! Any bytes are a reply from a target: the initiator's parsers end, and find no more than was received.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lunar_scsi::capacity::Capacity;
use lunar_scsi::inquiry::Identity;
use lunar_scsi::{report_luns, vpd};

fuzz_target!(|data: &[u8]| {
    if let Some(identity) = Identity::parse(data) {
        assert!(identity.vendor.len() <= 8 && identity.product.len() <= 16);
    }
    for designator in vpd::designators(data) {
        assert!(!designator.identifier.to_string().contains(char::is_control));
    }
    if let Some(capacity) = Capacity::parse_16(data) {
        assert_eq!(Capacity::parse_16(&capacity.to_bytes_16()), Some(capacity));
    }
    if let Some(capacity) = Capacity::parse_10(data) {
        assert_eq!(Capacity::parse_10(&capacity.to_bytes_10()), Some(capacity));
    }
    assert!(report_luns::parse(data).count() <= data.len() / 8);
});
