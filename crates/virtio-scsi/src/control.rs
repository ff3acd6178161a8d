//! The control queue: task management and asynchronous notifications (VS-050..VS-056).
//!
//! A guest waits for a task management function without limit, so each one is answered, whatever it says; and after
//! what it has done is visible in every ring.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::barrier::Barrier;
use crate::ring::Ring;
use crate::slot::{Parts, TooShort};
use crate::tmf::{Fate, Function, Tasks};
use crate::wire::{Address, CONTROL_MAX, ControlRequest, Response, TaskManagement};
use crate::worker::{LocalUnit, Message, Port};
use crate::workers::Peers;

/// Bytes of the answer to AN_QUERY and AN_SUBSCRIBE: `event_actual`, then the response. No asynchronous notification is
/// supported, so the first is always 0.
const NOTIFICATIONS_RESPONSE: usize = 5;

/// The control queue's side of a worker. Functions that are under way keep their chain in a slot.
#[derive(Default)]
pub(crate) struct Control {
    slots: Vec<Parts>,
    free: Vec<usize>,
}

/// The one who waits for a function: a slot of the control ring, on the worker `home`.
struct Asker<'a> {
    port: &'a Port,
    peers: &'a Peers,
    home: usize,
    ring: usize,
    slot: usize,
}

impl Control {
    /// Takes up to `limit` messages from the ring; returns how many there were.
    pub fn serve(
        &mut self,
        ring: &mut Ring,
        port: &Port,
        peers: &Peers,
        home: usize,
        limit: usize,
    ) -> usize {
        for served in 0..limit {
            let number = self.free.pop().unwrap_or_else(|| {
                self.slots.push(Parts::new());
                self.slots.len() - 1
            });
            let Some(parts) = self.slots.get_mut(number) else {
                return served;
            };
            if !ring.pop(parts.chain_mut()) {
                self.free.push(number);
                return served;
            }
            let asker = Asker {
                port,
                peers,
                home,
                ring: ring.key(),
                slot: number,
            };
            match start(parts, &asker) {
                Ok(Some(response)) => self.answer(ring, number, response),
                Ok(None) => {}
                Err(error) => {
                    ring.abandon(&error);
                    self.free.push(number);
                    return served;
                }
            }
        }
        limit
    }

    /// Ends a message: the response is the last byte of the answer, which is zero otherwise.
    pub fn answer(&mut self, ring: &mut Ring, number: usize, response: Response) {
        let Some(parts) = self.slots.get(number) else {
            return;
        };
        let answer = parts.response();
        let last = answer.len().saturating_sub(1);
        answer.fill_at(0, last, 0);
        answer.write_at(last, &[response as u8]);
        ring.complete(parts.chain(), answer.len(), &mut Vec::new());
        self.free.push(number);
    }
}

/// Starts a message: its response, or none yet.
fn start(parts: &mut Parts, asker: &Asker<'_>) -> Result<Option<Response>, TooShort> {
    let (readable, writable) = parts.len();
    parts.split_request(readable.min(CONTROL_MAX))?;
    let mut bytes = [0; CONTROL_MAX];
    let len = parts.request().read_at(0, &mut bytes);
    let request = bytes.get(..len).and_then(ControlRequest::parse);
    match request.ok_or(TooShort)? {
        ControlRequest::TaskManagement { function, lun, tag } => {
            parts.split_response(1)?;
            Ok(match function {
                Some(function) => asker.manage(function, lun, tag),
                None => Some(Response::FunctionRejected),
            })
        }
        ControlRequest::Notifications { lun } => {
            parts.split_response(NOTIFICATIONS_RESPONSE)?;
            Ok(Some(asker.find(lun).err().unwrap_or(Response::Ok)))
        }
        ControlRequest::Unknown => {
            // Whatever it is, its response comes last, as in every message there is.
            parts.split_response(writable.clamp(1, NOTIFICATIONS_RESPONSE))?;
            Ok(Some(Response::Failure))
        }
    }
}

impl Asker<'_> {
    /// What a `lun` field names: a logical unit, or a well-known one, which never has a command in flight.
    fn find(&self, lun: [u8; 8]) -> Result<Option<&LocalUnit>, Response> {
        match Address::decode(lun) {
            None => Err(Response::BadTarget),
            Some(Address::ReportLuns { target }) => {
                if target.is_some_and(|target| !self.port.units.has_target(target)) {
                    return Err(Response::BadTarget);
                }
                Ok(None)
            }
            Some(Address::Unit { target, lun }) => match self.port.units.get(target, lun) {
                Some(unit) => Ok(Some(unit)),
                None if self.port.units.has_target(target) => Err(Response::IncorrectLun),
                None => Err(Response::BadTarget),
            },
        }
    }

    /// Runs a task management function: its response, or none if that comes later.
    fn manage(&self, function: TaskManagement, lun: [u8; 8], tag: u64) -> Option<Response> {
        if function == TaskManagement::NexusReset {
            return self.nexus_reset(lun);
        }
        let unit = match self.find(lun) {
            Err(response) => return Some(response),
            Ok(None) => return Some(Response::Ok),
            Ok(Some(found)) => found,
        };
        let (target, lun, unit) = (unit.target, unit.lun, &unit.unit);
        let one = Tasks::One { target, lun, tag };
        let set = Tasks::OfUnit { target, lun };
        let everybody = Tasks::Everybody { unit: unit.clone() };
        match function {
            TaskManagement::AbortTask => self.end(one, Response::Aborted, || {}),
            TaskManagement::AbortTaskSet => self.end(set, Response::Aborted, || {}),
            TaskManagement::ClearAca => {
                let (unit, nexus) = (unit.clone(), self.port.nexus);
                let commands = Tasks::Allegiance { target, lun };
                // Of another nexus' allegiance this is not the end (SAM-5 7.4).
                self.end(commands, Response::Aborted, move || {
                    unit.state().clear_aca(nexus);
                });
            }
            // With TST, the others have task sets of their own.
            TaskManagement::ClearTaskSet if unit.state().task_rules().set_for_each_nexus() => {
                self.end(set, Response::Aborted, || {});
            }
            TaskManagement::ClearTaskSet => self.end(everybody, Response::Aborted, || {}),
            TaskManagement::UnitReset => {
                let unit = unit.clone();
                self.end(everybody, Response::Reset, move || unit.reset());
            }
            TaskManagement::QueryTask => self.query(one),
            TaskManagement::QueryTaskSet => self.query(set),
            // Above.
            TaskManagement::NexusReset => return Some(Response::FunctionRejected),
        }
        None
    }

    /// I_T NEXUS RESET is for a whole target: the LUN does not matter (VS-050).
    fn nexus_reset(&self, lun: [u8; 8]) -> Option<Response> {
        let target = match lun {
            [1, target, ..] if self.port.units.has_target(target) => target,
            _ => return Some(Response::BadTarget),
        };
        let nexus = self.port.nexus;
        let units: Vec<_> = self
            .port
            .units
            .luns(target)
            .map(|(_, unit)| unit.unit.clone())
            .collect();
        self.end(Tasks::OfTarget { target }, Response::Reset, move || {
            for unit in units {
                unit.nexus_loss(nexus);
            }
        });
        None
    }

    /// Ends commands; `then`, and the answer, when all of them are over.
    fn end(&self, tasks: Tasks, response: Response, then: impl FnOnce() + Send + 'static) {
        self.broadcast(tasks, Fate::End(response), move || {
            then();
            Response::Ok
        });
    }

    /// Answers whether there are such commands.
    fn query(&self, tasks: Tasks) {
        let found = Arc::new(AtomicBool::new(false));
        self.broadcast(tasks, Fate::Noted(found.clone()), move || {
            if found.load(Ordering::Relaxed) {
                Response::FunctionSucceeded
            } else {
                Response::Ok
            }
        });
    }

    fn broadcast(
        &self,
        tasks: Tasks,
        fate: Fate,
        result: impl FnOnce() -> Response + Send + 'static,
    ) {
        let Some(home) = self.peers.get(self.home) else {
            return;
        };
        let (ring, slot) = (self.ring, self.slot);
        let done = Barrier::new(move || {
            // If the home worker has gone, so has the control ring.
            home.send(Message::Answer {
                ring,
                slot,
                response: result(),
            });
        });
        let function = Function {
            nexus: self.port.nexus,
            tasks,
            fate,
        };
        function.send(self.peers, &done);
    }
}
