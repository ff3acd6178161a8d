//! The declared objects: nodes, drives, controllers and disks, and the rules by which they fit together.
//!
//! [`Model`] takes one declaration at a time, as options from whatever source (command line, JSON, a configuration
//! file), and either refuses it with an [`Error`] that names the remedy and changes nothing, or holds it completely:
//! with its generated names, its bus, and the address that QEMU would have chosen. Nothing is opened here.
//!
//! Order matters as it does in QEMU: what a declaration refers to has been declared before.

mod controller;
mod error;
mod medium;
mod name;
mod node;
mod object;
mod record;
mod removal;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lunar_block::{Limits, OnError};
use lunar_devices::OnOffAuto;

use crate::catalog::{self, ControllerOptions, DeviceKind, DiskOptions, DriveOptions, Format};
use crate::keyval::Options;
use crate::property;

pub use controller::{Address, Controller, Disk, Socket};
pub use error::{Error, Taken};
pub(crate) use medium::Change;
pub use medium::{Bay, Medium};
pub use node::{Node, NodeDriver};
pub use object::{IoThread, ThrottleGroup, object};
pub use record::{Declaration, Kind};
pub use removal::Removed;

pub(crate) use node::Reopened;
use node::{Draft, User, inherited, protocol};
use record::Record;

/// Everything that has been declared.
#[derive(Clone, Debug, Default)]
pub struct Model {
    nodes: BTreeMap<String, Node>,
    drives: BTreeMap<String, Drive>,
    groups: BTreeMap<String, ThrottleGroup>,
    threads: BTreeMap<String, IoThread>,
    controllers: Vec<Controller>,
    /// Devices by their place in the object tree.
    devices: BTreeMap<String, Place>,
    unnamed_nodes: usize,
    unnamed_drives: usize,
    unnamed_buses: usize,
    unnamed_devices: usize,
    /// How many there have been.
    declarations: usize,
}

/// Where a device is among the declared objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A controller, by its bus.
    Controller(String),
    /// A disk.
    Disk {
        /// The controller's bus.
        bus: String,
        /// Its address there.
        address: Address,
    },
}

/// A node with what `--drive` says about its use.
#[derive(Clone, Debug)]
pub struct Drive {
    /// Its name.
    pub id: String,
    /// Its node.
    pub node: String,
    /// How it was declared.
    pub origin: String,
    /// The file, if it is served raw only because nothing says otherwise.
    presumed_raw: Option<PathBuf>,
    /// What it is limited to, and the group that shares the limits.
    pub limits: Limits,
    /// `throttling.group=`
    pub throttle_group: Option<String>,
    write_cache: bool,
    rerror: Option<OnError>,
    werror: Option<OnError>,
    automatic: bool,
    identity: String,
    record: Record,
}

impl Model {
    /// The controllers, in the order of their declaration.
    pub fn controllers(&self) -> &[Controller] {
        &self.controllers
    }

    /// A controller by its bus.
    pub fn controller(&self, bus: &str) -> Option<&Controller> {
        self.controllers
            .iter()
            .find(|controller| controller.bus == bus)
    }

    /// Every disk with its controller.
    pub fn disks(&self) -> impl Iterator<Item = (&Controller, Address, &Disk)> {
        self.controllers.iter().flat_map(|controller| {
            let disks = controller.disks.iter();
            disks.map(move |(address, disk)| (controller, *address, disk))
        })
    }

    /// A disk by its place.
    pub fn disk(&self, bus: &str, address: Address) -> Option<&Disk> {
        self.controller(bus)?.disks.get(&address)
    }

    /// A device by its id or its place in the object tree.
    ///
    /// # Errors
    /// There is none.
    pub fn device(&self, name: &str) -> Result<&Place, Error> {
        let found = match name.starts_with('/') {
            true => self.devices.get(name),
            false => self.devices.get(&peripheral(name)),
        };
        found.ok_or_else(|| Error::Absent {
            what: Taken::Device,
            name: name.to_owned(),
        })
    }

    /// The nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The drives, by name.
    pub fn drives(&self) -> impl Iterator<Item = &Drive> {
        self.drives.values()
    }

    /// A drive by its name.
    pub fn drive(&self, id: &str) -> Option<&Drive> {
        self.drives.get(id)
    }

    /// The node that a name stands for: its own, or that of a drive.
    ///
    /// # Errors
    /// There is none.
    pub fn node_of(&self, name: &str) -> Result<&Node, Error> {
        let node = self.drives.get(name).map_or(name, |drive| &drive.node);
        self.nodes.get(node).ok_or_else(|| Error::Absent {
            what: Taken::Node,
            name: name.to_owned(),
        })
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// The drives that nothing uses.
    pub fn unused_drives(&self) -> impl Iterator<Item = &Drive> {
        let unused = |drive: &&Drive| {
            self.nodes
                .get(&drive.node)
                .is_some_and(|node| node.users.is_empty())
        };
        self.drives.values().filter(unused)
    }

    /// The drives whose format nobody gave, and that are raw for that reason, with their files.
    pub fn presumed_raw(&self) -> impl Iterator<Item = (&Drive, &Path)> {
        let files = self
            .drives
            .values()
            .map(|drive| (drive, drive.presumed_raw.as_deref()));
        files.filter_map(|(drive, file)| Some((drive, file?)))
    }

    /// `--blockdev`: declares a node and its inline children. Returns its name.
    pub fn add_blockdev(&mut self, options: Options, origin: &str) -> Result<String, Error> {
        let mut draft = Draft {
            model: self,
            nodes: Vec::new(),
        };
        let node = draft.node(options, origin, None)?;
        if node.starts_with('#') {
            return Err(Error::Missing("node-name=NAME"));
        }
        let mut nodes = draft.nodes;
        if let Some(top) = nodes.last_mut() {
            top.inline = false;
        }
        self.commit(nodes);
        Ok(node)
    }

    /// `--drive`: declares a drive and its nodes. Returns its name.
    pub fn add_drive(&mut self, mut options: Options, origin: &str) -> Result<String, Error> {
        let mut drive = DriveOptions::default();
        options.put_first("cache");
        property::apply(&mut drive, "a drive", &options, catalog::DRIVE)?;
        self.insert_drive(drive, origin, options)
    }

    /// `IMAGE`: a drive, and a disk for it at LUN 0 of the given target.
    pub fn add_image(&mut self, path: &str, target: usize) -> Result<(), Error> {
        let target = u8::try_from(target).map_err(|_| Error::TooManyImages)?;
        let iso = has_extension(path, "iso");
        let drive = DriveOptions {
            file: Some(path.to_owned()),
            automatic: false,
            cdrom: iso,
            ..DriveOptions::default()
        };
        let declared = [("file".to_owned(), path.to_owned())];
        let id = self.insert_drive(drive, path, declared.into_iter().collect())?;
        let disk = DiskOptions {
            drive: Some(id),
            target: Some(target.into()),
            lun: Some(0),
            ..DiskOptions::default()
        };
        self.insert_automatic(disk, path)
    }

    /// `--device`: declares a controller or a disk.
    pub fn add_device(&mut self, mut options: Options, origin: &str) -> Result<Place, Error> {
        let name = options
            .take("driver")
            .ok_or(Error::Missing("the device's name"))?;
        match device(&name)?.kind {
            DeviceKind::Controller => {
                let mut controller = ControllerOptions::default();
                property::apply(&mut controller, &name, &options, catalog::CONTROLLER)?;
                self.insert_controller(controller, options)
            }
            DeviceKind::Disk => {
                let mut disk = DiskOptions::default();
                property::apply(&mut disk, &name, &options, &[catalog::DISK])?;
                self.insert_disk(disk, origin, options)
            }
        }
    }

    /// Declares the controller that a command line without one implies.
    pub fn add_implied_controller(&mut self) -> Result<(), Error> {
        let options = ControllerOptions {
            id: Some("scsi0".to_owned()),
            ..ControllerOptions::default()
        };
        let declared = [("id".to_owned(), "scsi0".to_owned())];
        self.insert_controller(options, declared.into_iter().collect())
            .map(drop)
    }

    /// Says where a controller is served that has not said so itself.
    ///
    /// # Errors
    /// Another one is served there.
    pub fn set_socket(&mut self, bus: &str, socket: Socket) -> Result<(), Error> {
        let at = self.controllers.iter().position(|found| found.bus == bus);
        let Some((at, controller)) = at.and_then(|at| Some((at, self.controllers.get(at)?))) else {
            return Err(self.no_such_bus(bus));
        };
        self.check_free_socket(&socket, controller.name(), at)?;
        if let Some(controller) = self.controllers.get_mut(at) {
            controller.socket = Some(socket);
        }
        Ok(())
    }

    /// Makes a disk for every drive that asked for one (`if=scsi`) and that no device has taken.
    pub fn add_automatic_disks(&mut self) -> Result<(), (String, Error)> {
        let waiting: Vec<_> = self
            .unused_drives()
            .filter(|drive| drive.automatic)
            .map(|drive| (drive.id.clone(), drive.origin.clone()))
            .collect();
        for (id, origin) in waiting {
            let disk = DiskOptions {
                drive: Some(id),
                ..DiskOptions::default()
            };
            self.insert_automatic(disk, &origin)
                .map_err(|error| (origin, error))?;
        }
        Ok(())
    }

    fn insert_drive(
        &mut self,
        drive: DriveOptions,
        origin: &str,
        declared: Options,
    ) -> Result<String, Error> {
        let file = drive.file.as_deref();
        if drive.cdrom
            || file.is_some_and(|file| has_extension(file, "iso")) && drive.format.is_none()
        {
            return Err(Error::Cdrom);
        }
        // The disk that would be made for it needs one.
        if file.is_none() && drive.medium.is_none() && drive.automatic {
            return Err(Error::Missing("file=PATH"));
        }
        if file.is_some() && drive.medium.is_some() {
            return Err(Error::TwoMedia);
        }
        drive.limits.check().map_err(Error::Filter)?;
        let options = drive.node;
        let qcow2 = file.is_some_and(|file| has_extension(file, "qcow2"));
        let format = drive
            .format
            .unwrap_or(if qcow2 { Format::Qcow2 } else { Format::Raw });
        if let Some(medium) = &drive.medium {
            self.check_medium(medium)?;
        }

        let id = match &drive.id {
            Some(id) => {
                name::check(id)?;
                self.check_free_node_name(id)?;
                id.clone()
            }
            None => self.generate_drive_id(),
        };
        let identity = drive.identity.or(drive.id);
        let identity = identity.unwrap_or_else(|| file.map_or_else(|| id.clone(), name::of_file));
        let mut draft = Draft {
            model: self,
            nodes: Vec::new(),
        };
        let part = drive.offset != 0 || drive.size.is_some();
        let node = match (format, file.map(protocol)) {
            (_, None) => match drive.medium {
                Some(medium) => medium,
                None => draft.push(None, origin, NodeDriver::Empty, options),
            },
            (Format::Qcow2, _) if part => return Err(Error::PartOfQcow2),
            (Format::Raw, Some(protocol)) if !part => draft.push(None, origin, protocol, options),
            (_, Some(protocol)) => {
                let file = draft.push(None, origin, protocol, inherited(&options));
                let driver = match format {
                    Format::Qcow2 => NodeDriver::Qcow2 { file },
                    Format::Raw => NodeDriver::Raw {
                        file,
                        offset: drive.offset,
                        size: drive.size,
                    },
                };
                draft.push(None, origin, driver, options)
            }
        };
        let nodes = draft.nodes;
        self.commit(nodes);
        let drive = Drive {
            id: id.clone(),
            node,
            origin: origin.to_owned(),
            presumed_raw: file
                .filter(|_| drive.format.is_none() && format == Format::Raw)
                .map(PathBuf::from),
            limits: drive.limits,
            throttle_group: drive.throttle_group,
            write_cache: drive.write_cache,
            rerror: drive.rerror,
            werror: drive.werror,
            automatic: drive.automatic,
            identity,
            record: Record::new(self, declared),
        };
        self.drives.insert(id.clone(), drive);
        Ok(id)
    }

    fn insert_controller(
        &mut self,
        options: ControllerOptions,
        declared: Options,
    ) -> Result<Place, Error> {
        if let Some(id) = &options.id {
            name::check(id)?;
            self.check_free_device_id(id)?;
        }
        if let Some(thread) = &options.iothread {
            self.check_thread(thread)?;
        }
        let mut numbers: Vec<u16> = self.controllers.iter().map(|c| c.number).collect();
        numbers.sort_unstable();
        let taken = (1..).zip(numbers).take_while(|(n, taken)| n == taken);
        let number = u16::try_from(taken.count() + 1).map_err(|_| Error::TooManyControllers)?;
        // Named as QEMU names them.
        let unnamed = format!("scsi.{}", self.unnamed_buses);
        let bus = options.id.as_ref().map_or(unnamed, |id| format!("{id}.0"));
        let socket = options
            .socket
            .as_ref()
            .map(|path| Socket::Path(path.into()));
        if let Some(socket) = &socket {
            let name = options.id.as_deref().unwrap_or(&bus);
            self.check_free_socket(socket, name, self.controllers.len())?;
        }
        if options.id.is_none() {
            self.unnamed_buses += 1;
        }
        let place = Place::Controller(bus.clone());
        let path = self.register(options.id.as_deref(), place.clone());
        let record = Record::device(self, "virtio-scsi-pci", declared);
        self.controllers.push(Controller {
            record,
            bus,
            path,
            number,
            socket,
            options,
            disks: BTreeMap::new(),
        });
        Ok(place)
    }

    /// `at` is the place of `name` among the controllers.
    fn check_free_socket(&self, socket: &Socket, name: &str, at: usize) -> Result<(), Error> {
        let Socket::Path(path) = socket else {
            return Ok(());
        };
        for (place, other) in self.controllers.iter().enumerate() {
            if let Some(Socket::Path(taken)) = &other.socket
                && absolute(taken) == absolute(path)
            {
                let mut both = [(place, other.name(), taken), (at, name, path)];
                both.sort_by_key(|(place, ..)| *place);
                let [(_, first, _), (_, second, path)] = both;
                return Err(Error::SameSocket {
                    path: path.clone(),
                    first: first.to_owned(),
                    second: second.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Gives a device its place in the object tree.
    fn register(&mut self, id: Option<&str>, place: Place) -> String {
        let path = id.map_or_else(
            || {
                self.unnamed_devices += 1;
                format!(
                    "/machine/peripheral-anon/device[{}]",
                    self.unnamed_devices - 1
                )
            },
            peripheral,
        );
        self.devices.insert(path.clone(), place);
        path
    }

    /// A disk that nobody has declared, for a drive.
    fn insert_automatic(&mut self, options: DiskOptions, origin: &str) -> Result<(), Error> {
        let drive = options.drive.iter();
        let declared = drive.map(|drive| ("drive".to_owned(), drive.clone()));
        let declared = declared.collect();
        self.insert_disk(options, origin, declared).map(drop)
    }

    fn insert_disk(
        &mut self,
        mut options: DiskOptions,
        origin: &str,
        declared: Options,
    ) -> Result<Place, Error> {
        if let Some(id) = &options.id {
            name::check(id)?;
            self.check_free_device_id(id)?;
        }
        let drive = options.drive.clone().ok_or(Error::Missing("drive=NAME"))?;
        let controller = match &options.bus {
            None => 0,
            Some(bus) => self
                .controllers
                .iter()
                .position(|controller| controller.bus == *bus)
                .ok_or_else(|| self.no_such_bus(bus))?,
        };
        let controller = self
            .controllers
            .get(controller)
            .ok_or(Error::NoController)?;
        let bus = controller.bus.clone();
        let address = controller.choose(options.target, options.lun)?;
        self.check_bootindex(options.bootindex)?;

        let (node, identity, write_cache) = match self.drives.get(&drive) {
            Some(found) => {
                options.rerror = options.rerror.or(found.rerror);
                options.werror = options.werror.or(found.werror);
                (
                    found.node.clone(),
                    found.identity.clone(),
                    found.write_cache,
                )
            }
            None if self.nodes.contains_key(&drive) => (drive.clone(), drive.clone(), true),
            None => return Err(self.no_such_drive(drive)),
        };
        let empty = self.nodes.get(&node).map(|node| &node.driver) == Some(&NodeDriver::Empty);
        if empty && !options.config.removable {
            return Err(Error::NeedsMedium(drive));
        }
        // Where it must not be shared at all, that is said instead.
        let shared = self.nodes.get(&node).is_some_and(|node| {
            !node.users.is_empty() && (options.share_rw || node.options.read_only)
        });
        let mut others = controller.disks.values();
        if shared && let Some(other) = others.find(|other| other.node == node) {
            return Err(Error::SamePath {
                drive,
                bus,
                by: other.name.clone(),
            });
        }
        let name = options.id.clone().unwrap_or_else(|| drive.clone());
        self.use_node(&node, &drive, &name, options.share_rw)?;
        options.config.identity = identity;
        if matches!(options.config.write_cache, OnOffAuto::Auto) && !write_cache {
            options.config.write_cache = OnOffAuto::Off;
        }
        let place = Place::Disk {
            bus: bus.clone(),
            address,
        };
        let disk = Disk {
            record: Record::device(self, "scsi-hd", declared),
            origin: origin.to_owned(),
            path: self.register(options.id.as_deref(), place.clone()),
            name,
            node,
            options,
        };
        let mut controllers = self.controllers.iter_mut();
        if let Some(controller) = controllers.find(|controller| controller.bus == bus) {
            controller.disks.insert(address, disk);
        }
        Ok(place)
    }

    fn use_node(&mut self, node: &str, drive: &str, user: &str, share: bool) -> Result<(), Error> {
        let found = self
            .nodes
            .get_mut(node)
            .ok_or_else(|| Error::NoSuchNode(node.to_owned()))?;
        let user = User {
            name: user.to_owned(),
            shares: share || found.options.read_only,
        };
        found.admit(drive, user)?;
        // Others may write to the image only if all of its users agree, and every user agreed or is alone.
        found.options.share_rw = share;
        let mut below = found.driver.file().map(str::to_owned);
        while let Some(child) = below.and_then(|name| self.nodes.get_mut(&name)) {
            child.options.share_rw = share;
            below = child.driver.file().map(str::to_owned);
        }
        Ok(())
    }

    fn commit(&mut self, nodes: Vec<Node>) {
        for node in nodes {
            if let Some(file) = node.driver.file().and_then(|file| self.nodes.get_mut(file)) {
                file.users.push(node.as_user());
            }
            self.nodes.insert(node.name.clone(), node);
        }
    }

    fn generate_drive_id(&mut self) -> String {
        loop {
            let id = format!("disk{}", self.unnamed_drives);
            self.unnamed_drives += 1;
            if self.check_free_node_name(&id).is_ok() {
                return id;
            }
        }
    }

    /// Drives and nodes share one name space: a device's `drive=` names either.
    fn check_free_node_name(&self, name: &str) -> Result<(), Error> {
        let taken = if self.drives.contains_key(name) {
            Taken::Drive
        } else if self.nodes.contains_key(name) {
            Taken::Node
        } else {
            return Ok(());
        };
        Err(Error::DuplicateId {
            id: name.to_owned(),
            taken,
        })
    }

    fn check_free_device_id(&self, id: &str) -> Result<(), Error> {
        if self.devices.contains_key(&peripheral(id)) {
            return Err(Error::DuplicateId {
                id: id.to_owned(),
                taken: Taken::Device,
            });
        }
        Ok(())
    }

    fn check_bootindex(&self, bootindex: Option<u16>) -> Result<(), Error> {
        let Some(bootindex) = bootindex else {
            return Ok(());
        };
        let mut disks = self.disks().map(|(_, _, disk)| disk);
        match disks.find(|disk| disk.options.bootindex == Some(bootindex)) {
            Some(disk) => Err(Error::BootIndexTaken {
                bootindex,
                by: disk.name.clone(),
            }),
            None => Ok(()),
        }
    }

    fn no_such_bus(&self, bus: &str) -> Error {
        Error::NoSuchBus {
            bus: bus.to_owned(),
            buses: self
                .controllers
                .iter()
                .map(|controller| controller.bus.clone())
                .collect(),
        }
    }

    fn no_such_drive(&self, drive: String) -> Error {
        let nodes = self.nodes.keys().filter(|name| !name.starts_with('#'));
        Error::NoSuchDrive {
            drive,
            names: self.drives.keys().chain(nodes).cloned().collect(),
        }
    }
}

/// Where QEMU has a device with this id.
fn peripheral(id: &str) -> String {
    format!("/machine/peripheral/{id}")
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

fn has_extension(path: &str, extension: &str) -> bool {
    let found = Path::new(path).extension();
    found.is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// The device that is called so.
pub fn device(name: &str) -> Result<&'static catalog::Device, Error> {
    let found = catalog::DEVICES
        .iter()
        .find(|d| d.name == name || d.alias == name);
    let names = || {
        catalog::DEVICES
            .iter()
            .flat_map(|device| [device.name, device.alias])
    };
    found.ok_or_else(
        || match catalog::NOT_SERVED.iter().find(|(known, _)| *known == name) {
            Some((name, what)) => Error::NotServed { name, what },
            None => Error::NoSuchDevice {
                name: name.to_owned(),
                suggestion: property::nearest(name, names()),
            },
        },
    )
}

/// The block driver that is called so.
pub fn block_driver(name: &str) -> Result<&'static catalog::BlockDriver, Error> {
    let found = catalog::BLOCK_DRIVERS
        .iter()
        .find(|driver| driver.name == name);
    found.ok_or_else(|| Error::NoSuchDriver {
        name: name.to_owned(),
        names: catalog::BLOCK_DRIVERS
            .iter()
            .map(|driver| driver.name)
            .collect(),
    })
}
