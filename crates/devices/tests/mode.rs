//! Mode pages: the four kinds of values of every page agree with each other, and with what MODE SELECT takes.
#![cfg(test)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "the lengths of these tests are small"
)]

mod support;

use std::path::Path;

use lunar_block::Space;
use lunar_devices::DiskConfig;
use lunar_target::{LogicalUnit, NexusId};
use support::*;

const SIZE: usize = 64 << 10;
const TEST_UNIT_READY: [u8; 6] = [0; 6];
const REQUEST_SENSE: [u8; 6] = [0x03, 0, 0, 0, 18, 0];
const CHANGED: (u8, u8, u8) = (0x6, 0x2A, 0x01);
/// PC.
const CURRENT: u8 = 0;
const CHANGEABLE: u8 = 1;
const DEFAULT: u8 = 2;
const SAVED: u8 = 3;

/// An image on which a disk has every page.
fn image() -> Recorder {
    let image = Recorder::new(SIZE);
    *image.space.lock().unwrap() = Some(Space {
        used: 1 << 20,
        available: 1 << 30,
    });
    image
}

fn beside(dir: &Path) -> DiskConfig {
    DiskConfig {
        beside: Some(dir.join("disk.img")),
        ..DiskConfig::default()
    }
}

/// The pages of a MODE SENSE without block descriptor, one after the other.
async fn pages(disk: &Bench, ten: bool, control: u8, page: u8, subpage: u8) -> Vec<Vec<u8>> {
    let page = control << 6 | page;
    let (cdb, header) = if ten {
        (vec![0x5A, 0x08, page, subpage, 0, 0, 0, 4, 0, 0], 8)
    } else {
        (vec![0x1A, 0x08, page, subpage, 255, 0], 4)
    };
    let data = disk.ask(&cdb, 1024).await.good();
    let length = if ten {
        2 + usize::from(u16::from_be_bytes([data[0], data[1]]))
    } else {
        1 + usize::from(data[0])
    };
    assert_eq!(length, data.len(), "MODE DATA LENGTH");
    let mut rest = &data[header..];
    let mut pages = Vec::new();
    while !rest.is_empty() {
        let length = match rest[0] & 0x40 {
            0 => 2 + usize::from(rest[1]),
            _ => 4 + usize::from(u16::from_be_bytes([rest[2], rest[3]])),
        };
        let (page, behind) = rest.split_at(length);
        pages.push(page.to_vec());
        rest = behind;
    }
    pages
}

/// Page and subpage code, and how long the header is.
fn key(page: &[u8]) -> (u8, u8, usize) {
    match page[0] & 0x40 {
        0 => (page[0] & 0x3F, 0, 2),
        _ => (page[0] & 0x3F, page[1], 4),
    }
}

async fn page(disk: &Bench, control: u8, key: (u8, u8, usize)) -> Vec<u8> {
    let mut pages = pages(disk, false, control, key.0, key.1).await;
    assert_eq!(pages.len(), 1);
    pages.remove(0)
}

async fn select(disk: &Bench, page: &[u8], save: bool) -> Answer {
    let list = [&[0; 4][..], page].concat();
    let flags = 0x10 | u8::from(save);
    disk.tell(&[0x15, flags, 0, 0, list.len() as u8, 0], &list)
        .await
}

/// Takes what the other nexus has to hear.
async fn heard(disk: &Bench) -> Option<(u8, u8, u8)> {
    heard_by(disk, B).await
}

/// Takes what a nexus has to hear, with REQUEST SENSE if it stays otherwise (UA_INTLCK_CTRL).
async fn heard_by(disk: &Bench, nexus: NexusId) -> Option<(u8, u8, u8)> {
    let answer = disk.from(nexus, &TEST_UNIT_READY, &[], 0).await;
    answer.completion.sense?;
    if disk.disk.state().task_rules().keeps_attentions() {
        let request_sense = [0x03, 0, 0, 0, 18, 0];
        disk.from(nexus, &request_sense, &[], 18).await.good();
    }
    Some(answer.code())
}

#[test]
fn all_pages_have_all_kinds_of_values_in_the_same_order() {
    let dir = tempfile::tempdir().unwrap();
    on_image(image(), beside(dir.path()), |disk| async move {
        let all = pages(&disk, true, CURRENT, 0x3F, 0xFF).await;
        let keys: Vec<_> = all.iter().map(|page| key(page)).collect();
        assert_eq!(
            keys.iter().map(|key| (key.0, key.1)).collect::<Vec<_>>(),
            [
                (0x01, 0),
                (0x08, 0),
                (0x0A, 0),
                (0x0A, 1),
                (0x1A, 0),
                (0x1C, 0),
                (0x1C, 2)
            ]
        );
        for control in [CURRENT, CHANGEABLE, DEFAULT, SAVED] {
            for ten in [false, true] {
                let these = pages(&disk, ten, control, 0x3F, 0xFF).await;
                let without = pages(&disk, ten, control, 0x3F, 0).await;
                let pages_only = these.iter().filter(|page| key(page).1 == 0);
                assert!(without.iter().eq(pages_only));
                for (this, first) in these.iter().zip(&all) {
                    let header = key(first).2;
                    assert_eq!(this[..header], first[..header]);
                    assert_eq!(this[0] & 0x80, 0x80, "PS");
                    assert_eq!(this.len(), first.len());
                    if control != CHANGEABLE {
                        assert_eq!(this, first, "nobody has changed anything");
                    }
                    assert_eq!(*this, page(&disk, control, key(first)).await);
                }
            }
        }
    });
}

#[test]
fn without_a_place_for_them_there_are_no_saved_values() {
    on_image(image(), DiskConfig::default(), |disk| async move {
        for page in pages(&disk, true, CURRENT, 0x3F, 0xFF).await {
            assert_eq!(page[0] & 0x80, 0, "PS");
            let (code, subpage, _) = key(&page);
            let saved = disk
                .ask(&[0x1A, 8, 0xC0 | code, subpage, 255, 0], 255)
                .await;
            assert_eq!(saved.code(), (0x5, 0x39, 0x00));
            let refused = (0x5, 0x24, 0x00);
            assert_eq!(select(&disk, &page, true).await.code(), refused, "SP");
        }
    });
}

/// What each bit of each page is, MODE SELECT agrees with: it is changed and saved, and comes back with a reset; or it is
/// refused, with a pointer to it, and nothing is changed.
#[test]
fn exactly_the_changeable_bits_can_be_changed_and_saved() {
    let dir = tempfile::tempdir().unwrap();
    on_image(image(), beside(dir.path()), |disk| async move {
        // No threshold is reached by this.
        *disk.image.space.lock().unwrap() = None;
        let mut changed = 0;
        for before in pages(&disk, true, CURRENT, 0x3F, 0xFF).await {
            let key = key(&before);
            let changeable = page(&disk, CHANGEABLE, key).await;
            let default = page(&disk, DEFAULT, key).await;
            for at in key.2..before.len() {
                for bit in 0..8 {
                    let mut wanted = before.clone();
                    wanted[at] ^= 1 << bit;
                    let answer = select(&disk, &wanted, false).await;
                    let refused = answer.completion.sense;
                    if changeable[at] >> bit & 1 == 0 {
                        let pointer = (4 + at as u16, bit);
                        let expected =
                            lunar_scsi::Sense::invalid_bits_in_parameters(pointer.0, pointer.1);
                        assert_eq!(refused, Some(expected), "{key:x?} {at} {bit}");
                    }
                    if refused.is_some() {
                        assert_eq!(answer.code(), (0x5, 0x26, 0x00));
                        assert_eq!(page(&disk, CURRENT, key).await, before);
                        assert_eq!(heard(&disk).await, None);
                        continue;
                    }
                    changed += 1;
                    assert_eq!(heard(&disk).await, Some(CHANGED));
                    assert_eq!(page(&disk, CURRENT, key).await, wanted);
                    assert_eq!(page(&disk, SAVED, key).await, before);
                    select(&disk, &wanted, true).await.good();
                    assert_eq!(heard(&disk).await, None, "nothing else has changed");
                    assert_eq!(page(&disk, SAVED, key).await, wanted);
                    assert_eq!(page(&disk, DEFAULT, key).await, default);
                    select(&disk, &before, false).await.good();
                    disk.disk.reset();
                    for nexus in [A, B] {
                        assert_eq!(heard_by(&disk, nexus).await, Some((0x6, 0x29, 0x03)));
                    }
                    // The write cache is a matter of what the initiator believes, see the disk.
                    if key.0 != 0x08 {
                        assert_eq!(page(&disk, CURRENT, key).await, wanted);
                    }
                    select(&disk, &before, true).await.good();
                    heard(&disk).await;
                }
            }
        }
        // LBPERE; WCE; TST, D_SENSE, one bit of QERR and of UA_INTLCK_CTRL, SWP, TAS; EWASC, DEXCPT, one of MRIE's bits (2 to 6 takes two); two thresholds of 33.
        assert_eq!(changed, 1 + 1 + 6 + 3 + 66);
    });
}

const EXCEPTIONS: (u8, u8, usize) = (0x1C, 0, 2);

/// The Informational Exceptions Control page.
fn exceptions(byte2: u8, mrie: u8) -> [u8; 12] {
    [0x1C, 0x0A, byte2, mrie, 0, 0, 0, 0, 0, 0, 0, 1]
}

/// ASC and ASCQ in log page 2Fh.
async fn logged(disk: &Bench) -> (u8, u8) {
    let log = disk.ask(&[0x4D, 0, 0x6F, 0, 0, 0, 0, 0, 64, 0], 64).await;
    let log = log.good();
    (log[8], log[9])
}

#[test]
fn an_exception_that_is_a_test_is_reported_as_the_page_says() {
    on_image(image(), DiskConfig::default(), |disk| async move {
        const FALSE_ALARM: (u8, u8) = (0x5D, 0xFF);
        let sense = async || {
            let sense = disk.ask(&REQUEST_SENSE, 18).await.good();
            (sense[2], sense[12], sense[13])
        };
        let default = page(&disk, CURRENT, EXCEPTIONS).await;
        assert_eq!(default, exceptions(0x08, 0), "disabled");
        assert_eq!(logged(&disk).await, (0, 0));

        // MRIE 2: a unit attention for everybody, once.
        select(&disk, &exceptions(0x04, 2), false).await.good();
        assert_eq!(
            disk.ask(&TEST_UNIT_READY, 0).await.code(),
            (0x6, 0x5D, 0xFF)
        );
        assert_eq!(heard(&disk).await, Some((0x6, 0x5D, 0xFF)));
        assert_eq!(heard(&disk).await, Some(CHANGED));
        assert_eq!(logged(&disk).await, FALSE_ALARM);
        assert_eq!(sense().await, (0, 0, 0), "reported already");
        select(&disk, &exceptions(0x14, 2), false).await.good();
        assert_eq!(heard(&disk).await, Some(CHANGED));
        assert_eq!(heard(&disk).await, None, "the same exception");

        // MRIE 6: when it is asked for, as often as that.
        select(&disk, &exceptions(0x04, 6), false).await.good();
        assert_eq!(heard(&disk).await, Some(CHANGED));
        for _ in 0..2 {
            assert_eq!(sense().await, (0, 0x5D, 0xFF));
        }
        disk.ask(&[0x1B, 0, 0, 0, 0x20, 0], 0).await.good();
        assert_eq!(sense().await, (0, 0x5D, 0xFF), "before the power condition");
        disk.ask(&[0x1B, 0, 0, 0, 0, 0], 0).await.good();
        assert_eq!(sense().await, (0x2, 0x04, 0x02), "after what is worse");
        disk.ask(&[0x1B, 0, 0, 0, 1, 0], 0).await.good();

        // MRIE 0: in the log only.
        select(&disk, &exceptions(0x04, 0), false).await.good();
        assert_eq!(heard(&disk).await, Some(CHANGED));
        assert_eq!(
            (sense().await, logged(&disk).await),
            ((0, 0, 0), FALSE_ALARM)
        );

        // It ends with the test, or with a reset.
        select(&disk, &exceptions(0x00, 6), false).await.good();
        assert_eq!((sense().await, logged(&disk).await), ((0, 0, 0), (0, 0)));
        select(&disk, &exceptions(0x04, 6), false).await.good();
        disk.disk.reset();
        disk.ask(&TEST_UNIT_READY, 0).await.sense();
        assert_eq!((sense().await, logged(&disk).await), ((0, 0, 0), (0, 0)));
    });
}

#[test]
fn exceptions_that_cannot_be_reported_so_are_refused() {
    on_image(image(), DiskConfig::default(), |disk| async move {
        let pointer = lunar_scsi::Sense::invalid_bits_in_parameters;
        let both = select(&disk, &exceptions(0x0C, 0), false).await;
        assert_eq!(both.sense(), pointer(6, 2), "TEST and DEXCPT");
        for mrie in [1, 3, 4, 5, 7, 8, 0xF] {
            let answer = select(&disk, &exceptions(0x00, mrie), false).await;
            assert_eq!(answer.sense(), pointer(7, 3), "MRIE {mrie}");
        }
        let page = page(&disk, CURRENT, EXCEPTIONS).await;
        assert_eq!(page, exceptions(0x08, 0));
        assert_eq!(heard(&disk).await, None);
    });
}
