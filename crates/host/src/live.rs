//! What is declared and what is real, side by side, and the steps that keep them alike. All of it under one lock.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lunar_block::Image;
use lunar_vhost_user::{Running, Server};
use lunar_virtio_scsi::{Coalescing, Controller, ControllerConfig, Workers};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use crate::catalog::ControllerOptions;
use crate::host::Config;
use crate::images::Images;
use crate::model::{self, Address, Model, NodeDriver, Place, Socket};
use crate::query::RunState;
use crate::threads::Threads;
use crate::throttling::Groups;
use crate::units::{self, Units};
use crate::{Error, Event, catalog};

/// What is declared, and what it is in reality.
#[derive(Debug)]
pub(crate) struct Live {
    pub model: Model,
    pub images: Images,
    pub units: Units,
    pub groups: Groups,
    pub threads: Threads,
    /// By bus.
    pub adapters: BTreeMap<String, Adapter>,
    /// Devices that are being removed, by their place in the object tree.
    pub leaving: BTreeSet<String>,
    /// Nodes of drives whose medium is being changed.
    pub changing: BTreeSet<String>,
    /// The thread to which a controller's queues are moving, by bus.
    pub moving: BTreeMap<String, Option<String>>,
    /// Nodes that are being cut.
    pub shrinking: BTreeSet<String>,
    pub run: RunState,
    pub ended: bool,
}

/// A controller and its socket.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub controller: Arc<Controller>,
    pub server: Option<Running>,
}

impl Live {
    pub fn build(&mut self, config: &Config, workers: &Arc<Workers>) -> Result<(), Error> {
        self.make_groups()?;
        self.make_threads()?;
        let declared = self.model.controllers().iter();
        let buses: Vec<String> = declared.map(|found| found.bus.clone()).collect();
        for bus in &buses {
            self.make_controller(bus, config, workers)?;
        }
        let disks = self.model.disks();
        let disks: Vec<_> = disks
            .map(|(controller, address, _)| (controller.bus.clone(), address))
            .collect();
        for (bus, address) in disks {
            self.add_disk(&bus, address)?;
        }
        self.open_rest()?;
        let mut servers = Vec::new();
        for bus in &buses {
            servers.push(self.bind(bus)?);
        }
        for (bus, server) in buses.iter().zip(servers) {
            self.serve(bus, server)?;
        }
        Ok(())
    }

    pub fn add_controller(
        &mut self,
        bus: &str,
        config: &Config,
        workers: &Arc<Workers>,
    ) -> Result<(), Error> {
        self.make_controller(bus, config, workers)?;
        let server = self.bind(bus);
        if let Err(error) = server.and_then(|server| self.serve(bus, server)) {
            self.adapters.remove(bus);
            return Err(error);
        }
        Ok(())
    }

    fn make_controller(
        &mut self,
        bus: &str,
        config: &Config,
        workers: &Arc<Workers>,
    ) -> Result<(), Error> {
        let declared = self.controller(bus)?;
        let options = &declared.options;
        let config = ControllerConfig {
            id: declared.name().to_owned(),
            initiator: options.initiator.clone(),
            worker: self.threads.worker(options.iothread.as_deref()),
            request_queues: options.num_queues.unwrap_or_else(|| queues(config)),
            max_sectors: options.max_sectors,
            cmd_per_lun: options.cmd_per_lun,
            hotplug: options.hotplug,
            param_change: options.param_change,
            packed: options.packed != Some(false),
            coalescing: coalescing(options),
            fixed_buffers: options.fixed_buffers,
            ..ControllerConfig::default()
        };
        let adapter = Adapter {
            controller: Controller::new(workers, config)?,
            server: None,
        };
        adapter
            .controller
            .set_paused(self.run == RunState::Paused)?;
        self.adapters.insert(bus.to_owned(), adapter);
        Ok(())
    }

    /// Changes a property of a controller in use, by its id or path; the controller, and how far its interrupts are to be
    /// held back from now on.
    pub fn change_controller(
        &mut self,
        controller: &str,
        property: &str,
        value: &str,
    ) -> Result<(Arc<Controller>, Coalescing), model::Error> {
        let Place::Controller(bus) = self.model.device(controller)?.clone() else {
            return Err(model::Error::NoController);
        };
        let device = Arc::clone(&self.adapter(&bus)?.controller);
        let options = self.model.set_controller(&bus, property, value)?;
        Ok((device, coalescing(options)))
    }

    fn bind(&self, bus: &str) -> Result<Server, Error> {
        let declared = self.controller(bus)?;
        let options = lunar_vhost_user::Options {
            config: declared.options.config,
        };
        let device = Arc::clone(&self.adapter(bus)?.controller);
        Ok(match &declared.socket {
            None => return Err(model::Error::NoSocket(declared.name().to_owned()).into()),
            Some(Socket::Path(path)) => Server::bind(Path::new(path), device, options)?,
            Some(Socket::Fd(number)) => {
                let fd = inherited(*number).map_err(|source| Error::Descriptor {
                    number: *number,
                    source,
                })?;
                Server::from_fd(fd, device, options)?
            }
        })
    }

    fn serve(&mut self, bus: &str, server: Server) -> Result<(), Error> {
        let running = server.start()?;
        if let Some(adapter) = self.adapters.get_mut(bus) {
            adapter.server = Some(running);
        }
        Ok(())
    }

    /// Opens what a disk shows, and attaches it.
    pub fn add_disk(&mut self, bus: &str, address: Address) -> Result<(), Error> {
        let Live {
            model,
            images,
            units,
            ..
        } = self;
        let controller = model.controller(bus).ok_or(model::Error::NoController)?;
        if self.leaving.contains(&controller.path) {
            return Err(model::Error::Leaving(controller.name().to_owned()).into());
        }
        let disk = controller.disks.get(&address);
        let disk = disk.ok_or(model::Error::NoController)?;
        if self.changing.contains(&disk.node) {
            return Err(model::Error::Changing(disk.name.clone()).into());
        }
        let image = images.open(model, &disk.node)?;
        let unit = units.acquire(model, disk, image)?;
        let node = disk.node.clone();
        let port = units::port(disk, controller.number);
        let Address { target, lun } = address;
        let controller = &self.adapter(bus)?.controller;
        if let Err(error) = controller.attach_through(port, target, lun, unit) {
            self.units.release(&node);
            return Err(error.into());
        }
        Ok(())
    }

    /// Says that a device is on its way out, and if it is a controller, all its disks.
    pub fn mark_leaving(&mut self, place: &Place) -> Result<(), Error> {
        let mut paths = Vec::new();
        match place {
            Place::Disk { bus, address } => {
                let disk = self.model.disk(bus, *address);
                paths.extend(disk.map(|disk| (disk.path.clone(), disk.name.clone())));
            }
            Place::Controller(bus) => {
                let controller = self.controller(bus)?;
                if self.moving.contains_key(bus) {
                    return Err(model::Error::Moving(controller.name().to_owned()).into());
                }
                let own = (controller.path.clone(), controller.name().to_owned());
                let disks = controller.disks.values();
                paths.extend(disks.map(|disk| (disk.path.clone(), disk.name.clone())));
                paths.push(own);
            }
        }
        if let Some((_, name)) = paths.iter().find(|(path, _)| self.leaving.contains(path)) {
            return Err(model::Error::Leaving(name.clone()).into());
        }
        let leaves = |path: &str| paths.iter().any(|(leaving, _)| leaving == path);
        let mut disks = self.model.disks().map(|(_, _, disk)| disk);
        if let Some(disk) = disks.find(|d| leaves(&d.path) && self.changing.contains(&d.node)) {
            return Err(model::Error::Changing(disk.name.clone()).into());
        }
        drop(disks);
        self.leaving.extend(paths.into_iter().map(|(path, _)| path));
        Ok(())
    }

    /// A disk has been detached: its unit, if that was the last path, and its drive, if it was the last user, go, too.
    pub fn forget_disk(
        &mut self,
        bus: &str,
        address: Address,
    ) -> (Option<Event>, Result<(), Error>) {
        let Some(removed) = self.model.remove_disk(bus, address) else {
            return (None, Ok(()));
        };
        self.leaving.remove(&removed.disk.path);
        self.units.release(&removed.disk.node);
        let closed = self.close(&removed.nodes);
        let event = Event::DeviceDeleted {
            device: removed.disk.options.id,
            path: removed.disk.path,
        };
        (Some(event), closed)
    }

    /// Opens a node that has just been declared, or takes the declaration back.
    pub fn open_or(
        &mut self,
        node: &str,
        undo: impl FnOnce(&mut Model) -> Result<(), model::Error>,
    ) -> Result<(), Error> {
        if let Err(error) = self.images.open(&self.model, node) {
            undo(&mut self.model)?;
            self.reopen_idle();
            return Err(error.into());
        }
        Ok(())
    }

    /// Opens every node that nothing has opened yet.
    fn open_rest(&mut self) -> Result<(), Error> {
        let idle: Vec<String> = self.idle().map(|node| node.name.clone()).collect();
        for name in idle {
            self.images.open(&self.model, &name)?;
        }
        Ok(())
    }

    /// Nodes that are used by nobody: whatever is used is opened by its user.
    fn idle(&self) -> impl Iterator<Item = &model::Node> {
        let nodes = self.model.nodes();
        nodes.filter(|node| node.users().next().is_none())
    }

    /// Opens again what was closed for something that then failed, or has gone. It was open a moment ago.
    pub fn reopen_idle(&mut self) {
        if let Err(error) = self.open_rest() {
            tracing::error!(error = %error.line(), "a node that was open cannot be opened again");
        }
    }

    pub fn close(&mut self, removed: &[model::Node]) -> Result<(), Error> {
        if removed.is_empty() {
            return Ok(());
        }
        let closed = self.images.close(removed);
        self.reopen_idle();
        Ok(closed?)
    }

    /// The image of a node that is open by itself.
    pub fn image(&self, node: &str) -> Result<Arc<dyn Image>, Error> {
        let image = self.images.get(node).cloned();
        image.ok_or_else(|| {
            let declared = self.model.node(node);
            let by = declared.and_then(|node| node.users().next());
            let error = model::Error::StillUsed {
                name: node.to_owned(),
                by: by.unwrap_or("nobody").to_owned(),
            };
            error.into()
        })
    }

    /// A node may have another size than before: so may those made of it or that it is made of, and their units, and
    /// guests have to hear of it.
    pub fn sizes_may_have_changed(&mut self, node: &str) {
        let family = self.family(node);
        for name in &family {
            if let Some(image) = self.images.get(name)
                && let Err(error) = image.refresh()
            {
                tracing::warn!(node = name, %error, "cannot tell the size");
            }
        }
        let changed = |node: &str| {
            let unit = self.units.get(node).filter(|_| family.contains(node));
            unit.is_some_and(|unit| unit.refresh_capacity())
        };
        let changed: BTreeSet<String> = family.iter().filter(|n| changed(n)).cloned().collect();
        if !changed.is_empty() {
            self.tell_sizes(&changed);
        }
    }

    /// Reports to the guests that see these nodes that they have another size.
    pub fn tell_sizes(&self, changed: &BTreeSet<String>) {
        let disks = self.model.disks();
        for (controller, address, disk) in disks.filter(|(_, _, d)| changed.contains(&d.node)) {
            let Some(adapter) = self.adapters.get(&controller.bus) else {
                continue;
            };
            let Address { target, lun } = address;
            // CAPACITY DATA HAS CHANGED. The event is for a driver that listens; the unit attention is there already.
            if let Err(error) = adapter.controller.param_changed(target, lun, 0x2A, 0x09) {
                tracing::warn!(disk = disk.name, %error, "cannot report the new size");
            }
        }
    }

    /// A node, those it is made of, and all that are made of these.
    pub fn family(&self, node: &str) -> BTreeSet<String> {
        let below = |node: &&model::Node| {
            let file = node.driver.file();
            file.and_then(|name| self.model.node(name))
        };
        let chain = std::iter::successors(self.model.node(node), below);
        let mut family: BTreeSet<String> = chain.map(|node| node.name.clone()).collect();
        loop {
            let made_of = |node: &&model::Node| {
                let file = node.driver.file();
                file.is_some_and(|file| family.contains(file)) && !family.contains(&node.name)
            };
            let more: Vec<String> = self
                .model
                .nodes()
                .filter(made_of)
                .map(|node| node.name.clone())
                .collect();
            if more.is_empty() {
                return family;
            }
            family.extend(more);
        }
    }

    /// The size of what is declared, if it was declared and has changed.
    pub fn changed_size(&self, declaration: &model::Declaration) -> Option<u64> {
        let node = self.model.node(declaration.node.as_deref()?)?;
        let size = match &node.driver {
            NodeDriver::Raw { size, .. } => (*size)?,
            NodeDriver::Null { size, .. } => *size,
            _ => return None,
        };
        let now = self.images.get(&node.name)?.info().size;
        (now != size.next_multiple_of(512)).then_some(now)
    }

    pub fn path(&self, place: &Place) -> String {
        let path = match place {
            Place::Controller(bus) => self.model.controller(bus).map(|found| &found.path),
            Place::Disk { bus, address } => self.model.disk(bus, *address).map(|disk| &disk.path),
        };
        path.cloned().unwrap_or_default()
    }

    fn controller(&self, bus: &str) -> Result<&model::Controller, model::Error> {
        self.model.controller(bus).ok_or(model::Error::NoController)
    }

    fn adapter(&self, bus: &str) -> Result<&Adapter, model::Error> {
        self.adapters.get(bus).ok_or(model::Error::NoController)
    }
}

fn coalescing(options: &ControllerOptions) -> Coalescing {
    Coalescing {
        time: Duration::from_micros(options.coalesce_us.into()),
        completions: options.coalesce_max,
    }
}

fn queues(config: &Config) -> u16 {
    let cpus = || std::thread::available_parallelism().map_or(1, usize::from);
    config.queues.unwrap_or_else(|| {
        u16::try_from(cpus()).map_or(catalog::MAX_QUEUES, |n| n.min(catalog::MAX_QUEUES))
    })
}

/// A second descriptor for the open file that is number `number` in this process.
fn inherited(number: i32) -> std::io::Result<OwnedFd> {
    let this = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    let flags = PidfdGetfdFlags::empty();
    Ok(rustix::process::pidfd_getfd(&this, number, flags)?)
}
