//! Between a host and its monitor: events on their way out, work that takes its time, errors.

use std::sync::mpsc::{SendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lunar_host::{Event, IoErrorAction, Occurrence, Subscription};
use serde_json::Value;

use crate::error::Class;
use crate::{Error, Notice, Notifier};

/// Sends a host's events to a monitor's clients until there are no more, on a thread of its own.
pub fn forward(events: Subscription, notifier: Notifier) -> std::io::Result<JoinHandle<()>> {
    let forward = move || {
        while let Ok(occurrence) = events.next() {
            if let Some(notice) = notice(&occurrence) {
                notifier.notify(notice);
            }
        }
    };
    thread::Builder::new()
        .name("monitor events".into())
        .spawn(forward)
}

/// An event as the protocol has it. The host's serialization is the protocol's.
pub fn notice(occurrence: &Occurrence) -> Option<Notice> {
    let Value::Object(mut message) = serde_json::to_value(&occurrence.event).ok()? else {
        return None;
    };
    let name = message.remove("event")?;
    let name = super::commands::EVENTS
        .iter()
        .find(|(known, _)| name == **known)?
        .0;
    // A guest can cause these; those that stop it are told always (QEMU's rule, too).
    let limited = match &occurrence.event {
        Event::BlockIoError {
            qom_path, action, ..
        } if *action != IoErrorAction::Stop => Some(qom_path.clone()),
        Event::DeviceTrayMoved { id, .. } => Some(id.clone()),
        _ => None,
    };
    Some(Notice {
        name,
        data: message.remove("data"),
        at: occurrence.at,
        limited,
    })
}

/// How long a command waits for what may take any time, before it answers that it is under way.
const PATIENCE: Duration = Duration::from_millis(500);

/// Does what may wait for commands of a guest or for slow storage on a thread of its own. If it ends soon, its outcome
/// is the answer; otherwise it goes on, and an event tells of its end.
pub fn with_patience(
    name: &str,
    work: impl FnOnce() -> Result<(), Error> + Send + 'static,
) -> Result<(), Error> {
    let (done, outcome) = sync_channel(1);
    let what = name.to_owned();
    let run = move || {
        if let Err(SendError(Err(error))) = done.send(work()) {
            // Nobody waits any more.
            tracing::warn!(%error, "{what}");
        }
    };
    thread::Builder::new()
        .name("monitor work".into())
        .spawn(run)
        .map_err(|error| Error::generic(format!("cannot start a thread: {error}")))?;
    outcome.recv_timeout(PATIENCE).unwrap_or(Ok(()))
}

impl From<lunar_host::Error> for Error {
    fn from(error: lunar_host::Error) -> Error {
        use lunar_host::model::{self, Taken};
        let class = match &error {
            lunar_host::Error::Refused(model::Error::Absent {
                what: Taken::Device | Taken::Drive,
                ..
            }) => Class::DeviceNotFound,
            _ => Class::GenericError,
        };
        match &error {
            lunar_host::Error::Refused(model::Error::Absent {
                what: Taken::Device,
                name,
            }) => Error::no_device(name),
            _ => Error::new(class, error.line()),
        }
    }
}
