//! A packed ring in memory (VIRTIO 1.3 §2.8): three parts, found once, then accessed word by word.
//!
//! Every index is one of a [`Position`](super::position::Position), which stays below the ring's size, and is checked
//! against it once more here: so nothing outside the checked parts is ever touched, and the two sides above need no
//! `unsafe`.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use crate::walk::{self, DESCRIPTOR};
use crate::{Error, GuestMemory, RingLayout, RingPart, ring};

/// The most entries (VIRTIO 1.3 §2.8): indices have 15 bits.
const MAX_SIZE: u16 = 32768;
/// Bytes of an event suppression structure.
const EVENTS: usize = 4;

/// A descriptor of a packed ring, or of an indirect table beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackedDescriptor {
    /// Guest-physical address of the buffer.
    pub addr: u64,
    /// Its bytes; in a returned one, the bytes that were written.
    pub len: u32,
    /// The buffer ID, valid in the last descriptor of a chain and in a returned one.
    pub id: u16,
    /// [`PackedDescriptor::NEXT`] and the others.
    pub flags: u16,
}

impl PackedDescriptor {
    /// The chain goes on at the next place.
    pub const NEXT: u16 = 1;
    /// The device writes this buffer; otherwise it reads it.
    pub const WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub const INDIRECT: u16 = 4;
    /// With [`PackedDescriptor::USED`], whose it is: made available if the two differ.
    pub const AVAIL: u16 = 1 << 7;
    /// Returned if it equals [`PackedDescriptor::AVAIL`]. Which of the two values counts alternates with each round.
    pub const USED: u16 = 1 << 15;

    /// The descriptor's bytes.
    pub fn to_bytes(self) -> [u8; DESCRIPTOR] {
        let high = u64::from(self.len) | u64::from(self.id) << 32 | u64::from(self.flags) << 48;
        (u128::from(self.addr) | u128::from(high) << 64).to_le_bytes()
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each field is the bits of its width at its place"
    )]
    pub(crate) fn from_words([low, high]: [u64; 2]) -> PackedDescriptor {
        PackedDescriptor {
            addr: low,
            len: high as u32,
            id: (high >> 32) as u16,
            flags: (high >> 48) as u16,
        }
    }
}

pub(crate) type Ring = ring::Ring<PackedDescriptor>;

impl Ring {
    pub(crate) fn new(memory: &Arc<GuestMemory>, layout: &RingLayout) -> Result<Ring, Error> {
        let size = layout.size;
        if !(1..=MAX_SIZE).contains(&size) {
            return Err(Error::RingSize(size));
        }
        Ring::find(
            memory,
            layout,
            (RingPart::DriverEvents, EVENTS, 4),
            (RingPart::DeviceEvents, EVENTS, 4),
        )
    }

    #[inline]
    fn at(&self, index: u16) -> *mut u8 {
        // Never below: see the module's documentation.
        let index = index.min(self.size() - 1);
        self.desc.wrapping_add(usize::from(index) * DESCRIPTOR)
    }

    /// The descriptor at `index`. Its flags may have changed since those that were judged were read.
    #[inline]
    pub(crate) fn descriptor(&self, index: u16) -> PackedDescriptor {
        // SAFETY: `at` is one of the `size` descriptors that `new` found mapped in memory that `self` keeps.
        PackedDescriptor::from_words(unsafe { walk::load(self.at(index)) })
    }

    /// Writes the descriptor at `index`, flags included; nobody else looks at it yet.
    pub(crate) fn set_descriptor(&self, index: u16, descriptor: PackedDescriptor) {
        // SAFETY: as in `descriptor`.
        unsafe { ptr::write_volatile(self.at(index).cast(), descriptor.to_bytes()) };
    }

    /// The flags of the descriptor at `index`, by which it changes hands.
    #[inline]
    pub(crate) fn flags(&self, index: u16) -> &AtomicU16 {
        // SAFETY: inside a descriptor as in `descriptor`, at an even offset of memory that `new` found 16-aligned;
        // both sides change hands through atomics.
        unsafe { AtomicU16::from_ptr(self.at(index).wrapping_add(14).cast()) }
    }

    /// Writes the length and the buffer ID at `index`; the flags that publish them order them.
    #[inline]
    pub(crate) fn set_used(&self, index: u16, id: u16, len: u32) {
        let at = self.at(index);
        // SAFETY: as in `flags`; the offset is a multiple of 4.
        let len_word = unsafe { AtomicU32::from_ptr(at.wrapping_add(8).cast()) };
        // SAFETY: as in `flags`.
        let id_word = unsafe { AtomicU16::from_ptr(at.wrapping_add(12).cast()) };
        len_word.store(len, Ordering::Relaxed);
        id_word.store(id, Ordering::Relaxed);
    }

    /// How the driver says when it wants to be interrupted.
    #[inline]
    pub(crate) fn driver_events(&self) -> &AtomicU32 {
        // SAFETY: `new` found the 4 bytes mapped and aligned in memory that `self` keeps; both sides access them through
        // atomics only.
        unsafe { AtomicU32::from_ptr(self.driver.cast()) }
    }

    /// How the device says when it wants to be kicked.
    #[inline]
    pub(crate) fn device_events(&self) -> &AtomicU32 {
        // SAFETY: as in `driver_events`.
        unsafe { AtomicU32::from_ptr(self.device.cast()) }
    }
}
