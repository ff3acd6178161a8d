//! Virtqueues, both sides, and the guest memory map.
//!
//! A virtqueue is in memory that a guest and a device share: as a table of descriptors and a pair of index rings (split),
//! or as one ring of descriptors that goes both ways (packed). This crate turns what a hostile guest wrote there into
//! checked lists of host addresses, and answers back, in a few tens of nanoseconds per request. It knows nothing of SCSI,
//! of transports or of event loops.
//!
//! The central type is [`Queue`], the device's side of a ring of either format. [`Queue::pop`] fills a reusable [`Chain`] with the
//! guest's buffers, [`Queue::push`] stages a finished chain (the one place where a chain completes), and
//! [`Queue::publish`] makes all staged chains visible at once and says whether to interrupt. Around it:
//! - [`GuestMemory`] is an immutable snapshot of the guest's memory map, made of shared [`Region`]s. A change of the map
//!   is a new snapshot, handed to the queue at a moment when nothing is in flight.
//! - [`DriverQueue`] is the other side of the same ring, for the initiator and for tests.
//!
//! # Trust
//! Everything in guest memory is hostile and may change while it is looked at. Each word is read once, then judged;
//! every walk is bounded by the ring's size, and of an indirect table by [`MAX_INDIRECT`]. A violation is returned
//! once, as an error; from then on the queue is *broken*: it looks empty until it is set up anew, while chains that
//! are in flight may still complete.
//!
//! # Threading
//! A queue belongs to one thread at a time (`Send`, not `Sync`); it takes no lock and makes no system call. Only words
//! of the ring are touched by both sides, always through atomics; how the two sides avoid to sleep through each
//! other's message is in one module, `notify`, which the tests check under every interleaving.
//!
//! # Errors
//! One [`Error`]: a refused memory region, a refused ring, or a violation by the other side of the ring.
#![allow(
    unsafe_code,
    reason = "maps the guest's memory and reads the rings in it; each block states why it is sound"
)]

#[cfg(not(all(target_endian = "little", target_pointer_width = "64")))]
compile_error!("rings are little-endian and lengths up to 2^32 must fit usize");

mod chain;
mod driver;
mod error;
mod heads;
mod layout;
mod memory;
mod notify;
mod packed;
mod queue;
mod ring;
mod split;
mod walk;

pub use chain::{Chain, Segments};
pub use driver::{Buffer, DriverQueue, Used};
pub use error::{Error, RingPart};
pub use layout::{RingFeatures, RingLayout};
pub use memory::{AddressSpace, GuestMemory, Region};
pub use packed::{PACKED_BASE, PackedDescriptor};
pub use queue::Queue;
pub use split::Descriptor;
pub use walk::MAX_INDIRECT;
