//! Task management: which commands a function concerns, and what becomes of them (SAM-5 7, VS-050..VS-054).
//!
//! A function is a message to every worker. Each takes first what the driver had made available before, then looks
//! through its slots. Commands that are still in flight cannot be called back from the kernel: they are marked, run to
//! their end, and then get the function's response instead of their own. Whoever waits for the function holds a barrier
//! that each of them holds too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lunar_scsi::Status;
use lunar_target::{Aborter, Completion, LogicalUnit, NexusId, UnitAttention, Who};

use crate::barrier::Barrier;
use crate::request::{End, Slot};
use crate::wire::Response;
use crate::worker::Message;
use crate::workers::Peers;

/// The commands that a task management function concerns.
#[derive(Clone)]
pub(crate) enum Tasks {
    /// One command of a nexus.
    One { target: u8, lun: u16, tag: u64 },
    /// A nexus' commands to one logical unit.
    OfUnit { target: u8, lun: u16 },
    /// A nexus' commands to one logical unit that have the ACA attribute.
    Allegiance { target: u8, lun: u16 },
    /// A nexus' commands to all units of a target.
    OfTarget { target: u8 },
    /// Everybody's commands to a logical unit.
    Everybody { unit: Arc<dyn LogicalUnit> },
    /// The commands of some nexuses to a logical unit, for a command of another: PREEMPT AND ABORT.
    Preempted {
        unit: Arc<dyn LogicalUnit>,
        nexuses: Arc<[NexusId]>,
    },
}

/// What happens to them.
#[derive(Clone)]
pub(crate) enum Fate {
    /// They end with this response.
    End(Response),
    /// They are aborted because one of their task set has failed (QERR). Those that have failed as well do not wait for
    /// each other.
    Spread,
    /// Nothing: it is only noted that there are some.
    Noted(Arc<AtomicBool>),
}

/// A task management function on its way to the workers.
#[derive(Clone)]
pub(crate) struct Function {
    /// Whose it is.
    pub nexus: NexusId,
    pub tasks: Tasks,
    pub fate: Fate,
}

impl Function {
    /// Lets every worker do what it does; `done` is over when all commands are that it ends.
    pub fn send(&self, peers: &Peers, done: &Barrier) {
        for peer in peers.all() {
            // A worker that has gone has no commands.
            peer.send(Message::Manage {
                function: self.clone(),
                done: done.clone(),
            });
        }
    }

    /// Whether commands of a nexus can be concerned.
    pub fn concerns_nexus(&self, nexus: NexusId) -> bool {
        match &self.tasks {
            Tasks::Everybody { .. } => true,
            Tasks::Preempted { nexuses, .. } => nexuses.contains(&nexus),
            _ => nexus == self.nexus,
        }
    }

    /// Whether it concerns a command of `nexus`.
    fn concerns(&self, nexus: NexusId, slot: &Slot) -> bool {
        let Some(unit) = slot.unit.as_deref() else {
            return false;
        };
        let own = nexus == self.nexus;
        match &self.tasks {
            Tasks::One { target, lun, tag } => {
                own && (unit.target, unit.lun, slot.tag) == (*target, *lun, *tag)
            }
            Tasks::OfUnit { target, lun } => own && (unit.target, unit.lun) == (*target, *lun),
            Tasks::Allegiance { target, lun } => {
                own && slot.manner.aca.is_some() && (unit.target, unit.lun) == (*target, *lun)
            }
            Tasks::OfTarget { target } => own && unit.target == *target,
            Tasks::Everybody { unit: whose } => unit.is(whose),
            // Those that wait for a function of this kind themselves, or for those that they take with them because they
            // have failed (QERR), do nothing else any more, and two of them must not wait for each other.
            Tasks::Preempted {
                unit: whose,
                nexuses,
            } => nexuses.contains(&nexus) && !slot.aborts && !slot.has_failed() && unit.is(whose),
        }
    }

    /// Does to a command in flight what the function does; whether its end has to be waited for.
    pub fn apply(&self, nexus: NexusId, slot: &mut Slot) -> bool {
        if !self.concerns(nexus, slot) {
            return false;
        }
        let response = match &self.fate {
            Fate::Noted(found) => {
                found.store(true, Ordering::Relaxed);
                return false;
            }
            Fate::Spread if slot.has_failed() => return false,
            Fate::Spread => Response::Aborted,
            Fate::End(response) => *response,
        };
        let end = self.end(nexus, slot, response);
        // The first that ends a command decides how.
        slot.ended.get_or_insert(end);
        true
    }

    /// How a command ends that somebody ends with this response. If that was another nexus, its own is told so: by the
    /// status, or by a unit attention (VS-054).
    fn end(&self, nexus: NexusId, slot: &Slot, response: Response) -> End {
        let Some(unit) = slot.unit.as_ref().filter(|_| nexus != self.nexus) else {
            return End::Transport(response);
        };
        if response == Response::Reset {
            // That is what VIRTIO calls it, whoever has reset the unit and whatever TAS says (VS-034); and every nexus gets
            // the unit attention of the reset.
            return End::Transport(response);
        }
        let state = unit.unit.state();
        if state.task_rules().task_aborted_status() {
            return End::Completed(Completion::refused(Status::TASK_ABORTED));
        }
        state.raise(Who::Only(nexus), UnitAttention::CommandsCleared);
        End::Transport(response)
    }
}

/// Ends other nexuses' commands to a unit for a command of `nexus`, on all workers.
pub(crate) fn aborter(peers: &Peers, nexus: NexusId, unit: &Arc<dyn LogicalUnit>) -> Aborter {
    let (peers, unit) = (peers.clone(), unit.clone());
    Box::new(move |nexuses| {
        let function = Function {
            nexus,
            tasks: Tasks::Preempted {
                unit,
                nexuses: nexuses.into(),
            },
            fate: Fate::End(Response::Aborted),
        };
        let (done, over) = Barrier::future();
        function.send(&peers, &done);
        drop(done);
        Box::pin(over)
    })
}
