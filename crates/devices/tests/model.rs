//! Any sequence of commands changes the medium exactly as a model of a few lines says, and nothing else does.
#![cfg(test)]

#[path = "support/model.rs"]
mod model;
mod support;

use lunar_devices::DiskConfig;
use lunar_scsi::Status;
use lunar_target::NexusId;
use model::Model;
use proptest::prelude::*;
use support::*;

const BLOCKS: u64 = 64;

#[derive(Clone, Debug)]
struct Step {
    nexus: u32,
    cdb: Vec<u8>,
    out: Vec<u8>,
    room: usize,
}

/// A CDB of a known opcode with its range near or across the end, and flags that are often valid.
fn cdb() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop::sample::select(vec![
        0x00, 0x08, 0x0A, 0x12, 0x15, 0x1A, 0x1B, 0x1E, 0x25, 0x28, 0x2A, 0x2F, 0x35, 0x41, 0x42,
        0x55, 0x5A, 0x88, 0x8A, 0x8F, 0x91, 0x93, 0x9E, 0xA0, 0xA3, 0xA8, 0xAA, 0xAF, 0x2E, 0x34,
        0x37, 0x8E, 0x90, 0xAE, 0xB7, 0x7F, 0x7F, 0x7F, 0x89, 0x89, 0x8B, 0x9C, 0x04, 0x1D, 0x3B,
        0x3C, 0x4C, 0x4D,
    ]);
    let flags = prop::sample::select(vec![0u8, 0, 0, 0x01, 0x02, 0x06, 0x08, 0x09, 0x10, 0x18]);
    (opcode, flags, 0..=BLOCKS, 0u8..9).prop_map(
        |(opcode, flags, lba, blocks): (u8, u8, u64, u8)| {
            let lba32 = u32::try_from(lba).unwrap().to_be_bytes();
            match opcode {
                0x00..=0x1F => vec![opcode, 0, 0, lba32[3], blocks, 0],
                0x20..=0x5F => [&[opcode, flags], &lba32[..], &[0, 0, blocks, 0]].concat(),
                // READ, VERIFY, WRITE, WRITE AND VERIFY or WRITE SAME of 32 bytes, by the lowest bits of the LBA.
                0x7F => [
                    &[
                        0x7F,
                        0,
                        0,
                        0,
                        0,
                        0,
                        0,
                        0x18,
                        0,
                        0x09 + lba32[3] % 5,
                        flags,
                        0,
                    ],
                    &lba.to_be_bytes()[..],
                    &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, blocks],
                ]
                .concat(),
                0xA0..=0xBF => [&[opcode, flags], &lba32[..], &[0, 0, 0, blocks, 0, 0]].concat(),
                _ => [
                    &[opcode, flags],
                    &lba.to_be_bytes()[..],
                    &[0, 0, 0, blocks, 0, 0],
                ]
                .concat(),
            }
        },
    )
}

fn unmap() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    prop::collection::vec((0..=BLOCKS, 0u32..9), 0..4).prop_map(|ranges| {
        let len = u8::try_from(ranges.len() * 16).unwrap();
        let mut list = vec![0, len + 6, 0, len, 0, 0, 0, 0];
        for (lba, blocks) in ranges {
            list.extend(lba.to_be_bytes());
            list.extend(blocks.to_be_bytes());
            list.extend([0; 4]);
        }
        (vec![0x42, 0, 0, 0, 0, 0, 0, 0, len + 8, 0], list)
    })
}

/// FORMAT UNIT and SANITIZE, in the foreground or in the background.
fn erase() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let format = (any::<bool>(), prop::collection::vec(any::<u8>(), 0..5)).prop_map(
        |(immediate, pattern)| {
            let flags = if immediate { 0x8A } else { 0x88 };
            let kind = u8::from(!pattern.is_empty());
            let len = u8::try_from(pattern.len()).unwrap();
            let list = [&[0, flags, 0, 0, 0, kind, 0, len][..], &pattern].concat();
            (vec![0x04, 0x10, 0, 0, 0, 0], list)
        },
    );
    let overwrite = (
        any::<bool>(),
        0u8..4,
        prop::collection::vec(any::<u8>(), 1..5),
    )
        .prop_map(|(immediate, count, pattern)| {
            let action = if immediate { 0x81 } else { 0x01 };
            let len = u8::try_from(pattern.len()).unwrap();
            let list = [&[0x80 | count, 0, 0, len][..], &pattern].concat();
            (vec![0x48, action, 0, 0, 0, 0, 0, 0, len + 4, 0], list)
        });
    let erase = Just((vec![0x48, 0x82, 0, 0, 0, 0, 0, 0, 0, 0], Vec::new()));
    prop_oneof![format, overwrite, erase]
}

fn out() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => (1usize..9, any::<u8>()).prop_map(|(blocks, byte)| vec![byte; blocks * 512]),
        1 => prop::collection::vec(any::<u8>(), 0..600),
        1 => Just(vec![0; 512]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let command = prop_oneof![4 => (cdb(), out()), 1 => unmap(), 1 => erase()];
    let room = prop_oneof![Just(4096usize), 0usize..4200];
    (1u32..3, command, room).prop_map(|(nexus, (cdb, out), room)| Step {
        nexus,
        cdb,
        out,
        room,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_medium_follows_the_model(steps in prop::collection::vec(step(), 1..40), slow: bool, removable: bool) {
        let mut image = Recorder::new(usize::try_from(BLOCKS).unwrap() * 512);
        image.slow = slow;
        let config = DiskConfig { removable, ..DiskConfig::default() };
        on_image(image, config, move |disk| async move {
            let mut model = Model { bytes: disk.bytes(), block: 512 };
            for step in steps {
                let answer = disk.try_from(NexusId(step.nexus), &step.cdb, &step.out, step.room).await;
                disk.settle().await;
                if let Some(answer) = answer.filter(|a| a.completion.status == Status::GOOD) {
                    model.good(&step.cdb, &step.out);
                    if let Some(read) = model.read(&step.cdb) {
                        assert!(answer.data == read, "{step:x?}");
                    }
                }
                assert!(disk.bytes() == model.bytes, "{step:x?}");
            }
        });
    }
}
