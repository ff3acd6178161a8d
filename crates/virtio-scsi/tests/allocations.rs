//! Once everything has its place, a READ or a WRITE allocates nothing.
#![cfg(test)]
#![allow(unsafe_code, reason = "an allocator is unsafe by its nature")]

mod rig;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use lunar_block::{Driver, Image, NodeOptions, open_node};

use rig::{DEPTH, Direction, Plan, Rig};

/// The system's allocator, which counts what the thread asks of it.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.with(|count| count.set(count.get() + 1));
}

// SAFETY: everything is the system allocator's; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations while `work` is done.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// Lists grow until as many commands as there can be have been in flight at once. When that is, is a matter of chance where
/// the kernel has a part in it; but they grow a few times in all, and a command that allocated would do so each time.
#[track_caller]
fn assert_steady(driver: Driver) {
    let image: Arc<dyn Image> = open_node(driver, &NodeOptions::default()).unwrap();
    for direction in [Direction::Read, Direction::Write] {
        let plan = Plan {
            image: Arc::clone(&image),
            disks: 1,
            direction,
            packed: false,
        };
        let counts: Vec<u64> = plan.run(|rig| (0..20).map(|_| hundred_rounds(rig)).collect());
        assert!(
            counts.contains(&0),
            "allocations in 100 rounds: {counts:?}, {direction:?}"
        );
        assert!(
            counts.iter().sum::<u64>() < 8 * u64::from(DEPTH),
            "allocations grow with the commands: {counts:?}, {direction:?}"
        );
    }
}

/// The worker's allocations in a hundred rounds.
fn hundred_rounds(rig: &mut Rig) -> u64 {
    let counted = Cell::new(0);
    for _ in 0..100 {
        let good = rig.round(|worker| {
            let here = allocations(|| {
                worker.turn();
            });
            counted.set(counted.get() + here);
        });
        assert_eq!(good, DEPTH, "a command has failed");
    }
    counted.get()
}

#[test]
fn an_allocation_is_counted() {
    let one = allocations(|| drop(std::hint::black_box(Box::new(1))));
    assert_eq!(one, 1);
}

#[test]
fn commands_to_a_null_disk_allocate_nothing() {
    assert_steady(Driver::Null {
        size: 1 << 30,
        read_zeroes: false,
        latency_ns: 0,
    });
}

#[test]
fn commands_to_a_memory_disk_allocate_nothing() {
    assert_steady(Driver::Memory { size: 1 << 20 });
}

#[test]
fn commands_to_a_memory_disk_that_no_cache_holds_allocate_nothing() {
    assert_steady(Driver::Memory { size: 64 << 20 });
}

#[test]
fn commands_to_a_file_allocate_nothing() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![0x5A; 1 << 20]).unwrap();
    let filename = file.path().to_owned();
    assert_steady(Driver::File { filename });
}
