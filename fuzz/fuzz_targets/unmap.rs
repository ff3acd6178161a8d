//! Any bytes are an UNMAP parameter list: what is accepted keeps every limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lunar_scsi::unmap::{Limits, parse};

fuzz_target!(|input: (u64, u32, u32, &[u8])| {
    let (capacity, max_blocks, max_descriptors, list) = input;
    let Ok(ranges) = parse(
        list,
        Limits {
            capacity,
            max_blocks,
            max_descriptors,
        },
    ) else {
        return;
    };
    let (mut count, mut blocks) = (0u64, 0u64);
    for range in ranges {
        count += 1;
        blocks += u64::from(range.blocks);
        assert!(
            range
                .lba
                .checked_add(u64::from(range.blocks))
                .is_some_and(|end| end <= capacity)
        );
    }
    assert!(max_descriptors == u32::MAX || count <= u64::from(max_descriptors));
    assert!(max_blocks == u32::MAX || blocks <= u64::from(max_blocks));
});
