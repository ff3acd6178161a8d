//! The device's side against the `virtio-queue` crate: two guests do the same things, one is served by each; the chains
//! that come out, what is written into the rings, and the decisions to interrupt must be the same.
#![cfg(test)]
#![allow(clippy::cast_possible_truncation, reason = "test values are small")]

mod common;

use std::fs::File;

use common::{DATA, Guest, PIECE, both, layout};
use lunar_virtqueue::{Buffer, Chain, DriverQueue, Queue, RingFeatures};
use proptest::prelude::*;
use virtio_queue::{Queue as Oracle, QueueT};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

const SIZE: u16 = 8;

#[derive(Clone, Debug)]
enum Step {
    /// The driver adds a chain.
    Add {
        readable: Vec<(u32, u16)>,
        writable: Vec<(u32, u16)>,
        /// How many readable descriptors stay outside an indirect table; `None` for no table.
        outside: Option<usize>,
    },
    /// The driver publishes.
    Publish,
    /// The device takes up to so many chains and returns what it has, the oldest or the newest first.
    Serve {
        take: usize,
        give: usize,
        newest_first: bool,
    },
    /// The device asks for kicks.
    Arm,
    /// The driver takes back what was returned.
    Reap,
    /// The driver takes back what was returned and asks for interrupts.
    Sleep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let buffers = || prop::collection::vec((0..3 * PIECE as u32, 1u16..6000), 0..4);
    let step = prop_oneof![
        4 => (buffers(), buffers(), prop::option::of(0usize..3)).prop_map(
            |(readable, writable, outside)| Step::Add { readable, writable, outside }
        ),
        3 => Just(Step::Publish),
        4 => (0usize..5, 0usize..5, any::<bool>()).prop_map(
            |(take, give, newest_first)| Step::Serve { take, give, newest_first }
        ),
        2 => Just(Step::Arm),
        1 => Just(Step::Reap),
        2 => Just(Step::Sleep),
    ];
    prop::collection::vec(step, 1..120)
}

/// Buffers in the data regions; the last kilobyte of the last region is for indirect tables.
fn place(list: &[(u32, u16)]) -> Vec<Buffer> {
    let end = DATA + 3 * PIECE - 1024;
    let one = |&(offset, len): &(u32, u16)| {
        let addr = (DATA + u64::from(offset)).min(end - 1);
        Buffer {
            addr,
            len: u64::from(len).min(end - addr) as u32,
        }
    };
    list.iter().map(one).collect()
}

/// Adds the chain if there is room, and gives its head; the two drivers are in the same state, so both do or both do
/// not.
fn add(
    driver: &mut DriverQueue,
    readable: &[Buffer],
    writable: &[Buffer],
    outside: Option<usize>,
    table: u64,
) -> Option<u16> {
    match outside.map(|n| n.min(readable.len())) {
        Some(n) if n < readable.len() + writable.len() => {
            let (direct, rest) = readable.split_at(n);
            let bytes = driver.indirect_table(rest, writable);
            driver.memory().write(table, &bytes).unwrap();
            let len = bytes.len() as u32;
            driver
                .add_indirect(direct, Buffer { addr: table, len })
                .ok()
        }
        _ => driver.add(readable, writable).ok(),
    }
}

fn run(steps: &[Step], event_idx: bool, oracle_chains: &mut usize) {
    let features = RingFeatures {
        indirect: true,
        event_idx,
        packed: false,
    };
    let (ours, theirs) = (Guest::new(), Guest::new());
    let layout = layout(SIZE);
    let mut drivers =
        [&ours, &theirs].map(|g| DriverQueue::new(&g.memory, layout, features).unwrap());
    let mut queue = Queue::new(&ours.memory, layout, features, 0).unwrap();

    let ranges = theirs.files.iter().map(|(gpa, size, fd)| {
        let file = File::from(fd.try_clone().unwrap());
        (
            GuestAddress(*gpa),
            *size as usize,
            Some(FileOffset::new(file, 0)),
        )
    });
    let memory = GuestMemoryMmap::<()>::from_ranges_with_files(ranges).unwrap();
    let mut oracle = Oracle::new(SIZE).unwrap();
    oracle.set_size(SIZE);
    oracle
        .try_set_desc_table_address(GuestAddress(layout.desc))
        .unwrap();
    oracle
        .try_set_avail_ring_address(GuestAddress(layout.avail))
        .unwrap();
    oracle
        .try_set_used_ring_address(GuestAddress(layout.used))
        .unwrap();
    oracle.set_event_idx(event_idx);
    oracle.set_ready(true);
    assert!(oracle.is_valid(&memory));

    let mut held: Vec<(Chain, u16)> = Vec::new();
    let mut published_before = false;
    // A table for each chain that can be outstanding, so that none is overwritten.
    let mut tables: Vec<u64> = (0..u64::from(SIZE))
        .map(|i| DATA + 3 * PIECE - 1024 + i * 128)
        .collect();
    let mut table_of = std::collections::HashMap::new();
    for step in steps {
        match step {
            Step::Add {
                readable,
                writable,
                outside,
            } => {
                let (readable, writable) = (place(readable), place(writable));
                let Some(&table) = tables.last() else {
                    continue;
                };
                let added = drivers
                    .each_mut()
                    .map(|d| add(d, &readable, &writable, *outside, table));
                assert_eq!(added[0], added[1]);
                if let Some(head) = added[0] {
                    table_of.insert(head, tables.pop().unwrap());
                }
            }
            Step::Publish => {
                let kicks = drivers.each_mut().map(DriverQueue::publish);
                assert_eq!(kicks[0], kicks[1], "the two devices want kicks differently");
            }
            Step::Serve {
                take,
                give,
                newest_first,
            } => {
                for _ in 0..*take {
                    let mut chain = Chain::new();
                    let empty = queue.is_empty();
                    let popped = queue.pop(&mut chain).unwrap();
                    assert_eq!(popped, !empty);
                    let expected = oracle.pop_descriptor_chain(&memory);
                    assert_eq!(popped, expected.is_some());
                    let Some(expected) = expected else { break };
                    assert_eq!(chain.head(), expected.head_index());
                    *oracle_chains += 1;
                    let list: Vec<_> = expected
                        .clone()
                        .map(|d| {
                            let b = Buffer {
                                addr: d.addr().0,
                                len: d.len(),
                            };
                            (b, d.is_write_only())
                        })
                        .collect();
                    let side = |write| {
                        let of = list.iter().filter(|(_, w)| *w == write);
                        common::joined(&of.map(|(b, _)| *b).collect::<Vec<_>>())
                    };
                    assert_eq!(both(&ours, &chain), [side(false), side(true)]);
                    held.push((chain, expected.head_index()));
                }
                let mut given = 0;
                for _ in 0..*give {
                    let next = match newest_first {
                        true => held.pop(),
                        false if held.is_empty() => None,
                        false => Some(held.remove(0)),
                    };
                    let Some((chain, head)) = next else { break };
                    let written = chain.writable.len() as u32;
                    queue.push(&chain, written);
                    oracle.add_used(&memory, head, written).unwrap();
                    given += 1;
                }
                let interrupt = queue.publish();
                if given > 0 {
                    // Without EVENT_IDX the oracle does not look at the driver's flags.
                    let expected = oracle.needs_notification(&memory).unwrap();
                    if event_idx && published_before {
                        assert_eq!(interrupt, expected);
                    }
                    published_before = true;
                } else {
                    assert!(!interrupt, "an interrupt without a returned chain");
                }
            }
            Step::Arm => {
                let more = queue.enable_notifications();
                assert_eq!(more, oracle.enable_notification(&memory).unwrap());
            }
            Step::Reap | Step::Sleep => {
                let [a, b] = &mut drivers;
                loop {
                    let used = a.reap().unwrap();
                    assert_eq!(used, b.reap().unwrap());
                    let Some(used) = used else { break };
                    tables.push(table_of.remove(&used.head).unwrap());
                }
                if matches!(step, Step::Sleep) {
                    assert_eq!(a.enable_interrupts(), b.enable_interrupts());
                }
            }
        }
        assert_eq!(queue.base(), u32::from(oracle.next_avail()));
        let used_ring = |g: &Guest| g.bytes(layout.used, 6 + 8 * usize::from(SIZE));
        assert_eq!(used_ring(&ours), used_ring(&theirs), "after {step:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn serves_the_same_chains_and_rings_as_virtio_queue(steps in steps(), event_idx: bool) {
        run(&steps, event_idx, &mut 0);
    }
}

#[test]
fn the_comparison_sees_chains() {
    // What the property would be worth if no step sequence ever got a chain through.
    let mut chains = 0;
    let add = |outside| Step::Add {
        readable: vec![(100, 51), (PIECE as u32 - 100, 5000)],
        writable: vec![(20_000, 108)],
        outside,
    };
    let serve = Step::Serve {
        take: 4,
        give: 4,
        newest_first: true,
    };
    let round = [add(None), add(Some(0)), Step::Publish, serve, Step::Sleep];
    let rounds: Vec<_> = round.iter().cycle().take(5 * 40).cloned().collect();
    run(&rounds, true, &mut chains);
    assert_eq!(chains, 80);
}
