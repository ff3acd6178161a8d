//! Asymmetric logical unit access on the wire: REPORT and SET TARGET PORT GROUPS (SPC-4 6.37, 6.45; SC-050, SC-051).

use crate::be::{u8_at, u16_at};
use crate::sense::{AdditionalSense, Sense};

/// ASYMMETRIC ACCESS STATE of a target port group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum AccessState {
    /// The best way to the logical unit.
    #[default]
    Optimized = 0x0,
    /// A way that works, but not as well as another.
    NonOptimized = 0x1,
    /// Ready to take over; the medium cannot be reached meanwhile.
    Standby = 0x2,
    /// Not usable now.
    Unavailable = 0x3,
    /// Out of service. Unlike the others, an initiator chooses this one for a port and not for a group.
    Offline = 0xe,
    /// On its way from one state to another.
    Transitioning = 0xf,
}

impl AccessState {
    /// The states that SET TARGET PORT GROUPS can ask for on behalf of a group.
    const SETTABLE: [AccessState; 4] = [
        AccessState::Optimized,
        AccessState::NonOptimized,
        AccessState::Standby,
        AccessState::Unavailable,
    ];

    /// What a command that this state keeps from its medium is told.
    #[must_use]
    pub const fn refusal(self) -> Option<Sense> {
        Some(Sense::not_ready(match self {
            AccessState::Optimized | AccessState::NonOptimized => return None,
            AccessState::Standby => AdditionalSense::TARGET_PORT_IN_STANDBY,
            AccessState::Unavailable => AdditionalSense::TARGET_PORT_UNAVAILABLE,
            AccessState::Offline => AdditionalSense::OFFLINE,
            AccessState::Transitioning => AdditionalSense::ALUA_TRANSITION,
        }))
    }
}

/// In which access states a command is executed (SC-052, SC-053).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AccessClass {
    /// Where the medium can be reached.
    Active,
    /// In standby, too.
    Standby,
    /// In every state but transitioning.
    Settled,
    /// In every state.
    Always,
}

impl AccessClass {
    /// Whether a command of this class is executed in `state`.
    #[inline]
    #[must_use]
    pub const fn is_executed_in(self, state: AccessState) -> bool {
        match state {
            AccessState::Optimized | AccessState::NonOptimized => true,
            AccessState::Standby => !matches!(self, AccessClass::Active),
            AccessState::Unavailable | AccessState::Offline => {
                matches!(self, AccessClass::Settled | AccessClass::Always)
            }
            AccessState::Transitioning => matches!(self, AccessClass::Always),
        }
    }
}

/// STATUS CODE: what has put a group into its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum ChangedBy {
    /// It has not changed.
    #[default]
    Nothing = 0,
    /// SET TARGET PORT GROUPS.
    Initiator = 1,
    /// The target itself.
    Target = 2,
}

/// A target port group as REPORT TARGET PORT GROUPS shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// TARGET PORT GROUP.
    pub id: u16,
    /// PREF: the target would rather be used through this one.
    pub preferred: bool,
    /// Its state.
    pub state: AccessState,
    /// What has changed it last.
    pub changed_by: ChangedBy,
    /// RELATIVE TARGET PORT IDENTIFIERs.
    pub ports: Vec<u16>,
}

/// T_SUP, O_SUP, U_SUP, S_SUP, AN_SUP and AO_SUP: every state but logical block dependent.
const SUPPORTED: u8 = 0b1100_1111;

/// Appends REPORT TARGET PORT GROUPS data; `extended` with the header of PARAMETER DATA FORMAT 1, in which an implicit
/// transition has no time of its own.
pub fn report(out: &mut Vec<u8>, extended: bool, groups: &[Group]) {
    let start = out.len();
    out.extend([0; 4]);
    if extended {
        out.extend([0x10, 0, 0, 0]);
    }
    for group in groups {
        let state = u8::from(group.preferred) << 7 | group.state as u8;
        let [high, low] = group.id.to_be_bytes();
        let ports = u8::try_from(group.ports.len()).unwrap_or(u8::MAX);
        let changed_by = group.changed_by as u8;
        out.extend([state, SUPPORTED, high, low, 0, changed_by, 0, ports]);
        for port in group.ports.iter().take(usize::from(ports)) {
            out.extend([0, 0]);
            out.extend(port.to_be_bytes());
        }
    }
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(start..start + 4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// One thing that SET TARGET PORT GROUPS asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A target port group is to have this state.
    Group(u16, AccessState),
    /// The port with this relative identifier is to go offline.
    PortOffline(u16),
}

/// Reads the parameter list of SET TARGET PORT GROUPS. An empty list asks for nothing.
///
/// # Errors
/// 5/1A/00 for a list that is cut off, 5/26/00 for a state that an initiator cannot ask for.
pub fn parse_set(list: &[u8]) -> Result<Vec<Wanted>, Sense> {
    let descriptors = match list {
        [] => return Ok(Vec::new()),
        [_, _, _, _, descriptors @ ..] if descriptors.len().is_multiple_of(4) => descriptors,
        _ => {
            let cut_off = AdditionalSense::PARAMETER_LIST_LENGTH_ERROR;
            return Err(Sense::illegal_request(cut_off));
        }
    };
    let at = |i: usize| u16::try_from(4 + 4 * i).unwrap_or(u16::MAX);
    descriptors
        .chunks_exact(4)
        .enumerate()
        .map(|(i, descriptor)| {
            let number = u16_at(descriptor, 2).unwrap_or_default();
            let wanted = u8_at(descriptor, 0).unwrap_or_default() & 0x0f;
            if wanted == AccessState::Offline as u8 {
                return Ok(Wanted::PortOffline(number));
            }
            let state = AccessState::SETTABLE
                .into_iter()
                .find(|state| *state as u8 == wanted)
                .ok_or(Sense::invalid_bits_in_parameters(at(i), 3))?;
            Ok(Wanted::Group(number, state))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_laid_out_as_spc_says() {
        let groups = [
            Group {
                id: 1,
                preferred: true,
                state: AccessState::Optimized,
                changed_by: ChangedBy::Nothing,
                ports: vec![1, 3],
            },
            Group {
                id: 0x0102,
                preferred: false,
                state: AccessState::Standby,
                changed_by: ChangedBy::Initiator,
                ports: vec![2],
            },
        ];
        let mut out = Vec::new();
        report(&mut out, false, &groups);
        assert_eq!(out[..4], [0, 0, 0, 28]);
        assert_eq!(
            out[4..20],
            [0x80, 0xcf, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3]
        );
        assert_eq!(out[20..], [0x02, 0xcf, 1, 2, 0, 1, 0, 1, 0, 0, 0, 2]);
        let mut extended = Vec::new();
        report(&mut extended, true, &groups);
        assert_eq!(extended[..8], [0, 0, 0, 32, 0x10, 0, 0, 0]);
        assert_eq!(extended[8..], out[4..]);
    }

    #[test]
    fn only_states_that_an_initiator_can_choose_are_read() {
        let list = |state| [0, 0, 0, 0, state, 0, 0, 7];
        let read = (0..16).map(|state| parse_set(&list(state)));
        let expected = (0..16_u8).map(|state| match state {
            0x0..=0x3 => Ok(vec![Wanted::Group(
                7,
                AccessState::SETTABLE[usize::from(state)],
            )]),
            0xe => Ok(vec![Wanted::PortOffline(7)]),
            _ => Err(Sense::invalid_bits_in_parameters(4, 3)),
        });
        assert!(read.eq(expected));
        assert_eq!(parse_set(&[]), Ok(vec![]));
        assert_eq!(parse_set(&[0; 4]), Ok(vec![]));
        for cut_off in [1, 3, 5, 7] {
            let list = list(0);
            assert!(parse_set(&list[..cut_off]).is_err());
        }
    }

    #[test]
    fn each_class_ends_where_spc_says() {
        use AccessClass::{Active, Always, Settled, Standby};
        use AccessState::{NonOptimized, Offline, Optimized, Transitioning, Unavailable};
        for (state, least) in [
            (Optimized, Active),
            (NonOptimized, Active),
            (AccessState::Standby, Standby),
            (Unavailable, Settled),
            (Offline, Settled),
            (Transitioning, Always),
        ] {
            for class in [Active, Standby, Settled, Always] {
                assert_eq!(
                    class.is_executed_in(state),
                    class >= least,
                    "{class:?} {state:?}"
                );
            }
        }
    }
}
