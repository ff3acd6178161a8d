//! How a command ends.

use lunar_reactor::Token;
use lunar_scsi::Status;
use lunar_scsi::mode::ErrorSpread;
use lunar_target::{Completion, Fault, encode_sense};

use super::{Bench, Slot, Stage};
use crate::line::Fence;
use crate::ring::Ring;
use crate::tmf::{Fate, Function, Tasks};
use crate::wire::{RESPONSE_FIXED, Response, ResponseHeader, SENSE_MAX};

/// How a command ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Completed(Completion),
    /// It never reached a logical unit, or was ended there.
    Transport(Response),
}

impl End {
    /// Nobody but its initiator has anything to do with it.
    #[inline]
    pub(super) fn is_good(&self) -> bool {
        match self {
            End::Completed(completion) => completion.status == Status::GOOD,
            End::Transport(_) => true,
        }
    }
}

impl Slot {
    /// The one place where a command ends: its response is written, and its chain handed back.
    #[inline]
    pub(super) fn finish(&mut self, ring: &mut Ring, end: &End) {
        let instead = self.ended.take();
        let end = instead.as_ref().unwrap_or(end);
        let (response, data_in) = (self.parts.response(), self.parts.data_in().len());
        let data = self.parts.data_out().len() + data_in;
        let (header, received) = match end {
            End::Transport(response) => {
                let header = ResponseHeader {
                    sense_len: 0,
                    residual: data,
                    status: Status::GOOD.0,
                    response: *response,
                };
                (header, 0)
            }
            End::Completed(completion) => {
                let header = ResponseHeader {
                    sense_len: self.write_sense(completion),
                    residual: data.saturating_sub(completion.transferred),
                    status: completion.status.0,
                    response: Response::Ok,
                };
                (header, completion.transferred.min(data_in))
            }
        };
        response.write_at(0, &header.encode());
        // The rest of the sense field is zeroed, so that `written` counts no byte that was not (VS-041).
        let used = RESPONSE_FIXED + header.sense_len;
        response.fill_at(used, response.len() - used, 0);
        ring.complete(
            self.parts.chain(),
            response.len() + received,
            &mut self.waiting,
        );
        if !self.is_free() {
            self.stage = Stage::Free;
        }
        if self.place.is_some() {
            // Whoever is behind it goes on.
            self.place = None;
        }
        if self.manner.aca.is_some() {
            self.leave_allegiance();
        }
        (self.aborts, self.aside) = (false, false);
        self.unit = None;
    }

    /// An end with another status than GOOD, as far as others have something to do with it: it may become another one, and
    /// may leave a unit attention. `false`: the command is answered when others are over.
    #[cold]
    pub(super) fn judge(&mut self, end: &mut End, bench: &Bench, token: Token) -> bool {
        if let End::Completed(completion) = *end
            && completion.status == Status::CHECK_CONDITION
        {
            match self.fail(completion, bench, token) {
                Some(reported) => *end = reported,
                None => return false,
            }
        }
        if let (Some(unit), End::Completed(completion)) = (&self.unit, end) {
            let state = unit.unit.state();
            state.turned_away(unit.nexus, completion.status);
        }
        true
    }

    /// Aborts the other commands of the task set, if QERR says so, and stops the task set, if NACA says so. Those that are
    /// aborted, or were begun before, are over before the error is reported: none that is sent because of it is aborted,
    /// and nothing goes on beside an ACA command.
    #[cold]
    fn fail(&mut self, completion: Completion, bench: &Bench, token: Token) -> Option<End> {
        let reported = Some(End::Completed(completion));
        let Some(unit) = self.unit.as_ref().filter(|_| self.ended.is_none()) else {
            return reported;
        };
        let state = unit.unit.state();
        let fault = state.fault(unit.nexus, self.manner, completion.sense.as_ref());
        // What is yet to be over.
        let fence = match fault {
            Fault::Forestalled(status) => {
                return Some(End::Completed(Completion::refused(status)));
            }
            Fault::Reported => None,
            Fault::Established { everybody: true } => Some(None),
            Fault::Established { everybody: false } => Some(Some(unit.nexus)),
        };
        let rules = state.task_rules();
        let (target, lun) = (unit.target, unit.lun);
        let aborted = match rules.error_spread() {
            ErrorSpread::Nobody => None,
            ErrorSpread::TaskSet if !rules.set_for_each_nexus() => Some(Tasks::Everybody {
                unit: unit.unit.clone(),
            }),
            ErrorSpread::TaskSet | ErrorSpread::Nexus => Some(Tasks::OfUnit { target, lun }),
        };
        if fence.is_none() && aborted.is_none() {
            return reported;
        }
        let Some(seat) = bench.seat(token) else {
            return reported;
        };
        let over = seat.settled();
        if let Some(tasks) = aborted {
            let function = Function {
                nexus: unit.nexus,
                tasks,
                fate: Fate::Spread,
            };
            function.send(&bench.peers, &over);
        }
        if let Some(of) = fence {
            let fence = Fence {
                unit: unit.unit.clone(),
                extent: None,
                of,
                in_order: false,
                over,
            };
            fence.send(&bench.peers);
        }
        self.stage = Stage::Failed(completion);
        None
    }

    /// It had the ACA attribute: another one may be executed.
    #[cold]
    fn leave_allegiance(&mut self) {
        if let (Some(unit), Some(ticket)) = (&self.unit, self.manner.aca.take()) {
            unit.unit.state().aca_command_over(unit.nexus, ticket);
        }
    }

    /// Puts the sense data into the response, as much as the driver has room for (VS-035).
    fn write_sense(&self, completion: &Completion) -> usize {
        let Some(sense) = &completion.sense else {
            return 0;
        };
        let descriptor = self
            .unit
            .as_ref()
            .is_some_and(|unit| unit.unit.state().descriptor_sense());
        let mut bytes = [0; SENSE_MAX];
        let len = encode_sense(sense, descriptor, &mut bytes);
        let bytes = bytes.get(..len).unwrap_or(&bytes);
        self.parts.response().write_at(RESPONSE_FIXED, bytes)
    }
}
