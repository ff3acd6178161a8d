//! The virtio-scsi device: control, event and request queues.
//!
//! A [`Controller`] is one virtio-scsi device: a nexus, a map of logical units, and rings that a driver has set up.
//! [`Workers`] are the process's reactors, over which the rings of controllers are spread, or of which a controller has
//! one for all its rings. Transports (vhost-user now, vfio-user later) drive a controller through this interface alone;
//! they know rings and features, and nothing of SCSI.
//!
//! # The central type
//! Inside, everything is about a *request slot*: the chain a driver made available, taken apart once, from the moment
//! it is popped until it is in the used ring. A command ends inline, as one block operation, or as a task of several
//! steps; all three ways meet in the one function that writes the response and hands the chain back.
//!
//! # Threading
//! Any worker can serve any ring; a ring stays where it is placed until its controller is told to move. What a worker
//! needs for the data path it owns: its rings, and for each controller a map of logical units with its own data handles.
//! No lock is taken and no counter shared. Control threads (and workers among themselves, for task management) send typed
//! messages. Every method of `Controller` that changes the data path waits until the workers have done it.
//!
//! # Errors
//! What a guest does wrong with a request is answered in the request. What it does wrong with a ring (a loop, an
//! address outside its memory, a chain too short for its headers) breaks that ring, once and for good: nothing more is
//! taken from it until it is started again, the transport's error descriptor is signalled, one line is logged, and the
//! other rings go on. [`Error`] is what a transport or a user asked for and cannot have.

mod barrier;
mod coalescing;
mod config;
mod control;
mod controller;
mod event;
mod features;
mod fixed;
mod line;
mod queue;
mod request;
mod ring;
mod slot;
mod statistics;
mod tmf;
mod wire;
mod worker;
mod workers;

#[cfg(test)]
mod tests;

pub use coalescing::Coalescing;
pub use config::ControllerConfig;
pub use controller::Controller;
pub use features::Features;
pub use lunar_target::{LogicalUnit, NexusId, TargetPort};
pub use lunar_virtqueue::GuestMemory;
pub use ring::RingSetup;
pub use statistics::WorkerStats;
pub use workers::{LocalWorker, WorkerConfig, WorkerId, WorkerThread, Workers, WorkersConfig};

/// Why a controller cannot do what a transport or a user asks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration makes no device.
    #[error("controller {id}: {reason}")]
    Configuration {
        /// The controller.
        id: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Feature bits that were not offered and cannot be ignored.
    #[error("feature bits {0:#x} are not supported")]
    Features(u64),
    /// A read or write outside the configuration space.
    #[error("{len} bytes at offset {offset} are outside the configuration space")]
    ConfigRange {
        /// First byte.
        offset: usize,
        /// Bytes.
        len: usize,
    },
    /// The driver has chosen an impossible size.
    #[error("{field} = {value} is not below {limit}")]
    ConfigValue {
        /// The field.
        field: &'static str,
        /// What it was to be.
        value: u32,
        /// What it has to be less than.
        limit: u32,
    },
    /// There is no queue of this index.
    #[error("queue {index} does not exist: there are {count}")]
    NoQueue {
        /// The index.
        index: usize,
        /// Control, event and request queues.
        count: usize,
    },
    /// The queue has been started already.
    #[error("queue {0} is running")]
    Running(usize),
    /// The queue has not been started.
    #[error("queue {0} is not running")]
    NotRunning(usize),
    /// A ring was started before guest memory was known.
    #[error("no guest memory has been set")]
    NoMemory,
    /// A ring's size or addresses are impossible.
    #[error("queue {index}")]
    Ring {
        /// The queue.
        index: usize,
        /// What is wrong with the ring.
        source: lunar_virtqueue::Error,
    },
    /// A LUN above 16383.
    #[error("LUN {0} is above 16383")]
    Lun(u16),
    /// The address has a logical unit.
    #[error("target {target} LUN {lun} is taken")]
    Occupied {
        /// Target.
        target: u8,
        /// LUN.
        lun: u16,
    },
    /// The logical unit has another address on this controller.
    #[error("the logical unit is already at target {target} LUN {lun}")]
    Attached {
        /// Target.
        target: u8,
        /// LUN.
        lun: u16,
    },
    /// The logical unit is reached through another port of the same number.
    #[error("target {target} LUN {lun}")]
    Port {
        /// Target.
        target: u8,
        /// LUN.
        lun: u16,
        /// The port.
        source: lunar_target::PortTaken,
    },
    /// The address has no logical unit.
    #[error("nothing is at target {target} LUN {lun}")]
    Absent {
        /// Target.
        target: u8,
        /// LUN.
        lun: u16,
    },
    /// A worker could not open the logical unit's image.
    #[error("cannot open the image of target {target} LUN {lun}")]
    Image {
        /// Target.
        target: u8,
        /// LUN.
        lun: u16,
        /// The block layer's reason.
        source: lunar_block::Error,
    },
    /// A descriptor of the ring cannot be used.
    #[error("queue {index}: cannot use the event descriptor")]
    Descriptor {
        /// The queue.
        index: usize,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The workers have been stopped.
    #[error("the workers have been stopped")]
    Stopped,
}
