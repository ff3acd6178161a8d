//! QMP: the protocol with which programs change and watch a running host, in QEMU's words.
//!
//! The crate has two halves. The engine knows nothing of disks: [`json`] finds messages in a stream of bytes,
//! [`Session`] is one client's conversation, [`Table`] the commands, and [`Server`] serves clients on sockets and
//! standard input. [`schema`] describes types once, for the check of arguments and for `query-qmp-schema`.
//! The other half are the commands themselves, functions over what is managed. [`Client`] is the other end of a socket.
//!
//! # The central type
//! [`Table`]: a row is a command's name, its description for people, and a function; arguments and answer are described by
//! the function's types. Dispatch, argument checks with QEMU's messages, `query-commands` and the schema follow from it.
//! What has no row is not there: no command answers success without having done something.
//!
//! # Threading
//! One thread serves all clients of all monitors with `poll`, and carries out their commands one after the other: the
//! control plane is serial anyway, and a client that only listens costs a descriptor and a few hundred bytes. A command that takes
//! long, such as taking a device away that has I/O in flight, makes the others wait; the data path never does.
//!
//! # Limits
//! A message has at most [`json::MAX_MESSAGE`] bytes; [`MAX_CLIENTS`] clients are served at a time, and one more takes the place
//! of the one that has waited longest without saying `qmp_capabilities`, if there is one. A client that does not read
//! its answers is not served further; one that does not read events loses its connection.
//!
//! # Errors
//! [`Error`] is what a command answers: a class for programs, a sentence for people. Argument errors have QEMU's words.

mod bridge;
mod client;
mod command;
mod commands;

mod error;
mod event;
pub mod hmp;
mod introspect;
pub mod json;
pub mod schema;
mod server;
mod session;

pub use bridge::{forward, notice};
pub use client::{Client, ClientError};
pub use command::{Command, EventType, Table};
pub use commands::{
    ScsiController, ScsiCounters, ScsiDisk, ScsiLatencies, ScsiLatency, ScsiState, WorkerInfo,
    table,
};
pub use error::{Class, Error};
pub use event::Notice;
pub use server::{Endpoint, MAX_CLIENTS, Notifier, Running, Server};
pub use session::Session;

use schema::qapi;

qapi! {
    /// Three numbers.
    struct VersionTriple {
        major: i64,
        minor: i64,
        micro: i64,
    }

    /// Who answers. The member is called `qemu` in the protocol; the numbers are ours.
    struct VersionInfo {
        qemu: VersionTriple,
        package: String,
    }
}

/// The version that a greeting shows.
pub type Version = VersionInfo;

/// Lunar's own.
pub fn version() -> Version {
    commands::version_info()
}
