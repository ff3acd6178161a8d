//! One virtio-scsi device, from the outside.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lunar_scsi::Lun;
use lunar_scsi::reservation::TransportId;
use lunar_target::{LogicalUnit, LunMap, NexusId, Path, TargetPort, UnitAttention, Who};
use lunar_virtqueue::GuestMemory;

use crate::barrier::Barrier;
use crate::config::{self, ControllerConfig, Sizes};
use crate::queue::{CONTROL_QUEUE, EVENT_QUEUE, FIRST_REQUEST_QUEUE};
use crate::ring::{Carried, Descriptor, RingSetup};
use crate::wire::Event;
use crate::worker::{Attach, Message, Start};
use crate::workers::WorkerId;
use crate::{Coalescing, Error, Features, Workers};

/// VIRTIO limits queue indices to 16 bits, drivers and front ends to much less.
const MAX_REQUEST_QUEUES: u16 = 1022;

/// Commands that a unit takes at a time from one nexus' rings on a worker, if its driver has not been told a higher
/// number: beyond what any has in flight that goes by what it is told, since a front end may tell it something else.
const TASK_SET_LIMIT: usize = 1024;

/// One virtio-scsi device.
///
/// Every method that changes the data path is a barrier: when it returns, it is so. Methods exclude each other, except
/// where they say otherwise; they wait for I/O in flight where their description says so, and never for the guest.
pub struct Controller {
    config: ControllerConfig,
    nexus: NexusId,
    workers: Arc<Workers>,
    state: Mutex<State>,
}

/// Which workers serve a controller.
#[derive(Clone, Debug)]
struct Placement {
    /// The worker of each queue.
    homes: Vec<usize>,
    /// Each worker that has a queue, once.
    members: Vec<usize>,
}

impl Placement {
    /// All queues on one worker, or spread over those that serve all controllers.
    fn new(workers: &Workers, worker: Option<WorkerId>, request_queues: u16) -> Placement {
        let place = |_| worker.map_or_else(|| workers.place(), |WorkerId(worker)| worker);
        let requests: Vec<usize> = (0..request_queues).map(place).collect();
        // The control and event queues have too little to do to count as load.
        let home = requests.first().copied().unwrap_or(0);
        let homes: Vec<usize> = [home, home].into_iter().chain(requests).collect();
        let mut members = homes.clone();
        members.sort_unstable();
        members.dedup();
        Placement { homes, members }
    }

    /// The members that another placement does not have.
    fn beyond(&self, other: &Placement) -> Vec<usize> {
        let members = self.members.iter().copied();
        members
            .filter(|member| !other.members.contains(member))
            .collect()
    }
}

struct State {
    placement: Placement,
    features: Features,
    sizes: Sizes,
    coalescing: Coalescing,
    memory: Option<Arc<GuestMemory>>,
    units: LunMap<Arc<dyn LogicalUnit>>,
    /// The address of each unit, by where the unit is in memory; also of those whose last commands are being finished.
    places: HashMap<usize, (u8, u16)>,
    /// The addresses that are not free yet although their units have gone.
    leaving: HashSet<(u8, u16)>,
    started: Vec<bool>,
    /// Of the started queues, those that the front end lets be served.
    enabled: Vec<bool>,
    /// None is served, whatever the front end says.
    paused: bool,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller")
            .field("id", &self.config.id)
            .field("nexus", &self.nexus)
            .finish_non_exhaustive()
    }
}

impl Controller {
    /// Makes a controller without logical units and places its queues on the workers.
    pub fn new(workers: &Arc<Workers>, config: ControllerConfig) -> Result<Arc<Controller>, Error> {
        if !(1..=MAX_REQUEST_QUEUES).contains(&config.request_queues) {
            return Err(Error::Configuration {
                id: config.id,
                reason: "the number of request queues must be between 1 and 1022",
            });
        }
        let placement = Placement::new(workers, config.worker, config.request_queues);
        let count = placement.homes.len();
        let members = placement.members.clone();
        let controller = Controller {
            nexus: workers.new_nexus(),
            workers: workers.clone(),
            state: Mutex::new(State {
                placement,
                features: Features::empty(),
                sizes: Sizes::default(),
                coalescing: config.coalescing,
                memory: None,
                units: LunMap::new(),
                places: HashMap::new(),
                leaving: HashSet::new(),
                started: vec![false; count],
                enabled: vec![false; count],
                paused: false,
            }),
            config,
        };
        controller.add_port(&members, controller.config.coalescing)?;
        Ok(Arc::new(controller))
    }

    fn add_port(&self, members: &[usize], coalescing: Coalescing) -> Result<(), Error> {
        let nexus = self.nexus;
        let id: Arc<str> = self.config.id.as_str().into();
        let announced = usize::try_from(self.config.cmd_per_lun).unwrap_or(usize::MAX);
        let task_set_limit = announced.max(TASK_SET_LIMIT);
        self.everywhere(members, |done| Message::AddPort {
            nexus,
            id: id.clone(),
            task_set_limit,
            coalescing,
            done,
        })
    }

    fn remove_port(&self, members: &[usize]) {
        let nexus = self.nexus;
        // Workers that have been stopped have no ports.
        let _: Result<(), Error> =
            self.everywhere(members, |done| Message::RemovePort { nexus, done });
    }

    /// The nexus all its queues share (VS-057).
    pub fn nexus(&self) -> NexusId {
        self.nexus
    }

    /// How it was configured.
    pub fn config(&self) -> &ControllerConfig {
        &self.config
    }

    /// Device and ring features offered (never transport bits).
    pub fn features(&self) -> u64 {
        self.offered().bits()
    }

    fn offered(&self) -> Features {
        Features::offered(&self.config)
    }

    /// What the driver has accepted. Rings started from now on obey it.
    pub fn set_features(&self, acked: u64) -> Result<(), Error> {
        self.lock().features = Features::negotiate(self.offered(), acked)?;
        Ok(())
    }

    /// Control, event and request queues.
    pub fn queue_count(&self) -> usize {
        usize::from(self.config.request_queues) + FIRST_REQUEST_QUEUE
    }

    /// Reads from the configuration space.
    pub fn read_config(&self, offset: usize, to: &mut [u8]) -> Result<(), Error> {
        config::read(&self.config, self.lock().sizes, offset, to)
    }

    /// The driver writes to the configuration space. Requests started from now on have the sizes it has chosen.
    pub fn write_config(&self, offset: usize, from: &[u8]) -> Result<(), Error> {
        let mut state = self.lock();
        let sizes = config::write(&self.config, state.sizes, offset, from)?;
        if sizes != state.sizes {
            let nexus = self.nexus;
            self.everywhere(&state.placement.members, |done| Message::SetSizes {
                nexus,
                sizes,
                done,
            })?;
            state.sizes = sizes;
        }
        Ok(())
    }

    /// How far the interrupts of the request queues are held back.
    pub fn coalescing(&self) -> Coalescing {
        self.lock().coalescing
    }

    /// Has them held back so far from now on. What was held back until now is sent.
    ///
    /// # Errors
    /// The workers have been stopped.
    pub fn set_coalescing(&self, coalescing: Coalescing) -> Result<(), Error> {
        let mut state = self.lock();
        let nexus = self.nexus;
        self.everywhere(&state.placement.members, |done| Message::SetCoalescing {
            nexus,
            coalescing,
            done,
        })?;
        state.coalescing = coalescing;
        Ok(())
    }

    /// Replaces the memory map. Running rings finish what is in flight, are translated anew (their transport addresses
    /// stay) and go on; a ring that is no longer in mapped memory is broken. Nothing uses the old map afterwards.
    pub fn set_memory(&self, memory: Arc<GuestMemory>) -> Result<(), Error> {
        let mut state = self.lock();
        let nexus = self.nexus;
        self.everywhere(&state.placement.members, |done| Message::SetMemory {
            nexus,
            memory: memory.clone(),
            done,
        })?;
        state.memory = Some(memory);
        Ok(())
    }

    /// Starts a ring, which is served once it is enabled. It is then looked into without waiting for a kick.
    pub fn start_queue(&self, index: usize, setup: RingSetup, enabled: bool) -> Result<(), Error> {
        let mut state = self.lock();
        let home = state.home(index)?;
        if state.is_started(index) {
            return Err(Error::Running(index));
        }
        let memory = state.memory.clone().ok_or(Error::NoMemory)?;
        let (reply, answer) = channel();
        let start = Start {
            nexus: self.nexus,
            index,
            setup,
            enabled: enabled && !state.holds_back(index),
            memory,
            features: state.features,
            reply,
        };
        self.workers.send(home, Message::Start(Box::new(start)))?;
        answer.recv().map_err(|_| Error::Stopped)??;
        state.set_started(index, true);
        state.set_enabled(index, enabled);
        Ok(())
    }

    /// Lets a started ring be served, or not: what is in flight completes, nothing new is taken.
    pub fn enable_queue(&self, index: usize, enabled: bool) -> Result<(), Error> {
        let mut state = self.lock();
        let home = state.started_home(index)?;
        state.set_enabled(index, enabled);
        self.let_serve(home, index, enabled && !state.holds_back(index))
    }

    /// Takes no requests until it is told to go on: what is in flight completes, nothing new is taken, whatever the front
    /// end starts and enables meanwhile. Nor is task management, which has to find the commands that it is about; events
    /// are still reported.
    pub fn set_paused(&self, paused: bool) -> Result<(), Error> {
        let mut state = self.lock();
        if state.paused == paused {
            return Ok(());
        }
        state.paused = paused;
        for (index, &home) in state.placement.homes.iter().enumerate() {
            if index != EVENT_QUEUE && state.is_started(index) && state.is_enabled(index) {
                self.let_serve(home, index, !paused)?;
            }
        }
        Ok(())
    }

    fn let_serve(&self, home: usize, index: usize, enabled: bool) -> Result<(), Error> {
        let nexus = self.nexus;
        self.at(home, |done| Message::Enable {
            nexus,
            index,
            enabled,
            done,
        })
    }

    /// Replaces the descriptor by which the driver announces buffers. A ring without one is polled: while it is
    /// enabled, its worker does not sleep.
    pub fn set_kick(&self, index: usize, kick: Option<OwnedFd>) -> Result<(), Error> {
        self.set_descriptor(index, Descriptor::Kick(kick))
    }

    /// Replaces the descriptor by which the driver is interrupted.
    pub fn set_call(&self, index: usize, call: Option<OwnedFd>) -> Result<(), Error> {
        self.set_descriptor(index, Descriptor::Call(call))
    }

    /// Replaces the descriptor by which the front end learns that a ring is broken.
    pub fn set_err(&self, index: usize, err: Option<OwnedFd>) -> Result<(), Error> {
        self.set_descriptor(index, Descriptor::Err(err))
    }

    fn set_descriptor(&self, index: usize, descriptor: Descriptor) -> Result<(), Error> {
        let state = self.lock();
        let home = state.started_home(index)?;
        let (reply, answer) = channel();
        let message = Message::SetDescriptor {
            nexus: self.nexus,
            index,
            descriptor,
            reply,
        };
        self.workers.send(home, message)?;
        answer
            .recv()
            .map_err(|_| Error::Stopped)?
            .map_err(|source| Error::Descriptor { index, source })
    }

    /// Stops a ring after everything in flight has completed; returns where to go on.
    pub fn stop_queue(&self, index: usize) -> Result<u32, Error> {
        self.stop_locked(&mut self.lock(), index)
    }

    fn stop_locked(&self, state: &mut State, index: usize) -> Result<u32, Error> {
        let home = state.started_home(index)?;
        let (reply, answer) = channel();
        let nexus = self.nexus;
        self.workers.send(
            home,
            Message::Stop {
                nexus,
                index,
                reply,
            },
        )?;
        let base = answer.recv().map_err(|_| Error::Stopped)?;
        state.set_started(index, false);
        Ok(base)
    }

    /// Moves all queues to one worker, or spreads them over those that serve all controllers. Each finishes what is in
    /// flight and goes on where it was; the driver sees nothing of it.
    ///
    /// # Errors
    /// A worker cannot open an image, or a descriptor cannot be duplicated: then all is as it was.
    pub fn move_to(&self, worker: Option<WorkerId>) -> Result<(), Error> {
        let mut state = self.lock();
        let new = Placement::new(&self.workers, worker, self.config.request_queues);
        let fresh = new.beyond(&state.placement);
        let moved = self
            .prepare(&state, &fresh)
            .and_then(|()| self.carry(&mut state, &new));
        match moved {
            Ok(old) => self.remove_port(&old.beyond(&new)),
            Err(error) => {
                self.remove_port(&fresh);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Lets these workers know everything of the controller, but for its queues.
    fn prepare(&self, state: &State, fresh: &[usize]) -> Result<(), Error> {
        self.add_port(fresh, state.coalescing)?;
        let (nexus, sizes) = (self.nexus, state.sizes);
        self.everywhere(fresh, |done| Message::SetSizes { nexus, sizes, done })?;
        for (target, lun, unit) in state.units.iter() {
            self.attach_on_workers(fresh, target, lun, unit)?;
        }
        Ok(())
    }

    /// Carries the queues that have been started to their new workers; the placement that was, or an error, and then
    /// they are where they were.
    fn carry(&self, state: &mut State, new: &Placement) -> Result<Placement, Error> {
        // The control queue goes first and comes back last: a task management function finds all queues in their place,
        // and in them every command that came before it.
        let mut carried = Vec::new();
        let mut missed = false;
        let taken = (0..self.queue_count())
            .filter(|&index| state.is_started(index))
            .try_for_each(|index| {
                carried.push((index, self.take(state, index)?));
                Ok(())
            })
            .and_then(|()| {
                missed = self.take_missed(state)?;
                Ok(())
            });
        let old = state.placement.clone();
        if taken.is_ok() {
            state.placement.clone_from(new);
        }
        let nexus = self.nexus;
        if missed {
            let home = state.home(EVENT_QUEUE)?;
            self.at(home, |done| Message::Missed { nexus, done })?;
        }
        for (index, ring) in carried.into_iter().rev() {
            let ring = Box::new(ring);
            self.at(state.home(index)?, |done| Message::Resume {
                nexus,
                index,
                ring,
                done,
            })?;
        }
        taken.map(|()| old)
    }

    /// Takes a queue from its worker, after everything in flight has completed.
    fn take(&self, state: &State, index: usize) -> Result<Carried, Error> {
        let (reply, answer) = channel();
        let nexus = self.nexus;
        let carry = Message::Carry {
            nexus,
            index,
            reply,
        };
        self.workers.send(state.home(index)?, carry)?;
        let carried = answer.recv().map_err(|_| Error::Stopped)?;
        carried.map_err(|source| Error::Descriptor { index, source })
    }

    fn take_missed(&self, state: &State) -> Result<bool, Error> {
        let (reply, answer) = channel();
        let nexus = self.nexus;
        let home = state.home(EVENT_QUEUE)?;
        self.workers
            .send(home, Message::TakeMissed { nexus, reply })?;
        answer.recv().map_err(|_| Error::Stopped)
    }

    /// Device reset: outstanding commands are ended, rings stopped, the configuration space and notices of missed
    /// events back to their initial state; logical units see a loss of this nexus (VS-040, VS-057). Guest memory stays.
    pub fn reset(&self) {
        self.reset_locked(&mut self.lock());
    }

    /// The front end has gone away: a reset, and the memory map is dropped.
    pub fn disconnect(&self) {
        let mut state = self.lock();
        self.reset_locked(&mut state);
        state.memory = None;
    }

    fn reset_locked(&self, state: &mut State) {
        // The control queue first, so that no task management function starts while the others drain.
        for index in 0..self.queue_count() {
            if state.is_started(index) {
                // Stopped workers have no rings left to stop.
                let _: Result<u32, Error> = self.stop_locked(state, index);
            }
        }
        let nexus = self.nexus;
        let members = &state.placement.members;
        let _: Result<(), Error> =
            self.everywhere(members, |done| Message::ResetPort { nexus, done });
        state.features = Features::empty();
        state.sizes = Sizes::default();
        for (_, _, unit) in state.units.iter() {
            unit.nexus_loss(self.nexus);
        }
    }

    /// The target port through which units are reached if they are not attached through another: its number is the
    /// nexus'.
    fn port(&self) -> TargetPort {
        let relative = u16::try_from(self.nexus.0).unwrap_or(u16::MAX);
        Path::new(TransportId::default(), relative).port
    }

    /// Puts a logical unit at an address, behind a target port of this controller's own.
    pub fn attach(&self, target: u8, lun: u16, unit: Arc<dyn LogicalUnit>) -> Result<(), Error> {
        self.attach_through(self.port(), target, lun, unit)
    }

    /// Puts a logical unit at an address, behind the given target port. A guest that is running gets a RESCAN event, and
    /// 3F/0E from the units behind the same target (VS-064, VS-065).
    pub fn attach_through(
        &self,
        port: TargetPort,
        target: u8,
        lun: u16,
        unit: Arc<dyn LogicalUnit>,
    ) -> Result<(), Error> {
        let number = Lun::new(lun).ok_or(Error::Lun(lun))?;
        let mut state = self.lock();
        if state.units.get(target, lun).is_some() || state.leaving.contains(&(target, lun)) {
            return Err(Error::Occupied { target, lun });
        }
        if let Some(&(target, lun)) = state.places.get(&key(&unit)) {
            return Err(Error::Attached { target, lun });
        }
        let name = self.config.initiator.as_deref();
        let path = Path {
            initiator: TransportId::of_name(name.unwrap_or(&self.config.id)),
            port,
        };
        let added = unit.state().add_nexus(self.nexus, path);
        added.map_err(|source| Error::Port {
            target,
            lun,
            source,
        })?;
        if let Err(error) = self.attach_on_workers(&state.placement.members, target, lun, &unit) {
            let _: Result<(), Error> =
                self.detach_from_workers(&state.placement.members, target, lun);
            unit.state().remove_nexus(self.nexus);
            return Err(error);
        }
        state.raise_on_siblings(self.nexus, target);
        state.places.insert(key(&unit), (target, lun));
        // The address was free and is in range, so it is taken now.
        let _: Result<(), _> = state.units.insert(target, lun, unit);
        self.report(
            &state,
            Event::Rescan {
                target,
                lun: number,
            },
        )
    }

    /// Takes it away: commands in flight are finished, then a REMOVED event, then the address is free (VS-066). Nobody who
    /// is busy with another address waits for those commands.
    pub fn detach(&self, target: u8, lun: u16) -> Result<(), Error> {
        let number = Lun::new(lun).ok_or(Error::Lun(lun))?;
        let (unit, members) = {
            let mut state = self.lock();
            let unit = state.units.remove(target, lun);
            let unit = unit.ok_or(Error::Absent { target, lun })?;
            state.leaving.insert((target, lun));
            // Those to which the queues move meanwhile do not have it.
            (unit, state.placement.members.clone())
        };
        let detached = self.detach_from_workers(&members, target, lun);
        let mut state = self.lock();
        unit.state().remove_nexus(self.nexus);
        unit.detached();
        state.raise_on_siblings(self.nexus, target);
        let reported = detached.and_then(|()| {
            self.report(
                &state,
                Event::Removed {
                    target,
                    lun: number,
                },
            )
        });
        state.places.remove(&key(&unit));
        state.leaving.remove(&(target, lun));
        reported
    }

    /// Puts another unit in the place of the one at an address. They have the same [`LuState`](lunar_target::LuState), so
    /// to the driver it is the same unit, and nothing is reported. Returns when the commands of the old one are over.
    ///
    /// # Errors
    /// There is none, or the new one cannot be opened: then the old one is still there.
    pub fn replace(&self, target: u8, lun: u16, unit: Arc<dyn LogicalUnit>) -> Result<(), Error> {
        let mut state = self.lock();
        let absent = Error::Absent { target, lun };
        let old = state.units.remove(target, lun).ok_or(absent)?;
        let replaced = self.replace_on_workers(&state.placement.members, target, lun, &unit);
        let stays = match &replaced {
            Ok(()) => unit,
            Err(_) => {
                // Where it has been replaced already.
                let _: Result<(), Error> =
                    self.replace_on_workers(&state.placement.members, target, lun, &old);
                Arc::clone(&old)
            }
        };
        state.places.remove(&key(&old));
        state.places.insert(key(&stays), (target, lun));
        // It has just been free.
        let _: Result<(), _> = state.units.insert(target, lun, stays);
        replaced
    }

    /// Reports a changed parameter of a logical unit, its capacity for example, to a driver that wants to know. The
    /// unit attention of the same codes is the logical unit's own affair.
    pub fn param_changed(&self, target: u8, lun: u16, asc: u8, ascq: u8) -> Result<(), Error> {
        let number = Lun::new(lun).ok_or(Error::Lun(lun))?;
        let state = self.lock();
        if state.units.get(target, lun).is_none() {
            return Err(Error::Absent { target, lun });
        }
        self.report(
            &state,
            Event::ParamChange {
                target,
                lun: number,
                asc,
                ascq,
            },
        )
    }

    fn attach_on_workers(
        &self,
        members: &[usize],
        target: u8,
        lun: u16,
        unit: &Arc<dyn LogicalUnit>,
    ) -> Result<(), Error> {
        self.put_on_workers(members, target, lun, unit, Message::Attach)
    }

    fn replace_on_workers(
        &self,
        members: &[usize],
        target: u8,
        lun: u16,
        unit: &Arc<dyn LogicalUnit>,
    ) -> Result<(), Error> {
        let (barrier, wait) = Barrier::channel();
        let replace = |attach| Message::Replace(attach, barrier.clone());
        let replaced = self.put_on_workers(members, target, lun, unit, replace);
        drop(barrier);
        wait.wait();
        replaced
    }

    fn put_on_workers(
        &self,
        members: &[usize],
        target: u8,
        lun: u16,
        unit: &Arc<dyn LogicalUnit>,
        message: impl Fn(Attach) -> Message,
    ) -> Result<(), Error> {
        let (reply, answers) = channel();
        for &worker in members {
            let attach = Attach {
                nexus: self.nexus,
                target,
                lun,
                unit: unit.clone(),
                reply: reply.clone(),
            };
            self.workers.send(worker, message(attach))?;
        }
        drop(reply);
        for _ in members {
            let answer = answers.recv().map_err(|_| Error::Stopped)?;
            answer.map_err(|source| Error::Image {
                target,
                lun,
                source,
            })?;
        }
        Ok(())
    }

    fn detach_from_workers(&self, members: &[usize], target: u8, lun: u16) -> Result<(), Error> {
        let nexus = self.nexus;
        self.everywhere(members, |done| Message::Detach {
            nexus,
            target,
            lun,
            done,
        })
    }

    /// Sends an event if the driver has asked for its kind (VS-011, VS-012).
    fn report(&self, state: &State, event: Event) -> Result<(), Error> {
        let wanted = match event {
            Event::None => false,
            Event::Rescan { .. } | Event::Removed { .. } => {
                state.features.contains(Features::HOTPLUG)
            }
            Event::ParamChange { .. } => state.features.contains(Features::CHANGE),
        };
        if !wanted {
            return Ok(());
        }
        let nexus = self.nexus;
        self.at(state.home(EVENT_QUEUE)?, |done| Message::Report {
            nexus,
            event,
            done,
        })
    }

    /// Runs a message on one worker and waits until it is done.
    fn at(&self, worker: usize, message: impl FnOnce(Barrier) -> Message) -> Result<(), Error> {
        let (barrier, wait) = Barrier::channel();
        self.workers.send(worker, message(barrier))?;
        wait.wait();
        Ok(())
    }

    /// Runs a message on these workers and waits until all have done it.
    fn everywhere(
        &self,
        members: &[usize],
        message: impl Fn(Barrier) -> Message,
    ) -> Result<(), Error> {
        let (barrier, wait) = Barrier::channel();
        for &worker in members {
            self.workers.send(worker, message(barrier.clone()))?;
        }
        drop(barrier);
        wait.wait();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let mut state = self.lock();
        self.reset_locked(&mut state);
        self.remove_port(&state.placement.members);
        for (_, _, unit) in state.units.iter() {
            unit.state().remove_nexus(self.nexus);
            unit.detached();
        }
    }
}

impl State {
    fn home(&self, index: usize) -> Result<usize, Error> {
        let homes = &self.placement.homes;
        homes.get(index).copied().ok_or(Error::NoQueue {
            index,
            count: homes.len(),
        })
    }

    /// The worker of a queue that has been started.
    fn started_home(&self, index: usize) -> Result<usize, Error> {
        let home = self.home(index)?;
        match self.is_started(index) {
            true => Ok(home),
            false => Err(Error::NotRunning(index)),
        }
    }

    fn is_started(&self, index: usize) -> bool {
        self.started.get(index).is_some_and(|&started| started)
    }

    fn set_started(&mut self, index: usize, started: bool) {
        if let Some(flag) = self.started.get_mut(index) {
            *flag = started;
        }
    }

    fn holds_back(&self, index: usize) -> bool {
        self.paused && index != EVENT_QUEUE
    }

    fn is_enabled(&self, index: usize) -> bool {
        self.enabled.get(index).is_some_and(|&enabled| enabled)
    }

    fn set_enabled(&mut self, index: usize, enabled: bool) {
        if let Some(flag) = self.enabled.get_mut(index) {
            *flag = enabled;
        }
    }

    /// The list of LUNs behind a target has changed while a guest may know it.
    fn raise_on_siblings(&self, nexus: NexusId, target: u8) {
        let running = self
            .started
            .iter()
            .skip(FIRST_REQUEST_QUEUE)
            .any(|&started| started);
        if running {
            for (_, unit) in self.units.luns(target) {
                unit.state()
                    .raise(Who::Only(nexus), UnitAttention::ReportedLunsChanged);
            }
        }
    }
}

/// What tells a unit from all others, as long as somebody holds it.
fn key(unit: &Arc<dyn LogicalUnit>) -> usize {
    Arc::as_ptr(unit).addr()
}

const _: () = assert!(CONTROL_QUEUE == 0 && EVENT_QUEUE == 1 && FIRST_REQUEST_QUEUE == 2);
