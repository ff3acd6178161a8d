//! `--drive`.

use lunar_block::{CacheMode, DetectZeroes, Locking, NodeOptions};

use crate::property::{Kind, Property};

/// A drive as declared: an image, and how it is used.
#[derive(Clone, Debug)]
pub struct DriveOptions {
    /// `id=`.
    pub id: Option<String>,
    /// `file=`.
    pub file: Option<String>,
    /// `format=`.
    pub format: Option<Format>,
    /// `if=`: a device is made for it without `--device`.
    pub automatic: bool,
    /// `media=cdrom`.
    pub cdrom: bool,
    /// `cache=`.
    pub cache: CacheMode,
    /// `cache.direct=`, which goes before `cache=`.
    pub direct: Option<bool>,
    /// `cache.no-flush=`.
    pub no_flush: Option<bool>,
    /// `cache.writeback=`.
    pub writeback: Option<bool>,
    /// `offset=` of a raw image.
    pub offset: u64,
    /// `size=` of a raw image.
    pub size: Option<u64>,
    /// The rest.
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
            file: None,
            format: None,
            automatic: true,
            cdrom: false,
            cache: WRITEBACK,
            direct: None,
            no_flush: None,
            writeback: None,
            offset: 0,
            size: None,
            node: NodeOptions::default(),
        }
    }
}

const WRITEBACK: CacheMode = CacheMode {
    direct: false,
    no_flush: false,
    write_cache: true,
};

/// The properties of `--drive`.
pub static DRIVE: &[Property<DriveOptions>] = &[
    Property {
        name: "file",
        kind: Kind::Text(|d, v| d.file = Some(v)),
        default: "",
        description: "the image: a file or a block device of the host",
    },
    Property {
        name: "id",
        kind: Kind::Text(|d, v| d.id = Some(v)),
        default: "",
        description: "name, for a device's drive=",
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
        name: "read-only",
        kind: Kind::Bool(|d, v| d.node.read_only = v),
        default: "off",
        description: "refuse writes",
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
        name: "cache.direct",
        kind: Kind::Bool(|d, v| d.direct = Some(v)),
        default: "by cache=",
        description: "bypass the host's page cache",
    },
    Property {
        name: "cache.no-flush",
        kind: Kind::Bool(|d, v| d.no_flush = Some(v)),
        default: "by cache=",
        description: "ignore flushes: faster, loses data when the host crashes",
    },
    Property {
        name: "cache.writeback",
        kind: Kind::Bool(|d, v| d.writeback = Some(v)),
        default: "by cache=",
        description: "the guest sees a write cache",
    },
    Property {
        name: "aio",
        kind: Kind::Word(&[
            ("threads", |_| ()),
            ("native", |_| ()),
            ("io_uring", |_| ()),
        ]),
        default: "io_uring",
        description: "taken for QEMU's sake: I/O always goes through io_uring",
    },
    Property {
        name: "discard",
        kind: Kind::Word(&[
            ("ignore", |d| d.node.discard_unmap = false),
            ("off", |d| d.node.discard_unmap = false),
            ("unmap", |d| d.node.discard_unmap = true),
            ("on", |d| d.node.discard_unmap = true),
        ]),
        default: "ignore",
        description: "whether the guest's discards free space",
    },
    Property {
        name: "detect-zeroes",
        kind: Kind::Word(&[
            ("off", |d| d.node.detect_zeroes = DetectZeroes::Off),
            ("on", |d| d.node.detect_zeroes = DetectZeroes::On),
            ("unmap", |d| d.node.detect_zeroes = DetectZeroes::Unmap),
        ]),
        default: "off",
        description: "turn written zeroes into write-zeroes",
    },
    Property {
        name: "locking",
        kind: Kind::Word(&[
            ("auto", |d| d.node.locking = Locking::Auto),
            ("on", |d| d.node.locking = Locking::On),
            ("off", |d| d.node.locking = Locking::Off),
        ]),
        default: "auto",
        description: "lock the image against other processes",
    },
    Property {
        name: "force-share",
        kind: Kind::Bool(|d, v| d.node.force_share = v),
        default: "off",
        description: "open although another process writes (read-only images)",
    },
    Property {
        name: "rerror",
        kind: Kind::Word(&[("auto", |_| ()), ("report", |_| ())]),
        default: "report",
        description: "a failed read is reported to the guest",
    },
    Property {
        name: "werror",
        kind: Kind::Word(&[("auto", |_| ()), ("report", |_| ())]),
        default: "report",
        description: "a failed write is reported to the guest",
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

fn set_cache(drive: &mut DriveOptions, name: &str) {
    drive.cache = CacheMode::parse(name).unwrap_or(WRITEBACK);
}
