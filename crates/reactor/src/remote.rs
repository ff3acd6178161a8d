//! Messages and wake-ups from other threads.
//!
//! The sender writes the eventfd only if the loop says that it sleeps: the flag is raised before the last look at
//! the queues, and read after a message is queued, both sequentially consistent, so one of the two sees the other.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

/// What every thread may touch of a reactor, whatever its message type.
#[derive(Debug)]
pub(crate) struct Bell {
    event: OwnedFd,
    sleeping: AtomicBool,
    woken: AtomicBool,
    tasks: Mutex<Vec<usize>>,
}

impl Bell {
    pub(crate) fn new() -> std::io::Result<Arc<Bell>> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Bell {
            event,
            sleeping: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            tasks: Mutex::new(Vec::new()),
        }))
    }

    pub(crate) fn event(&self) -> &OwnedFd {
        &self.event
    }

    /// Something was put where the loop looks: make sure that it looks.
    fn ring(&self) {
        self.woken.store(true, Ordering::SeqCst);
        if self.sleeping.swap(false, Ordering::SeqCst) {
            // A full counter wakes as well as a written one, so no error matters here.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// Marks a task as ready.
    pub(crate) fn wake_task(&self, task: usize) {
        lock(&self.tasks).push(task);
        self.ring();
    }

    /// Takes the list of ready tasks.
    pub(crate) fn take_tasks(&self, into: &mut Vec<usize>) {
        into.append(&mut lock(&self.tasks));
    }

    /// Whether anything was rung since the last call.
    pub(crate) fn take_woken(&self) -> bool {
        self.is_woken() && self.woken.swap(false, Ordering::SeqCst)
    }

    /// Whether anything was rung since the last [`Bell::take_woken`].
    pub(crate) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Relaxed)
    }

    /// Makes the next [`Bell::take_woken`] say yes.
    pub(crate) fn look_again(&self) {
        self.woken.store(true, Ordering::Relaxed);
    }

    /// The loop is going to sleep. `false`: something has been rung meanwhile, so it must not.
    pub(crate) fn lie_down(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        if self.woken.load(Ordering::SeqCst) {
            self.get_up();
            return false;
        }
        true
    }

    pub(crate) fn get_up(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }
}

/// A queue is a plain container: one left by a panicking thread is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The messages under way to a reactor.
#[derive(Debug)]
pub(crate) struct Mailbox<M> {
    pub(crate) bell: Arc<Bell>,
    queue: Mutex<Queue<M>>,
    /// How long the loop looks for work at most before it sleeps, in nanoseconds.
    spin: AtomicU64,
}

#[derive(Debug)]
struct Queue<M> {
    messages: VecDeque<M>,
    closed: bool,
    stop: bool,
}

impl<M> Mailbox<M> {
    pub(crate) fn new() -> std::io::Result<Arc<Mailbox<M>>> {
        let queue = Mutex::new(Queue {
            messages: VecDeque::new(),
            closed: false,
            stop: false,
        });
        Ok(Arc::new(Mailbox {
            bell: Bell::new()?,
            queue,
            spin: AtomicU64::new(0),
        }))
    }

    /// In nanoseconds.
    pub(crate) fn spin(&self) -> u64 {
        self.spin.load(Ordering::Relaxed)
    }

    pub(crate) fn set_spin(&self, spin: Duration) {
        let nanoseconds = u64::try_from(spin.as_nanos()).unwrap_or(u64::MAX);
        self.spin.store(nanoseconds, Ordering::Relaxed);
    }

    /// The oldest message.
    pub(crate) fn take(&self) -> Option<M> {
        lock(&self.queue).messages.pop_front()
    }

    /// Whether the loop was told to end.
    pub(crate) fn stopping(&self) -> bool {
        lock(&self.queue).stop
    }

    pub(crate) fn stop(&self) {
        lock(&self.queue).stop = true;
        self.bell.ring();
    }

    /// The loop has ended: nothing is accepted any more, and what waits is dropped.
    pub(crate) fn close(&self) {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        let rest = std::mem::take(&mut queue.messages);
        drop(queue);
        drop(rest);
    }
}

/// Sends messages to a reactor from any thread.
#[derive(Debug)]
pub struct Remote<M> {
    pub(crate) mailbox: Arc<Mailbox<M>>,
}

impl<M> Clone for Remote<M> {
    fn clone(&self) -> Self {
        Remote {
            mailbox: Arc::clone(&self.mailbox),
        }
    }
}

impl<M: Send + 'static> Remote<M> {
    /// Queues `message` and wakes the loop if it sleeps. Messages of one sender arrive in order. Returns `false`, and
    /// drops the message, when the reactor has ended.
    pub fn send(&self, message: M) -> bool {
        let mut queue = lock(&self.mailbox.queue);
        if queue.closed {
            return false;
        }
        queue.messages.push_back(message);
        drop(queue);
        self.mailbox.bell.ring();
        true
    }
}
