//! A driver of a split ring that does what no driver may: an error each time, once, and never anything outside guest memory.
#![cfg(test)]

mod common;

use common::{DATA, Guest, PIECE, RINGS, both, layout, refusal};
use lunar_virtqueue::{Chain, Descriptor, Error, MAX_INDIRECT, Queue, RingFeatures, RingPart};
use proptest::prelude::*;

const SIZE: u16 = 8;
const TABLE: u64 = DATA;
const NEXT: u16 = Descriptor::NEXT;
const WRITE: u16 = Descriptor::WRITE;
const INDIRECT: u16 = Descriptor::INDIRECT;

fn d(addr: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor {
        addr,
        len,
        flags,
        next,
    }
}

fn write_table(guest: &Guest, at: u64, table: &[Descriptor]) {
    guest.write_table(at, table.iter().map(|d| d.to_bytes()));
}

/// Makes the chains at `heads` available.
fn avail(guest: &Guest, heads: &[u16], idx: u16) {
    let mut ring = [0, idx].map(u16::to_le_bytes).concat();
    ring.extend(heads.iter().flat_map(|h| h.to_le_bytes()));
    guest.memory.write(layout(SIZE).avail, &ring).unwrap();
}

fn queue(guest: &Guest, indirect: bool) -> Queue {
    let features = RingFeatures {
        indirect,
        event_idx: true,
        packed: false,
    };
    Queue::new(&guest.memory, layout(SIZE), features, 0).unwrap()
}

/// The error that a chain with this table (and indirect table) and head 0 makes, after which the queue must be silent.
fn refused(table: &[Descriptor], indirect: &[Descriptor]) -> Error {
    let guest = Guest::new();
    write_table(&guest, RINGS, table);
    write_table(&guest, TABLE, indirect);
    avail(&guest, &[0, 1], 2);
    let mut queue = queue(&guest, true);
    let error = refusal(&mut queue);
    assert_eq!(queue.in_flight(), 0);
    assert_eq!(queue.base(), 0);
    error
}

#[test]
fn loops_are_refused() {
    let buffer = |next| d(DATA, 1, NEXT, next);
    let looped = Error::ChainLoops { head: 0 };
    assert_eq!(refused(&[buffer(0)], &[]), looped);
    assert_eq!(refused(&[buffer(1), buffer(0)], &[]), looped);
    let table = d(TABLE, 32, INDIRECT, 0);
    assert_eq!(refused(&[table], &[buffer(1), buffer(0)]), looped);
}

#[test]
fn indices_outside_the_table_are_refused() {
    let outside = |index, size| Error::DescriptorIndex { index, size };
    assert_eq!(refused(&[d(DATA, 1, NEXT, SIZE)], &[]), outside(SIZE, SIZE));
    assert_eq!(
        refused(&[d(DATA, 1, NEXT, u16::MAX)], &[]),
        outside(u16::MAX, SIZE)
    );
    let table = d(TABLE, 32, INDIRECT, 0);
    assert_eq!(refused(&[table], &[d(DATA, 1, NEXT, 2)]), outside(2, 2));

    let guest = Guest::new();
    avail(&guest, &[SIZE], 1);
    let error = queue(&guest, true).pop(&mut Chain::new()).unwrap_err();
    assert_eq!(error, outside(SIZE, SIZE));
}

#[test]
fn misplaced_indirect_descriptors_are_refused() {
    let misplaced = Error::IndirectMisplaced { head: 0 };
    // With a successor.
    let table = [d(TABLE, 16, INDIRECT | NEXT, 1), d(DATA, 1, 0, 0)];
    assert_eq!(refused(&table, &[d(DATA, 1, 0, 0)]), misplaced);
    // Inside a table.
    let nested = d(TABLE, 16, INDIRECT, 0);
    assert_eq!(refused(&[nested], &[nested]), misplaced);
    // Not negotiated.
    let guest = Guest::new();
    write_table(&guest, RINGS, &[d(TABLE, 16, INDIRECT, 0)]);
    write_table(&guest, TABLE, &[d(DATA, 1, 0, 0)]);
    avail(&guest, &[0], 1);
    let error = queue(&guest, false).pop(&mut Chain::new()).unwrap_err();
    assert_eq!(error, misplaced);
}

#[test]
fn the_write_flag_of_an_indirect_descriptor_means_nothing() {
    let guest = Guest::new();
    write_table(&guest, RINGS, &[d(TABLE, 32, INDIRECT | WRITE, 0)]);
    write_table(&guest, TABLE, &[d(DATA, 5, NEXT, 1), d(DATA, 7, WRITE, 0)]);
    avail(&guest, &[0], 1);
    let mut chain = Chain::new();
    assert!(queue(&guest, true).pop(&mut chain).unwrap());
    assert_eq!((chain.readable.len(), chain.writable.len()), (5, 7));
}

#[test]
fn indirect_tables_of_wrong_length_are_refused_and_the_longest_is_accepted() {
    let longest = u32::from(MAX_INDIRECT) * 16;
    for len in [0, 15, 17, longest + 16, u32::MAX] {
        let error = refused(&[d(TABLE, len, INDIRECT, 0)], &[]);
        assert_eq!(error, Error::IndirectLength { len });
    }
    let guest = Guest::new();
    write_table(&guest, RINGS, &[d(TABLE, longest, INDIRECT, 0)]);
    let entries: Vec<_> = (1..=MAX_INDIRECT)
        .map(|next| d(RINGS, 1, if next < MAX_INDIRECT { NEXT } else { 0 }, next))
        .collect();
    write_table(&guest, TABLE, &entries);
    avail(&guest, &[0], 1);
    let mut chain = Chain::new();
    assert!(queue(&guest, true).pop(&mut chain).unwrap());
    assert_eq!(chain.readable.count(), usize::from(MAX_INDIRECT));
}

#[test]
fn readable_after_writable_is_refused_even_if_empty() {
    for len in [0, 1] {
        let table = [d(DATA, len, WRITE | NEXT, 1), d(DATA, len, 0, 0)];
        assert_eq!(
            refused(&table, &[]),
            Error::ReadableAfterWritable { head: 0 }
        );
    }
}

#[test]
fn buffers_outside_guest_memory_are_refused() {
    let unmapped = |addr, len| Error::BufferUnmapped { addr, len };
    let end = DATA + 3 * PIECE;
    for (addr, len) in [
        (0, 1),
        (end, 1),
        (end - 1, 2),
        (DATA - 1, 2),
        (u64::MAX, 1),
        (u64::MAX - 1, 4),
        (DATA, u32::MAX),
    ] {
        assert_eq!(refused(&[d(addr, len, 0, 0)], &[]), unmapped(addr, len));
    }
    // The same for a table; its entries are looked up one by one when it is not in one region.
    let table = d(end - 16, 32, INDIRECT, 0);
    let guest = Guest::new();
    write_table(&guest, RINGS, &[table]);
    write_table(&guest, end - 16, &[d(DATA, 1, NEXT, 1)]);
    avail(&guest, &[0], 1);
    let error = queue(&guest, true).pop(&mut Chain::new()).unwrap_err();
    assert_eq!(error, unmapped(end, 16));
}

#[test]
fn more_than_four_gigabytes_in_one_chain_are_refused() {
    // The sum is judged before the buffers are looked for; a small guest could not hold them.
    let chain = |first| [d(DATA, first, NEXT, 1), d(0, u32::MAX, 0, 0)];
    assert_eq!(refused(&chain(2), &[]), Error::ChainTooLong { head: 0 });
    let just_fits = refused(&chain(1), &[]);
    assert!(matches!(just_fits, Error::BufferUnmapped { addr: 0, .. }));
}

#[test]
fn an_available_index_that_jumps_is_refused() {
    let guest = Guest::new();
    avail(&guest, &[0, 1, 2, 3, 4, 5, 6, 7], SIZE + 1);
    let error = queue(&guest, true).pop(&mut Chain::new()).unwrap_err();
    let jump = Error::AvailIndex {
        avail: SIZE + 1,
        next: 0,
        size: SIZE,
    };
    assert_eq!(error, jump);
}

#[test]
fn a_chain_made_available_twice_is_refused_and_what_is_in_flight_completes() {
    let guest = Guest::new();
    write_table(&guest, RINGS, &[d(DATA, 1, 0, 0)]);
    avail(&guest, &[0, 0], 2);
    let mut queue = queue(&guest, true);
    let (mut first, mut second) = (Chain::new(), Chain::new());
    assert!(queue.pop(&mut first).unwrap());
    assert_eq!(queue.pop(&mut second), Err(Error::HeadInFlight { head: 0 }));
    assert_eq!(queue.in_flight(), 1);
    queue.push(&first, 0);
    assert!(queue.publish());
    assert_eq!(guest.bytes(layout(SIZE).used + 2, 2), [1, 0]);
}

#[test]
fn rings_that_do_not_fit_are_refused() {
    let guest = Guest::new();
    let good = layout(SIZE);
    let set_up = |layout| Queue::new(&guest.memory, layout, RingFeatures::default(), 0).err();
    assert_eq!(set_up(good), None);
    for size in [0, 3, 12, 65535] {
        let layout = lunar_virtqueue::RingLayout { size, ..good };
        assert_eq!(set_up(layout), Some(Error::RingSize(size)));
    }
    let end = DATA + 3 * PIECE;
    // The last byte of each part is outside; and a part across two regions, which a chain may be but a ring not.
    for (part, len) in [
        (RingPart::Descriptors, 16 * 8),
        (RingPart::Available, 6 + 2 * 8),
        (RingPart::Used, 6 + 8 * 8),
    ] {
        for (addr, error) in [
            (
                end - (len & !15) + 16,
                Error::RingUnmapped {
                    part,
                    addr: end - (len & !15) + 16,
                },
            ),
            (
                DATA + PIECE - 16,
                Error::RingUnmapped {
                    part,
                    addr: DATA + PIECE - 16,
                },
            ),
            (
                u64::MAX - 15,
                Error::RingUnmapped {
                    part,
                    addr: u64::MAX - 15,
                },
            ),
            (
                DATA + 1,
                Error::RingMisaligned {
                    part,
                    addr: DATA + 1,
                },
            ),
        ] {
            let mut layout = good;
            match part {
                RingPart::Descriptors => layout.desc = addr,
                RingPart::Available => layout.avail = addr,
                RingPart::Used => layout.used = addr,
                other => unreachable!("{other} is no part of a split ring"),
            }
            assert_eq!(set_up(layout), Some(error));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Any bytes as rings and tables: the queue ends, and gives nothing but guest memory.
    #[test]
    fn arbitrary_rings_yield_only_guest_memory(
        entries in prop::collection::vec(
            // Mostly plausible descriptors, so that walks get somewhere.
            (0u64..4 * PIECE, 0u32..300, 0u16..8, 0u16..10, 0u8..16),
            usize::from(SIZE) + 16,
        ),
        heads in prop::collection::vec(0u16..9, 8),
        idx in 0u16..10,
        indirect: bool,
    ) {
        let guest = Guest::new();
        let entries: Vec<_> = entries.into_iter().map(|(addr, len, flags, next, wild)| match wild {
            0 => d(addr << 48, len << 24, flags, next),
            _ if flags & INDIRECT != 0 => d(TABLE + (addr & 0xF0), len & 0xF0, flags, next),
            _ => d(DATA + addr - 100, len, flags, next),
        }).collect();
        let (ring, table) = entries.split_at(usize::from(SIZE));
        write_table(&guest, RINGS, ring);
        write_table(&guest, TABLE, table);
        avail(&guest, &heads, idx);
        let mut queue = queue(&guest, indirect);
        let mut popped = 0;
        loop {
            let mut chain = Chain::new();
            match queue.pop(&mut chain) {
                Ok(true) => {
                    // Panics on a segment outside the guest.
                    both(&guest, &chain);
                    popped += 1;
                }
                Ok(false) => break,
                Err(_) => prop_assert!(queue.is_broken()),
            }
        }
        prop_assert!(popped <= SIZE);
        prop_assert_eq!(queue.in_flight(), popped);
    }
}
