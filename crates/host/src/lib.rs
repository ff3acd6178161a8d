//! The objects of a running server, and everything that can be done with them.
//!
//! What there is is said twice. [`model::Model`] is what has been *declared*: nodes, drives, controllers and disks with
//! their names and addresses, and the rules by which they fit together; it opens nothing. [`Host`] is the same made
//! *real*: images that are open, logical units on controllers, sockets that are served. A host is started with a model
//! and keeps the two alike from then on: every order is first tried on the model, which refuses what does not fit in the
//! same words as at the start, and then carried out; if that fails, the model takes it back, and nothing has happened.
//! So there is one way for a disk to come to be, whether a command line, a monitor or a configuration file asks for it.
//!
//! # The central type
//! [`Host`]. Orders are its methods, in QEMU's words: [`Host::add_blockdev`], [`Host::add_drive`], [`Host::add_device`],
//! [`Host::remove_device`] and so on take the same [`keyval::Options`] as the command line. What can be written in them
//! is in [`catalog`], one table for each kind of object, read by parsers, help texts and introspection alike. Queries
//! return plain data ([`DeviceInfo`] and its kin); what happens unasked arrives in a [`Subscription`].
//!
//! # Threading
//! One lock over model and real objects: orders are carried out one after the other, from whichever thread. The data path
//! never takes it. What has to wait for a guest's commands (taking away a disk, cutting one) waits without the lock, with
//! the device marked as leaving or the node as shrinking, so that a storage that hangs does not take the monitor with it.
//!
//! # Errors
//! [`Error`] says what is wrong and what to do. [`Error::is_usage`] tells a wrong order from a right one that failed.

pub mod catalog;
pub mod cpus;
mod error;
mod event;
mod failure;
pub mod file;
mod growth;
mod host;
mod images;
pub mod keyval;
mod live;
mod media;
pub mod model;
pub mod property;
mod query;
mod resize;
mod statistics;
mod threads;
mod throttling;
mod units;
mod workers;

pub use error::Error;
pub use event::{
    CAPACITY, End, Event, IoErrorAction, IoOperation, Occurrence, ShutdownReason, Subscription,
};
pub use host::{Config, Host};
pub use images::{ImageError, try_images};
pub use lunar_block::{Activities, Activity, Latencies, Limit, Limits};
pub use lunar_virtio_scsi::{WorkerStats, WorkerThread};
pub use media::{MediaError, ReadOnlyMode};
pub use query::{
    BlockStats, ControllerInfo, DeviceInfo, DeviceState, IoStatus, NodeInfo, RunState,
};
pub use statistics::{Boundaries, HistogramOf, SetHistogram};
pub use threads::IoThreadInfo;
pub use throttling::{Limited, Throttling, limit_values};
pub use workers::WorkerThreads;
