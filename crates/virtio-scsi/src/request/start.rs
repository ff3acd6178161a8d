//! How a command begins and gets on.

use std::cell::Cell;
use std::future::ready;
use std::rc::Rc;

use lunar_block::{Cancel, Op, Progress};
use lunar_reactor::Token;
use lunar_scsi::{Cdb, Status};
use lunar_target::{
    Aborter, Command, Completion, Ended, Outcome, Rank, Reached, Surroundings, Then, Ticket,
    Visitor, begin, begin_absent, begin_report_luns,
};

use super::{Bench, End, Slot, Stage};
use crate::config::Sizes;
use crate::line::Pending;
use crate::slot::TooShort;
use crate::tmf;
use crate::wire::{Address, Attribute, CDB, REQUEST_MAX, RequestHeader, Response, ResponseHeader};
use crate::worker::{LocalUnit, Port};
use crate::workers::Peers;

/// What a command reaches besides its unit, and whether it has asked for that.
struct Around<'a> {
    port: &'a Port,
    peers: &'a Peers,
    unit: Option<&'a LocalUnit>,
    target: Option<u8>,
    aborts: Cell<bool>,
    visits: Cell<bool>,
}

impl Surroundings for Around<'_> {
    fn aborter(&self) -> Aborter {
        self.aborts.set(true);
        match self.unit {
            Some(unit) => tmf::aborter(self.peers, self.port.nexus, &unit.unit),
            None => Box::new(|_| Box::pin(ready(()))),
        }
    }

    fn luns(&self, list: &mut Vec<u16>) {
        if let Some(target) = self.target {
            list.extend(self.port.units.luns(target).map(|(lun, _)| lun));
        }
    }

    fn units(&self, visit: Visitor<'_>) {
        self.visits.set(true);
        for (_, _, local) in self.port.units.iter() {
            if let Some(io) = &local.io {
                visit(Reached {
                    unit: &local.unit,
                    io,
                    attached: Rc::<LocalUnit>::clone(local),
                });
            }
        }
    }
}

impl Slot {
    /// Takes the chain apart.
    #[inline]
    pub(super) fn receive(&mut self, sizes: Sizes) -> Result<(), TooShort> {
        self.sizes = sizes;
        self.parts.split_request(RequestHeader::size(sizes))?;
        self.parts.split_response(ResponseHeader::size(sizes))?;
        self.parts.request().expect_read();
        self.parts.response().expect_write();
        Ok(())
    }

    /// The command in the chain will be started after others. With many logical units, its own is in no cache.
    #[inline]
    pub(super) fn expect_unit(&self, port: &Port) {
        // Nothing is decided by what is read here: the header is read when the command is started.
        let mut lun = [0; 8];
        self.parts.request().read_at(0, &mut lun);
        if let Some(Address::Unit { target, lun }) = Address::decode(lun)
            && let Some(unit) = port.units.get(target, lun)
        {
            unit.expect();
        }
    }

    /// Starts the command in the chain. `None`: it is in flight.
    #[inline]
    pub(super) fn start(&mut self, port: &Port, bench: &mut Bench, token: Token) -> Option<End> {
        // The one time the header is read. A shorter CDB field leaves zeroes, a longer one is cut off.
        let mut header = [0; REQUEST_MAX];
        self.parts.request().read_at(0, &mut header);
        let header = RequestHeader::parse(&header);
        self.tag = header.tag;
        self.manner.naca = Cdb(&header.cdb).naca();

        if !self.parts.data_out().is_empty() && !self.parts.data_in().is_empty() {
            // INOUT is not offered (VS-010).
            return Some(End::Transport(Response::Failure));
        }
        let bad_target = Some(End::Transport(Response::BadTarget));
        let Some(address) = Address::decode(header.lun) else {
            return bad_target;
        };
        let target = address.target();
        self.unit = match address {
            Address::Unit { target, lun } => port.units.get(target, lun).map(|at| Rc::clone(at)),
            Address::ReportLuns { .. } => None,
        };
        match &self.unit {
            // Each command in flight has a hold of its unit, and so has the map.
            Some(unit) if Rc::strong_count(unit) > port.task_set_limit + 1 => {
                let full = Completion::refused(Status::TASK_SET_FULL);
                return Some(End::Completed(full));
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
                return self.queue_alone(bench, token, None, command);
            }
            Attribute::Ordered => {}
            Attribute::HeadOfQueue => rank = Rank::Head,
            Attribute::Aca => self.manner.aca = Some(Ticket::new()),
        }
        self.begin(port, bench, address, &header.cdb, (token, rank), false)
    }

    /// Lets the logical unit, or what answers in place of one, begin the command.
    #[inline]
    pub(super) fn begin(
        &mut self,
        port: &Port,
        bench: &mut Bench,
        address: Address,
        cdb: &[u8; CDB],
        (token, rank): (Token, Rank),
        admitted: bool,
    ) -> Option<End> {
        bench.reply.clear();
        let unit = self.unit.as_deref();
        let around = Around {
            port,
            peers: &bench.peers,
            unit,
            target: address.target(),
            aborts: Cell::new(false),
            visits: Cell::new(false),
        };
        let mut command = Command {
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
            around: &around,
        };
        let outcome = match (unit, address) {
            (Some(unit), _) => begin(&*unit.unit, &unit.seen, &mut command),
            (None, Address::Unit { .. }) => begin_absent(&mut command),
            (None, Address::ReportLuns { .. }) => begin_report_luns(&mut command),
        };
        self.aborts = around.aborts.get();
        self.aside = around.visits.get();
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
    pub(super) fn run(
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
            Progress::Done(result) => Some(End::Completed(unit.unit.finish(op.asked(), result))),
            Progress::Pending => {
                if unit.gone.get().is_some() {
                    io.cancel(token, Cancel::Hurried);
                }
                self.stage = Stage::Io(op);
                None
            }
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
    pub(super) fn resume(
        &mut self,
        bench: &Bench,
        token: Token,
        result: i32,
    ) -> Option<Completion> {
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
                    Progress::Done(result) => Some(unit.unit.finish(op.asked(), result)),
                }
            }
        }
    }
}
