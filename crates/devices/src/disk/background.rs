//! What a disk does while nobody waits for it: one thing at a time, on the reactor of the command that has started it.
//!
//! It holds a data handle of the image. So it can be told to stop, and whoever is going to close the image waits until it
//! has: see [`Background::stop`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::Unit;

/// Whether something is going on, and whether it is to stop.
#[derive(Debug, Default)]
pub(super) struct Background {
    running: Mutex<bool>,
    over: Condvar,
    stop: AtomicBool,
}

/// Something is going on until this is dropped, be it done, stopped, or lost with its reactor.
#[derive(Debug)]
pub(super) struct Running(Arc<Unit>);

impl Running {
    /// `None` if there is something already.
    pub(super) fn begin(unit: &Arc<Unit>) -> Option<Running> {
        let background = &unit.background;
        let mut running = background.lock();
        if std::mem::replace(&mut *running, true) {
            return None;
        }
        background.stop.store(false, Ordering::Relaxed);
        drop(running);
        Some(Running(Arc::clone(unit)))
    }

    /// Whether it is to stop: asked before each step.
    pub(super) fn is_stopped(&self) -> bool {
        self.0.background.stop.load(Ordering::Relaxed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let background = &self.0.background;
        *background.lock() = false;
        background.over.notify_all();
    }
}

impl Background {
    pub(super) fn is_running(&self) -> bool {
        *self.lock()
    }

    /// Asks what is going on to stop.
    pub(super) fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Stops what is going on, and returns when it is over. Not on a reactor, which it may need.
    pub(super) fn stop(&self) {
        let mut running = self.lock();
        while *running {
            self.ask_to_stop();
            running = self
                .over
                .wait(running)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, bool> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
