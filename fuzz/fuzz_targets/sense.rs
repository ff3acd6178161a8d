//! Any bytes are sense data from a target: what they mean survives both encodings.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lunar_scsi::Sense;
use lunar_scsi::sense::Format;

fuzz_target!(|data: &[u8]| {
    let Some(sense) = Sense::parse(data) else {
        return;
    };
    assert!(!sense.to_string().is_empty());
    let descriptor = sense.encode(Format::Descriptor);
    assert_eq!(Sense::parse(descriptor.as_slice()), Some(sense));

    let fits = |number: &u64| u32::try_from(*number).is_ok();
    let clipped = Sense {
        information: sense.information.filter(fits),
        command_specific: sense
            .command_specific
            .filter(fits)
            .filter(|&number| number != 0),
        ..sense
    };
    assert_eq!(
        Sense::parse(sense.encode(Format::Fixed).as_slice()),
        Some(clipped)
    );
});
