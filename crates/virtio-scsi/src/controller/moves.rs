//! Where a controller's queues are, and how they get from one worker to another while a guest uses them.

use super::{Controller, State};
use crate::queue::EVENT_QUEUE;
use crate::ring::Carried;
use crate::worker::Message;
use crate::workers::WorkerId;
use crate::{Error, Workers};

/// Which workers serve a controller.
#[derive(Clone, Debug)]
pub(super) struct Placement {
    /// The worker of each queue.
    pub homes: Vec<usize>,
    /// Each worker that has a queue, once.
    pub members: Vec<usize>,
}

impl Placement {
    /// All queues on one worker, or spread over those that serve all controllers.
    pub fn new(workers: &Workers, worker: Option<WorkerId>, request_queues: u16) -> Placement {
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

impl Controller {
    /// Moves all queues to one worker, or spreads them over those that serve all controllers. Each finishes what is in
    /// flight and goes on where it was; the driver sees nothing of it.
    ///
    /// # Errors
    /// A worker cannot open an image, or a descriptor cannot be duplicated: then all is as it was.
    pub fn move_to(&self, worker: Option<WorkerId>) -> Result<(), Error> {
        let mut state = self.lock();
        let new = Placement::new(&self.workers, worker, self.config.request_queues);
        let fresh = new.beyond(&state.queues.placement);
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
        self.set_sizes(fresh, state.sizes)?;
        for (target, lun, unit) in state.units.iter() {
            self.put_on_workers(fresh, target, lun, unit, Message::Attach)?;
        }
        Ok(())
    }

    /// Carries the queues that have been started to their new workers; the placement that was, or an error, and then
    /// they are where they were.
    fn carry(&self, state: &mut State, new: &Placement) -> Result<Placement, Error> {
        // The control queue goes first and comes back last: a task management function finds all queues in their place,
        // and in them every command that came before it.
        let mut carried = Vec::new();
        let taken = self.take_all(state, &mut carried);
        let old = state.queues.placement.clone();
        if taken.is_ok() {
            state.queues.placement.clone_from(new);
        }
        let nexus = self.nexus;
        if let Ok(true) = taken {
            let home = state.queues.home(EVENT_QUEUE)?;
            let missed = |done| Message::Missed { nexus, done };
            self.workers.run(home, missed)?;
        }
        for (index, ring) in carried.into_iter().rev() {
            let ring = Box::new(ring);
            let home = state.queues.home(index)?;
            self.workers.run(home, |done| Message::Resume {
                nexus,
                index,
                ring,
                done,
            })?;
        }
        taken.map(|_| old)
    }

    /// Takes all queues from their workers, after everything in flight has completed; whether the driver has still to be
    /// told that it missed an event. Those taken before an error are in `carried` as well.
    fn take_all(&self, state: &State, carried: &mut Vec<(usize, Carried)>) -> Result<bool, Error> {
        let nexus = self.nexus;
        for index in state.queues.started() {
            let home = state.queues.home(index)?;
            let ring = self.workers.ask(home, |reply| Message::Carry {
                nexus,
                index,
                reply,
            })?;
            let ring = ring.map_err(|source| Error::Descriptor { index, source })?;
            carried.push((index, ring));
        }
        let home = state.queues.home(EVENT_QUEUE)?;
        let missed = |reply| Message::TakeMissed { nexus, reply };
        self.workers.ask(home, missed)
    }
}
