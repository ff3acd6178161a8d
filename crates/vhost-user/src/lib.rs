//! The vhost-user back-end server for virtio-scsi controllers.
//!
//! A virtual machine monitor (the *front end*) connects to a UNIX socket, negotiates features, and hands over the
//! guest's memory and rings as file descriptors; from then on guest and device talk through memory, and the socket is
//! for changes only. This crate is the device's end of that socket. It carries no request of a guest and knows no
//! SCSI: it keeps what the front end has told about each ring, and drives a [`Device`], which in the server is a
//! `lunar_virtio_scsi::Controller`.
//!
//! # From bytes to the device
//! - [`MessageReader`] cuts the byte stream into messages: sizes and numbers of descriptors are bounded before
//!   anything is looked at. What cannot be framed ends the connection.
//! - [`Session`] is the central type: the state of one front end's session as a machine without a socket. One message
//!   goes in, is carried out completely, and a [`Reply`] comes out. What it refuses, and how, is in its module.
//! - [`Server`] is the socket, and [`Running`] the thread that feeds one session after the other.
//!
//! Message codes, structures and feature bits come from the `vhost` crate. Its own connection and request handler are
//! not used: they know neither SET_STATUS nor GET_STATUS, and a front end that stops within a message would hold the
//! thread for ever, also against an order to stop.
//!
//! # One front end at a time
//! A controller is one virtio device and serves one front end. A second one that connects meanwhile is turned away at
//! once: its user sees a broken connection instead of a VM that hangs. When the first front end goes, orderly or
//! killed with I/O running, the device is reset and lets go of the guest's memory, and the next one may connect to the
//! same socket; until that is done it waits in the socket's queue.
//!
//! # What is offered
//! MQ, REPLY_ACK, BACKEND_REQ, RESET_DEVICE, CONFIGURE_MEM_SLOTS, STATUS, and CONFIG if [`Options`] say so: one list,
//! `Options::protocol_features`, names what there is code for, and one table, in `message`, says what each of those
//! requests looks like. Bit 30 of the features (the protocol features themselves) is handled here and never reaches
//! the device.
//!
//! # Threading
//! One thread per server, asleep unless its front end speaks. The device's methods are barriers and may block it for
//! as long as I/O in flight takes; no other controller notices. Any thread may stop a server or report a changed
//! configuration through [`Running`].
//!
//! # Errors
//! [`Error`] says why a server cannot be set up. A misbehaving front end is not an error of the server: it is logged,
//! once per connection, and at worst loses its connection.

mod back_channel;
mod connection;
mod device;
mod error;
mod message;
mod ring;
mod server;
mod session;
mod socket_file;

pub use device::{Device, DeviceResult};
pub use error::Error;
pub use message::{FramingError, HEADER_SIZE, MAX_DESCRIPTORS, Message, MessageReader, Reply};
pub use server::{Running, Server};
pub use session::{Options, Refused, Session};
pub use socket_file::{Access, SocketFile};
