//! What becomes of operations that the host fails: `rerror=`, `werror=`, and who is told.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lunar_block::{Action, Error as BlockError, ErrorRules, Failure, PolicyEvent, Side};

use crate::event::{Events, IoErrorAction, IoOperation};
use crate::live::Live;
use crate::{Event, model};

impl Live {
    /// Whether an error has stopped a disk.
    pub fn is_stopped_by_error(&self) -> bool {
        self.units.backends().any(|backend| backend.is_stopped())
    }

    /// Lets the disks go on that an error has stopped: what has failed is tried again.
    pub fn retry(&self) {
        for backend in self.units.backends() {
            backend.resume();
        }
    }
}

/// What is done when the host fails an operation.
pub(crate) fn rules(disk: &model::Disk) -> ErrorRules {
    let auto = ErrorRules::default();
    ErrorRules {
        read: disk.options.rerror.unwrap_or(auto.read),
        write: disk.options.werror.unwrap_or(auto.write),
    }
}

/// Failures of one kind that follow each other so soon are told once.
const SAME: Duration = Duration::from_secs(1);

/// Tells everybody what the host has failed, and what came of it.
pub(crate) fn listener(
    disk: &model::Disk,
    events: &Events,
) -> impl Fn(PolicyEvent) + Send + Sync + use<> {
    let (events, path, name) = (events.clone(), disk.path.clone(), disk.name.clone());
    let (device, node) = (
        disk.options.drive.clone().unwrap_or_default(),
        disk.node.clone(),
    );
    let told: [Mutex<Option<Instant>>; 2] = Default::default();
    move |event| match event {
        PolicyEvent::Failed(Failure {
            side,
            action,
            error,
        }) => {
            // A guest that reads a bad block again and again makes one event in a second of it.
            let [reads, writes] = &told;
            let told = match side {
                Side::Read => reads,
                Side::Write => writes,
            };
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.is_some_and(|told| told.elapsed() < SAME) && action != Action::Stop {
                return;
            }
            if told
                .replace(Instant::now())
                .is_none_or(|told| told.elapsed() >= SAME)
            {
                tracing::warn!("{name}: {error}");
            }
            events.publish(Event::BlockIoError {
                qom_path: path.clone(),
                device: device.clone(),
                node_name: node.clone(),
                operation: match side {
                    Side::Read => IoOperation::Read,
                    Side::Write => IoOperation::Write,
                },
                action: match action {
                    Action::Report => IoErrorAction::Report,
                    Action::Ignore => IoErrorAction::Ignore,
                    Action::Stop => IoErrorAction::Stop,
                },
                nospace: error == BlockError::NoSpace,
                reason: error.to_string(),
            });
        }
        PolicyEvent::Stopped => {
            tracing::error!("{name}: stopped by an error until it is told to go on");
            events.publish(Event::Stop);
        }
    }
}
