//! What a ring costs: nanoseconds of one thread per request, both sides, in batches of 32.
//!
//! `cargo run --release -p lunar-virtqueue --example ring_cost`
#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "its output is its purpose; figures are rounded anyway"
)]

use std::sync::Arc;
use std::time::Instant;

use lunar_virtqueue::{
    AddressSpace, Buffer, Chain, DriverQueue, Error, GuestMemory, PACKED_BASE, Queue, Region,
    RingFeatures, RingLayout,
};

const BATCH: usize = 32;
const ROUNDS: u32 = 1000;
/// The best of so many measurements counts: the others were disturbed.
const REPEATS: u32 = 200;
const LAYOUT: RingLayout = RingLayout {
    size: 128,
    desc: 0,
    avail: 0x1000,
    used: 0x2000,
    space: AddressSpace::Guest,
};
/// The features of both formats, and where a new ring of each begins.
const FORMATS: [(RingFeatures, u32); 2] = [(SPLIT, 0), (PACKED, PACKED_BASE)];
const SPLIT: RingFeatures = RingFeatures {
    indirect: true,
    event_idx: true,
    packed: false,
};
const PACKED: RingFeatures = RingFeatures {
    packed: true,
    ..SPLIT
};

fn main() -> Result<(), Error> {
    // Header, response, and one page of data: a 4 KiB READ.
    let buffer = |addr, len| Buffer { addr, len };
    let readable = [buffer(0x1_0000, 51)];
    let writable = [buffer(0x1_1000, 108), buffer(0x2_0000, 4096)];
    let formats = FORMATS.into_iter();
    for ((features, base), indirect) in
        formats.flat_map(|format| [false, true].map(|indirect| (format, indirect)))
    {
        let memory = Arc::new(GuestMemory::new([
            Arc::new(Region::allocate(0, 0x10_0000)?.0),
            Arc::new(Region::allocate(1 << 32, 0x10_0000)?.0),
        ])?);
        let mut driver = DriverQueue::new(&memory, LAYOUT, features)?;
        let table = driver.indirect_table(&readable, &writable);
        memory.write(0x3_0000, &table)?;
        let table = buffer(0x3_0000, u32::try_from(table.len()).unwrap_or(0));
        let mut queue = Queue::new(&memory, LAYOUT, features, base)?;
        let mut chains: Vec<Chain> = (0..BATCH).map(|_| Chain::new()).collect();
        let (mut best_device, mut best_both) = (f64::MAX, f64::MAX);
        for _ in 0..REPEATS {
            let mut device = 0;
            let start = Instant::now();
            for _ in 0..ROUNDS {
                for _ in 0..BATCH {
                    match indirect {
                        true => driver.add_indirect(&[], table)?,
                        false => driver.add(&readable, &writable)?,
                    };
                }
                let _ = driver.publish();
                let served = Instant::now();
                for chain in &mut chains {
                    assert!(queue.pop(chain)?);
                }
                for chain in &chains {
                    queue.push(chain, 108 + 4096);
                }
                std::hint::black_box(queue.publish());
                device += served.elapsed().as_nanos();
                while driver.reap()?.is_some() {}
            }
            let requests = f64::from(ROUNDS) * BATCH as f64;
            best_device = best_device.min(device as f64 / requests);
            best_both = best_both.min(start.elapsed().as_nanos() as f64 / requests);
        }
        println!(
            "{}, {}: device side {best_device:.1} ns, both sides {best_both:.1} ns per request of 3 segments",
            if features.packed { "packed" } else { "split" },
            if indirect { "indirect" } else { "direct" },
        );
    }
    Ok(())
}
