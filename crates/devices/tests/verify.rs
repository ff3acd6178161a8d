//! WRITE AND VERIFY, PRE-FETCH, READ DEFECT DATA and the 32-byte forms of the block commands.
#![cfg(test)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "patterns are made of low bytes"
)]

mod support;

use lunar_block::{Error, OpKind};
use lunar_devices::DiskConfig;
use support::*;

const BLOCKS: usize = 128;
const SIZE: usize = BLOCKS * 512;

fn pattern(blocks: usize, seed: u8) -> Vec<u8> {
    (0..blocks * 512)
        .map(|i| (i / 512) as u8 ^ (i as u8) ^ seed)
        .collect()
}

/// The 32-byte form of a block command.
fn long(action: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 32] {
    let mut cdb = [0; 32];
    cdb[..12].copy_from_slice(&[0x7F, 0, 0, 0, 0, 0, 0, 0x18, 0, action, flags, 0]);
    cdb[12..20].copy_from_slice(&lba.to_be_bytes());
    cdb[28..].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// WRITE AND VERIFY of two blocks at LBA 5 in every form.
fn writes(bytchk: u8) -> Vec<Vec<u8>> {
    let flags = bytchk << 1;
    vec![
        vec![0x2E, flags, 0, 0, 0, 5, 0, 0, 2, 0],
        vec![0xAE, flags, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0],
        vec![0x8E, flags, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0],
        long(0x0C, flags, 5, 2).to_vec(),
    ]
}

#[test]
fn write_and_verify_writes_makes_durable_and_reads_back() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        for bytchk in [0, 1] {
            for (cdb, seed) in writes(bytchk).into_iter().zip(1..) {
                let data = pattern(2, seed);
                disk.tell(&cdb, &data).await.good();
                assert_eq!(disk.bytes()[5 * 512..7 * 512], data);
                assert_eq!(
                    disk.log(),
                    [
                        (OpKind::Write { fua: false }, 5 * 512, 1024),
                        (OpKind::Flush, 0, 0),
                        (OpKind::Read, 5 * 512, 1024)
                    ]
                );
            }
        }
    });
}

#[test]
fn write_and_verify_finds_a_medium_that_does_not_keep_what_is_written() {
    let mut image = Recorder::new(SIZE);
    image.forgets_byte = Some(6 * 512 + 3);
    on_image(image, DiskConfig::default(), |disk| async move {
        for cdb in writes(1) {
            let sense = disk.tell(&cdb, &[0x55; 1024]).await.sense();
            assert_eq!((sense.key as u8, sense.additional.asc), (0xE, 0x1D));
            assert_eq!(sense.information, Some(512 + 3));
        }
        for cdb in writes(0) {
            disk.tell(&cdb, &[0x55; 1024]).await.good();
        }
    });
}

#[test]
fn write_and_verify_knows_the_limits_of_a_write() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        let beyond = [0x2E, 0, 0, 0, 0, 127, 0, 0, 2, 0];
        let answer = disk.tell(&beyond, &pattern(2, 0)).await;
        assert_eq!(answer.code(), (5, 0x21, 0));
        let nothing = [0x2E, 0, 0, 0, 0, 128, 0, 0, 0, 0];
        disk.tell(&nothing, &[]).await.good();
        let reserved = [0x2E, 0x04, 0, 0, 0, 0, 0, 0, 1, 0];
        assert_eq!(
            disk.tell(&reserved, &pattern(1, 0)).await.code(),
            (5, 0x24, 0)
        );
        let short = [0x2E, 0x02, 0, 0, 0, 0, 0, 0, 2, 0];
        assert_eq!(disk.try_from(A, &short, &[0; 1023], 0).await, None);
        assert_eq!(disk.log(), []);
        let longer = disk.tell(&short, &pattern(3, 9)).await;
        assert_eq!(longer.completion.transferred, 1024);
        assert_eq!(disk.bytes()[1024..1536], [0; 512]);
    });
    let image = Recorder::new(SIZE);
    image.info.lock().unwrap().read_only = true;
    on_image(image, DiskConfig::default(), |disk| async move {
        for cdb in writes(1) {
            assert_eq!(disk.tell(&cdb, &pattern(2, 0)).await.code(), (7, 0x27, 0));
        }
        assert_eq!(disk.log(), []);
    });
}

#[test]
fn the_32_byte_forms_do_what_their_shorter_ones_do() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        let data = pattern(3, 1);
        disk.tell(&long(0x0B, 0x08, 4, 3), &data).await.good();
        assert_eq!(disk.log(), [(OpKind::Write { fua: true }, 2048, 1536)]);
        assert_eq!(disk.ask(&long(0x09, 0, 4, 3), 1536).await.good(), data);
        disk.tell(&long(0x0A, 0x02, 4, 3), &data).await.good();
        let miscompare = disk.tell(&long(0x0A, 0x02, 5, 3), &data).await;
        assert_eq!(miscompare.code(), (0xE, 0x1D, 0));
        let block = pattern(1, 7);
        disk.tell(&long(0x0D, 0, 100, 28), &block).await.good();
        disk.tell(&long(0x0A, 0x06, 100, 28), &block).await.good();
        disk.tell(&long(0x0D, 0x09, 100, 14), &[]).await.good();
        assert_eq!(disk.bytes()[100 * 512..114 * 512], [0; 14 * 512]);
        for action in [0x09, 0x0A, 0x0B, 0x0C, 0x0D] {
            let beyond = disk.from(A, &long(action, 0, 128, 1), &block, 512).await;
            assert_eq!(beyond.code(), (5, 0x21, 0), "{action:#x}");
        }
        let reserved = disk.tell(&long(0x0A, 0x04, 0, 1), &block).await.sense();
        assert_eq!(reserved, lunar_scsi::Sense::invalid_bits_in_cdb(10, 2));
    });
}

#[test]
fn pre_fetch_reads_the_blocks_and_promises_nothing() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        for immediate in [0, 2] {
            let ten = [0x34, immediate, 0, 0, 0, 3, 3, 0, 2, 0];
            let sixteen = [0x90, immediate, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2, 3, 0];
            for cdb in [&ten[..], &sixteen] {
                disk.ask(cdb, 0).await.good();
                assert_eq!(disk.log(), [(OpKind::Read, 1536, 1024)]);
            }
        }
        disk.ask(&[0x34, 0, 0, 0, 0, 120, 0, 0, 0, 0], 0)
            .await
            .good();
        assert_eq!(
            disk.log(),
            [(OpKind::Read, 120 * 512, 8 * 512)],
            "to the end"
        );
        for (lba, blocks) in [(127, 2), (129, 0), (128, 1)] {
            let answer = disk.ask(&[0x34, 0, 0, 0, 0, lba, 0, 0, blocks, 0], 0).await;
            assert_eq!(answer.code(), (5, 0x21, 0), "{lba} {blocks}");
        }
        disk.ask(&[0x34, 0, 0, 0, 0, 128, 0, 0, 0, 0], 0)
            .await
            .good();
        assert_eq!(disk.log(), []);
        *disk.image.failure.lock().unwrap() = Some(Error::from_errno(libc::EIO));
        let failed = disk.ask(&[0x34, 0, 0, 0, 0, 1, 0, 0, 1, 0], 0).await;
        assert_eq!(failed.code(), (3, 0x11, 0));
    });
}

#[test]
fn pre_fetch_reads_nothing_that_no_cache_would_keep() {
    let image = Recorder::new(SIZE);
    image.info.lock().unwrap().request_align = 512;
    on_image(image, DiskConfig::default(), |disk| async move {
        disk.ask(&[0x34, 0, 0, 0, 0, 1, 0, 0, 1, 0], 0).await.good();
        assert_eq!(disk.log(), []);
    });
}

#[test]
fn defect_lists_are_empty_in_the_format_that_was_asked_for() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        for format in 0..6 {
            for lists in [0, 0x08, 0x10, 0x18] {
                let asked = lists | format;
                let ten = [0x37, 0, asked, 0, 0, 0, 0, 0, 32, 0];
                assert_eq!(disk.ask(&ten, 32).await.good(), [0, asked, 0, 0]);
                let twelve = [0xB7, asked, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
                let expected = [0, asked, 0, 0, 0, 0, 0, 0];
                assert_eq!(disk.ask(&twelve, 32).await.good(), expected);
            }
        }
        for format in [6, 7] {
            let ten = [0x37, 0, format, 0, 0, 0, 0, 0, 32, 0];
            let sense = disk.ask(&ten, 32).await.sense();
            assert_eq!(sense, lunar_scsi::Sense::invalid_bits_in_cdb(2, 2));
            let twelve = [0xB7, format, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
            let sense = disk.ask(&twelve, 32).await.sense();
            assert_eq!(sense, lunar_scsi::Sense::invalid_bits_in_cdb(1, 2));
        }
        let clipped = [0x37, 0, 0, 0, 0, 0, 0, 0, 2, 0];
        assert_eq!(disk.ask(&clipped, 32).await.good(), [0, 0]);
    });
}
