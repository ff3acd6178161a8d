//! A driver and the worker that serves it, taking turns on one thread: nothing sleeps, nothing depends on time, and a
//! round of commands costs the same whenever it is run.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "the rig is a test's: what fails there fails the test"
)]

use std::sync::Arc;
use std::thread;

use lunar_block::Image;
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

/// What the commands do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Read,
    Write,
}

/// See the module.
pub struct Rig {
    driver: DriverQueue,
    memory: Arc<GuestMemory>,
    /// What a command of each piece looks like in the ring: an indirect table, as Linux makes one.
    tables: Vec<Buffer>,
    /// There until the end, when it goes on a thread that can wait for the worker.
    controller: Option<Arc<Controller>>,
    worker: LocalWorker,
}

impl Rig {
    /// Disks on `image` behind target 0, of which the last one gets the commands.
    pub fn new(image: &Arc<dyn Image>, disks: u16, direction: Direction, packed: bool) -> Rig {
        let (workers, mut worker) = Workers::on_this_thread().unwrap();
        let (region, _file) = Region::allocate(GPA, RING + u64::from(DEPTH) * PIECE).unwrap();
        let user = region.user_addr();
        let memory = Arc::new(GuestMemory::new([Arc::new(region)]).unwrap());
        let layout = RingLayout {
            size: RING_SIZE,
            desc: GPA,
            avail: GPA + 0x4000,
            used: GPA + 0x8000,
            space: AddressSpace::Guest,
        };
        let features = RingFeatures {
            indirect: true,
            event_idx: true,
            packed,
        };
        let driver = DriverQueue::new(&memory, layout, features).unwrap();
        driver.disable_interrupts();
        let setup = RingSetup {
            size: layout.size,
            desc: layout.desc - GPA + user,
            avail: layout.avail - GPA + user,
            used: layout.used - GPA + user,
            base: if packed { PACKED_BASE } else { 0 },
            kick: None,
            call: None,
            err: None,
        };
        let units: Vec<_> = (0..disks).map(|lun| disk(lun, image)).collect();
        // Calls to the controller wait for the worker, so they are another thread's.
        let controller = thread::scope(|scope| {
            let control = scope.spawn(|| {
                let controller = Controller::new(&workers, ControllerConfig::default()).unwrap();
                let features = Features::from_bits_retain(controller.features());
                let features = match packed {
                    true => features,
                    false => features.difference(Features::RING_PACKED),
                };
                controller.set_features(features.bits()).unwrap();
                controller.set_memory(Arc::clone(&memory)).unwrap();
                for (lun, unit) in (0..).zip(units) {
                    controller.attach(0, lun, unit).unwrap();
                }
                controller.start_queue(REQUEST_QUEUE, setup, true).unwrap();
                controller
            });
            while !control.is_finished() {
                worker.turn();
                thread::yield_now();
            }
            control.join().unwrap()
        });
        let mut rig = Rig {
            driver,
            memory,
            tables: Vec::new(),
            controller: Some(controller),
            worker,
        };
        for number in 0..DEPTH {
            let table = rig.command(number, disks - 1, direction);
            rig.tables.push(table);
        }
        rig
    }

    /// Puts a command into its piece of memory.
    fn command(&self, number: u16, lun: u16, direction: Direction) -> Buffer {
        let piece = GPA + RING + u64::from(number) * PIECE;
        let mut header = [0; HEADER.1 as usize];
        let [hi, lo] = (lun | 0x4000).to_be_bytes();
        let lba = u32::from(number) * 37 % 256 * 8;
        let [a, b, c, d] = lba.to_be_bytes();
        let opcode = match direction {
            Direction::Read => 0x28,
            Direction::Write => 0x2A,
        };
        header[..4].copy_from_slice(&[1, 0, hi, lo]);
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
        let at = GPA + RING + u64::from(number) * PIECE + RESPONSE.0;
        self.memory.read(at, &mut response).unwrap();
        // So that an old answer does not pass for a new one.
        self.memory.write(at, &[0xFF; 12]).unwrap();
        response == [0; 12]
    }

    /// Rounds until everything has its place: unit attentions are reported, lists have grown.
    pub fn warm_up(&mut self) {
        for _ in 0..4 {
            self.round(|worker| {
                worker.turn();
            });
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let controller = self.controller.take();
        thread::scope(|scope| {
            let control = scope.spawn(|| drop(controller));
            while !control.is_finished() {
                self.worker.turn();
                thread::yield_now();
            }
        });
    }
}

fn disk(lun: u16, image: &Arc<dyn Image>) -> Arc<Disk> {
    let config = DiskConfig {
        identity: format!("disk{lun}"),
        ..DiskConfig::default()
    };
    Disk::new(config, Arc::clone(image)).unwrap()
}
