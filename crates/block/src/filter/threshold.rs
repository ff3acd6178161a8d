//! `block-set-write-threshold`: who wants to know when writes get so far into a node.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Is told by how much the threshold was exceeded, and the threshold. Called on the reactors' threads; must not wait.
type Listener = Box<dyn FnOnce(u64, u64) + Send>;

/// The threshold of a node. It is told of once, and then there is none any more.
pub struct WriteThreshold {
    /// `u64::MAX` is none, so that a write has one comparison to make.
    offset: AtomicU64,
    listener: Mutex<Option<Listener>>,
}

impl Default for WriteThreshold {
    fn default() -> WriteThreshold {
        WriteThreshold {
            offset: AtomicU64::new(u64::MAX),
            listener: Mutex::default(),
        }
    }
}

impl std::fmt::Debug for WriteThreshold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("WriteThreshold").field(&self.get()).finish()
    }
}

impl WriteThreshold {
    /// Where it is.
    pub fn get(&self) -> Option<u64> {
        let offset = self.offset.load(Ordering::Relaxed);
        (offset != u64::MAX).then_some(offset)
    }

    /// Tells `listener` of the first write that ends behind `offset`. What was set before is forgotten.
    pub fn set(&self, offset: u64, listener: impl FnOnce(u64, u64) + Send + 'static) {
        let mut current = self.listener();
        *current = Some(Box::new(listener));
        self.offset.store(offset, Ordering::Relaxed);
    }

    /// Nobody is told.
    pub fn clear(&self) {
        let mut current = self.listener();
        *current = None;
        self.offset.store(u64::MAX, Ordering::Relaxed);
    }

    fn listener(&self) -> MutexGuard<'_, Option<Listener>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is written that ends here.
    #[inline]
    pub(super) fn look(&self, end: u64) {
        if end > self.offset.load(Ordering::Relaxed) {
            self.exceeded(end);
        }
    }

    #[cold]
    fn exceeded(&self, end: u64) {
        let mut current = self.listener();
        // Another reactor may have been faster.
        let offset = self.offset.load(Ordering::Relaxed);
        if end > offset
            && let Some(listener) = current.take()
        {
            self.offset.store(u64::MAX, Ordering::Relaxed);
            drop(current);
            listener(end - offset, offset);
        }
    }
}
