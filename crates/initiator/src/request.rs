//! Request queues: commands, many at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lunar_virtqueue::{Buffer, GuestMemory, Used};

use crate::ram::Ram;
use crate::wire::{self, REQUEST, RESPONSE};
use crate::{Address, Error, Options, Response, Ring, Session, TaskAttribute};

const PAGE: u64 = 4096;
/// Room for a slot's indirect table: 1024 descriptors.
const TABLE: u64 = 1024 * 16;

/// What a command moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Data<'a> {
    /// Nothing.
    #[default]
    None,
    /// So many bytes from the logical unit.
    In(usize),
    /// These bytes to the logical unit.
    Out(&'a [u8]),
    /// Both, which needs VIRTIO_SCSI_F_INOUT (VS-010).
    Both(&'a [u8], usize),
}

/// A SCSI command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// To which logical unit.
    pub address: Address,
    /// The CDB: at most 32 bytes count.
    pub cdb: &'a [u8],
    /// The data that go with it.
    pub data: Data<'a>,
    /// How it is ordered among others.
    pub attribute: TaskAttribute,
}

impl<'a> Command<'a> {
    /// A simple command.
    pub fn new(address: Address, cdb: &'a [u8], data: Data<'a>) -> Command<'a> {
        Command {
            address,
            cdb,
            data,
            attribute: TaskAttribute::Simple,
        }
    }
}

/// Where a chain's descriptors begin and end (VS-038).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cut {
    /// One for each header, one for the data of each direction.
    #[default]
    Headers,
    /// One for each header, one for each page of data: a guest's usual way.
    Pages,
    /// After so many bytes, without regard to what is there.
    Every(u32),
}

/// How chains are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Where they are cut.
    pub cut: Cut,
    /// Whether the descriptors are in an indirect table, if that was negotiated.
    pub indirect: bool,
}

impl Default for Framing {
    fn default() -> Self {
        Framing {
            cut: Cut::Headers,
            indirect: true,
        }
    }
}

/// Names a command in flight. It is the `id` of the request as well, by which task management finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag(pub u64);

/// A finished command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Which.
    pub tag: Tag,
    /// How it ended.
    pub response: Response,
}

/// A place for one command in guest memory, and what is in it.
#[derive(Debug)]
struct Slot {
    /// Of the request's header; data-out follows at the start of a page.
    request: u64,
    /// Of the response's header; data-in follows at the start of a page.
    response: u64,
    table: u64,
    tag: Tag,
    data_in: usize,
    readable: Vec<Buffer>,
    writable: Vec<Buffer>,
    /// Bytes of the table, if the chain is in it.
    table_len: u32,
}

/// A ring with room for requests, of whatever kind of device.
#[derive(Debug)]
pub(crate) struct Lane<'a> {
    pub(crate) ring: &'a mut Ring,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) places: Vec<Places>,
    /// Bytes of data that each has room for.
    pub(crate) room: usize,
    pub(crate) timeout: Duration,
}

/// Where one request is in guest memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) header: u64,
    pub(crate) response: u64,
    /// At the start of a page.
    pub(crate) data: u64,
}

impl Places {
    /// Bytes from the beginning of a page in which headers are.
    const HEADERS: u64 = PAGE;
    /// A request's header and response, which are two cache lines apart.
    const EACH: u64 = 256;

    /// Of the request with this index, with room for its headers at the start of a page. Those of different requests are
    /// at different places in their pages, as a guest's are: at the same ones, all would want the same few places in the
    /// processors' caches.
    pub(crate) fn new(index: usize, headers: u64, data: u64) -> Places {
        let header = headers + index as u64 * Places::EACH % Places::HEADERS;
        Places {
            header,
            response: header + Places::EACH / 2,
            data,
        }
    }
}

/// One request queue with its slots. Commands are staged by [`RequestQueue::submit`], sent together by
/// [`RequestQueue::send`], and taken back in whatever order the server finishes them.
#[derive(Debug)]
pub struct RequestQueue {
    ring: Ring,
    memory: Arc<GuestMemory>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// For each head on the ring, the slot whose chain it is.
    owners: Vec<Option<usize>>,
    framing: Framing,
    max_data: usize,
    timeout: Duration,
    /// Tags of this queue are unlike those of the others.
    next_tag: u64,
}

impl RequestQueue {
    /// Bytes of memory that the slots of one queue need.
    pub(crate) fn bytes(options: &Options) -> u64 {
        slot_bytes(options) * u64::from(options.depth)
    }

    pub(crate) fn new(
        index: u16,
        options: &Options,
        ram: &mut Ram,
        ring: Ring,
    ) -> Result<RequestQueue, Error> {
        let data = u64::from(options.max_data).next_multiple_of(PAGE);
        let size = slot_bytes(options);
        let start = ram.take(RequestQueue::bytes(options))?;
        let slots = (0..u64::from(options.depth)).map(|i| {
            let table = start + i * size;
            let data_out = table + TABLE + PAGE;
            let data_in = data_out + data + PAGE;
            Slot {
                request: data_out - REQUEST as u64,
                response: data_in - RESPONSE as u64,
                table,
                tag: Tag(0),
                data_in: 0,
                readable: Vec::new(),
                writable: Vec::new(),
                table_len: 0,
            }
        });
        let mut queue = RequestQueue {
            ring,
            memory: Arc::clone(ram.memory()),
            slots: slots.collect(),
            free: Vec::new(),
            owners: Vec::new(),
            framing: options.framing,
            max_data: usize::try_from(options.max_data).unwrap_or(0),
            timeout: options.timeout,
            next_tag: u64::from(index) << 48,
        };
        queue.forget();
        Ok(queue)
    }

    /// The ring.
    pub fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// Commands that may be in flight at once.
    pub fn depth(&self) -> usize {
        self.slots.len()
    }

    /// Commands in flight.
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// How chains are laid out from now on.
    pub fn set_framing(&mut self, framing: Framing) {
        self.framing = framing;
    }

    /// All slots are free: the ring was made anew, and what was on it will not come back.
    pub(crate) fn forget(&mut self) {
        self.free = (0..self.slots.len()).rev().collect();
        self.owners = vec![None; usize::from(self.ring.layout().size)];
    }

    pub(crate) fn renew(&mut self, session: &Session) -> Result<(), Error> {
        self.ring.renew(session)?;
        self.forget();
        Ok(())
    }

    /// Stages a command; [`RequestQueue::send`] shows it to the server.
    pub fn submit(&mut self, command: &Command<'_>) -> Result<Tag, Error> {
        let slot = *self.free.last().ok_or(Error::Full)?;
        let tag = self.prepare(slot, command)?;
        self.stage(slot)?;
        self.free.pop();
        Ok(tag)
    }

    /// Makes what is staged visible, and kicks if the server wants it.
    pub fn send(&mut self) -> Result<(), Error> {
        self.ring.send()
    }

    /// Takes a finished command, if there is one.
    pub fn reap(&mut self) -> Result<Option<Completion>, Error> {
        let used = self.ring.reap()?;
        used.map(|used| self.finish(used)).transpose()
    }

    /// Waits for a finished command.
    pub fn wait(&mut self) -> Result<Completion, Error> {
        let deadline = Instant::now() + self.timeout;
        match self.ring.wait(deadline)? {
            Some(used) => self.finish(used),
            None => Err(Error::Timeout("response")),
        }
    }

    /// Issues one command and waits for it. With others in flight on this queue, use `submit` and `wait`: their
    /// completions would be lost here.
    pub fn execute(&mut self, command: &Command<'_>) -> Result<Response, Error> {
        let tag = self.submit(command)?;
        self.send()?;
        loop {
            let completion = self.wait()?;
            if completion.tag == tag {
                return Ok(completion.response);
            }
        }
    }

    /// Writes a command into a free slot.
    pub(crate) fn prepare(&mut self, slot: usize, command: &Command<'_>) -> Result<Tag, Error> {
        let (out, data_in): (&[u8], usize) = match command.data {
            Data::None => (&[], 0),
            Data::In(len) => (&[], len),
            Data::Out(bytes) => (bytes, 0),
            Data::Both(bytes, len) => (bytes, len),
        };
        let needed = out.len().max(data_in);
        if needed > self.max_data {
            return Err(Error::DataTooLong {
                needed,
                slot: self.max_data,
            });
        }
        let indirect = self.framing.indirect && self.ring.has_indirect();
        let memory = &self.memory;
        let slot = self.slots.get_mut(slot).ok_or(Error::Full)?;
        slot.tag = Tag(self.next_tag);
        self.next_tag += 1;
        slot.data_in = data_in;
        let header = wire::request(command.address, slot.tag.0, command.attribute, command.cdb);
        memory.write(slot.request, &header)?;
        memory.write(slot.request + REQUEST as u64, out)?;
        // A server that does not write its response shows up by these.
        memory.write(slot.response, &[0xFF; RESPONSE])?;
        cut(
            self.framing.cut,
            slot.request,
            REQUEST,
            out.len(),
            &mut slot.readable,
        );
        cut(
            self.framing.cut,
            slot.response,
            RESPONSE,
            data_in,
            &mut slot.writable,
        );
        slot.table_len = 0;
        if indirect {
            let queue = self.ring.queue();
            let table = queue.indirect_table(&slot.readable, &slot.writable);
            if table.len() as u64 > TABLE {
                let needed = slot.readable.len() + slot.writable.len();
                return Err(lunar_virtqueue::Error::NoRoom { needed }.into());
            }
            memory.write(slot.table, &table)?;
            slot.table_len = u32::try_from(table.len()).unwrap_or(0);
        }
        Ok(slot.tag)
    }

    /// Puts a prepared slot's chain on the ring.
    pub(crate) fn stage(&mut self, slot_index: usize) -> Result<(), Error> {
        let slot = self.slots.get(slot_index).ok_or(Error::Full)?;
        let head = if slot.table_len > 0 {
            let table = Buffer {
                addr: slot.table,
                len: slot.table_len,
            };
            self.ring.queue().add_indirect(&[], table)?
        } else {
            self.ring.queue().add(&slot.readable, &slot.writable)?
        };
        if let Some(owner) = self.owners.get_mut(usize::from(head)) {
            *owner = Some(slot_index);
        }
        Ok(())
    }

    /// The slot whose chain was returned.
    pub(crate) fn owner(&mut self, used: Used) -> Result<usize, Error> {
        let owner = self.owners.get_mut(usize::from(used.head));
        let unknown = lunar_virtqueue::Error::UsedUnknown {
            id: used.head.into(),
        };
        owner.and_then(Option::take).ok_or(unknown.into())
    }

    /// The response in a slot, without data.
    pub(crate) fn response(&self, slot: usize, written: u32) -> Result<Response, Error> {
        let slot = self.slots.get(slot).ok_or(Error::Full)?;
        let mut header = [0; RESPONSE];
        self.memory.read(slot.response, &mut header)?;
        if written < 12 {
            return Err(Error::ShortResponse(written));
        }
        Ok(Response::parse(&header, written))
    }

    fn finish(&mut self, used: Used) -> Result<Completion, Error> {
        let index = self.owner(used)?;
        self.free.push(index);
        let mut response = self.response(index, used.written)?;
        let slot = self.slots.get(index).ok_or(Error::Full)?;
        let residual = match response.is_good() {
            true => usize::try_from(response.residual).unwrap_or(usize::MAX),
            false => 0,
        };
        response.data = vec![0; slot.data_in.saturating_sub(residual)];
        let data_in = slot.response + RESPONSE as u64;
        self.memory.read(data_in, &mut response.data)?;
        Ok(Completion {
            tag: slot.tag,
            response,
        })
    }

    /// The ring and the slots' places, to be used in another way while nothing is in flight.
    pub(crate) fn lend(&mut self) -> Result<Lane<'_>, Error> {
        if self.in_flight() > 0 {
            return Err(Error::Full);
        }
        // No tables are made meanwhile.
        let places = self.slots.iter().enumerate();
        let places = places
            .map(|(index, slot)| Places::new(index, slot.table, slot.response + RESPONSE as u64));
        Ok(Lane {
            places: places.collect(),
            room: self.max_data,
            memory: Arc::clone(&self.memory),
            timeout: self.timeout,
            ring: &mut self.ring,
        })
    }
}

/// Bytes of one slot: its table, then for each direction a page that the header ends, and the data.
fn slot_bytes(options: &Options) -> u64 {
    TABLE + 2 * (PAGE + u64::from(options.max_data).next_multiple_of(PAGE))
}

/// The buffers of a header at `at` and the `data` bytes behind it.
fn cut(cut: Cut, at: u64, header: usize, data: usize, buffers: &mut Vec<Buffer>) {
    buffers.clear();
    let mut add = |addr: u64, len: usize, piece: usize| {
        let mut done = 0;
        while done < len {
            let now = piece.min(len - done);
            buffers.push(Buffer {
                addr: addr + done as u64,
                len: u32::try_from(now).unwrap_or(u32::MAX),
            });
            done += now;
        }
    };
    let data_at = at + header as u64;
    match cut {
        Cut::Headers => {
            add(at, header, header);
            add(data_at, data, data);
        }
        Cut::Pages => {
            add(at, header, header);
            add(data_at, data, 4096);
        }
        Cut::Every(bytes) => {
            let piece = usize::try_from(bytes.max(1)).unwrap_or(1);
            add(at, header + data, piece);
        }
    }
}
