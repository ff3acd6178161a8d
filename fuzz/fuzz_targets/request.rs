//! Any chains on the control, event and request queues of a controller with a disk, cut anywhere: no panic; a request
//! that can hold its headers is used exactly once, with an answer that makes sense, until one that cannot breaks its
//! ring and no other; and every ring can be stopped.
#![no_main]

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use lunar_block::{Driver, NodeOptions, open_node};
use lunar_devices::{Disk, DiskConfig};
use lunar_virtio_scsi::{Controller, ControllerConfig, RingSetup, Workers, WorkersConfig};
use lunar_virtqueue::{
    AddressSpace, Buffer, DriverQueue, GuestMemory, Region, RingFeatures, RingLayout,
};

const GPA: u64 = 0x10_0000;
const SIZE: u64 = 8 << 20;
const RING: u16 = 128;
const QUEUES: usize = 4;
/// One request queue is left alone, to see that it still serves.
const WITNESS: usize = 3;
const REQUEST: usize = 2;
/// Bytes of a request's and a response's header.
const HEADERS: (usize, usize) = (51, 108);
const DEADLINE: Duration = Duration::from_secs(20);

/// Where the chain goes and what is bent straight in it; its readable bytes; where they are cut; the lengths of its
/// writable buffers.
type Input = (u8, Vec<u8>, Vec<u8>, Vec<u16>);

struct Machine {
    workers: Arc<Workers>,
    memory: Arc<GuestMemory>,
    user: u64,
    disk: Arc<Disk>,
}

thread_local! {
    static MACHINE: RefCell<Option<Machine>> = const { RefCell::new(None) };
}

fn machine() -> Machine {
    let config = WorkersConfig {
        count: 1,
        ..WorkersConfig::default()
    };
    let (region, _file) = Region::allocate(GPA, SIZE).unwrap();
    let user = region.user_addr();
    let image = open_node(Driver::Memory { size: 1 << 20 }, &NodeOptions::default()).unwrap();
    Machine {
        workers: Workers::start(config).unwrap(),
        memory: Arc::new(GuestMemory::new([Arc::new(region)]).unwrap()),
        user,
        disk: Disk::new(DiskConfig::default(), image).unwrap(),
    }
}

struct Guest<'a> {
    machine: &'a Machine,
    next: u64,
}

impl Guest<'_> {
    /// Starts a ring without descriptors: it is polled, and nobody has to be woken.
    fn start(&mut self, controller: &Controller, index: usize) -> DriverQueue {
        let size = usize::from(RING);
        let parts = [16 * size, 6 + 2 * size, 6 + 8 * size];
        let [desc, avail, used] = parts.map(|len| guest_room(&mut self.next, len).unwrap());
        let layout = RingLayout {
            size: RING,
            desc,
            avail,
            used,
            space: AddressSpace::Guest,
        };
        let queue =
            DriverQueue::new(&self.machine.memory, layout, RingFeatures::default()).unwrap();
        let user = |gpa| gpa - GPA + self.machine.user;
        let setup = RingSetup {
            size: RING,
            desc: user(desc),
            avail: user(avail),
            used: user(used),
            base: 0,
            kick: None,
            call: None,
            err: None,
        };
        controller.start_queue(index, setup, true).unwrap();
        queue
    }
}

/// A request that was made available.
struct Request {
    head: u16,
    /// The first writable bytes, as far as they matter here.
    response: [u64; 12],
    data: usize,
    writable: usize,
    /// It can hold its headers.
    whole: bool,
}

/// Puts a chain into guest memory and stages it; `None` when there is no room.
fn stage(
    guest: &mut Guest<'_>,
    queue: &mut DriverQueue,
    bytes: &[u8],
    cuts: &[u8],
    answer: &[usize],
) -> Option<Request> {
    let memory = &guest.machine.memory;
    let readable_at = guest.next.next_multiple_of(16);
    let total: usize = answer.iter().sum();
    let at = guest_room(&mut guest.next, bytes.len() + total + answer.len())?;
    memory.write(at, bytes).unwrap();
    let (mut readable, mut done) = (Vec::new(), 0);
    let ends = cuts.iter().take(12).map(|&cut| usize::from(cut));
    for len in ends.chain([bytes.len()]) {
        let len = len.min(bytes.len() - done);
        if len > 0 {
            readable.push(Buffer {
                addr: readable_at + done as u64,
                len: len as u32,
            });
            done += len;
        }
    }
    let (mut writable, mut next) = (Vec::new(), at + bytes.len() as u64);
    let mut places = Vec::new();
    for &len in answer {
        writable.push(Buffer {
            addr: next,
            len: len as u32,
        });
        places.extend((next..next + len as u64).take(12 - places.len().min(12)));
        // A gap, so that buffers do not continue each other.
        next += len as u64 + 1;
    }
    let head = queue.add(&readable, &writable).ok()?;
    let headers = bytes.len() >= HEADERS.0 && total >= HEADERS.1;
    places.resize(12, 0);
    Some(Request {
        head,
        response: places.try_into().unwrap(),
        data: bytes.len().saturating_sub(HEADERS.0) + total.saturating_sub(HEADERS.1),
        writable: total,
        whole: headers,
    })
}

fn guest_room(next: &mut u64, len: usize) -> Option<u64> {
    let at = next.next_multiple_of(16);
    *next = at + len as u64;
    (*next <= GPA + SIZE).then_some(at)
}

/// Waits until every request before the first that breaks the ring has been answered, and looks at the answers.
fn settle(memory: &GuestMemory, queue: &mut DriverQueue, requests: &[Request]) {
    let start = Instant::now();
    let mut open: Vec<&Request> = requests
        .iter()
        .take_while(|request| request.whole)
        .collect();
    while !open.is_empty() {
        let Some(used) = queue.reap().unwrap() else {
            assert!(
                start.elapsed() < DEADLINE,
                "{} requests were not answered",
                open.len()
            );
            std::thread::yield_now();
            continue;
        };
        let at = open.iter().position(|request| request.head == used.head);
        let request = open.swap_remove(at.expect("a broken ring answers nothing more"));
        let mut header = [0; 12];
        for (byte, &place) in header.iter_mut().zip(&request.response) {
            memory.read(place, std::slice::from_mut(byte)).unwrap();
        }
        let residual = u32::from_le_bytes(header[4..8].try_into().unwrap()) as usize;
        assert!(header[0] <= 96 && header[1..4] == [0; 3], "sense_len");
        assert!(residual <= request.data);
        assert!(header[11] <= 9, "response {}", header[11]);
        assert!((HEADERS.1..=request.writable).contains(&(used.written as usize)));
    }
    assert!(queue.reap().unwrap().is_none(), "used twice");
}

fuzz_target!(|input: Vec<Input>| {
    MACHINE.with_borrow_mut(|slot| run(slot.get_or_insert_with(machine), input));
});

fn run(machine: &Machine, input: Vec<Input>) {
    let controller = Controller::new(
        &machine.workers,
        ControllerConfig {
            request_queues: 2,
            ..ControllerConfig::default()
        },
    )
    .unwrap();
    let mut guest = Guest { machine, next: GPA };
    // VERSION_1 and HOTPLUG.
    controller.set_features(1 << 32 | 1 << 1).unwrap();
    controller.set_memory(machine.memory.clone()).unwrap();
    let mut queues: Vec<_> = (0..QUEUES)
        .map(|index| guest.start(&controller, index))
        .collect();
    controller.attach(0, 0, machine.disk.clone()).unwrap();

    let mut requests = Vec::new();
    for (choice, mut bytes, cuts, lens) in input.into_iter().take(24) {
        let index = usize::from(choice & 3).min(REQUEST);
        if choice & 4 != 0 {
            // Bend it straight: a message of a kind there is, to the disk.
            bytes.resize(bytes.len().max(HEADERS.0), 0);
            let at = if index == REQUEST { 0 } else { 8 };
            bytes[..at].iter_mut().for_each(|byte| *byte &= 7);
            bytes[at..at + 8].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        }
        let mut answer: Vec<_> = lens
            .iter()
            .take(12)
            .map(|&len| usize::from(len % 4097))
            .collect();
        if choice & 8 != 0 {
            answer.insert(0, HEADERS.1);
        }
        answer.retain(|&len| len > 0);
        let request = stage(&mut guest, &mut queues[index], &bytes, &cuts, &answer);
        requests.extend(request.filter(|_| index == REQUEST));
    }
    for queue in &mut queues {
        let _ = queue.publish();
    }
    settle(&machine.memory, &mut queues[REQUEST], &requests);

    // Whatever has happened, the other ring serves. Its worker has then looked into all of them.
    let mut inquiry = [0; HEADERS.0];
    (inquiry[0], inquiry[19]) = (1, 0x12);
    let witness = stage(
        &mut guest,
        &mut queues[WITNESS],
        &inquiry,
        &[],
        &[HEADERS.1],
    );
    let _ = queues[WITNESS].publish();
    settle(
        &machine.memory,
        &mut queues[WITNESS],
        &[witness.expect("room was kept")],
    );
    for index in 0..QUEUES {
        controller.stop_queue(index).unwrap();
    }
    controller.detach(0, 0).unwrap();
}
