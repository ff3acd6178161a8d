//! Why a declaration is refused: each message says what is wrong and what to write instead.

use std::path::PathBuf;

use super::Address;
use crate::{cpus, keyval, property};

/// A declaration that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub enum Error {
    #[error(transparent)]
    Syntax(#[from] keyval::Error),
    #[error(transparent)]
    Property(#[from] property::Error),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error(
        "{0:?} is not a good name: it must begin with a letter and go on with letters, digits, \"-\", \".\" or \"_\""
    )]
    BadName(String),
    #[error("the {} {id:?} exists already; choose another name", .taken.noun())]
    DuplicateId { id: String, taken: Taken },
    #[error("no device is called {name:?}{}; --device help lists them", property::did_you_mean(.suggestion))]
    NoSuchDevice {
        name: String,
        suggestion: Option<&'static str>,
    },
    #[error("{what} are not served yet ({name}); use scsi-hd for a disk")]
    NotServed {
        name: &'static str,
        what: &'static str,
    },
    #[error("no object is called {name:?} (there are: {})", .names.join(", "))]
    NoSuchObject {
        name: String,
        names: Vec<&'static str>,
    },
    #[error("an object {name} is not needed: {instead}")]
    NotMade {
        name: &'static str,
        instead: &'static str,
    },
    #[error("iothread {0:?} does not exist; declare it first with --object iothread")]
    NoSuchThread(String),
    #[error("cpus: {0}")]
    Cpus(#[from] cpus::Error),
    #[error("throttle group {0:?} does not exist; declare it first with --object throttle-group")]
    NoSuchGroup(String),
    #[error("{node:?}: {what}")]
    NotReopened { node: String, what: String },
    #[error("no block driver is called {name:?} (there are: {})", .names.join(", "))]
    NoSuchDriver {
        name: String,
        names: Vec<&'static str>,
    },
    #[error("no drive or node is called {drive:?} ({})", there_are(.names, "declare one with --drive or --blockdev"))]
    NoSuchDrive { drive: String, names: Vec<String> },
    #[error("no node is called {0:?}; declare it first with --blockdev")]
    NoSuchNode(String),
    #[error("no bus is called {bus:?} ({})", there_are(.buses, "declare a controller with --device virtio-scsi-pci,id=scsi0"))]
    NoSuchBus { bus: String, buses: Vec<String> },
    #[error("there is no controller; declare one with --device virtio-scsi-pci,id=scsi0")]
    NoController,
    #[error(
        "{drive:?} is in use by {by}; sharing it needs share-rw=on on every device, or a read-only image"
    )]
    InUse { drive: String, by: String },
    #[error("target {} LUN {} of bus {bus} is taken by {by}; choose another scsi-id or lun, or leave them out", .address.target, .address.lun)]
    AddressTaken {
        bus: String,
        address: Address,
        by: String,
    },
    #[error(
        "{drive:?} is on bus {bus} already, as {by}; a second path to a disk leads through another controller"
    )]
    SamePath {
        drive: String,
        bus: String,
        by: String,
    },
    #[error("all 256 targets are taken; give scsi-id and lun to put several disks on one target")]
    NoFreeTarget,
    #[error("all LUNs of target {target} are taken; choose another scsi-id")]
    NoFreeLun { target: u8 },
    #[error("bootindex {bootindex} is taken by {by}; choose another")]
    BootIndexTaken { bootindex: u16, by: String },
    #[error(
        "CD/DVD drives are not served yet; give format=raw and media=disk to serve the image as a disk"
    )]
    Cdrom,
    #[error("the drive {0:?} is empty, and a disk needs a medium unless it is removable=on")]
    NeedsMedium(String),
    #[error("file= and medium= both say what is in the drive; write only one of them")]
    TwoMedia,
    #[error("offset and size are for raw images; a qcow2 image is served whole")]
    PartOfQcow2,
    #[error("file= names a node and file.* declares one; write only one of them")]
    TwoFiles,
    #[error("qcow2 needs a node of driver file or host_device; {0:?} is none")]
    Qcow2NeedsFile(String),
    #[error(
        "this is the 257th image; controllers have 256 targets, use --drive and --device to give several images to one target"
    )]
    TooManyImages,
    #[error("there is no {} {name:?}", .what.noun())]
    Absent { what: Taken, name: String },
    #[error("{name:?} is in use by {by}; remove that first")]
    StillUsed { name: String, by: String },
    #[error("{node:?} belongs to the drive {drive:?}; remove that instead")]
    OfDrive { node: String, drive: String },
    #[error("Device '{device}' set {of} boundaries fail: they are nanoseconds above 0, ascending")]
    Histogram { device: String, of: &'static str },
    #[error("writes to node {0:?} are seen by the format above it only; set the threshold there")]
    NoThreshold(String),
    #[error("{0}")]
    Filter(lunar_block::Error),
    #[error("{0} is being removed")]
    Leaving(String),
    #[error("the queues of {0} are being moved")]
    Moving(String),
    #[error("the medium of {0} is being changed")]
    Changing(String),
    #[error("there can be no more than 65535 controllers")]
    TooManyControllers,
    #[error(
        "controller {0} has no socket; give --socket-path PATH, or socket=PATH in its --device"
    )]
    NoSocket(String),
    #[error("controllers {first} and {second} have the same socket {}; each needs its own", .path.display())]
    SameSocket {
        path: PathBuf,
        first: String,
        second: String,
    },
}

/// A kind of things with names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Taken {
    Drive,
    Node,
    Device,
    Object,
}

impl Taken {
    fn noun(self) -> &'static str {
        match self {
            Taken::Drive => "drive",
            Taken::Node => "node",
            Taken::Device => "device",
            Taken::Object => "object",
        }
    }
}

/// `there are: a, b`, or what to do when there is nothing.
fn there_are(names: &[String], remedy: &str) -> String {
    if names.is_empty() {
        format!("there are none; {remedy}")
    } else {
        format!("there are: {}", names.join(", "))
    }
}
