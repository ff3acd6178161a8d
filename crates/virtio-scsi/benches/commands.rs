//! What a READ or a WRITE of 4 KiB costs from ring to ring.
//!
//! `cargo bench --bench commands` prints the time of each, and with `-- --queues` how much more two queues of one controller
//! do with a worker each, both on the same disk: there nobody waits for anybody, as every driver is on the thread of its
//! worker, so two processors are enough. `commands NAME ROUNDS` runs one, for a profiler that collects only what [`counted`]
//! does. `cargo xtask instructions` counts the instructions so, and compares them with what they were.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a program for developers: its output is its product"
)]

#[path = "../tests/rig/mod.rs"]
mod rig;

use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lunar_block::{Driver, Image, NodeOptions, open_node};
use lunar_virtio_scsi::LocalWorker;
use rustix::thread::{CpuSet, sched_setaffinity};

use rig::{DEPTH, Direction, Plan, Rig};
use tempfile::NamedTempFile;

/// Bytes of the images that have bytes.
const SIZE: u64 = 1 << 20;

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
    bench("raw-read", raw, 1, Direction::Read),
    bench("raw-write", raw, 1, Direction::Write),
    bench("qcow2-read", qcow2, 1, Direction::Read),
    bench("qcow2-write", qcow2, 1, Direction::Write),
    packed("null-read-packed", null, Direction::Read),
    packed("null-write-packed", null, Direction::Write),
    packed("memory-read-packed", memory, Direction::Read),
    packed("memory-write-packed", memory, Direction::Write),
    packed("raw-read-packed", raw, Direction::Read),
    packed("raw-write-packed", raw, Direction::Write),
    packed("qcow2-read-packed", qcow2, Direction::Read),
    packed("qcow2-write-packed", qcow2, Direction::Write),
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

const fn packed(name: &'static str, image: fn() -> Arc<dyn Image>, direction: Direction) -> Bench {
    Bench {
        packed: true,
        ..bench(name, image, 1, direction)
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
    open(Driver::Memory { size: SIZE })
}

/// A file in memory, which system calls copy from and to: what they do in the kernel is not counted.
fn raw() -> Arc<dyn Image> {
    let file = in_memory();
    file.as_file().set_len(SIZE).expect("a file");
    open(Driver::File {
        filename: file.path().to_owned(),
    })
}

/// The same with a format, whose clusters are all there.
fn qcow2() -> Arc<dyn Image> {
    let file = in_memory();
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-o", "preallocation=full"]);
    let created = create.arg(file.path()).arg(SIZE.to_string()).status();
    assert!(created.expect("qemu-img").success());
    open(Driver::Qcow2 {
        file: file.path().to_owned(),
    })
}

/// The name goes when the image is open.
fn in_memory() -> NamedTempFile {
    NamedTempFile::new_in("/dev/shm").expect("a file in memory")
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
        [queues] if queues == "--queues" => {
            for bench in BENCHES
                .iter()
                .filter(|bench| bench.disks == 1 && !bench.packed)
            {
                let (ratio, two) = bench.scaling();
                println!(
                    "{:26} {ratio:5.2} times as much with two queues on two workers: {:.2} M/s",
                    bench.name,
                    two / 1e6
                );
            }
        }
        [name, rounds] => {
            let named = BENCHES.iter().find(|bench| bench.name == name);
            let bench = named.expect("the name of a benchmark");
            println!("{}", bench.run(rounds.parse().expect("a number of rounds")));
        }
        _ => println!("usage: commands [--list | --queues | NAME ROUNDS]"),
    }
}

impl Bench {
    fn plan(&self) -> Plan {
        Plan {
            image: (self.image)(),
            disks: self.disks,
            direction: self.direction,
            packed: self.packed,
        }
    }

    /// Runs so many rounds, and returns how many commands that were.
    fn run(&self, rounds: u32) -> u32 {
        self.plan().run(|rig| {
            for _ in 0..rounds {
                assert_eq!(rig.round(counted), DEPTH, "a command has failed");
            }
        });
        rounds * u32::from(DEPTH)
    }

    /// Nanoseconds of a command, the driver's part included: the best of some attempts.
    fn time(&self) -> f64 {
        const ROUNDS: u32 = 5000;
        let attempt = |rig: &mut Rig| {
            let start = Instant::now();
            for _ in 0..ROUNDS {
                rig.round(counted);
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS * u32::from(DEPTH))
        };
        self.plan()
            .run(|rig| (0..10).map(|_| attempt(rig)).fold(f64::INFINITY, f64::min))
    }

    /// Commands a second of so many queues with a worker each, on processors of their own, to the same disk.
    fn rate(&self, queues: usize) -> f64 {
        const SPAN: Duration = Duration::from_millis(100);
        let rates = self.plan().run_on_threads(queues, |number, rig| {
            let mut processor = CpuSet::new();
            processor.set(number);
            sched_setaffinity(None, &processor).expect("a processor for each queue");
            let (start, mut commands) = (Instant::now(), 0.0);
            while start.elapsed() < SPAN {
                for _ in 0..100 {
                    rig.round(counted);
                    commands += f64::from(DEPTH);
                }
            }
            commands / start.elapsed().as_secs_f64()
        });
        rates.iter().sum()
    }

    /// How many times as much two queues with a worker each do as one, and how much that is: the median of pairs of
    /// measurements in turns.
    fn scaling(&self) -> (f64, f64) {
        let pair = |()| (self.rate(1), self.rate(2));
        let mut pairs = [(); 9].map(pair).map(|(one, two)| (two / one, two));
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let [.., median, _, _, _, _] = pairs;
        median
    }
}
