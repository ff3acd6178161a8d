//! Block nodes, drives, and what was done with them.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use lunar_host::keyval::Options;
use lunar_host::model::Model;
use lunar_host::{DeviceInfo, Host, IoStatus, NodeInfo};
use serde_json::Value;

use super::device::object_options;
use super::throttle::IoLimits;
use crate::Error;
use crate::schema::{Empty, qapi};

qapi! {
    /// A node.
    struct BlockDel {
        node_name = "node-name": String,
    }

    /// A drive or a node, and the size that it is to have. `force` is Lunar's own: it lets the end be cut off.
    struct BlockResize {
        device: Option<String>,
        node_name = "node-name": Option<String>,
        size: u64,
        force: Option<bool>,
    }

    /// Which nodes.
    struct QueryNodes {
        flat: Option<bool>,
    }

    /// What becomes of zeroes that are written.
    enum DetectZeroes {
        /// They are written.
        Off = "off",
        /// They need no space.
        On = "on",
        /// They free space.
        Unmap = "unmap",
    }

    /// How the host's page cache is used.
    struct BlockdevCacheInfo {
        writeback: bool,
        direct: bool,
        no_flush = "no-flush": bool,
    }

    /// An image.
    struct ImageInfo {
        filename: String,
        format: String,
        actual_size = "actual-size": Option<u64>,
        virtual_size = "virtual-size": u64,
    }

    /// A node. No write threshold is 0.
    struct BlockDeviceInfo {
        ..limits: IoLimits,
        file: String,
        node_name = "node-name": Option<String>,
        ro: bool,
        drv: String,
        backing_file_depth: i64,
        encrypted: bool,
        detect_zeroes: DetectZeroes,
        image: ImageInfo,
        cache: BlockdevCacheInfo,
        write_threshold: u64,
        active: bool,
    }

    /// Whether operations have failed and wait.
    enum BlockDeviceIoStatus {
        /// None.
        Ok = "ok",
        /// For some reason.
        Failed = "failed",
        /// For want of space.
        Nospace = "nospace",
    }

    /// A drive, or a device that shows a node without one.
    struct BlockInfo {
        device: String,
        qdev: Option<String>,
        kind = "type": String,
        removable: bool,
        locked: bool,
        inserted: Option<BlockDeviceInfo>,
        tray_open: Option<bool>,
        io_status = "io-status": Option<BlockDeviceIoStatus>,
    }

    /// What failed.
    enum IoOperationType {
        /// A read.
        Read = "read",
        /// Anything else.
        Write = "write",
    }

    /// What is done about it.
    enum BlockErrorAction {
        /// It counts as done.
        Ignore = "ignore",
        /// The guest is told.
        Report = "report",
        /// It waits to be repeated.
        Stop = "stop",
    }

    /// An image has failed an operation.
    struct BlockIoError {
        qom_path = "qom-path": String,
        device: String,
        node_name = "node-name": Option<String>,
        operation: IoOperationType,
        action: BlockErrorAction,
        nospace: Option<bool>,
        reason: String,
    }
}

/// `blockdev-add`.
pub fn add(host: &Arc<Host>, arguments: Value) -> Result<Empty, Error> {
    let options: Options = object_options(arguments)?;
    let origin = format!(
        "node {}",
        options.get("node-name").unwrap_or("without name")
    );
    host.add_blockdev(options, &origin)?;
    Ok(Empty {})
}

/// `blockdev-reopen`.
pub fn reopen(host: &Arc<Host>, mut arguments: Value) -> Result<Empty, Error> {
    let all = match arguments.get_mut("options").map(Value::take) {
        Some(Value::Array(all)) => all,
        _ => Vec::new(),
    };
    let all: Result<Vec<Options>, Error> = all.into_iter().map(object_options).collect();
    host.reopen(all?)?;
    Ok(Empty {})
}

/// `blockdev-del`.
pub fn remove(host: &Arc<Host>, arguments: BlockDel) -> Result<Empty, Error> {
    let name = arguments.node_name;
    if host.model().node(&name).is_none() {
        return Err(Error::generic(format!(
            "Failed to find node with node-name='{name}'"
        )));
    }
    host.remove_node(&name)?;
    Ok(Empty {})
}

/// `block_resize`.
pub fn resize(host: &Arc<Host>, arguments: BlockResize) -> Result<Empty, Error> {
    let BlockResize {
        device,
        node_name,
        size,
        force,
    } = arguments;
    let model = host.model();
    let named = device.as_ref().or(node_name.as_ref());
    let known = named.filter(|name| model.drive(name).is_some() || model.node(name).is_some());
    let Some(name) = known else {
        return Err(Error::generic(format!(
            "Cannot find device='{}' nor node-name='{}'",
            device.unwrap_or_default(),
            node_name.unwrap_or_default()
        )));
    };
    host.resize(name, size, force.unwrap_or(false))?;
    Ok(Empty {})
}

/// A drive without device, a drive with its first device, or a device without a drive.
pub struct Entry {
    pub drive: Option<String>,
    pub node: String,
    pub device: Option<DeviceInfo>,
}

pub fn entries(host: &Arc<Host>) -> Vec<Entry> {
    let model: Model = host.model();
    let mut devices = host.devices();
    let mut entries = Vec::new();
    for drive in model.drives() {
        let uses = |device: &DeviceInfo| device.drive.as_deref() == Some(&*drive.id);
        let first = devices.iter().position(uses);
        let device = first.map(|at| devices.remove(at));
        // Further paths to the same drive are no further drives.
        devices.retain(|device| !uses(device));
        entries.push(Entry {
            drive: Some(drive.id.clone()),
            node: drive.node.clone(),
            device,
        });
    }
    entries.extend(devices.into_iter().map(|device| Entry {
        drive: None,
        node: device.node.clone(),
        device: Some(device),
    }));
    entries
}

impl Entry {
    pub fn qdev(&self) -> Option<String> {
        let device = self.device.as_ref()?;
        Some(device.id.clone().unwrap_or_else(|| device.path.clone()))
    }
}

/// `query-block`.
pub fn query(host: &Arc<Host>, _: Empty) -> Result<Vec<BlockInfo>, Error> {
    let nodes = host.nodes();
    let info = |entry: Entry| BlockInfo {
        device: entry.drive.clone().unwrap_or_default(),
        qdev: entry.qdev(),
        kind: "unknown".to_owned(),
        // Without a device anything can be done.
        removable: entry.device.as_ref().is_none_or(|device| device.removable),
        locked: entry.device.as_ref().is_some_and(|device| device.locked),
        inserted: nodes
            .iter()
            .find(|node| node.name == entry.node)
            .map(node_info),
        tray_open: entry
            .device
            .as_ref()
            .filter(|device| device.removable)
            .map(|device| device.tray_open),
        io_status: entry.device.as_ref().map(|device| match device.io_status {
            IoStatus::Ok => BlockDeviceIoStatus::Ok,
            IoStatus::Failed => BlockDeviceIoStatus::Failed,
            IoStatus::NoSpace => BlockDeviceIoStatus::Nospace,
        }),
    };
    Ok(entries(host).into_iter().map(info).collect())
}

/// `query-named-block-nodes`. Nodes are listed flat, whether asked for or not: none contains another.
pub fn query_nodes(host: &Arc<Host>, _: QueryNodes) -> Result<Vec<BlockDeviceInfo>, Error> {
    Ok(host.nodes().iter().map(node_info).collect())
}

fn node_info(node: &NodeInfo) -> BlockDeviceInfo {
    let file = std::fs::metadata(&node.file).ok();
    let regular = file.filter(std::fs::Metadata::is_file);
    let bytes = || regular.as_ref().map_or(0, std::fs::Metadata::len);
    BlockDeviceInfo {
        limits: IoLimits::of(node.throttling.as_ref()),
        file: node.file.clone(),
        node_name: Some(node.name.clone()),
        ro: node.read_only,
        drv: node.driver.to_owned(),
        backing_file_depth: 0,
        encrypted: false,
        detect_zeroes: match node.detect_zeroes {
            "unmap" => DetectZeroes::Unmap,
            "on" => DetectZeroes::On,
            _ => DetectZeroes::Off,
        },
        image: ImageInfo {
            filename: node.file.clone(),
            format: node.driver.to_owned(),
            actual_size: regular
                .as_ref()
                .map(|file| file.blocks().saturating_mul(512)),
            virtual_size: node.size.unwrap_or_else(bytes),
        },
        cache: BlockdevCacheInfo {
            writeback: true,
            direct: node.direct,
            no_flush: node.no_flush,
        },
        write_threshold: node.write_threshold.unwrap_or(0),
        active: true,
    }
}
