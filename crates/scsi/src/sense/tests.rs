use proptest::prelude::*;

use super::*;

#[test]
fn fixed_format_is_laid_out_as_spc_says() {
    let sense = Sense::invalid_bits_in_cdb(1, 4).with_information(0x1234_5678);
    assert_eq!(
        sense.encode(Format::Fixed).as_slice(),
        [
            0xf0, 0, 0x05, 0x12, 0x34, 0x56, 0x78, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xcc, 0, 1
        ]
    );
}

#[test]
fn descriptor_format_is_laid_out_as_spc_says() {
    let sense = Sense::new(
        SenseKey::MediumError,
        AdditionalSense::UNRECOVERED_READ_ERROR,
    )
    .with_information(0x1_0000_0002);
    assert_eq!(
        sense.encode(Format::Descriptor).as_slice(),
        [
            0x72, 0x03, 0x11, 0x00, 0, 0, 0, 12, // header
            0x00, 10, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 2, // INFORMATION
        ]
    );
    assert_eq!(
        Sense::invalid_field_in_parameters(260)
            .encode(Format::Descriptor)
            .as_slice(),
        [
            0x72, 0x05, 0x26, 0x00, 0, 0, 0, 8, 0x02, 6, 0, 0, 0x80, 1, 4, 0
        ]
    );
}

#[test]
fn an_lba_beyond_32_bits_leaves_the_fixed_information_field_not_valid() {
    let big = Sense::illegal_request(AdditionalSense::LBA_OUT_OF_RANGE).with_information(1 << 32);
    let wire = big.encode(Format::Fixed);
    assert_eq!(wire.as_slice()[..7], [0x70, 0, 0x05, 0, 0, 0, 0]);
    assert_eq!(Sense::parse(wire.as_slice()).unwrap().information, None);
    let descriptor = big.encode(Format::Descriptor);
    assert_eq!(Sense::parse(descriptor.as_slice()), Some(big));
}

#[test]
fn deferred_errors_have_odd_response_codes() {
    let sense = Sense {
        deferred: true,
        ..Sense::NONE
    };
    assert_eq!(sense.encode(Format::Fixed).as_slice()[0], 0x71);
    assert_eq!(sense.encode(Format::Descriptor).as_slice()[0], 0x73);
}

#[test]
fn display_reads_like_a_sentence_and_names_the_place() {
    assert_eq!(
        Sense::invalid_bits_in_cdb(1, 4).to_string(),
        "ILLEGAL REQUEST: Invalid field in CDB (24h/00h), CDB byte 1 bit 4"
    );
    assert_eq!(
        Sense::not_ready(AdditionalSense::new(0x99, 1))
            .with_progress(0x8000)
            .to_string(),
        "NOT READY: Additional sense code (99h/01h), 50 % done"
    );
}

#[test]
fn no_two_named_codes_are_equal() {
    let named = additional::NAMED;
    assert!(named.len() > 50);
    for (i, a) in named.iter().enumerate() {
        assert!(!named[i + 1..].contains(a), "{a} is named twice");
    }
}

fn any_sense() -> impl Strategy<Value = Sense> {
    let number = proptest::option::of(any::<u64>());
    (
        0u8..16,
        any::<(u8, u8)>(),
        any::<bool>(),
        any::<u8>(),
        number.clone(),
        number,
        any_specific(),
    )
        .prop_map(
            |(key, (asc, ascq), deferred, stream, information, command, specific)| {
                let key = SenseKey::from_nibble(key);
                Sense {
                    key,
                    additional: AdditionalSense::new(asc, ascq),
                    deferred,
                    stream: StreamFlags::from_bits_truncate(stream),
                    information,
                    command_specific: command,
                    key_specific: specific.filter(|s| match s {
                        KeySpecific::Field(_) => key == SenseKey::IllegalRequest,
                        KeySpecific::Progress(_) => {
                            matches!(key, SenseKey::NoSense | SenseKey::NotReady)
                        }
                        KeySpecific::Retries(_) => key == SenseKey::MediumError,
                    }),
                }
            },
        )
}

fn any_specific() -> impl Strategy<Value = Option<KeySpecific>> {
    proptest::option::of(prop_oneof![
        any::<u16>().prop_map(KeySpecific::Progress),
        any::<u16>().prop_map(KeySpecific::Retries),
        (any::<bool>(), any::<u16>(), proptest::option::of(0u8..8))
            .prop_map(|(in_cdb, byte, bit)| KeySpecific::Field(FieldPointer { in_cdb, byte, bit })),
    ])
}

proptest! {
    #[test]
    fn descriptor_format_loses_nothing(sense in any_sense()) {
        let wire = sense.encode(Format::Descriptor);
        prop_assert_eq!(usize::from(wire.as_slice()[7]) + 8, wire.as_slice().len());
        prop_assert_eq!(Sense::parse(wire.as_slice()), Some(sense));
    }

    #[test]
    fn fixed_format_loses_only_numbers_above_32_bits(sense in any_sense()) {
        let fits = |n: &u64| u32::try_from(*n).is_ok();
        let expected = Sense {
            information: sense.information.filter(fits),
            command_specific: sense.command_specific.filter(fits).filter(|&s| s != 0),
            ..sense
        };
        let wire = sense.encode(Format::Fixed);
        prop_assert_eq!(wire.as_slice().len(), 18);
        prop_assert_eq!(Sense::parse(wire.as_slice()), Some(expected));
    }

    #[test]
    fn parsing_any_bytes_ends(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Some(sense) = Sense::parse(&data) {
            prop_assert!(!sense.to_string().is_empty());
        }
    }
}
