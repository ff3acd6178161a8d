//! The event suppression structures of a packed ring (VIRTIO 1.3 §2.8.10): by which each side says when it wants to be
//! woken. Each is one word of 32 bits that is written and read at once.

use super::position::Position;
use crate::notify::{Word, announce, ask_and_look};

const DISABLE: u32 = 1 << 16;
const DESC: u32 = 2 << 16;
const MODE: u32 = 3 << 16;

/// What the word says that wants to be woken by anything.
pub(crate) const ENABLE: u32 = 0;

/// The producer makes a batch visible by the flags of its first descriptor, at `old`, after which it is at `new`;
/// whether to wake the consumer.
#[inline]
pub(crate) fn publish<F, E>(
    flags: &F,
    value: u16,
    (old, new, size): (Position, Position, u16),
    events: &E,
    event_idx: bool,
) -> bool
where
    F: Word<Value = u16>,
    E: Word<Value = u32>,
{
    let asked = announce(flags, value, events);
    match asked & MODE {
        DISABLE => false,
        DESC if event_idx => {
            #[expect(clippy::cast_possible_truncation, reason = "its lower half")]
            let event = Position::from_bits(asked as u16);
            old.places_to(event, size) < old.places_to(new, size)
        }
        _ => true,
    }
}

/// The consumer asks to be woken by the descriptor at `at`, whose flags these are; gives the flags as they are then.
#[inline]
pub(crate) fn arm<F, E>(flags: &F, at: Position, events: &E, event_idx: bool) -> u16
where
    F: Word<Value = u16>,
    E: Word<Value = u32>,
{
    let ask = match event_idx {
        true => DESC | u32::from(at.bits()),
        false => ENABLE,
    };
    ask_and_look(flags, events, ask)
}

/// The consumer is awake and does not want to be woken.
#[inline]
pub(crate) fn disarm<E: Word<Value = u32>>(events: &E) {
    events.store(DISABLE, std::sync::atomic::Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    //! The protocol under every interleaving and every reordering that the memory model allows, as `loom` finds them.

    use std::sync::atomic::Ordering;

    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU16, AtomicU32, AtomicUsize, fence};

    use super::*;

    /// Entries of the ring, so that the wrap counter turns over during the test.
    const SIZE: u16 = 1;
    /// How often the producer publishes, one descriptor at a time.
    const MOVES: u16 = 2;

    /// A word of the ring, with or without its barrier: the protocol as it would be if somebody removed it.
    struct Flags<const ORDERED: bool>(AtomicU16);

    impl<const ORDERED: bool> Word for Flags<ORDERED> {
        type Value = u16;
        fn load(&self, order: Ordering) -> u16 {
            self.0.load(order)
        }
        fn store(&self, value: u16, order: Ordering) {
            self.0.store(value, order);
        }
        fn full_barrier() {
            if ORDERED {
                fence(Ordering::SeqCst);
            }
        }
    }

    struct Events(AtomicU32);

    impl Word for Events {
        type Value = u32;
        fn load(&self, order: Ordering) -> u32 {
            self.0.load(order)
        }
        fn store(&self, value: u32, order: Ordering) {
            self.0.store(value, order);
        }
        fn full_barrier() {
            unreachable!("the ring's word has it")
        }
    }

    /// A producer that fills a ring and wakes, a consumer that takes, returns the place, arms and sleeps until it has
    /// seen all. The eventfd is a counter whose accesses order nothing else. Two rings of one entry stand for a ring of
    /// one that is used twice, so that the producer need not wait for the consumer.
    fn all_is_consumed<const ORDERED: bool>(event_idx: bool) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(move || {
            let places: Arc<[Flags<ORDERED>; 2]> = Arc::new([
                // What each place holds before the producer's turn there: returned in the round before.
                Flags(AtomicU16::new(0)),
                Flags(AtomicU16::new(Position::START.used())),
            ]);
            let events = Arc::new(Events(AtomicU32::new(ENABLE)));
            let wakes = Arc::new(AtomicUsize::new(0));
            let producer = {
                let (places, events) = (Arc::clone(&places), Arc::clone(&events));
                let wakes = Arc::clone(&wakes);
                loom::thread::spawn(move || {
                    let mut at = Position::START;
                    for place in places.iter() {
                        let new = at.advance(1, SIZE);
                        let moved = (at, new, SIZE);
                        if publish(place, at.available(), moved, &*events, event_idx) {
                            wakes.fetch_add(1, Ordering::Relaxed);
                        }
                        at = new;
                    }
                })
            };
            let mut producer = Some(producer);
            let mut at = Position::START;
            let mut seen = 0;
            while let Some(place) = places.get(usize::from(seen)) {
                if !at.is_available(arm(place, at, &*events, event_idx))
                    && wakes.swap(0, Ordering::Relaxed) == 0
                {
                    // Asleep. The producer does all that it will do; then somebody must have called.
                    if let Some(producer) = producer.take() {
                        producer.join().unwrap();
                    }
                    assert_ne!(wakes.swap(0, Ordering::Relaxed), 0, "asleep for ever");
                }
                disarm(&*events);
                if at.is_available(place.load(Ordering::Acquire)) {
                    at = at.advance(1, SIZE);
                    seen += 1;
                }
            }
            assert_eq!(seen, MOVES);
        });
    }

    #[test]
    fn no_wake_up_is_lost_with_event_idx() {
        all_is_consumed::<true>(true);
    }

    #[test]
    fn no_wake_up_is_lost_with_enable_and_disable() {
        all_is_consumed::<true>(false);
    }

    #[test]
    #[should_panic(expected = "asleep for ever")]
    fn the_model_notices_a_missing_barrier_with_event_idx() {
        all_is_consumed::<false>(true);
    }

    #[test]
    #[should_panic(expected = "asleep for ever")]
    fn the_model_notices_a_missing_barrier_with_enable_and_disable() {
        all_is_consumed::<false>(false);
    }

    #[test]
    fn a_batch_wakes_if_the_event_is_in_it_and_in_its_round() {
        let wakes = |old: u16, new: u16, asked: u32, event_idx: bool| {
            let flags = std::sync::atomic::AtomicU16::new(0);
            let events = std::sync::atomic::AtomicU32::new(asked);
            let moved = (Position::from_bits(old), Position::from_bits(new), 6);
            publish(&flags, 0, moved, &events, event_idx)
        };
        const ROUND: u16 = 0x8000;
        // From 3 of one round to 2 of the next: 3, 4, 5, 0, 1 were published.
        let batch = |asked| wakes(3 | ROUND, 2, asked, true);
        for (event, woken) in [
            (2 | ROUND, false),
            (3 | ROUND, true),
            (5 | ROUND, true),
            (0, true),
            (1, true),
            (2, false),
            (4, false),
            (1 | ROUND, false),
        ] {
            assert_eq!(batch(DESC | u32::from(event)), woken, "{event:#x}");
        }
        assert!(batch(ENABLE));
        assert!(!batch(DISABLE));
        // Without the feature, what asks for a descriptor asks for anything.
        assert!(wakes(3 | ROUND, 4 | ROUND, DESC, false));
    }
}
