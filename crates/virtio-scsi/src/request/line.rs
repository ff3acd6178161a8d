//! Commands that wait in line, and those that others wait for.

use lunar_reactor::Token;
use lunar_target::{Completion, Extent, Place, Rank, Ticket, overlap};

use super::{Bench, End, Slot, Stage};
use crate::line::{Fence, Parked, Pending};
use crate::wire::{CDB, Response};
use crate::worker::Port;

impl Slot {
    /// Waits in line to be alone.
    #[cold]
    pub(super) fn queue_alone(
        &mut self,
        bench: &Bench,
        token: Token,
        extent: Extent,
        what: Pending,
    ) -> Option<End> {
        let (Some(unit), Some(seat)) = (&self.unit, bench.seat(token)) else {
            return Some(End::Transport(Response::Failure));
        };
        let place = match (self.place.take(), &what) {
            // It has waited until now, and does not join the line anew.
            (Some(place), _) => place.singled_out(extent.clone(), seat.turn()),
            (None, Pending::Command(_)) => Place::ordered(&unit.unit, seat.turn()),
            (None, Pending::Steps(..)) => Place::exclusive(&unit.unit, extent.clone(), seat.turn()),
        };
        self.place = Some(place);
        self.stage = Stage::Parked(Box::new(Parked { extent, what }));
        None
    }

    /// Waits in line behind those who want to be alone. `false` if there is nobody any more.
    #[cold]
    pub(super) fn queue_beside(
        &mut self,
        bench: &Bench,
        (token, rank): (Token, Rank),
        extent: Extent,
        cdb: &[u8; CDB],
    ) -> bool {
        let (Some(unit), Some(seat)) = (&self.unit, bench.seat(token)) else {
            return false;
        };
        let place = Place::shared(&unit.unit, extent.clone(), rank, seat.turn());
        let Some(place) = place else {
            return false;
        };
        self.place = Some(place);
        let what = Pending::Command(*cdb);
        self.stage = Stage::Parked(Box::new(Parked { extent, what }));
        true
    }

    /// The place of this command is at the front of the line, if it still has this ticket; `alone` if all that collides
    /// is over.
    pub(super) fn turn(
        &mut self,
        port: &Port,
        bench: &mut Bench,
        (token, ticket): (Token, Ticket),
        alone: bool,
    ) -> Option<End> {
        let place = self.place.as_ref().filter(|p| p.ticket() == ticket)?;
        let unit = self.unit.as_ref()?;
        let Stage::Parked(parked) = &self.stage else {
            return None;
        };
        if !place.is_exclusive() {
            if !place.may_begin(bench.seat(token)?.turn()) {
                return None;
            }
        } else if !alone {
            let seat = bench.seat(token)?;
            seat.clear_the_way(&bench.peers, ticket, &unit.unit, parked);
            return None;
        }
        let address = unit.address();
        let Stage::Parked(parked) = std::mem::replace(&mut self.stage, Stage::Free) else {
            return None;
        };
        let end = match parked.what {
            Pending::Steps(steps, ended) => {
                // It was looked at when it came; that it could begin is news.
                let refusal = unit.unit.state().aca_refusal(port.nexus, self.manner);
                match refusal {
                    Some(status) => Some(End::Completed(Completion::refused(status))),
                    None => self.run(bench, token, steps, ended),
                }
            }
            Pending::Command(cdb) => {
                self.begin(port, bench, address, &cdb, (token, Rank::Tail), true)
            }
        };
        // Whoever stands behind it finds it in flight.
        self.place.take_if(|place| !place.is_exclusive());
        end
    }

    /// If somebody who wants to be alone has to wait for this command, he will know when it is over.
    pub fn meet(&mut self, fence: &Fence) {
        if !self.unit.as_ref().is_some_and(|u| u.is(&fence.unit)) {
            return;
        }
        let collides = match &self.stage {
            // Those who wait in line come later, or have made sure of their turn.
            Stage::Free | Stage::Failed(_) | Stage::Parked(_) => false,
            Stage::Io(op) => {
                let asked = op.asked();
                let end = asked.offset.saturating_add(asked.len);
                overlap(&fence.extent, &Some(asked.offset..end))
            }
            Stage::Task(_, ended) if ended.stands_aside() => false,
            // Those that wait for other commands to this unit or another one would make a circle of those who wait for each
            // other.
            Stage::Task(..) => fence.in_order || !(self.aside || self.aborts),
        };
        if collides {
            self.waiting.push(fence.over.clone());
        }
    }
}
