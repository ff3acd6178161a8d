//! Counters that each data handle has for itself, and their sum.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The counters of one data handle: one thread writes them, any thread may look.
pub(super) trait Counters: Default {
    /// Adds what another has counted.
    fn absorb(&self, other: &Self);
}

/// The counters of all data handles of an image.
#[derive(Debug, Default)]
pub(super) struct Books<C> {
    /// One entry for each data handle, and the first for all that have been closed.
    handles: Mutex<Vec<Arc<C>>>,
}

impl<C: Counters> Books<C> {
    /// What all have counted.
    pub fn total(&self) -> C {
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        let total = C::default();
        for counters in handles.iter() {
            total.absorb(counters);
        }
        total
    }

    /// The counters of a new data handle. Those of closed ones are kept as one.
    pub fn open(&self) -> Arc<C> {
        let counters = Arc::new(C::default());
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = C::default();
        handles.retain(|handle| {
            let open = Arc::strong_count(handle) > 1;
            if !open {
                closed.absorb(handle);
            }
            open
        });
        handles.insert(0, Arc::new(closed));
        handles.push(Arc::clone(&counters));
        counters
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.handles.lock().map_or(0, |handles| handles.len())
    }
}

/// A load and a store, because only one thread counts: no locked instruction on the way of an operation.
#[inline]
pub(super) fn add(counter: &AtomicU64, n: u64) {
    let new = counter.load(Ordering::Relaxed).wrapping_add(n);
    counter.store(new, Ordering::Relaxed);
}
