//! A popped chain: the guest's buffers as lists of host addresses.

use libc::iovec;
use lunar_sgl::Sgl;

/// The buffers of one request, as [`Queue::pop`](crate::Queue::pop) found them. Made once per request slot and reused:
/// its lists keep their capacity, so a steady load allocates nothing.
#[derive(Debug, Default)]
pub struct Chain {
    pub(crate) head: u16,
    /// Places in a packed ring that it came from, and that returning it frees.
    pub(crate) places: u16,
    /// What the driver wrote for the device.
    pub readable: Segments,
    /// What the device is to write for the driver.
    pub writable: Segments,
}

impl Chain {
    /// A chain without buffers, to be filled.
    pub fn new() -> Chain {
        Chain::default()
    }

    /// The number that names this chain on its ring, unlike that of any other chain in flight there: the index of its
    /// first descriptor, or the buffer ID in a packed ring.
    pub fn head(&self) -> u16 {
        self.head
    }

    pub(crate) fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
    }
}

/// The segments of one direction of a chain, in order. Where the driver put the boundaries between them means nothing
/// (VS-038): a header may share a segment with data or spread over several.
#[derive(Debug, Default)]
pub struct Segments {
    list: Vec<iovec>,
    len: usize,
}

impl Segments {
    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Segments.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn clear(&mut self) {
        self.list.clear();
        self.len = 0;
    }

    #[inline]
    pub(crate) fn append(&mut self, host: *mut u8, len: usize) {
        self.list.push(iovec {
            iov_base: host.cast(),
            iov_len: len,
        });
        self.len += len;
    }

    /// All bytes, as one list.
    ///
    /// # Safety
    /// Until every operation that receives the list (or a copy of it) has completed, `self` must not be changed, popped
    /// into or dropped (moving it is fine), and the [`GuestMemory`](crate::GuestMemory) of the queue that filled it
    /// must be kept.
    pub unsafe fn sgl(&self) -> Sgl {
        // SAFETY: the list is not changed (the caller's promise), its segments were translated by the memory map that
        // the caller keeps, and `append` and `split_at` keep `len` their sum.
        unsafe { Sgl::from_raw(&self.list, self.len) }
    }

    /// The first `at` bytes and the rest, as two lists; `None` if there are fewer than `at` bytes. Where `at` falls
    /// inside a segment, that segment becomes two.
    ///
    /// Lists made earlier from the same segments are invalid after this call.
    ///
    /// # Safety
    /// As for [`Segments::sgl`], for both lists.
    #[inline]
    pub unsafe fn split_at(&mut self, at: usize) -> Option<(Sgl, Sgl)> {
        // Most drivers put a header into a segment of its own.
        let index = match self.list.first() {
            Some(header) if header.iov_len == at => 1,
            _ => self.cut(at)?,
        };
        let (first, rest) = self.list.split_at_checked(index)?;
        // SAFETY: as in `sgl`; `cut` made `first` hold exactly `at` bytes.
        Some(unsafe { (Sgl::from_raw(first, at), Sgl::from_raw(rest, self.len - at)) })
    }

    /// Makes byte `at` the start of a segment (or the end of the list); gives that segment's index.
    fn cut(&mut self, at: usize) -> Option<usize> {
        let mut left = at;
        for (index, segment) in self.list.iter_mut().enumerate() {
            if left == 0 {
                return Some(index);
            }
            if left < segment.iov_len {
                let rest = iovec {
                    iov_base: segment.iov_base.cast::<u8>().wrapping_add(left).cast(),
                    iov_len: segment.iov_len - left,
                };
                segment.iov_len = left;
                self.list.insert(index + 1, rest);
                return Some(index + 1);
            }
            left -= segment.iov_len;
        }
        (left == 0).then_some(self.list.len())
    }
}
