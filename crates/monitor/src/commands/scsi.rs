//! What guests see, as one answer: controllers, the disks at their addresses, and the images in these.
//!
//! QEMU has nothing like it; a program that only knows QEMU puts the same together from `qom-list`, `qom-get`,
//! `query-block` and `query-blockstats`, in several steps. Here, too, controllers, disks and images are asked one after the
//! other, so a change may fall between them, but there is no client to wait for.

use std::sync::Arc;

use lunar_host::{
    Activities, Activity, DeviceInfo, DeviceState, Host, IoStatus, NodeInfo, RunState,
};

use crate::Error;
use crate::schema::{Empty, qapi};

qapi! {
    /// How a controller or a disk is.
    enum ScsiState {
        /// At work.
        Running = "running",
        /// The server takes no requests: they wait.
        Paused = "paused",
        /// An error has stopped the disk, and its commands wait to be repeated.
        Stopped = "stopped",
        /// The error was that there is no space left.
        NoSpace = "no-space",
        /// It is being removed.
        Leaving = "leaving",
    }

    /// What was done with a disk, through all its paths.
    struct ScsiCounters {
        reads: u64,
        read_bytes = "read-bytes": u64,
        writes: u64,
        written_bytes = "written-bytes": u64,
        flushes: u64,
        discards: u64,
        errors: u64,
    }

    /// So many operations took less than this many nanoseconds, and not less than the class before has.
    struct ScsiLatency {
        below: u64,
        count: u64,
    }

    /// How long operations took since the disk is there, in classes an eighth wide at most; empty ones are left out.
    struct ScsiLatencies {
        reads: Vec<ScsiLatency>,
        writes: Vec<ScsiLatency>,
        flushes: Vec<ScsiLatency>,
        discards: Vec<ScsiLatency>,
    }

    /// A disk at an address.
    struct ScsiDisk {
        id: Option<String>,
        name: String,
        path: String,
        target: u8,
        lun: u16,
        drive: Option<String>,
        node_name = "node-name": String,
        file: String,
        format: String,
        size: u64,
        read_only = "read-only": bool,
        removable: bool,
        state: ScsiState,
        counters: ScsiCounters,
        latencies: ScsiLatencies,
    }

    /// A controller with its disks, in the order of their addresses.
    struct ScsiController {
        id: Option<String>,
        path: String,
        bus: String,
        socket: Option<String>,
        queues: u16,
        connected: bool,
        state: ScsiState,
        disks: Vec<ScsiDisk>,
    }
}

/// `x-lunar-scsi`.
pub fn query(host: &Arc<Host>, _: Empty) -> Result<Vec<ScsiController>, Error> {
    let (devices, nodes) = (host.devices(), host.nodes());
    let paused = host.status() == RunState::Paused;
    let state = |state: DeviceState, status: IoStatus| match (state, status) {
        (DeviceState::Leaving, _) => ScsiState::Leaving,
        (DeviceState::Running, IoStatus::Failed) => ScsiState::Stopped,
        (DeviceState::Running, IoStatus::NoSpace) => ScsiState::NoSpace,
        (DeviceState::Running, IoStatus::Ok) if paused => ScsiState::Paused,
        (DeviceState::Running, IoStatus::Ok) => ScsiState::Running,
    };
    let disk = |device: &DeviceInfo| {
        let node = nodes.iter().find(|node| node.name == device.node);
        ScsiDisk {
            id: device.id.clone(),
            name: device.name.clone(),
            path: device.path.clone(),
            target: device.target,
            lun: device.lun,
            drive: device.drive.clone(),
            node_name: device.node.clone(),
            file: node.map_or_else(String::new, |node| node.file.clone()),
            format: node.map_or("", |node: &NodeInfo| node.driver).to_owned(),
            size: device.size,
            read_only: device.read_only,
            removable: device.removable,
            state: state(device.state, device.io_status),
            counters: counters(&device.stats),
            latencies: latencies(&device.activities),
        }
    };
    let controllers = host.controllers().into_iter().map(|controller| {
        let mut disks: Vec<_> = devices
            .iter()
            .filter(|device| device.bus == controller.bus)
            .map(disk)
            .collect();
        disks.sort_by_key(|disk| (disk.target, disk.lun));
        ScsiController {
            id: controller.id,
            path: controller.path,
            bus: controller.bus,
            socket: controller.socket.map(|path| path.display().to_string()),
            queues: controller.queues,
            connected: controller.connected,
            state: state(controller.state, IoStatus::Ok),
            disks,
        }
    });
    Ok(controllers.collect())
}

fn counters(stats: &lunar_host::BlockStats) -> ScsiCounters {
    ScsiCounters {
        reads: stats.reads,
        read_bytes: stats.read_bytes,
        writes: stats.writes,
        written_bytes: stats.written_bytes,
        flushes: stats.flushes,
        discards: stats.discards,
        errors: stats.errors,
    }
}

fn latencies(activities: &Activities) -> ScsiLatencies {
    let classes = |activity: &Activity| {
        let classes = activity.latencies.0.iter();
        let class = classes.map(|&(below, count)| ScsiLatency { below, count });
        class.collect()
    };
    ScsiLatencies {
        reads: classes(&activities.reads),
        writes: classes(&activities.writes),
        flushes: classes(&activities.flushes),
        discards: classes(&activities.discards),
    }
}
