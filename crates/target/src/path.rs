//! The ways to a logical unit: initiator ports, target ports, and the groups these are in.

use lunar_scsi::reservation::TransportId;

/// A target port as one logical unit is reached through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetPort {
    /// RELATIVE TARGET PORT IDENTIFIER, not 0: no two ports of a unit have the same.
    pub relative: u16,
    /// The target port group that it is in.
    pub group: u16,
    /// Its NAA identifier, if it has one.
    pub name: Option<u64>,
}

/// The way that one nexus takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Where it begins. The name is the same at every start, unlike a [`NexusId`](crate::NexusId).
    pub initiator: TransportId,
    /// Where it ends.
    pub port: TargetPort,
}

impl Path {
    /// The group that ports are in if nobody says otherwise.
    pub const DEFAULT_GROUP: u16 = 1;

    /// From an initiator port to a target port without a name, in the default group.
    #[must_use]
    pub const fn new(initiator: TransportId, relative: u16) -> Path {
        Path {
            initiator,
            port: TargetPort {
                relative,
                group: Path::DEFAULT_GROUP,
                name: None,
            },
        }
    }
}
