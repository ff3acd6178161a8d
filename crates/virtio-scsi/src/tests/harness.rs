//! A driver and its guest's memory, in this process.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lunar_virtqueue::{
    AddressSpace, Buffer, DriverQueue, GuestMemory, PACKED_BASE, Region, RingFeatures, RingLayout,
    Used,
};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::{Controller, ControllerConfig, Features, RingSetup, Workers, WorkersConfig};

/// Nothing in these tests takes longer than this, unless it never comes.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// Long enough for something to happen that must not.
pub const GRACE: Duration = Duration::from_millis(50);

const LOW: u64 = 0x1_0000;
const HIGH: u64 = 0x1_0000_0000;
const REGION: u64 = 8 << 20;
pub const RING_SIZE: u16 = 64;

pub const CONTROL: usize = 0;
pub const EVENT: usize = 1;
pub const REQUEST: usize = 2;

/// Task attributes.
pub const SIMPLE: u8 = 0;
pub const ORDERED: u8 = 1;
pub const HEAD_OF_QUEUE: u8 = 2;
pub const ACA: u8 = 3;

pub fn workers(count: usize) -> Arc<Workers> {
    Workers::start(WorkersConfig {
        count,
        ..WorkersConfig::default()
    })
    .unwrap()
}

/// The flat LUN form that Linux uses.
pub fn lun(target: u8, lun: u16) -> [u8; 8] {
    let [hi, lo] = (lun | 0x4000).to_be_bytes();
    [1, target, hi, lo, 0, 0, 0, 0]
}

/// A guest: memory in two regions, and the driver's side of the queues it has started.
pub struct Guest {
    pub controller: Arc<Controller>,
    pub memory: Arc<GuestMemory>,
    files: Vec<(OwnedFd, u64, u64)>,
    queues: BTreeMap<usize, Driver>,
    next: u64,
    pub features: Features,
}

/// The driver's side of one queue.
struct Driver {
    queue: DriverQueue,
    setup: [u64; 3],
    kick: OwnedFd,
    call: OwnedFd,
    err: OwnedFd,
    used: Vec<Used>,
}

/// Where a submitted chain's answer will be.
#[derive(Clone, Debug)]
pub struct Ticket {
    pub queue: usize,
    head: u16,
    answer: Vec<Buffer>,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Reply {
    /// `used.len`.
    pub written: usize,
    /// All writable bytes.
    pub bytes: Vec<u8>,
}

impl Reply {
    pub fn response(&self) -> u8 {
        self.bytes[11]
    }
    pub fn status(&self) -> u8 {
        self.bytes[10]
    }
    pub fn residual(&self) -> usize {
        u32::from_le_bytes(self.bytes[4..8].try_into().unwrap()) as usize
    }
    pub fn sense(&self) -> &[u8] {
        let len = u32::from_le_bytes(self.bytes[..4].try_into().unwrap()) as usize;
        &self.bytes[12..12 + len]
    }
    /// ASC and ASCQ of fixed-format sense.
    pub fn asc(&self) -> Option<(u8, u8)> {
        let sense = self.sense();
        (sense.len() > 13).then(|| (sense[12], sense[13]))
    }
    pub fn data(&self) -> &[u8] {
        &self.bytes[12 + 96..]
    }
    /// Asserts GOOD.
    #[track_caller]
    pub fn good(&self) -> &Reply {
        assert_eq!(
            (self.response(), self.status()),
            (0, 0),
            "sense {:x?}",
            self.sense()
        );
        self
    }
}

fn event_fd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

fn signalled(fd: &OwnedFd, wait: Duration) -> bool {
    let time = Timespec::try_from(wait).unwrap();
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&time)).unwrap() > 0
}

fn take(fd: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    rustix::io::read(fd, &mut count).unwrap();
    u64::from_ne_bytes(count)
}

impl Guest {
    /// A guest on a controller of its own that has told its features and memory, and started nothing.
    pub fn new(workers: &Arc<Workers>, request_queues: u16) -> Guest {
        let config = ControllerConfig {
            request_queues,
            ..ControllerConfig::default()
        };
        Guest::on(Controller::new(workers, config).unwrap())
    }

    pub fn on(controller: Arc<Controller>) -> Guest {
        let (mut regions, mut files) = (Vec::new(), Vec::new());
        for gpa in [LOW, HIGH] {
            let (region, file) = Region::allocate(gpa, REGION).unwrap();
            files.push((file, gpa, region.user_addr()));
            regions.push(Arc::new(region));
        }
        let memory = Arc::new(GuestMemory::new(regions).unwrap());
        let offered = Features::from_bits_retain(controller.features());
        let features = offered - Features::RING_PACKED;
        let mut guest = Guest {
            controller,
            memory,
            files,
            queues: BTreeMap::new(),
            next: LOW,
            features,
        };
        guest.connect();
        guest
    }

    pub fn connect(&mut self) {
        self.controller.set_features(self.features.bits()).unwrap();
        self.controller.set_memory(self.memory.clone()).unwrap();
    }

    /// The same, with every queue started.
    pub fn running(workers: &Arc<Workers>, request_queues: u16) -> Guest {
        let mut guest = Guest::new(workers, request_queues);
        guest.start_all();
        guest
    }

    pub fn start_all(&mut self) {
        for index in 0..self.controller.queue_count() {
            self.start(index);
        }
    }

    /// The same memory, mapped anew.
    pub fn remapped(&self) -> Arc<GuestMemory> {
        let regions = self.files.iter().map(|(file, gpa, user)| {
            Arc::new(Region::map(file.as_fd(), *gpa, REGION, *user, 0).unwrap())
        });
        Arc::new(GuestMemory::new(regions).unwrap())
    }

    /// Only the second region.
    pub fn truncated(&self) -> Arc<GuestMemory> {
        let (file, gpa, user) = &self.files[1];
        let region = Region::map(file.as_fd(), *gpa, REGION, *user, 0).unwrap();
        Arc::new(GuestMemory::new([Arc::new(region)]).unwrap())
    }

    /// Guest memory that nothing else uses. It is never given back; the first region lasts for every test.
    pub fn allocate(&mut self, len: usize, align: u64) -> u64 {
        let at = self.next.next_multiple_of(align);
        self.next = at + len as u64;
        assert!(self.next <= LOW + REGION, "guest memory is used up");
        at
    }

    /// Starts a queue from index 0 on new memory.
    pub fn start(&mut self, index: usize) {
        let setup = self.prepare(index);
        self.controller.start_queue(index, setup, true).unwrap();
    }

    /// Makes a new ring for a queue; what a front end would pass on.
    pub fn prepare(&mut self, index: usize) -> RingSetup {
        let size = usize::from(RING_SIZE);
        let desc = self.allocate(16 * size, 16);
        let avail = self.allocate(6 + 2 * size, 2);
        let used = self.allocate(6 + 8 * size, 4);
        let layout = RingLayout {
            size: RING_SIZE,
            desc,
            avail,
            used,
            space: AddressSpace::Guest,
        };
        let features = RingFeatures {
            indirect: self.features.contains(Features::RING_INDIRECT_DESC),
            event_idx: self.features.contains(Features::RING_EVENT_IDX),
            packed: self.features.contains(Features::RING_PACKED),
        };
        let user = |gpa: u64| gpa - LOW + self.files[0].2;
        let setup = [desc, avail, used].map(user);
        let driver = Driver {
            queue: DriverQueue::new(&self.memory, layout, features).unwrap(),
            setup,
            kick: event_fd(),
            call: event_fd(),
            err: event_fd(),
            used: Vec::new(),
        };
        self.queues.insert(index, driver);
        let base = if features.packed { PACKED_BASE } else { 0 };
        self.setup(index, base)
    }

    /// A queue's ring as it is, to be served from `base` on.
    pub fn setup(&self, index: usize, base: u32) -> RingSetup {
        let driver = &self.queues[&index];
        let [desc, avail, used] = driver.setup;
        RingSetup {
            size: RING_SIZE,
            desc,
            avail,
            used,
            base,
            kick: Some(driver.kick.try_clone().unwrap()),
            call: Some(driver.call.try_clone().unwrap()),
            err: Some(driver.err.try_clone().unwrap()),
        }
    }

    fn driver(&mut self, queue: usize) -> &mut Driver {
        self.queues.get_mut(&queue).unwrap()
    }

    /// Makes a chain available whose readable bytes are `pieces`, each in a buffer of its own, and whose writable
    /// buffers have the lengths `answer`.
    pub fn submit(&mut self, queue: usize, pieces: &[&[u8]], answer: &[usize]) -> Ticket {
        let ticket = self.stage(queue, pieces, answer);
        self.kick(queue);
        ticket
    }

    /// The same, not yet made available.
    pub fn stage(&mut self, queue: usize, pieces: &[&[u8]], answer: &[usize]) -> Ticket {
        let mut readable = Vec::new();
        for bytes in pieces {
            let addr = self.allocate(bytes.len(), 1);
            self.memory.write(addr, bytes).unwrap();
            readable.push(Buffer {
                addr,
                len: bytes.len() as u32,
            });
        }
        let mut writable = Vec::new();
        for &len in answer {
            let addr = self.allocate(len, 1);
            // So that what is not written shows.
            self.memory.write(addr, &vec![0xEE; len]).unwrap();
            writable.push(Buffer {
                addr,
                len: len as u32,
            });
        }
        let head = if readable.len() + writable.len() > 4 {
            let all = readable
                .iter()
                .map(|b| (b, 0u16))
                .chain(writable.iter().map(|b| (b, 2)));
            let count = readable.len() + writable.len();
            let mut bytes = Vec::new();
            for (index, (buffer, write)) in all.enumerate() {
                let next = if index + 1 < count { 1 } else { 0 };
                bytes.extend(buffer.addr.to_le_bytes());
                bytes.extend(buffer.len.to_le_bytes());
                bytes.extend((write | next).to_le_bytes());
                bytes.extend((index as u16 + 1).to_le_bytes());
            }
            let addr = self.allocate(bytes.len(), 16);
            self.memory.write(addr, &bytes).unwrap();
            let table = Buffer {
                addr,
                len: bytes.len() as u32,
            };
            self.driver(queue).queue.add_indirect(&[], table)
        } else {
            self.driver(queue).queue.add(&readable, &writable)
        };
        Ticket {
            queue,
            head: head.unwrap(),
            answer: writable,
        }
    }

    /// Publishes what is staged, and kicks if the device wants it.
    pub fn kick(&mut self, queue: usize) {
        let driver = self.driver(queue);
        if driver.queue.publish() {
            rustix::io::write(&driver.kick, &1u64.to_ne_bytes()).unwrap();
        }
    }

    /// Publishes what is staged and does not kick.
    pub fn publish_quietly(&mut self, queue: usize) {
        let _ = self.driver(queue).queue.publish();
    }

    /// Waits for a chain as a driver does, by its interrupt.
    #[track_caller]
    pub fn wait(&mut self, ticket: &Ticket) -> Reply {
        let start = Instant::now();
        loop {
            if let Some(reply) = self.reap(ticket) {
                return reply;
            }
            let driver = self.driver(ticket.queue);
            if !driver.queue.enable_interrupts() && signalled(&driver.call, DEADLINE) {
                take(&driver.call);
            }
            assert!(
                start.elapsed() < DEADLINE,
                "no answer on queue {}",
                ticket.queue
            );
        }
    }

    /// What is there of a chain's answer now.
    pub fn reap(&mut self, ticket: &Ticket) -> Option<Reply> {
        let driver = self.driver(ticket.queue);
        while let Some(used) = driver.queue.reap().unwrap() {
            driver.used.push(used);
        }
        let at = driver
            .used
            .iter()
            .position(|used| used.head == ticket.head)?;
        let used = driver.used.remove(at);
        let mut bytes = Vec::new();
        for buffer in &ticket.answer {
            let mut part = vec![0; buffer.len as usize];
            self.memory.read(buffer.addr, &mut part).unwrap();
            bytes.extend(part);
        }
        Some(Reply {
            written: used.written as usize,
            bytes,
        })
    }

    /// Asserts that a chain is not answered.
    #[track_caller]
    pub fn stays_open(&mut self, ticket: &Ticket) {
        std::thread::sleep(GRACE);
        assert!(self.reap(ticket).is_none(), "answered too early");
    }

    /// Asks for an interrupt by the next answer, as a driver does that has seen all answers.
    pub fn want_interrupt(&mut self, queue: usize) {
        let _ = self.driver(queue).queue.enable_interrupts();
    }

    /// Waits for an interrupt, whatever has been answered.
    #[track_caller]
    pub fn expect_interrupt(&mut self, queue: usize) {
        let call = &self.driver(queue).call;
        assert!(signalled(call, DEADLINE), "no interrupt on queue {queue}");
        take(call);
    }

    /// How many interrupts have come since the last look.
    pub fn interrupts(&mut self, queue: usize) -> u64 {
        let call = &self.driver(queue).call;
        if signalled(call, Duration::ZERO) {
            take(call)
        } else {
            0
        }
    }

    /// Whether the error descriptor has been signalled, and how often.
    pub fn errors(&mut self, queue: usize) -> u64 {
        let err = &self.driver(queue).err;
        if signalled(err, DEADLINE) {
            take(err)
        } else {
            0
        }
    }

    /// A SCSI command on its way.
    pub fn send(
        &mut self,
        queue: usize,
        lun: [u8; 8],
        tag: u64,
        cdb: &[u8],
        out: &[u8],
        room: usize,
    ) -> Ticket {
        self.send_as(SIMPLE, queue, lun, tag, cdb, out, room)
    }

    /// A SCSI command with a task attribute on its way.
    #[allow(clippy::too_many_arguments, reason = "the parts of one command")]
    pub fn send_as(
        &mut self,
        attribute: u8,
        queue: usize,
        lun: [u8; 8],
        tag: u64,
        cdb: &[u8],
        out: &[u8],
        room: usize,
    ) -> Ticket {
        let mut header = header(lun, tag, cdb);
        header[16] = attribute;
        let mut answer = vec![12 + 96];
        answer.extend((room > 0).then_some(room));
        let mut pieces: Vec<&[u8]> = vec![&header];
        pieces.extend((!out.is_empty()).then_some(out));
        self.submit(queue, &pieces, &answer)
    }

    /// A SCSI command and its answer.
    #[track_caller]
    pub fn command(&mut self, lun: [u8; 8], cdb: &[u8], out: &[u8], room: usize) -> Reply {
        let ticket = self.send(REQUEST, lun, 1, cdb, out, room);
        self.wait(&ticket)
    }

    /// A task management function on its way.
    pub fn ask(&mut self, function: u32, lun: [u8; 8], tag: u64) -> Ticket {
        let mut message = Vec::new();
        message.extend(0u32.to_le_bytes());
        message.extend(function.to_le_bytes());
        message.extend(lun);
        message.extend(tag.to_le_bytes());
        self.submit(CONTROL, &[&message], &[1])
    }

    /// A task management function and its response.
    #[track_caller]
    pub fn manage(&mut self, function: u32, lun: [u8; 8], tag: u64) -> u8 {
        let ticket = self.ask(function, lun, tag);
        self.wait(&ticket).bytes[0]
    }

    /// Takes the unit attentions that are waiting at a unit; their codes.
    #[track_caller]
    pub fn attentions(&mut self, lun: [u8; 8]) -> Vec<(u8, u8)> {
        let mut codes = Vec::new();
        loop {
            let reply = self.command(lun, &TEST_UNIT_READY, &[], 0);
            match reply.asc() {
                Some(code) => codes.push(code),
                None => return codes,
            }
        }
    }

    /// Leaves buffers for events.
    pub fn expect_events(&mut self, count: usize) -> Vec<Ticket> {
        (0..count).map(|_| self.submit(EVENT, &[], &[16])).collect()
    }
}

pub fn header(lun: [u8; 8], tag: u64, cdb: &[u8]) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(lun);
    header.extend(tag.to_le_bytes());
    header.extend([0, 0, 0]);
    header.extend(cdb);
    header.resize(19 + 32, 0);
    header
}

pub const TEST_UNIT_READY: [u8; 6] = [0; 6];
pub const SYNCHRONIZE_CACHE: [u8; 10] = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0];

pub fn inquiry(room: u8) -> [u8; 6] {
    [0x12, 0, 0, 0, room, 0]
}
pub fn report_luns(room: u16) -> [u8; 12] {
    let [hi, lo] = room.to_be_bytes();
    [0xA0, 0, 0, 0, 0, 0, 0, 0, hi, lo, 0, 0]
}
pub fn read10(lba: u32, blocks: u16) -> [u8; 10] {
    transfer(0x28, lba, blocks)
}
pub fn write10(lba: u32, blocks: u16) -> [u8; 10] {
    transfer(0x2A, lba, blocks)
}
/// The fake unit's increment.
pub fn increment(lba: u32) -> [u8; 10] {
    transfer(0x41, lba, 1)
}
fn transfer(opcode: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let (l, b) = (lba.to_be_bytes(), blocks.to_be_bytes());
    [opcode, 0, l[0], l[1], l[2], l[3], 0, b[0], b[1], 0]
}
