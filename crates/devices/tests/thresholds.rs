//! Thin provisioning: initiators find out how full the host is, and have themselves told.
#![cfg(test)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "the lengths of these tests are small"
)]

mod support;

use std::time::{Duration, Instant};

use lunar_block::Space;
use lunar_devices::DiskConfig;
use lunar_target::LogicalUnit;
use support::*;

const MIB: u64 = 1 << 20;
const SIZE: usize = 64 << 10;
const TEST_UNIT_READY: [u8; 6] = [0; 6];
const REACHED: (u8, u8, u8) = (0x6, 0x38, 0x07);
const PROVISIONING: [u8; 6] = [0x12, 1, 0xB2, 0, 255, 0];
const LOG: [u8; 10] = [0x4D, 0, 0x4C, 0, 0, 0, 0, 0, 255, 0];

fn space(used: u64, available: u64) -> Option<Space> {
    Some(Space {
        used: used * MIB,
        available: available * MIB,
    })
}

fn image(used: u64, available: u64) -> Recorder {
    let image = Recorder::new(SIZE);
    *image.space.lock().unwrap() = space(used, available);
    image
}

fn set(disk: &Bench, used: u64, available: u64) {
    *disk.image.space.lock().unwrap() = space(used, available);
}

/// A MODE SELECT(6) of the thresholds; none is not enabled.
fn thresholds(available: Option<u32>, used: Option<u32>) -> Vec<u8> {
    let descriptor = |arming: u8, resource: u8, count: Option<u32>| {
        let enabled = u8::from(count.is_some()) << 7;
        let count = count.unwrap_or(0).to_be_bytes();
        [&[enabled | arming, resource, 0, 0][..], &count].concat()
    };
    [
        &[0; 4][..],
        &[0x5C, 0x02, 0, 28],
        &[0; 12],
        &descriptor(0, 1, available),
        &descriptor(1, 2, used),
    ]
    .concat()
}

async fn select(disk: &Bench, available: Option<u32>, used: Option<u32>, save: bool) {
    let list = thresholds(available, used);
    let cdb = [0x15, 0x10 | u8::from(save), 0, 0, list.len() as u8, 0];
    disk.tell(&cdb, &list).await.good();
    // The other one hears of changed mode parameters.
    disk.from(B, &TEST_UNIT_READY, &[], 0).await;
}

/// What both hear after somebody has looked; they hear the same.
async fn news(disk: &Bench) -> Option<(u8, u8, u8)> {
    let mut heard = [None; 2];
    // The first one looks. The disk may have looked by itself just before, and then it is this command that hears of it.
    let asked = [(A, &LOG[..]), (A, &TEST_UNIT_READY), (B, &TEST_UNIT_READY)];
    for (nexus, cdb) in asked {
        let answer = disk.from(nexus, cdb, &[], 255).await;
        if answer.completion.sense.is_some() {
            let heard = &mut heard[nexus.0 as usize - 1];
            assert_eq!(heard.replace(answer.code()), None);
        }
    }
    assert_eq!(heard[0], heard[1]);
    heard[0]
}

#[test]
fn the_log_page_counts_what_is_taken_and_what_is_left() {
    on_image(image(3, 5), DiskConfig::default(), |disk| async move {
        assert_eq!(
            disk.ask(&PROVISIONING, 255).await.good()[4],
            11,
            "2^11 * 512"
        );
        let available = [0, 1, 0x03, 8, 0, 0, 0, 5, 0b10, 0, 0, 0];
        let used = [0, 2, 0x03, 8, 0, 0, 0, 3, 0b01, 0, 0, 0];
        let page = disk.ask(&LOG, 255).await.good();
        assert_eq!(page, [&[0x8C, 0, 0, 24][..], &available, &used].concat());
        let from = |code| [0x4D, 0, 0x4C, 0, 0, 0, code, 0, 255, 0];
        let page = disk.ask(&from(2), 255).await.good();
        assert_eq!(page, [&[0x8C, 0, 0, 12][..], &used].concat());
        assert_eq!(disk.ask(&from(3), 255).await.code(), (0x5, 0x24, 0x00));
        let mut short = LOG;
        short[8] = 7;
        let cut = disk.ask(&short, 7).await.good();
        assert_eq!(cut, [0x8C, 0, 0, 24, 0, 1, 0x03]);
        assert!(disk.try_from(A, &LOG, &[], 20).await.is_none(), "OVERRUN");

        // Neither promises too much, and what is more than can be counted is as much as can be counted.
        *disk.image.space.lock().unwrap() = Some(Space {
            used: 3 * MIB + 1,
            available: u64::MAX,
        });
        let page = disk.ask(&LOG, 255).await.good();
        assert_eq!(page[8..12], [0xFF; 4]);
        assert_eq!(page[20..24], [0, 0, 0, 4]);
    });
}

#[test]
fn a_disk_that_cannot_know_has_no_thresholds() {
    let full = image(1, 1);
    full.info.lock().unwrap().can_discard = false;
    for image in [Recorder::new(SIZE), full] {
        on_image(image, DiskConfig::default(), |disk| async move {
            assert_eq!(disk.ask(&PROVISIONING, 255).await.good()[4], 0);
            let refused = (0x5, 0x24, 0x00);
            assert_eq!(disk.ask(&LOG, 255).await.code(), refused);
            let page = [0x1A, 0x08, 0x1C, 0x02, 255, 0];
            assert_eq!(disk.ask(&page, 255).await.code(), refused);
            let recovery = disk.ask(&[0x1A, 8, 0x41, 0, 255, 0], 255).await.good();
            assert_eq!(recovery[11], 0, "LBPERE means nothing");
        });
    }
}

#[test]
fn everybody_hears_once_of_a_threshold_that_is_reached() {
    on_image(image(1, 9), DiskConfig::default(), |disk| async move {
        select(&disk, Some(4), Some(6), false).await;
        assert_eq!(news(&disk).await, None);
        set(&disk, 2, 5);
        assert_eq!(news(&disk).await, None);
        set(&disk, 3, 4);
        assert_eq!(news(&disk).await, Some(REACHED));
        assert_eq!(news(&disk).await, None, "only once");
        set(&disk, 3, 3);
        assert_eq!(news(&disk).await, None, "the same threshold");
        set(&disk, 6, 3);
        assert_eq!(news(&disk).await, Some(REACHED), "the other one");
        set(&disk, 5, 5);
        assert_eq!(news(&disk).await, None);
        set(&disk, 5, 4);
        assert_eq!(news(&disk).await, Some(REACHED), "once more");
    });
}

#[test]
fn lbpere_switches_all_thresholds_off() {
    on_image(image(1, 9), DiskConfig::default(), |disk| async move {
        select(&disk, Some(4), None, false).await;
        let mut recovery = vec![0; 16];
        recovery[4..7].copy_from_slice(&[0x01, 0x0A, 0x80]);
        disk.tell(&[0x15, 0x10, 0, 0, 16, 0], &recovery)
            .await
            .good();
        disk.from(B, &TEST_UNIT_READY, &[], 0).await;
        set(&disk, 9, 1);
        assert_eq!(news(&disk).await, None);
    });
}

#[test]
fn a_threshold_is_noticed_without_anybody_asking() {
    on_image(image(1, 9), DiskConfig::default(), |disk| async move {
        select(&disk, Some(4), None, false).await;
        set(&disk, 6, 4);
        let begun = Instant::now();
        let heard = loop {
            let answer = disk.ask(&TEST_UNIT_READY, 0).await;
            if answer.completion.sense.is_some() {
                break answer.code();
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "nobody looks");
            disk.pause(Duration::from_millis(10)).await;
        };
        assert_eq!(heard, REACHED);
    });
}

#[test]
fn saved_thresholds_outlive_a_restart_and_a_reset() {
    on_reactor(|reactor| async move {
        let dir = tempfile::tempdir().unwrap();
        let config = DiskConfig {
            beside: Some(dir.path().join("disk.img")),
            ..DiskConfig::default()
        };
        let disk = Bench::new(reactor.clone(), image(1, 9), config.clone());
        let disk = disk.settled().await;
        select(&disk, Some(4), None, true).await;
        disk.disk.reset();
        assert_eq!(news(&disk).await, Some((0x6, 0x29, 0x03)));
        set(&disk, 6, 4);
        assert_eq!(news(&disk).await, Some(REACHED));

        let again = Bench::new(reactor, image(1, 9), config).settled().await;
        assert_eq!(news(&again).await, None);
        set(&again, 6, 4);
        assert_eq!(news(&again).await, Some(REACHED));
    });
}
