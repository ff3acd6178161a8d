//! Asymmetric logical unit access: what each access state lets through, and how initiators change it.
#![cfg(test)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "the lengths of these tests are small"
)]

mod support;

use lunar_devices::DiskConfig;
use lunar_scsi::alua::AccessState::{self, *};
use lunar_scsi::reservation::TransportId;
use lunar_target::{Alua, LogicalUnit, Path, TargetPort, UnitAttention};
use support::*;

const SIZE: usize = 64 << 10;
/// The target port group of B; A is in group 1.
const GROUP: u16 = 7;

/// A disk whose second path is in a group of its own. Nobody has anything left to hear.
async fn two_groups(disk: &Bench) {
    let state = disk.disk.state();
    state.remove_nexus(B);
    let port = TargetPort {
        relative: 2,
        group: GROUP,
        name: None,
    };
    let initiator = TransportId(2);
    state.add_nexus(B, Path { initiator, port }).unwrap();
    assert_eq!(state.take_attention(B), Some(UnitAttention::PowerOn));
    disk.from(A, &[0; 6], &[], 0).await.good();
}

fn set(disk: &Bench, access: AccessState) {
    let state = disk.disk.state();
    state.set_access_state(GROUP, access);
    for nexus in [A, B] {
        let heard = state.take_attention(nexus);
        assert_eq!(heard, Some(UnitAttention::AccessStateChanged), "{access:?}");
        assert_eq!(state.take_attention(nexus), None);
    }
}

/// A command: CDB, data-out, room for data-in.
type Sent = (&'static [u8], &'static [u8], usize);

/// Commands that need the medium, or a unit that is ready.
const ACTIVE: &[Sent] = &[
    (&[0x00, 0, 0, 0, 0, 0], &[], 0),
    (&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[], 512),
    (&[0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[7; 512], 0),
    (&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 0),
];
/// Those that a port in standby executes as well.
const STANDBY: &[Sent] = &[
    (&[0x1A, 0, 0x3F, 0, 255, 0], &[], 255),
    (&[0x4D, 0, 0x40, 0, 0, 0, 0, 0, 255, 0], &[], 255),
    (&[0x1D, 0x04, 0, 0, 0, 0], &[], 0),
    (&[0x5E, 0, 0, 0, 0, 0, 0, 0, 255, 0], &[], 255),
    (&[0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0], &[0; 24], 0),
    (&[0x16, 0, 0, 0, 0, 0], &[], 0),
    (&[0x17, 0, 0, 0, 0, 0], &[], 0),
];
/// Those that are executed unless the port is on its way from one state to another.
const SETTLED: &[Sent] = &[(&[0xA4, 0x0A, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 0)];
/// Those that are always executed.
const ALWAYS: &[Sent] = &[
    (&[0x03, 0, 0, 0, 252, 0], &[], 252),
    (&[0x12, 0, 0, 0, 96, 0], &[], 96),
    (&[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[], 255),
    (&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 8),
    (
        &[0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0],
        &[],
        32,
    ),
    (&[0xA3, 0x0A, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[], 255),
];

/// Every state, how many of the four classes above are not executed in it, and what those are told.
const STATES: [(AccessState, usize, (u8, u8, u8)); 6] = [
    (Standby, 1, (2, 0x04, 0x0B)),
    (Unavailable, 2, (2, 0x04, 0x0C)),
    (Offline, 2, (2, 0x04, 0x12)),
    (Transitioning, 3, (2, 0x04, 0x0A)),
    (NonOptimized, 0, (0, 0, 0)),
    (Optimized, 0, (0, 0, 0)),
];

#[test]
fn each_access_state_lets_through_what_the_standard_says_and_other_ports_everything() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        two_groups(&disk).await;
        for (access, refused, code) in STATES {
            set(&disk, access);
            let classes = [ACTIVE, STANDBY, SETTLED, ALWAYS];
            for (class, commands) in classes.into_iter().enumerate() {
                for &(cdb, out, room) in commands {
                    let answer = disk.from(B, cdb, out, room).await;
                    if class < refused {
                        assert_eq!(answer.code(), code, "{access:?} {cdb:x?}");
                    } else {
                        answer.good();
                    }
                }
                for &(cdb, out, room) in commands {
                    disk.from(A, cdb, out, room).await.good();
                }
            }
        }
    });
}

/// SET TARGET PORT GROUPS with groups and states.
fn request(wanted: &[(u16, u8)]) -> ([u8; 12], Vec<u8>) {
    let mut list = vec![0; 4];
    for (group, state) in wanted {
        list.extend([*state, 0]);
        list.extend(group.to_be_bytes());
    }
    let len = list.len() as u8;
    ([0xA4, 0x0A, 0, 0, 0, 0, 0, 0, 0, len, 0, 0], list)
}

/// The state of each group, and what has changed it, as REPORT TARGET PORT GROUPS says.
async fn report(disk: &Bench) -> Vec<(u8, u8)> {
    let cdb = [0xA3, 0x0A, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0];
    let data = disk.ask(&cdb, 255).await.good();
    data[4..]
        .chunks_exact(12)
        .map(|group| (group[0] & 0xF, group[5]))
        .collect()
}

const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];

#[test]
fn an_initiator_moves_the_unit_to_another_port_and_the_others_hear_of_it() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        two_groups(&disk).await;
        let (cdb, list) = request(&[(1, 0), (GROUP, 2)]);
        disk.tell(&cdb, &list).await.good();
        assert_eq!(report(&disk).await, [(0, 0), (2, 1)]);
        let heard = disk.from(B, &READ, &[], 512).await;
        assert_eq!(heard.code(), (6, 0x2A, 0x06));
        let refused = disk.from(B, &READ, &[], 512).await;
        assert_eq!(refused.code(), (2, 0x04, 0x0B));
        disk.ask(&READ, 512).await.good();

        disk.tell(&cdb, &list).await.good();
        assert_eq!(disk.disk.state().take_attention(B), None, "no change");

        let (cdb, list) = request(&[(1, 3), (GROUP, 0)]);
        disk.from(B, &cdb, &list, 0).await.good();
        assert_eq!(disk.ask(&READ, 512).await.code(), (6, 0x2A, 0x06));
        assert_eq!(disk.ask(&READ, 512).await.code(), (2, 0x04, 0x0C));
        disk.from(B, &READ, &[], 512).await.good();
        assert_eq!(report(&disk).await, [(3, 1), (0, 1)]);
    });
}

#[test]
fn a_change_that_cannot_be_made_changes_nothing() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        two_groups(&disk).await;
        for (wanted, code) in [
            ([(GROUP, 2), (9, 0)], (5, 0x26, 0x00)),
            ([(GROUP, 2), (1, 4)], (5, 0x26, 0x00)),
            ([(GROUP, 2), (9, 0xE)], (5, 0x26, 0x00)),
        ] {
            let (cdb, list) = request(&wanted);
            assert_eq!(disk.tell(&cdb, &list).await.code(), code, "{wanted:x?}");
        }
        assert_eq!(report(&disk).await, [(0, 0), (0, 0)]);
        set(&disk, Offline);
        let (cdb, list) = request(&[(1, 1), (GROUP, 0)]);
        assert_eq!(disk.tell(&cdb, &list).await.code(), (5, 0x67, 0x0A));
        assert_eq!(report(&disk).await, [(0, 0), (0xE, 2)]);

        set(&disk, Optimized);
        disk.disk.state().set_alua(Alua::Implicit);
        let (cdb, list) = request(&[(GROUP, 2)]);
        assert_eq!(disk.tell(&cdb, &list).await.code(), (5, 0x20, 0x00));
        assert_eq!(report(&disk).await, [(0, 0), (0, 2)]);
        assert_eq!(disk.disk.state().take_attention(B), None);
    });
}

#[test]
fn the_command_that_moves_the_unit_is_listed_only_where_it_is_accepted() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        two_groups(&disk).await;
        let (set, list) = request(&[(GROUP, 2)]);
        for (alua, listed) in [
            (Alua::Off, false),
            (Alua::Implicit, false),
            (Alua::Explicit, true),
            (Alua::Both, true),
            (Alua::Auto, true),
        ] {
            disk.disk.state().set_alua(alua);
            let one = [0xA3, 0x0C, 2, 0xA4, 0, 0x0A, 0, 0, 0, 64, 0, 0];
            let support = disk.ask(&one, 64).await.good()[1] & 7;
            assert_eq!(support, if listed { 3 } else { 1 }, "{alua:?}");
            let answer = disk.tell(&set, &list).await;
            if listed {
                answer.good();
            } else {
                assert_eq!(answer.code(), (5, 0x20, 0x00), "{alua:?}");
            }
        }
        let state = disk.disk.state();
        state.remove_nexus(B);
        let all = [0xA3, 0x0C, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0];
        let has_it = |data: Vec<u8>| data[4..].chunks(8).any(|d| d[0] == 0xA4 && d[3] == 0x0A);
        assert!(!has_it(disk.ask(&all, 2048).await.good()), "a single port");
    });
}

#[test]
fn a_port_that_an_initiator_takes_offline_comes_back_with_its_group() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        two_groups(&disk).await;
        // B's port; its group has another number.
        let (cdb, list) = request(&[(2, 0xE)]);
        disk.tell(&cdb, &list).await.good();
        assert_eq!(report(&disk).await, [(0, 0), (0, 0), (0xE, 1)]);
        assert_eq!(disk.from(B, &READ, &[], 512).await.code(), (6, 0x2A, 0x06));
        assert_eq!(disk.from(B, &READ, &[], 512).await.code(), (2, 0x04, 0x12));
        disk.ask(&READ, 512).await.good();
        disk.tell(&cdb, &list).await.good();
        assert_eq!(disk.disk.state().take_attention(B), None, "no change");

        // From the port itself.
        let (cdb, list) = request(&[(GROUP, 0)]);
        disk.from(B, &cdb, &list, 0).await.good();
        disk.from(B, &READ, &[], 512).await.good();
        assert_eq!(disk.ask(&READ, 512).await.code(), (6, 0x2A, 0x06));
        disk.ask(&READ, 512).await.good();
        assert_eq!(report(&disk).await, [(0, 0), (0, 0)]);
    });
}
