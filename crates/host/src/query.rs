//! What there is and how it is doing, as plain data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lunar_block::Activities;
use serde::Serialize;

use crate::live::Live;
use crate::model::{self, Node, NodeDriver, Place, Socket};
use crate::statistics::{SetHistogram, collect};
use crate::throttling::Throttling;

/// A controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ControllerInfo {
    /// Its id, if it has one.
    pub id: Option<String>,
    /// Its place in the object tree.
    pub path: String,
    /// The name of its bus.
    pub bus: String,
    /// The path of its socket; `None` if it was given as a descriptor.
    pub socket: Option<PathBuf>,
    /// Request queues.
    pub queues: u16,
    /// The object whose thread serves them; without one, those do that serve all controllers.
    pub iothread: Option<String>,
    /// How long an interrupt may wait while more completions are to come, in microseconds; 0 is not at all.
    pub coalesce_us: u32,
    /// So many completions wait no longer.
    pub coalesce_max: u32,
    /// A front end is connected.
    pub connected: bool,
    /// Front ends that have connected so far.
    pub connections: u64,
    /// Its disks.
    pub devices: usize,
    /// Whether it stays.
    pub state: DeviceState,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceInfo {
    /// Its id, if it has one.
    pub id: Option<String>,
    /// For people: its id, or else its drive's.
    pub name: String,
    /// Its place in the object tree.
    pub path: String,
    /// What kind of device it is.
    pub driver: &'static str,
    /// The bus it is on.
    pub bus: String,
    /// Its target there.
    pub target: u8,
    /// Its LUN there.
    pub lun: u16,
    /// The drive that it shows, if it is one.
    pub drive: Option<String>,
    /// The node that it shows.
    pub node: String,
    /// Bytes.
    pub size: u64,
    /// Refuses writes.
    pub read_only: bool,
    /// The medium can be ejected.
    pub removable: bool,
    /// There is a medium.
    pub inserted: bool,
    /// The tray is open.
    pub tray_open: bool,
    /// A guest prevents that the tray opens.
    pub locked: bool,
    /// Whether it stays.
    pub state: DeviceState,
    /// Whether an error has stopped it: then what has failed waits to be repeated.
    pub io_status: IoStatus,
    /// What was done with the node that it shows, through all its paths.
    pub stats: BlockStats,
    /// What was done since it is there, through all its paths, and how long it took.
    #[serde(skip)]
    pub activities: Activities,
    /// The histograms that somebody has set.
    #[serde(skip)]
    pub histograms: Vec<SetHistogram>,
}

/// Whether a device stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceState {
    /// It does.
    Running,
    /// It is being removed: its last commands end.
    Leaving,
}

/// Whether operations have failed and wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoStatus {
    /// None.
    #[default]
    Ok,
    /// For some reason.
    Failed,
    /// For want of space.
    NoSpace,
}

impl From<lunar_block::IoStatus> for IoStatus {
    fn from(status: lunar_block::IoStatus) -> IoStatus {
        match status {
            lunar_block::IoStatus::Ok => IoStatus::Ok,
            lunar_block::IoStatus::Failed => IoStatus::Failed,
            lunar_block::IoStatus::NoSpace => IoStatus::NoSpace,
        }
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// Its block driver.
    pub driver: &'static str,
    /// The file or device of the host that it is in, or the driver's name.
    pub file: String,
    /// The node below.
    pub below: Option<String>,
    /// The drive that it belongs to.
    pub drive: Option<String>,
    /// Declared inside another node or by a drive, with which it goes.
    pub inline: bool,
    /// Bytes; `None` if it is open as a part of another node only.
    pub size: Option<u64>,
    /// Refuses writes.
    pub read_only: bool,
    /// `cache.direct`.
    pub direct: bool,
    /// `cache.no-flush`.
    pub no_flush: bool,
    /// `discard=unmap`.
    pub unmap: bool,
    /// `detect-zeroes`.
    pub detect_zeroes: &'static str,
    /// What limits it, if something does: a throttle node, or the device that shows it.
    pub throttling: Option<Throttling>,
    /// Writes behind it are told of, if there is one.
    pub write_threshold: Option<u64>,
    /// Who uses it.
    pub users: Vec<String>,
    /// What was done with it.
    pub stats: BlockStats,
}

/// What was done with an image since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct BlockStats {
    /// Reads.
    pub reads: u64,
    /// Bytes they asked for.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes they carried.
    pub written_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards and write-zeroes.
    pub discards: u64,
    /// Operations that failed.
    pub errors: u64,
    /// Operations that went through a buffer.
    pub bounces: u64,
    /// Operations that were carried out in place, without `io_uring`.
    pub inline: u64,
    /// Attempts to do so that failed, because the operation would have had to wait.
    pub inline_misses: u64,
    /// Operations on an image format that went to its file as they were.
    pub straight: u64,
    /// Bytes of memory in which an image format remembers where in its file things are.
    pub map_memory: u64,
    /// Where the write ended that went furthest.
    pub highest: u64,
}

impl From<lunar_block::Stats> for BlockStats {
    fn from(stats: lunar_block::Stats) -> BlockStats {
        BlockStats {
            reads: stats.reads,
            read_bytes: stats.read_bytes,
            writes: stats.writes,
            written_bytes: stats.written_bytes,
            flushes: stats.flushes,
            discards: stats.discards,
            errors: stats.errors,
            bounces: stats.bounces,
            inline: stats.inline,
            inline_misses: stats.inline_misses,
            straight: stats.straight,
            map_memory: stats.map_memory,
            highest: stats.highest,
        }
    }
}

/// Whether requests are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// They are.
    #[default]
    Running,
    /// They wait, because somebody has said so.
    Paused,
    /// Those of a disk wait that an error has stopped.
    IoError,
}

impl Live {
    fn state(&self, path: &str) -> DeviceState {
        match self.leaving.contains(path) {
            true => DeviceState::Leaving,
            false => DeviceState::Running,
        }
    }

    pub fn controller_infos(&self) -> Vec<ControllerInfo> {
        let controllers = self.model.controllers().iter();
        let infos = controllers.filter_map(|declared| {
            let adapter = self.adapters.get(&declared.bus)?;
            let server = adapter.server.as_ref();
            Some(ControllerInfo {
                id: declared.options.id.clone(),
                path: declared.path.clone(),
                bus: declared.bus.clone(),
                socket: match &declared.socket {
                    Some(Socket::Path(path)) => Some(path.clone()),
                    _ => None,
                },
                queues: adapter.controller.config().request_queues,
                iothread: declared.options.iothread.clone(),
                coalesce_us: declared.options.coalesce_us,
                coalesce_max: declared.options.coalesce_max,
                connected: server.is_some_and(|server| server.is_connected()),
                connections: server.map_or(0, |server| server.connections()),
                devices: declared.disks.len(),
                state: self.state(&declared.path),
            })
        });
        infos.collect()
    }

    pub fn device_infos(&self) -> Vec<DeviceInfo> {
        let disks = self.model.disks();
        disks
            .map(|(controller, address, disk)| self.device_info(&controller.bus, address, disk))
            .collect()
    }

    pub fn device_info_of(&self, name: &str) -> Result<Option<DeviceInfo>, model::Error> {
        Ok(match self.model.device(name)? {
            Place::Controller(_) => None,
            Place::Disk { bus, address } => {
                let disk = self.model.disk(bus, *address);
                disk.map(|disk| self.device_info(bus, *address, disk))
            }
        })
    }

    fn device_info(&self, bus: &str, address: model::Address, disk: &model::Disk) -> DeviceInfo {
        let image = self.images.get(&disk.node);
        let info = image.map(|image| image.info());
        let unit = self.units.get(&disk.node);
        let options = &disk.options;
        let drive = options.drive.as_deref();
        let backend = self.units.backend(&disk.node);
        DeviceInfo {
            id: options.id.clone(),
            name: disk.name.clone(),
            path: disk.path.clone(),
            driver: "scsi-hd",
            bus: bus.to_owned(),
            target: address.target,
            lun: address.lun,
            drive: drive
                .filter(|id| self.model.drive(id).is_some())
                .map(str::to_owned),
            node: disk.node.clone(),
            size: info.as_ref().map_or(0, |info| info.size),
            read_only: info.is_some_and(|info| info.read_only),
            removable: options.config.removable,
            inserted: unit.is_none_or(|unit| unit.has_medium()),
            tray_open: unit.is_some_and(|unit| unit.is_tray_open()),
            locked: unit.is_some_and(|unit| unit.is_locked()),
            state: self.state(&disk.path),
            io_status: self.units.io_status(&disk.node).into(),
            activities: backend
                .map(|backend| backend.activities())
                .unwrap_or_default(),
            histograms: backend
                .map(|backend| collect(&backend.histograms()))
                .unwrap_or_default(),
            stats: image.map_or_else(BlockStats::default, |image| image.stats().into()),
        }
    }

    pub fn node_infos(&self) -> Vec<NodeInfo> {
        let drives = self.model.drives();
        let drives: BTreeMap<_, _> = drives.map(|drive| (&*drive.node, &*drive.id)).collect();
        let nodes = self.model.nodes();
        nodes
            .filter(|node| node.driver != NodeDriver::Empty)
            .map(|node| self.node_info(node, drives.get(&*node.name).copied()))
            .collect()
    }

    fn node_info(&self, node: &Node, drive: Option<&str>) -> NodeInfo {
        let image = self.images.get(&node.name);
        NodeInfo {
            name: node.name.clone(),
            driver: node.driver.name(),
            file: self.file_of(node),
            below: node.driver.file().map(str::to_owned),
            drive: drive.map(str::to_owned),
            inline: node.is_inline(),
            size: image.map(|image| image.info().size),
            read_only: node.options.read_only,
            direct: node.options.direct,
            no_flush: node.options.no_flush,
            unmap: node.options.discard_unmap,
            detect_zeroes: match node.options.detect_zeroes {
                lunar_block::DetectZeroes::Off => "off",
                lunar_block::DetectZeroes::On => "on",
                lunar_block::DetectZeroes::Unmap => "unmap",
            },
            throttling: self.throttling(node),
            write_threshold: image.and_then(|image| image.write_threshold()?.get()),
            users: node.users().map(str::to_owned).collect(),
            stats: image.map_or_else(BlockStats::default, |image| image.stats().into()),
        }
    }

    fn file_of(&self, node: &Node) -> String {
        match &node.driver {
            NodeDriver::File { filename } | NodeDriver::HostDevice { filename } => {
                filename.display().to_string()
            }
            NodeDriver::Raw { file, .. }
            | NodeDriver::Qcow2 { file }
            | NodeDriver::Throttle { file, .. }
            | NodeDriver::Blkdebug { image: file, .. } => {
                let below = self.model.node(file);
                below.map_or_else(String::new, |below| self.file_of(below))
            }
            NodeDriver::Null { .. } | NodeDriver::Empty | NodeDriver::Memory { .. } => {
                node.driver.name().to_owned()
            }
        }
    }
}
