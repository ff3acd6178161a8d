//! The commands over a host, with their types: QEMU's, as far as there is something behind them.

mod block;
mod device;
mod media;
mod options;
mod qom;
mod qom_set;
mod run;
mod scsi;
mod stats;
mod throttle;
mod workers;

use std::sync::Arc;

use lunar_host::Host;

use crate::schema::{Described, Type};
use crate::{Command, EventType, Table};

/// Says what a type looks like.
type Describe = fn() -> Type;

/// Every event, and its data.
pub(crate) const EVENTS: &[(&str, Describe)] = &[
    ("BLOCK_IO_ERROR", block::BlockIoError::describe),
    (
        "BLOCK_WRITE_THRESHOLD",
        stats::BlockWriteThreshold::describe,
    ),
    ("DEVICE_DELETED", device::DeviceDeleted::describe),
    ("DEVICE_TRAY_MOVED", device::DeviceTrayMoved::describe),
    ("RESUME", crate::schema::Empty::describe),
    ("SHUTDOWN", run::Shutdown::describe),
    ("STOP", crate::schema::Empty::describe),
];

/// Everything that can be asked of a host.
pub fn table() -> Table<Arc<Host>> {
    let commands = vec![
        Command::new(
            "device_add",
            "adds a controller, or a disk to one; takes the properties of --device",
            device::add,
        )
        .taking(Type::Named(options::device)),
        Command::new(
            "device_del",
            "removes a device by its id or path; DEVICE_DELETED tells when both are free again",
            device::remove,
        ),
        Command::new(
            "device-list-properties",
            "the properties of a kind of device",
            device::list_properties,
        ),
        Command::new(
            "blockdev-add",
            "opens an image as a block node; takes the properties of --blockdev",
            block::add,
        )
        .taking(Type::Named(options::blockdev)),
        Command::new(
            "blockdev-del",
            "closes a block node that nothing uses",
            block::remove,
        ),
        Command::new(
            "blockdev-reopen",
            "changes what can be changed of open nodes: faults of blkdebug, the group of throttle",
            block::reopen,
        )
        .taking(Type::Named(options::reopen)),
        Command::new(
            "block_set_io_throttle",
            "limits a drive or device, alone or in a group; without limits it has none",
            throttle::set,
        ),
        Command::new(
            "object-add",
            "adds a throttle group; takes the properties of --object",
            throttle::add_object,
        )
        .taking(Type::Named(options::object)),
        Command::new(
            "object-del",
            "removes a throttle group that nothing uses",
            throttle::remove_object,
        ),
        Command::new(
            "block_resize",
            "gives a drive or node another size; shrinking takes force",
            block::resize,
        ),
        Command::new(
            "eject",
            "opens a tray and takes the medium out; force, even if the guest has locked it",
            media::eject,
        ),
        Command::new(
            "blockdev-open-tray",
            "opens a tray; one that is locked is left to the guest, unless there is force",
            media::open_tray,
        ),
        Command::new(
            "blockdev-close-tray",
            "closes a tray; the guest sees what is in it",
            media::close_tray,
        ),
        Command::new(
            "blockdev-insert-medium",
            "puts a node into an open tray",
            media::insert,
        ),
        Command::new(
            "blockdev-remove-medium",
            "takes the medium out of an open tray",
            media::remove,
        ),
        Command::new(
            "blockdev-change-medium",
            "opens a tray, puts a file in the place of what is there, and closes it",
            media::change,
        ),
        Command::new("query-block", "drives and what is in them", block::query),
        Command::new("query-named-block-nodes", "block nodes", block::query_nodes),
        Command::new(
            "query-blockstats",
            "what was done with drives, or with nodes",
            query_stats,
        ),
        Command::new(
            "block-latency-histogram-set",
            "counts how long operations of a device take, between these boundaries",
            stats::set_histograms,
        ),
        Command::new(
            "block-set-write-threshold",
            "tells, once, of a write to a node that goes behind an offset",
            stats::set_write_threshold,
        ),
        Command::new(
            "x-lunar-scsi",
            "controllers, their disks, and what was done with them; Lunar's own",
            scsi::query,
        ),
        Command::new("qom-list", "what an object has", qom::list),
        Command::new("qom-get", "a property of an object", qom::get),
        Command::new(
            "qom-set",
            "changes a property of an object in use: limits, threads, interrupts",
            qom_set::set,
        ),
        Command::new(
            "query-iothreads",
            "the threads that serve requests",
            run::iothreads,
        ),
        Command::new(
            "x-lunar-workers",
            "what the threads that serve requests have done; Lunar's own",
            workers::query,
        ),
        Command::new("query-status", "whether requests are taken", status),
        Command::new("stop", "takes no more requests: they wait", stop),
        Command::new("cont", "takes requests again", cont),
        Command::new("query-version", "what answers here", run::version),
        Command::new(
            "x-lunar-config",
            "what there is, as a configuration file",
            run::configuration,
        ),
        Command::new("quit", "ends the server", run::quit),
        Command::new(
            "human-monitor-command",
            "carries out a line as people type it in QEMU's monitor",
            run::human,
        ),
    ];
    let events = EVENTS
        .iter()
        .map(|(name, data)| EventType { name, data: data() })
        .collect();
    Table::new(commands, events)
}

pub(crate) use block::{BlockDel, query as query_block, remove as remove_node};
pub(crate) use device::{add_options as add_device, remove_named as remove_device};
pub(crate) use media::{change_named, eject_named};
pub use scsi::{ScsiController, ScsiCounters, ScsiDisk, ScsiLatencies, ScsiLatency, ScsiState};
pub(crate) use stats::{BlockStats, QueryStats, query as query_stats};

pub use workers::WorkerInfo;

pub(crate) use run::{cont, status, stop, version_info};
