//! Request queues: SCSI commands from the ring to the logical unit and back.

use std::cell::Cell;
use std::rc::Rc;

use lunar_block::{Op, Progress};
use lunar_reactor::{Handle, Token};
use lunar_scsi::Status;
use lunar_target::{
    Command, Completion, Outcome, begin, begin_absent, begin_report_luns, encode_sense,
};

use crate::barrier::Barrier;
use crate::config::Sizes;
use crate::ring::Ring;
use crate::slot::{Parts, TooShort};
use crate::wire::{
    Address, REQUEST_MAX, RESPONSE_FIXED, RequestHeader, Response, ResponseHeader, SENSE_MAX,
};
use crate::worker::{LocalUnit, Port};

/// What commands share while they are started: one per worker.
pub(crate) struct Bench {
    pub reactor: Handle,
    /// Where parameter data is built, one command after the other.
    reply: Vec<u8>,
}

impl Bench {
    pub fn new(reactor: Handle) -> Bench {
        Bench {
            reactor,
            reply: Vec::new(),
        }
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
    pub unit: Option<Rc<LocalUnit>>,
    stage: Stage,
    /// The answer it gets instead of its own: a task management function has ended it.
    pub ended: Option<Response>,
    /// Whoever waits for its end.
    pub waiting: Vec<Barrier>,
}

enum Stage {
    Free,
    /// One block operation: as the command asked for it, and as the data handle works on it.
    Io {
        asked: Op,
        op: Op,
    },
    /// A task, which leaves its completion here.
    Task(Rc<Cell<Option<Completion>>>),
}

/// How a command ends.
enum End {
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
                Ok(Some(end)) => {
                    slot.finish(ring, end);
                    self.free.push(number);
                }
                Err(error) => {
                    ring.abandon(&error);
                    self.free.push(number);
                    return served;
                }
            }
        }
        limit
    }

    /// The operation or task of a command has got on.
    #[inline]
    pub fn resume(&mut self, ring: &mut Ring, number: usize, result: i32) {
        let Some(slot) = self.slots.get_mut(number) else {
            return;
        };
        if let Some(completion) = slot.resume(ring.token(number), result) {
            slot.finish(ring, End::Completed(completion));
            self.free.push(number);
        }
    }

    /// The commands in flight.
    pub fn in_flight(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots
            .iter_mut()
            .filter(|slot| !matches!(slot.stage, Stage::Free))
    }
}

impl Slot {
    fn new() -> Slot {
        Slot {
            parts: Parts::new(),
            sizes: Sizes::default(),
            tag: 0,
            unit: None,
            stage: Stage::Free,
            ended: None,
            waiting: Vec::new(),
        }
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

        let (data_out, data_in) = (self.parts.data_out(), self.parts.data_in());
        if !data_out.is_empty() && !data_in.is_empty() {
            // INOUT is not offered (VS-010).
            return Ok(Some(End::Transport(Response::Failure)));
        }
        let bad_target = Ok(Some(End::Transport(Response::BadTarget)));
        let Some(address) = Address::decode(header.lun) else {
            return bad_target;
        };
        let target = match address {
            Address::Unit { target, .. } => Some(target),
            Address::ReportLuns { target } => target,
        };
        self.unit = match address {
            Address::Unit { target, lun } => port.units.get(target, lun).cloned(),
            Address::ReportLuns { .. } => None,
        };
        if self.unit.is_none() && target.is_some_and(|target| !port.units.has_target(target)) {
            return bad_target;
        }

        bench.reply.clear();
        let unit = self.unit.as_deref();
        let command = Command {
            nexus: port.nexus,
            cdb: &header.cdb,
            data_out,
            data_in,
            reply: &mut bench.reply,
            io: unit.and_then(|unit| unit.io.as_ref()),
            reactor: &bench.reactor,
            luns: &|list| {
                if let Some(target) = target {
                    list.extend(port.units.luns(target).map(|(lun, _)| lun));
                }
            },
        };
        let outcome = match (unit, address) {
            (Some(unit), _) => begin(&*unit.unit, &unit.seen, command),
            (None, Address::Unit { .. }) => begin_absent(command),
            (None, Address::ReportLuns { .. }) => begin_report_luns(command),
        };
        Ok(match outcome {
            Outcome::Io(op) => self.start_io(op, token),
            Outcome::Done(completion) => Some(self.reply(completion, &bench.reply)),
            Outcome::Overrun => Some(End::Transport(Response::Overrun)),
            Outcome::Task(task) => {
                let completion = Rc::new(Cell::new(None));
                self.stage = Stage::Task(completion.clone());
                let reactor = bench.reactor.clone();
                bench.reactor.spawn(async move {
                    completion.set(Some(task.await));
                    reactor.deliver(token, 0);
                });
                None
            }
        })
    }

    #[inline]
    fn start_io(&mut self, mut op: Op, token: Token) -> Option<End> {
        let asked = op;
        let Some((unit, io)) = self
            .unit
            .as_ref()
            .and_then(|unit| Some((unit, unit.io.as_ref()?)))
        else {
            // A unit that has no image asks for no block operation.
            return Some(End::Transport(Response::Failure));
        };
        match io.start(&mut op, token) {
            Progress::Done(result) => Some(End::Completed(unit.unit.finish(&asked, result))),
            Progress::Pending => {
                self.stage = Stage::Io { asked, op };
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
    fn resume(&mut self, token: Token, result: i32) -> Option<Completion> {
        match &mut self.stage {
            Stage::Free => None,
            Stage::Task(completion) => completion.take(),
            Stage::Io { asked, op } => {
                let unit = self.unit.as_ref()?;
                match unit.io.as_ref()?.resume(op, token, result) {
                    Progress::Pending => None,
                    Progress::Done(result) => Some(unit.unit.finish(asked, result)),
                }
            }
        }
    }

    /// The one place where a command ends: its response is written, and its chain handed back.
    #[inline]
    fn finish(&mut self, ring: &mut Ring, end: End) {
        let end = match self.ended.take() {
            Some(response) => End::Transport(response),
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
        self.unit = None;
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
