//! The local executor: a slab of futures, each with a waker of its own that is made once and reused by later tasks
//! in the same slot.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Wake, Waker};

use slab::Slab;

use crate::remote::Bell;

type Task = Pin<Box<dyn Future<Output = ()>>>;
/// One waker in its two forms.
type Wakers = (Arc<TaskWaker>, Waker);

struct Slot {
    /// Absent while the task is being polled.
    task: Option<Task>,
    wake: Arc<TaskWaker>,
    waker: Waker,
}

/// Wakers must work from any thread: locks are shared between reactors. On the task's own thread they go through the
/// same short list.
struct TaskWaker {
    index: usize,
    queued: AtomicBool,
    bell: Weak<Bell>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel)
            && let Some(bell) = self.bell.upgrade()
        {
            bell.wake_task(self.index);
        }
    }
}

pub(crate) struct Executor {
    bell: Arc<Bell>,
    slots: RefCell<Slab<Slot>>,
    /// Wakers of slots that were used before, by index: a stale one can at worst wake the next task once too often.
    spare: RefCell<Vec<Option<Wakers>>>,
    ready: Cell<Vec<usize>>,
}

impl Executor {
    pub(crate) fn new(bell: Arc<Bell>) -> Executor {
        Executor {
            bell,
            slots: RefCell::new(Slab::new()),
            spare: RefCell::new(Vec::new()),
            ready: Cell::new(Vec::new()),
        }
    }

    /// Polls `task` once; keeps it if it waits for something.
    pub(crate) fn spawn(&self, task: Task) {
        let index = {
            let mut slots = self.slots.borrow_mut();
            let entry = slots.vacant_entry();
            let index = entry.key();
            let spare = self
                .spare
                .borrow_mut()
                .get_mut(index)
                .and_then(Option::take);
            let (wake, waker) = spare.unwrap_or_else(|| {
                let bell = Arc::downgrade(&self.bell);
                let wake = Arc::new(TaskWaker {
                    index,
                    queued: AtomicBool::new(false),
                    bell,
                });
                let waker = Waker::from(Arc::clone(&wake));
                (wake, waker)
            });
            entry.insert(Slot {
                task: Some(task),
                wake,
                waker,
            });
            index
        };
        self.poll(index);
    }

    fn poll(&self, index: usize) {
        let Some((mut task, waker)) = self.slots.borrow_mut().get_mut(index).and_then(|slot| {
            // Cleared before the poll: a wake during it must count.
            slot.wake.queued.store(false, Ordering::Release);
            Some((slot.task.take()?, slot.waker.clone()))
        }) else {
            return;
        };
        if task
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
        {
            if let Some(slot) = self.slots.borrow_mut().get_mut(index) {
                slot.task = Some(task);
            }
            return;
        }
        // A future's destructor may use the executor: no borrow is held here.
        drop(task);
        let slot = self.slots.borrow_mut().try_remove(index);
        if let Some(slot) = slot {
            let mut spare = self.spare.borrow_mut();
            if spare.len() <= index {
                spare.resize_with(index + 1, || None);
            }
            if let Some(place) = spare.get_mut(index) {
                *place = Some((slot.wake, slot.waker));
            }
        }
    }

    /// Runs what is ready now; returns whether anything was. Tasks woken meanwhile wait for the next turn.
    pub(crate) fn run(&self) -> bool {
        let mut ready = self.ready.take();
        self.bell.take_tasks(&mut ready);
        let any = !ready.is_empty();
        for index in ready.drain(..) {
            self.poll(index);
        }
        self.ready.set(ready);
        any
    }

    /// Drops every task.
    pub(crate) fn clear(&self) {
        let slots = std::mem::take(&mut *self.slots.borrow_mut());
        drop(slots);
    }
}
