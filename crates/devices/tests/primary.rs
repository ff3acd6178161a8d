//! INQUIRY, mode pages, unit attentions, START STOP UNIT, and what answers where there is no disk.
#![cfg(test)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "the lengths of these tests are small"
)]

mod support;

use lunar_block::OpKind;
use lunar_devices::DiskConfig;
use lunar_scsi::mode::{ErrorSpread, TaskRules};
use lunar_scsi::{Cdb, decode};
use lunar_target::{LogicalUnit, UnitAttention, Who, begin_absent, begin_report_luns};
use support::*;

const SIZE: usize = 64 << 10;
const INVALID_FIELD: (u8, u8, u8) = (0x5, 0x24, 0x00);
const INVALID_PARAMETER: (u8, u8, u8) = (0x5, 0x26, 0x00);
const TEST_UNIT_READY: [u8; 6] = [0; 6];

fn inquiry(page: Option<u8>, room: u16) -> [u8; 6] {
    let [a, b] = room.to_be_bytes();
    [0x12, page.is_some().into(), page.unwrap_or(0), a, b, 0]
}

fn config() -> DiskConfig {
    DiskConfig {
        identity: "drive0".into(),
        serial: Some("S1".into()),
        wwn: Some(0x5000_C500_15EA_71AA),
        min_io_size: 4096,
        opt_io_size: 65536,
        rotation_rate: 1,
        ..DiskConfig::default()
    }
}

#[test]
fn standard_inquiry_data_names_the_disk() {
    let config = DiskConfig {
        vendor: Some("ACME".into()),
        product: Some("ROCKET".into()),
        ver: Some("1.2".into()),
        removable: true,
        ..config()
    };
    on_disk(SIZE, config, |disk| async move {
        let data = disk.ask(&inquiry(None, 96), 96).await.good();
        assert_eq!(data[..8], [0x00, 0x80, 0x05, 0x32, 91, 0x38, 0x10, 0x02]);
        assert_eq!(&data[8..36], b"ACME    ROCKET          1.2 ");
        assert_eq!(data.len(), 96);
    });
}

#[test]
fn inquiry_is_cut_at_every_allocation_length_and_never_refused() {
    on_disk(SIZE, config(), |disk| async move {
        let listed = disk.ask(&inquiry(Some(0), 255), 255).await.good();
        assert_eq!(
            listed,
            [
                0, 0, 0, 12, 0x00, 0x80, 0x83, 0x85, 0x86, 0x87, 0x88, 0x8A, 0x8F, 0xB0, 0xB1, 0xB2
            ],
            "ascending"
        );
        for page in [None]
            .into_iter()
            .chain(listed[4..].iter().map(|&p| Some(p)))
        {
            let whole = disk.ask(&inquiry(page, 4096), 4096).await.good();
            if let Some(code) = page {
                assert_eq!(whole[1], code);
                let len = u16::from_be_bytes([whole[2], whole[3]]);
                assert_eq!(usize::from(len) + 4, whole.len());
            }
            for room in 0..whole.len() + 2 {
                let data = disk.ask(&inquiry(page, room as u16), 4096).await.good();
                assert_eq!(data, whole[..room.min(whole.len())], "{page:x?} {room}");
            }
        }
        for cdb in [
            [0x12, 1, 0xB6, 0, 96, 0],
            [0x12, 0, 0x80, 0, 96, 0],
            [0x12, 2, 0, 0, 96, 0],
            [0x12, 0, 0, 0, 96, 1],
        ] {
            assert_eq!(disk.ask(&cdb, 96).await.code(), INVALID_FIELD, "{cdb:x?}");
        }
    });
}

#[test]
fn the_vital_product_data_is_what_was_configured() {
    on_disk(SIZE, config(), |disk| async move {
        let page = |page| disk.from(A, &inquiry(Some(page), 255), &[], 255);
        assert_eq!(page(0x80).await.good(), b"\x00\x80\x00\x02S1");
        let designators = [
            &[0x00, 0x83, 0, 34][..],
            &[0x02, 0x00, 0, 2],
            b"S1",
            &[
                0x01, 0x03, 0, 8, 0x50, 0x00, 0xC5, 0x00, 0x15, 0xEA, 0x71, 0xAA,
            ],
            // What the path has: port and group.
            &[0x01, 0x14, 0, 4, 0, 0, 0, 1],
            &[0x01, 0x15, 0, 4, 0, 0, 0, 1],
        ];
        assert_eq!(page(0x83).await.good(), designators.concat());
        let limits = page(0xB0).await.good();
        assert_eq!(limits[..4], [0x00, 0xB0, 0, 0x3C]);
        assert_eq!(limits[4], 1, "WSNZ");
        assert_eq!(limits[6..8], [0, 8], "min_io_size");
        assert_eq!(limits[8..12], [0x00, 0x3F, 0xFF, 0xFF], "max_io_size");
        assert_eq!(limits[12..16], [0, 0, 0, 128], "opt_io_size");
        assert_eq!(limits[20..24], [0x00, 0x10, 0x00, 0x00], "max_unmap_size");
        assert_eq!(limits[24..28], [0, 0, 0, 255], "descriptors");
        assert_eq!(limits[28..32], [0, 0, 0, 8], "discard granularity");
        let characteristics = page(0xB1).await.good();
        assert_eq!(characteristics[..6], [0x00, 0xB1, 0, 0x3C, 0, 1]);
        let provisioning = page(0xB2).await.good();
        assert_eq!(provisioning, [0x00, 0xB2, 0, 4, 0, 0xE4, 0x02, 0]);
    });
}

#[test]
fn without_a_serial_or_wwn_the_disk_is_still_identifiable() {
    let config = DiskConfig {
        identity: "drive0".into(),
        ..DiskConfig::default()
    };
    on_disk(SIZE, config, |disk| async move {
        let serial = disk.ask(&inquiry(Some(0x80), 255), 255).await.good();
        assert_eq!(&serial[4..], b"384b6d33f4869108");
        let designators = disk.ask(&inquiry(Some(0x83), 255), 255).await.good();
        let naa = 0x384B_6D33_F486_9108_u64.to_be_bytes();
        assert!(designators.windows(8).any(|w| w == naa));
        assert!(designators.windows(6).any(|w| w == b"drive0"));
    });
}

#[test]
fn a_unit_attention_is_heard_once_by_everyone_it_concerns() {
    on_disk(SIZE, config(), |disk| async move {
        let state = disk.disk.state();
        state.raise(Who::All, UnitAttention::CapacityChanged);
        state.raise(Who::Only(B), UnitAttention::ReportedLunsChanged);

        // INQUIRY passes it by.
        disk.ask(&inquiry(None, 36), 36).await.good();
        // So does a bad INQUIRY; an opcode that does not exist does not.
        assert_eq!(
            disk.ask(&[0x12, 0xFF, 0, 0, 36, 0], 36).await.code(),
            INVALID_FIELD
        );
        assert_eq!(disk.ask(&[0xFF], 0).await.code(), (0x6, 0x2A, 0x09));
        assert_eq!(disk.ask(&[0xFF], 0).await.code(), (0x5, 0x20, 0x00));
        disk.ask(&TEST_UNIT_READY, 0).await.good();

        // REQUEST SENSE returns it as data and clears it, in the format that is asked for.
        let sense = disk
            .from(B, &[0x03, 1, 0, 0, 255, 0], &[], 255)
            .await
            .good();
        assert_eq!(sense[..4], [0x72, 0x06, 0x2A, 0x09]);
        // REPORT LUNS answers 3F/0E.
        let luns = [0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
        disk.from(B, &luns, &[], 256).await.good();
        let sense = disk
            .from(B, &[0x03, 0, 0, 0, 255, 0], &[], 255)
            .await
            .good();
        assert_eq!((sense[0], sense[2], sense[12], sense[13]), (0x70, 0, 0, 0));
        disk.from(B, &TEST_UNIT_READY, &[], 0).await.good();
    });
}

#[test]
fn report_luns_lists_lun_0_and_the_others_ascending() {
    on_disk(SIZE, config(), |disk| async move {
        let ask = |select, room: u8| {
            let cdb = [0xA0, 0, select, 0, 0, 0, 0, 0, 0, room, 0, 0];
            disk.from(A, &cdb, &[], 255)
        };
        let units = [
            [0; 8],
            [0, 5, 0, 0, 0, 0, 0, 0],
            [0x41, 0x2C, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        let well_known = [0xC1, 1, 0, 0, 0, 0, 0, 0];
        let list = |luns: &[u8]| [&[0, 0, 0, luns.len() as u8, 0, 0, 0, 0], luns].concat();
        assert_eq!(ask(0, 255).await.good(), list(&units));
        assert_eq!(ask(1, 255).await.good(), list(&well_known));
        assert_eq!(
            ask(2, 255).await.good(),
            list(&[&units[..], &well_known].concat())
        );
        assert_eq!(
            ask(0, 16).await.good(),
            list(&units)[..16],
            "with the full length"
        );
        assert_eq!(ask(0, 15).await.code(), INVALID_FIELD);
        assert_eq!(ask(3, 255).await.code(), INVALID_FIELD);
    });
}

#[test]
fn supported_operation_codes_are_those_that_the_disk_runs() {
    on_disk(SIZE, config(), |disk| async move {
        let all = [0xA3, 0x0C, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0];
        let data = disk.ask(&all, 4096).await.good();
        assert_eq!(
            data.len(),
            4 + u32::from_be_bytes([data[0], data[1], data[2], data[3]]) as usize
        );
        let listed: Vec<_> = data[4..]
            .chunks(8)
            .map(|d| (d[0], d[3], d[5] & 1 != 0))
            .collect();
        assert!(listed.contains(&(0x28, 0, false)) && listed.contains(&(0x9E, 0x10, true)));
        for opcode in 0..=255u8 {
            let actions: Vec<_> = listed.iter().filter(|l| l.0 == opcode).collect();
            let mut cdb = [0; 16];
            cdb[0] = opcode;
            cdb[1] = actions.first().map_or(0, |l| l.1);
            let outcome = disk.try_from(A, &cdb, &[], 0).await;
            let unknown = outcome
                .is_some_and(|a| a.completion.sense.is_some_and(|s| s.additional.asc == 0x20));
            assert_eq!(unknown, actions.is_empty(), "{opcode:#x}");
        }
    });
}

/// A MODE SELECT(6) of the caching page.
fn caching(wce: bool) -> Vec<u8> {
    let mut list = vec![0; 24];
    list[4..7].copy_from_slice(&[0x08, 0x12, u8::from(wce) << 2]);
    list
}

/// A MODE SELECT(6) of the control page.
fn control(d_sense: bool, swp: bool) -> Vec<u8> {
    let (d_sense, swp) = (u8::from(d_sense) << 2, u8::from(swp) << 3);
    // An extended self-test takes a second.
    let parameters = [d_sense, 0x10, swp, 0, 0, 0, 0, 0, 0, 1];
    [&[0; 4][..], &[0x0A, 0x0A], &parameters].concat()
}

async fn select(disk: &Bench, list: &[u8]) -> Answer {
    disk.tell(&[0x15, 0x10, 0, 0, list.len() as u8, 0], list)
        .await
}

#[test]
fn mode_sense_shows_header_block_descriptor_and_pages() {
    on_disk(SIZE, config(), |disk| async move {
        let data = disk.ask(&[0x1A, 0, 0x3F, 0, 255, 0], 255).await.good();
        assert_eq!(data[..12], [107, 0, 0x10, 8, 0, 0, 0, 128, 0, 0, 2, 0]);
        assert_eq!(data[12..14], [0x01, 0x0A]);
        assert_eq!(data[24..27], [0x08, 0x12, 0x04]);
        assert_eq!(data[44..48], [0x0A, 0x0A, 0x00, 0x10]);
        assert_eq!(data[56..60], [0x1A, 0x26, 0x00, 0x00], "no timer runs");
        assert_eq!(data[96..100], [0x1C, 0x0A, 0x08, 0x00]);
        assert_eq!(data.len(), 108);
        let changeable = disk.ask(&[0x1A, 0x08, 0x4A, 0, 255, 0], 255).await.good();
        assert_eq!(changeable[4..10], [0x0A, 0x0A, 0x24, 0x06, 0x38, 0x40]);
        assert_eq!(
            disk.ask(&[0x1A, 0, 0xC8, 0, 255, 0], 255).await.code(),
            (0x5, 0x39, 0x00)
        );
        assert_eq!(
            disk.ask(&[0x1A, 0, 0x1D, 0, 255, 0], 255).await.code(),
            INVALID_FIELD
        );
        let ten = disk
            .ask(&[0x5A, 0x08, 0x08, 0, 0, 0, 0, 0, 255, 0], 255)
            .await
            .good();
        assert_eq!(ten[..11], [0, 26, 0, 0x10, 0, 0, 0, 0, 0x08, 0x12, 0x04]);
    });
}

#[test]
fn switching_the_write_cache_off_writes_it_back_and_tells_the_others() {
    on_disk(SIZE, config(), |disk| async move {
        let answer = select(&disk, &caching(false)).await;
        assert_eq!(answer.completion.transferred, 24);
        answer.good();
        assert_eq!(disk.log(), [(OpKind::Flush, 0, 0)]);
        let code = disk.from(B, &TEST_UNIT_READY, &[], 0).await.code();
        assert_eq!(code, (0x6, 0x2A, 0x01));
        disk.ask(&TEST_UNIT_READY, 0).await.good();

        let write = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        disk.tell(&write, &[1; 512]).await.good();
        assert_eq!(disk.log(), [(OpKind::Write { fua: true }, 0, 512)]);

        // The same again changes nothing, so nobody hears of it.
        select(&disk, &caching(false)).await.good();
        disk.from(B, &TEST_UNIT_READY, &[], 0).await.good();
        assert_eq!(disk.log(), []);

        // It outlives a reset: nobody reads it again then.
        disk.disk.reset();
        for nexus in [A, B] {
            let code = disk.from(nexus, &TEST_UNIT_READY, &[], 0).await.code();
            assert_eq!(code, (0x6, 0x29, 0x03));
        }
        let data = disk.ask(&[0x1A, 0x08, 0x08, 0, 255, 0], 255).await.good();
        assert_eq!(data[6], 0);

        select(&disk, &caching(true)).await.good();
        disk.tell(&write, &[1; 512]).await.good();
        assert_eq!(disk.log(), [(OpKind::Write { fua: false }, 0, 512)]);
    });
}

#[test]
fn an_interlocked_unit_attention_is_reported_until_request_sense_fetches_it() {
    const REQUEST_SENSE: [u8; 6] = [0x03, 0, 0, 0, 18, 0];
    const REPORT_LUNS: [u8; 12] = [0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    let interlock = |value: u8| {
        let mut list = control(false, false);
        list[8] = value;
        list
    };
    on_disk(SIZE, config(), move |disk| async move {
        let reserved = select(&disk, &interlock(0x10)).await;
        assert_eq!(reserved.code(), INVALID_PARAMETER);
        for value in [0x20, 0x30] {
            select(&disk, &interlock(value)).await.good();
            let page = disk.ask(&[0x1A, 0x08, 0x0A, 0, 255, 0], 255).await.good();
            assert_eq!(page[4..10], [0x0A, 0x0A, 0, 0x10, value, 0]);
            for _ in 0..3 {
                let code = disk.from(B, &TEST_UNIT_READY, &[], 0).await.code();
                assert_eq!(code, (0x6, 0x2A, 0x01));
            }
            let sense = disk.from(B, &REQUEST_SENSE, &[], 18).await.good();
            assert_eq!((sense[2], sense[12], sense[13]), (0x6, 0x2A, 0x01));
            disk.from(B, &TEST_UNIT_READY, &[], 0).await.good();
        }
        // Nor does REPORT LUNS take what it has answered.
        let state = disk.disk.state();
        state.raise(Who::Only(B), UnitAttention::ReportedLunsChanged);
        disk.from(B, &REPORT_LUNS, &[], 256).await.good();
        let code = disk.from(B, &TEST_UNIT_READY, &[], 0).await.code();
        assert_eq!(code, (0x6, 0x3F, 0x0E));
        disk.from(B, &REQUEST_SENSE, &[], 18).await.good();
        select(&disk, &interlock(0)).await.good();
        for expected in [Some((0x6, 0x2A, 0x01)), None] {
            let ready = disk.from(B, &TEST_UNIT_READY, &[], 0).await;
            match expected {
                Some(code) => assert_eq!(ready.code(), code),
                None => assert_eq!(ready.good(), [0; 0]),
            }
        }
    });
}

#[test]
fn the_control_page_write_protects_and_chooses_the_sense_format_until_reset() {
    on_disk(SIZE, config(), |disk| async move {
        select(&disk, &control(true, true)).await.good();
        assert!(disk.disk.state().descriptor_sense());
        let write = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        assert_eq!(disk.tell(&write, &[1; 512]).await.code(), (0x7, 0x27, 0x00));
        let header = disk.ask(&[0x1A, 0x08, 0x3F, 0, 4, 0], 4).await.good();
        assert_eq!(header[2], 0x90);
        disk.disk.reset();
        assert_eq!(
            disk.ask(&TEST_UNIT_READY, 0).await.code(),
            (0x6, 0x29, 0x03)
        );
        assert!(!disk.disk.state().descriptor_sense());
        disk.tell(&write, &[1; 512]).await.good();
    });
}

#[test]
fn the_control_page_sets_the_rules_of_task_sets_until_reset() {
    on_disk(SIZE, config(), |disk| async move {
        let mut list = control(false, false);
        (list[6], list[7], list[9]) = (0x20, 0x16, 0x40);
        select(&disk, &list).await.good();
        let rules = disk.disk.state().task_rules();
        assert!(rules.set_for_each_nexus() && rules.task_aborted_status());
        assert_eq!(rules.error_spread(), ErrorSpread::Nexus);
        list[7] = 0x14;
        let reserved = select(&disk, &list).await;
        assert_eq!(reserved.code(), INVALID_PARAMETER, "QERR 10b");
        assert_eq!(disk.disk.state().task_rules(), rules);
        disk.disk.reset();
        assert_eq!(disk.disk.state().task_rules(), TaskRules::default());
    });
}

#[test]
fn supported_task_management_functions_are_all_there_are() {
    on_disk(SIZE, config(), |disk| async move {
        let ask = |flags, room| [0xA3, 0x0D, flags, 0, 0, 0, 0, 0, 0, room, 0, 0];
        let short = disk.ask(&ask(0, 255), 255).await.good();
        assert_eq!(short, [0xFC, 0x03, 0, 0]);
        let long = disk.ask(&ask(0x80, 255), 255).await.good();
        assert_eq!(long, [&[0xFC, 0x03, 0, 12][..], &[0; 12]].concat());
        assert_eq!(disk.ask(&ask(0x80, 3), 3).await.good(), long[..3]);
        assert_eq!(disk.ask(&ask(1, 255), 255).await.code(), INVALID_FIELD);
    });
}

#[test]
fn a_mode_select_that_is_wrong_anywhere_changes_nothing() {
    on_disk(SIZE, config(), |disk| async move {
        let mut list = caching(false);
        list.extend(&control(false, false)[4..]);
        let last = list.len() - 1;
        list[last] = 2;
        assert_eq!(select(&disk, &list).await.code(), INVALID_PARAMETER);
        let data = disk.ask(&[0x1A, 0x08, 0x08, 0, 255, 0], 255).await.good();
        assert_eq!(data[6], 0x04, "WCE is still on");
        disk.from(B, &TEST_UNIT_READY, &[], 0).await.good();
        assert_eq!(disk.log(), []);
    });
}

#[test]
fn a_stopped_disk_needs_to_be_started() {
    on_disk(SIZE, config(), |disk| async move {
        disk.ask(&[0x1B, 0, 0, 0, 0, 0], 0).await.good();
        assert_eq!(disk.log(), [(OpKind::Flush, 0, 0)]);
        let stopped = (0x2, 0x04, 0x02);
        for cdb in [
            &TEST_UNIT_READY[..],
            &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0],
            &[0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0],
            &[0x2F, 0, 0, 0, 0, 0, 0, 0, 1, 0],
            &[0x35, 0, 0, 0, 0, 0, 0, 0, 1, 0],
            &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(disk.ask(cdb, 512).await.code(), stopped, "{cdb:x?}");
        }
        disk.ask(&inquiry(None, 36), 36).await.good();
        let sense = disk.ask(&[0x03, 0, 0, 0, 18, 0], 18).await.good();
        assert_eq!((sense[2], sense[12], sense[13]), stopped);
        disk.ask(&[0x1B, 0, 0, 0, 1, 0], 0).await.good();
        disk.ask(&TEST_UNIT_READY, 0).await.good();
        let eject = disk.ask(&[0x1B, 0, 0, 0, 2, 0], 0).await;
        assert_eq!(eject.code(), INVALID_FIELD, "nothing to eject here");

        disk.ask(&[0x1B, 0, 0, 0, 4, 0], 0).await.good();
        assert_eq!(disk.log(), [], "NO_FLUSH");
        disk.disk.reset();
        assert_eq!(
            disk.ask(&TEST_UNIT_READY, 0).await.code(),
            (0x6, 0x29, 0x03)
        );
        disk.ask(&TEST_UNIT_READY, 0).await.good();
    });
}

#[test]
fn the_loss_of_a_nexus_starts_a_stopped_disk_unless_it_is_shared() {
    on_disk(SIZE, config(), |disk| async move {
        let (stop, lost) = ([0x1B, 0, 0, 0, 4, 0], (0x6, 0x29, 0x07));
        disk.ask(&stop, 0).await.good();
        disk.disk.nexus_loss(A);
        assert_eq!(disk.ask(&TEST_UNIT_READY, 0).await.code(), lost);
        let stopped = disk.ask(&TEST_UNIT_READY, 0).await.code();
        assert_eq!(stopped, (0x2, 0x04, 0x02));
        disk.disk.state().remove_nexus(B);
        disk.disk.nexus_loss(A);
        assert_eq!(disk.ask(&TEST_UNIT_READY, 0).await.code(), lost);
        disk.ask(&TEST_UNIT_READY, 0).await.good();
    });
}

#[test]
fn fencing_and_looking_for_paths_collide_with_no_part_of_the_medium() {
    on_disk(SIZE, config(), |disk| async move {
        for start in [
            &[0x16, 0][..],
            &[0x17],
            &[0x56],
            &[0x57],
            &[0x5E, 0],
            &[0x5F, 0],
            &[0xA3, 0x0A],
            &[0xA4, 0x0A],
        ] {
            let mut cdb = [0; 32];
            cdb[..start.len()].copy_from_slice(start);
            let row = decode(disk.disk.profile(), &cdb).unwrap();
            assert_eq!(disk.disk.extent(row, Cdb(&cdb)), Some(0..0), "{}", row.name);
        }
    });
}

#[test]
fn a_removable_medium_can_be_ejected_and_loaded_unless_somebody_prevents_it() {
    let config = DiskConfig {
        removable: true,
        ..config()
    };
    on_disk(SIZE, config, |disk| async move {
        let (eject, load) = ([0x1B, 0, 0, 0, 2, 0], [0x1B, 0, 0, 0, 3, 0]);
        disk.from(B, &[0x1E, 0, 0, 0, 1, 0], &[], 0).await.good();
        assert_eq!(disk.ask(&eject, 0).await.code(), (0x5, 0x53, 0x02));
        disk.ask(&TEST_UNIT_READY, 0).await.good();
        disk.from(B, &[0x1E, 0, 0, 0, 0, 0], &[], 0).await.good();
        disk.ask(&eject, 0).await.good();
        assert_eq!(
            disk.ask(&TEST_UNIT_READY, 0).await.code(),
            (0x2, 0x3A, 0x02)
        );
        assert_eq!(
            disk.ask(&[0x1B, 0, 0, 0, 1, 0], 0).await.code(),
            (0x2, 0x3A, 0x02)
        );
        disk.from(B, &[0x1E, 0, 0, 0, 1, 0], &[], 0).await.good();
        assert_eq!(disk.ask(&load, 0).await.code(), (0x5, 0x53, 0x02));
        disk.from(B, &[0x1E, 0, 0, 0, 0, 0], &[], 0).await.good();
        disk.ask(&load, 0).await.good();
        disk.ask(&TEST_UNIT_READY, 0).await.good();
        let code = disk.from(B, &TEST_UNIT_READY, &[], 0).await.code();
        assert_eq!(code, (0x6, 0x28, 0x00), "B did not load it");
    });
}

#[test]
fn an_absent_lun_says_so_and_lists_the_others() {
    on_disk(SIZE, config(), |disk| async move {
        let ask = async |cdb: &[u8]| disk.try_with(A, cdb, &[], 255, begin_absent).await.unwrap();
        let data = ask(&inquiry(None, 36)).await.good();
        assert_eq!((data[0], data[4], data.len()), (0x7F, 91, 36));
        let pages = ask(&inquiry(Some(0), 255)).await.good();
        assert_eq!(pages, [0x7F, 0, 0, 1, 0]);
        assert_eq!(ask(&inquiry(Some(0x83), 255)).await.code(), INVALID_FIELD);
        let luns = ask(&[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0]).await.good();
        assert_eq!(luns[..4], [0, 0, 0, 24]);
        let sense = ask(&[0x03, 0, 0, 0, 255, 0]).await.good();
        assert_eq!((sense[2], sense[12], sense[13]), (0x5, 0x25, 0x00));
        for cdb in [
            &TEST_UNIT_READY[..],
            &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0],
            &[0xFF],
        ] {
            assert_eq!(ask(cdb).await.code(), (0x5, 0x25, 0x00));
        }
    });
}

#[test]
fn the_report_luns_well_known_unit_answers_what_it_is_for() {
    on_disk(SIZE, config(), |disk| async move {
        let ask = async |cdb: &[u8]| {
            disk.try_with(A, cdb, &[], 255, begin_report_luns)
                .await
                .unwrap()
        };
        assert_eq!(ask(&inquiry(None, 36)).await.good()[0], 0x1E);
        ask(&TEST_UNIT_READY).await.good();
        let luns = ask(&[0xA0, 0, 1, 0, 0, 0, 0, 0, 0, 255, 0, 0]).await.good();
        assert_eq!(luns[8..], [0xC1, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ask(&[0x03, 0, 0, 0, 255, 0]).await.good()[2], 0);
        assert_eq!(
            ask(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]).await.code(),
            (0x5, 0x20, 0x00)
        );
    });
}
