//! COMPARE AND WRITE, ORWRITE and WRITE ATOMIC: what they do, and that they ask for their blocks alone.
#![cfg(test)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "patterns are made of low bytes"
)]

mod support;

use std::cell::RefCell;

use lunar_block::OpKind;
use lunar_devices::{DiskConfig, OnOffAuto};
use lunar_scsi::Sense;
use lunar_target::{Extent, Outcome, Seen, begin};
use support::*;

const BLOCKS: usize = 512;
const SIZE: usize = BLOCKS * 512;

fn pattern(blocks: usize, seed: u8) -> Vec<u8> {
    (0..blocks * 512)
        .map(|i| (i / 512) as u8 ^ (i as u8) ^ seed)
        .collect()
}

fn sixteen(opcode: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[1] = flags;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

#[test]
fn compare_and_write_of_more_blocks_than_its_field_holds_is_refused() {
    on_disk(600 * 512, DiskConfig::default(), |disk| async move {
        let both = vec![0; 2 * 256 * 512];
        let cut_off = disk.tell(&sixteen(0x89, 0, 0, 256 & 0xFF), &both).await;
        assert_eq!(cut_off.code(), (0x5, 0x24, 0x00));
        disk.tell(&sixteen(0x89, 0, 0, 0), &[]).await.good();
        assert_eq!(disk.log(), []);
    });
}

#[test]
fn compare_and_write_replaces_what_is_expected() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        let mut old = vec![0; 255 * 512];
        for (blocks, seed) in [(255, 1), (2, 2), (1, 3)] {
            let new = pattern(blocks, seed);
            let len = new.len();
            let both = [&old[..len], &new].concat();
            disk.log();
            let answer = disk.tell(&sixteen(0x89, 0, 9, blocks as u32), &both).await;
            assert_eq!(answer.completion.transferred, 2 * len);
            assert_eq!(answer.good(), []);
            assert_eq!(disk.bytes()[9 * 512..][..len], new);
            let write = (OpKind::Write { fua: false }, 9 * 512, len as u64);
            assert_eq!(disk.log(), [(OpKind::Read, 9 * 512, len as u64), write]);
            old[..len].copy_from_slice(&new);
        }
    });
}

#[test]
fn a_miscompare_tells_where_and_writes_nothing() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        for at in [0, 511, 512, 4095, 4096, 200 * 512 - 1] {
            let mut both = vec![0; 400 * 512];
            both[at] = 1;
            both[200 * 512..].fill(9);
            let sense = disk.tell(&sixteen(0x89, 0, 3, 200), &both).await.sense();
            assert_eq!((sense.key as u8, sense.additional.asc), (0xE, 0x1D));
            assert_eq!(sense.information, Some(at as u64));
        }
        assert_eq!(disk.bytes(), [0; SIZE]);
    });
}

#[test]
fn durable_writes_are_durable() {
    for (cache, flags) in [(OnOffAuto::On, 0x18), (OnOffAuto::Off, 0x00)] {
        let config = DiskConfig {
            write_cache: cache,
            ..DiskConfig::default()
        };
        on_disk(SIZE, config, move |disk| async move {
            for opcode in [0x89, 0x8B, 0x9C] {
                disk.log();
                let cdb = sixteen(opcode, flags, 0, 1);
                disk.tell(&cdb, &[0; 1024]).await.good();
                let write = (OpKind::Write { fua: true }, 0, 512);
                assert_eq!(disk.log().last(), Some(&write), "{opcode:#x}");
            }
        });
    }
}

#[test]
fn orwrite_sets_bits_and_clears_none() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        let (first, second) = (pattern(400, 0x0F), pattern(400, 0x55));
        disk.tell(&sixteen(0x8B, 0, 100, 400), &first).await.good();
        assert_eq!(disk.bytes()[100 * 512..500 * 512], first);
        let answer = disk.tell(&sixteen(0x8B, 0, 100, 400), &second).await;
        assert_eq!(answer.completion.transferred, 400 * 512);
        let both: Vec<u8> = first.iter().zip(&second).map(|(a, b)| a | b).collect();
        assert_eq!(disk.bytes()[100 * 512..500 * 512], both);
        assert_eq!(disk.bytes()[..100 * 512], [0; 100 * 512]);
    });
}

#[test]
fn an_atomic_write_is_one_write() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        let data = pattern(512, 1);
        disk.tell(&sixteen(0x9C, 0, 0, 512), &data).await.good();
        assert_eq!(disk.bytes(), data);
        let write = (OpKind::Write { fua: false }, 0, SIZE as u64);
        assert_eq!(disk.log(), [write]);
        let longer = disk.tell(&sixteen(0x9C, 0, 0, 1), &pattern(2, 9)).await;
        assert_eq!(longer.completion.transferred, 512);
        assert_eq!(disk.bytes()[512..1024], data[512..1024]);
    });
}

#[test]
fn atomic_writes_keep_to_physical_blocks() {
    let config = DiskConfig {
        physical_block_size: Some(4096),
        ..DiskConfig::default()
    };
    on_disk(SIZE, config, |disk| async move {
        let data = pattern(16, 1);
        let cdb = sixteen(0x9C, 0, 8, 16);
        disk.tell(&cdb, &data).await.good();
        let misaligned = disk.tell(&sixteen(0x9C, 0, 4, 8), &data).await.sense();
        assert_eq!(misaligned, Sense::invalid_field_in_cdb(2));
        let uneven = disk.tell(&sixteen(0x9C, 0, 8, 4), &data).await.sense();
        assert_eq!(uneven, Sense::invalid_field_in_cdb(12));
        let page = disk.ask(&[0x12, 1, 0xB0, 0, 64, 0], 64).await.good();
        assert_eq!(
            page[44..64],
            [0, 0, 8, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]
        );
    });
}

#[test]
fn atomic_writes_are_promised_only_where_they_cannot_be_torn() {
    let with = |volatile, atomic_writes| {
        let image = Recorder::new(SIZE);
        image.info.lock().unwrap().volatile = volatile;
        let config = DiskConfig {
            atomic_writes,
            ..DiskConfig::default()
        };
        let promised = volatile || atomic_writes;
        on_image(image, config, move |disk| async move {
            let page = disk.ask(&[0x12, 1, 0xB0, 0, 64, 0], 64).await.good();
            assert_eq!(page[44..56].iter().any(|&b| b != 0), promised);
            let report = [0xA3, 0x0C, 0x01, 0x9C, 0, 0, 0, 0, 0, 64, 0, 0];
            let support = disk.ask(&report, 64).await.good()[1] & 7;
            assert_eq!(support, if promised { 3 } else { 1 });
            let answer = disk.tell(&sixteen(0x9C, 0, 0, 1), &pattern(1, 1)).await;
            if promised {
                answer.good();
            } else {
                assert_eq!(answer.code(), (5, 0x20, 0));
                assert_eq!(disk.log(), []);
            }
        });
    };
    with(false, false);
    with(false, true);
    with(true, false);
}

#[test]
fn limits_are_those_of_the_block_limits_page() {
    on_disk(4 << 20, DiskConfig::default(), |disk| async move {
        let page = disk.ask(&[0x12, 1, 0xB0, 0, 64, 0], 64).await.good();
        assert_eq!((page[5], &page[44..48]), (255, &[0, 0, 8, 0][..]));
        disk.tell(&sixteen(0x9C, 0, 0, 2048), &pattern(2048, 1))
            .await
            .good();
        let more = disk
            .tell(&sixteen(0x9C, 0, 0, 2049), &pattern(2049, 1))
            .await;
        assert_eq!(more.sense(), Sense::invalid_field_in_cdb(12));
    });
    let config = DiskConfig {
        max_io_size: 4096,
        ..DiskConfig::default()
    };
    on_disk(SIZE, config, |disk| async move {
        for (opcode, field) in [(0x89, 13), (0x8B, 10), (0x9C, 12)] {
            disk.tell(&sixteen(opcode, 0, 0, 8), &[0; 8192])
                .await
                .good();
            let answer = disk.tell(&sixteen(opcode, 0, 0, 9), &[0; 9216]).await;
            assert_eq!(answer.sense(), Sense::invalid_field_in_cdb(field));
        }
    });
}

#[test]
fn bad_ranges_and_buffers_change_nothing() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        for (opcode, factor) in [(0x89, 2), (0x8B, 1), (0x9C, 1)] {
            let data = [0xFF; 2048];
            for (lba, blocks) in [(511, 2), (513, 0), (1 << 63, 1), (u64::MAX, 2)] {
                let answer = disk.tell(&sixteen(opcode, 0, lba, blocks), &data).await;
                assert_eq!(answer.code(), (5, 0x21, 0), "{opcode:#x} {lba} {blocks}");
            }
            disk.tell(&sixteen(opcode, 0, 512, 0), &[]).await.good();
            let short = &data[..factor * 1024 - 1];
            assert_eq!(
                disk.try_from(A, &sixteen(opcode, 0, 0, 2), short, 0).await,
                None
            );
            let protect = disk.tell(&sixteen(opcode, 0x20, 0, 1), &data).await;
            assert_eq!(protect.sense(), Sense::invalid_bits_in_cdb(1, 5));
        }
        let boundary = disk
            .tell(&sixteen(0x9C, 0, 0, 0x0001_0001), &[0; 512])
            .await;
        assert_eq!(boundary.sense(), Sense::invalid_bits_in_cdb(11, 0));
        assert_eq!(disk.log(), []);
    });
    let image = Recorder::new(SIZE);
    image.info.lock().unwrap().read_only = true;
    on_image(image, DiskConfig::default(), |disk| async move {
        for opcode in [0x89, 0x8B, 0x9C] {
            let answer = disk.tell(&sixteen(opcode, 0, 0, 1), &[0; 1024]).await;
            assert_eq!(answer.code(), (7, 0x27, 0));
        }
        assert_eq!(disk.log(), []);
    });
}

#[test]
fn they_ask_for_their_blocks_alone() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        for opcode in [0x89, 0x8B, 0x9C] {
            let asked: RefCell<Option<Extent>> = RefCell::default();
            let cdb = sixteen(opcode, 0, 3, 2);
            let start = |command: &mut lunar_target::Command<'_>| {
                let seen = Seen::default();
                let outcome = begin(&*disk.disk, &seen, command);
                if let Outcome::Exclusive(extent, _) = &outcome {
                    *asked.borrow_mut() = Some(extent.clone());
                }
                outcome
            };
            disk.try_with(A, &cdb, &[0; 2048], 0, start).await.unwrap();
            assert_eq!(*asked.borrow(), Some(Some(1536..2560)), "{opcode:#x}");
        }
    });
}
