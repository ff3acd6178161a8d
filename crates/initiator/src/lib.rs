//! The driver side: connects to a vhost-user SCSI socket as a virtual machine monitor and its guest would, and issues
//! commands. The integration tests, `lunar probe` and the load generator stand on it.
//!
//! The central type is [`Initiator`]: a connection ([`Session`]), memory that plays the guest's, and the
//! controller's queues: control (task management), event, and any number of request queues. [`Initiator::command`] is the
//! simple way; [`RequestQueue`] offers many commands in flight. [`Initiator::scan`] tells what is behind the
//! socket. [`Device`] is an initiator or a [`BlockDevice`], of which only as much is here as it takes to compare
//! servers; [`Device::load`] tells how fast either is.
//!
//! # Why not an existing front end
//! The vhost-user messages are written here, byte by byte, for three reasons: a server that does not answer must end in
//! a time-out rather than in a hang; tests send what a well-behaved front end never does (a ring without kick
//! descriptor, a message of the wrong size); and two independent readings of the specification find more than one.
//!
//! # Threading
//! Everything blocks, with a time-out, in the calling thread. A [`RequestQueue`] can be lent to a thread of its own.
//!
//! # Errors
//! The server is not trusted to be right: what it sends is checked, and every failure is an [`Error`]. What a logical
//! unit answers is not an error; it is in the [`Response`].

mod block;
mod control;
mod device;
mod error;
mod event;
mod initiator;
mod load;
mod message;
mod ram;
mod request;
mod ring;
mod scan;
mod session;
mod wire;

pub use block::BlockDevice;
pub use control::{AsyncAnswer, ControlQueue};
pub use device::{Device, Kind};
pub use error::Error;
pub use event::EventQueue;
pub use initiator::{Initiator, Options};
pub use load::{Access, Failure, Latencies, Limit, Load, Mismatch, Moment, Report, Waiting};
pub use message::{Channel, Region, Request, RingAddresses};
pub use request::{Command, Completion, Cut, Data, Framing, RequestQueue, Tag};
pub use ring::{Ring, Start};
pub use scan::{Capacity, Designator, Unit};
pub use session::{Session, feature, protocol};
pub use wire::{Address, Event, Response, TaskAttribute, TaskFunction, response};
