//! What happens in a running host, for whoever wants to know.
//!
//! A [`Subscription`] is a queue of its own: nobody waits for a reader. A reader that is merely slow misses nothing; one
//! that has let [`CAPACITY`] events pile up is taken for dead, gets what is there, and then learns that it was cut off.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

/// Events that wait for one reader.
pub const CAPACITY: usize = 4096;

/// What happened. As JSON it is QMP's `event` and `data`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(
    tag = "event",
    content = "data",
    rename_all = "SCREAMING_SNAKE_CASE",
    rename_all_fields = "kebab-case"
)]
#[non_exhaustive]
pub enum Event {
    /// A device is gone: its address and its id are free.
    DeviceDeleted {
        /// Its id, if it had one.
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// Its place in the object tree.
        path: String,
    },
    /// A tray was opened or closed, by whomever.
    DeviceTrayMoved {
        /// The drive, if the medium is of one.
        device: String,
        /// The device's id, or its place in the object tree.
        id: String,
        /// Whether it is open now.
        tray_open: bool,
    },
    /// An image has failed an operation.
    BlockIoError {
        /// The device's place in the object tree.
        qom_path: String,
        /// The drive.
        device: String,
        /// The node.
        node_name: String,
        /// What failed.
        operation: IoOperation,
        /// What is done about it.
        action: IoErrorAction,
        /// For want of space.
        nospace: bool,
        /// For people.
        reason: String,
    },
    /// Writing has passed the mark that was set.
    BlockWriteThreshold {
        /// The node.
        node_name: String,
        /// By how many bytes.
        amount_exceeded: u64,
        /// The mark.
        write_threshold: u64,
    },
    /// Requests are taken no longer.
    Stop,
    /// Requests are taken again.
    Resume,
    /// The server ends.
    Shutdown {
        /// Because a guest wanted it.
        guest: bool,
        /// Why.
        reason: ShutdownReason,
    },
}

/// What kind of operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "QEMU's names")]
pub enum IoOperation {
    Read,
    Write,
}

/// What is done about a failed operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoErrorAction {
    /// It counts as done.
    Ignore,
    /// The guest is told.
    Report,
    /// It waits to be repeated.
    Stop,
}

/// Why a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShutdownReason {
    /// SIGTERM, SIGINT or SIGHUP.
    HostSignal,
    /// `quit`.
    HostQmpQuit,
}

/// An event and when it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// What happened.
    pub event: Event,
    /// When.
    pub at: SystemTime,
}

/// Where events are published.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events {
    readers: Arc<Mutex<Vec<Weak<Queue>>>>,
}

impl Events {
    /// Everything from now on.
    pub fn subscribe(&self) -> Subscription {
        let queue = Arc::new(Queue::default());
        lock(&self.readers).push(Arc::downgrade(&queue));
        Subscription { queue }
    }

    pub fn publish(&self, event: Event) {
        tracing::debug!(?event);
        let occurrence = Occurrence {
            event,
            at: SystemTime::now(),
        };
        // In one order for all.
        lock(&self.readers).retain(|reader| {
            let reader = reader.upgrade();
            reader.is_some_and(|queue| queue.push(&occurrence))
        });
    }

    /// There will be no more: readers get what is there, and then the end.
    pub fn end(&self) {
        for reader in lock(&self.readers).drain(..) {
            if let Some(queue) = reader.upgrade() {
                queue.end(End::Over);
            }
        }
    }
}

/// Why no more events come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The host has gone, or the reader has been closed.
    #[error("there are no more events")]
    Over,
    /// The reader was too slow.
    #[error("more than {CAPACITY} events were waiting for this reader")]
    Lagged,
}

/// One reader's events. Cloned, it is still one reader.
#[derive(Clone, Debug)]
pub struct Subscription {
    queue: Arc<Queue>,
}

impl Subscription {
    /// The next event; waits for it as long as there may be one.
    ///
    /// # Errors
    /// Why there is none any more.
    pub fn next(&self) -> Result<Occurrence, End> {
        let mut inbox = lock(&self.queue.inbox);
        loop {
            if let Some(next) = inbox.next() {
                return next;
            }
            inbox = self
                .queue
                .changed
                .wait(inbox)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next event, if one comes in time.
    ///
    /// # Errors
    /// Why there is none any more.
    pub fn next_within(&self, time: Duration) -> Result<Option<Occurrence>, End> {
        let end = Instant::now() + time;
        let mut inbox = lock(&self.queue.inbox);
        loop {
            if let Some(next) = inbox.next() {
                return next.map(Some);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let waited = self.queue.changed.wait_timeout(inbox, left);
            inbox = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends it, and with it the waiting of whoever waits in [`Subscription::next`].
    pub fn close(&self) {
        self.queue.end(End::Over);
    }
}

#[derive(Debug, Default)]
struct Queue {
    inbox: Mutex<Inbox>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inbox {
    waiting: VecDeque<Occurrence>,
    end: Option<End>,
}

impl Queue {
    /// Whether the reader goes on.
    fn push(&self, occurrence: &Occurrence) -> bool {
        let mut inbox = lock(&self.inbox);
        if inbox.end.is_none() {
            if inbox.waiting.len() < CAPACITY {
                inbox.waiting.push_back(occurrence.clone());
            } else {
                inbox.end = Some(End::Lagged);
            }
        }
        self.changed.notify_all();
        inbox.end.is_none()
    }

    fn end(&self, end: End) {
        lock(&self.inbox).end.get_or_insert(end);
        self.changed.notify_all();
    }
}

impl Inbox {
    fn next(&mut self) -> Option<Result<Occurrence, End>> {
        let next = self.waiting.pop_front().map(Ok);
        next.or_else(|| self.end.map(Err))
    }
}

/// Everything that is done under these locks is done in one step: a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    reason = "a failed expectation is a test's verdict"
)]
mod tests {
    use super::*;

    fn deleted(id: &str) -> Event {
        Event::DeviceDeleted {
            device: Some(id.to_owned()),
            path: format!("/machine/peripheral/{id}"),
        }
    }

    #[test]
    fn every_reader_gets_every_event_in_order() {
        let events = Events::default();
        let readers = [events.subscribe(), events.subscribe()];
        events.publish(deleted("a"));
        events.publish(Event::Stop);
        for reader in readers {
            assert_eq!(reader.next().unwrap().event, deleted("a"));
            assert_eq!(reader.next().unwrap().event, Event::Stop);
            assert_eq!(reader.next_within(Duration::ZERO), Ok(None));
        }
    }

    #[test]
    fn a_reader_that_never_reads_is_cut_off_after_what_was_kept_for_it() {
        let events = Events::default();
        let (lazy, keen) = (events.subscribe(), events.subscribe());
        for _ in 0..=CAPACITY {
            events.publish(Event::Stop);
            keen.next().unwrap();
        }
        events.publish(Event::Resume);
        for _ in 0..CAPACITY {
            assert_eq!(lazy.next().unwrap().event, Event::Stop);
        }
        assert_eq!(lazy.next(), Err(End::Lagged));
        assert_eq!(keen.next().unwrap().event, Event::Resume);
    }

    #[test]
    fn closing_wakes_the_reader_that_waits() {
        let events = Events::default();
        let reader = events.subscribe();
        let waiting = std::thread::spawn({
            let reader = reader.clone();
            move || reader.next()
        });
        std::thread::sleep(Duration::from_millis(10));
        reader.close();
        assert_eq!(waiting.join().unwrap(), Err(End::Over));
        events.publish(Event::Stop);
        assert!(lock(&events.readers).is_empty(), "nothing is kept for it");
    }

    #[test]
    fn an_event_is_qmp() {
        let json = |event| serde_json::to_value(event).unwrap();
        assert_eq!(
            json(deleted("d")),
            serde_json::json!({"event": "DEVICE_DELETED",
                "data": {"device": "d", "path": "/machine/peripheral/d"}})
        );
        assert_eq!(json(Event::Stop), serde_json::json!({"event": "STOP"}));
        let moved = Event::DeviceTrayMoved {
            device: String::new(),
            id: "cd".into(),
            tray_open: true,
        };
        assert_eq!(json(moved)["data"]["tray-open"], true);
    }
}
