//! An idle guest costs nothing. A process of its own, because the measure is the process's CPU time.
#![cfg(test)]

use std::sync::Arc;
use std::time::Duration;

use lunar_virtio_scsi::{Controller, ControllerConfig, RingSetup, Workers, WorkersConfig};
use lunar_virtqueue::{AddressSpace, DriverQueue, GuestMemory, Region, RingFeatures, RingLayout};
use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{ClockId, clock_gettime};

const GPA: u64 = 0x10_0000;
const PAGE: u64 = 4096;

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).expect("the clock is not negative")
}

#[test]
fn started_rings_without_work_cost_no_cpu_time() {
    let config = WorkersConfig {
        count: 2,
        ..WorkersConfig::default()
    };
    let workers = Workers::start(config).unwrap();
    let config = ControllerConfig {
        request_queues: 4,
        ..ControllerConfig::default()
    };
    let controller = Controller::new(&workers, config).unwrap();
    let (region, _file) = Region::allocate(GPA, 64 * PAGE).unwrap();
    let user = region.user_addr();
    let memory = Arc::new(GuestMemory::new([Arc::new(region)]).unwrap());
    // VERSION_1 alone: rings as simple as they can be.
    controller.set_features(1 << 32).unwrap();
    controller.set_memory(memory.clone()).unwrap();
    for index in 0..controller.queue_count() {
        let at = 3 * PAGE * index as u64;
        let layout = RingLayout {
            size: 128,
            desc: GPA + at,
            avail: GPA + at + PAGE,
            used: GPA + at + 2 * PAGE,
            space: AddressSpace::Guest,
        };
        DriverQueue::new(&memory, layout, RingFeatures::default()).unwrap();
        let event = || Some(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let setup = RingSetup {
            size: 128,
            desc: user + at,
            avail: user + at + PAGE,
            used: user + at + 2 * PAGE,
            base: 0,
            kick: event(),
            call: event(),
            err: event(),
        };
        controller.start_queue(index, setup, true).unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
    let before = cpu_time();
    std::thread::sleep(Duration::from_millis(500));
    let spent = cpu_time() - before;
    assert!(
        spent < Duration::from_millis(5),
        "{spent:?} in half a second"
    );
}
