//! `--blockdev`.

use std::time::Duration;

use lunar_block::{DetectZeroes, FaultOn, FaultRule, Locking, NodeOptions};

use crate::property::{Kind, Property};

/// A block driver.
#[derive(Debug)]
pub struct BlockDriver {
    /// Its name.
    pub name: &'static str,
    /// Which it is.
    pub kind: BlockKind,
    /// One line for people.
    pub description: &'static str,
    /// Its own properties.
    pub own: &'static [&'static [Property<BlockOptions>]],
}

/// Which block driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// A regular file.
    File,
    /// A host block device.
    HostDevice,
    /// Another node, or a part of it.
    Raw,
    /// qcow2 in another node.
    Qcow2,
    /// Nothing.
    Null,
    /// RAM.
    Memory,
    /// Another node, with faults.
    Blkdebug,
    /// Another node, with limits.
    Throttle,
}

/// A block node as declared; a driver uses those that its table sets.
#[derive(Clone, Debug, Default)]
pub struct BlockOptions {
    /// `node-name=`.
    pub node_name: Option<String>,
    /// `filename=`.
    pub filename: Option<String>,
    /// `file=`, the name of another node.
    pub file: Option<String>,
    /// `image=`, the name of another node.
    pub image: Option<String>,
    /// `throttle-group=`, the name of an object.
    pub throttle_group: Option<String>,
    /// `seed=`.
    pub seed: u64,
    /// `offset=`.
    pub offset: u64,
    /// `size=`.
    pub size: Option<u64>,
    /// `read-zeroes=`.
    pub read_zeroes: bool,
    /// `latency-ns=`.
    pub latency_ns: u64,
    /// What every driver has.
    pub node: NodeOptions,
}

/// The block drivers.
pub static BLOCK_DRIVERS: &[BlockDriver] = &[
    BlockDriver {
        name: "file",
        kind: BlockKind::File,
        description: "a regular file of the host",
        own: &[&[FILENAME], &file()],
    },
    BlockDriver {
        name: "host_device",
        kind: BlockKind::HostDevice,
        description: "a block device of the host",
        own: &[&[FILENAME], &file()],
    },
    BlockDriver {
        name: "raw",
        kind: BlockKind::Raw,
        description: "another node as it is, or a part of it",
        own: &[&[
            FILE,
            Property {
                name: "offset",
                kind: Kind::Size(0..=u64::MAX, |n, v| n.offset = v),
                default: "0",
                description: "where it begins",
            },
            Property {
                name: "size",
                kind: Kind::Size(0..=u64::MAX, |n, v| n.size = Some(v)),
                default: "to the end",
                description: "how long it is",
            },
        ]],
    },
    BlockDriver {
        name: "qcow2",
        kind: BlockKind::Qcow2,
        description: "a qcow2 image, with its backing files",
        own: &[&[FILE]],
    },
    BlockDriver {
        name: "null-co",
        kind: BlockKind::Null,
        description: "stores nothing; for measuring",
        own: &[&[
            Property {
                name: "size",
                kind: Kind::Size(0..=u64::MAX, |n, v| n.size = Some(v)),
                default: "1G",
                description: "its size",
            },
            Property {
                name: "read-zeroes",
                kind: Kind::Bool(|n, v| n.read_zeroes = v),
                default: "off",
                description: "reads give zeroes, not whatever the buffer held",
            },
            Property {
                name: "latency-ns",
                kind: Kind::U64(0..=u64::MAX, |n, v| n.latency_ns = v),
                default: "0",
                description: "how long every operation takes",
            },
        ]],
    },
    BlockDriver {
        name: "memory",
        kind: BlockKind::Memory,
        description: "a RAM disk, empty at start and gone at the end",
        own: &[&[Property {
            name: "size",
            kind: Kind::Size(512..=u64::MAX, |n, v| n.size = Some(v)),
            default: "",
            description: "its size",
        }]],
    },
    BlockDriver {
        name: "blkdebug",
        kind: BlockKind::Blkdebug,
        description: "another node, with errors, delays and torn writes on purpose: inject-error.0.iotype=write,…",
        own: &[&[
            Property {
                name: "image",
                kind: Kind::Text(|n, v| n.image = Some(v)),
                default: "",
                description: "the other node: a name, or image.driver=…,image.filename=…",
            },
            Property {
                name: "seed",
                kind: Kind::U64(0..=u64::MAX, |n, v| n.seed = v),
                default: "0",
                description: "where the dice of probability-ppm begin",
            },
        ]],
    },
    BlockDriver {
        name: "throttle",
        kind: BlockKind::Throttle,
        description: "another node, within the limits of a throttle group",
        own: &[&[
            FILE,
            Property {
                name: "throttle-group",
                kind: Kind::Text(|n, v| n.throttle_group = Some(v)),
                default: "",
                description: "the group, an object of this name",
            },
        ]],
    },
];

/// A rule of `inject-error.N.`, as it is written.
#[derive(Clone, Debug, Default)]
pub struct FaultOptions {
    /// What it makes.
    pub rule: FaultRule,
    /// `sector=`.
    pub sector: Option<u64>,
    /// `sectors=`.
    pub sectors: Option<u64>,
    /// `probability=`, in parts of a million.
    pub probability: Option<u32>,
}

impl FaultOptions {
    /// The rule.
    pub fn rule(self) -> FaultRule {
        let FaultOptions {
            mut rule,
            sector,
            sectors,
            probability,
        } = self;
        if sector.is_some() || sectors.is_some() {
            let first = sector.unwrap_or(0);
            let last = first.saturating_add(sectors.unwrap_or(1));
            rule.range = first.saturating_mul(512)..last.saturating_mul(512);
        }
        if let Some(millionths) = probability {
            rule.probability = f64::from(millionths) / 1e6;
        }
        rule
    }
}

/// The properties of `inject-error.N.` of a `blkdebug` node.
pub static FAULT: &[Property<FaultOptions>] = &[
    Property {
        name: "iotype",
        kind: Kind::Word(&[
            ("any", |f| f.rule.on = FaultOn::Any),
            ("read", |f| f.rule.on = FaultOn::Read),
            ("write", |f| f.rule.on = FaultOn::Write),
            ("flush", |f| f.rule.on = FaultOn::Flush),
            ("discard", |f| f.rule.on = FaultOn::Discard),
            ("write-zeroes", |f| f.rule.on = FaultOn::WriteZeroes),
        ]),
        default: "any",
        description: "which operations",
    },
    Property {
        name: "event",
        kind: Kind::Word(&[
            ("none", |f| f.rule.on = FaultOn::Any),
            ("read_aio", |f| f.rule.on = FaultOn::Read),
            ("write_aio", |f| f.rule.on = FaultOn::Write),
            ("flush_to_disk", |f| f.rule.on = FaultOn::Flush),
        ]),
        default: "none",
        description: "the same in the words of QEMU's events",
    },
    Property {
        name: "sector",
        kind: Kind::U64(0..=u64::MAX, |f, v| f.sector = Some(v)),
        default: "",
        description: "those that touch this sector of 512 bytes",
    },
    Property {
        name: "sectors",
        kind: Kind::U64(1..=u64::MAX, |f, v| f.sectors = Some(v)),
        default: "1",
        description: "and so many from there on",
    },
    Property {
        name: "skip",
        kind: Kind::U64(0..=u64::MAX, |f, v| f.rule.skip = v),
        default: "0",
        description: "how many of them go by first",
    },
    Property {
        name: "count",
        kind: Kind::U64(1..=u64::MAX, |f, v| f.rule.count = Some(v)),
        default: "all",
        description: "how many of them meet the fault",
    },
    Property {
        name: "once",
        kind: Kind::Bool(|f, v| f.rule.count = v.then_some(1)),
        default: "off",
        description: "only one of them does",
    },
    Property {
        name: "probability-ppm",
        kind: Kind::U32(0..=1_000_000, |f, v| f.probability = Some(v)),
        default: "1000000",
        description: "how likely each of them does, in millionths",
    },
    Property {
        name: "errno",
        kind: Kind::U32(0..=4095, |f, v| {
            f.rule.errno = i32::try_from(v).ok().filter(|errno| *errno > 0);
        }),
        default: "5",
        description: "how it fails: 5 is EIO, 28 ENOSPC; 0: it does not",
    },
    Property {
        name: "latency-us",
        kind: Kind::U64(0..=u64::MAX, |f, v| {
            f.rule.latency = Duration::from_micros(v);
        }),
        default: "0",
        description: "how long it is held, in microseconds",
    },
    Property {
        name: "torn",
        kind: Kind::Size(0..=u64::MAX, |f, v| f.rule.torn = v),
        default: "0",
        description: "how many bytes of a write that fails reach the image",
    },
];

const FILENAME: Property<BlockOptions> = Property {
    name: "filename",
    kind: Kind::Text(|n, v| n.filename = Some(v)),
    default: "",
    description: "its path",
};
const FILE: Property<BlockOptions> = Property {
    name: "file",
    kind: Kind::Text(|n, v| n.file = Some(v)),
    default: "",
    description: "the node that holds it: a name, or file.driver=…,file.filename=…",
};

const NODE_NAME: Property<BlockOptions> = Property {
    name: "node-name",
    kind: Kind::Text(|n, v| n.node_name = Some(v)),
    default: "",
    description: "name, for a device's drive= or another node's file=",
};

impl AsMut<NodeOptions> for BlockOptions {
    fn as_mut(&mut self) -> &mut NodeOptions {
        &mut self.node
    }
}

impl BlockDriver {
    /// Everything that a node of this driver takes.
    pub fn tables(&self) -> Vec<&'static [Property<BlockOptions>]> {
        static COMMON: &[&[Property<BlockOptions>]] = &[&[NODE_NAME], &common()];
        COMMON.iter().chain(self.own).copied().collect()
    }
}

/// The properties of every node, whoever makes it.
pub(super) const fn common<T: AsMut<NodeOptions>>() -> [Property<T>; 6] {
    [
        Property {
            name: "read-only",
            kind: Kind::Bool(|n, v| n.as_mut().read_only = v),
            default: "off",
            description: "refuse writes",
        },
        Property {
            name: "discard",
            kind: Kind::Word(&[
                ("ignore", |n| n.as_mut().discard_unmap = false),
                ("off", |n| n.as_mut().discard_unmap = false),
                ("unmap", |n| n.as_mut().discard_unmap = true),
                ("on", |n| n.as_mut().discard_unmap = true),
            ]),
            default: "ignore",
            description: "whether the guest's discards free space",
        },
        Property {
            name: "detect-zeroes",
            kind: Kind::Word(&[
                ("off", |n| n.as_mut().detect_zeroes = DetectZeroes::Off),
                ("on", |n| n.as_mut().detect_zeroes = DetectZeroes::On),
                ("unmap", |n| n.as_mut().detect_zeroes = DetectZeroes::Unmap),
            ]),
            default: "off",
            description: "turn written zeroes into write-zeroes",
        },
        Property {
            name: "cache.direct",
            kind: Kind::Bool(|n, v| n.as_mut().direct = v),
            default: "off, or by cache= of a drive",
            description: "bypass the host's page cache",
        },
        Property {
            name: "cache.no-flush",
            kind: Kind::Bool(|n, v| n.as_mut().no_flush = v),
            default: "off, or by cache= of a drive",
            description: "ignore flushes: faster, loses data when the host crashes",
        },
        Property {
            name: "force-share",
            kind: Kind::Bool(|n, v| n.as_mut().force_share = v),
            default: "off",
            description: "open although another process writes (read-only images)",
        },
    ]
}

/// The properties of nodes that are files or devices of the host.
pub(super) const fn file<T: AsMut<NodeOptions>>() -> [Property<T>; 2] {
    [
        Property {
            name: "aio",
            kind: Kind::Word(&[
                ("threads", |_| ()),
                ("native", |_| ()),
                ("io_uring", |_| ()),
            ]),
            default: "io_uring",
            description: "taken for QEMU's sake: Lunar chooses by itself",
        },
        Property {
            name: "locking",
            kind: Kind::Word(&[
                ("auto", |n| n.as_mut().locking = Locking::Auto),
                ("on", |n| n.as_mut().locking = Locking::On),
                ("off", |n| n.as_mut().locking = Locking::Off),
            ]),
            default: "auto",
            description: "lock the file against other processes",
        },
    ]
}
