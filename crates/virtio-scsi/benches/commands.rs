//! What a READ or a WRITE of 4 KiB costs from ring to ring.
//!
//! `cargo bench --bench commands` prints the time of each; `commands NAME ROUNDS` runs one, for a profiler that collects
//! only what [`counted`] does. `cargo xtask instructions` counts the instructions so, and compares them with what they were.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a program for developers: its output is its product"
)]

#[path = "../tests/rig/mod.rs"]
mod rig;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use lunar_block::{Driver, Image, NodeOptions, open_node};
use lunar_virtio_scsi::LocalWorker;

use rig::{DEPTH, Direction, Rig};

/// A workload.
struct Bench {
    name: &'static str,
    image: fn() -> Arc<dyn Image>,
    disks: u16,
    direction: Direction,
    packed: bool,
}

const BENCHES: &[Bench] = &[
    bench("null-read", null, 1, Direction::Read),
    bench("null-write", null, 1, Direction::Write),
    bench("null-read-of-4096-disks", null, 4096, Direction::Read),
    bench("memory-read", memory, 1, Direction::Read),
    bench("memory-write", memory, 1, Direction::Write),
    Bench {
        packed: true,
        ..bench("null-read-packed", null, 1, Direction::Read)
    },
    Bench {
        packed: true,
        ..bench("null-write-packed", null, 1, Direction::Write)
    },
];

const fn bench(
    name: &'static str,
    image: fn() -> Arc<dyn Image>,
    disks: u16,
    direction: Direction,
) -> Bench {
    Bench {
        name,
        image,
        disks,
        direction,
        packed: false,
    }
}

fn null() -> Arc<dyn Image> {
    open(Driver::Null {
        size: 1 << 30,
        read_zeroes: false,
        latency_ns: 0,
    })
}

fn memory() -> Arc<dyn Image> {
    open(Driver::Memory { size: 1 << 20 })
}

fn open(driver: Driver) -> Arc<dyn Image> {
    open_node(driver, &NodeOptions::default()).expect("an image")
}

/// The one place from which the device works while it is measured.
#[inline(never)]
fn counted(worker: &mut LocalWorker) {
    black_box(worker.turn());
}

fn main() {
    // Cargo's own argument is none of ours.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    match arguments.as_slice() {
        [] => {
            for bench in BENCHES {
                println!("{:26} {:6.1} ns", bench.name, bench.time());
            }
        }
        [list] if list == "--list" => BENCHES.iter().for_each(|bench| println!("{}", bench.name)),
        [name, rounds] => {
            let named = BENCHES.iter().find(|bench| bench.name == name);
            let bench = named.expect("the name of a benchmark");
            println!("{}", bench.run(rounds.parse().expect("a number of rounds")));
        }
        _ => println!("usage: commands [--list | NAME ROUNDS]"),
    }
}

impl Bench {
    fn rig(&self) -> Rig {
        let mut rig = Rig::new(&(self.image)(), self.disks, self.direction, self.packed);
        rig.warm_up();
        rig
    }

    /// Runs so many rounds, and returns how many commands that were.
    fn run(&self, rounds: u32) -> u32 {
        let mut rig = self.rig();
        for _ in 0..rounds {
            assert_eq!(rig.round(counted), DEPTH, "a command has failed");
        }
        rounds * u32::from(DEPTH)
    }

    /// Nanoseconds of a command, the driver's part included: the best of some attempts.
    fn time(&self) -> f64 {
        const ROUNDS: u32 = 5000;
        let mut rig = self.rig();
        let attempt = |_| {
            let start = Instant::now();
            for _ in 0..ROUNDS {
                rig.round(counted);
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS * u32::from(DEPTH))
        };
        (0..10).map(attempt).fold(f64::INFINITY, f64::min)
    }
}
