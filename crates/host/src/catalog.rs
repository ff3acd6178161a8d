//! What can be declared: the devices, the drive options and the block drivers, as property tables.
//!
//! Names, defaults and meanings are QEMU's. A value that QEMU knows and Lunar does not carry out is not in the tables:
//! it is refused, with the words that would be accepted, instead of being taken and ignored.

mod controller;
mod disk;
mod drive;
mod limits;
mod node;
mod object;

pub use controller::{COALESCING, CONTROLLER, ControllerOptions, MAX_COALESCE_US, MAX_QUEUES};
pub use disk::{DISK, DiskOptions, MAX_LUN};
pub use drive::{DRIVE, DriveOptions, Format};
pub use node::{BLOCK_DRIVERS, BlockDriver, BlockKind, BlockOptions, FAULT, FaultOptions};
pub use object::{
    IOTHREAD, IoThreadOptions, NOT_MADE, OBJECTS, Object, ObjectKind, PLAIN_LIMITS, PlainLimits,
    THROTTLE_GROUP, ThrottleGroupOptions,
};

/// A kind of device that `--device` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A virtio-scsi host adapter: one vhost-user socket.
    Controller,
    /// A disk.
    Disk,
}

/// What `--device help` says about a device.
#[derive(Debug)]
pub struct Device {
    /// The driver name.
    pub name: &'static str,
    /// Another name for it.
    pub alias: &'static str,
    /// The bus it plugs into.
    pub bus: &'static str,
    /// One line for people.
    pub description: &'static str,
    /// What it is.
    pub kind: DeviceKind,
}

/// The devices.
pub static DEVICES: &[Device] = &[
    Device {
        name: "scsi-hd",
        alias: "scsi-disk",
        bus: "SCSI",
        description: "virtual SCSI disk",
        kind: DeviceKind::Disk,
    },
    Device {
        name: "virtio-scsi-pci",
        alias: "virtio-scsi",
        bus: "vhost-user",
        description: "virtio-scsi controller with a vhost-user socket of its own",
        kind: DeviceKind::Controller,
    },
];

/// QEMU's SCSI devices that are not served yet: known names deserve a better answer than "unknown".
pub static NOT_SERVED: &[(&str, &str)] = &[
    ("scsi-cd", "CD/DVD drives"),
    ("scsi-block", "passed-through block devices"),
    ("scsi-generic", "passed-through SCSI devices"),
];
