//! Scatter-gather lists over memory that this process does not own alone.
//!
//! A guest describes a buffer as a list of pieces of its memory; the kernel takes the same thing as an array of
//! `iovec`. [`Sgl`] is that array, seen from everywhere between the two: the ring builds it once, the SCSI core
//! asks its length, the block layer hands it to `io_uring` unchanged. It is a borrowed, copyable view (two words
//! and a length) so that a request can carry it without allocation; [`SglBuf`] is the owned form, for the rare
//! operation that works on a part of a buffer.
//!
//! # Safety model
//! The bytes behind a list may change at any moment: the guest owns them too. Nothing here ever makes a Rust
//! reference to them; all access is by copying. Whoever creates a list (`unsafe`, in very few places) promises
//! that the memory stays mapped, and the `iovec` array stays unmoved, until the last operation that was given the
//! list has completed. Everything downstream is safe code because of that one promise.
//!
//! # Threading
//! A list belongs to the thread that made it (`!Send`).
//!
//! # Errors
//! None: copies are clipped to the list and say how much they moved.
#![allow(
    unsafe_code,
    reason = "the one place where memory shared with a guest is read and written"
)]

pub mod prefetch;
pub mod stream;

use std::marker::PhantomData;
use std::sync::atomic::{Ordering, compiler_fence};

use libc::iovec;

/// Foreign memory that stays where it is.
///
/// # Safety
/// The bytes from the address on, as many as the range says, are mapped readable and writable as long as the value lives,
/// and the range never changes.
pub unsafe trait Mapped: Send + Sync + 'static {
    /// Where it begins, and how many bytes it has.
    fn range(&self) -> (*mut u8, usize);
}

/// A borrowed scatter-gather list. See the crate documentation for what its creator promises.
#[derive(Clone, Copy)]
pub struct Sgl {
    ptr: *const iovec,
    count: usize,
    len: usize,
    _not_send: PhantomData<*const ()>,
}

impl std::fmt::Debug for Sgl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sgl({} bytes in {} segments)", self.len, self.count)
    }
}

impl Sgl {
    /// The list without any bytes.
    pub const EMPTY: Sgl = Sgl {
        ptr: std::ptr::NonNull::dangling().as_ptr(),
        count: 0,
        len: 0,
        _not_send: PhantomData,
    };

    /// Makes a list of `segments`, which hold `len` bytes in all.
    ///
    /// # Safety
    /// Until every operation that receives the result (or a copy of it) has completed: the array must not move or
    /// change, each segment must be mapped readable and writable as its use requires, and the segment lengths must
    /// sum to `len` (which therefore fits `usize`).
    pub unsafe fn from_raw(segments: &[iovec], len: usize) -> Sgl {
        debug_assert_eq!(segments.iter().map(|s| s.iov_len).sum::<usize>(), len);
        Sgl {
            ptr: segments.as_ptr(),
            count: segments.len(),
            len,
            _not_send: PhantomData,
        }
    }

    /// Bytes in the list.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the list holds no byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Segments in the list.
    #[inline]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The array itself, as system calls want it.
    #[inline]
    pub fn as_ptr(&self) -> *const iovec {
        self.ptr
    }

    /// The segments. Their addresses are for system calls and alignment checks, not for references.
    #[inline]
    pub fn segments(&self) -> &[iovec] {
        // SAFETY: by the promise of `from_raw` the array is alive and unmoved while this view is in use.
        unsafe { std::slice::from_raw_parts(self.ptr, self.count) }
    }

    /// Tells the processor that the first bytes will be read soon: a driver on another processor has just written them,
    /// and it takes as long as a whole command until they are here.
    #[inline]
    pub fn expect_read(&self) {
        if let Some(first) = self.segments().first() {
            prefetch::to_read(first.iov_base.cast());
        }
    }

    /// Tells the processor that the first bytes will be written soon, as [`Sgl::expect_read`] does for reading.
    #[inline]
    pub fn expect_write(&self) {
        if let Some(first) = self.segments().first() {
            prefetch::to_write(first.iov_base.cast());
        }
    }

    /// Copies bytes from `offset` on into `to`; returns how many there were.
    #[inline]
    pub fn read_at(&self, offset: usize, to: &mut [u8]) -> usize {
        if let Some(base) = self.in_first(offset, to.len()) {
            // SAFETY: the bytes lie in one segment (promise of `from_raw`), `to` is ours and as long.
            unsafe { std::ptr::copy_nonoverlapping(base.cast_const(), to.as_mut_ptr(), to.len()) };
            // Nothing is fetched again where the copy is looked at: by then it may be something else.
            compiler_fence(Ordering::Acquire);
            return to.len();
        }
        self.gather(offset, to)
    }

    fn gather(&self, offset: usize, to: &mut [u8]) -> usize {
        let mut done = 0;
        for (base, len) in pieces(self.segments(), offset, to.len()) {
            let Some(to) = to.get_mut(done..done + len) else {
                break;
            };
            // SAFETY: `base..base+len` lies in one segment (promise of `from_raw`), `to` is ours and as long.
            unsafe { std::ptr::copy_nonoverlapping(base.cast_const(), to.as_mut_ptr(), len) };
            done += len;
        }
        done
    }

    /// The address of `len` bytes from `offset` on, if the first segment has them all: that is where headers are.
    #[inline]
    fn in_first(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let first = self.segments().first()?;
        let end = offset.checked_add(len)?;
        (end <= first.iov_len).then(|| first.iov_base.cast::<u8>().wrapping_add(offset))
    }

    /// Copies `from` into the list from `offset` on; returns how much fitted.
    #[inline]
    pub fn write_at(&self, offset: usize, from: &[u8]) -> usize {
        if let Some(base) = self.in_first(offset, from.len()) {
            // SAFETY: the bytes lie in one segment (promise of `from_raw`), `from` is ours and as long.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), base, from.len()) };
            return from.len();
        }
        self.scatter(offset, from)
    }

    fn scatter(&self, offset: usize, from: &[u8]) -> usize {
        let mut done = 0;
        for (base, len) in pieces(self.segments(), offset, from.len()) {
            let Some(from) = from.get(done..done + len) else {
                break;
            };
            // SAFETY: `base..base+len` lies in one segment (promise of `from_raw`), `from` is ours and as long.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), base, len) };
            done += len;
        }
        done
    }

    /// Sets `len` bytes from `offset` on to `byte`; returns how many there were.
    #[inline]
    pub fn fill_at(&self, offset: usize, len: usize, byte: u8) -> usize {
        if let Some(base) = self.in_first(offset, len) {
            // SAFETY: the bytes lie in one segment (promise of `from_raw`).
            unsafe { std::ptr::write_bytes(base, byte, len) };
            return len;
        }
        self.fill_pieces(offset, len, byte)
    }

    fn fill_pieces(&self, offset: usize, len: usize, byte: u8) -> usize {
        let mut done = 0;
        for (base, len) in pieces(self.segments(), offset, len) {
            // SAFETY: `base..base+len` lies in one segment (promise of `from_raw`).
            unsafe { std::ptr::write_bytes(base, byte, len) };
            done += len;
        }
        done
    }

    /// Whether every byte is zero at the moment of looking.
    pub fn is_zero(&self) -> bool {
        let mut chunk = [0u8; 4096];
        let mut offset = 0;
        while offset < self.len {
            let n = self.read_at(offset, &mut chunk);
            if n == 0 || chunk.iter().take(n).any(|&b| b != 0) {
                return false;
            }
            offset += n;
        }
        true
    }

    /// Whether every segment's address and length is a multiple of `align` (a power of two).
    pub fn is_aligned(&self, align: usize) -> bool {
        let mask = align.wrapping_sub(1);
        self.segments()
            .iter()
            .all(|s| (s.iov_base.addr() | s.iov_len) & mask == 0)
    }

    /// An owned list of the bytes `offset..offset + len`, clipped to this list. The memory stays as it was promised
    /// for this list.
    pub fn slice(&self, offset: usize, len: usize) -> SglBuf {
        let segments: Vec<iovec> = pieces(self.segments(), offset, len)
            .map(|(base, len)| iovec {
                iov_base: base.cast(),
                iov_len: len,
            })
            .collect();
        let len = segments.iter().map(|s| s.iov_len).sum();
        SglBuf {
            segments,
            len,
            _not_send: PhantomData,
        }
    }
}

/// An owned scatter-gather list over the same kind of foreign memory.
pub struct SglBuf {
    segments: Vec<iovec>,
    len: usize,
    _not_send: PhantomData<*const ()>,
}

impl std::fmt::Debug for SglBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "SglBuf({} bytes in {} segments)",
            self.len,
            self.segments.len()
        )
    }
}

impl SglBuf {
    /// Bytes in the list.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the list holds no byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The list as a view.
    ///
    /// # Safety
    /// `self` must outlive every operation that receives the view.
    pub unsafe fn as_sgl(&self) -> Sgl {
        Sgl {
            ptr: self.segments.as_ptr(),
            count: self.segments.len(),
            len: self.len,
            _not_send: PhantomData,
        }
    }
}

/// The pieces of `segments` that make up the bytes `offset..offset + len`.
fn pieces(segments: &[iovec], offset: usize, len: usize) -> impl Iterator<Item = (*mut u8, usize)> {
    let mut skip = offset;
    let mut left = len;
    segments.iter().filter_map(move |s| {
        if skip >= s.iov_len {
            skip -= s.iov_len;
            return None;
        }
        let n = (s.iov_len - skip).min(left);
        let base = s.iov_base.cast::<u8>().wrapping_add(skip);
        skip = 0;
        left -= n;
        (n > 0).then_some((base, n))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Splits `bytes` into segments at the given lengths; the rest is the last segment.
    fn split(bytes: &mut [u8], lens: &[usize]) -> Vec<iovec> {
        let mut rest = bytes;
        let mut out = Vec::new();
        for &l in lens {
            let (a, b) = rest.split_at_mut(l.min(rest.len()));
            out.push(iovec {
                iov_base: a.as_mut_ptr().cast(),
                iov_len: a.len(),
            });
            rest = b;
        }
        out.push(iovec {
            iov_base: rest.as_mut_ptr().cast(),
            iov_len: rest.len(),
        });
        out
    }

    proptest! {
        #[test]
        fn behaves_like_one_contiguous_buffer(
            content in prop::collection::vec(any::<u8>(), 0..200),
            lens in prop::collection::vec(0usize..40, 0..8),
            offset in 0usize..220, n in 0usize..220,
        ) {
            let mut memory = content.clone();
            let total = memory.len();
            let segments = split(&mut memory, &lens);
            // SAFETY: `memory` and `segments` live to the end of the test and are not moved.
            let sgl = unsafe { Sgl::from_raw(&segments, total) };
            let want = content.iter().skip(offset).take(n).copied().collect::<Vec<_>>();

            let mut got = vec![0; n];
            let moved = sgl.read_at(offset, &mut got);
            prop_assert_eq!(&got[..moved], &want[..]);

            let part = sgl.slice(offset, n);
            prop_assert_eq!(part.len(), want.len());

            let fresh = vec![0xA5; n];
            prop_assert_eq!(sgl.write_at(offset, &fresh), want.len());
            let mut all = vec![0; total];
            sgl.read_at(0, &mut all);
            let mut model = content.clone();
            for b in model.iter_mut().skip(offset).take(n) { *b = 0xA5; }
            prop_assert_eq!(&all, &model);

            prop_assert_eq!(sgl.fill_at(offset, n, 0x5A), want.len());
            sgl.read_at(0, &mut all);
            for b in model.iter_mut().skip(offset).take(n) { *b = 0x5A; }
            prop_assert_eq!(&all, &model);

            prop_assert_eq!(sgl.fill_at(0, total, 0), total);
            prop_assert!(sgl.is_zero());
        }
    }
}
