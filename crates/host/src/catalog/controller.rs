//! `virtio-scsi-pci`.

use crate::property::{Kind, Property};

/// A controller as declared.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// `id=`.
    pub id: Option<String>,
    /// `initiator=`.
    pub initiator: Option<String>,
    /// `socket=`.
    pub socket: Option<String>,
    /// `qemu-monitor=`.
    pub qemu_monitor: Option<String>,
    /// `iothread=`; `None` spreads its queues over the threads that serve all controllers.
    pub iothread: Option<String>,
    /// `num_queues=`; `None` takes the command line's default.
    pub num_queues: Option<u16>,
    /// `max_sectors=`.
    pub max_sectors: u32,
    /// `cmd_per_lun=`.
    pub cmd_per_lun: u32,
    /// `hotplug=`.
    pub hotplug: bool,
    /// `param_change=`.
    pub param_change: bool,
    /// `packed=`; `None` offers it and leaves the rest to the front end.
    pub packed: Option<bool>,
    /// `fixed-buffers=`.
    pub fixed_buffers: bool,
    /// `coalesce-us=`; 0 sends every interrupt at once.
    pub coalesce_us: u32,
    /// `coalesce-max=`.
    pub coalesce_max: u32,
    /// `config=`.
    pub config: bool,
    /// Properties of the PCI function, which is the front end's: printed for it.
    pub pci: Vec<(&'static str, String)>,
}

impl Default for ControllerOptions {
    fn default() -> ControllerOptions {
        ControllerOptions {
            id: None,
            initiator: None,
            socket: None,
            qemu_monitor: None,
            iothread: None,
            num_queues: None,
            max_sectors: 0xffff,
            cmd_per_lun: 128,
            hotplug: true,
            param_change: true,
            packed: None,
            fixed_buffers: false,
            coalesce_us: 0,
            coalesce_max: 16,
            config: false,
            pci: Vec::new(),
        }
    }
}

/// The most request queues a controller has: rings are numbered in 8 bits on the wire, two are not request queues.
pub const MAX_QUEUES: u16 = 254;

/// The longest time that an interrupt may wait, in microseconds.
pub const MAX_COALESCE_US: u32 = 10_000;

/// The properties of `virtio-scsi-pci`.
pub static CONTROLLER: &[&[Property<ControllerOptions>]] = &[FIXED, COALESCING];

/// Those that can be changed while it is in use.
pub static COALESCING: &[Property<ControllerOptions>] = &[
    Property {
        name: "coalesce-us",
        kind: Kind::U32(0..=MAX_COALESCE_US, |c, v| c.coalesce_us = v),
        default: "0",
        description: "microseconds for which an interrupt may wait while more completions are to come",
    },
    Property {
        name: "coalesce-max",
        kind: Kind::U32(1..=u16::MAX as u32, |c, v| c.coalesce_max = v),
        default: "16",
        description: "completions that wait no longer for an interrupt, with coalesce-us",
    },
];

static FIXED: &[Property<ControllerOptions>] = &[
    Property {
        name: "id",
        kind: Kind::Text(|c, v| c.id = Some(v)),
        default: "",
        description: "name; its bus is called ID.0",
    },
    Property {
        name: "initiator",
        kind: Kind::Text(|c, v| c.initiator = Some(v)),
        default: "id",
        description: "stable name of the guest's port; reservations belong to it",
    },
    Property {
        name: "socket",
        kind: Kind::Text(|c, v| c.socket = Some(v)),
        default: "",
        description: "path of its vhost-user socket, if not --socket-path",
    },
    Property {
        name: "qemu-monitor",
        kind: Kind::Text(|c, v| c.qemu_monitor = Some(v)),
        default: "",
        description: "QMP socket of its QEMU, paused while an error stops a disk, if not --qemu-monitor",
    },
    Property {
        name: "iothread",
        kind: Kind::Text(|c, v| c.iothread = Some(v)),
        default: "",
        description: "the object whose thread serves all its queues, if not those of --workers",
    },
    Property {
        name: "num_queues",
        kind: Kind::U16(1..=MAX_QUEUES, |c, v| c.num_queues = Some(v)),
        default: "",
        description: "request queues, if not --queues",
    },
    Property {
        name: "max_sectors",
        kind: Kind::U32(1..=u32::MAX, |c, v| c.max_sectors = v),
        default: "65535",
        description: "largest transfer, in 512-byte sectors",
    },
    Property {
        name: "cmd_per_lun",
        kind: Kind::U32(1..=u32::MAX, |c, v| c.cmd_per_lun = v),
        default: "128",
        description: "commands the guest keeps on one logical unit",
    },
    Property {
        name: "hotplug",
        kind: Kind::Bool(|c, v| c.hotplug = v),
        default: "on",
        description: "tell the guest of disks that come and go",
    },
    Property {
        name: "param_change",
        kind: Kind::Bool(|c, v| c.param_change = v),
        default: "on",
        description: "tell the guest of changed sizes",
    },
    Property {
        name: "packed",
        kind: Kind::Bool(|c, v| c.packed = Some(v)),
        default: "on",
        description: "offer rings of the packed format, which QEMU takes with the same option",
    },
    Property {
        name: "fixed-buffers",
        kind: Kind::Bool(|c, v| c.fixed_buffers = v),
        default: "off",
        description: "hold the guest's memory in place for the kernel: less CPU with cache.direct=on, no balloon",
    },
    Property {
        name: "config",
        kind: Kind::Bool(|c, v| c.config = v),
        default: "off",
        description: "offer the configuration space to front ends that ask for it",
    },
    Property {
        name: "bus",
        kind: Kind::Text(|c, v| c.pci.push(("bus", v))),
        default: "",
        description: "PCI bus in QEMU, copied to the printed option",
    },
    Property {
        name: "addr",
        kind: Kind::Text(|c, v| c.pci.push(("addr", v))),
        default: "",
        description: "PCI address in QEMU, copied to the printed option",
    },
];
