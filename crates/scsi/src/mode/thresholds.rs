//! Thresholds of the space that a unit has and takes (SBC-3 4.7.3.7, SC-023): what an initiator wants to be told of.
//!
//! The Logical Block Provisioning page has one for each resource. LBPERE of the Read-Write Error Recovery page switches
//! all of them.

use super::ModePages;
use super::page::{ModePage, code};
use crate::be::{u8_at, u32_at};

/// LBPERE, in byte 7 of the Read-Write Error Recovery page.
const LBPERE: (usize, u8) = (7, 0x80);
/// ENABLED, in the first byte of a threshold descriptor.
const ENABLED: u8 = 0x80;
/// Where the threshold descriptors are.
const DESCRIPTORS: [usize; 2] = [16, 24];
/// Where THRESHOLD COUNT is in a descriptor.
const COUNT: usize = 4;

/// THRESHOLD RESOURCE: what is counted, by the code of its parameter in the log page of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Resource {
    /// What is left.
    Available = 0x01,
    /// What is taken.
    Used = 0x02,
}

/// A threshold in force. Its count is in threshold sets (VPD page B2h), like those of the log page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// Of what.
    pub resource: Resource,
    /// THRESHOLD COUNT.
    pub count: u32,
}

impl Threshold {
    /// Whether so much is too little, or too much.
    #[must_use]
    pub const fn is_reached(self, available: u32, used: u32) -> bool {
        match self.resource {
            Resource::Available => available <= self.count,
            Resource::Used => used >= self.count,
        }
    }
}

impl ModePage {
    /// Read-Write Error Recovery of a unit with thresholds: LBPERE is set, and can be changed.
    #[must_use]
    pub fn read_write_error_recovery_with_thresholds() -> Self {
        Self::new(
            code::READ_WRITE_ERROR_RECOVERY,
            &[0x80, 0, 0, 0, 0, LBPERE.1, 0, 0, 0, 0],
        )
        .with_changeable(LBPERE.0, LBPERE.1)
    }

    /// Logical Block Provisioning: a threshold for either [`Resource`], not enabled. Every initiator is told (SITUA = 0).
    #[must_use]
    pub fn logical_block_provisioning() -> Self {
        let mut parameters = [0; 28];
        // THRESHOLD ARMING (falling, rising) and THRESHOLD RESOURCE.
        parameters[12..14].copy_from_slice(&[0b000, Resource::Available as u8]);
        parameters[20..22].copy_from_slice(&[0b001, Resource::Used as u8]);
        let page = Self::new(code::LOGICAL_BLOCK_PROVISIONING, &parameters);
        DESCRIPTORS.into_iter().fold(page, |page, at| {
            (at + COUNT..at + COUNT + 4).fold(page.with_changeable(at, ENABLED), |page, at| {
                page.with_changeable(at, 0xff)
            })
        })
    }
}

impl ModePages {
    /// The thresholds in force.
    pub fn thresholds(&self) -> impl Iterator<Item = Threshold> {
        let told = self.is_set(code::READ_WRITE_ERROR_RECOVERY, LBPERE.0, LBPERE.1);
        let key = code::LOGICAL_BLOCK_PROVISIONING;
        let page = self.pages.iter().find(|page| told && page.key() == key);
        page.into_iter().flat_map(|page| {
            let bytes = page.current();
            DESCRIPTORS.into_iter().filter_map(|at| {
                if u8_at(bytes, at)? & ENABLED == 0 {
                    return None;
                }
                Some(Threshold {
                    resource: match u8_at(bytes, at + 1)? {
                        0x01 => Resource::Available,
                        _ => Resource::Used,
                    },
                    count: u32_at(bytes, at + COUNT)?,
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(lbpere: bool, changes: &[(usize, u8)]) -> ModePages {
        let mut recovery = ModePage::read_write_error_recovery_with_thresholds();
        recovery.set(LBPERE.0, LBPERE.1, lbpere);
        let mut page = ModePage::logical_block_provisioning();
        for &(at, bits) in changes {
            page.set(at, bits, true);
        }
        ModePages::new([recovery, page])
    }

    #[test]
    fn the_page_has_a_threshold_for_either_resource() {
        let page = ModePage::logical_block_provisioning();
        assert_eq!(
            page.current()[..16],
            [&[0x5c, 2, 0, 28][..], &[0; 12]].concat()
        );
        assert_eq!(page.current()[16..24], [0x00, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(page.current()[24..], [0x01, 2, 0, 0, 0, 0, 0, 0]);
        let changeable = [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(page.changeable()[16..24], changeable);
        assert_eq!(page.changeable()[24..], changeable);
    }

    #[test]
    fn a_threshold_is_in_force_if_it_is_enabled_and_lbpere_is_set() {
        let thresholds = |lbpere, changes: &[_]| {
            let pages = pages(lbpere, changes);
            pages.thresholds().collect::<Vec<_>>()
        };
        assert_eq!(thresholds(true, &[(23, 5)]), []);
        let available = Threshold {
            resource: Resource::Available,
            count: 5,
        };
        assert_eq!(thresholds(true, &[(16, 0x80), (23, 5)]), [available]);
        assert_eq!(thresholds(false, &[(16, 0x80), (23, 5)]), []);
        let used = Threshold {
            resource: Resource::Used,
            count: 0x0100_0000,
        };
        assert_eq!(thresholds(true, &[(24, 0x80), (28, 1)]), [used]);
        assert_eq!(ModePages::default().thresholds().count(), 0);
    }

    #[test]
    fn a_threshold_is_reached_at_its_count() {
        let reached = |resource, counts: [u32; 3]| {
            counts.map(|n| Threshold { resource, count: 7 }.is_reached(n, n))
        };
        assert_eq!(reached(Resource::Available, [6, 7, 8]), [true, true, false]);
        assert_eq!(reached(Resource::Used, [6, 7, 8]), [false, true, true]);
    }
}
