//! Memory that the kernel knows: *fixed buffers*.
//!
//! For an operation with `O_DIRECT` the kernel finds the pages of its buffer, and holds them until it is over. Pages of
//! memory that is [registered](Handle::register_memory) are found and held once. It is all of them, then and there, and no
//! others until it is registered no longer: whoever takes pages away meanwhile, as a balloon does, makes the kernel write to
//! pages that nobody sees.
//!
//! The kernel knows memory by numbered pieces of 1 GiB at most. An operation uses one piece; what lies in two of them, or
//! in several places and the kernel is too old for that, is carried out as if nothing were registered.
#![allow(
    unsafe_code,
    reason = "the kernel takes addresses, which have to stay mapped"
)]

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use io_uring::{IoUring, Probe, opcode};
use lunar_sgl::{Mapped, Sgl};
use rustix::mm::{self, Advice};

use crate::ring::Ring;
use crate::{Handle, offload};

/// The most that the kernel takes in one piece.
const PIECE: usize = 1 << 30;
/// Pieces that a ring can have: 4 TiB.
const SLOTS: u16 = 4096;

/// What a ring knows about.
#[derive(Default)]
pub(crate) struct Fixed {
    /// By their addresses.
    pieces: RefCell<Vec<Piece>>,
    /// Numbers that no piece has; `None` before the first.
    free: RefCell<Option<Vec<u16>>>,
    /// Operations on several places in a piece are possible (Linux 6.15).
    is_vectored: Cell<bool>,
}

#[derive(Clone, Copy)]
struct Piece {
    start: usize,
    end: usize,
    slot: u16,
}

impl Fixed {
    /// The piece in which all of a buffer lies.
    #[inline]
    pub(crate) fn find(&self, data: &Sgl) -> Option<u16> {
        let pieces = self.pieces.borrow();
        match pieces.is_empty() {
            true => None,
            false => self.find_in(&pieces, data),
        }
    }

    #[cold]
    fn find_in(&self, pieces: &[Piece], data: &Sgl) -> Option<u16> {
        let segments = data.segments();
        let first = segments.first()?.iov_base.addr();
        let after = pieces.partition_point(|piece| piece.start <= first);
        let piece = pieces.get(after.checked_sub(1)?)?;
        if segments.len() > 1 && !self.is_vectored.get() {
            return None;
        }
        let lies_in = segments.iter().all(|segment| {
            let start = segment.iov_base.addr();
            let end = start.checked_add(segment.iov_len);
            // The kernel refuses empty ones here.
            segment.iov_len > 0 && start >= piece.start && end.is_some_and(|end| end <= piece.end)
        });
        lies_in.then_some(piece.slot)
    }

    /// Tells the kernel of a piece.
    fn add(&self, uring: &IoUring, start: *mut u8, len: usize) -> io::Result<Piece> {
        let mut free = self.free.borrow_mut();
        let free = match &mut *free {
            Some(free) => free,
            none => {
                uring.submitter().register_buffers_sparse(SLOTS.into())?;
                let mut probe = Probe::new();
                let probed = uring.submitter().register_probe(&mut probe).is_ok();
                let both = [opcode::ReadvFixed::CODE, opcode::WritevFixed::CODE];
                self.is_vectored
                    .set(probed && both.iter().all(|&code| probe.is_supported(code)));
                none.insert((0..SLOTS).rev().collect())
            }
        };
        let slot = *free
            .last()
            .ok_or_else(|| io::Error::other("all fixed buffers of the ring are in use"))?;
        update(uring, slot, start, len)?;
        free.pop();
        let start = start.addr();
        let end = start + len;
        Ok(Piece { start, end, slot })
    }

    fn remove(&self, uring: &IoUring, piece: Piece) {
        self.pieces
            .borrow_mut()
            .retain(|other| other.slot != piece.slot);
        // What is in flight keeps its pages. A number that the kernel does not give back is not used again.
        if update(uring, piece.slot, std::ptr::null_mut(), 0).is_ok()
            && let Some(free) = &mut *self.free.borrow_mut()
        {
            free.push(piece.slot);
        }
    }
}

fn update(uring: &IoUring, slot: u16, start: *mut u8, len: usize) -> io::Result<()> {
    let piece = [libc::iovec {
        iov_base: start.cast(),
        iov_len: len,
    }];
    // SAFETY: `Registered` keeps the memory mapped until the piece is gone; until then it is used for operations whose own
    // buffers lie in it, and those are valid by the promises of their lists.
    unsafe {
        uring
            .submitter()
            .register_buffers_update(slot.into(), &piece, None)
    }
}

/// Memory that one reactor's kernel ring knows, until this is dropped.
pub struct Registered {
    pieces: Vec<Piece>,
    ring: Rc<Ring>,
    /// After the pieces: it stays mapped as long as they are there.
    _memory: Arc<dyn Mapped>,
}

impl std::fmt::Debug for Registered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registered")
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        for piece in self.pieces.drain(..) {
            self.ring
                .with_fixed(|fixed, uring| fixed.remove(uring, piece));
        }
    }
}

impl Handle {
    /// Makes memory known to the kernel, for operations on buffers that lie in it. All of it is brought into being, which
    /// other threads do, and held in place.
    ///
    /// # Errors
    /// The kernel's, for example `ENOMEM` where the process may not lock so much memory (`RLIMIT_MEMLOCK`).
    pub async fn register_memory(&self, memory: Arc<dyn Mapped>) -> io::Result<Registered> {
        let (start, len) = memory.range();
        let mut registered = Registered {
            pieces: Vec::new(),
            ring: Rc::clone(&self.ring),
            _memory: Arc::clone(&memory),
        };
        for offset in (0..len).step_by(PIECE) {
            let piece = PIECE.min(len - offset);
            let populating = Arc::clone(&memory);
            // Where that cannot be done, the ring has to.
            let _ = offload(move || populate(&*populating, offset, piece)).await;
            let start = start.wrapping_add(offset);
            let piece = self
                .ring
                .with_fixed(|fixed, uring| fixed.add(uring, start, piece))?;
            registered.pieces.push(piece);
        }
        self.ring.with_fixed(|fixed, _| {
            let mut pieces = fixed.pieces.borrow_mut();
            pieces.extend(&registered.pieces);
            pieces.sort_by_key(|piece| piece.start);
        });
        Ok(registered)
    }
}

fn populate(memory: &dyn Mapped, offset: usize, len: usize) {
    let (start, _) = memory.range();
    let page = rustix::param::page_size();
    let skipped = start.wrapping_add(offset).addr() % page;
    let first = start.wrapping_add(offset).wrapping_sub(skipped);
    // SAFETY: the pages are mapped as long as `memory` lives, and the advice does not change their contents. One that the
    // kernel does not know does nothing.
    let _ = unsafe { mm::madvise(first.cast(), len + skipped, Advice::LinuxPopulateWrite) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pieces that touch, and one further on.
    const PIECES: [Piece; 3] = [
        Piece {
            start: 0x1000,
            end: 0x3000,
            slot: 5,
        },
        Piece {
            start: 0x3000,
            end: 0x5000,
            slot: 0,
        },
        Piece {
            start: 0x8000,
            end: 0x9000,
            slot: 7,
        },
    ];

    fn find(vectored: bool, places: &[(usize, usize)]) -> Option<u16> {
        let fixed = Fixed::default();
        fixed.is_vectored.set(vectored);
        *fixed.pieces.borrow_mut() = PIECES.to_vec();
        let segments: Vec<libc::iovec> = places
            .iter()
            .map(|&(start, len)| libc::iovec {
                iov_base: std::ptr::without_provenance_mut(start),
                iov_len: len,
            })
            .collect();
        let len = segments.iter().map(|s| s.iov_len).sum();
        // SAFETY: nobody follows these addresses.
        fixed.find(&unsafe { Sgl::from_raw(&segments, len) })
    }

    #[test]
    fn a_buffer_is_found_in_the_piece_that_has_all_of_it() {
        for (place, piece) in [
            ((0x1000, 0x2000), Some(5)),
            ((0x2fff, 1), Some(5)),
            ((0x3000, 1), Some(0)),
            ((0x8000, 0x1000), Some(7)),
            // Before the first, in two, in a gap, past an end, behind the last, around the address space.
            ((0xfff, 2), None),
            ((0x2fff, 2), None),
            ((0x6000, 16), None),
            ((0x8fff, 2), None),
            ((0x9000, 1), None),
            ((0x8800, usize::MAX), None),
            // None at all.
            ((0x1000, 0), None),
        ] {
            assert_eq!(find(false, &[place]), piece, "{place:x?}");
        }
    }

    #[test]
    fn a_buffer_in_several_places_is_found_if_the_kernel_takes_such_and_one_piece_has_them() {
        let in_one = [(0x2000, 16), (0x1000, 0x1000), (0x2ff0, 16)];
        assert_eq!(find(true, &in_one), Some(5));
        assert_eq!(find(false, &in_one), None);
        assert_eq!(find(true, &[(0x2000, 16), (0x3000, 16)]), None);
        assert_eq!(find(true, &[(0x2000, 16), (0x2100, 0)]), None);
        assert_eq!(find(true, &[]), None);
    }

    #[test]
    fn numbers_are_given_back_and_an_end_of_them_is_an_error() {
        let uring = IoUring::new(8).unwrap();
        let fixed = Fixed::default();
        let mut page = vec![0u8; 4096];
        uring.submitter().register_buffers_sparse(4).unwrap();
        *fixed.free.borrow_mut() = Some(vec![3, 2, 1, 0]);
        for _ in 0..2 {
            let mut pieces = Vec::new();
            for _ in 0..4 {
                pieces.push(fixed.add(&uring, page.as_mut_ptr(), page.len()).unwrap());
            }
            assert!(fixed.add(&uring, page.as_mut_ptr(), page.len()).is_err());
            for piece in pieces {
                fixed.remove(&uring, piece);
            }
        }
    }
}
