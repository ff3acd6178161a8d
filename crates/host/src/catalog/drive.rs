//! `--drive`.

use lunar_block::{CacheMode, Limits, NodeOptions, OnError};

use super::limits::limits;
use super::node;
use crate::property::{Choice, Kind, Property};

/// A drive as declared: an image, and how it is used.
#[derive(Clone, Debug)]
pub struct DriveOptions {
    /// `id=`.
    pub id: Option<String>,
    /// `identity=`.
    pub identity: Option<String>,
    /// `file=`.
    pub file: Option<String>,
    /// `medium=`, a node.
    pub medium: Option<String>,
    /// `format=`.
    pub format: Option<Format>,
    /// `if=`: a device is made for it without `--device`.
    pub automatic: bool,
    /// `media=cdrom`.
    pub cdrom: bool,
    /// The guest sees a write cache, if its device does not say otherwise: `cache=`, or `cache.writeback=`.
    pub write_cache: bool,
    /// `rerror=`; `None` is `auto`.
    pub rerror: Option<OnError>,
    /// `werror=`; `None` is `auto`.
    pub werror: Option<OnError>,
    /// `throttling.*`
    pub limits: Limits,
    /// `throttling.group=`
    pub throttle_group: Option<String>,
    /// `offset=` of a raw image.
    pub offset: u64,
    /// `size=` of a raw image.
    pub size: Option<u64>,
    /// How the image is opened.
    pub node: NodeOptions,
}

/// An image format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Bytes as they are.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

impl Default for DriveOptions {
    fn default() -> DriveOptions {
        DriveOptions {
            id: None,
            identity: None,
            file: None,
            medium: None,
            format: None,
            automatic: true,
            cdrom: false,
            write_cache: true,
            rerror: None,
            werror: None,
            limits: Limits::default(),
            throttle_group: None,
            offset: 0,
            size: None,
            node: NodeOptions::default(),
        }
    }
}

/// Its own properties.
static OWN: &[Property<DriveOptions>] = &[
    Property {
        name: "file",
        kind: Kind::Text(|d, v| d.file = Some(v)),
        default: "none: the drive is empty",
        description: "the image: a file or a block device of the host",
    },
    Property {
        name: "medium",
        kind: Kind::Text(|d, v| d.medium = Some(v)),
        default: "",
        description: "a node that is in the drive, instead of file=",
    },
    Property {
        name: "id",
        kind: Kind::Text(|d, v| d.id = Some(v)),
        default: "",
        description: "name, for a device's drive=",
    },
    Property {
        name: "identity",
        kind: Kind::Text(|d, v| d.identity = Some(v)),
        default: "id, or made from the file's path",
        description: "what a disk's identifiers are made from, if nothing else says",
    },
    Property {
        name: "if",
        kind: Kind::Word(&[
            ("none", |d| d.automatic = false),
            ("scsi", |d| d.automatic = true),
        ]),
        default: "scsi",
        description: "scsi: make a device for it unless a --device takes it; none: do not",
    },
    Property {
        name: "format",
        kind: Kind::Word(&[
            ("raw", |d| d.format = Some(Format::Raw)),
            ("qcow2", |d| d.format = Some(Format::Qcow2)),
        ]),
        default: "by the file's name: qcow2 for *.qcow2, else raw",
        description: "image format",
    },
    Property {
        name: "media",
        kind: Kind::Word(&[("disk", |d| d.cdrom = false), ("cdrom", |d| d.cdrom = true)]),
        default: "disk",
        description: "what a guest sees it as",
    },
    Property {
        name: "readonly",
        kind: Kind::Bool(|d, v| d.node.read_only = v),
        default: "off",
        description: "refuse writes (also: read-only)",
    },
    Property {
        name: "cache",
        kind: Kind::Word(&[
            ("none", |d| set_cache(d, "none")),
            ("writethrough", |d| set_cache(d, "writethrough")),
            ("writeback", |d| set_cache(d, "writeback")),
            ("directsync", |d| set_cache(d, "directsync")),
            ("unsafe", |d| set_cache(d, "unsafe")),
        ]),
        default: "writeback",
        description: "cache mode, as in QEMU (none = O_DIRECT)",
    },
    Property {
        name: "cache.writeback",
        kind: Kind::Bool(|d, v| d.write_cache = v),
        default: "by cache=",
        description: "the guest sees a write cache",
    },
    Property {
        name: "rerror",
        kind: Kind::Word(&rerror()),
        default: "auto, which is report",
        description: "what is done when the host fails a read",
    },
    Property {
        name: "werror",
        kind: Kind::Word(&werror()),
        default: "auto, which is enospc",
        description: "what is done when the host fails a write; enospc: stop if no space is left, else report",
    },
    Property {
        name: "offset",
        kind: Kind::Size(0..=u64::MAX, |d, v| d.offset = v),
        default: "0",
        description: "where a raw image begins in the file",
    },
    Property {
        name: "size",
        kind: Kind::Size(0..=u64::MAX, |d, v| d.size = Some(v)),
        default: "to the end",
        description: "how long a raw image is",
    },
];

/// Limits, as QEMU has them.
static THROTTLING: &[Property<DriveOptions>] = limits!("throttling.");

static THROTTLING_GROUP: &[Property<DriveOptions>] = &[Property {
    name: "throttling.group",
    kind: Kind::Text(|d, v| d.throttle_group = Some(v)),
    default: "its own",
    description: "drives of one group share the limits",
}];

/// Sets what the mode stands for. It is stored before all else, so that single settings go before it.
fn set_cache(drive: &mut DriveOptions, name: &str) {
    if let Some(mode) = CacheMode::parse(name) {
        drive.node.direct = mode.direct;
        drive.node.no_flush = mode.no_flush;
        drive.write_cache = mode.write_cache;
    }
}

/// What can be done about errors, as a drive or a device says it.
pub(super) trait ErrorWords {
    fn set_rerror(&mut self, rule: Option<OnError>);
    fn set_werror(&mut self, rule: Option<OnError>);
}

impl ErrorWords for DriveOptions {
    fn set_rerror(&mut self, rule: Option<OnError>) {
        self.rerror = rule;
    }
    fn set_werror(&mut self, rule: Option<OnError>) {
        self.werror = rule;
    }
}

/// The words of `rerror=`. (QEMU has `enospc` here for devices only, where it means `report`: no read wants space.)
pub(super) const fn rerror<T: ErrorWords>() -> [Choice<T>; 4] {
    [
        ("auto", |t| t.set_rerror(None)),
        ("report", |t| t.set_rerror(Some(OnError::Report))),
        ("ignore", |t| t.set_rerror(Some(OnError::Ignore))),
        ("stop", |t| t.set_rerror(Some(OnError::Stop))),
    ]
}

/// The words of `werror=`.
pub(super) const fn werror<T: ErrorWords>() -> [Choice<T>; 5] {
    [
        ("auto", |t| t.set_werror(None)),
        ("report", |t| t.set_werror(Some(OnError::Report))),
        ("ignore", |t| t.set_werror(Some(OnError::Ignore))),
        ("enospc", |t| t.set_werror(Some(OnError::Enospc))),
        ("stop", |t| t.set_werror(Some(OnError::Stop))),
    ]
}

impl AsMut<NodeOptions> for DriveOptions {
    fn as_mut(&mut self) -> &mut NodeOptions {
        &mut self.node
    }
}

/// Everything that `--drive` takes: its own properties, and those of the node and the file that it makes.
pub static DRIVE: &[&[Property<DriveOptions>]] = &[
    OWN,
    THROTTLING,
    THROTTLING_GROUP,
    &node::common(),
    &node::file(),
];

impl AsMut<Limits> for DriveOptions {
    fn as_mut(&mut self) -> &mut Limits {
        &mut self.limits
    }
}
