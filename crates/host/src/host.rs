//! The declared objects made real, and kept so.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use lunar_block::Limits;
use lunar_vhost_user::Running;
use lunar_virtio_scsi::{Workers, WorkersConfig};
use rustix::event::{EventfdFlags, eventfd};

use crate::event::{Events, ShutdownReason};
use crate::file::{self, Settings};
use crate::growth::Growth;
use crate::images::Images;
use crate::keyval::Options;
use crate::live::Live;
use crate::model::{Address, Model, Place};
use crate::query::{ControllerInfo, DeviceInfo, NodeInfo, RunState};
use crate::statistics::Boundaries;
use crate::threads::{IoThreadInfo, Threads};
use crate::throttling::{Groups, Limited, Throttling};
use crate::units::Units;
use crate::{Error, Event, Subscription};

/// What holds for the whole server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The threads of the data path.
    pub workers: WorkersConfig,
    /// Request queues of a controller that does not say; `None` takes one for each CPU of the host, as QEMU takes one for
    /// each of the guest.
    pub queues: Option<u16>,
    /// What else the server was started with, to be found again in [`Host::configuration`].
    pub settings: Settings,
}

/// A running server. Every method may be called from any thread.
#[derive(Debug)]
pub struct Host {
    config: Config,
    workers: Arc<Workers>,
    events: Events,
    live: Mutex<Live>,
    growth: Option<Arc<Growth>>,
    follower: Mutex<Option<JoinHandle<()>>>,
    /// Somebody wants the server to end.
    quit: OwnedFd,
}

impl Host {
    /// Makes a model real: all controllers with all their disks, then every other node, then the sockets, so that no
    /// front end meets a controller that is not complete.
    ///
    /// # Errors
    /// The first thing that cannot be made. Nothing is left then.
    pub fn start(config: Config, model: Model) -> Result<Arc<Host>, Error> {
        let workers = Workers::start(config.workers.clone()).map_err(Error::Workers)?;
        let events = Events::default();
        let quit = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let growth = Growth::new();
        let groups = Groups::default();
        let mut live = Live {
            model,
            images: Images::new(growth.clone(), groups.clone()),
            units: Units::new(events.clone(), groups.clone()),
            groups,
            threads: Threads::new(&workers, config.workers.spin),
            adapters: BTreeMap::new(),
            leaving: BTreeSet::new(),
            changing: BTreeSet::new(),
            shrinking: BTreeSet::new(),
            moving: BTreeMap::new(),
            run: RunState::Running,
            ended: false,
        };
        let built = live.build(&config, &workers);
        let host = Arc::new(Host {
            config,
            workers,
            events,
            live: Mutex::new(live),
            growth,
            follower: Mutex::default(),
            quit: quit.map_err(|errno| Error::Workers(errno.into()))?,
        });
        built?;
        if let Some(growth) = &host.growth {
            let follower = growth.follow(Arc::downgrade(&host));
            *lock(&host.follower) = Some(follower.map_err(Error::Workers)?);
        }
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

    /// Changes open nodes as far as that can be done: the faults of blkdebug nodes, the groups of throttle nodes. All of
    /// them, or none.
    ///
    /// # Errors
    /// A node is not there, or something else would change.
    pub fn reopen(&self, nodes: impl IntoIterator<Item = Options>) -> Result<(), Error> {
        let mut live = self.lock()?;
        let mut model = live.model.clone();
        let mut all = Vec::new();
        for options in nodes {
            all.push(model.reopen(options)?);
        }
        live.model = model;
        for (node, reopened) in all {
            let done = live.images.reopen(&node, reopened);
            done.map_err(crate::model::Error::Filter)?;
        }
        Ok(())
    }

    /// Adds an object, as `--object` does: a throttle group or a thread. Returns its name.
    ///
    /// # Errors
    /// It does not fit, or cannot be made.
    pub fn add_object(&self, options: Options) -> Result<String, Error> {
        let mut live = self.lock()?;
        let id = live.model.add_object(options)?;
        let made = live.make_group(&id).map_err(Error::from);
        if let Err(error) = made.and_then(|()| live.make_thread(&id)) {
            live.model.remove_object(&id)?;
            return Err(error);
        }
        Ok(id)
    }

    /// Removes an object.
    ///
    /// # Errors
    /// It is not there, or in use.
    pub fn remove_object(&self, id: &str) -> Result<(), Error> {
        let mut live = self.lock()?;
        if live.model.iothread(id).is_some() {
            return Ok(live.remove_thread(id)?);
        }
        Ok(live.remove_group(id)?)
    }

    /// Moves all queues of a controller, by its id or its place in the object tree, to a thread that is an object, or
    /// spreads them over the threads that serve all controllers. Commands in flight are finished first; the guest sees
    /// nothing of it.
    ///
    /// # Errors
    /// There is no such controller or thread, or the controller is moving or being removed already, or its images cannot
    /// be opened there; then its queues are where they were.
    pub fn move_queues(&self, controller: &str, thread: Option<&str>) -> Result<(), Error> {
        let (bus, device, worker) = self.lock()?.begin_move(controller, thread)?;
        // Commands in flight may take their time, and nobody else has to wait for that.
        let moved = device.move_to(worker);
        drop(device);
        self.lock_anyway().end_move(&bus, moved.is_ok());
        Ok(moved?)
    }

    /// Changes a property of a controller, by its id or its place in the object tree, while it is in use: one of
    /// [`catalog::COALESCING`](crate::catalog::COALESCING).
    ///
    /// # Errors
    /// There is no such controller or property, or it does not take the value.
    pub fn change_controller(
        &self,
        controller: &str,
        property: &str,
        value: &str,
    ) -> Result<(), Error> {
        let (device, coalescing) = self
            .lock()?
            .change_controller(controller, property, value)?;
        // Somebody may be waiting for the controller's commands in flight.
        Ok(device.set_coalescing(coalescing)?)
    }

    /// Has a thread that is an object look for work for so long before it sleeps, from now on.
    ///
    /// # Errors
    /// There is no such thread.
    pub fn set_poll(&self, iothread: &str, poll: Duration) -> Result<(), Error> {
        Ok(self.lock()?.set_poll(iothread, poll)?)
    }

    /// The threads that are objects, by name.
    pub fn iothreads(&self) -> Vec<IoThreadInfo> {
        self.lock_anyway().thread_infos()
    }

    /// The throttle groups that are objects, by name.
    pub fn throttle_groups(&self) -> Vec<Throttling> {
        self.lock_anyway().group_infos()
    }

    /// Gives a throttle group that is an object other limits.
    ///
    /// # Errors
    /// It is not there, or the limits contradict each other.
    pub fn set_group_limits(&self, id: &str, limits: Limits) -> Result<(), Error> {
        Ok(self.lock()?.set_group_limits(id, limits)?)
    }

    /// Limits a drive or a device, from the next operation on, those that wait included: in the group of this name, or
    /// else in the one that it is in, or else in one of its own. Without any limit it leaves its group.
    ///
    /// # Errors
    /// It is not there, or the limits contradict each other.
    pub fn set_limits(
        &self,
        whose: Limited<'_>,
        limits: Limits,
        group: Option<&str>,
    ) -> Result<(), Error> {
        Ok(self.lock()?.set_limits(whose, limits, group)?)
    }

    /// Sets latency histograms of a disk, by its id or place; they begin empty. `None` takes all of them away.
    ///
    /// # Errors
    /// It is not there, or boundaries do not ascend.
    pub fn set_histograms(
        &self,
        device: &str,
        boundaries: Option<Boundaries>,
    ) -> Result<(), Error> {
        Ok(self.lock()?.set_histograms(device, boundaries)?)
    }

    /// Has the first write behind an offset of a node told of, by an event; 0 is none.
    ///
    /// # Errors
    /// It is not there, or is open as a part of another node only.
    pub fn set_write_threshold(&self, node: &str, offset: u64) -> Result<(), Error> {
        Ok(self
            .lock()?
            .set_write_threshold(node, offset, &self.events)?)
    }

    /// The threads of the data path.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Whether requests are taken.
    pub fn status(&self) -> RunState {
        let live = self.lock_anyway();
        match live.run {
            RunState::Running if live.is_stopped_by_error() => RunState::IoError,
            run => run,
        }
    }

    /// Takes no more requests, from any guest: they wait, those in flight complete.
    ///
    /// # Errors
    /// The host has been stopped for good.
    pub fn pause(&self) -> Result<(), Error> {
        self.set_run(RunState::Paused)
    }

    /// Takes requests again, and lets disks go on that an error has stopped.
    ///
    /// # Errors
    /// The host has been stopped for good.
    pub fn resume(&self) -> Result<(), Error> {
        self.set_run(RunState::Running)
    }

    /// Lets disks go on that an error has stopped, and leaves everything else as it is.
    pub fn retry(&self) {
        let live = self.lock_anyway();
        if live.is_stopped_by_error() {
            self.events.publish(Event::Resume);
            live.retry();
        }
    }

    fn set_run(&self, run: RunState) -> Result<(), Error> {
        let mut live = self.lock()?;
        if run == RunState::Running && (live.run != run || live.is_stopped_by_error()) {
            // Before anything can go wrong again.
            self.events.publish(Event::Resume);
            live.retry();
        }
        if live.run == run {
            return Ok(());
        }
        for adapter in live.adapters.values() {
            adapter.controller.set_paused(run == RunState::Paused)?;
        }
        live.run = run;
        if run != RunState::Running {
            // Before anybody can change it again.
            self.events.publish(Event::Stop);
        }
        Ok(())
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

    /// What there is now as a configuration file, from which a server can be started that has the same.
    pub fn configuration(&self) -> String {
        let live = self.lock_anyway();
        let mut declarations = live.model.declarations();
        for declaration in &mut declarations {
            if let Some(size) = live.changed_size(declaration) {
                declaration.options.set("size", &size.to_string());
            }
        }
        drop(live);
        let settings = Settings {
            // They are declared by now.
            socket_path: None,
            images: Vec::new(),
            ..self.config.settings.clone()
        };
        let objects = declarations.iter();
        let objects = objects.map(|object| (object.kind.table(), &object.options));
        file::write(&settings, objects)
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

    /// Asks that the server end. Who started it hears of it through [`Host::quit_wanted`].
    pub fn quit(&self) {
        // The counter cannot be full.
        let _ = rustix::io::write(&self.quit, &1u64.to_ne_bytes());
    }

    /// Becomes readable when [`Host::quit`] has been called.
    pub fn quit_wanted(&self) -> BorrowedFd<'_> {
        self.quit.as_fd()
    }

    /// Ends everything: front ends are let go after what they had in flight, then images are flushed and closed. From
    /// then on every order is refused.
    ///
    /// # Errors
    /// Something that was written may not be durable.
    pub fn shut_down(&self, reason: ShutdownReason) -> Result<(), Error> {
        let adapters = {
            let mut live = self.lock()?;
            live.ended = true;
            std::mem::take(&mut live.adapters)
        };
        let guest = false;
        self.events.publish(Event::Shutdown { guest, reason });
        self.end_following();
        let (controllers, servers): (Vec<_>, Vec<_>) = adapters
            .into_values()
            .map(|adapter| (adapter.controller, adapter.server))
            .unzip();
        drop(servers);
        drop(controllers);
        self.workers.stop();
        let mut live = self.lock_anyway();
        let Live { model, images, .. } = &mut *live;
        let closed = images.close(model.nodes());
        drop(live);
        self.events.end();
        Ok(closed?)
    }

    fn end_following(&self) {
        if let Some(growth) = &self.growth {
            growth.end();
        }
        if let Some(follower) = lock(&self.follower).take()
            && follower.thread().id() != std::thread::current().id()
            && follower.join().is_err()
        {
            tracing::error!("the thread that looks for growth has panicked");
        }
    }

    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, Live>, Error> {
        let live = self.lock_anyway();
        match live.ended {
            true => Err(Error::Stopped),
            false => Ok(live),
        }
    }

    /// A panic while the lock was held leaves at worst an object that is declared and not real, or the other way round:
    /// no reason to give up the others.
    pub(crate) fn lock_anyway(&self) -> MutexGuard<'_, Live> {
        lock(&self.live)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end_following();
    }
}
