//! How the two sides of a ring wake each other, and never sleep through a message.
//!
//! Both directions are the same protocol, in both formats: a *producer* changes a word (of a split ring the driver
//! avail.idx, the device used.idx; of a packed ring the flags of the next descriptor) and then decides whether to wake the
//! consumer; a *consumer* that has taken everything asks to be woken, then looks at that word once more before it sleeps.
//! Each side stores one word and then loads the word that the other stores, with a full barrier between: at least one of
//! them sees the other's store (VS-073, VIRTIO 1.3 §2.7.7).
//!
//! [`announce`] and [`ask_and_look`] are the two steps; what follows them here is the split ring's. The packed ring's
//! words are in `packed::events`.

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

/// A word that both sides access.
pub(crate) trait Word {
    type Value;
    fn load(&self, order: Ordering) -> Self::Value;
    fn store(&self, value: Self::Value, order: Ordering);
    /// Orders every store before it before every load after it.
    fn full_barrier();
}

impl Word for AtomicU16 {
    type Value = u16;

    #[inline]
    fn load(&self, order: Ordering) -> u16 {
        self.load(order)
    }

    #[inline]
    fn store(&self, value: u16, order: Ordering) {
        self.store(value, order);
    }

    #[inline]
    fn full_barrier() {
        fence(Ordering::SeqCst);
    }
}

impl Word for AtomicU32 {
    type Value = u32;

    #[inline]
    fn load(&self, order: Ordering) -> u32 {
        self.load(order)
    }

    #[inline]
    fn store(&self, value: u32, order: Ordering) {
        self.store(value, order);
    }

    #[inline]
    fn full_barrier() {
        fence(Ordering::SeqCst);
    }
}

/// The producer's step: changes `word`; gives what the consumer has asked for.
#[inline]
pub(crate) fn announce<W: Word, R: Word>(word: &W, value: W::Value, request: &R) -> R::Value {
    // Release: what the word covers is visible before the word.
    word.store(value, Ordering::Release);
    W::full_barrier();
    request.load(Ordering::Relaxed)
}

/// The consumer's step before it sleeps: asks to be woken; gives `word` as it is after that.
#[inline]
pub(crate) fn ask_and_look<W: Word, R: Word>(word: &W, request: &R, ask: R::Value) -> W::Value {
    request.store(ask, Ordering::Relaxed);
    W::full_barrier();
    word.load(Ordering::Acquire)
}

/// The word by which a consumer says when it wants to be woken.
pub(crate) enum Suppression<'a, W> {
    /// EVENT_IDX: "when the index moves past this value".
    Event(&'a W),
    /// Without it: bit 0 set means "never".
    Flags(&'a W),
}

/// The producer moves `index` from `old` to `new`; whether to wake the consumer.
#[inline]
pub(crate) fn publish<W: Word<Value = u16>>(
    index: &W,
    old: u16,
    new: u16,
    suppression: &Suppression<'_, W>,
) -> bool {
    match suppression {
        Suppression::Event(event) => crossed(announce(index, new, *event), old, new),
        Suppression::Flags(flags) => announce(index, new, *flags) & 1 == 0,
    }
}

/// The consumer asks to be woken once the index moves from `seen`; whether it has moved already, so that there is no
/// reason to sleep.
#[inline]
pub(crate) fn arm<W: Word<Value = u16>>(
    index: &W,
    seen: u16,
    suppression: &Suppression<'_, W>,
) -> bool {
    let now = match suppression {
        Suppression::Event(event) => ask_and_look(index, *event, seen),
        Suppression::Flags(flags) => ask_and_look(index, *flags, 0),
    };
    now != seen
}

/// Asks to be woken once the index moves from `seen`.
#[inline]
pub(crate) fn ask<W: Word<Value = u16>>(seen: u16, suppression: &Suppression<'_, W>) {
    match suppression {
        Suppression::Event(event) => event.store(seen, Ordering::Relaxed),
        Suppression::Flags(flags) => flags.store(0, Ordering::Relaxed),
    }
}

/// The consumer's step while it is awake: asks not to be woken when the index moves from `seen`. With EVENT_IDX the event
/// is put behind, because a consumer that something else has woken would be called for the next entry although it looks.
#[inline]
pub(crate) fn disarm<W: Word<Value = u16>>(seen: u16, suppression: &Suppression<'_, W>) {
    match suppression {
        Suppression::Event(event) => event.store(seen.wrapping_sub(1), Ordering::Relaxed),
        Suppression::Flags(flags) => flags.store(1, Ordering::Relaxed),
    }
}

/// Whether an index that moves from `old` to `new` passes `event` (VIRTIO 1.3 §2.7.10).
#[inline]
fn crossed(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    //! The protocol under every interleaving and every reordering that the memory model allows, as `loom` finds them.

    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU16, AtomicUsize};

    use super::*;

    /// How often the producer publishes, one entry at a time.
    const MOVES: u16 = 2;
    /// So that the index wraps during the test.
    const START: u16 = u16::MAX;

    impl Word for AtomicU16 {
        type Value = u16;
        fn load(&self, order: Ordering) -> u16 {
            self.load(order)
        }
        fn store(&self, value: u16, order: Ordering) {
            self.store(value, order);
        }
        fn full_barrier() {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    }

    /// The same word without the barrier: the protocol as it would be if somebody removed it.
    struct Unordered(AtomicU16);

    impl Word for Unordered {
        type Value = u16;
        fn load(&self, order: Ordering) -> u16 {
            self.0.load(order)
        }
        fn store(&self, value: u16, order: Ordering) {
            self.0.store(value, order);
        }
        fn full_barrier() {}
    }

    fn suppression<W>(word: &W, event_idx: bool) -> Suppression<'_, W> {
        if event_idx {
            Suppression::Event(word)
        } else {
            Suppression::Flags(word)
        }
    }

    /// A producer that publishes and wakes, a consumer that takes, arms and sleeps until it has seen all. The eventfd is
    /// a counter whose accesses order nothing else.
    fn all_is_consumed<W: Word<Value = u16> + Send + Sync + 'static>(
        word: fn(u16) -> W,
        event_idx: bool,
    ) {
        let mut model = loom::model::Builder::new();
        // Preemptions at any place, but no more than three in one run: all runs would take a minute.
        model.preemption_bound = Some(3);
        model.check(move || {
            let end = START.wrapping_add(MOVES);
            let index = Arc::new(word(START));
            let request = Arc::new(word(if event_idx { START } else { 0 }));
            let wakes = Arc::new(AtomicUsize::new(0));
            let producer = {
                let (index, request) = (Arc::clone(&index), Arc::clone(&request));
                let wakes = Arc::clone(&wakes);
                loom::thread::spawn(move || {
                    for i in 0..MOVES {
                        let old = START.wrapping_add(i);
                        if publish(
                            &*index,
                            old,
                            old.wrapping_add(1),
                            &suppression(&*request, event_idx),
                        ) {
                            wakes.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
            };
            let mut producer = Some(producer);
            let mut seen = START;
            while seen != end {
                if !arm(&*index, seen, &suppression(&*request, event_idx))
                    && wakes.swap(0, Ordering::Relaxed) == 0
                {
                    // Asleep. The producer does all that it will do; then somebody must have called.
                    if let Some(producer) = producer.take() {
                        producer.join().unwrap();
                    }
                    assert_ne!(wakes.swap(0, Ordering::Relaxed), 0, "asleep for ever");
                }
                disarm(seen, &suppression(&*request, event_idx));
                seen = index.load(Ordering::Acquire);
            }
        });
    }

    #[test]
    fn no_wake_up_is_lost_with_event_idx() {
        all_is_consumed(AtomicU16::new, true);
    }

    #[test]
    fn no_wake_up_is_lost_with_flags() {
        all_is_consumed(AtomicU16::new, false);
    }

    #[test]
    #[should_panic(expected = "asleep for ever")]
    fn the_model_notices_a_missing_barrier_with_event_idx() {
        all_is_consumed(|v| Unordered(AtomicU16::new(v)), true);
    }

    #[test]
    #[should_panic(expected = "asleep for ever")]
    fn the_model_notices_a_missing_barrier_with_flags() {
        all_is_consumed(|v| Unordered(AtomicU16::new(v)), false);
    }

    #[test]
    fn an_index_crosses_an_event_only_when_it_moves_past_it() {
        // Event 5 means: tell me once entry 5 is there, which is when the index becomes 6.
        assert!(!crossed(5, 4, 5));
        assert!(crossed(5, 5, 6));
        assert!(!crossed(5, 6, 7));
        assert!(crossed(5, 3, 9));
        assert!(crossed(u16::MAX, u16::MAX, 0));
        assert!(!crossed(5, 5, 5));
    }
}
