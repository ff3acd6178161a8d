//! Where a ring is, and what both sides agreed on about it.

use crate::{AddressSpace, Error, GuestMemory, RingPart};

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

/// The host address of a part of a ring.
pub(crate) fn part(
    memory: &GuestMemory,
    space: AddressSpace,
    (part, addr): (RingPart, u64),
    len: usize,
    align: usize,
) -> Result<*mut u8, Error> {
    let host = memory
        .contiguous(space, addr, len as u64)
        .ok_or(Error::RingUnmapped { part, addr })?;
    if host.addr() % align != 0 || !addr.is_multiple_of(align as u64) {
        return Err(Error::RingMisaligned { part, addr });
    }
    Ok(host)
}
