//! A driver and the worker that serves it, taking turns on one thread: nothing sleeps, nothing depends on time, and a
//! round of commands costs the same whenever it is run.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "the rig is a test's: what fails there fails the test"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use lunar_block::{Backend, ErrorRules, Image};
use lunar_devices::{Disk, DiskConfig};
use lunar_virtio_scsi::{Controller, ControllerConfig, Features, LocalWorker, RingSetup, Workers};
use lunar_virtqueue::{
    AddressSpace, Buffer, DriverQueue, GuestMemory, PACKED_BASE, Region, RingFeatures, RingLayout,
};

/// Commands in a round.
pub const DEPTH: u16 = 32;
/// What each of them reads or writes.
pub const BLOCK: u32 = 4096;

const RING_SIZE: u16 = 128;
const REQUEST_QUEUE: usize = 2;
const GPA: u64 = 1 << 30;
/// Of a command's piece of guest memory: its data, then the rest.
const PIECE: u64 = 2 * BLOCK as u64;
const HEADER: (u64, u32) = (BLOCK as u64, 51);
const RESPONSE: (u64, u32) = (BLOCK as u64 + 128, 108);
const TABLE: u64 = BLOCK as u64 + 256;
/// Before the commands' pieces: the ring.
const RING: u64 = 1 << 16;
/// A queue's part of guest memory.
const PART: u64 = RING + DEPTH as u64 * PIECE;

/// What the commands do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Read,
    Write,
}

/// What is asked of which disks.
pub struct Plan {
    pub image: Arc<dyn Image>,
    /// Disks on the image behind target 0. They get the commands in turn.
    pub disks: u16,
    pub direction: Direction,
    pub packed: bool,
}

impl Plan {
    /// Has a rig on this thread do `work`.
    pub fn run<T>(&self, work: impl FnOnce(&mut Rig) -> T) -> T {
        Machine::new(self, 1).run(0, work)
    }

    /// Has so many rigs do `work` at the same time, each on a thread of its own: the queues of one controller.
    #[allow(dead_code, reason = "not every user of the rig has several")]
    pub fn run_on_threads<T: Send>(
        &self,
        threads: usize,
        work: impl Fn(usize, &mut Rig) -> T + Sync,
    ) -> Vec<T> {
        let (machine, work) = (&Machine::new(self, threads), &work);
        thread::scope(|scope| {
            let rig = |number| scope.spawn(move || machine.run(number, |rig| work(number, rig)));
            let rigs: Vec<_> = (0..threads).map(rig).collect();
            rigs.into_iter().map(|rig| rig.join().unwrap()).collect()
        })
    }
}

/// A controller, of which each rig has a queue.
struct Machine<'a> {
    plan: &'a Plan,
    workers: Arc<Workers>,
    memory: Arc<GuestMemory>,
    /// Where this process has the memory.
    user: u64,
    controller: Mutex<Option<Arc<Controller>>>,
    /// How far it is: [`READY`], [`GONE`].
    state: AtomicUsize,
    /// The rigs begin together.
    start: Barrier,
    /// Rigs that have not finished.
    busy: AtomicUsize,
}

const READY: usize = 1;
const GONE: usize = 2;

impl Machine<'_> {
    fn new(plan: &Plan, rigs: usize) -> Machine<'_> {
        let (region, _file) = Region::allocate(GPA, PART * rigs as u64).unwrap();
        Machine {
            plan,
            workers: Workers::without_threads(rigs),
            user: region.user_addr(),
            memory: Arc::new(GuestMemory::new([Arc::new(region)]).unwrap()),
            controller: Mutex::new(None),
            state: AtomicUsize::new(0),
            start: Barrier::new(rigs),
            busy: AtomicUsize::new(rigs),
        }
    }

    /// A rig from its beginning to its end.
    fn run<T>(&self, number: usize, work: impl FnOnce(&mut Rig) -> T) -> T {
        let mut worker = self.workers.on_this_thread(number).unwrap();
        self.start.wait();
        self.turn_until(READY, number, &mut worker, || self.make_controller());
        let mut rig = Rig::new(self, number, worker);
        self.start.wait();
        let result = work(&mut rig);
        self.busy.fetch_sub(1, Ordering::AcqRel);
        self.turn_until(GONE, number, &mut rig.worker, || {
            while self.busy.load(Ordering::Acquire) > 0 {
                thread::yield_now();
            }
            drop(self.controller.lock().unwrap().take());
        });
        result
    }

    /// Gives a worker its turns while the first rig's helper does something to the controller: calls to it wait for all
    /// workers.
    fn turn_until(
        &self,
        state: usize,
        number: usize,
        worker: &mut LocalWorker,
        control: impl FnOnce() + Send,
    ) {
        thread::scope(|scope| {
            let helper = (number == 0).then(|| scope.spawn(control));
            while self.state.load(Ordering::Acquire) < state {
                worker.turn();
                thread::yield_now();
                if helper.as_ref().is_some_and(|helper| helper.is_finished()) {
                    self.state.store(state, Ordering::Release);
                }
            }
            // If it has failed, so has this.
            if let Some(helper) = helper {
                helper.join().unwrap();
            }
        });
    }

    fn make_controller(&self) {
        let Plan {
            image,
            disks,
            packed,
            ..
        } = self.plan;
        let queues = self.busy.load(Ordering::Acquire);
        let config = ControllerConfig {
            request_queues: queues as u16,
            ..ControllerConfig::default()
        };
        let controller = Controller::new(&self.workers, config).unwrap();
        let features = Features::from_bits_retain(controller.features());
        let features = match packed {
            true => features,
            false => features.difference(Features::RING_PACKED),
        };
        controller.set_features(features.bits()).unwrap();
        controller.set_memory(Arc::clone(&self.memory)).unwrap();
        for lun in 0..*disks {
            controller.attach(0, lun, disk(lun, image)).unwrap();
        }
        for queue in 0..queues {
            let layout = layout(queue);
            let setup = RingSetup {
                size: layout.size,
                desc: layout.desc - GPA + self.user,
                avail: layout.avail - GPA + self.user,
                used: layout.used - GPA + self.user,
                base: if *packed { PACKED_BASE } else { 0 },
                kick: None,
                call: None,
                err: None,
            };
            let index = REQUEST_QUEUE + queue;
            controller.start_queue(index, setup, true).unwrap();
        }
        *self.controller.lock().unwrap() = Some(controller);
    }
}

/// Where a queue's ring is.
fn layout(queue: usize) -> RingLayout {
    let at = GPA + queue as u64 * PART;
    RingLayout {
        size: RING_SIZE,
        desc: at,
        avail: at + 0x4000,
        used: at + 0x8000,
        space: AddressSpace::Guest,
    }
}

/// See the module.
pub struct Rig {
    driver: DriverQueue,
    memory: Arc<GuestMemory>,
    /// Where its commands' pieces begin.
    pieces: u64,
    /// Of the first command, whose blocks no other rig has.
    first: u16,
    /// What a command of each piece looks like in the ring: an indirect table, as Linux makes one.
    tables: Vec<Buffer>,
    disks: u16,
    /// Which disk is next.
    turn: u16,
    worker: LocalWorker,
}

impl Rig {
    fn new(machine: &Machine<'_>, number: usize, worker: LocalWorker) -> Rig {
        let features = RingFeatures {
            indirect: true,
            event_idx: true,
            packed: machine.plan.packed,
        };
        let driver = DriverQueue::new(&machine.memory, layout(number), features).unwrap();
        driver.disable_interrupts();
        let mut rig = Rig {
            driver,
            memory: Arc::clone(&machine.memory),
            pieces: GPA + number as u64 * PART + RING,
            first: number as u16 * DEPTH,
            tables: Vec::new(),
            disks: machine.plan.disks,
            turn: 0,
            worker,
        };
        let direction = machine.plan.direction;
        for number in 0..DEPTH {
            let table = rig.command(number, direction);
            rig.tables.push(table);
        }
        rig.warm_up();
        rig
    }

    /// Puts a command into its piece of memory.
    fn command(&self, number: u16, direction: Direction) -> Buffer {
        let piece = self.pieces + u64::from(number) * PIECE;
        let mut header = [0; HEADER.1 as usize];
        let lba = u32::from(self.first + number) * 37 % 256 * 8;
        let [a, b, c, d] = lba.to_be_bytes();
        let opcode = match direction {
            Direction::Read => 0x28,
            Direction::Write => 0x2A,
        };
        header[..4].copy_from_slice(&[1, 0, 0x40, 0]);
        header[8..10].copy_from_slice(&number.to_le_bytes());
        header[19..29].copy_from_slice(&[opcode, 0, a, b, c, d, 0, 0, (BLOCK / 512) as u8, 0]);
        let buffer = |(at, len)| Buffer {
            addr: piece + at,
            len,
        };
        let (header_at, response, data) = (buffer(HEADER), buffer(RESPONSE), buffer((0, BLOCK)));
        self.memory.write(header_at.addr, &header).unwrap();
        let table = match direction {
            Direction::Read => self.driver.indirect_table(&[header_at], &[response, data]),
            Direction::Write => self.driver.indirect_table(&[header_at, data], &[response]),
        };
        self.memory.write(piece + TABLE, &table).unwrap();
        buffer((TABLE, table.len() as u32))
    }

    /// Gives the device all commands at once, lets it take its turns by `turn` until they are done, and returns how many
    /// of them ended well.
    pub fn round(&mut self, turn: impl Fn(&mut LocalWorker)) -> u16 {
        for number in 0..if self.disks > 1 { DEPTH } else { 0 } {
            let at = self.pieces + u64::from(number) * PIECE + HEADER.0 + 2;
            let lun = self.turn | 0x4000;
            self.memory.write(at, &lun.to_be_bytes()).unwrap();
            self.turn = (self.turn + 1) % self.disks;
        }
        for table in &self.tables {
            self.driver.add_indirect(&[], *table).unwrap();
        }
        let _ = self.driver.publish();
        while self.driver.outstanding() > 0 {
            turn(&mut self.worker);
            while self.driver.reap().unwrap().is_some() {}
        }
        (0..DEPTH).filter(|&number| self.went_well(number)).count() as u16
    }

    /// Whether a command ended with GOOD, and moved all of its data.
    fn went_well(&self, number: u16) -> bool {
        let mut response = [0xFF; 12];
        let at = self.pieces + u64::from(number) * PIECE + RESPONSE.0;
        self.memory.read(at, &mut response).unwrap();
        // So that an old answer does not pass for a new one.
        self.memory.write(at, &[0xFF; 12]).unwrap();
        response == [0; 12]
    }

    /// Rounds until everything has its place: unit attentions are reported, lists have grown.
    fn warm_up(&mut self) {
        // Twice each disk.
        for _ in 0..(self.disks / DEPTH * 2).max(4) {
            self.round(|worker| {
                worker.turn();
            });
        }
    }
}

/// A disk as hosts make them.
fn disk(lun: u16, image: &Arc<dyn Image>) -> Arc<Disk> {
    let config = DiskConfig {
        identity: format!("disk{lun}"),
        ..DiskConfig::default()
    };
    let backend = Backend::new(Arc::clone(image), ErrorRules::default(), |_| {});
    Disk::new(config, backend).unwrap()
}
