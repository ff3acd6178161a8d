//! READ, WRITE, SYNCHRONIZE CACHE, READ CAPACITY, VERIFY, WRITE SAME, UNMAP: what reaches the image, and what the
//! initiator hears.
#![cfg(test)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "patterns are made of low bytes"
)]

mod support;

use lunar_block::{Error, OpKind};
use lunar_devices::{DiskConfig, OnOffAuto};
use lunar_target::LogicalUnit;
use support::*;

const BLOCKS: usize = 128;
const SIZE: usize = BLOCKS * 512;

const OUT_OF_RANGE: (u8, u8, u8) = (0x5, 0x21, 0x00);
const INVALID_FIELD: (u8, u8, u8) = (0x5, 0x24, 0x00);
const INVALID_PARAMETER: (u8, u8, u8) = (0x5, 0x26, 0x00);
const LIST_LENGTH: (u8, u8, u8) = (0x5, 0x1A, 0x00);
const WRITE_PROTECTED: (u8, u8, u8) = (0x7, 0x27, 0x00);

fn pattern(blocks: usize, seed: u8) -> Vec<u8> {
    (0..blocks * 512)
        .map(|i| (i / 512) as u8 ^ (i as u8) ^ seed)
        .collect()
}

/// A READ, WRITE, VERIFY, WRITE SAME or SYNCHRONIZE CACHE CDB of 10 bytes.
fn ten(opcode: u8, flags: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [e, f] = blocks.to_be_bytes();
    [opcode, flags, a, b, c, d, 0, e, f, 0]
}

/// The same of 16 bytes.
fn sixteen(opcode: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[1] = flags;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn unmap(descriptors: &[(u64, u32)]) -> (Vec<u8>, Vec<u8>) {
    let len = descriptors.len() as u16 * 16;
    let mut list = [(len + 6).to_be_bytes(), len.to_be_bytes()].concat();
    list.extend([0; 4]);
    for (lba, blocks) in descriptors {
        list.extend(lba.to_be_bytes());
        list.extend(blocks.to_be_bytes());
        list.extend([0; 4]);
    }
    let [a, b] = (list.len() as u16).to_be_bytes();
    (vec![0x42, 0, 0, 0, 0, 0, 0, a, b, 0], list)
}

fn write_cache(on: OnOffAuto) -> DiskConfig {
    DiskConfig {
        write_cache: on,
        ..DiskConfig::default()
    }
}

#[test]
fn what_is_written_is_read_back_with_every_size_of_cdb() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        let writes: [&[u8]; 4] = [
            &[0x0A, 0, 0, 3, 2, 0],
            &[0x2A, 0, 0, 0, 0, 5, 0, 0, 2, 0],
            &[0xAA, 0, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0],
            &[0x8A, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0],
        ];
        for (i, cdb) in writes.iter().enumerate() {
            let data = pattern(2, i as u8);
            disk.tell(cdb, &data).await.good();
            let at = (3 + 2 * i) * 512;
            assert_eq!(disk.bytes()[at..at + 1024], data);
            let mut read = cdb.to_vec();
            read[0] -= 2;
            assert_eq!(disk.ask(&read, 1024).await.good(), data);
        }
    });
}

#[test]
fn six_byte_commands_without_a_length_move_256_blocks() {
    on_disk(256 * 512, DiskConfig::default(), |disk| async move {
        let data = pattern(256, 7);
        disk.tell(&[0x0A, 0, 0, 0, 0, 0], &data).await.good();
        assert_eq!(
            disk.ask(&[0x08, 0, 0, 0, 0, 0], 256 * 512).await.good(),
            data
        );
    });
}

#[test]
fn a_read_or_write_is_one_operation_on_the_initiators_buffer() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        disk.tell(&ten(0x2A, 0, 4, 3), &pattern(3, 1)).await.good();
        disk.ask(&ten(0x28, 0, 5, 2), 1024).await.good();
        assert_eq!(
            disk.log(),
            [
                (OpKind::Write { fua: false }, 2048, 1536),
                (OpKind::Read, 2560, 1024)
            ]
        );
    });
}

#[test]
fn the_end_of_the_medium_is_where_the_capacity_says() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        let end = BLOCKS as u32;
        for opcode in [0x28, 0x2A, 0x2F, 0x35] {
            let data = if opcode == 0x2A {
                pattern(2, 0)
            } else {
                vec![]
            };
            disk.from(A, &ten(opcode, 0, end - 2, 2), &data, 1024)
                .await
                .good();
            disk.from(A, &ten(opcode, 0, end, 0), &data, 1024)
                .await
                .good();
            disk.log();
            for (lba, blocks) in [(end - 1, 2), (end, 1), (end + 1, 0), (u32::MAX, 1)] {
                let answer = disk
                    .from(A, &ten(opcode, 0, lba, blocks), &data, 1024)
                    .await;
                assert_eq!(answer.code(), OUT_OF_RANGE, "{opcode:#x} {lba} {blocks}");
            }
            assert_eq!(disk.log(), [], "nothing reached the image");
        }
        let wraps = sixteen(0x88, 0, u64::MAX, 2);
        assert_eq!(disk.ask(&wraps, 1024).await.code(), OUT_OF_RANGE);
    });
}

#[test]
fn buffers_that_are_too_small_overrun_and_do_nothing() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        assert_eq!(disk.try_from(A, &ten(0x28, 0, 0, 2), &[], 1023).await, None);
        let data = pattern(2, 3);
        assert_eq!(
            disk.try_from(A, &ten(0x2A, 0, 0, 2), &data[..1023], 0)
                .await,
            None
        );
        assert_eq!(
            disk.try_from(A, &ten(0x2F, 0x02, 0, 2), &data[..1023], 0)
                .await,
            None
        );
        let (cdb, list) = unmap(&[(0, 1)]);
        assert_eq!(disk.try_from(A, &cdb, &list[..23], 0).await, None);
        assert_eq!(disk.try_from(A, &[0x25; 1], &[], 7).await, None);
        assert_eq!(disk.log(), []);
    });
}

#[test]
fn buffers_that_are_too_large_are_used_as_far_as_the_cdb_says() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        let data = pattern(3, 9);
        let write = disk.tell(&ten(0x2A, 0, 1, 2), &data).await;
        assert_eq!(write.completion.transferred, 1024);
        assert_eq!(disk.bytes()[512..1536], data[..1024]);
        assert_eq!(disk.bytes()[1536..2048], [0; 512]);
        let read = disk.ask(&ten(0x28, 0, 1, 2), 2000).await;
        assert_eq!(read.completion.transferred, 1024);
        assert_eq!(read.good(), data[..1024]);
    });
}

#[test]
fn fua_and_a_switched_off_write_cache_make_writes_durable() {
    on_disk(SIZE, write_cache(OnOffAuto::On), |disk| async move {
        disk.tell(&ten(0x2A, 0x08, 0, 1), &pattern(1, 0))
            .await
            .good();
        assert_eq!(disk.log(), [(OpKind::Write { fua: true }, 0, 512)]);
        disk.ask(&ten(0x28, 0x08, 0, 1), 512).await.good();
        assert_eq!(
            disk.log(),
            [(OpKind::Flush, 0, 0), (OpKind::Read, 0, 512)],
            "a FUA read is of the medium"
        );
    });
    on_disk(SIZE, write_cache(OnOffAuto::Off), |disk| async move {
        disk.tell(&ten(0x2A, 0, 0, 1), &pattern(1, 0)).await.good();
        disk.tell(&ten(0x41, 0, 0, 4), &pattern(1, 0)).await.good();
        disk.tell(&ten(0x41, 0, 0, 4), &[0; 512]).await.good();
        disk.ask(&ten(0x28, 0x08, 0, 1), 512).await.good();
        assert_eq!(
            disk.log(),
            [
                (OpKind::Write { fua: true }, 0, 512),
                (OpKind::Write { fua: true }, 0, 2048),
                (
                    OpKind::WriteZeroes {
                        unmap: false,
                        fua: true
                    },
                    0,
                    2048
                ),
                (OpKind::Read, 0, 512)
            ]
        );
        let (cdb, list) = unmap(&[(8, 8)]);
        disk.tell(&cdb, &list).await.good();
        assert_eq!(
            disk.log(),
            [(OpKind::Discard, 4096, 4096), (OpKind::Flush, 0, 0)]
        );
    });
}

#[test]
fn dpo_and_fua_are_refused_when_the_disk_has_none() {
    let config = DiskConfig {
        dpofua: false,
        ..DiskConfig::default()
    };
    on_disk(SIZE, config, |disk| async move {
        for flags in [0x08, 0x10] {
            assert_eq!(
                disk.ask(&ten(0x28, flags, 0, 1), 512).await.code(),
                INVALID_FIELD
            );
        }
    });
}

#[test]
fn transfers_end_at_the_configured_maximum() {
    let config = DiskConfig {
        max_io_size: 8 * 512,
        ..DiskConfig::default()
    };
    on_disk(SIZE, config, |disk| async move {
        disk.ask(&ten(0x28, 0, 0, 8), 4096).await.good();
        let sense = disk.ask(&ten(0x28, 0, 0, 9), 4608).await.sense();
        assert_eq!(sense, lunar_scsi::Sense::invalid_field_in_cdb(7));
        let sense = disk.ask(&sixteen(0x88, 0, 0, 9), 4608).await.sense();
        assert_eq!(sense, lunar_scsi::Sense::invalid_field_in_cdb(10));
        let block_limits = disk.ask(&[0x12, 1, 0xB0, 0, 64, 0], 64).await.good();
        assert_eq!(block_limits[8..12], [0, 0, 0, 8], "MAXIMUM TRANSFER LENGTH");
        assert_eq!(
            block_limits[36..44],
            [0, 0, 0, 0, 0, 0, 0, 8],
            "MAXIMUM WRITE SAME LENGTH"
        );
    });
}

#[test]
fn a_read_only_image_refuses_every_write_and_says_so_in_mode_sense() {
    let image = Recorder::new(SIZE);
    image.info.lock().unwrap().read_only = true;
    on_image(image, DiskConfig::default(), |disk| async move {
        let data = pattern(1, 0);
        let (unmap, list) = unmap(&[(0, 1)]);
        for (cdb, out) in [
            (&ten(0x2A, 0, 0, 1)[..], &data),
            (&[0x0A, 0, 0, 0, 1, 0], &data),
            (&ten(0x41, 0, 0, 1), &data),
            (&sixteen(0x93, 0x01, 0, 1), &vec![]),
            (&sixteen(0x93, 0x09, 0, 1), &vec![]),
            (&unmap, &list),
        ] {
            assert_eq!(disk.tell(cdb, out).await.code(), WRITE_PROTECTED, "{cdb:?}");
        }
        assert_eq!(disk.log(), []);
        let header = disk.ask(&[0x1A, 0x08, 0x3F, 0, 4, 0], 4).await.good();
        assert_eq!(header[2], 0x90, "WP and DPOFUA");
        disk.ask(&ten(0x28, 0, 0, 1), 512).await.good();
    });
}

#[test]
fn each_failure_of_the_image_has_its_sense_data() {
    let io = |errno| Error::Io("the host said no".into(), errno);
    let cases = [
        (0x28, io(libc::EIO), (0x3, 0x11, 0x00), Some(9)),
        (0x2A, io(libc::EIO), (0x3, 0x0C, 0x00), Some(9)),
        (0x35, io(libc::EIO), (0x3, 0x0C, 0x00), None),
        (0x28, io(libc::ENOMEM), (0x4, 0x44, 0x00), None),
        (0x2A, Error::NoSpace, (0x7, 0x27, 0x07), None),
        (0x2A, Error::ReadOnly, WRITE_PROTECTED, None),
        (0x28, Error::OutOfRange, OUT_OF_RANGE, None),
        (0x2A, Error::Unsupported, (0x4, 0x44, 0x00), None),
        (0x2F, io(libc::EIO), (0x3, 0x0C, 0x00), None),
        (0x41, io(libc::EIO), (0x3, 0x0C, 0x00), Some(9)),
    ];
    for slow in [false, true] {
        let cases = cases.clone();
        let mut image = Recorder::new(SIZE);
        image.slow = slow;
        on_image(image, DiskConfig::default(), move |disk| async move {
            for (opcode, error, code, information) in cases {
                *disk.image.failure.lock().unwrap() = Some(error.clone());
                let data = pattern(1, 0);
                let out = if matches!(opcode, 0x2A | 0x41) {
                    &data[..]
                } else {
                    &[]
                };
                let answer = disk.from(A, &ten(opcode, 0, 9, 1), out, 512).await;
                let sense = answer.clone().sense();
                assert_eq!(answer.code(), code, "{opcode:#x} {error}");
                assert_eq!(sense.information, information, "{opcode:#x} {error}");
            }
        });
    }
}

#[test]
fn capacity_is_that_of_the_image() {
    let config = DiskConfig {
        logical_block_size: 4096,
        physical_block_size: Some(16384),
        ..DiskConfig::default()
    };
    on_disk(SIZE + 512, config, |disk| async move {
        let short = disk.ask(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8).await.good();
        assert_eq!(short, [0, 0, 0, 15, 0, 0, 0x10, 0]);
        let mut cdb = [0; 16];
        cdb[..2].copy_from_slice(&[0x9E, 0x10]);
        cdb[13] = 32;
        let long = disk.ask(&cdb, 32).await.good();
        let mut expected = [0; 32];
        expected[7] = 15;
        expected[10] = 0x10;
        expected[13] = 2;
        expected[14] = 0xC0;
        assert_eq!(long, expected);

        disk.image.info.lock().unwrap().size = 8192;
        assert!(disk.disk.refresh_capacity());
        for nexus in [A, B] {
            let code = disk.from(nexus, &[0; 6], &[], 0).await.code();
            assert_eq!(code, (0x6, 0x2A, 0x09));
        }
        assert!(!disk.disk.refresh_capacity());
        let short = disk.ask(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8).await.good();
        assert_eq!(short, [0, 0, 0, 1, 0, 0, 0x10, 0]);
        assert_eq!(
            disk.ask(&ten(0x28, 0, 2, 1), 4096).await.code(),
            OUT_OF_RANGE
        );
    });
}

#[test]
fn a_disk_too_big_for_read_capacity_10_says_all_ones() {
    let image = Recorder::new(0);
    image.info.lock().unwrap().size = (1 << 32) * 512 + 512;
    on_image(image, DiskConfig::default(), |disk| async move {
        let short = disk.ask(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8).await.good();
        assert_eq!(short, [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 2, 0]);
    });
}

#[test]
fn verify_reads_the_medium() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        disk.ask(&ten(0x2F, 0, 3, 4), 0).await.good();
        assert_eq!(
            disk.log(),
            [(OpKind::Flush, 0, 0), (OpKind::Read, 1536, 2048)]
        );
        disk.ask(&ten(0x2F, 0, 3, 0), 0).await.good();
        assert_eq!(disk.log(), []);
    });
}

#[test]
fn verify_with_data_finds_the_first_byte_that_differs() {
    // More than one chunk, so that offsets are counted across chunks.
    let blocks = 1200usize;
    on_disk(
        blocks * 512,
        DiskConfig::default(),
        move |disk| async move {
            let data = pattern(blocks, 5);
            disk.image.bytes.lock().unwrap().copy_from_slice(&data);
            let whole = ten(0x2F, 0x02, 0, blocks as u16);
            let same = disk.tell(&whole, &data).await;
            assert_eq!(same.completion.transferred, data.len());
            same.good();
            for at in [0, 511, 512, 300_000, data.len() - 1] {
                let mut other = data.clone();
                other[at] ^= 0x80;
                let sense = disk.tell(&whole, &other).await.sense();
                assert_eq!(sense.key as u8, 0xE);
                assert_eq!((sense.additional.asc, sense.additional.ascq), (0x1D, 0x00));
                assert_eq!(sense.information, Some(at as u64));
            }
            let code = disk.tell(&ten(0x2F, 0x04, 0, 1), &data).await.code();
            assert_eq!(code, INVALID_FIELD, "BYTCHK 10b is reserved");
        },
    );
}

#[test]
fn verify_can_compare_every_block_with_one() {
    let blocks = 1200usize;
    on_disk(
        blocks * 512,
        DiskConfig::default(),
        move |disk| async move {
            let block = pattern(1, 0x5A);
            disk.image
                .bytes
                .lock()
                .unwrap()
                .copy_from_slice(&block.repeat(blocks));
            let all = ten(0x2F, 0x06, 0, blocks as u16);
            let same = disk.tell(&all, &block).await;
            assert_eq!(same.completion.transferred, 512);
            same.good();
            disk.image.bytes.lock().unwrap()[1000 * 512 + 17] ^= 1;
            let sense = disk.tell(&all, &block).await.sense();
            assert_eq!(sense.information, Some(17));
        },
    );
}

#[test]
fn write_same_repeats_its_block() {
    let blocks = 1200usize;
    on_disk(
        blocks * 512,
        DiskConfig::default(),
        move |disk| async move {
            let block = pattern(1, 0x33);
            let answer = disk.tell(&ten(0x41, 0, 10, 1100), &block).await;
            assert_eq!(answer.completion.transferred, 512);
            answer.good();
            let mut expected = vec![0; blocks * 512];
            expected[10 * 512..1110 * 512].copy_from_slice(&block.repeat(1100));
            assert!(disk.bytes() == expected);
            let largest = disk.log().iter().map(|(_, _, len)| *len).max();
            assert!(
                largest <= Some(1 << 20),
                "a guest does not choose how much we allocate"
            );
        },
    );
}

#[test]
fn write_same_of_zeroes_is_one_operation_and_unmaps_when_asked() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        disk.image.bytes.lock().unwrap().fill(1);
        let zeroes = [0; 512];
        disk.tell(&ten(0x41, 0x00, 1, 2), &zeroes).await.good();
        disk.tell(&ten(0x41, 0x08, 3, 2), &zeroes).await.good();
        disk.tell(&sixteen(0x93, 0x01, 5, 2), &[]).await.good();
        disk.tell(&sixteen(0x93, 0x09, 7, 2), &[]).await.good();
        let zero = |unmap| OpKind::WriteZeroes { unmap, fua: false };
        assert_eq!(
            disk.log(),
            [
                (zero(false), 512, 1024),
                (zero(true), 1536, 1024),
                (zero(false), 2560, 1024),
                (zero(true), 3584, 1024)
            ]
        );
        assert_eq!(disk.bytes()[512..9 * 512], [0; 8 * 512]);
        let ones = [1; 512];
        disk.tell(&ten(0x41, 0x08, 3, 2), &ones).await.good();
        assert_eq!(
            disk.log(),
            [(OpKind::Write { fua: false }, 1536, 1024)],
            "a pattern that unmapped blocks do not have is written"
        );
        for cdb in [&ten(0x41, 0, 0, 0)[..], &sixteen(0x93, 0x01, 0, 0)] {
            let answer = disk.tell(cdb, &zeroes).await;
            assert_eq!(answer.code(), INVALID_FIELD, "WSNZ");
        }
        assert_eq!(
            disk.tell(&ten(0x41, 0x10, 0, 1), &zeroes).await.code(),
            INVALID_FIELD,
            "ANCHOR"
        );
    });
}

#[test]
fn write_same_takes_exactly_one_block_of_data() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        for sent in [0, 256, 511, 513, 1024] {
            let answer = disk.tell(&ten(0x41, 0, 0, 2), &vec![7; sent]).await;
            assert_eq!(answer.code(), (0x5, 0x0E, 0x03), "{sent} bytes");
        }
        assert_eq!(disk.log(), [], "nothing reached the image");
    });
}

#[test]
fn unmap_discards_its_ranges_or_none_of_them() {
    let config = DiskConfig {
        max_unmap_size: 64 * 512,
        ..DiskConfig::default()
    };
    on_disk(SIZE, config, |disk| async move {
        let (cdb, list) = unmap(&[(1, 2), (0, 0), (100, 28)]);
        let answer = disk.tell(&cdb, &list).await;
        assert_eq!(answer.completion.transferred, list.len());
        answer.good();
        assert_eq!(
            disk.log(),
            [
                (OpKind::Discard, 512, 1024),
                (OpKind::Discard, 51200, 14336)
            ]
        );
        for (descriptors, code) in [
            (vec![(1, 2), (127, 2)], OUT_OF_RANGE),
            (vec![(1, 2), (u64::MAX, 2)], OUT_OF_RANGE),
            (vec![(0, 60), (60, 5)], INVALID_PARAMETER),
            (vec![(0, 1); 256], INVALID_PARAMETER),
        ] {
            let (cdb, list) = unmap(&descriptors);
            assert_eq!(disk.tell(&cdb, &list).await.code(), code);
        }
        assert_eq!(
            disk.tell(&[0x42, 0, 0, 0, 0, 0, 0, 0, 7, 0], &[0; 7])
                .await
                .code(),
            LIST_LENGTH
        );
        disk.tell(&[0x42, 0, 0, 0, 0, 0, 0, 0, 8, 0], &[0; 8])
            .await
            .good();
        disk.tell(&[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[])
            .await
            .good();
        assert_eq!(disk.log(), []);
    });
}

#[test]
fn a_disk_that_cannot_give_space_back_has_no_unmap() {
    let image = Recorder::new(SIZE);
    image.info.lock().unwrap().can_discard = false;
    on_image(image, DiskConfig::default(), |disk| async move {
        let (cdb, list) = unmap(&[(1, 2)]);
        assert_eq!(disk.tell(&cdb, &list).await.code(), (0x5, 0x20, 0x00));
        assert_eq!(
            disk.tell(&ten(0x41, 0x08, 0, 1), &[0; 512]).await.code(),
            INVALID_FIELD
        );
        disk.tell(&ten(0x41, 0x00, 0, 1), &[0; 512]).await.good();
        let limits = disk.ask(&[0x12, 1, 0xB0, 0, 64, 0], 64).await.good();
        assert_eq!(limits[20..36], [0; 16]);
        let provisioning = disk.ask(&[0x12, 1, 0xB2, 0, 8, 0], 8).await.good();
        assert_eq!(provisioning[4..], [0, 0, 0, 0]);
        let mut cdb = [0; 16];
        cdb[..2].copy_from_slice(&[0x9E, 0x10]);
        cdb[13] = 32;
        assert_eq!(disk.ask(&cdb, 32).await.good()[14], 0);
    });
}

#[test]
fn synchronize_cache_waits_for_the_flush_even_when_it_need_not() {
    let mut image = Recorder::new(SIZE);
    image.slow = true;
    on_image(image, DiskConfig::default(), |disk| async move {
        for cdb in [&ten(0x35, 0x06, 0, 0)[..], &sixteen(0x91, 0, 1, 2)] {
            disk.ask(cdb, 0).await.good();
            assert_eq!(disk.log(), [(OpKind::Flush, 0, 0)]);
        }
    });
}

#[test]
fn the_images_handle_is_opened_from_the_disk() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        let image = disk.disk.image().unwrap();
        assert_eq!(image.info().name, "recorder");
    });
}

#[test]
fn tags_of_protection_information_mean_nothing_to_a_disk_without_it() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        let long = |action: u8| {
            let mut cdb = [0; 32];
            cdb[..10].copy_from_slice(&[0x7F, 0, 0, 0, 0, 0, 0, 0x18, 0, action]);
            cdb[19] = 3;
            cdb[20..28].fill(0xFF);
            cdb[31] = 2;
            cdb
        };
        let data = pattern(2, 9);
        disk.tell(&long(0x0B), &data).await.good();
        assert_eq!(disk.ask(&long(0x09), data.len()).await.good(), data);
    });
}
