//! A controller's rings: started, served, and stopped at the front end's word.

use std::os::fd::OwnedFd;
use std::sync::mpsc::channel;

use super::moves::Placement;
use super::{Controller, State};
use crate::Error;
use crate::queue::{CONTROL_QUEUE, EVENT_QUEUE, FIRST_REQUEST_QUEUE};
use crate::ring::{Descriptor, RingSetup};
use crate::worker::{Message, Start};

/// What a controller knows of its queues.
pub(super) struct Queues {
    pub placement: Placement,
    /// Of each queue that has been started, whether the front end lets it be served.
    enabled: Vec<Option<bool>>,
    /// None is served, whatever the front end says.
    paused: bool,
}

impl Queues {
    pub fn new(placement: Placement) -> Queues {
        Queues {
            enabled: vec![None; placement.homes.len()],
            placement,
            paused: false,
        }
    }

    /// The workers that have one, each once.
    pub fn members(&self) -> &[usize] {
        &self.placement.members
    }

    /// The worker of a queue.
    pub fn home(&self, index: usize) -> Result<usize, Error> {
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
        self.enabled.get(index).is_some_and(Option::is_some)
    }

    /// Those that have been started; the control queue is the first.
    pub fn started(&self) -> Vec<usize> {
        let all = 0..self.enabled.len();
        all.filter(|&index| self.is_started(index)).collect()
    }

    /// Whether the driver can make requests.
    pub fn are_running(&self) -> bool {
        let mut requests = self.enabled.iter().skip(FIRST_REQUEST_QUEUE);
        requests.any(Option::is_some)
    }

    /// Whether it is served if the front end lets it.
    fn is_open(&self, index: usize) -> bool {
        !self.paused || index == EVENT_QUEUE
    }

    fn set(&mut self, index: usize, enabled: Option<bool>) {
        if let Some(known) = self.enabled.get_mut(index) {
            *known = enabled;
        }
    }
}

impl Controller {
    /// Starts a ring, which is served once it is enabled. It is then looked into without waiting for a kick.
    pub fn start_queue(&self, index: usize, setup: RingSetup, enabled: bool) -> Result<(), Error> {
        let mut state = self.lock();
        let home = state.queues.home(index)?;
        if state.queues.is_started(index) {
            return Err(Error::Running(index));
        }
        let memory = state.memory.clone().ok_or(Error::NoMemory)?;
        self.workers.ask(home, |reply| {
            Message::Start(Box::new(Start {
                nexus: self.nexus,
                index,
                setup,
                enabled: enabled && state.queues.is_open(index),
                memory,
                features: state.features,
                reply,
            }))
        })??;
        state.queues.set(index, Some(enabled));
        Ok(())
    }

    /// Lets a started ring be served, or not: what is in flight completes, nothing new is taken.
    pub fn enable_queue(&self, index: usize, enabled: bool) -> Result<(), Error> {
        let mut state = self.lock();
        let home = state.queues.started_home(index)?;
        state.queues.set(index, Some(enabled));
        self.let_serve(home, index, enabled && state.queues.is_open(index))
    }

    /// Takes no requests until it is told to go on: what is in flight completes, nothing new is taken, whatever the front
    /// end starts and enables meanwhile. Nor is task management, which has to find the commands that it is about; events
    /// are still reported.
    pub fn set_paused(&self, paused: bool) -> Result<(), Error> {
        let queues = &mut self.lock().queues;
        if queues.paused == paused {
            return Ok(());
        }
        queues.paused = paused;
        let all = queues.placement.homes.iter().zip(&queues.enabled);
        for (index, (&home, &enabled)) in all.enumerate() {
            if index != EVENT_QUEUE && enabled == Some(true) {
                self.let_serve(home, index, !paused)?;
            }
        }
        Ok(())
    }

    fn let_serve(&self, home: usize, index: usize, enabled: bool) -> Result<(), Error> {
        let nexus = self.nexus;
        self.workers.run(home, |done| Message::Enable {
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
        let home = state.queues.started_home(index)?;
        let nexus = self.nexus;
        let set = self.workers.ask(home, |reply| Message::SetDescriptor {
            nexus,
            index,
            descriptor,
            reply,
        })?;
        set.map_err(|source| Error::Descriptor { index, source })
    }

    /// Stops a ring after everything in flight has completed, however long storage takes; returns where to go on.
    pub fn stop_queue(&self, index: usize) -> Result<u32, Error> {
        self.stop_locked(&mut self.lock(), index)
    }

    fn stop_locked(&self, state: &mut State, index: usize) -> Result<u32, Error> {
        let home = state.queues.started_home(index)?;
        let nexus = self.nexus;
        let (reply, answer) = channel();
        let stop = Message::Stop {
            nexus,
            index,
            reply,
        };
        self.workers.send(home, stop)?;
        let base = self.await_storage(state, index, &answer)?;
        state.queues.set(index, None);
        Ok(base)
    }

    /// Stops every ring that has been started: the control queue first, so that no task management function starts while
    /// the others drain.
    pub(super) fn stop_all(&self, state: &mut State) {
        for index in state.queues.started() {
            // Stopped workers have no rings left to stop.
            let _: Result<u32, Error> = self.stop_locked(state, index);
        }
    }
}

const _: () = assert!(CONTROL_QUEUE == 0 && EVENT_QUEUE == 1 && FIRST_REQUEST_QUEUE == 2);
