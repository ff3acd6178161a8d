//! Knowing when something is over that many threads and many commands take part in.
//!
//! Everybody who takes part holds a clone of a [`Barrier`]; whatever drops the last one (a command that has been
//! published, a worker that had nothing to do, a thread that died) runs what was waiting for it. Nobody counts, and
//! nobody can forget to answer.

use std::convert::Infallible;
use std::fmt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

type Action = Box<dyn FnOnce() + Send>;

/// Runs an action when its last clone is dropped.
#[derive(Clone)]
pub(crate) struct Barrier(#[expect(dead_code, reason = "held for its Drop")] Arc<OnDrop>);

struct OnDrop(Mutex<Option<Action>>);

impl Barrier {
    /// A barrier that runs `action` when it is over.
    pub fn new(action: impl FnOnce() + Send + 'static) -> Barrier {
        Barrier(Arc::new(OnDrop(Mutex::new(Some(Box::new(action))))))
    }

    /// A barrier that another thread waits for.
    pub fn channel() -> (Barrier, Wait) {
        let (over, wait) = channel();
        // The sender lives as long as the action: dropping it is the signal.
        (Barrier::new(move || drop(over)), Wait(wait))
    }

    /// A barrier that a task waits for.
    pub fn future() -> (Barrier, impl Future<Output = ()> + 'static) {
        let (over, wait) = oneshot::channel::<Infallible>();
        let wait = async move {
            // There is nothing to receive: the only news is that the sender has gone.
            let _: Result<_, _> = wait.await;
        };
        (Barrier::new(move || drop(over)), wait)
    }
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        let action = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(action) = action.take() {
            action();
        }
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Barrier")
    }
}

/// The waiting end of [`Barrier::channel`].
#[derive(Debug)]
pub(crate) struct Wait(Receiver<Infallible>);

impl Wait {
    /// Returns when the last clone of the barrier has gone.
    pub fn wait(self) {
        // There is nothing to receive: the only news is that every sender has gone.
        let _: Result<_, _> = self.0.recv();
    }

    /// Returns when that is so, or the time is over. Whether it is so.
    pub fn wait_within(self, time: Duration) -> bool {
        self.0.recv_timeout(time) == Err(RecvTimeoutError::Disconnected)
    }
}

/// The answer to a message that produces a value.
pub(crate) type Reply<T> = Sender<T>;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn the_action_runs_once_when_the_last_clone_goes() {
        let runs = Arc::new(AtomicUsize::new(0));
        let counter = runs.clone();
        let first = Barrier::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let second = first.clone();
        drop(first);
        assert_eq!(runs.load(Ordering::SeqCst), 0);
        drop(second);
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn waiting_ends_when_every_thread_has_dropped_its_clone() {
        let done = Arc::new(AtomicUsize::new(0));
        let (barrier, wait) = Barrier::channel();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (barrier, done) = (barrier.clone(), done.clone());
                std::thread::spawn(move || {
                    done.fetch_add(1, Ordering::SeqCst);
                    drop(barrier);
                })
            })
            .collect();
        drop(barrier);
        wait.wait();
        assert_eq!(done.load(Ordering::SeqCst), 4);
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
