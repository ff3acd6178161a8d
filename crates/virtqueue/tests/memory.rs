//! The guest memory map.
#![cfg(test)]
#![allow(clippy::cast_possible_truncation, reason = "test values are small")]

use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::sync::Arc;

use lunar_virtqueue::{Error, GuestMemory, Region};
use proptest::prelude::*;

fn region(gpa: u64, size: u64) -> Arc<Region> {
    Arc::new(Region::allocate(gpa, size).unwrap().0)
}

fn file(size: u64) -> std::fs::File {
    let file = std::fs::File::from(Region::allocate(0, size).unwrap().1);
    assert_eq!(file.metadata().unwrap().len(), size);
    file
}

#[test]
fn a_region_is_the_part_of_the_file_that_its_offset_says_aligned_or_not() {
    for offset in [0, 4096, 512, 12_345] {
        let mut file = file(0x8000);
        let region = Region::map(file.as_fd(), 0x1000, 0x2000, 0x7000, offset).unwrap();
        let memory = GuestMemory::new([Arc::new(region)]).unwrap();
        memory.write(0x1000, b"first").unwrap();
        memory.write(0x1000 + 0x2000 - 4, b"last").unwrap();
        let mut read = |at: u64| {
            let mut bytes = [0; 4];
            file.seek(SeekFrom::Start(at)).unwrap();
            file.read_exact(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(&read(offset), b"firs");
        assert_eq!(&read(offset + 0x2000 - 4), b"last");
    }
}

#[test]
fn a_file_that_ends_before_the_region_is_refused() {
    let file = file(0x3000);
    let map = |size, offset| Region::map(file.as_fd(), 0, size, 0, offset).err();
    assert_eq!(map(0x3000, 0), None);
    assert_eq!(
        map(0x3001, 0),
        Some(Error::FileTooShort {
            needed: 0x3001,
            actual: 0x3000
        })
    );
    assert!(matches!(
        map(0x1000, 0x2001),
        Some(Error::FileTooShort { .. })
    ));
    let (pipe, _other_end) = std::io::pipe().unwrap();
    let not_a_file = Region::map(pipe.as_fd(), 0, 0x1000, 0, 0).err();
    assert!(matches!(
        not_a_file,
        Some(Error::FileTooShort { actual: 0, .. })
    ));
}

#[test]
fn empty_and_wrapping_regions_are_refused() {
    let file = file(0x2000);
    let map = |gpa, size, user, offset| Region::map(file.as_fd(), gpa, size, user, offset).err();
    assert_eq!(map(0, 0, 0, 0), Some(Error::RegionEmpty));
    for (gpa, user, offset) in [
        (u64::MAX - 8, 0, 0),
        (0, u64::MAX - 8, 0),
        (0, 0, u64::MAX - 8),
    ] {
        let error = map(gpa, 0x1000, user, offset);
        assert!(
            matches!(error, Some(Error::RegionWraps { .. })),
            "{error:?}"
        );
    }
}

#[test]
fn overlapping_regions_are_refused_and_adjacent_ones_accepted() {
    let memory = GuestMemory::new([region(0x3000, 0x1000), region(0x1000, 0x1000)]).unwrap();
    for (gpa, size) in [
        (0x1000, 0x1000),
        (0x0, 0x1001),
        (0x1FFF, 0x10),
        (0x0, 0x8000),
    ] {
        let error = memory.with_region(region(gpa, size)).unwrap_err();
        assert!(matches!(error, Error::RegionOverlap { .. }));
    }
    let full = memory.with_region(region(0x2000, 0x1000)).unwrap();
    assert_eq!(full.regions().len(), 3);
    full.write(0x1F00, &[7; 0x1200]).unwrap();
}

#[test]
fn only_the_exact_region_can_be_taken_away_and_older_snapshots_keep_it() {
    let r = region(0x1000, 0x1000);
    let user = r.user_addr();
    let memory = GuestMemory::new([r]).unwrap();
    for (gpa, size, user) in [
        (0x1000, 0x800, user),
        (0x1800, 0x1000, user),
        (0x1000, 0x1000, user + 1),
    ] {
        let unknown = memory.without_region(gpa, size, user).unwrap_err();
        assert_eq!(unknown, Error::RegionUnknown { addr: gpa, size });
    }
    let empty = memory.without_region(0x1000, 0x1000, user).unwrap();
    assert!(empty.write(0x1000, b"x").is_err());
    memory.write(0x1000, b"x").unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reads_and_writes_span_adjacent_regions_and_nothing_else(
        sizes in prop::collection::vec(1u64..5000, 1..6),
        hole in 0usize..6,
        offset in 0u64..20_000, len in 0usize..9000,
    ) {
        // Adjacent regions, but for a hole behind one of them.
        let mut gpa = 0x1_0000;
        let mut mapped = Vec::new();
        let mut regions = Vec::new();
        for (i, &size) in sizes.iter().enumerate() {
            regions.push(region(gpa, size));
            mapped.push(gpa..gpa + size);
            gpa += size + u64::from(i == hole);
        }
        let memory = GuestMemory::new(regions.into_iter().rev()).unwrap();
        let start = 0x1_0000 + offset;
        let inside = (start..start + len as u64).all(|a| mapped.iter().any(|m| m.contains(&a)));
        let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
        prop_assert_eq!(memory.write(start, &bytes).is_ok(), inside);
        let mut back = vec![0; len];
        prop_assert_eq!(memory.read(start, &mut back).is_ok(), inside);
        prop_assert!(!inside || back == bytes);
    }
}
