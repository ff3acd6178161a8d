//! What a command that fails answers.

use serde::Serialize;

/// The classes that QMP has. Clients may rely on them; almost everything is a [`Class::GenericError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names are the protocol's")]
pub enum Class {
    GenericError,
    CommandNotFound,
    DeviceNotActive,
    DeviceNotFound,
}

/// The `error` member of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{desc}")]
pub struct Error {
    /// For programs.
    pub class: Class,
    /// For people.
    pub desc: String,
}

impl Error {
    /// An error of this class.
    pub fn new(class: Class, desc: impl Into<String>) -> Error {
        Error {
            class,
            desc: desc.into(),
        }
    }

    /// An error of no particular class.
    pub fn generic(desc: impl Into<String>) -> Error {
        Error::new(Class::GenericError, desc)
    }

    /// No such device.
    pub fn no_device(id: &str) -> Error {
        Error::new(Class::DeviceNotFound, format!("Device '{id}' not found"))
    }
}
