//! Where a ring is, and what both sides agreed on about it.

use crate::AddressSpace;

/// Where a ring is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLayout {
    /// Entries, at most 32768. Those of a split ring are a power of two.
    pub size: u16,
    /// Address of the descriptor table, or of the descriptor ring of a packed ring.
    pub desc: u64,
    /// Address of the available ring, or of the driver's event suppression.
    pub avail: u64,
    /// Address of the used ring, or of the device's event suppression.
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
    /// VIRTIO_F_RING_PACKED (34).
    pub packed: bool,
}
