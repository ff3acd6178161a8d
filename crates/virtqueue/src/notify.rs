//! How the two sides of a ring wake each other, and never sleep through a message.
//!
//! Both directions are the same protocol: a *producer* moves an index (the driver avail.idx, the device used.idx) and
//! then decides whether to wake the consumer; a *consumer* that has taken everything asks to be woken, then looks at
//! the index once more before it sleeps. Each side stores one word and then loads the word that the other stores, with
//! a full barrier between: at least one of them sees the other's store (VS-073, VIRTIO 1.3 §2.7.7).

use std::sync::atomic::{AtomicU16, Ordering, fence};

/// A 16-bit word that both sides access.
pub(crate) trait Word {
    fn load(&self, order: Ordering) -> u16;
    fn store(&self, value: u16, order: Ordering);
    /// Orders every store before it before every load after it.
    fn full_barrier();
}

impl Word for AtomicU16 {
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

/// The word by which a consumer says when it wants to be woken.
pub(crate) enum Suppression<'a, W> {
    /// EVENT_IDX: "when the index moves past this value".
    Event(&'a W),
    /// Without it: bit 0 set means "never".
    Flags(&'a W),
}

/// The producer's step: moves `index` from `old` to `new`; whether to wake the consumer.
#[inline]
pub(crate) fn publish<W: Word>(
    index: &W,
    old: u16,
    new: u16,
    suppression: &Suppression<'_, W>,
) -> bool {
    // Release: what the index covers is visible before the index.
    index.store(new, Ordering::Release);
    W::full_barrier();
    match suppression {
        Suppression::Event(event) => crossed(event.load(Ordering::Relaxed), old, new),
        Suppression::Flags(flags) => flags.load(Ordering::Relaxed) & 1 == 0,
    }
}

/// The consumer's step before it sleeps: asks to be woken once the index moves from `seen`; whether it has moved
/// already, so that there is no reason to sleep.
#[inline]
pub(crate) fn arm<W: Word>(index: &W, seen: u16, suppression: &Suppression<'_, W>) -> bool {
    ask(seen, suppression);
    W::full_barrier();
    index.load(Ordering::Acquire) != seen
}

/// Asks to be woken once the index moves from `seen`.
#[inline]
pub(crate) fn ask<W: Word>(seen: u16, suppression: &Suppression<'_, W>) {
    match suppression {
        Suppression::Event(event) => event.store(seen, Ordering::Relaxed),
        Suppression::Flags(flags) => flags.store(0, Ordering::Relaxed),
    }
}

/// The consumer's step while it is awake: asks not to be woken. With EVENT_IDX nothing needs to be said, because the
/// index moves past the event only once.
#[inline]
pub(crate) fn disarm<W: Word>(suppression: &Suppression<'_, W>) {
    if let Suppression::Flags(flags) = suppression {
        flags.store(1, Ordering::Relaxed);
    }
}

/// Whether an index that moves from `old` to `new` passes `event` (VIRTIO 1.3 §2.7.10).
#[inline]
fn crossed(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
