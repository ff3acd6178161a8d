//! Memory for awaited operations.
//!
//! An operation that can outlive the future that started it must own its memory, or hold memory that somebody else
//! promised to keep. [`IoBuf`] is either.
#![allow(
    unsafe_code,
    reason = "aligned allocation has no safe interface in the standard library"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use lunar_sgl::SglBuf;

/// Memory given to an awaited operation and returned by it.
#[derive(Debug)]
pub enum IoBuf {
    /// Foreign memory (a guest's), kept alive by whoever made the list.
    List(SglBuf),
    /// Our own memory.
    Owned(AlignedBuf),
}

impl IoBuf {
    /// Bytes in the buffer.
    pub fn len(&self) -> usize {
        match self {
            IoBuf::List(list) => list.len(),
            IoBuf::Owned(buf) => buf.len(),
        }
    }

    /// Whether the buffer holds no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A zeroed heap buffer of a given alignment.
#[derive(Debug)]
pub struct AlignedBuf {
    ptr: NonNull<u8>,
    layout: Layout,
    len: usize,
}

impl AlignedBuf {
    /// Allocates `len` zero bytes at an address that is a multiple of `align`, which is rounded up to a power of
    /// two.
    pub fn new(len: usize, align: usize) -> AlignedBuf {
        let align = align.max(1).checked_next_power_of_two().unwrap_or(4096);
        let layout = Layout::from_size_align(len.max(1), align).unwrap_or(Layout::new::<u8>());
        if layout.size() < len {
            handle_alloc_error(layout);
        }
        // SAFETY: the layout's size is at least one.
        let Some(ptr) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            handle_alloc_error(layout)
        };
        AlignedBuf { ptr, layout, len }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) };
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes, owned; the kernel writes only while an operation owns the buffer.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}
