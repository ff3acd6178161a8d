//! Asymmetric logical unit access: how well a unit is reached through each of its target ports (SPC-4 5.15, SC-050 to
//! SC-053).
//!
//! Ports are in groups, and a group has an access state for each unit. A controller that attaches a unit brings its
//! port, and with it the port's group. States are set by the user (a path that is to rest, or that is taken out of
//! service) and, unless the unit is configured otherwise, by initiators, which move a unit to other ports when one
//! fails. An initiator can also take a single port offline; the port is back as soon as an initiator chooses a state for
//! its group. What the user has taken offline, only the user brings back.

use lunar_scsi::alua::{AccessState, ChangedBy, Group, Wanted};
use lunar_scsi::{AdditionalSense, Sense};

use crate::path::TargetPort;
use crate::state::{Nexus, Shared};
use crate::{LuState, NexusId, UnitAttention};

/// Who moves a unit between its target port groups (TPGS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Alua {
    /// [`Both`](Alua::Both) if there are several ports, or a state that keeps commands away; else [`Off`](Alua::Off).
    #[default]
    Auto,
    /// Nobody. Initiators are not told that there are groups.
    Off,
    /// The target.
    Implicit,
    /// Initiators.
    Explicit,
    /// Both.
    Both,
}

const IMPLICIT: u8 = 0b01;
const EXPLICIT: u8 = 0b10;

/// The target port groups of a unit in ascending order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Groups {
    alua: Alua,
    states: Vec<GroupState>,
    /// The relative identifiers of the ports that initiators have taken offline.
    offline: Vec<u16>,
}

#[derive(Clone, Copy, Debug)]
struct GroupState {
    id: u16,
    state: AccessState,
    changed_by: ChangedBy,
}

impl Groups {
    /// The group of this number: as it is, or in the best state if it was unknown.
    fn group(&mut self, id: u16) -> Option<&mut GroupState> {
        let at = self.states.partition_point(|group| group.id < id);
        if self.states.get(at).is_none_or(|group| group.id != id) {
            let new = GroupState {
                id,
                state: AccessState::default(),
                changed_by: ChangedBy::default(),
            };
            self.states.insert(at, new);
        }
        self.states.get_mut(at)
    }

    fn state_of(&self, id: u16) -> AccessState {
        let found = self.states.iter().find(|group| group.id == id);
        found.map_or(AccessState::default(), |group| group.state)
    }

    fn state_of_port(&self, port: &TargetPort) -> AccessState {
        match self.offline.contains(&port.relative) {
            true => AccessState::Offline,
            false => self.state_of(port.group),
        }
    }

    /// Whether it was not offline before.
    fn take_offline(&mut self, relative: u16) -> bool {
        match self.offline.binary_search(&relative) {
            Ok(_) => false,
            Err(at) => {
                self.offline.insert(at, relative);
                true
            }
        }
    }

    /// The port is gone: another one may get its number.
    pub(crate) fn forget(&mut self, port: &TargetPort) {
        self.offline.retain(|offline| *offline != port.relative);
    }
}

impl Shared {
    /// The access state of the port through which a nexus comes.
    pub(crate) fn access_state(&self, nexus: NexusId) -> AccessState {
        let found = self.nexuses.iter().find(|n| n.id == nexus);
        found.map_or(AccessState::default(), |n| {
            self.groups.state_of_port(&n.path.port)
        })
    }

    /// An initiator chooses a group's state; its ports that are offline come back. Whether that changes anything.
    fn bring_to(&mut self, id: u16, state: AccessState) -> bool {
        let ports = self.nexuses.iter().map(|n| n.path.port);
        let inside: Vec<_> = ports.filter(|port| port.group == id).collect();
        let before = self.groups.offline.len();
        inside.iter().for_each(|port| self.groups.forget(port));
        let mut changed = self.groups.offline.len() != before;
        if let Some(group) = self.groups.group(id).filter(|group| group.state != state) {
            group.state = state;
            group.changed_by = ChangedBy::Initiator;
            changed = true;
        }
        changed
    }

    /// TPGS.
    fn tpgs(&self) -> u8 {
        match self.groups.alua {
            Alua::Auto => {
                let refuses = |n: &Nexus| self.access_state(n.id).refusal().is_some();
                match self.nexuses.len() > 1 || self.nexuses.iter().any(refuses) {
                    true => IMPLICIT | EXPLICIT,
                    false => 0,
                }
            }
            Alua::Off => 0,
            Alua::Implicit => IMPLICIT,
            Alua::Explicit => EXPLICIT,
            Alua::Both => IMPLICIT | EXPLICIT,
        }
    }

    fn is_moved_by_initiators(&self) -> bool {
        self.tpgs() & EXPLICIT != 0
    }

    /// Raises 2A/06 for everybody but the one who knows.
    fn tell_access_state_changed(&mut self, but: Option<NexusId>) {
        for nexus in self.nexuses.iter_mut().filter(|n| Some(n.id) != but) {
            nexus.attentions.raise(UnitAttention::AccessStateChanged);
        }
    }
}

/// What INQUIRY says about the way that the command has come, and about the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    /// TPGS.
    pub(crate) tpgs: u8,
    /// The port of the command; none if the nexus is unknown.
    pub(crate) own: Option<TargetPort>,
    /// All ports, in ascending order of their relative identifiers.
    pub(crate) all: Vec<TargetPort>,
}

impl LuState {
    /// Sets who moves the unit between its target port groups.
    pub fn set_alua(&self, alua: Alua) {
        self.change(|shared| shared.groups.alua = alua);
    }

    /// Whether anybody reaches the unit through a port of this group.
    pub fn has_port_in(&self, group: u16) -> bool {
        let shared = self.lock();
        shared.nexuses.iter().any(|n| n.path.port.group == group)
    }

    /// The user has chosen the access state of a group: an implicit transition, of which every nexus hears (2A/06).
    pub fn set_access_state(&self, group: u16, state: AccessState) {
        self.change(|shared| {
            let used = !shared.nexuses.is_empty();
            let Some(group) = shared.groups.group(group).filter(|g| g.state != state) else {
                return;
            };
            group.state = state;
            if used {
                group.changed_by = ChangedBy::Target;
                shared.tell_access_state_changed(None);
            }
        });
    }

    /// Whether initiators may now choose the access states: SET TARGET PORT GROUPS is there.
    pub(crate) fn is_moved_by_initiators(&self) -> bool {
        self.lock().is_moved_by_initiators()
    }

    pub(crate) fn ports(&self, nexus: NexusId) -> Ports {
        let shared = self.lock();
        let mut all: Vec<_> = shared.nexuses.iter().map(|n| n.path.port).collect();
        all.sort_unstable_by_key(|port| port.relative);
        let own = shared.nexuses.iter().find(|n| n.id == nexus);
        Ports {
            tpgs: shared.tpgs(),
            own: own.map(|n| n.path.port),
            all,
        }
    }

    /// The groups that have a port, as REPORT TARGET PORT GROUPS shows them. The ports that initiators have taken offline
    /// are in their group and, besides, in one that shows this.
    pub(crate) fn target_port_groups(&self) -> Vec<Group> {
        let shared = self.lock();
        let ports = |id: u16| {
            let inside = shared.nexuses.iter().map(|n| n.path.port);
            let mut ports: Vec<u16> = inside
                .filter(|port| port.group == id)
                .map(|port| port.relative)
                .collect();
            ports.sort_unstable();
            ports
        };
        let mut ids: Vec<u16> = shared.nexuses.iter().map(|n| n.path.port.group).collect();
        ids.sort_unstable();
        ids.dedup();
        let shown = ids.into_iter().map(|id| {
            let known = shared.groups.states.iter().find(|group| group.id == id);
            Group {
                id,
                preferred: false,
                state: known.map_or(AccessState::default(), |group| group.state),
                changed_by: known.map_or(ChangedBy::default(), |group| group.changed_by),
                ports: ports(id),
            }
        });
        let mut shown: Vec<Group> = shown.collect();
        let above = shown.last().and_then(|last| last.id.checked_add(1));
        if let Some(id) = above.filter(|_| !shared.groups.offline.is_empty()) {
            shown.push(Group {
                id,
                preferred: false,
                state: AccessState::Offline,
                changed_by: ChangedBy::Initiator,
                ports: shared.groups.offline.clone(),
            });
        }
        shown
    }

    /// SET TARGET PORT GROUPS: all of the wanted states, or none of them. Every other nexus hears of a change.
    ///
    /// # Errors
    /// 5/20/00 if initiators may not do so, 5/26/00 for a group or port that does not exist, 5/67/0A for a group that the
    /// user has taken offline.
    pub(crate) fn set_target_port_groups(
        &self,
        nexus: NexusId,
        wanted: &[Wanted],
    ) -> Result<(), Sense> {
        self.change(|shared| {
            if !shared.is_moved_by_initiators() {
                let unsupported = AdditionalSense::INVALID_OPERATION_CODE;
                return Err(Sense::illegal_request(unsupported));
            }
            for (at, wanted) in (6..).step_by(4).zip(wanted) {
                let mut ports = shared.nexuses.iter().map(|n| n.path.port);
                let known = match *wanted {
                    Wanted::Group(id, _) => ports.any(|port| port.group == id),
                    Wanted::PortOffline(relative) => ports.any(|port| port.relative == relative),
                };
                if !known {
                    return Err(Sense::invalid_field_in_parameters(at));
                }
                if let Wanted::Group(id, _) = *wanted
                    && shared.groups.state_of(id) == AccessState::Offline
                {
                    let failed = AdditionalSense::SET_TARGET_PORT_GROUPS_FAILED;
                    return Err(Sense::illegal_request(failed));
                }
            }
            let mut changed = false;
            for wanted in wanted {
                changed |= match *wanted {
                    Wanted::Group(id, state) => shared.bring_to(id, state),
                    Wanted::PortOffline(relative) => shared.groups.take_offline(relative),
                };
            }
            if changed {
                shared.tell_access_state_changed(Some(nexus));
            }
            Ok(())
        })
    }
}
