//! The split ring: its layout in shared memory, and the two sides that work on it.

mod device;
mod driver;
mod ring;

pub use device::{MAX_INDIRECT, Queue};
pub use driver::{Buffer, DriverQueue, Used, indirect_table};
pub use ring::Descriptor;

use crate::AddressSpace;

/// Where a ring is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLayout {
    /// Entries: a power of two, at most 32768.
    pub size: u16,
    /// Address of the descriptor table.
    pub desc: u64,
    /// Address of the available ring (the driver's).
    pub avail: u64,
    /// Address of the used ring (the device's).
    pub used: u64,
    /// What the three addresses mean.
    pub space: AddressSpace,
}

/// The ring features that both sides agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingFeatures {
    /// VIRTIO_F_INDIRECT_DESC (28).
    pub indirect: bool,
    /// VIRTIO_F_EVENT_IDX (29).
    pub event_idx: bool,
}
