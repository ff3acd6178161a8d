//! EXTENDED COPY between disks, and RECEIVE COPY RESULTS.
#![cfg(test)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "the numbers of a test are small"
)]

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use lunar_block::{Error, OpKind};
use lunar_devices::DiskConfig;
use lunar_reactor::Handle;
use lunar_scsi::Sense;
use lunar_scsi::alua::AccessState;
use lunar_target::{LogicalUnit, Path};
use support::*;

const BLOCKS: usize = 128;
const SIZE: usize = BLOCKS * 512;

fn pattern(blocks: usize) -> Vec<u8> {
    (0..blocks * 512)
        .map(|i| (i / 512) as u8 ^ i as u8)
        .collect()
}

fn config(name: &str) -> DiskConfig {
    DiskConfig {
        identity: name.into(),
        ..DiskConfig::default()
    }
}

/// A CSCD descriptor with the disk's NAA designator.
async fn cscd(disk: &Bench, block: u16) -> Vec<u8> {
    let page = disk.ask(&[0x12, 1, 0x83, 0, 255, 0], 255).await.good();
    let naa = page.windows(4).position(|w| w == [1, 3, 0, 8]).unwrap();
    let mut descriptor = vec![0xE4, 0, 0, 0];
    descriptor.extend(&page[naa..naa + 12]);
    descriptor.resize(30, 0);
    descriptor.extend(block.to_be_bytes());
    descriptor
}

/// Block to block: from, to, blocks, source LBA, destination LBA.
fn blocks(from: u8, to: u8, count: u16, source: u64, destination: u64) -> Vec<u8> {
    let mut segment = vec![0x02, 0, 0, 0x18, 0, from, 0, to, 0, 0];
    segment.extend(count.to_be_bytes());
    segment.extend(source.to_be_bytes());
    segment.extend(destination.to_be_bytes());
    segment
}

/// The same counted in bytes, with an offset in the source's block.
fn bytes(count: u32, offset: u8, source: u64, destination: u64) -> Vec<u8> {
    let mut segment = vec![0x0A, 0, 0, 0x1C, 0, 0, 0, 0];
    segment.extend(count.to_be_bytes());
    segment.extend(source.to_be_bytes());
    segment.extend(destination.to_be_bytes());
    segment.extend([0, offset, 0, 0]);
    segment
}

fn copy(cscds: &[Vec<u8>], segments: &[Vec<u8>]) -> (Vec<u8>, Vec<u8>) {
    let (cscds, segments) = (cscds.concat(), segments.concat());
    let mut list = vec![7, 0];
    list.extend((cscds.len() as u16).to_be_bytes());
    list.extend([0; 4]);
    list.extend((segments.len() as u32).to_be_bytes());
    list.extend([0; 4]);
    list.extend(cscds);
    list.extend(segments);
    let mut cdb = vec![0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    cdb.extend((list.len() as u32).to_be_bytes());
    cdb.extend([0, 0]);
    (cdb, list)
}

fn status_of(id: u8) -> [u8; 16] {
    [0x84, 0, id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]
}

async fn code(disk: &Bench, (cdb, list): (Vec<u8>, Vec<u8>)) -> (u8, u8, u8) {
    disk.tell(&cdb, &list).await.code()
}

#[test]
fn several_segments_are_copied_in_order() {
    on_disk(SIZE, config("a"), |disk| async move {
        let data = pattern(8);
        disk.image.bytes.lock().unwrap()[..8 * 512].copy_from_slice(&data);
        let a = cscd(&disk, 512).await;
        let segments = [
            blocks(0, 0, 8, 0, 100),
            bytes(1024, 0, 100, 50),
            blocks(0, 0, 0, 128, 128),
        ];
        let (cdb, list) = copy(&[a], &segments);
        disk.log();
        let answer = disk.tell(&cdb, &list).await;
        assert_eq!(answer.completion.transferred, list.len());
        assert_eq!(answer.good(), []);
        assert_eq!(disk.bytes()[100 * 512..108 * 512], data);
        assert_eq!(disk.bytes()[50 * 512..52 * 512], data[..1024]);
        assert_eq!(
            disk.log(),
            [
                (OpKind::Read, 0, 4096),
                (OpKind::Write { fua: false }, 51200, 4096),
                (OpKind::Read, 51200, 1024),
                (OpKind::Write { fua: false }, 25600, 1024),
            ]
        );
        let status = disk.ask(&status_of(7), 32).await.good();
        assert_eq!(status, [0, 0, 0, 8, 1, 0, 3, 0, 0, 0, 0x14, 0]);
    });
}

#[test]
fn a_copy_goes_to_any_disk_that_the_nexus_reaches_and_to_no_other() {
    on_reactor(|reactor| async move {
        let other = DiskConfig {
            logical_block_size: 4096,
            ..config("b")
        };
        let b = Bench::new(reactor.clone(), Recorder::new(SIZE), other)
            .settled()
            .await;
        let mut a = Bench::new(reactor, Recorder::new(SIZE), config("a"))
            .settled()
            .await;
        let data = pattern(16);
        a.image.bytes.lock().unwrap()[8 * 512..24 * 512].copy_from_slice(&data);
        let ends = [cscd(&a, 512).await, cscd(&b, 4096).await];

        let there = || copy(&ends, &[blocks(0, 1, 16, 8, 3)]);
        assert_eq!(code(&a, there()).await, (0xA, 0x08, 0x04));
        assert_eq!(b.bytes(), [0; SIZE]);

        let unit: Arc<dyn LogicalUnit> = b.disk.clone();
        a.reaches.push((unit, Rc::clone(&b.io)));
        let (cdb, list) = there();
        a.tell(&cdb, &list).await.good();
        assert_eq!(b.bytes()[3 * 4096..5 * 4096], data);
        // Not a whole number of the destination's blocks.
        let inexact = copy(&ends, &[blocks(0, 1, 9, 8, 3)]);
        assert_eq!(code(&a, inexact).await, (0xA, 0x26, 0x0A));

        *b.image.failure.lock().unwrap() = Some(Error::from_errno(libc::EIO));
        assert_eq!(code(&a, there()).await, (0xA, 0x0D, 0x01));
        let status = a.ask(&status_of(7), 32).await.good();
        assert_eq!(status, [0, 0, 0, 8, 2, 0, 0, 0, 0, 0, 0, 0]);
    });
}

/// Two disks, of which the first one reaches both.
async fn pair(reactor: Handle, images: [Recorder; 2]) -> (Bench, Bench) {
    let [a, b] = images;
    let b = Bench::new(reactor.clone(), b, config("b")).settled().await;
    let mut a = Bench::new(reactor, a, config("a")).settled().await;
    let unit: Arc<dyn LogicalUnit> = b.disk.clone();
    a.reaches.push((unit, Rc::clone(&b.io)));
    (a, b)
}

/// B registers with a disk, and takes a reservation of this type.
async fn reserve(disk: &Bench, kind: u8) {
    for (action, key, new) in [(0, 0, 1), (1, 1, 0)] {
        let cdb = [0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0];
        let mut list = [0; 24];
        (list[7], list[15]) = (key, new);
        disk.from(B, &cdb, &list, 0).await.good();
    }
}

/// A disk of which a copy is made refused the copy manager.
const REFUSED: (u8, u8, u8) = (0xA, 0x0D, 0x01);

#[test]
fn a_copy_into_a_unit_reserved_by_another_nexus_is_aborted_and_writes_nothing() {
    for kind in [1, 3, 5, 6] {
        on_reactor(move |reactor| async move {
            let (a, b) = pair(reactor, [Recorder::new(SIZE), Recorder::new(SIZE)]).await;
            let ends = [cscd(&a, 512).await, cscd(&b, 512).await];
            let there = || copy(&ends, &[blocks(0, 1, 16, 0, 0)]);
            a.tell(&there().0, &there().1).await.good();
            reserve(&b, kind).await;
            b.log();
            assert_eq!(code(&a, there()).await, REFUSED, "{kind}");
            assert_eq!(b.log(), []);
        });
    }
    on_reactor(|reactor| async move {
        let (a, b) = pair(reactor, [Recorder::new(SIZE), Recorder::new(SIZE)]).await;
        let ends = [cscd(&a, 512).await, cscd(&b, 512).await];
        let there = || copy(&ends, &[blocks(0, 1, 16, 0, 0)]);
        b.from(B, &[0x16, 0, 0, 0, 0, 0], &[], 0).await.good();
        assert_eq!(code(&a, there()).await, REFUSED);
        assert_eq!(b.log(), []);
        b.from(B, &[0x17, 0, 0, 0, 0, 0], &[], 0).await.good();
        a.tell(&there().0, &there().1).await.good();
    });
}

#[test]
fn a_copy_reads_a_reserved_unit_only_where_a_read_may() {
    for (kind, readable) in [(1, true), (3, false), (5, true), (6, false)] {
        on_reactor(move |reactor| async move {
            let (a, b) = pair(reactor, [Recorder::new(SIZE), Recorder::new(SIZE)]).await;
            b.image.bytes.lock().unwrap().fill(7);
            let ends = [cscd(&a, 512).await, cscd(&b, 512).await];
            reserve(&b, kind).await;
            let (cdb, list) = copy(&ends, &[blocks(1, 0, 16, 0, 0)]);
            let answer = a.tell(&cdb, &list).await;
            if readable {
                answer.good();
                assert_eq!(a.bytes()[..16 * 512], [7; 16 * 512]);
            } else {
                assert_eq!(answer.code(), REFUSED);
                assert_eq!((a.log(), b.log()), (vec![], vec![]));
            }
        });
    }
}

#[test]
fn a_copy_stops_where_another_nexus_has_reserved_its_destination_meanwhile() {
    const CHUNKS: usize = 16;
    const LARGE: usize = CHUNKS * (256 << 10);
    on_reactor(|reactor| async move {
        let slow = || Recorder {
            slow: true,
            ..Recorder::new(LARGE)
        };
        let (a, b) = pair(reactor.clone(), [slow(), slow()]).await;
        let (a, b) = (Rc::new(a), Rc::new(b));
        let ends = [cscd(&a, 512).await, cscd(&b, 512).await];
        let all = copy(&ends, &[blocks(0, 1, (LARGE / 512) as u16, 0, 0)]);
        let ended = Rc::new(Cell::new(None));
        reactor.spawn({
            let (a, ended) = (Rc::clone(&a), Rc::clone(&ended));
            async move { ended.set(Some(code(&a, all).await)) }
        });
        while b.image.log.lock().unwrap().is_empty() {
            reactor.yield_now().await;
        }
        reserve(&b, 1).await;
        while ended.get().is_none() {
            reactor.yield_now().await;
        }
        assert_eq!(ended.get(), Some(REFUSED));
        let written = b.log().len();
        assert!((1..CHUNKS).contains(&written), "{written}");
    });
}

#[test]
fn a_copy_obeys_access_state_write_protection_and_what_has_the_medium() {
    on_reactor(|reactor| async move {
        let slow = Recorder {
            slow: true,
            ..Recorder::new(SIZE)
        };
        let (a, b) = pair(reactor, [Recorder::new(SIZE), slow]).await;
        let ends = [cscd(&a, 512).await, cscd(&b, 512).await];
        let into = || copy(&ends, &[blocks(0, 1, 16, 0, 0)]);
        let from = || copy(&ends, &[blocks(1, 0, 16, 0, 0)]);
        let state = b.disk.state();

        for refusing in [
            AccessState::Standby,
            AccessState::Unavailable,
            AccessState::Offline,
        ] {
            state.set_access_state(Path::DEFAULT_GROUP, refusing);
            assert_eq!(code(&a, into()).await, REFUSED, "{refusing:?}");
            assert_eq!(code(&a, from()).await, REFUSED, "{refusing:?}");
        }
        state.set_access_state(Path::DEFAULT_GROUP, AccessState::NonOptimized);
        while state.take_attention(A).is_some() {}

        state.set_software_write_protect(true);
        assert_eq!(code(&a, into()).await, REFUSED);
        assert_eq!((a.log(), b.log()), (vec![], vec![]));
        a.tell(&from().0, &from().1).await.good();
        state.set_software_write_protect(false);

        let immediate = [0x48, 0x82, 0, 0, 0, 0, 0, 0, 0, 0];
        b.ask(&immediate, 0).await.good();
        a.log();
        assert_eq!(code(&a, into()).await, REFUSED);
        assert_eq!(code(&a, from()).await, REFUSED);
        assert_eq!(a.log(), []);
        b.settle().await;
        a.tell(&into().0, &into().1).await.good();
    });
}

#[test]
fn what_cannot_be_copied_says_why() {
    on_disk(SIZE, config("a"), |disk| async move {
        let a = cscd(&disk, 512).await;
        let one = |segment| copy(std::slice::from_ref(&a), &[segment]);
        disk.log();
        for (segment, expected) in [
            (blocks(0, 1, 1, 0, 1), (0xA, 0x08, 0x04)),
            (blocks(9, 0, 1, 0, 1), (0xA, 0x08, 0x04)),
            (blocks(0, 0, 2, 0, 127), (0xA, 0x0D, 0x02)),
            (blocks(0, 0, 2, u64::MAX, 0), (0xA, 0x0D, 0x02)),
            (bytes(512, 1, 0, 1), (0xA, 0x26, 0x0D)),
            (bytes(511, 0, 0, 1), (0xA, 0x26, 0x0D)),
            (bytes((16 << 20) + 512, 0, 0, 1), (0x5, 0x26, 0x00)),
        ] {
            assert_eq!(code(&disk, one(segment)).await, expected);
        }
        let altered = |at: usize, byte: u8| {
            let mut cscd = a.clone();
            cscd[at] = byte;
            copy(&[cscd], &[blocks(0, 0, 1, 0, 1)])
        };
        for (at, byte, expected) in [
            (1, 0x40, (0x5, 0x26, 0x00)),  // LU ID TYPE
            (1, 0x20, (0xA, 0x08, 0x04)),  // NUL
            (1, 0x05, (0xA, 0x0D, 0x03)),  // PERIPHERAL DEVICE TYPE
            (3, 0x01, (0x5, 0x26, 0x00)),  // RELATIVE INITIATOR PORT IDENTIFIER
            (8, 0xFF, (0xA, 0x08, 0x04)),  // DESIGNATOR
            (30, 0x10, (0x5, 0x26, 0x00)), // DISK BLOCK LENGTH
        ] {
            assert_eq!(code(&disk, altered(at, byte)).await, expected, "{at}");
        }
        assert_eq!(disk.log(), []);
        disk.tell(&[0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[])
            .await
            .good();
        let (cdb, list) = copy(&[], &[]);
        disk.tell(&cdb, &list).await.good();
        assert_eq!(disk.try_from(A, &cdb, &list[..15], 0).await, None);
    });
    let image = Recorder::new(SIZE);
    image.info.lock().unwrap().read_only = true;
    on_image(image, config("a"), |disk| async move {
        let a = cscd(&disk, 512).await;
        let there = copy(&[a], &[blocks(0, 0, 1, 0, 1)]);
        assert_eq!(code(&disk, there).await, (0xA, 0x0D, 0x01));
        assert_eq!(disk.log(), []);
    });
}

#[test]
fn from_spc_4_on_a_descriptor_has_no_lu_id_type() {
    let config = DiskConfig {
        scsi_version: 6,
        ..config("a")
    };
    on_disk(SIZE, config, |disk| async move {
        let mut a = cscd(&disk, 512).await;
        a[1] = 0xE0;
        let (cdb, list) = copy(&[a], &[blocks(0, 0, 1, 0, 1)]);
        disk.tell(&cdb, &list).await.good();
    });
}

#[test]
fn results_belong_to_a_nexus_and_end_with_a_reset() {
    on_disk(SIZE, config("a"), |disk| async move {
        let unknown = Sense::invalid_field_in_cdb(2);
        assert_eq!(disk.ask(&status_of(7), 32).await.sense(), unknown);
        let a = cscd(&disk, 512).await;
        let (cdb, list) = copy(&[a], &[blocks(0, 0, 1, 0, 1)]);
        disk.tell(&cdb, &list).await.good();
        disk.ask(&status_of(7), 32).await.good();
        assert_eq!(disk.from(B, &status_of(7), &[], 32).await.sense(), unknown);
        assert_eq!(disk.ask(&status_of(8), 32).await.sense(), unknown);
        disk.disk.nexus_loss(B);
        disk.ask(&status_of(7), 32).await.good();
        disk.disk.reset();
        disk.ask(&status_of(7), 32).await.sense();
        assert_eq!(disk.ask(&status_of(7), 32).await.sense(), unknown);
    });
}

#[test]
fn operating_parameters_and_the_vpd_page_agree() {
    on_disk(SIZE, config("a"), |disk| async move {
        let cdb = [0x84, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0];
        let parameters = disk.ask(&cdb, 1024).await.good();
        let page = disk.ask(&[0x12, 1, 0x8F, 0, 255, 0], 255).await.good();
        assert_eq!(
            parameters[8..16],
            page[24..32],
            "counts and length of descriptors"
        );
        assert_eq!(parameters[16..20], page[68..72], "segment length");
        let inquiry = disk.ask(&[0x12, 0, 0, 0, 96, 0], 96).await.good();
        assert_eq!(inquiry[5] & 0x08, 0x08, "3PC");
    });
}
