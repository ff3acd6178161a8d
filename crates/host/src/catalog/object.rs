//! `--object`.

use std::time::Duration;

use lunar_block::Limits;

use super::limits::limits;
use crate::file::MAX_POLL_US;
use crate::property::{self, Kind, Property};

/// A kind of object that `--object` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// A thread of the data path.
    IoThread,
    /// Limits with a name.
    ThrottleGroup,
}

/// An object that is neither a device nor a node.
#[derive(Debug)]
pub struct Object {
    /// Its type.
    pub name: &'static str,
    /// One line for people.
    pub description: &'static str,
    /// What it is.
    pub kind: ObjectKind,
}

impl Object {
    /// Its properties, for people.
    pub fn help(&self) -> String {
        match self.kind {
            ObjectKind::IoThread => property::help(self.name, &[IOTHREAD]),
            ObjectKind::ThrottleGroup => property::help(self.name, THROTTLE_GROUP),
        }
    }
}

/// The objects.
pub static OBJECTS: &[Object] = &[
    Object {
        name: "iothread",
        description: "a thread for the controllers that name it",
        kind: ObjectKind::IoThread,
    },
    Object {
        name: "throttle-group",
        description: "limits that drives and throttle nodes share",
        kind: ObjectKind::ThrottleGroup,
    },
];

/// QEMU's objects that are of no use here, and what there is instead.
pub static NOT_MADE: &[(&str, &str)] = &[
    (
        "memory-backend-memfd",
        "the guest's memory is QEMU's to make: leave this object there",
    ),
    (
        "memory-backend-file",
        "the guest's memory is QEMU's to make: leave this object there",
    ),
];

/// A thread as declared.
#[derive(Clone, Debug, Default)]
pub struct IoThreadOptions {
    /// `id=`.
    pub id: Option<String>,
    /// `poll-max-ns=`; `None` takes the command line's default.
    pub poll: Option<Duration>,
    /// `cpus=`.
    pub cpus: Option<String>,
}

/// The properties of an iothread.
pub static IOTHREAD: &[Property<IoThreadOptions>] = &[
    Property {
        name: "id",
        kind: Kind::Text(|t, v| t.id = Some(v)),
        default: "",
        description: "name, for iothread= of a controller",
    },
    Property {
        name: "poll-max-ns",
        kind: Kind::U64(0..=MAX_POLL_US as u64 * 1000, |t, v| {
            t.poll = Some(Duration::from_nanos(v));
        }),
        default: "",
        description: "how long it looks for work before it sleeps, if not --poll-us",
    },
    Property {
        name: "cpus",
        kind: Kind::Text(|t, v| t.cpus = Some(v)),
        default: "",
        description: "CPUs that it stays on, such as 0-3,,8 or node0",
    },
];

/// A throttle group as declared.
#[derive(Clone, Debug, Default)]
pub struct ThrottleGroupOptions {
    /// `id=`.
    pub id: Option<String>,
    /// `limits.*` or `x-*`.
    pub limits: Limits,
}

impl AsMut<Limits> for ThrottleGroupOptions {
    fn as_mut(&mut self) -> &mut Limits {
        &mut self.limits
    }
}

static ID: &[Property<ThrottleGroupOptions>] = &[Property {
    name: "id",
    kind: Kind::Text(|g, v| g.id = Some(v)),
    default: "",
    description: "name, for throttle-group= of a node or throttling.group= of a drive",
}];
static LIMITS: &[Property<ThrottleGroupOptions>] = limits!("limits.");
static FLAT: &[Property<ThrottleGroupOptions>] = limits!("x-");

/// The properties of a throttle group; QEMU has two names for each limit.
pub static THROTTLE_GROUP: &[&[Property<ThrottleGroupOptions>]] = &[ID, LIMITS, FLAT];

/// The limits alone, without anything in front of their names.
#[derive(Clone, Debug, Default)]
pub struct PlainLimits(pub Limits);

impl AsMut<Limits> for PlainLimits {
    fn as_mut(&mut self) -> &mut Limits {
        &mut self.0
    }
}

/// The members of a throttle group's `limits`.
pub static PLAIN_LIMITS: &[Property<PlainLimits>] = limits!("");
