//! FORMAT UNIT, SANITIZE, power conditions, logs, diagnostics, and what outlives a restart.
#![cfg(test)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "the lengths of these tests are small"
)]

mod support;

use std::path::PathBuf;

use lunar_block::{Error, OpKind};
use lunar_devices::{Disk, DiskConfig, Sidecar};
use lunar_target::LogicalUnit;
use support::*;

const SIZE: usize = 64 << 10;
const INVALID_FIELD: (u8, u8, u8) = (0x5, 0x24, 0x00);
const INVALID_PARAMETER: (u8, u8, u8) = (0x5, 0x26, 0x00);
const TEST_UNIT_READY: [u8; 6] = [0; 6];
const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const REQUEST_SENSE: [u8; 6] = [0x03, 0, 0, 0, 18, 0];

fn config() -> DiskConfig {
    DiskConfig {
        identity: "drive0".into(),
        ..DiskConfig::default()
    }
}

fn beside(path: PathBuf) -> DiskConfig {
    DiskConfig {
        beside: Some(path),
        ..config()
    }
}

/// An image full of ones.
fn written() -> Recorder {
    let image = Recorder::new(SIZE);
    image.bytes.lock().unwrap().fill(1);
    image
}

fn overwrite(flags: u8, len: usize) -> Vec<u8> {
    let [high, low] = (len as u16).to_be_bytes();
    vec![0x48, flags | 0x01, 0, 0, 0, 0, 0, high, low, 0]
}

#[test]
fn format_unit_makes_all_blocks_read_zero() {
    on_image(written(), config(), |disk| async move {
        disk.ask(&[0x04, 0, 0, 0, 0, 0], 0).await.good();
        assert!(disk.bytes().iter().all(|&b| b == 0));
        disk.ask(&TEST_UNIT_READY, 0).await.good();
    });
}

#[test]
fn format_unit_fills_blocks_with_the_pattern_it_was_given() {
    on_image(written(), config(), |disk| async move {
        let list = [0, 0x88, 0, 0, 0, 1, 0, 3, 7, 8, 9];
        disk.tell(&[0x04, 0x10, 0, 0, 0, 0], &list).await.good();
        for block in disk.bytes().chunks(512) {
            assert_eq!(block[..4], [7, 8, 9, 7]);
            assert_eq!(block[508..], [8, 9, 7, 8]);
        }
    });
}

#[test]
fn a_wrong_format_list_is_refused_and_changes_nothing() {
    on_image(written(), config(), |disk| async move {
        let before = disk.bytes();
        for list in [
            &[1, 0, 0, 0][..],               // protection
            &[0, 0x08, 0, 0],                // a pattern without FOV
            &[0, 0x40, 0, 0],                // DPRY without FOV
            &[0, 0, 0, 8],                   // defects
            &[0, 0x88, 0, 0, 0, 2, 0, 1, 0], // an unknown kind of pattern
            &[0, 0x88, 0, 0, 0, 1, 0, 0],    // no pattern
        ] {
            let code = disk.tell(&[0x04, 0x10, 0, 0, 0, 0], list).await.code();
            assert_eq!(code, INVALID_PARAMETER, "{list:x?}");
        }
        for list in [&[][..], &[0, 0, 0], &[0, 0x88, 0, 0, 0, 1, 0, 2, 1]] {
            let short = disk.try_from(A, &[0x04, 0x10, 0, 0, 0, 0], list, 0).await;
            assert_eq!(short, None, "{list:x?}");
        }
        assert_eq!(
            disk.ask(&[0x04, 0x80, 0, 0, 0, 0], 0).await.code(),
            INVALID_FIELD
        );
        assert_eq!(disk.bytes(), before);
    });
}

#[test]
fn sanitize_overwrites_as_often_as_it_is_told_and_ends_with_the_pattern() {
    on_image(written(), config(), |disk| async move {
        // INVERT, three times, one byte.
        let list = [0x83, 0, 0, 1, 0xA5];
        disk.tell(&overwrite(0, 5), &list).await.good();
        assert!(disk.bytes().iter().all(|&b| b == 0xA5));
        let log = disk.log();
        let writes = log.iter().filter(|op| matches!(op.0, OpKind::Write { .. }));
        let bytes: u64 = writes.map(|op| op.2).sum();
        assert_eq!(bytes, 3 * SIZE as u64);
        assert_eq!(log.last(), Some(&(OpKind::Flush, 0, 0)));
    });
}

#[test]
fn sanitize_checks_its_parameters() {
    on_image(written(), config(), |disk| async move {
        let before = disk.bytes();
        for len in [0, 1, 4, 517] {
            let code = disk.tell(&overwrite(0, len), &vec![1; len]).await.code();
            assert_eq!(code, INVALID_FIELD, "{len}");
        }
        for list in [
            [0, 0, 0, 1, 9],
            [1, 0, 0, 2, 9],
            [1, 1, 0, 1, 9],
            [0x21, 0, 0, 1, 9],
        ] {
            assert_eq!(
                disk.tell(&overwrite(0, 5), &list).await.code(),
                INVALID_PARAMETER
            );
        }
        for action in [0x02, 0x1F] {
            let cdb = [0x48, action, 0, 0, 0, 0, 0, 0, 8, 0];
            assert_eq!(disk.tell(&cdb, &[0; 8]).await.code(), INVALID_FIELD);
        }
        for action in [0x00, 0x03, 0x04, 0x1E] {
            let code = disk
                .ask(&[0x48, action, 0, 0, 0, 0, 0, 0, 0, 0], 0)
                .await
                .code();
            assert_eq!(code, INVALID_FIELD, "{action}: crypto erase would be a lie");
        }
        assert_eq!(disk.bytes(), before);
    });
}

#[test]
fn block_erase_gives_all_blocks_back() {
    on_image(written(), config(), |disk| async move {
        disk.ask(&[0x48, 0x02, 0, 0, 0, 0, 0, 0, 0, 0], 0)
            .await
            .good();
        assert!(disk.bytes().iter().all(|&b| b == 0));
        let erased = |op: &Done| matches!(op.0, OpKind::WriteZeroes { unmap: true, .. });
        assert!(disk.log().iter().any(erased));
        let page = disk.ask(&[0x12, 1, 0xB1, 0, 64, 0], 64).await.good();
        assert_eq!(page[7] >> 6, 1, "WABEREQ: it can be read at once");
    });
}

#[test]
fn while_it_sanitizes_a_disk_says_how_far_it_is_and_does_nothing_else() {
    let mut image = written();
    image.slow = true;
    on_image(image, config(), |disk| async move {
        let list = [31, 0, 0, 1, 0x11];
        disk.tell(&overwrite(0x80, 5), &list).await.good();
        let in_progress = (0x2, 0x04, 0x1B);
        for cdb in [
            &TEST_UNIT_READY[..],
            &READ,
            &[0x1B, 0, 0, 0, 1, 0],
            &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0x15, 0x10, 0, 0, 0, 0],
            &[0x48, 0x02, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(disk.ask(cdb, 512).await.code(), in_progress, "{cdb:x?}");
        }
        disk.ask(&[0x12, 0, 0, 0, 96, 0], 96).await.good();
        disk.ask(&[0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], 256)
            .await
            .good();
        disk.ask(&[0x4D, 0, 0x40, 0, 0, 0, 0, 0, 64, 0], 64)
            .await
            .good();
        let sense = disk.ask(&REQUEST_SENSE, 18).await.good();
        assert_eq!((sense[2], sense[12], sense[13]), in_progress);
        assert_eq!(sense[15], 0x80, "with a progress indication");
        // A reset does not stop it.
        disk.disk.reset();
        let sense = disk.ask(&REQUEST_SENSE, 18).await.good();
        assert_eq!((sense[2], sense[12], sense[13]), (0x6, 0x29, 0x03));
        assert_eq!(disk.ask(&TEST_UNIT_READY, 0).await.code(), in_progress);
        disk.settle().await;
        disk.ask(&TEST_UNIT_READY, 0).await.good();
        assert!(disk.bytes().iter().all(|&b| b == 0x11));
    });
}

#[test]
fn a_sanitize_that_fails_leaves_the_disk_in_failure_mode() {
    on_image(written(), config(), |disk| async move {
        let failed = (0x3, 0x31, 0x03);
        let exit = [0x48, 0x1F, 0, 0, 0, 0, 0, 0, 0, 0];
        let erase = |ause: u8| [0x48, ause | 0x02, 0, 0, 0, 0, 0, 0, 0, 0];
        disk.ask(&exit, 0).await.good();
        for (ause, can_exit) in [(0x00, false), (0x20, true)] {
            *disk.image.failure.lock().unwrap() = Some(Error::Io("broken".into(), libc::EIO));
            assert_eq!(disk.ask(&erase(ause), 0).await.code(), failed);
            *disk.image.failure.lock().unwrap() = None;
            assert_eq!(disk.ask(&TEST_UNIT_READY, 0).await.code(), failed);
            assert_eq!(disk.ask(&READ, 512).await.code(), failed);
            if can_exit {
                disk.ask(&exit, 0).await.good();
            } else {
                assert_eq!(disk.ask(&exit, 0).await.code(), INVALID_FIELD);
                disk.ask(&erase(0), 0).await.good();
            }
            disk.ask(&READ, 512).await.good();
        }
    });
}

#[test]
fn a_sanitize_that_was_interrupted_goes_on_after_a_restart() {
    on_reactor(|reactor| async move {
        let dir = tempfile::tempdir().unwrap();
        let config = beside(dir.path().join("disk.img"));
        let mut image = written();
        image.slow = true;
        let disk = Bench::new(reactor.clone(), image, config.clone())
            .settled()
            .await;
        let list = [31, 0, 0, 1, 0x22];
        disk.tell(&overwrite(0x80, 5), &list).await.good();
        // The process ends: nobody reaches the disk any more, and the image is let go.
        let note = dir.path().join("disk.img.lunar-sanitize");
        assert!(note.exists());
        let saved = std::fs::read(&note).unwrap();
        disk.settle().await;
        assert!(!note.exists(), "done and forgotten");
        std::fs::write(&note, saved).unwrap();

        // Another process finds the medium as it was in the middle of it.
        let again = Bench::new(reactor, written(), config);
        let path = lunar_target::Path::new(lunar_scsi::reservation::TransportId(1), 1);
        again.disk.state().add_nexus(A, path).unwrap();
        again.ask(&TEST_UNIT_READY, 0).await.sense();
        assert_eq!(again.ask(&READ, 512).await.code(), (0x2, 0x04, 0x1B));
        again.settle().await;
        assert_eq!(again.ask(&READ, 512).await.good(), [0x22; 512]);
        assert!(!note.exists());
    });
}

#[test]
fn a_note_of_an_erasure_that_cannot_be_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.img");
    let note = Sidecar::new(Sidecar::beside(&image, "sanitize"), b"");
    // Nothing, half of it, a kind or a flag of the future, no pass, no pattern where there is to be one.
    for record in [
        &[][..],
        &[1, 1],
        &[2, 1, 0],
        &[1, 1, 0x10],
        &[1, 0, 0],
        &[1, 1, 0x08],
        &[1, 1, 0, 9],
    ] {
        note.store(record).unwrap();
        let error = Disk::new(beside(image.clone()), crate::image()).unwrap_err();
        assert!(
            error.to_string().contains("disk.img.lunar-sanitize"),
            "{error}"
        );
        assert!(note.path().exists(), "{record:?}");
    }
    note.store(&[1, 1, 0]).unwrap();
    Disk::new(beside(image.clone()), crate::image()).unwrap();
}

#[test]
fn a_failed_sanitize_is_still_failed_after_a_restart() {
    on_reactor(|reactor| async move {
        let dir = tempfile::tempdir().unwrap();
        let config = beside(dir.path().join("disk.img"));
        let failed = (0x3, 0x31, 0x03);
        let exit = [0x48, 0x1F, 0, 0, 0, 0, 0, 0, 0, 0];
        for (ause, can_exit) in [(0x00, false), (0x20, true)] {
            let disk = Bench::new(reactor.clone(), written(), config.clone())
                .settled()
                .await;
            *disk.image.failure.lock().unwrap() = Some(Error::Io("broken".into(), libc::EIO));
            let erase = [0x48, ause | 0x02, 0, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(disk.ask(&erase, 0).await.code(), failed);
            drop(disk);

            let again = Bench::new(reactor.clone(), written(), config.clone());
            let path = lunar_target::Path::new(lunar_scsi::reservation::TransportId(1), 1);
            again.disk.state().add_nexus(A, path).unwrap();
            again.ask(&TEST_UNIT_READY, 0).await.sense();
            assert_eq!(again.ask(&TEST_UNIT_READY, 0).await.code(), failed);
            assert_eq!(again.ask(&READ, 512).await.code(), failed);
            if can_exit {
                again.ask(&exit, 0).await.good();
                assert_eq!(
                    again.ask(&READ, 512).await.good(),
                    [1; 512],
                    "left as it was"
                );
            } else {
                assert_eq!(again.ask(&exit, 0).await.code(), INVALID_FIELD);
                again.ask(&erase, 0).await.good();
                assert_eq!(again.ask(&READ, 512).await.good(), [0; 512]);
            }
            assert!(!dir.path().join("disk.img.lunar-sanitize").exists());
        }
    });
}

#[test]
fn without_a_place_for_a_note_sanitize_does_not_exist() {
    let image = Recorder::new(SIZE);
    image.info.lock().unwrap().volatile = false;
    on_image(image, config(), |disk| async move {
        let code = disk.tell(&overwrite(0, 5), &[1, 0, 0, 1, 0]).await.code();
        assert_eq!(code, (0x5, 0x20, 0x00));
        assert_eq!(
            disk.ask(&[0x15, 0x11, 0, 0, 0, 0], 0).await.code(),
            INVALID_FIELD
        );
    });
}

#[test]
fn what_cannot_be_noted_is_not_begun() {
    on_reactor(|reactor| async move {
        let config = beside(PathBuf::from("/nonexistent/disk.img"));
        let disk = Bench::new(reactor, written(), config).settled().await;
        let code = disk.tell(&overwrite(0, 5), &[1, 0, 0, 1, 0]).await.code();
        assert_eq!(code, (0x4, 0x44, 0x00));
        assert_eq!(disk.bytes(), vec![1; SIZE]);
        disk.ask(&READ, 512).await.good();
    });
}

#[test]
fn power_conditions_are_reported_and_end_with_the_next_access() {
    on_disk(SIZE, config(), |disk| async move {
        for (condition, modifier, ascq) in [
            (2, 0, 0x03),
            (2, 1, 0x06),
            (2, 2, 0x08),
            (3, 0, 0x04),
            (3, 1, 0x0A),
            (0xA, 0, 0x03),
            (0xB, 0, 0x04),
        ] {
            let cdb = [0x1B, 0, 0, modifier, condition << 4, 0];
            disk.ask(&cdb, 0).await.good();
            // TEST UNIT READY does not wake it.
            disk.ask(&TEST_UNIT_READY, 0).await.good();
            let sense = disk.ask(&REQUEST_SENSE, 18).await.good();
            assert_eq!(
                (sense[2], sense[12], sense[13]),
                (0x0, 0x5E, ascq),
                "{cdb:x?}"
            );
            disk.ask(&READ, 512).await.good();
            let sense = disk.ask(&REQUEST_SENSE, 18).await.good();
            assert_eq!((sense[2], sense[12], sense[13]), (0, 0, 0));
        }
        for cdb in [
            [0x1B, 0, 0, 3, 0x20, 0],
            [0x1B, 0, 0, 0, 0x50, 0],
            [0x1B, 0, 0, 1, 0x01, 0],
        ] {
            assert_eq!(disk.ask(&cdb, 0).await.code(), INVALID_FIELD, "{cdb:x?}");
        }
    });
}

#[test]
fn a_removable_disk_tolerates_every_power_condition_and_spins_up_by_itself() {
    let config = DiskConfig {
        removable: true,
        ..config()
    };
    on_disk(SIZE, config, |disk| async move {
        for condition in 1..16u8 {
            disk.ask(&[0x1B, 1, 0, 0, condition << 4 | 2, 0], 0)
                .await
                .good();
            disk.ask(&TEST_UNIT_READY, 0).await.good();
        }
        disk.ask(&[0x1B, 0, 0, 0, 0, 0], 0).await.good();
        disk.ask(&TEST_UNIT_READY, 0).await.good();
        disk.ask(&READ, 512).await.good();
    });
}

#[test]
fn log_pages_are_listed_and_count_what_happens() {
    on_disk(SIZE, config(), |disk| async move {
        let sense = |page: u8, subpage: u8| {
            let cdb = [0x4D, 0, page, subpage, 0, 0, 0, 4, 0, 0];
            disk.from(A, &cdb, &[], 1024)
        };
        let listed = sense(0x40, 0).await.good();
        assert_eq!(
            listed,
            [0, 0, 0, 8, 0x00, 0x02, 0x03, 0x05, 0x0D, 0x10, 0x19, 0x2F]
        );
        for &page in &listed[4..] {
            let data = sense(0x40 | page, 0).await.good();
            assert_eq!(data[0] & 0x3F, page);
            assert_eq!(
                usize::from(u16::from_be_bytes([data[2], data[3]])) + 4,
                data.len()
            );
        }
        assert_eq!(
            sense(0x00, 0xFF).await.good()[..8],
            [0x40, 0xFF, 0, 18, 0, 0, 0, 0xFF]
        );
        assert_eq!(sense(0x41, 0).await.code(), INVALID_FIELD);
        assert_eq!(sense(0x42, 1).await.code(), INVALID_FIELD);
        *disk.image.failure.lock().unwrap() = Some(Error::Io("broken".into(), libc::EIO));
        assert_eq!(disk.ask(&READ, 512).await.code(), (0x3, 0x11, 0x00));
        *disk.image.failure.lock().unwrap() = None;
        let data = sense(0x43, 0).await.good();
        assert_eq!(
            data[data.len() - 12..],
            [0, 6, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1]
        );
        disk.ask(&[0x4C, 0x02, 0xC0, 0, 0, 0, 0, 0, 0, 0], 0)
            .await
            .good();
        let data = sense(0x43, 0).await.good();
        assert_eq!(data[data.len() - 1], 0);
        let code = disk.from(B, &TEST_UNIT_READY, &[], 0).await.code();
        assert_eq!(code, (0x6, 0x2A, 0x02));
        assert_eq!(sense(0x4D, 0).await.good()[8..10], [0, 0xFF], "no sensor");
        assert_eq!(sense(0x6F, 0).await.good()[8..], [0, 0, 0xFF, 0xFF]);
        // Tools want counts, idle time and the unit of time together.
        let statistics = sense(0x59, 0).await.good();
        assert_eq!(statistics[4..8], [0, 1, 0x03, 64]);
        assert_eq!(statistics[72..76], [0, 2, 0x03, 8]);
        assert_eq!(statistics[84..], [0, 3, 0x03, 8, 0, 0, 0, 3, 0, 0, 0, 1]);
    });
}

#[test]
fn self_tests_read_the_medium_and_their_results_are_remembered() {
    on_disk(SIZE, config(), |disk| async move {
        disk.log();
        disk.ask(&[0x1D, 0x04, 0, 0, 0, 0], 0).await.good();
        let reads = disk.log().iter().filter(|op| op.0 == OpKind::Read).count();
        assert_eq!(reads, 32);
        *disk.image.failure.lock().unwrap() = Some(Error::Io("broken".into(), libc::EIO));
        let code = disk.ask(&[0x1D, 0xC0, 0, 0, 0, 0], 0).await.code();
        assert_eq!(code, (0x4, 0x3E, 0x03));
        *disk.image.failure.lock().unwrap() = None;
        let results = disk
            .ask(&[0x4D, 0, 0x50, 0, 0, 0, 0, 4, 0, 0], 1024)
            .await
            .good();
        assert_eq!(results.len(), 4 + 20 * 20);
        assert_eq!(results[4..9], [0, 1, 0x03, 0x10, 0xC7], "extended, failed");
        assert_eq!(results[24..29], [0, 2, 0x03, 0x10, 0x00], "default, passed");
        assert_eq!(results[44..49], [0, 3, 0x03, 0x10, 0x00]);
        for cdb in [
            [0x1D, 0x24, 0, 0, 0, 0],
            [0x1D, 0x60, 0, 0, 0, 0],
            [0x1D, 0x80, 0, 0, 0, 0],
        ] {
            assert_eq!(disk.ask(&cdb, 0).await.code(), INVALID_FIELD, "{cdb:x?}");
        }
        let pages = disk.ask(&[0x1C, 1, 0, 0, 64, 0], 64).await.good();
        assert_eq!(pages, [0, 0, 0, 1, 0]);
        disk.tell(&[0x1D, 0x10, 0, 0, 4, 0], &[0; 4]).await.good();
    });
}

#[test]
fn buffers_echo_what_was_written() {
    on_disk(SIZE, config(), |disk| async move {
        let read = |mode, offset, room| {
            let cdb = [0x3C, mode, 0, 0, 0, offset, 0, 0, room, 0];
            disk.from(A, &cdb, &[], 255)
        };
        assert_eq!(read(0x03, 0, 4).await.good(), [0, 0, 0x10, 0]);
        assert_eq!(read(0x0B, 0, 4).await.good(), [0, 0, 0x10, 0]);
        assert_eq!(read(0x0A, 0, 4).await.code(), (0x5, 0x2C, 0x00));
        disk.tell(&[0x3B, 0x0A, 0, 0, 0, 0, 0, 0, 3, 0], b"abc")
            .await
            .good();
        assert_eq!(read(0x0A, 0, 64).await.good(), b"abc");
        disk.tell(&[0x3B, 0x02, 0, 0, 0, 1, 0, 0, 2, 0], b"xy")
            .await
            .good();
        assert_eq!(read(0x02, 0, 4).await.good(), b"\0xy\0");
        assert_eq!(read(0x02, 2, 1).await.good(), b"y");
        let long = [0x3B, 0x02, 0, 0, 0, 1, 0, 0x10, 0, 0];
        assert_eq!(disk.tell(&long, &[0; 4096]).await.code(), INVALID_FIELD);
        assert_eq!(read(0x05, 0, 4).await.code(), INVALID_FIELD);
    });
}

#[test]
fn the_clock_can_be_set() {
    on_disk(SIZE, config(), |disk| async move {
        let report = [0xA3, 0x0F, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0];
        assert_eq!(disk.ask(&report, 12).await.good()[..4], [0, 10, 3, 0]);
        let set = [0xA4, 0x0F, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0];
        let list = [0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0];
        disk.tell(&set, &list).await.good();
        let now = disk.ask(&report, 12).await.good();
        assert_eq!(now[..8], [0, 10, 2, 0, 1, 2, 3, 4]);
        let code = disk.from(B, &TEST_UNIT_READY, &[], 0).await.code();
        assert_eq!(code, (0x6, 0x2A, 0x10));
        assert_eq!(disk.tell(&set, &[1; 12]).await.code(), INVALID_PARAMETER);
    });
}

#[test]
fn saved_mode_pages_and_the_name_of_the_disk_outlive_a_restart() {
    on_reactor(|reactor| async move {
        let dir = tempfile::tempdir().unwrap();
        let config = beside(dir.path().join("disk.img"));
        let disk = Bench::new(reactor.clone(), written(), config.clone())
            .settled()
            .await;
        let page = disk.ask(&[0x1A, 0x08, 0xC8, 0, 255, 0], 255).await.good();
        assert_eq!(
            page[4..7],
            [0x88, 0x12, 0x04],
            "PS; the default until others are saved"
        );
        let mut list = vec![0; 24];
        list[4..7].copy_from_slice(&[0x08, 0x12, 0x00]);
        disk.tell(&[0x15, 0x11, 0, 0, 24, 0], &list).await.good();
        let set = [0xA4, 0x06, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0];
        disk.tell(&set, b"moon").await.good();

        let again = Bench::new(reactor.clone(), written(), config.clone())
            .settled()
            .await;
        let page = again.ask(&[0x1A, 0x08, 0x08, 0, 255, 0], 255).await.good();
        assert_eq!(page[6], 0, "WCE is off");
        let report = [0xA3, 0x05, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0];
        assert_eq!(again.ask(&report, 64).await.good(), b"\0\0\0\x04moon");
        let default = again.ask(&[0x1A, 0x08, 0x88, 0, 255, 0], 255).await.good();
        assert_eq!(default[6], 0x04);

        // Somebody else's record is refused.
        let other = DiskConfig {
            identity: "drive1".into(),
            ..config
        };
        let image: std::sync::Arc<dyn lunar_block::Image> = image();
        let error = Disk::new(other, image).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("belongs to another logical unit"),
            "{error}"
        );
    });
}

fn image() -> std::sync::Arc<dyn lunar_block::Image> {
    let driver = lunar_block::Driver::Memory { size: SIZE as u64 };
    lunar_block::open_node(driver, &lunar_block::NodeOptions::default()).unwrap()
}

#[test]
fn a_name_that_cannot_be_stored_is_not_taken() {
    on_reactor(|reactor| async move {
        let dir = tempfile::tempdir().unwrap();
        let config = beside(dir.path().join("disk.img"));
        let disk = Bench::new(reactor, written(), config).settled().await;
        let set = [0xA4, 0x06, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0];
        let report = [0xA3, 0x05, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0];
        disk.tell(&set, b"moon").await.good();
        let code = disk.from(B, &TEST_UNIT_READY, &[], 0).await.code();
        assert_eq!(code, (0x6, 0x3F, 0x05));

        std::fs::remove_dir_all(dir.path()).unwrap();
        assert_eq!(disk.tell(&set, b"mars").await.code(), (0x4, 0x44, 0x00));
        assert_eq!(disk.ask(&report, 64).await.good(), b"\0\0\0\x04moon");
        disk.from(B, &TEST_UNIT_READY, &[], 0).await.good();

        std::fs::create_dir(dir.path()).unwrap();
        disk.tell(&set, b"mars").await.good();
        assert_eq!(disk.ask(&report, 64).await.good(), b"\0\0\0\x04mars");
    });
}
