//! What can go wrong between this side and the server.

use std::io;

/// Why a connection, a ring or a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The socket could not be reached.
    #[error("cannot connect to {path}")]
    Connect {
        /// Its path.
        path: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A system call failed.
    #[error("{0} failed: {1}")]
    System(&'static str, rustix::io::Errno),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Disconnected,
    /// Nothing came in time.
    #[error("no {0} in time")]
    Timeout(&'static str),
    /// The server answered a message, but not as the protocol wants.
    #[error("unexpected answer to {request:?}: {what}")]
    Answer {
        /// The message that was sent.
        request: crate::Request,
        /// What is wrong.
        what: &'static str,
    },
    /// The server says that it could not do what a message asked for.
    #[error("the server refused {0:?}")]
    Refused(crate::Request),
    /// The server lacks a feature without which nothing works.
    #[error("the server does not offer {0}")]
    Missing(&'static str),
    /// The server reported a ring as broken.
    #[error("the server signals an error on ring {0}")]
    RingError(u16),
    /// The server broke the rules of the ring, or the layout of memory does not fit.
    #[error(transparent)]
    Ring(#[from] lunar_virtqueue::Error),
    /// There is no such queue.
    #[error("no request queue {0}")]
    NoQueue(usize),
    /// All slots of a queue are in use.
    #[error("all slots of the queue are in use")]
    Full,
    /// A command carries more data than a slot holds.
    #[error("{needed} bytes do not fit a slot of {slot}")]
    DataTooLong {
        /// Bytes of data in one direction.
        needed: usize,
        /// What [`Options::max_data`](crate::Options::max_data) allows.
        slot: usize,
    },
    /// The size of a load's requests does not fit the disk.
    #[error("requests of {wanted} bytes do not fit a disk of {blocks} blocks of {unit} bytes")]
    BlockSize {
        /// Bytes of each request.
        wanted: u32,
        /// Logical blocks.
        blocks: u64,
        /// Bytes of each.
        unit: u32,
    },
    /// The server has fewer queues than are wanted.
    #[error("{wanted} request queues are wanted, and the server has {offered}")]
    TooFewQueues {
        /// How many are wanted.
        wanted: u16,
        /// How many there are.
        offered: u64,
    },
    /// A response is shorter than its fixed part.
    #[error("a response of {0} bytes is too short")]
    ShortResponse(u32),
    /// A command that has to succeed for the purpose did not.
    #[error("{what} ended with {response:?}")]
    Command {
        /// Which.
        what: &'static str,
        /// How.
        response: Box<crate::Response>,
    },
}
