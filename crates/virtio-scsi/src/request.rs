//! Request queues: SCSI commands from the ring to the logical unit and back.

use std::cell::Cell;
use std::future::ready;
use std::rc::Rc;

use lunar_block::{Cancel, Op, Progress};
use lunar_reactor::{Handle, Token};
use lunar_scsi::mode::ErrorSpread;
use lunar_scsi::{Cdb, Status};
use lunar_target::{
    Command, Completion, Ended, Extent, Fault, Manner, NexusId, Outcome, Place, Rank, Reached,
    Then, Ticket, begin, begin_absent, begin_report_luns, encode_sense, overlap,
};

use crate::barrier::Barrier;
use crate::config::Sizes;
use crate::line::{Fence, Parked, Pending, Seat};
use crate::ring::Ring;
use crate::slot::{Parts, TooShort};
use crate::tmf::{self, Fate, Function, Tasks};
use crate::wire::{
    Address, Attribute, CDB, REQUEST_MAX, RESPONSE_FIXED, RequestHeader, Response, ResponseHeader,
    SENSE_MAX,
};
use crate::worker::{LocalUnit, Port};
use crate::workers::Peers;

/// What commands share while they are started: one per worker.
pub(crate) struct Bench {
    pub reactor: Handle,
    /// Which one of the peers this worker is, and the way to all of them.
    pub home: usize,
    pub peers: Peers,
    /// Where parameter data is built, one command after the other.
    reply: Vec<u8>,
    /// Of the command that is started, if it becomes a task.
    ended: Ended,
}

impl Bench {
    pub fn new(reactor: Handle, home: usize, peers: Peers) -> Bench {
        Bench {
            reactor,
            home,
            peers,
            reply: Vec::new(),
            ended: Ended::default(),
        }
    }

    fn seat(&self, token: Token) -> Option<Seat> {
        Seat::new(&self.peers, self.home, token)
    }
}

/// The commands of one ring. Slots are reused, last one first, so that they and what they point to stay in the cache.
#[derive(Default)]
pub(crate) struct Requests {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

/// One command in flight, or none.
pub(crate) struct Slot {
    parts: Parts,
    /// The sizes its headers have, whatever the driver chooses meanwhile.
    sizes: Sizes,
    pub tag: u64,
    /// What it has to do with auto contingent allegiances.
    pub manner: Manner,
    pub unit: Option<Rc<LocalUnit>>,
    stage: Stage,
    /// In the unit's line, if it waits, or has to be alone.
    place: Option<Place>,
    /// It may end other nexuses' commands, and wait for that.
    pub aborts: bool,
    /// Those who want to be alone need not wait for all of it: what it does to a medium are visits, or its unit keeps them
    /// out.
    aside: bool,
    /// How it ends instead of its own way: a task management function has ended it.
    pub ended: Option<End>,
    /// Whoever waits for its end.
    pub waiting: Vec<Barrier>,
}

enum Stage {
    Free,
    /// One block operation.
    Io(Op),
    /// A task, which leaves here what follows, and is told there when it was ended.
    Task(Rc<Cell<Option<Then>>>, Ended),
    /// It waits for its turn.
    Parked(Box<Parked>),
    /// It has failed with this, and waits for the end of the commands that it takes with it (QERR), or of all (ACA).
    Failed(Completion),
}

/// How a command ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Completed(Completion),
    /// It never reached a logical unit, or was ended there.
    Transport(Response),
}

impl Requests {
    /// Takes up to `limit` commands from the ring and starts them; returns how many there were.
    #[inline]
    pub fn serve(
        &mut self,
        ring: &mut Ring,
        port: &Port,
        bench: &mut Bench,
        limit: usize,
    ) -> usize {
        for served in 0..limit {
            let number = self.free.pop().unwrap_or_else(|| {
                self.slots.push(Slot::new());
                self.slots.len() - 1
            });
            let Some(slot) = self.slots.get_mut(number) else {
                return served;
            };
            if !ring.pop(slot.parts.chain_mut()) {
                self.free.push(number);
                return served;
            }
            match slot.start(port, bench, ring.token(number)) {
                Ok(None) => {}
                Ok(Some(end)) => self.end(ring, bench, number, end),
                Err(error) => {
                    ring.abandon(&error);
                    self.free.push(number);
                    return served;
                }
            }
        }
        limit
    }

    /// A command has come to its end, which is reported now, or when others are over.
    #[inline]
    fn end(&mut self, ring: &mut Ring, bench: &Bench, number: usize, end: End) {
        if let Some(slot) = self.slots.get_mut(number)
            && let Some(end) = slot.judge(end, bench, ring.token(number))
        {
            slot.finish(ring, end);
            self.free.push(number);
        }
    }

    /// The operation or task of a command has got on.
    #[inline]
    pub fn resume(&mut self, ring: &mut Ring, bench: &Bench, number: usize, result: i32) {
        if let Some(slot) = self.slots.get_mut(number)
            && let Some(completion) = slot.resume(bench, ring.token(number), result)
        {
            self.end(ring, bench, number, End::Completed(completion));
        }
    }

    /// The commands for which one waits that has failed are over.
    pub fn settled(&mut self, ring: &mut Ring, number: usize) {
        if let Some(slot) = self.slots.get_mut(number)
            && let Stage::Failed(completion) = slot.stage
        {
            slot.finish(ring, End::Completed(completion));
            self.free.push(number);
        }
    }

    /// It may be the turn of a command that waits in line; `alone` if everything that collides is over.
    pub fn turn(
        &mut self,
        ring: &mut Ring,
        port: &Port,
        bench: &mut Bench,
        (number, ticket): (usize, Ticket),
        alone: bool,
    ) {
        if let Some(slot) = self.slots.get_mut(number)
            && let Some(end) = slot.turn(port, bench, (ring.token(number), ticket), alone)
        {
            self.end(ring, bench, number, end);
        }
    }

    /// A task management function: commands that only wait end at once, the others are waited for if they are to end, and
    /// do not wait for anything but the medium themselves.
    pub fn manage(&mut self, ring: &mut Ring, nexus: NexusId, function: &Function, done: &Barrier) {
        for (number, slot) in self.slots.iter_mut().enumerate() {
            if slot.is_free() || !function.apply(nexus, slot) {
                continue;
            }
            match &slot.stage {
                Stage::Parked(_) => {
                    // Function::apply has said how.
                    slot.finish(ring, End::Transport(Response::Aborted));
                    self.free.push(number);
                    continue;
                }
                Stage::Task(_, ended) => ended.set(),
                Stage::Io(_) => slot.cancel(ring.token(number), Cancel::Abandoned),
                Stage::Failed(_) | Stage::Free => {}
            }
            slot.waiting.push(done.clone());
        }
    }

    /// The commands in flight, of one unit or all, go on, but may not wait for anything but the medium: where they are
    /// kept until an error is mended, their initiator is asked to send them again.
    #[cold]
    pub fn hurry(&mut self, ring: &Ring, unit: Option<&Rc<LocalUnit>>) {
        for (number, slot) in self.slots.iter().enumerate() {
            let of_unit = |unit| slot.unit.as_ref().is_some_and(|own| Rc::ptr_eq(own, unit));
            if !unit.is_none_or(of_unit) {
                continue;
            }
            match &slot.stage {
                Stage::Task(_, ended) => ended.hurry(),
                Stage::Io(_) => slot.cancel(ring.token(number), Cancel::Hurried),
                Stage::Parked(_) | Stage::Failed(_) | Stage::Free => {}
            }
        }
    }

    /// The commands in flight.
    pub fn in_flight(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut().filter(|slot| !slot.is_free())
    }
}

impl Slot {
    fn new() -> Slot {
        Slot {
            parts: Parts::new(),
            sizes: Sizes::default(),
            tag: 0,
            manner: Manner::default(),
            unit: None,
            stage: Stage::Free,
            place: None,
            ended: None,
            aborts: false,
            aside: false,
            waiting: Vec::new(),
        }
    }

    fn is_free(&self) -> bool {
        matches!(self.stage, Stage::Free)
    }

    /// Starts the command in the chain. `None`: it is in flight.
    #[inline]
    fn start(
        &mut self,
        port: &Port,
        bench: &mut Bench,
        token: Token,
    ) -> Result<Option<End>, TooShort> {
        self.sizes = port.sizes;
        self.parts.split_request(RequestHeader::size(self.sizes))?;
        self.parts
            .split_response(ResponseHeader::size(self.sizes))?;
        // The one time the header is read. A shorter CDB field leaves zeroes, a longer one is cut off.
        let mut header = [0; REQUEST_MAX];
        self.parts.request().read_at(0, &mut header);
        let header = RequestHeader::parse(&header).ok_or(TooShort)?;
        self.tag = header.tag;
        self.manner.naca = Cdb(&header.cdb).naca();

        if !self.parts.data_out().is_empty() && !self.parts.data_in().is_empty() {
            // INOUT is not offered (VS-010).
            return Ok(Some(End::Transport(Response::Failure)));
        }
        let bad_target = Ok(Some(End::Transport(Response::BadTarget)));
        let Some(address) = Address::decode(header.lun) else {
            return bad_target;
        };
        let target = address.target();
        self.unit = match address {
            Address::Unit { target, lun } => port.units.get(target, lun).cloned(),
            Address::ReportLuns { .. } => None,
        };
        match &self.unit {
            // Each command in flight has a hold of its unit, and so has the map.
            Some(unit) if Rc::strong_count(unit) > port.task_set_limit + 1 => {
                let full = Completion::refused(Status::TASK_SET_FULL);
                return Ok(Some(End::Completed(full)));
            }
            None if target.is_some_and(|target| !port.units.has_target(target)) => {
                return bad_target;
            }
            _ => {}
        }

        let mut rank = Rank::Tail;
        match header.attribute {
            Attribute::Simple => {}
            Attribute::Ordered if self.unit.is_some() => {
                // After everything before it, and before everything after it, that anybody has sent.
                let command = Pending::Command(header.cdb);
                return Ok(self.queue_alone(bench, token, None, command));
            }
            Attribute::Ordered => {}
            Attribute::HeadOfQueue => rank = Rank::Head,
            Attribute::Aca => self.manner.aca = Some(Ticket::new()),
        }
        Ok(self.begin(port, bench, address, &header.cdb, (token, rank), false))
    }

    /// Lets the logical unit, or what answers in place of one, begin the command.
    #[inline]
    fn begin(
        &mut self,
        port: &Port,
        bench: &mut Bench,
        address: Address,
        cdb: &[u8; CDB],
        (token, rank): (Token, Rank),
        admitted: bool,
    ) -> Option<End> {
        let target = address.target();
        bench.reply.clear();
        let unit = self.unit.as_deref();
        let (aborts, visits) = (Cell::new(false), Cell::new(false));
        let command = Command {
            nexus: port.nexus,
            cdb,
            data_out: self.parts.data_out(),
            data_in: self.parts.data_in(),
            reply: &mut bench.reply,
            io: unit.and_then(|unit| unit.io.as_ref()),
            reactor: &bench.reactor,
            admitted,
            aca: self.manner.aca,
            ended: &bench.ended,
            aborter: &|| {
                aborts.set(true);
                match unit {
                    Some(unit) => tmf::aborter(&bench.peers, port.nexus, &unit.unit),
                    None => Box::new(|_| Box::pin(ready(()))),
                }
            },
            luns: &|list| {
                if let Some(target) = target {
                    list.extend(port.units.luns(target).map(|(lun, _)| lun));
                }
            },
            units: &|visit| {
                visits.set(true);
                for (_, _, local) in port.units.iter() {
                    if let Some(io) = &local.io {
                        visit(Reached {
                            unit: &local.unit,
                            io,
                            attached: local.clone(),
                        });
                    }
                }
            },
        };
        let outcome = match (unit, address) {
            (Some(unit), _) => begin(&*unit.unit, &unit.seen, command),
            (None, Address::Unit { .. }) => begin_absent(command),
            (None, Address::ReportLuns { .. }) => begin_report_luns(command),
        };
        self.aborts = aborts.get();
        self.aside = visits.get();
        match outcome {
            Outcome::Io(op) => self.start_io(op, token),
            Outcome::Done(completion) => Some(self.reply(completion, &bench.reply)),
            Outcome::Overrun => Some(End::Transport(Response::Overrun)),
            Outcome::Task(task) => {
                let ended = std::mem::take(&mut bench.ended);
                self.run(bench, token, async { Then::Done(task.await) }, ended)
            }
            Outcome::Exclusive(extent, steps) => {
                let ended = std::mem::take(&mut bench.ended);
                self.queue_alone(bench, token, extent, Pending::Steps(steps, ended))
            }
            Outcome::Wait(extent) => {
                if self.queue_beside(bench, (token, rank), extent, cdb) {
                    return None;
                }
                // Nobody is in the way any more. Whoever comes now finds the command in flight and waits for it.
                self.begin(port, bench, address, cdb, (token, rank), true)
            }
        }
    }

    /// Runs the steps of a command.
    fn run(
        &mut self,
        bench: &Bench,
        token: Token,
        steps: impl Future<Output = Then> + 'static,
        ended: Ended,
    ) -> Option<End> {
        if self.unit.as_ref().is_some_and(|u| u.gone.get().is_some()) {
            ended.hurry();
        }
        let then = Rc::new(Cell::new(None));
        self.stage = Stage::Task(then.clone(), ended);
        let reactor = bench.reactor.clone();
        bench.reactor.spawn(async move {
            then.set(Some(steps.await));
            reactor.deliver(token, 0);
        });
        None
    }

    /// Waits in line to be alone.
    #[cold]
    fn queue_alone(
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
    fn queue_beside(
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
    fn turn(
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

    #[inline]
    fn start_io(&mut self, mut op: Op, token: Token) -> Option<End> {
        let Some((unit, io)) = self
            .unit
            .as_ref()
            .and_then(|unit| Some((unit, unit.io.as_ref()?)))
        else {
            // A unit that has no image asks for no block operation.
            return Some(End::Transport(Response::Failure));
        };
        match io.start(&mut op, token) {
            Progress::Done(result) => Some(End::Completed(unit.unit.finish(&op.asked(), result))),
            Progress::Pending => {
                if unit.gone.get().is_some() {
                    io.cancel(token, Cancel::Hurried);
                }
                self.stage = Stage::Io(op);
                None
            }
        }
    }

    /// Its operation may not wait for anything but the medium any longer.
    #[cold]
    fn cancel(&self, token: Token, why: Cancel) {
        if let Some(io) = self.unit.as_ref().and_then(|unit| unit.io.as_ref()) {
            io.cancel(token, why);
        }
    }

    /// A command that is over with `reply` for the initiator.
    fn reply(&self, mut completion: Completion, reply: &[u8]) -> End {
        if !reply.is_empty() {
            completion.transferred = self.parts.data_in().write_at(0, reply);
            if completion.transferred < reply.len() {
                // The CDB asked for more than there is room for (VS-034).
                return End::Transport(Response::Overrun);
            }
        }
        End::Completed(completion)
    }

    #[inline]
    fn resume(&mut self, bench: &Bench, token: Token, result: i32) -> Option<Completion> {
        match &mut self.stage {
            Stage::Free | Stage::Parked(_) | Stage::Failed(_) => None,
            Stage::Task(then, ended) => match then.take()? {
                Then::Done(completion) => Some(completion),
                Then::Rest(task) => {
                    let ended = ended.clone();
                    self.aside = true;
                    self.place = None;
                    self.run(bench, token, async { Then::Done(task.await) }, ended);
                    None
                }
            },
            Stage::Io(op) => {
                let unit = self.unit.as_ref()?;
                match unit.io.as_ref()?.resume(op, token, result) {
                    Progress::Pending => None,
                    Progress::Done(result) => Some(unit.unit.finish(&op.asked(), result)),
                }
            }
        }
    }

    /// The one place where a command ends: its response is written, and its chain handed back.
    #[inline]
    fn finish(&mut self, ring: &mut Ring, end: End) {
        let end = match self.ended.take() {
            Some(instead) => instead,
            None => end,
        };
        let (response, data_in) = (self.parts.response(), self.parts.data_in().len());
        let data = self.parts.data_out().len() + data_in;
        let (header, received) = match end {
            End::Transport(response) => {
                let header = ResponseHeader {
                    sense_len: 0,
                    residual: data,
                    status: Status::GOOD.0,
                    response,
                };
                (header, 0)
            }
            End::Completed(completion) => {
                let header = ResponseHeader {
                    sense_len: self.write_sense(&completion),
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
        self.stage = Stage::Free;
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

    /// How a command ends, as far as others have something to do with that. `None`: it has failed, and is answered when
    /// others are over.
    #[inline]
    fn judge(&mut self, end: End, bench: &Bench, token: Token) -> Option<End> {
        match end {
            End::Completed(completion) if completion.status != Status::GOOD => {
                let end = match completion.status {
                    Status::CHECK_CONDITION => self.fail(completion, bench, token)?,
                    _ => end,
                };
                self.remember(&end);
                Some(end)
            }
            _ => Some(end),
        }
    }

    /// A command that was turned away may leave a unit attention.
    #[cold]
    fn remember(&self, end: &End) {
        if let (Some(unit), End::Completed(completion)) = (&self.unit, end) {
            let state = unit.unit.state();
            state.turned_away(unit.nexus, completion.status);
        }
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

    /// Whether it is over, but for the others.
    pub fn has_failed(&self) -> bool {
        matches!(self.stage, Stage::Failed(_))
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
