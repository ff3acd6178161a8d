//! The packed ring: what is in memory, byte for byte; both sides against a model of what they may know; and a driver
//! that does what no driver may.
#![cfg(test)]
#![allow(clippy::cast_possible_truncation, reason = "test values are small")]

mod common;

use std::collections::VecDeque;

use common::{DATA, Guest, PIECE, RINGS, both, content, layout, refusal};
use lunar_virtqueue::{
    Buffer, Chain, DriverQueue, Error, MAX_INDIRECT, PACKED_BASE, PackedDescriptor, Queue,
    RingFeatures, RingLayout, RingPart,
};
use proptest::prelude::*;

const FEATURES: RingFeatures = RingFeatures {
    indirect: true,
    event_idx: true,
    packed: true,
};
const TABLE: u64 = DATA;
const NEXT: u16 = PackedDescriptor::NEXT;
const WRITE: u16 = PackedDescriptor::WRITE;
const INDIRECT: u16 = PackedDescriptor::INDIRECT;
const AVAIL: u16 = PackedDescriptor::AVAIL;
const USED: u16 = PackedDescriptor::USED;

fn d(addr: u64, len: u32, id: u16, flags: u16) -> PackedDescriptor {
    PackedDescriptor {
        addr,
        len,
        id,
        flags,
    }
}

fn write_at(guest: &Guest, at: u64, table: &[PackedDescriptor]) {
    guest.write_table(at, table.iter().map(|d| d.to_bytes()));
}

/// Length, ID and flags of each descriptor of the ring.
fn ring(guest: &Guest, size: u16) -> Vec<(u32, u16, u16)> {
    let bytes = guest.bytes(RINGS, 16 * usize::from(size));
    let fields = |d: &[u8]| {
        let half = |at| u16::from_le_bytes([d[at], d[at + 1]]);
        let len = u32::from_le_bytes([d[8], d[9], d[10], d[11]]);
        (len, half(12), half(14))
    };
    bytes.chunks(16).map(fields).collect()
}

fn queue(guest: &Guest, size: u16) -> Queue {
    Queue::new(&guest.memory, layout(size), FEATURES, PACKED_BASE).unwrap()
}

#[test]
fn chains_come_back_at_the_next_place_whatever_their_order_and_flags_turn_over_with_the_round() {
    let guest = Guest::new();
    write_at(
        &guest,
        RINGS,
        &[
            d(DATA, 10, 0, NEXT | AVAIL),
            d(DATA + 64, 20, 7000, WRITE | AVAIL),
            d(DATA + 128, 30, 2, WRITE | AVAIL),
        ],
    );
    let mut queue = queue(&guest, 3);
    let (mut first, mut second) = (Chain::new(), Chain::new());
    assert!(queue.pop(&mut first).unwrap());
    assert!(!queue.is_empty());
    assert!(queue.pop(&mut second).unwrap());
    assert!(queue.is_empty());
    assert!(!queue.pop(&mut Chain::new()).unwrap());
    assert_eq!(
        [first.head(), second.head()],
        [7000, 2],
        "the last has the ID"
    );
    assert_eq!((first.readable.len(), first.writable.len()), (10, 20));
    assert_eq!(
        queue.base(),
        0x8000_0000,
        "took the round, returned nothing"
    );

    queue.push(&second, 25);
    queue.push(&first, 0);
    let before = ring(&guest, 3);
    assert_eq!(before[0].2, NEXT | AVAIL, "staged is not visible");
    assert!(queue.publish());
    let after = ring(&guest, 3);
    // One place for the second chain, then two for the first, of which only one is written.
    assert_eq!(after[0], (25, 2, AVAIL | USED | WRITE));
    assert_eq!(after[1], (0, 7000, AVAIL | USED));
    assert_eq!(after[2], before[2]);
    assert_eq!(queue.base(), 0x0000_0000);

    // In the next round the flags mean the opposite.
    assert!(!queue.pop(&mut first).unwrap());
    write_at(&guest, RINGS, &[d(DATA, 5, 1, USED)]);
    assert!(queue.pop(&mut first).unwrap());
    queue.push(&first, 4);
    let _ = queue.publish();
    assert_eq!(ring(&guest, 3)[0], (4, 1, WRITE));
    assert_eq!(queue.base(), 0x0001_0001);
}

#[test]
fn an_indirect_table_is_taken_in_order_and_only_its_write_flags_count() {
    let guest = Guest::new();
    write_at(&guest, RINGS, &[d(TABLE, 48, 5, INDIRECT | WRITE | AVAIL)]);
    let table = [
        d(DATA + 0x100, 5, 9, INDIRECT | NEXT),
        d(DATA + 0x200, 6, 0, 0),
        d(DATA + 0x300, 7, 2, WRITE | AVAIL),
    ];
    write_at(&guest, TABLE, &table);
    let mut chain = Chain::new();
    assert!(queue(&guest, 4).pop(&mut chain).unwrap());
    assert_eq!(chain.head(), 5);
    assert_eq!(
        both(&guest, &chain),
        [
            vec![(DATA + 0x100, 5), (DATA + 0x200, 6)],
            vec![(DATA + 0x300, 7)]
        ]
    );
}

/// The error that a ring with these descriptors (and this table) makes, after which the queue must be silent.
fn refused(descriptors: &[PackedDescriptor], table: &[PackedDescriptor]) -> Error {
    let guest = Guest::new();
    write_at(&guest, RINGS, descriptors);
    write_at(&guest, TABLE, table);
    refusal(&mut queue(&guest, 4))
}

#[test]
fn chains_that_are_not_whole_are_refused() {
    let incomplete = Error::ChainIncomplete { at: 0 };
    let next = d(DATA, 1, 0, NEXT | AVAIL);
    assert_eq!(refused(&[next], &[]), incomplete);
    assert_eq!(refused(&[next; 4], &[]), incomplete, "as long as the ring");
    // Made available again while the device has all places.
    let whole = d(DATA, 1, 0, AVAIL);
    let guest = Guest::new();
    write_at(&guest, RINGS, &[0, 1, 2, 3].map(|id| d(DATA, 1, id, AVAIL)));
    let mut queue = queue(&guest, 4);
    let mut chain = Chain::new();
    for _ in 0..4 {
        assert!(queue.pop(&mut chain).unwrap());
    }
    write_at(&guest, RINGS, &[d(DATA, 1, 9, USED)]);
    assert_eq!(queue.pop(&mut chain), Err(incomplete));
    assert_eq!(queue.in_flight(), 4);
    // An ID twice.
    assert_eq!(refused(&[whole; 2], &[]), Error::HeadInFlight { head: 0 });
}

#[test]
fn places_are_not_taken_again_before_their_return_is_visible() {
    let guest = Guest::new();
    write_at(&guest, RINGS, &[d(DATA, 1, 0, AVAIL)]);
    let mut queue = queue(&guest, 1);
    let mut chain = Chain::new();
    assert!(queue.pop(&mut chain).unwrap());
    queue.push(&chain, 0);
    write_at(&guest, RINGS, &[d(DATA, 1, 0, USED)]);
    let incomplete = Error::ChainIncomplete { at: 0 };
    assert_eq!(queue.pop(&mut chain), Err(incomplete));
}

#[test]
fn bad_buffers_and_tables_are_refused() {
    let table = |len, flags| d(TABLE, len, 0, INDIRECT | AVAIL | flags);
    let misplaced = Error::IndirectMisplaced { head: 0 };
    assert_eq!(refused(&[table(16, NEXT)], &[]), misplaced);
    for len in [0, 15, 17, u32::from(MAX_INDIRECT) * 16 + 16, u32::MAX] {
        assert_eq!(
            refused(&[table(len, 0)], &[]),
            Error::IndirectLength { len }
        );
    }
    let order = Error::ReadableAfterWritable { head: 0 };
    let wrong = [d(DATA, 1, 0, WRITE | NEXT | AVAIL), d(DATA, 0, 0, AVAIL)];
    assert_eq!(refused(&wrong, &[]), order);
    let in_table = wrong.map(|d| PackedDescriptor {
        flags: d.flags & WRITE,
        ..d
    });
    assert_eq!(refused(&[table(32, 0)], &in_table), order);
    let unmapped = |addr, len| Error::BufferUnmapped { addr, len };
    for (addr, len) in [(0, 1), (DATA + 3 * PIECE - 1, 2), (u64::MAX, 2)] {
        let error = refused(&[d(addr, len, 0, AVAIL)], &[]);
        assert_eq!(error, unmapped(addr, len));
    }
    let huge = [
        d(DATA, u32::MAX, 0, NEXT | AVAIL),
        d(DATA, u32::MAX, 0, AVAIL),
    ];
    assert!(matches!(
        refused(&huge, &[]),
        Error::ChainTooLong { .. } | Error::BufferUnmapped { .. }
    ));

    let guest = Guest::new();
    write_at(&guest, RINGS, &[table(16, 0)]);
    let direct_only = RingFeatures {
        indirect: false,
        ..FEATURES
    };
    let mut queue = Queue::new(&guest.memory, layout(4), direct_only, PACKED_BASE).unwrap();
    assert_eq!(queue.pop(&mut Chain::new()), Err(misplaced));
}

#[test]
fn rings_and_bases_that_do_not_fit_are_refused() {
    let guest = Guest::new();
    let set_up = |layout, base| Queue::new(&guest.memory, layout, FEATURES, base).err();
    for size in [1, 3, 8, 1000] {
        assert_eq!(set_up(layout(size), PACKED_BASE), None, "{size}");
    }
    for size in [0, 32769, 65535] {
        let layout = RingLayout { size, ..layout(8) };
        assert_eq!(set_up(layout, PACKED_BASE), Some(Error::RingSize(size)));
    }
    for base in [0x8000_8008, 0x8008_8000, 0x8001_8000] {
        assert_eq!(set_up(layout(8), base), Some(Error::RingBase(base)));
    }
    let addr = DATA + 3 * PIECE - 2;
    let events = RingLayout {
        used: addr,
        ..layout(8)
    };
    let part = RingPart::DeviceEvents;
    assert_eq!(
        set_up(events, PACKED_BASE),
        Some(Error::RingUnmapped { part, addr })
    );
    let (part, addr) = (RingPart::DriverEvents, DATA + 2);
    let events = RingLayout {
        avail: addr,
        ..layout(8)
    };
    assert_eq!(
        set_up(events, PACKED_BASE),
        Some(Error::RingMisaligned { part, addr })
    );
    // A split ring has no second half of a base.
    let split = RingFeatures::default();
    let error = Queue::new(&guest.memory, layout(8), split, 0x1_0000).unwrap_err();
    assert_eq!(error, Error::RingBase(0x1_0000));
}

#[test]
fn a_device_that_returns_what_it_does_not_have_is_noticed() {
    let guest = Guest::new();
    let mut driver = DriverQueue::new(&guest.memory, layout(4), FEATURES).unwrap();
    let head = driver.add(&[Buffer { addr: DATA, len: 8 }], &[]).unwrap();
    assert!(driver.publish());
    for id in [head + 1, 4, u16::MAX] {
        write_at(&guest, RINGS, &[d(0, 0, id, AVAIL | USED)]);
        assert_eq!(driver.reap(), Err(Error::UsedUnknown { id: id.into() }));
    }
    write_at(&guest, RINGS, &[d(0, 3, head, AVAIL | USED)]);
    assert_eq!(driver.reap().unwrap().unwrap().written, 3);
    assert_eq!(driver.free(), 4);
}

#[derive(Clone, Debug)]
enum Step {
    /// The driver adds a chain of so many descriptors, or one indirect.
    Add {
        descriptors: usize,
        indirect: bool,
    },
    Publish,
    /// The device takes up to so many chains.
    Take(usize),
    /// The device stages one of those that it has.
    Push(usize),
    Return,
    DeviceSleeps,
    DeviceAwake,
    DriverSleeps,
    DriverAwake,
    Reap(usize),
    /// The device is replaced by a successor, once nothing is in flight.
    Replace,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1usize..4, any::<bool>())
            .prop_map(|(descriptors, indirect)| Step::Add { descriptors, indirect }),
        4 => Just(Step::Publish),
        4 => (1usize..5).prop_map(Step::Take),
        5 => any::<usize>().prop_map(Step::Push),
        3 => Just(Step::Return),
        2 => Just(Step::DeviceSleeps),
        1 => Just(Step::DeviceAwake),
        2 => Just(Step::DriverSleeps),
        1 => Just(Step::DriverAwake),
        3 => (1usize..5).prop_map(Step::Reap),
        1 => Just(Step::Replace),
    ];
    prop::collection::vec(step, 1..200)
}

/// What one side has said about being woken.
#[derive(Clone, Copy, PartialEq)]
enum Wish {
    /// By the next message, whatever it is (with the feature: by the one that comes next at the time).
    Next,
    Never,
    /// It has been woken since, and has not said anything.
    Fulfilled,
}

impl Wish {
    /// Whether a message wakes; `None` where both are right.
    fn fulfil(&mut self, event_idx: bool) -> Option<bool> {
        match self {
            Wish::Next if event_idx => {
                *self = Wish::Fulfilled;
                Some(true)
            }
            Wish::Next => Some(true),
            Wish::Never => Some(false),
            // Again only when the position comes round.
            Wish::Fulfilled => None,
        }
    }
}

/// Does the steps, and compares what the sides do with lists of numbers. Gives how many chains made it round.
fn run(size: u16, event_idx: bool, steps: &[Step]) -> usize {
    let guest = Guest::new();
    let layout = layout(size);
    let features = RingFeatures {
        event_idx,
        ..FEATURES
    };
    let mut driver = DriverQueue::new(&guest.memory, layout, features).unwrap();
    let mut queue = Queue::new(&guest.memory, layout, features, PACKED_BASE).unwrap();
    let (mut device_wish, mut driver_wish) = (Wish::Next, Wish::Next);
    let mut signalled = false;
    let mut free = size;
    let mut next = 0u64;
    // Chains on their way: number, name, descriptors.
    let mut staged = Vec::new();
    let mut published = VecDeque::new();
    let mut taken: Vec<(Chain, (u64, u16, u16))> = Vec::new();
    let mut pushed = Vec::new();
    let mut returned = VecDeque::new();
    let mut done = 0;
    for step in steps {
        match *step {
            Step::Add {
                descriptors,
                indirect,
            } => {
                // Each chain has bytes of its own, in which its number is found again.
                let at = DATA + PIECE + (next % 64) * 64;
                guest.memory.write(at, &next.to_le_bytes()).unwrap();
                let mut buffers = vec![Buffer { addr: at, len: 8 }];
                buffers.resize(descriptors, Buffer { addr: DATA, len: 0 });
                let places = if indirect { 1 } else { descriptors as u16 };
                let added = if indirect {
                    let addr = DATA + (next % 64) * 64;
                    let table = driver.indirect_table(&buffers, &[]);
                    let len = table.len() as u32;
                    guest.memory.write(addr, &table).unwrap();
                    driver.add_indirect(&[], Buffer { addr, len })
                } else {
                    driver.add(&buffers, &[])
                };
                assert_eq!(added.is_ok(), places <= free);
                if let Ok(id) = added {
                    free -= places;
                    staged.push((next, id, places));
                    next += 1;
                }
                assert_eq!(driver.free(), free);
            }
            Step::Publish => {
                let any = !staged.is_empty();
                let kick = driver.publish();
                match any {
                    false => assert!(!kick),
                    true => {
                        if let Some(expected) = device_wish.fulfil(event_idx) {
                            assert_eq!(kick, expected);
                        }
                    }
                }
                published.extend(staged.drain(..));
            }
            Step::Take(count) => {
                for _ in 0..count {
                    let mut chain = Chain::new();
                    let popped = queue.pop(&mut chain).unwrap();
                    let expected = published.pop_front();
                    assert_eq!(popped, expected.is_some());
                    let Some(expected) = expected else { break };
                    assert_eq!(chain.head(), expected.1);
                    assert_eq!(content(&chain.readable), expected.0.to_le_bytes());
                    taken.push((chain, expected));
                }
                assert_eq!(usize::from(queue.in_flight()), taken.len());
            }
            Step::Push(which) => {
                if !taken.is_empty() {
                    let (chain, it) = taken.swap_remove(which % taken.len());
                    queue.push(&chain, it.0 as u32);
                    pushed.push(it);
                }
            }
            Step::Return => {
                let any = !pushed.is_empty();
                let interrupt = queue.publish();
                match any {
                    false => assert!(!interrupt),
                    true => {
                        let expected = driver_wish.fulfil(event_idx);
                        match (signalled, expected) {
                            (true, Some(expected)) => assert_eq!(interrupt, expected),
                            (true, None) => {}
                            (false, _) => assert!(interrupt, "the first is always told"),
                        }
                        signalled = true;
                    }
                }
                returned.extend(pushed.drain(..));
            }
            Step::DeviceSleeps => {
                assert_eq!(queue.enable_notifications(), !published.is_empty());
                device_wish = match published.is_empty() || !event_idx {
                    true => Wish::Next,
                    // The event is behind what has been published.
                    false => Wish::Fulfilled,
                };
            }
            Step::DeviceAwake => {
                queue.disable_notifications();
                device_wish = Wish::Never;
            }
            Step::DriverSleeps => {
                assert_eq!(driver.enable_interrupts(), !returned.is_empty());
                driver_wish = match returned.is_empty() || !event_idx {
                    true => Wish::Next,
                    false => Wish::Fulfilled,
                };
            }
            Step::DriverAwake => {
                driver.disable_interrupts();
                driver_wish = Wish::Never;
            }
            Step::Reap(count) => {
                for _ in 0..count {
                    let used = driver.reap().unwrap();
                    let expected: Option<(u64, u16, u16)> = returned.pop_front();
                    assert_eq!(used.is_some(), expected.is_some());
                    let (Some(used), Some(expected)) = (used, expected) else {
                        break;
                    };
                    assert_eq!((used.head, used.written), (expected.1, expected.0 as u32));
                    free += expected.2;
                    done += 1;
                }
                assert_eq!(driver.free(), free);
            }
            Step::Replace => {
                if taken.is_empty() && pushed.is_empty() {
                    assert_eq!(queue.base(), driver.base_at_used());
                    queue = Queue::new(&guest.memory, layout, features, queue.base()).unwrap();
                    signalled = false;
                }
            }
        }
        let underway = staged.len() + published.len() + taken.len() + pushed.len();
        assert_eq!(usize::from(driver.outstanding()), underway + returned.len());
    }
    done
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn both_sides_agree_with_lists_of_numbers(
        size in 1u16..12, event_idx: bool, steps in steps(),
    ) {
        run(size, event_idx, &steps);
    }

    /// Any bytes as a ring and tables: the queue ends, and gives nothing but guest memory.
    #[test]
    fn arbitrary_rings_yield_only_guest_memory(
        size in 1u16..12,
        entries in prop::collection::vec(
            // Mostly plausible descriptors, so that chains get somewhere.
            (0u64..4 * PIECE, 0u32..300, 0u16..9, 0u16..8, 0u8..16),
            12 + 16,
        ),
        owners in prop::collection::vec(prop_oneof![6 => Just(AVAIL), 1 => Just(USED), 1 => Just(0)], 12),
        base in prop::option::of(any::<u32>()),
    ) {
        let guest = Guest::new();
        let entries: Vec<_> = entries.into_iter().map(|(addr, len, id, flags, wild)| match wild {
            0 => d(addr << 48, len << 24, id, flags),
            _ if flags & INDIRECT != 0 => d(TABLE + (addr & 0xF0), len & 0xF0, id, flags),
            _ => d(DATA + addr - 100, len, id, flags),
        }).collect();
        let (ring, table) = entries.split_at(12);
        let ring: Vec<_> = ring.iter().zip(owners)
            .map(|(d, owner)| PackedDescriptor { flags: d.flags | owner, ..*d })
            .collect();
        write_at(&guest, RINGS, &ring[..usize::from(size)]);
        write_at(&guest, TABLE, table);
        let base = base.unwrap_or(PACKED_BASE);
        let Ok(mut queue) = Queue::new(&guest.memory, layout(size), FEATURES, base) else {
            return Ok(());
        };
        let mut held = Vec::new();
        for round in 0..8 {
            let mut chain = Chain::new();
            while let Ok(true) = queue.pop(&mut chain) {
                // Panics on a segment outside the guest.
                both(&guest, &chain);
                held.push(std::mem::take(&mut chain));
                prop_assert!(held.len() <= usize::from(size));
            }
            prop_assert_eq!(usize::from(queue.in_flight()), held.len());
            for chain in held.drain(round.min(held.len())..) {
                queue.push(&chain, 1);
            }
            let _ = queue.publish();
        }
    }
}

#[test]
fn the_comparison_sees_chains() {
    // What the property would be worth if no step sequence ever got a chain round.
    let add = |descriptors, indirect| Step::Add {
        descriptors,
        indirect,
    };
    let round = [
        add(3, false),
        add(2, true),
        Step::Publish,
        Step::Take(2),
        Step::Push(0),
        Step::Push(0),
        Step::Return,
        Step::Reap(2),
        Step::DriverSleeps,
        Step::DeviceSleeps,
    ];
    let rounds: Vec<_> = round.iter().cycle().take(10 * 40).cloned().collect();
    assert_eq!(run(5, true, &rounds), 80);
    assert_eq!(run(5, false, &rounds), 80);
}
