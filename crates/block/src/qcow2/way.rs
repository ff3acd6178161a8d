//! The straight way to an image's file: who is on it, and how it is closed.
//!
//! Every data handle has a [`Way`] of its own, with a count of its operations that are on it. Only its reactor changes the
//! count, so the processor that does need not fetch it from another. Whoever has to be alone closes the way for all of
//! them, and waits until all counts are zero ([`Ways::close`]). An operation first counts itself, then looks whether the
//! way is closed; who closes it does so first, and then looks at the counts. As both orders are kept, at least one of the
//! two sees the other.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The ways of all data handles of an image.
#[derive(Debug, Default)]
pub(super) struct Ways {
    closed: AtomicBool,
    /// An operation has left while the way was closed.
    left: Notify,
    counts: Mutex<Vec<Arc<Count>>>,
}

/// Operations of one data handle. It has its cache line for itself.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Count(AtomicUsize);

/// A data handle's way.
#[derive(Debug)]
pub(super) struct Way {
    ways: Arc<Ways>,
    count: Arc<Count>,
}

impl Way {
    /// Begins an operation, which ends with [`Way::leave`]. `false`: the way is closed.
    #[inline]
    #[must_use]
    pub fn enter(&self) -> bool {
        self.count.0.fetch_add(1, Ordering::SeqCst);
        let open = !self.ways.closed.load(Ordering::SeqCst);
        if !open {
            self.leave();
        }
        open
    }

    /// Ends an operation.
    #[inline]
    pub fn leave(&self) {
        self.count.0.fetch_sub(1, Ordering::SeqCst);
        if self.ways.closed.load(Ordering::SeqCst) {
            self.ways.left.notify_waiters();
        }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.ways
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|count| !Arc::ptr_eq(count, &self.count));
        self.ways.left.notify_waiters();
    }
}

/// Keeps the way closed.
#[derive(Debug)]
#[must_use]
pub(super) struct Closed<'a>(&'a Ways);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.closed.store(false, Ordering::SeqCst);
    }
}

impl Ways {
    /// The way of a new data handle.
    pub fn add(self: &Arc<Self>) -> Way {
        let count = Arc::<Count>::default();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.push(Arc::clone(&count));
        Way {
            ways: Arc::clone(self),
            count,
        }
    }

    /// Closes the way and waits until nobody is on it. It is open again when what is returned, or the future, is dropped.
    /// Only one may do so at a time.
    pub async fn close(&self) -> Closed<'_> {
        self.closed.store(true, Ordering::SeqCst);
        let closed = Closed(self);
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            left.as_mut().enable();
            if self.is_empty() {
                return closed;
            }
            left.await;
        }
    }

    fn is_empty(&self) -> bool {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().all(|c| c.0.load(Ordering::SeqCst) == 0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use lunar_reactor::block_on;

    use super::*;

    #[test]
    fn closing_waits_for_those_on_the_way_and_keeps_others_off() {
        let ways = Arc::<Ways>::default();
        let (one, two) = (ways.add(), ways.add());
        assert!(one.enter() && two.enter());
        let there = Arc::clone(&ways);
        let closer = std::thread::spawn(move || {
            let closed = block_on(there.close());
            std::thread::sleep(Duration::from_millis(20));
            drop(closed);
        });
        while one.enter() {
            one.leave();
        }
        assert!(!two.enter() && !ways.add().enter());
        one.leave();
        std::thread::sleep(Duration::from_millis(20));
        assert!(!closer.is_finished(), "one operation is still on the way");
        two.leave();
        closer.join().unwrap();
        assert!(one.enter());
        one.leave();
    }

    #[test]
    fn a_way_whose_closing_was_given_up_is_open() {
        let ways = Arc::<Ways>::default();
        let way = ways.add();
        assert!(way.enter());
        {
            let mut closing = std::pin::pin!(ways.close());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(closing.as_mut().poll(&mut context).is_pending());
            assert!(!way.enter());
        }
        assert!(way.enter());
    }

    /// While the way is closed nobody is on it, however often it is closed and whoever comes.
    #[test]
    fn who_has_closed_the_way_is_alone() {
        let ways = Arc::<Ways>::default();
        let inside = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let users: Vec<_> = (0..2)
            .map(|_| {
                let (way, inside, stop) = (ways.add(), Arc::clone(&inside), Arc::clone(&stop));
                std::thread::spawn(move || {
                    let mut entered = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        if way.enter() {
                            inside.fetch_add(1, Ordering::Relaxed);
                            inside.fetch_sub(1, Ordering::Relaxed);
                            way.leave();
                            entered += 1;
                        }
                    }
                    entered
                })
            })
            .collect();
        for _ in 0..2000 {
            let closed = block_on(ways.close());
            for _ in 0..50 {
                assert_eq!(inside.load(Ordering::Relaxed), 0);
            }
            drop(closed);
        }
        std::thread::sleep(Duration::from_millis(5));
        stop.store(true, Ordering::Relaxed);
        for user in users {
            assert!(user.join().unwrap() > 0);
        }
    }
}
