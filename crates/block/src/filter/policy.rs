//! What becomes of an operation that the host fails: `rerror=` and `werror=`.
//!
//! It is reported, taken for done, or kept: then the device is *stopped*, which those who listen are told, and later
//! operations wait as well. Only failures of the host get here ([`Error::is_host_failure`]). What a guest does wrong is
//! refused above, so that no guest can stop anything.

use crate::{Error, OpKind};

/// What is done about failures of one kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The guest is told.
    Report,
    /// The guest is told that all is well: data is lost, or was not read.
    Ignore,
    /// As `Stop` when there is no space left, as `Report` otherwise.
    Enospc,
    /// The device is stopped and the operation kept, to be repeated.
    Stop,
}

/// `rerror=` and `werror=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRules {
    /// For reads.
    pub read: OnError,
    /// For everything else, flushes and discards included.
    pub write: OnError,
}

impl Default for ErrorRules {
    /// What `auto` means.
    fn default() -> ErrorRules {
        ErrorRules {
            read: OnError::Report,
            write: OnError::Enospc,
        }
    }
}

/// What was done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The guest was told.
    Report,
    /// The guest was told that all is well.
    Ignore,
    /// The operation is kept until the device goes on.
    Stop,
}

/// Which rule an operation falls under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `rerror=`
    Read,
    /// `werror=`
    Write,
}

/// A failure, and what was done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which rule applied.
    pub side: Side,
    /// What was done.
    pub action: Action,
    /// What the host has said.
    pub error: Error,
}

/// What a policy tells those who listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyEvent {
    /// An operation has failed.
    Failed(Failure),
    /// Because of it the device, which was running, has stopped.
    Stopped,
}

/// How an image has fared since the device last went on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoStatus {
    /// Well.
    #[default]
    Ok,
    /// It is stopped by an error.
    Failed,
    /// It is stopped because there is no space left.
    NoSpace,
}

impl ErrorRules {
    /// What is to be done about an operation that has failed.
    pub(super) fn decide(self, kind: OpKind, error: &Error) -> (Side, Action) {
        let (side, rule) = match kind {
            OpKind::Read => (Side::Read, self.read),
            _ => (Side::Write, self.write),
        };
        let action = match rule {
            OnError::Report => Action::Report,
            OnError::Enospc if *error != Error::NoSpace => Action::Report,
            OnError::Ignore => Action::Ignore,
            OnError::Enospc | OnError::Stop => Action::Stop,
        };
        (side, action)
    }
}
