//! What a disk says of itself in one place agrees with what it says in others, and with what it does.
#![cfg(test)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "the lengths of these tests are small"
)]

mod support;

use lunar_block::Space;
use lunar_devices::DiskConfig;
use lunar_scsi::vpd::{Identifier, designators};
use lunar_target::spc::Primary;
use support::*;

const SIZE: usize = 4 << 20;
const INVALID_FIELD: (u8, u8, u8) = (0x5, 0x24, 0x00);
const UNKNOWN: (u8, u8, u8) = (0x5, 0x20, 0x00);

/// Disks that differ in what they say of themselves.
fn disks() -> Vec<(Recorder, DiskConfig)> {
    let space = |image: Recorder| {
        *image.space.lock().unwrap() = Some(Space {
            used: 1 << 20,
            available: 1 << 30,
        });
        image
    };
    let full = Recorder::new(SIZE);
    full.info.lock().unwrap().can_discard = false;
    let kept = Recorder::new(SIZE);
    kept.info.lock().unwrap().volatile = false;
    let named = DiskConfig {
        serial: Some("S1".into()),
        logical_block_size: 4096,
        rotation_rate: 1,
        scsi_version: 6,
        max_io_size: 64 << 10,
        max_unmap_size: 128 << 10,
        ..DiskConfig::default()
    };
    let plain = DiskConfig {
        identity: "drive0".into(),
        dpofua: false,
        removable: true,
        physical_block_size: Some(4096),
        ..DiskConfig::default()
    };
    vec![
        (space(Recorder::new(SIZE)), DiskConfig::default()),
        (space(Recorder::new(SIZE)), named),
        (full, DiskConfig::default()),
        (kept, plain),
    ]
}

#[track_caller]
fn on_every_disk<F: Future<Output = ()> + 'static>(test: fn(Bench) -> F) {
    for (image, config) in disks() {
        on_image(image, config, test);
    }
}

async fn vpd(disk: &Bench, page: u8) -> Vec<u8> {
    disk.ask(&[0x12, 1, page, 4, 0, 0], 1024).await.good()
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, &byte| n << 8 | u64::from(byte))
}

/// READ CAPACITY(16): blocks, bytes in one, and the answer.
async fn capacity(disk: &Bench) -> (u64, u64, Vec<u8>) {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[13]) = (0x9E, 0x10, 32);
    let data = disk.ask(&cdb, 32).await.good();
    (number(&data[..8]) + 1, number(&data[8..12]), data)
}

/// Whether the disk has a command, by its answer to REPORT SUPPORTED OPERATION CODES.
async fn has(disk: &Bench, opcode: u8, action: Option<u8>) -> bool {
    let options = 1 + u8::from(action.is_some());
    let cdb = [
        0xA3,
        0x0C,
        options,
        opcode,
        0,
        action.unwrap_or(0),
        0,
        0,
        0,
        255,
        0,
        0,
    ];
    disk.ask(&cdb, 255).await.good()[1] & 7 == 3
}

/// A 16-byte CDB with LBA 0 and so many blocks.
fn long(opcode: u8, flags: u8, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

#[test]
fn the_serial_number_is_the_same_everywhere() {
    on_every_disk(|disk| async move {
        let serial = vpd(&disk, 0x80).await;
        let page = vpd(&disk, 0x83).await;
        let names: Vec<_> = designators(&page).map(|d| d.identifier).collect();
        let naa = names.iter().find_map(|name| match name {
            Identifier::Naa(naa) => Some(naa.to_vec()),
            _ => None,
        });
        assert_eq!(naa.unwrap().len(), 8);
        for name in &names {
            if let Identifier::VendorSpecific(name) = name
                && serial[4..] == *b"S1"
            {
                assert_eq!(*name, &serial[4..]);
            }
        }
    });
}

#[test]
fn all_ways_to_ask_for_the_capacity_say_the_same() {
    on_every_disk(|disk| async move {
        let (blocks, length, _) = capacity(&disk).await;
        assert_eq!(blocks * length, SIZE as u64);
        let short = disk.ask(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8).await.good();
        assert_eq!(number(&short[..4]) + 1, blocks);
        assert_eq!(number(&short[4..]), length);
        let mode = disk.ask(&[0x1A, 0, 0x08, 0, 255, 0], 255).await.good();
        assert_eq!(number(&mode[4..8]), blocks);
        assert_eq!(number(&mode[9..12]), length);
        let mode = disk
            .ask(&[0x5A, 0x10, 0x08, 0, 0, 0, 0, 0, 255, 0], 255)
            .await;
        let mode = mode.good();
        assert_eq!(number(&mode[8..16]), blocks);
        assert_eq!(number(&mode[20..24]), length);
        let last = (blocks as u32 - 1).to_be_bytes();
        let read = |more: u8| {
            let [a, b, c, d] = last;
            let cdb = [0x28, 0, a, b, c, d, 0, 0, 1 + more, 0];
            disk.from(A, &cdb, &[], 2 * 4096)
        };
        // Both buffers are long enough; the second block is not there.
        assert_eq!(read(0).await.good().len() as u64, length);
        assert_eq!(read(1).await.code(), (0x5, 0x21, 0x00));
    });
}

#[test]
fn block_limits_are_what_commands_are_held_to() {
    on_every_disk(|disk| async move {
        let (blocks, length, _) = capacity(&disk).await;
        let limits = vpd(&disk, 0xB0).await;
        let limit = |at: usize| number(&limits[at..at + 4]);
        assert_eq!(limits[4], 1, "WSNZ");
        let none = disk.tell(&long(0x93, 0, 0), &[0; 4096]).await;
        assert_eq!(none.code(), INVALID_FIELD, "WSNZ");

        // One more than there may be is an invalid field, whatever the capacity is.
        let transfer = limit(8) as u32;
        for opcode in [0x88, 0x8A, 0x8F] {
            let answer = disk.ask(&long(opcode, 0, transfer + 1), 0).await;
            assert_eq!(answer.code(), INVALID_FIELD, "{opcode:#x}");
        }
        let same = number(&limits[36..44]) as u32;
        let block = vec![0; length as usize];
        let answer = disk.tell(&long(0x93, 0, same + 1), &block).await;
        assert_eq!(answer.code(), INVALID_FIELD);
        if u64::from(transfer) <= blocks {
            let most = (u64::from(transfer) * length) as usize;
            assert_eq!(
                disk.ask(&long(0x88, 0, transfer), most).await.good().len(),
                most
            );
            disk.tell(&long(0x93, 0, same), &block).await.good();
        }
        let compare = limits[5];
        assert_ne!(compare, 0);
        assert!(has(&disk, 0x89, None).await);
        if let Some(more) = compare.checked_add(1) {
            let mut cdb = [0; 16];
            (cdb[0], cdb[13]) = (0x89, more);
            assert_eq!(disk.ask(&cdb, 0).await.code(), INVALID_FIELD);
        }
        assert_eq!(limit(44) != 0, has(&disk, 0x9C, None).await, "WRITE ATOMIC");
    });
}

#[test]
fn what_is_said_of_provisioning_is_what_can_be_done() {
    on_every_disk(|disk| async move {
        let (_, length, capacity) = capacity(&disk).await;
        let (limits, page) = (vpd(&disk, 0xB0).await, vpd(&disk, 0xB2).await);
        let managed = capacity[14] & 0x80 != 0;
        let unmap = page[5] & 0x80 != 0;
        assert_eq!(managed, page[6] & 7 == 2, "LBPME and the type");
        assert_eq!(capacity[14] & 0x40 != 0, page[5] & 0x04 != 0, "LBPRZ");
        assert_eq!(managed, unmap);
        assert_eq!(unmap, has(&disk, 0x42, None).await);
        for (at, what) in [(20, "blocks"), (24, "descriptors"), (28, "granularity")] {
            assert_eq!(number(&limits[at..at + 4]) != 0, unmap, "{what}");
        }
        let block = vec![0; length as usize];
        let erased = disk.tell(&long(0x93, 0x08, 1), &block).await;
        assert_eq!(
            erased.completion.sense.is_none(),
            page[5] & 0x40 != 0,
            "LBPWS"
        );
        let erased = disk
            .tell(&[0x41, 0x08, 0, 0, 0, 0, 0, 0, 1, 0], &block)
            .await;
        assert_eq!(
            erased.completion.sense.is_none(),
            page[5] & 0x20 != 0,
            "LBPWS10"
        );
        let anchored = disk.tell(&long(0x93, 0x18, 1), &block).await;
        assert_eq!(anchored.code(), INVALID_FIELD, "ANC_SUP = 0");

        let mut list = [0; 24];
        (list[1], list[3]) = (22, 16);
        let most = number(&limits[20..24]) as u32;
        list[16..20].copy_from_slice(&(most + 1).to_be_bytes());
        let cdb = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
        let code = disk.tell(&cdb, &list).await.code();
        let expected = if unmap { (0x5, 0x26, 0x00) } else { UNKNOWN };
        assert_eq!(code, expected);

        // Thresholds: everything that belongs to them is there, or nothing is.
        let thresholds = page[4] != 0;
        let logs = disk
            .ask(&[0x4D, 0, 0x40, 0, 0, 0, 0, 0, 255, 0], 255)
            .await
            .good();
        assert_eq!(logs[4..].contains(&0x0C), thresholds);
        let mode = disk.ask(&[0x1A, 8, 0x1C, 0x02, 255, 0], 255).await;
        assert_eq!(mode.completion.sense.is_none(), thresholds);
        let changeable = disk.ask(&[0x1A, 8, 0x41, 0, 255, 0], 255).await.good();
        assert_eq!(changeable[4 + 7] & 0x80 != 0, thresholds, "LBPERE");
    });
}

#[test]
fn inquiry_data_agree_with_pages_and_commands() {
    on_every_disk(|disk| async move {
        let standard = disk.ask(&[0x12, 0, 0, 0, 96, 0], 96).await.good();
        let listed = vpd(&disk, 0x00).await;
        let listed = &listed[4..];
        for &code in listed {
            let page = vpd(&disk, code).await;
            assert_eq!((page[0], page[1]), (standard[0], code));
        }
        assert_eq!(
            standard[5] & 0x08 != 0,
            has(&disk, 0x83, Some(0x00)).await,
            "3PC"
        );
        assert!(listed.contains(&0x8F));
        let removable = standard[1] & 0x80 != 0;
        let eject = disk.ask(&[0x1B, 0, 0, 0, 0x02, 0], 0).await;
        assert_eq!(eject.completion.sense.is_none(), removable, "RMB");
        if removable {
            disk.ask(&[0x1B, 0, 0, 0, 0x03, 0], 0).await.good();
            // Who has loaded it needs not hear that.
            disk.ask(&[0; 6], 0).await.good();
        }
        disk.disk.ready().unwrap();

        let mode = disk.ask(&[0x1A, 8, 0x08, 0, 255, 0], 255).await.good();
        let fua = disk.ask(&[0x28, 0x08, 0, 0, 0, 0, 0, 0, 0, 0], 0).await;
        assert_eq!(
            fua.completion.sense.is_none(),
            mode[2] & 0x10 != 0,
            "DPOFUA"
        );

        let extended = vpd(&disk, 0x86).await;
        assert_eq!(extended[6] & 1, 1, "V_SUP: WCE can be set");
        let control = disk.ask(&[0x1A, 8, 0x0A, 0, 255, 0], 255).await.good();
        let seconds = number(&control[14..16]);
        assert_ne!(seconds, 0);
        assert_eq!(number(&extended[10..12]), seconds.div_ceil(60));

        let characteristics = vpd(&disk, 0xB1).await;
        let block_erase = has(&disk, 0x48, Some(0x02)).await;
        assert_eq!(characteristics[7] >> 6 == 1, block_erase, "WABEREQ");

        // Power conditions that the page names can be gone over to.
        let power = vpd(&disk, 0x8A).await;
        for (condition, modifier, named) in [
            (2, 0, power[5] & 1),
            (2, 1, power[5] >> 1 & 1),
            (2, 2, power[5] >> 2 & 1),
            (3, 0, power[4] & 1),
            (3, 1, power[4] >> 1 & 1),
        ] {
            let answer = disk
                .ask(&[0x1B, 0, 0, modifier, condition << 4, 0], 0)
                .await;
            assert_eq!(answer.completion.sense.is_none(), named == 1);
        }
        // The commands of the copy manager that the page names are there.
        let copies = vpd(&disk, 0x8F).await;
        let mut commands = &copies[9..9 + usize::from(copies[8])];
        let mut count = 0;
        while let [opcode, actions, rest @ ..] = commands {
            let (actions, rest) = rest.split_at(usize::from(*actions));
            for &action in actions {
                assert!(
                    has(&disk, *opcode, Some(action)).await,
                    "{opcode:#x} {action}"
                );
                count += 1;
            }
            commands = rest;
        }
        let mut there = 0;
        for opcode in [0x83, 0x84] {
            for action in 0..0x20 {
                there += usize::from(has(&disk, opcode, Some(action)).await);
            }
        }
        assert_eq!(count, there);
    });
}

#[test]
fn a_disk_never_loses_its_reservations_so_it_replaces_none() {
    on_every_disk(|disk| async move {
        let capabilities = disk.ask(&[0x5E, 2, 0, 0, 0, 0, 0, 0, 8, 0], 8).await.good();
        assert_eq!(capabilities[2] & 0x80, 0, "RLR_C");
        let replace = [0x5F, 0x08, 0, 0, 0, 0, 0, 0, 24, 0];
        assert_eq!(disk.tell(&replace, &[0; 24]).await.code(), INVALID_FIELD);
        assert!(!has(&disk, 0x5F, Some(0x08)).await);
    });
}
