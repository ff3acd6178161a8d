//! `scsi-hd`.

use lunar_block::OnError;
use lunar_devices::{DiskConfig, OnOffAuto};
use lunar_scsi::alua::AccessState;
use lunar_target::Alua;

use super::drive::{ErrorWords, rerror, werror};
use crate::property::{Kind, Property};

/// A disk as declared: where it is, what it shows, and its properties.
#[derive(Clone, Debug, Default)]
pub struct DiskOptions {
    /// `id=`.
    pub id: Option<String>,
    /// `drive=`, the name of a drive or node.
    pub drive: Option<String>,
    /// `bus=`.
    pub bus: Option<String>,
    /// `scsi-id=`; `None` takes the first free one.
    pub target: Option<u16>,
    /// `lun=`; `None` takes the first free one.
    pub lun: Option<u16>,
    /// `bootindex=`.
    pub bootindex: Option<u16>,
    /// `share-rw=`.
    pub share_rw: bool,
    /// `port_index=`; `None` takes the number of the controller.
    pub port_index: Option<u16>,
    /// `port_wwn=`.
    pub port_wwn: Option<u64>,
    /// `port_group=`; `None` takes the default group.
    pub port_group: Option<u16>,
    /// `access_state=`.
    pub access_state: AccessState,
    /// `alua=`.
    pub alua: Alua,
    /// `pr_file=`; `None` is beside the image, if that is a file.
    pub pr_file: Option<String>,
    /// `rerror=`; `None` is `auto`: as the drive says.
    pub rerror: Option<OnError>,
    /// `werror=`; `None` is `auto`: as the drive says.
    pub werror: Option<OnError>,
    /// What the logical unit is made from.
    pub config: DiskConfig,
}

impl ErrorWords for DiskOptions {
    fn set_rerror(&mut self, rule: Option<OnError>) {
        self.rerror = rule;
    }
    fn set_werror(&mut self, rule: Option<OnError>) {
        self.werror = rule;
    }
}

/// The largest block size that QEMU's property takes.
const MAX_BLOCK: u64 = 2 << 20;
/// The largest size that a 32-bit field of bytes holds.
const MAX_IO: u64 = u32::MAX as u64;

/// A size whose range fits.
fn narrow(size: u64) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// The last LUN that virtio-scsi can address; targets end at 255.
pub const MAX_LUN: u16 = 16383;

/// The properties of `scsi-hd`.
pub static DISK: &[Property<DiskOptions>] = &[
    Property {
        name: "id",
        kind: Kind::Text(|d, v| d.id = Some(v)),
        default: "",
        description: "name",
    },
    Property {
        name: "drive",
        kind: Kind::Text(|d, v| d.drive = Some(v)),
        default: "",
        description: "the drive or node that it shows",
    },
    Property {
        name: "bus",
        kind: Kind::Text(|d, v| d.bus = Some(v)),
        default: "the first",
        description: "the controller's bus, such as scsi0.0",
    },
    Property {
        name: "channel",
        kind: Kind::U16(0..=0, |_, _| ()),
        default: "0",
        description: "always 0: virtio-scsi has one channel",
    },
    Property {
        name: "scsi-id",
        kind: Kind::Choose(255, |d, v| d.target = v),
        default: "-1, the first free",
        description: "target, 0 to 255",
    },
    Property {
        name: "lun",
        kind: Kind::Choose(MAX_LUN, |d, v| d.lun = v),
        default: "-1, the first free",
        description: "logical unit number, 0 to 16383",
    },
    Property {
        name: "bootindex",
        kind: Kind::Choose(u16::MAX, |d, v| d.bootindex = v),
        default: "-1, not booted from",
        description: "place in the boot order",
    },
    Property {
        name: "share-rw",
        kind: Kind::Bool(|d, v| d.share_rw = v),
        default: "off",
        description: "others may write to the image too",
    },
    Property {
        name: "write-cache",
        kind: Kind::OnOffAuto(|d, v| {
            d.config.write_cache = match v {
                None => OnOffAuto::Auto,
                Some(true) => OnOffAuto::On,
                Some(false) => OnOffAuto::Off,
            };
        }),
        default: "auto, by the drive's cache=",
        description: "the guest sees a write cache at first",
    },
    Property {
        name: "logical_block_size",
        kind: Kind::Size(512..=MAX_BLOCK, |d, v| {
            d.config.logical_block_size = narrow(v)
        }),
        default: "512",
        description: "512, 1024, 2048 or 4096",
    },
    Property {
        name: "physical_block_size",
        kind: Kind::Size(512..=MAX_BLOCK, |d, v| {
            d.config.physical_block_size = Some(narrow(v));
        }),
        default: "logical_block_size",
        description: "a power of two from 512 to 2 MiB",
    },
    Property {
        name: "min_io_size",
        kind: Kind::Size(0..=MAX_IO, |d, v| d.config.min_io_size = narrow(v)),
        default: "0",
        description: "preferred transfer granularity",
    },
    Property {
        name: "opt_io_size",
        kind: Kind::Size(0..=MAX_IO, |d, v| d.config.opt_io_size = narrow(v)),
        default: "0",
        description: "preferred transfer size",
    },
    Property {
        name: "discard_granularity",
        kind: Kind::Size(0..=MAX_IO, |d, v| {
            d.config.discard_granularity = Some(narrow(v));
        }),
        default: "by the image, 4096 at least",
        description: "0 turns UNMAP off",
    },
    Property {
        name: "max_unmap_size",
        kind: Kind::Size(0..=u64::MAX, |d, v| d.config.max_unmap_size = v),
        default: "536870912",
        description: "bytes that one UNMAP covers",
    },
    Property {
        name: "max_io_size",
        kind: Kind::Size(0..=u64::MAX, |d, v| d.config.max_io_size = v),
        default: "2147483647",
        description: "bytes that one command transfers",
    },
    Property {
        name: "rotation_rate",
        kind: Kind::U16(0..=u16::MAX, |d, v| d.config.rotation_rate = v),
        default: "0",
        description: "rotations per minute; 1 is an SSD, 0 says nothing",
    },
    Property {
        name: "removable",
        kind: Kind::Bool(|d, v| d.config.removable = v),
        default: "off",
        description: "the medium can be ejected",
    },
    Property {
        name: "dpofua",
        kind: Kind::Bool(|d, v| d.config.dpofua = v),
        default: "on",
        description: "DPO and FUA are supported",
    },
    Property {
        name: "atomic-writes",
        kind: Kind::Bool(|d, v| d.config.atomic_writes = v),
        default: "off, on for images in memory",
        description: "WRITE ATOMIC: untorn by power loss if the storage below is",
    },
    Property {
        name: "scsi_version",
        kind: Kind::U16(3..=7, |d, v| {
            d.config.scsi_version = u8::try_from(v).unwrap_or(5)
        }),
        default: "5",
        description: "the VERSION of INQUIRY data",
    },
    Property {
        name: "serial",
        kind: Kind::Text(|d, v| d.config.serial = Some(v)),
        default: "made from the drive's name",
        description: "serial number, up to 36 characters",
    },
    Property {
        name: "wwn",
        kind: Kind::U64(0..=u64::MAX, |d, v| d.config.wwn = Some(v)),
        default: "made from serial or the drive's name",
        description: "world-wide name (NAA)",
    },
    Property {
        name: "port_wwn",
        kind: Kind::U64(0..=u64::MAX, |d, v| {
            d.port_wwn = Some(v).filter(|&v| v != 0)
        }),
        default: "",
        description: "world-wide name of the target port",
    },
    Property {
        name: "port_index",
        kind: Kind::U16(0..=u16::MAX, |d, v| {
            d.port_index = Some(v).filter(|&v| v != 0);
        }),
        default: "the controller's number, from 1",
        description: "relative target port",
    },
    Property {
        name: "port_group",
        kind: Kind::U16(0..=u16::MAX, |d, v| d.port_group = Some(v)),
        default: "1",
        description: "target port group of this path",
    },
    Property {
        name: "access_state",
        kind: Kind::Word(&[
            ("optimized", |d| d.access_state = AccessState::Optimized),
            ("non-optimized", |d| {
                d.access_state = AccessState::NonOptimized;
            }),
            ("standby", |d| d.access_state = AccessState::Standby),
            ("unavailable", |d| d.access_state = AccessState::Unavailable),
            ("offline", |d| d.access_state = AccessState::Offline),
        ]),
        default: "optimized",
        description: "asymmetric access state of the port group",
    },
    Property {
        name: "alua",
        kind: Kind::Word(&[
            ("auto", |d| d.alua = Alua::Auto),
            ("off", |d| d.alua = Alua::Off),
            ("implicit", |d| d.alua = Alua::Implicit),
            ("explicit", |d| d.alua = Alua::Explicit),
            ("both", |d| d.alua = Alua::Both),
        ]),
        default: "auto, both if there are several paths",
        description: "who changes access states",
    },
    Property {
        name: "pr_file",
        kind: Kind::Text(|d, v| d.pr_file = Some(v)),
        default: "IMAGE.lunar-pr",
        description: "keeps persistent reservations over restarts",
    },
    Property {
        name: "vendor",
        kind: Kind::Text(|d, v| d.config.vendor = Some(v)),
        default: "LUNAR",
        description: "vendor, up to 8 characters",
    },
    Property {
        name: "product",
        kind: Kind::Text(|d, v| d.config.product = Some(v)),
        default: "LUNAR HARDDISK",
        description: "product, up to 16 characters",
    },
    Property {
        name: "ver",
        kind: Kind::Text(|d, v| d.config.ver = Some(v)),
        default: "Lunar's version",
        description: "revision, up to 4 characters",
    },
    Property {
        name: "device_id",
        kind: Kind::Text(|d, v| d.config.device_id = Some(v)),
        default: "serial, or the drive's name",
        description: "vendor specific identifier",
    },
    Property {
        name: "rerror",
        kind: Kind::Word(&rerror()),
        default: "auto, as the drive says",
        description: "what is done when the host fails a read",
    },
    Property {
        name: "werror",
        kind: Kind::Word(&werror()),
        default: "auto, as the drive says",
        description: "what is done when the host fails a write; enospc: stop if no space is left, else report",
    },
];
