//! One virtio-scsi device, from the outside.
//!
//! What a controller is and what it has negotiated is here; its rings are in [`queues`], their way from one worker to
//! another in [`moves`], its logical units in [`units`], and what is said when storage lets it wait in [`patience`].

mod moves;
mod patience;
mod queues;
mod units;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lunar_target::NexusId;
use lunar_virtqueue::GuestMemory;

use self::moves::Placement;
use self::queues::Queues;
use self::units::Units;
use crate::config::{self, ControllerConfig, Sizes};
use crate::queue::FIRST_REQUEST_QUEUE;
use crate::worker::Message;
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

struct State {
    features: Features,
    sizes: Sizes,
    coalescing: Coalescing,
    memory: Option<Arc<GuestMemory>>,
    queues: Queues,
    units: Units,
}

impl State {
    /// The workers that the controller has queues on.
    fn members(&self) -> &[usize] {
        self.queues.members()
    }
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
        let controller = Controller {
            nexus: workers.new_nexus(),
            workers: workers.clone(),
            state: Mutex::new(State {
                features: Features::empty(),
                sizes: Sizes::default(),
                coalescing: config.coalescing,
                memory: None,
                queues: Queues::new(placement),
                units: Units::default(),
            }),
            config,
        };
        let state = controller.lock();
        controller.add_port(state.members(), state.coalescing)?;
        drop(state);
        Ok(Arc::new(controller))
    }

    fn add_port(&self, members: &[usize], coalescing: Coalescing) -> Result<(), Error> {
        let nexus = self.nexus;
        let id: Arc<str> = self.config.id.as_str().into();
        let announced = usize::try_from(self.config.cmd_per_lun).unwrap_or(usize::MAX);
        let task_set_limit = announced.max(TASK_SET_LIMIT);
        self.workers.run_on_each(members, |done| Message::AddPort {
            nexus,
            id: id.clone(),
            task_set_limit,
            coalescing,
            fixed_buffers: self.config.fixed_buffers,
            done,
        })
    }

    fn remove_port(&self, members: &[usize]) {
        let nexus = self.nexus;
        let remove = |done| Message::RemovePort { nexus, done };
        // Workers that have been stopped have no ports.
        let _: Result<(), Error> = self.workers.run_on_each(members, remove);
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
            self.set_sizes(state.members(), sizes)?;
            state.sizes = sizes;
        }
        Ok(())
    }

    fn set_sizes(&self, members: &[usize], sizes: Sizes) -> Result<(), Error> {
        let nexus = self.nexus;
        let set = |done| Message::SetSizes { nexus, sizes, done };
        self.workers.run_on_each(members, set)
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
        let set = |done| Message::SetCoalescing {
            nexus,
            coalescing,
            done,
        };
        self.workers.run_on_each(state.members(), set)?;
        state.coalescing = coalescing;
        Ok(())
    }

    /// Replaces the memory map. Running rings finish what is in flight, are translated anew (their transport addresses
    /// stay) and go on; a ring that is no longer in mapped memory is broken. Nothing uses the old map afterwards.
    pub fn set_memory(&self, memory: Arc<GuestMemory>) -> Result<(), Error> {
        let mut state = self.lock();
        let nexus = self.nexus;
        let set = |done| Message::SetMemory {
            nexus,
            memory: memory.clone(),
            done,
        };
        self.workers.run_on_each(state.members(), set)?;
        state.memory = Some(memory);
        Ok(())
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
        self.stop_all(state);
        let nexus = self.nexus;
        let reset = |done| Message::ResetPort { nexus, done };
        // Workers that have been stopped have no ports.
        let _: Result<(), Error> = self.workers.run_on_each(state.members(), reset);
        state.features = Features::empty();
        state.sizes = Sizes::default();
        for (_, _, unit) in state.units.iter() {
            unit.nexus_loss(nexus);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let mut state = self.lock();
        self.reset_locked(&mut state);
        self.remove_port(state.members());
        for (_, _, unit) in state.units.iter() {
            unit.state().remove_nexus(self.nexus);
            unit.detached();
        }
    }
}
