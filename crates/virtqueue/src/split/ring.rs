//! A split ring in memory (VIRTIO 1.3 §2.7): three parts, found once, then accessed word by word.
//!
//! Every index is reduced modulo the ring's size here, so nothing outside the checked parts is ever touched, and the two
//! sides above need no `unsafe`.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use crate::notify::Suppression;
use crate::walk::{self, DESCRIPTOR};
use crate::{Error, GuestMemory, RingLayout, RingPart, ring};

/// Offset of the entries in the available and in the used ring: flags and idx come first.
const ENTRIES: usize = 4;
/// Bytes of an available entry.
const AVAIL_ENTRY: usize = 2;
/// Bytes of a used entry.
const USED_ENTRY: usize = 8;

/// One entry of a descriptor table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest-physical address of the buffer.
    pub addr: u64,
    /// Its bytes.
    pub len: u32,
    /// [`Descriptor::NEXT`], [`Descriptor::WRITE`], [`Descriptor::INDIRECT`].
    pub flags: u16,
    /// The following descriptor, if flagged so.
    pub next: u16,
}

impl Descriptor {
    /// The chain goes on at `next`.
    pub const NEXT: u16 = 1;
    /// The device writes this buffer; otherwise it reads it.
    pub const WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub const INDIRECT: u16 = 4;

    /// The descriptor's bytes in a table.
    pub fn to_bytes(self) -> [u8; DESCRIPTOR] {
        let high = u64::from(self.len) | u64::from(self.flags) << 32 | u64::from(self.next) << 48;
        (u128::from(self.addr) | u128::from(high) << 64).to_le_bytes()
    }

    /// The descriptor that a table's bytes hold.
    pub fn from_bytes(bytes: [u8; DESCRIPTOR]) -> Descriptor {
        let word = u128::from_le_bytes(bytes);
        #[expect(clippy::cast_possible_truncation, reason = "its two halves")]
        Descriptor::from_words([word as u64, (word >> 64) as u64])
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each field is the bits of its width at its place"
    )]
    pub(crate) fn from_words([low, high]: [u64; 2]) -> Descriptor {
        Descriptor {
            addr: low,
            len: high as u32,
            flags: (high >> 32) as u16,
            next: (high >> 48) as u16,
        }
    }
}

pub(crate) type Ring = ring::Ring<Descriptor>;

impl Ring {
    pub(crate) fn new(memory: &Arc<GuestMemory>, layout: &RingLayout) -> Result<Ring, Error> {
        let size = layout.size;
        if !size.is_power_of_two() {
            return Err(Error::RingSize(size));
        }
        // Both rings end with the EVENT_IDX word, negotiated or not (VIRTIO 1.3 §2.7).
        let avail = ENTRIES + usize::from(size) * AVAIL_ENTRY + 2;
        let used = ENTRIES + usize::from(size) * USED_ENTRY + 2;
        Ring::find(
            memory,
            layout,
            (RingPart::Available, avail, 2),
            (RingPart::Used, used, 4),
        )
    }

    #[inline]
    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.size() - 1))
    }

    /// The descriptor at `index` modulo size.
    #[inline]
    pub(crate) fn descriptor(&self, index: u16) -> Descriptor {
        let at = self.desc.wrapping_add(self.slot(index) * DESCRIPTOR);
        // SAFETY: the slot is below `size`, and `new` found `size` descriptors mapped in memory that `self` keeps.
        Descriptor::from_words(unsafe { walk::load(at) })
    }

    /// Writes the descriptor at `index` modulo size.
    pub(crate) fn set_descriptor(&self, index: u16, descriptor: Descriptor) {
        let at = self.desc.wrapping_add(self.slot(index) * DESCRIPTOR);
        // SAFETY: as in `descriptor`.
        unsafe { ptr::write_volatile(at.cast(), descriptor.to_bytes()) };
    }

    #[inline]
    fn word(&self, part: *mut u8, offset: usize) -> &AtomicU16 {
        // SAFETY: the callers below give parts of `self` (mapped while `self` lives, 2-aligned, shared only through
        // atomics) and even offsets inside them.
        unsafe { AtomicU16::from_ptr(part.wrapping_add(offset).cast()) }
    }

    #[inline]
    pub(crate) fn avail_idx(&self) -> &AtomicU16 {
        self.word(self.driver, 2)
    }

    #[inline]
    pub(crate) fn used_idx(&self) -> &AtomicU16 {
        self.word(self.device, 2)
    }

    /// The available entry at `index` modulo size.
    #[inline]
    pub(crate) fn avail_entry(&self, index: u16) -> &AtomicU16 {
        self.word(self.driver, ENTRIES + self.slot(index) * AVAIL_ENTRY)
    }

    /// How the driver says when it wants to be interrupted.
    #[inline]
    pub(crate) fn driver_suppression(&self, event_idx: bool) -> Suppression<'_, AtomicU16> {
        if event_idx {
            let used_event = ENTRIES + usize::from(self.size()) * AVAIL_ENTRY;
            Suppression::Event(self.word(self.driver, used_event))
        } else {
            Suppression::Flags(self.word(self.driver, 0))
        }
    }

    /// How the device says when it wants to be kicked.
    #[inline]
    pub(crate) fn device_suppression(&self, event_idx: bool) -> Suppression<'_, AtomicU16> {
        if event_idx {
            let avail_event = ENTRIES + usize::from(self.size()) * USED_ENTRY;
            Suppression::Event(self.word(self.device, avail_event))
        } else {
            Suppression::Flags(self.word(self.device, 0))
        }
    }

    #[inline]
    fn used_entry(&self, index: u16) -> (&AtomicU32, &AtomicU32) {
        let at = self
            .device
            .wrapping_add(ENTRIES + self.slot(index) * USED_ENTRY);
        // SAFETY: the slot is below `size`, and `new` found the used ring mapped and 4-aligned in memory that `self`
        // keeps; both sides access it through atomics only.
        unsafe {
            (
                AtomicU32::from_ptr(at.cast()),
                AtomicU32::from_ptr(at.wrapping_add(4).cast()),
            )
        }
    }

    /// Writes the used entry at `index` modulo size; the index that publishes it orders it.
    #[inline]
    pub(crate) fn set_used(&self, index: u16, id: u32, len: u32) {
        let (id_word, len_word) = self.used_entry(index);
        id_word.store(id, Ordering::Relaxed);
        len_word.store(len, Ordering::Relaxed);
    }

    /// The used entry at `index` modulo size: id and length.
    pub(crate) fn used(&self, index: u16) -> (u32, u32) {
        let (id, len) = self.used_entry(index);
        (id.load(Ordering::Relaxed), len.load(Ordering::Relaxed))
    }
}
