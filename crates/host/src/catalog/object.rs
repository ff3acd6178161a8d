//! `--object`.

use lunar_block::Limits;

use super::limits::limits;
use crate::property::{Kind, Property};

/// An object that is neither a device nor a node.
#[derive(Debug)]
pub struct Object {
    /// Its type.
    pub name: &'static str,
    /// One line for people.
    pub description: &'static str,
}

/// The objects.
pub static OBJECTS: &[Object] = &[Object {
    name: "throttle-group",
    description: "limits that drives and throttle nodes share",
}];

/// QEMU's objects that are of no use here, and what there is instead.
pub static NOT_MADE: &[(&str, &str)] = &[
    (
        "iothread",
        "the threads of the data path are there from the start, and serve all controllers: --workers says how many",
    ),
    (
        "memory-backend-memfd",
        "the guest's memory is QEMU's to make: leave this object there",
    ),
    (
        "memory-backend-file",
        "the guest's memory is QEMU's to make: leave this object there",
    ),
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
