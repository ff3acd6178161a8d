//! Both sides of a ring together: whatever the driver puts in comes out, and back.
#![cfg(test)]
#![allow(
    clippy::cast_possible_truncation,
    unsafe_code,
    reason = "test values are small; lists of a chain's segments are made by unsafe calls"
)]

mod common;

use std::sync::Arc;

use common::{DATA, Guest, PIECE, both, content, joined, layout};
use lunar_virtqueue::{
    AddressSpace, Buffer, Chain, DriverQueue, GuestMemory, PACKED_BASE, Queue, RingFeatures,
    RingLayout,
};
use proptest::prelude::*;

const FEATURES: RingFeatures = RingFeatures {
    indirect: true,
    event_idx: true,
    packed: false,
};

/// Both formats, with a base at which a new ring of it begins.
const FORMATS: [(RingFeatures, u32); 2] = [
    (FEATURES, 0),
    (
        RingFeatures {
            packed: true,
            ..FEATURES
        },
        PACKED_BASE,
    ),
];

/// Cuts `len` bytes at `addr` into buffers of the given lengths; the rest is the last buffer.
fn cut(addr: u64, len: u32, lens: &[u32]) -> Vec<Buffer> {
    let mut buffers = Vec::new();
    let mut done = 0;
    for &n in lens.iter().chain([&u32::MAX]) {
        let n = n.min(len - done);
        buffers.push(Buffer {
            addr: addr + u64::from(done),
            len: n,
        });
        done += n;
    }
    buffers
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn header_and_data_arrive_wherever_the_driver_cuts_them(
        lens in prop::collection::vec(0u32..700, 0..6),
        answer_lens in prop::collection::vec(0u32..700, 0..6),
        len in 51u32..4000, answer_len in 108u32..4000,
        // Close to the end of the first region, so that most chains cross it.
        back in 0u64..4000,
        outside in prop::option::of(0usize..3),
        seed: u8,
        packed: bool,
    ) {
        let guest = Guest::new();
        let layout = layout(16);
        let (features, base) = FORMATS[usize::from(packed)];
        let mut driver = DriverQueue::new(&guest.memory, layout, features).unwrap();
        let mut queue = Queue::new(&guest.memory, layout, features, base).unwrap();
        let at = DATA + PIECE - back;
        let answer_at = DATA + 2 * PIECE - back;
        let sent: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(7).wrapping_add(seed)).collect();
        guest.memory.write(at, &sent).unwrap();
        let (readable, writable) = (cut(at, len, &lens), cut(answer_at, answer_len, &answer_lens));

        let head = match outside {
            None => driver.add(&readable, &writable).unwrap(),
            Some(n) => {
                let (direct, rest) = readable.split_at(n.min(readable.len()));
                let bytes = driver.indirect_table(rest, &writable);
                // The table crosses regions as well, at an address that is a multiple of nothing.
                let addr = DATA + 3 * PIECE - bytes.len() as u64 - u64::from(seed % 16);
                guest.memory.write(addr, &bytes).unwrap();
                driver.add_indirect(direct, Buffer { addr, len: bytes.len() as u32 }).unwrap()
            }
        };
        prop_assert!(driver.publish(), "a fresh ring wants its first kick");

        let mut chain = Chain::new();
        prop_assert!(queue.pop(&mut chain).unwrap());
        prop_assert_eq!(chain.head(), head);
        prop_assert_eq!(both(&guest, &chain), [joined(&readable), joined(&writable)]);
        prop_assert_eq!(content(&chain.readable), &sent[..]);

        // SAFETY: the lists are used before the chain is touched again; `guest` keeps the memory.
        let (header, data) = unsafe { chain.readable.split_at(51) }.unwrap();
        prop_assert_eq!((header.len(), data.len()), (51, len as usize - 51));
        let mut got = vec![0; data.len()];
        data.read_at(0, &mut got);
        prop_assert_eq!(&got[..], &sent[51..]);
        // SAFETY: as above.
        let (response, data_in) = unsafe { chain.writable.split_at(108) }.unwrap();
        response.fill_at(0, 108, 0x11);
        data_in.fill_at(0, data_in.len(), 0x22);
        // SAFETY: as above.
        let beyond = unsafe { chain.readable.split_at(len as usize + 1) };
        prop_assert!(beyond.is_none());

        queue.push(&chain, answer_len);
        prop_assert_eq!(driver.reap().unwrap(), None, "staged is not published");
        prop_assert!(queue.publish());
        let used = driver.reap().unwrap().unwrap();
        prop_assert_eq!((used.head, used.written), (head, answer_len));
        let answer = guest.bytes(answer_at, answer_len as usize);
        prop_assert!(answer[..108].iter().all(|&b| b == 0x11));
        prop_assert!(answer[108..].iter().all(|&b| b == 0x22));
    }
}

#[test]
fn indices_wrap_after_65536_chains_and_a_successor_goes_on_where_the_queue_stopped() {
    // A packed ring need not have a power of two.
    for ((features, base), size) in FORMATS.into_iter().zip([4, 5]) {
        let guest = Guest::new();
        let layout = layout(size);
        let mut driver = DriverQueue::new(&guest.memory, layout, features).unwrap();
        let mut queue = Queue::new(&guest.memory, layout, features, base).unwrap();
        let mut chain = Chain::new();
        let buffer = [Buffer { addr: DATA, len: 8 }];
        for round in 0u64..30_000 {
            if round % 7000 == 0 {
                assert_eq!(queue.in_flight(), 0);
                assert_eq!(queue.base(), driver.base_at_used());
                queue = Queue::new(&guest.memory, layout, features, queue.base()).unwrap();
            }
            for i in 0..3 {
                guest
                    .memory
                    .write(DATA, &(round * 3 + i).to_le_bytes())
                    .unwrap();
                driver.add(&buffer, &[]).unwrap();
                let _ = driver.publish();
                assert!(queue.pop(&mut chain).unwrap());
                assert_eq!(content(&chain.readable), (round * 3 + i).to_le_bytes());
                queue.push(&chain, i as u32);
            }
            assert!(!queue.pop(&mut chain).unwrap());
            let _ = queue.publish();
            for i in 0..3 {
                assert_eq!(driver.reap().unwrap().unwrap().written, i);
            }
            assert_eq!(driver.reap().unwrap(), None);
            assert_eq!(driver.free(), size);
        }
        let expected = match features.packed {
            false => 90_000 % 65_536,
            // 18000 rounds of 5, after which both wrap counters are as in the beginning.
            true => PACKED_BASE,
        };
        assert_eq!(queue.base(), expected);
    }
}

fn each_format_with_and_without_events() -> impl Iterator<Item = ((RingFeatures, u32), bool)> {
    FORMATS
        .into_iter()
        .flat_map(|format| [false, true].map(|event_idx| (format, event_idx)))
}

#[test]
fn one_interrupt_for_a_batch_and_none_for_a_driver_that_does_not_want_any() {
    for ((format, base), event_idx) in each_format_with_and_without_events() {
        let features = RingFeatures {
            event_idx,
            ..format
        };
        let guest = Guest::new();
        let layout = layout(8);
        let mut driver = DriverQueue::new(&guest.memory, layout, features).unwrap();
        let mut queue = Queue::new(&guest.memory, layout, features, base).unwrap();
        let mut serve = |driver: &mut DriverQueue, n: usize| {
            for _ in 0..n {
                let buffer = Buffer { addr: DATA, len: 8 };
                driver.add(&[buffer], &[]).unwrap();
            }
            let _ = driver.publish();
            let mut chain = Chain::new();
            while queue.pop(&mut chain).unwrap() {
                queue.push(&chain, 0);
            }
            let interrupts = usize::from(queue.publish()) + usize::from(queue.publish());
            while driver.reap().unwrap().is_some() {}
            interrupts
        };
        assert_eq!(serve(&mut driver, 5), 1);
        assert!(!driver.enable_interrupts());
        assert_eq!(serve(&mut driver, 5), 1);
        driver.disable_interrupts();
        assert_eq!(serve(&mut driver, 5), 0);
        assert!(!driver.enable_interrupts());
        assert_eq!(serve(&mut driver, 1), 1);
    }
}

#[test]
fn the_driver_kicks_only_when_asked() {
    for ((format, base), event_idx) in each_format_with_and_without_events() {
        let features = RingFeatures {
            event_idx,
            ..format
        };
        let guest = Guest::new();
        let layout = layout(8);
        let mut driver = DriverQueue::new(&guest.memory, layout, features).unwrap();
        let mut queue = Queue::new(&guest.memory, layout, features, base).unwrap();
        let add = |driver: &mut DriverQueue| {
            let buffer = Buffer { addr: DATA, len: 8 };
            driver.add(&[buffer], &[]).unwrap();
            driver.publish()
        };
        assert!(add(&mut driver), "a new ring is asked for");
        queue.disable_notifications();
        assert!(!add(&mut driver));
        assert!(queue.enable_notifications(), "two came in between");
        let mut chain = Chain::new();
        assert!(queue.pop(&mut chain).unwrap());
        assert!(queue.pop(&mut chain).unwrap());
        assert!(!queue.enable_notifications());
        assert!(add(&mut driver));
    }
}

#[test]
fn ring_addresses_may_be_the_front_ends_own() {
    for (features, base) in FORMATS {
        let guest = Guest::new();
        let layout = layout(8);
        let mut driver = DriverQueue::new(&guest.memory, layout, features).unwrap();
        let region = &guest.memory.regions()[0];
        let user = |gpa: u64| gpa - region.gpa() + region.user_addr();
        let by_user = RingLayout {
            desc: user(layout.desc),
            avail: user(layout.avail),
            used: user(layout.used),
            space: AddressSpace::User,
            ..layout
        };
        let mut queue = Queue::new(&guest.memory, by_user, features, base).unwrap();
        let buffer = Buffer { addr: DATA, len: 8 };
        driver.add(&[buffer], &[]).unwrap();
        assert!(driver.publish());
        assert!(queue.pop(&mut Chain::new()).unwrap());
    }
}

#[test]
fn a_queue_goes_on_with_another_memory_map_and_breaks_without_its_ring() {
    for (features, base) in FORMATS {
        let guest = Guest::new();
        let layout = layout(8);
        let mut driver = DriverQueue::new(&guest.memory, layout, features).unwrap();
        let mut queue = Queue::new(&guest.memory, layout, features, base).unwrap();
        let last = Arc::clone(&guest.memory.regions()[3]);
        let fewer = guest
            .memory
            .without_region(last.gpa(), last.size(), last.user_addr())
            .unwrap();
        queue.set_memory(&Arc::new(fewer)).unwrap();
        let mut chain = Chain::new();
        driver.add(&[Buffer { addr: DATA, len: 8 }], &[]).unwrap();
        let gone = Buffer {
            addr: last.gpa(),
            len: 8,
        };
        driver.add(&[gone], &[]).unwrap();
        assert!(driver.publish());
        assert!(queue.pop(&mut chain).unwrap());
        queue.set_memory(&guest.memory).unwrap();
        assert!(queue.pop(&mut chain).unwrap(), "the region is back");

        let nothing = Arc::new(GuestMemory::default());
        queue.set_memory(&nothing).unwrap_err();
        assert!(queue.is_broken());
        // What was in flight still completes, into the map that the queue keeps.
        queue.push(&chain, 0);
        assert!(queue.publish());
        assert!(driver.reap().unwrap().is_some());
    }
}
