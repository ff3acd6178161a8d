use proptest::prelude::*;

use super::*;
use crate::table::DeviceType;

const DISK: Peripheral = Peripheral::connected(DeviceType::Disk);

#[test]
fn variable_pages_count_their_bytes() {
    let mut out = Vec::new();
    supported_pages(&mut out, DISK, &[0x00, 0x80, 0x83, 0xb0]);
    assert_eq!(out, [0x00, 0x00, 0, 4, 0x00, 0x80, 0x83, 0xb0]);
    out.clear();
    unit_serial_number(&mut out, Peripheral::connected(DeviceType::Optical), "abc");
    assert_eq!(out, [0x05, 0x80, 0, 3, b'a', b'b', b'c']);
}

#[test]
fn a_page_can_follow_other_bytes_in_the_buffer() {
    let mut out = vec![0xee; 3];
    unit_serial_number(&mut out, DISK, "x");
    assert_eq!(out, [0xee, 0xee, 0xee, 0x00, 0x80, 0, 1, b'x']);
}

#[test]
fn designators_are_laid_out_as_spc_says() {
    let mut out = Vec::new();
    let wwn = 0x5000_1234_5678_9abc_u64.to_be_bytes();
    device_identification(
        &mut out,
        DISK,
        &[
            Designator::unit(Identifier::Naa(&wwn)),
            Designator::unit(Identifier::t10("LUNAR", "id")),
            Designator::port(Identifier::RelativeTargetPort(1)),
            Designator {
                association: Association::TargetDevice,
                identifier: Identifier::ScsiName(b"iqn"),
            },
        ],
    );
    let expected = [
        &[0x00, 0x83, 0, 42][..],
        &[
            0x01, 0x03, 0, 8, 0x50, 0x00, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc,
        ],
        &[0x02, 0x01, 0, 10],
        b"LUNAR   id",
        &[0x01, 0x14, 0, 4, 0, 0, 0, 1],
        &[0x03, 0x28, 0, 4, b'i', b'q', b'n', 0],
    ]
    .concat();
    assert_eq!(out, expected);
    let shown: Vec<_> = designators(&out)
        .map(|d| d.identifier.to_string())
        .collect();
    assert_eq!(
        shown,
        ["naa.5000123456789abc", "t10.LUNAR id", "port.1", "iqn"]
    );
}

#[test]
fn block_limits_are_laid_out_as_sbc_says() {
    let page = BlockLimits {
        write_same_nonzero: true,
        max_compare_and_write: 1,
        optimal_granularity: 0x0203,
        max_transfer: 0x0405_0607,
        optimal_transfer: 0x0809_0a0b,
        max_prefetch: 0x0c0d_0e0f,
        max_unmap_blocks: 0x1011_1213,
        max_unmap_descriptors: 0x1415_1617,
        unmap_granularity: 0x1819_1a1b,
        unmap_alignment: Some(0x1c1d_1e1f),
        max_write_same: 0x2021_2223_2425_2627,
        max_atomic: 0x2829_2a2b,
        atomic_alignment: 0x2c2d_2e2f,
        atomic_granularity: 0x3031_3233,
    }
    .to_bytes(DISK);
    assert_eq!(page[..8], [0x00, 0xb0, 0, 0x3c, 1, 1, 2, 3]);
    let numbers: Vec<u8> = (4..0x1c).chain([0x9c, 0x1d, 0x1e, 0x1f]).collect();
    assert_eq!(page[8..36], numbers);
    let numbers: Vec<u8> = (0x20..0x34).collect();
    assert_eq!(page[36..56], numbers);
    assert_eq!(page[56..], [0; 8]);
}

#[test]
fn the_third_party_copy_page_is_laid_out_as_spc_says() {
    let limits = Limits {
        cscds: 0x0102,
        segments: 0x0304,
        segment_bytes: 0x0506_0708,
        concurrent: 9,
        granularity: 10,
    };
    let mut page = Vec::new();
    third_party_copy(&mut page, DISK, limits, &[(0x83, &[0]), (0x84, &[0, 3])]);
    let parameters = [
        &[0, 4, 0, 28, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0x80, 0xc0][..],
        &[0; 16],
    ];
    let general = [
        &[0x80, 1, 0, 32, 0, 0, 0, 9, 0, 0, 0, 9, 5, 6, 7, 8, 10][..],
        &[0; 19],
    ];
    let expected = [
        &[0, 0x8f, 0, 88][..],
        &[0, 1, 0, 8, 7, 0x83, 1, 0, 0x84, 2, 0, 3],
        &parameters.concat(),
        &[0, 8, 0, 4, 3, 0x02, 0x0a, 0xe4],
        &general.concat(),
    ];
    assert_eq!(page, expected.concat());
}

#[test]
fn characteristics_and_provisioning_are_laid_out_as_sbc_says() {
    let page = BlockDeviceCharacteristics {
        rotation_rate: 1,
        fuab: true,
        ..BlockDeviceCharacteristics::default()
    }
    .to_bytes(DISK);
    assert_eq!(page[..10], [0x00, 0xb1, 0, 0x3c, 0, 1, 0, 0, 2, 0]);
    let page = LogicalBlockProvisioning {
        unmap: true,
        write_same_16: true,
        write_same_10: true,
        reads_zeroes: true,
        provisioning: ProvisioningType::Thin,
        threshold_exponent: 11,
    };
    assert_eq!(page.to_bytes(DISK), [0x00, 0xb2, 0, 4, 11, 0xe4, 0x02, 0]);
}

proptest! {
    #[test]
    fn designators_of_any_bytes_end(page in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(designators(&page).count() <= page.len() / 4);
    }

    #[test]
    fn a_name_survives_the_page(id in proptest::collection::vec(1u8..=255, 1..=252)) {
        for identifier in [Identifier::Naa(&id), Identifier::Eui64(&id), Identifier::VendorSpecific(&id)] {
            let designator = Designator::unit(identifier);
            let mut page = Vec::new();
            device_identification(&mut page, DISK, &[designator, designator]);
            prop_assert_eq!(designators(&page).collect::<Vec<_>>(), [designator, designator]);
        }
    }

    #[test]
    fn a_name_of_any_length_leaves_the_page_readable(id in proptest::collection::vec(any::<u8>(), 0..600)) {
        let last = Designator::port(Identifier::TargetPortGroup(7));
        for identifier in [
            Identifier::ScsiName(&id), Identifier::Naa(&id), Identifier::T10Vendor { vendor: *b"VENDOR  ", id: &id },
        ] {
            let mut page = Vec::new();
            device_identification(&mut page, DISK, &[Designator::unit(identifier), last]);
            prop_assert_eq!(designators(&page).last(), Some(last));
        }
    }
}
