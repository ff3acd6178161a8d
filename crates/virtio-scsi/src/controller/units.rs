//! A controller's logical units, and what the driver hears of their coming and going.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::channel;

use lunar_scsi::Lun;
use lunar_scsi::reservation::TransportId;
use lunar_target::{LogicalUnit, LunMap, Path, TargetPort, UnitAttention, Who};

use super::{Controller, State};
use crate::barrier::Barrier;
use crate::queue::EVENT_QUEUE;
use crate::wire::Event;
use crate::worker::{Attach, Message};
use crate::{Error, Features};

/// The logical units of a controller by their addresses.
#[derive(Default)]
pub(super) struct Units {
    map: LunMap<Arc<dyn LogicalUnit>>,
    /// The address of each unit, by where the unit is in memory; also of those whose last commands are being finished.
    places: HashMap<usize, (u8, u16)>,
    /// The addresses that are not free yet although their units have gone.
    leaving: HashSet<(u8, u16)>,
}

impl Units {
    pub fn iter(&self) -> impl Iterator<Item = (u8, u16, &Arc<dyn LogicalUnit>)> {
        self.map.iter()
    }

    /// Whether the unit can be put at the address.
    fn check_room(&self, target: u8, lun: u16, unit: &Arc<dyn LogicalUnit>) -> Result<(), Error> {
        if self.map.get(target, lun).is_some() || self.leaving.contains(&(target, lun)) {
            return Err(Error::Occupied { target, lun });
        }
        match self.places.get(&key(unit)) {
            None => Ok(()),
            Some(&(target, lun)) => Err(Error::Attached { target, lun }),
        }
    }

    /// Puts a unit at an address that is free.
    fn insert(&mut self, target: u8, lun: u16, unit: Arc<dyn LogicalUnit>) {
        self.places.insert(key(&unit), (target, lun));
        // The address was free and is in range, so it is taken now.
        let _: Result<(), _> = self.map.insert(target, lun, unit);
    }

    fn take(&mut self, target: u8, lun: u16) -> Result<Arc<dyn LogicalUnit>, Error> {
        let unit = self.map.remove(target, lun);
        unit.ok_or(Error::Absent { target, lun })
    }
}

/// What tells a unit from all others, as long as somebody holds it.
fn key(unit: &Arc<dyn LogicalUnit>) -> usize {
    Arc::as_ptr(unit).addr()
}

impl Controller {
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
        state.units.check_room(target, lun, &unit)?;
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
        let attached = self.put_on_workers(state.members(), target, lun, &unit, Message::Attach);
        if let Err(error) = attached {
            let _: Result<(), Error> = self.detach_from_workers(state.members(), target, lun);
            unit.state().remove_nexus(self.nexus);
            return Err(error);
        }
        self.raise_on_siblings(&state, target);
        state.units.insert(target, lun, unit);
        let lun = number;
        self.report(&state, Event::Rescan { target, lun })
    }

    /// Takes it away: commands in flight are finished, then a REMOVED event, then the address is free (VS-066). Nobody who
    /// is busy with another address waits for those commands.
    pub fn detach(&self, target: u8, lun: u16) -> Result<(), Error> {
        let number = Lun::new(lun).ok_or(Error::Lun(lun))?;
        let (unit, members) = {
            let mut state = self.lock();
            let unit = state.units.take(target, lun)?;
            state.units.leaving.insert((target, lun));
            // Those to which the queues move meanwhile do not have it.
            (unit, state.members().to_vec())
        };
        let detached = self.detach_from_workers(&members, target, lun);
        let mut state = self.lock();
        unit.state().remove_nexus(self.nexus);
        unit.detached();
        self.raise_on_siblings(&state, target);
        let removed = Event::Removed {
            target,
            lun: number,
        };
        let reported = detached.and_then(|()| self.report(&state, removed));
        state.units.places.remove(&key(&unit));
        state.units.leaving.remove(&(target, lun));
        reported
    }

    /// Puts another unit in the place of the one at an address. They have the same [`LuState`](lunar_target::LuState), so
    /// to the driver it is the same unit, and nothing is reported. Returns when the commands of the old one are over.
    ///
    /// # Errors
    /// There is none, or the new one cannot be opened: then the old one is still there.
    pub fn replace(&self, target: u8, lun: u16, unit: Arc<dyn LogicalUnit>) -> Result<(), Error> {
        let mut state = self.lock();
        let old = state.units.take(target, lun)?;
        let replaced = self.replace_on_workers(state.members(), target, lun, &unit);
        let stays = match &replaced {
            Ok(()) => unit,
            Err(_) => {
                // Where it has been replaced already.
                let _: Result<(), Error> =
                    self.replace_on_workers(state.members(), target, lun, &old);
                Arc::clone(&old)
            }
        };
        state.units.places.remove(&key(&old));
        state.units.insert(target, lun, stays);
        replaced
    }

    /// Reports a changed parameter of a logical unit, its capacity for example, to a driver that wants to know. The
    /// unit attention of the same codes is the logical unit's own affair.
    pub fn param_changed(&self, target: u8, lun: u16, asc: u8, ascq: u8) -> Result<(), Error> {
        let number = Lun::new(lun).ok_or(Error::Lun(lun))?;
        let state = self.lock();
        if state.units.map.get(target, lun).is_none() {
            return Err(Error::Absent { target, lun });
        }
        let changed = Event::ParamChange {
            target,
            lun: number,
            asc,
            ascq,
        };
        self.report(&state, changed)
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

    /// Has these workers put a unit at an address, in the way that the message says.
    pub(super) fn put_on_workers(
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
        self.workers.run_on_each(members, |done| Message::Detach {
            nexus,
            target,
            lun,
            done,
        })
    }

    /// The list of LUNs behind a target has changed while a guest may know it.
    fn raise_on_siblings(&self, state: &State, target: u8) {
        if state.queues.are_running() {
            let nexus = Who::Only(self.nexus);
            for (_, unit) in state.units.map.luns(target) {
                unit.state()
                    .raise(nexus, UnitAttention::ReportedLunsChanged);
            }
        }
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
        let home = state.queues.home(EVENT_QUEUE)?;
        let report = |done| Message::Report { nexus, event, done };
        self.workers.run(home, report)
    }
}
