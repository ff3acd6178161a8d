//! GET LBA STATUS: the image's allocation in the initiator's words.
#![cfg(test)]

mod support;

use lunar_devices::DiskConfig;
use support::*;

const BLOCKS: usize = 64;
const SIZE: usize = BLOCKS * 512;
const MAPPED: u8 = 0;
const DEALLOCATED: u8 = 1;

fn ask(lba: u64, allocation: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[..2].copy_from_slice(&[0x9E, 0x12]);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&allocation.to_be_bytes());
    cdb
}

fn answer(list: &[(u64, u32, u8)]) -> Vec<u8> {
    let length = u32::try_from(4 + 16 * list.len()).unwrap();
    let mut data = [length.to_be_bytes(), [0; 4]].concat();
    for (lba, blocks, status) in list {
        data.extend(lba.to_be_bytes());
        data.extend(blocks.to_be_bytes());
        data.extend([*status, 0, 0, 0]);
    }
    data
}

/// Blocks 10 to 29 have data.
fn image() -> Recorder {
    let image = Recorder::new(SIZE);
    image.bytes.lock().unwrap()[10 * 512..30 * 512].fill(7);
    image
}

const ALL: [(u64, u32, u8); 3] = [
    (0, 10, DEALLOCATED),
    (10, 20, MAPPED),
    (30, 34, DEALLOCATED),
];

#[test]
fn descriptors_begin_at_the_block_asked_for_and_are_merged() {
    on_image(image(), DiskConfig::default(), |disk| async move {
        let all = disk.ask(&ask(0, 1000), 1000).await.good();
        assert_eq!(all, answer(&ALL));
        let some = disk.ask(&ask(15, 1000), 1000).await.good();
        assert_eq!(some, answer(&[(15, 15, MAPPED), (30, 34, DEALLOCATED)]));
        let last = disk.ask(&ask(63, 1000), 1000).await.good();
        assert_eq!(last, answer(&[(63, 1, DEALLOCATED)]));
    });
}

#[test]
fn there_are_as_many_descriptors_as_there_is_room_for_but_one_at_least() {
    on_image(image(), DiskConfig::default(), |disk| async move {
        for (room, descriptors) in [(24, 1), (39, 1), (40, 2), (55, 2), (56, 3), (57, 3)] {
            let data = disk.ask(&ask(0, room), 1000).await.good();
            assert_eq!(data, answer(&ALL[..descriptors]), "{room}");
        }
        for room in 0..24 {
            let data = disk.ask(&ask(0, room), 1000).await.good();
            assert_eq!(data, answer(&ALL[..1])[..room as usize], "{room}");
        }
        // The transport's buffer counts, too.
        assert_eq!(disk.ask(&ask(0, 1000), 40).await.good(), answer(&ALL[..2]));
        assert_eq!(disk.try_from(A, &ask(0, 24), &[], 23).await, None);
    });
}

#[test]
fn a_block_is_mapped_if_a_part_of_it_is() {
    let config = DiskConfig {
        logical_block_size: 4096,
        ..DiskConfig::default()
    };
    on_image(image(), config, |disk| async move {
        // Sectors 10 to 29 lie in the blocks 1, 2 and 3.
        let expected = answer(&[(0, 1, DEALLOCATED), (1, 3, MAPPED), (4, 4, DEALLOCATED)]);
        assert_eq!(disk.ask(&ask(0, 1000), 1000).await.good(), expected);
    });
}

#[test]
fn every_block_is_mapped_where_none_can_be_unmapped() {
    let image = image();
    image.info.lock().unwrap().can_discard = false;
    on_image(image, DiskConfig::default(), |disk| async move {
        let all = disk.ask(&ask(0, 1000), 1000).await.good();
        assert_eq!(all, answer(&[(0, 64, MAPPED)]));
    });
}

#[test]
fn a_block_behind_the_end_is_out_of_range() {
    on_image(image(), DiskConfig::default(), |disk| async move {
        for lba in [64, 65, 1 << 63, u64::MAX] {
            assert_eq!(disk.ask(&ask(lba, 24), 24).await.code(), (5, 0x21, 0));
        }
    });
}
