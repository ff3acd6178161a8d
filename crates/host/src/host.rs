//! The declared objects made real, and kept so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lunar_vhost_user::{Running, Server};
use lunar_virtio_scsi::{Controller, ControllerConfig, Workers, WorkersConfig};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use crate::event::Events;
use crate::images::Images;
use crate::keyval::Options;
use crate::model::{self, Address, Model, Place, Socket};
use crate::query::{ControllerInfo, DeviceInfo, NodeInfo, RunState};
use crate::units::{self, Units};
use crate::{Error, Event, Subscription, catalog};

/// What holds for the whole server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The threads of the data path.
    pub workers: WorkersConfig,
    /// Request queues of a controller that does not say; `None` takes one for each CPU of the host, as QEMU takes one for
    /// each of the guest.
    pub queues: Option<u16>,
}

/// A running server. Every method may be called from any thread.
#[derive(Debug)]
pub struct Host {
    config: Config,
    workers: Arc<Workers>,
    events: Events,
    live: Mutex<Live>,
}

/// What is declared, and what it is in reality.
#[derive(Debug)]
pub(crate) struct Live {
    pub model: Model,
    pub images: Images,
    pub units: Units,
    /// By bus.
    pub adapters: BTreeMap<String, Adapter>,
    /// Devices that are being removed, by their place in the object tree.
    pub leaving: BTreeSet<String>,
    pub stopped: bool,
}

/// A controller and its socket.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub controller: Arc<Controller>,
    pub server: Option<Running>,
}

impl Host {
    /// Makes a model real: all controllers with all their disks, then every other node, then the sockets, so that no
    /// front end meets a controller that is not complete.
    ///
    /// # Errors
    /// The first thing that cannot be made. Nothing is left then.
    pub fn start(config: Config, model: Model) -> Result<Arc<Host>, Error> {
        let workers = Workers::start(config.workers.clone()).map_err(Error::Workers)?;
        let mut live = Live {
            model,
            images: Images::default(),
            units: Units::default(),
            adapters: BTreeMap::new(),
            leaving: BTreeSet::new(),
            stopped: false,
        };
        let built = live.build(&config, &workers);
        let host = Arc::new(Host {
            config,
            workers,
            events: Events::default(),
            live: Mutex::new(live),
        });
        built?;
        Ok(host)
    }

    /// Adds a node, as `--blockdev` does, and opens it. Returns its name.
    ///
    /// # Errors
    /// It does not fit, or cannot be opened.
    pub fn add_blockdev(&self, options: Options, origin: &str) -> Result<String, Error> {
        let mut live = self.lock()?;
        let name = live.model.add_blockdev(options, origin)?;
        live.open_or(&name, |model| model.remove_node(&name).map(drop))?;
        Ok(name)
    }

    /// Adds a drive, as `--drive` does, and opens its image. Returns its name. No device is made for it, whatever `if=`
    /// says: that is for the start, where it is known which drives no device takes.
    ///
    /// # Errors
    /// It does not fit, or cannot be opened.
    pub fn add_drive(&self, options: Options, origin: &str) -> Result<String, Error> {
        let mut live = self.lock()?;
        let id = live.model.add_drive(options, origin)?;
        let node = live.model.node_of(&id)?.name.clone();
        live.open_or(&node, |model| model.remove_drive(&id).map(drop))?;
        Ok(id)
    }

    /// Adds a controller, which is served from then on, or a disk, which the guest is told of, as `--device` does.
    /// Returns its place in the object tree.
    ///
    /// # Errors
    /// It does not fit, or cannot be made.
    pub fn add_device(&self, options: Options, origin: &str) -> Result<String, Error> {
        let mut live = self.lock()?;
        let place = live.model.add_device(options, origin)?;
        let made = match &place {
            Place::Controller(bus) => live.add_controller(bus, &self.config, &self.workers),
            Place::Disk { bus, address } => live.add_disk(bus, *address),
        };
        if let Err(error) = made {
            live.model.undo(&place);
            live.reopen_idle();
            return Err(error);
        }
        Ok(live.path(&place))
    }

    /// Removes a device by its id or its place in the object tree. A disk's commands in flight are finished and its guest
    /// is told; a controller's front end is let go, and its disks go with it. When [`Event::DeviceDeleted`] comes,
    /// which is before this returns, address and id are free. A drive goes with its last device.
    ///
    /// # Errors
    /// There is no such device, or it is being removed already.
    pub fn remove_device(&self, name: &str) -> Result<(), Error> {
        let place = {
            let mut live = self.lock()?;
            let place = live.model.device(name)?.clone();
            live.mark_leaving(&place)?;
            place
        };
        match place {
            Place::Disk { bus, address } => self.remove_disk(&bus, address),
            Place::Controller(bus) => self.remove_controller(&bus),
        }
    }

    fn remove_disk(&self, bus: &str, address: Address) -> Result<(), Error> {
        let controller = {
            let live = self.lock()?;
            let adapter = live.adapters.get(bus);
            adapter.map(|adapter| Arc::clone(&adapter.controller))
        };
        // Commands in flight may take their time, and nobody else has to wait for that.
        let detached = controller.map(|c| c.detach(address.target, address.lun));
        let (events, closed) = {
            let mut live = self.lock()?;
            live.forget_disk(bus, address)
        };
        self.publish(events);
        closed?;
        detached.transpose()?;
        Ok(())
    }

    fn remove_controller(&self, bus: &str) -> Result<(), Error> {
        let (server, controller, disks) = {
            let mut live = self.lock()?;
            let declared = live.model.controller(bus);
            let disks = declared.map(|found| found.disks.keys().copied().collect());
            let disks: Vec<Address> = disks.unwrap_or_default();
            let adapter = live.adapters.get_mut(bus);
            let server = adapter.and_then(|adapter| adapter.server.take());
            let adapter = live.adapters.get(bus);
            let controller = adapter.map(|adapter| Arc::clone(&adapter.controller));
            (server, controller, disks)
        };
        drop(server);
        let mut outcome = Ok(());
        for &Address { target, lun } in &disks {
            if let Some(Err(error)) = controller.as_ref().map(|c| c.detach(target, lun)) {
                outcome = Err(error.into());
            }
        }
        drop(controller);
        let mut all = Vec::new();
        let adapter = {
            let mut live = self.lock()?;
            for address in disks {
                let (events, closed) = live.forget_disk(bus, address);
                all.extend(events);
                outcome = outcome.and(closed);
            }
            let adapter = live.adapters.remove(bus);
            if let Some(removed) = live.model.remove_controller(bus) {
                live.leaving.remove(&removed.path);
                all.push(Event::DeviceDeleted {
                    device: removed.options.id,
                    path: removed.path,
                });
            }
            adapter
        };
        drop(adapter);
        self.publish(all);
        outcome
    }

    /// Removes a node that `--blockdev` or [`Host::add_blockdev`] added, and closes it.
    ///
    /// # Errors
    /// It is not there, or in use, or could not be closed without a loss; then it is gone all the same.
    pub fn remove_node(&self, name: &str) -> Result<(), Error> {
        let mut live = self.lock()?;
        let removed = live.model.remove_node(name)?;
        live.close(&removed)
    }

    /// Removes a drive that no device uses, and closes its image.
    ///
    /// # Errors
    /// As [`Host::remove_node`].
    pub fn remove_drive(&self, id: &str) -> Result<(), Error> {
        let mut live = self.lock()?;
        let removed = live.model.remove_drive(id)?;
        live.close(&removed)
    }

    /// Whether requests are taken.
    pub fn status(&self) -> RunState {
        RunState::Running
    }

    /// What happens from now on.
    pub fn events(&self) -> Subscription {
        self.events.subscribe()
    }

    /// Tells everybody of something that has happened.
    pub fn publish(&self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.events.publish(event);
        }
    }

    /// What is declared now.
    pub fn model(&self) -> Model {
        self.lock_anyway().model.clone()
    }

    /// The controllers, in the order in which they were added.
    pub fn controllers(&self) -> Vec<ControllerInfo> {
        self.lock_anyway().controller_infos()
    }

    /// The disks, by controller and address.
    pub fn devices(&self) -> Vec<DeviceInfo> {
        self.lock_anyway().device_infos()
    }

    /// A disk by its id or its place in the object tree; `None` if that is a controller.
    ///
    /// # Errors
    /// There is no such device.
    pub fn device(&self, name: &str) -> Result<Option<DeviceInfo>, Error> {
        Ok(self.lock_anyway().device_info_of(name)?)
    }

    /// The nodes, by name.
    pub fn nodes(&self) -> Vec<NodeInfo> {
        self.lock_anyway().node_infos()
    }

    /// Whether every front end was given and has gone: nobody will come any more.
    pub fn is_finished(&self) -> bool {
        let live = self.lock_anyway();
        let mut servers = live.adapters.values().filter_map(|a| a.server.as_ref());
        servers.all(Running::is_finished)
    }

    /// Ends everything: front ends are let go after what they had in flight, then images are flushed and closed. From
    /// then on every order is refused.
    ///
    /// # Errors
    /// Something that was written may not be durable.
    pub fn stop(&self) -> Result<(), Error> {
        let adapters = {
            let mut live = self.lock_anyway();
            live.stopped = true;
            std::mem::take(&mut live.adapters)
        };
        for adapter in adapters.into_values() {
            drop(adapter.server);
        }
        self.workers.stop();
        let mut live = self.lock_anyway();
        let Live { model, images, .. } = &mut *live;
        let closed = images.close(model.nodes());
        drop(live);
        self.events.end();
        Ok(closed?)
    }

    fn lock(&self) -> Result<MutexGuard<'_, Live>, Error> {
        let live = self.lock_anyway();
        match live.stopped {
            true => Err(Error::Stopped),
            false => Ok(live),
        }
    }

    /// A panic while the lock was held leaves at worst an object that is declared and not real, or the other way round:
    /// no reason to give up the others.
    fn lock_anyway(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    fn build(&mut self, config: &Config, workers: &Arc<Workers>) -> Result<(), Error> {
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

    fn add_controller(
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
            request_queues: options.num_queues.unwrap_or_else(|| queues(config)),
            max_sectors: options.max_sectors,
            cmd_per_lun: options.cmd_per_lun,
            hotplug: options.hotplug,
            param_change: options.param_change,
            ..ControllerConfig::default()
        };
        let adapter = Adapter {
            controller: Controller::new(workers, config)?,
            server: None,
        };
        self.adapters.insert(bus.to_owned(), adapter);
        Ok(())
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
    fn add_disk(&mut self, bus: &str, address: Address) -> Result<(), Error> {
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
    fn mark_leaving(&mut self, place: &Place) -> Result<(), Error> {
        let mut paths = Vec::new();
        match place {
            Place::Disk { bus, address } => {
                let disk = self.model.disk(bus, *address);
                paths.extend(disk.map(|disk| (disk.path.clone(), disk.name.clone())));
            }
            Place::Controller(bus) => {
                let controller = self.controller(bus)?;
                let own = (controller.path.clone(), controller.name().to_owned());
                let disks = controller.disks.values();
                paths.extend(disks.map(|disk| (disk.path.clone(), disk.name.clone())));
                paths.push(own);
            }
        }
        if let Some((_, name)) = paths.iter().find(|(path, _)| self.leaving.contains(path)) {
            return Err(model::Error::Leaving(name.clone()).into());
        }
        self.leaving.extend(paths.into_iter().map(|(path, _)| path));
        Ok(())
    }

    /// A disk has been detached: its unit, if that was the last path, and its drive, if it was the last user, go, too.
    fn forget_disk(&mut self, bus: &str, address: Address) -> (Option<Event>, Result<(), Error>) {
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
    fn open_or(
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
    fn reopen_idle(&mut self) {
        if let Err(error) = self.open_rest() {
            tracing::error!(error = %error.line(), "a node that was open cannot be opened again");
        }
    }

    fn close(&mut self, removed: &[model::Node]) -> Result<(), Error> {
        let closed = self.images.close(removed);
        self.reopen_idle();
        Ok(closed?)
    }

    fn path(&self, place: &Place) -> String {
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

fn queues(config: &Config) -> u16 {
    let cpus = || std::thread::available_parallelism().map_or(1, usize::from);
    config.queues.unwrap_or_else(|| {
        u16::try_from(cpus()).map_or(catalog::MAX_QUEUES, |n| n.min(catalog::MAX_QUEUES))
    })
}

/// A second descriptor for the open file that is number `number` in this process.
fn inherited(number: i32) -> std::io::Result<std::os::fd::OwnedFd> {
    let this = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    let flags = PidfdGetfdFlags::empty();
    Ok(rustix::process::pidfd_getfd(&this, number, flags)?)
}
