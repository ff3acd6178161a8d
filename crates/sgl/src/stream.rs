//! Copies past the caches, to where nobody will look soon.
//!
//! An ordinary store to a line that is in no cache fetches the line first, only to overwrite it, and pushes another one out.
//! A *non-temporal* store does neither, so large amounts of data go twice as fast to memory that no cache holds, and
//! slower to memory that one holds. Such stores are not in order with any others, those which tell that the data are there included:
//! [`fence`] has to stand between.

use crate::Sgl;

/// What one store fills.
const LINE: usize = 64;
/// Shorter pieces are copied as ever: their data may well be wanted again, and little is saved.
const LEAST: usize = 1024;

impl Sgl {
    /// Copies all bytes of the list to `to`, past the caches where that is worth it. Before anybody is told that they are
    /// there, this thread has to call [`fence`].
    ///
    /// # Safety
    /// [`Sgl::len`] bytes from `to` on must be mapped writable, and no reference to any of them may exist. Where they overlap
    /// with the list's own bytes, what is copied is not specified.
    pub unsafe fn stream_to(&self, to: *mut u8) {
        let mut to = to;
        for s in self.segments() {
            // SAFETY: the segment is mapped (promise of `from_raw`), and `to` has room for all of them (our caller's).
            unsafe { copy(s.iov_base.cast_const().cast(), to, s.iov_len) };
            to = to.wrapping_add(s.iov_len);
        }
    }
}

/// What this thread has streamed is there before whatever it writes from now on: other processors that see a later store, such
/// as the index of a ring, see the data too.
#[inline]
pub fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction orders stores and does nothing else; every x86-64 processor has it.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// # Safety
/// As for [`std::ptr::copy`].
#[cfg(target_arch = "x86_64")]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};

    // Only a whole line goes to memory at once.
    let head = to.align_offset(LINE);
    let lines = match len.checked_sub(head) {
        Some(rest) if len >= LEAST => rest / LINE,
        // SAFETY: our caller's promise.
        _ => return unsafe { std::ptr::copy(from, to, len) },
    };
    let tail = head + lines * LINE;
    // SAFETY: head, lines and tail make up the `len` bytes of our caller's promise. `to + head` is a multiple of 64, so
    // each word stored is aligned; loads need not be. Every x86-64 processor has these instructions.
    unsafe {
        std::ptr::copy(from, to, head);
        for line in (head..tail).step_by(LINE) {
            let source = from.add(line).cast::<__m128i>();
            let target = to.add(line).cast::<__m128i>();
            // Spelled out: compilers have made a call of a loop over the four, which costs a sixth of all.
            let first = _mm_loadu_si128(source);
            let second = _mm_loadu_si128(source.add(1));
            let third = _mm_loadu_si128(source.add(2));
            let fourth = _mm_loadu_si128(source.add(3));
            _mm_stream_si128(target, first);
            _mm_stream_si128(target.add(1), second);
            _mm_stream_si128(target.add(2), third);
            _mm_stream_si128(target.add(3), fourth);
        }
        std::ptr::copy(from.add(tail), to.add(tail), len - tail);
    }
}

/// # Safety
/// As for [`std::ptr::copy`].
#[cfg(not(target_arch = "x86_64"))]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: our caller's promise.
    unsafe { std::ptr::copy(from, to, len) };
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

    use libc::iovec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn copies_what_a_plain_copy_does_and_nothing_else(
            // Around a line, around the least length, and a page with something more.
            lens in prop::collection::vec(prop_oneof![0usize..130, 960usize..1200, 4000usize..4200], 0..4),
            skews in (0usize..130, 0usize..130),
            seed in 0usize..251,
        ) {
            let total: usize = lens.iter().sum();
            let source: Vec<u8> = (0u8..251).cycle().skip(seed).take(skews.0 + total).collect();
            let mut place = skews.0;
            let segments: Vec<iovec> = lens.iter().map(|&len| {
                let iov_base = source[place..].as_ptr().cast_mut().cast();
                place += len;
                iovec { iov_base, iov_len: len }
            }).collect();
            // SAFETY: `source` and `segments` live to the end of the test, and nothing is written through the list.
            let sgl = unsafe { Sgl::from_raw(&segments, total) };
            let mut target = vec![0xEE; skews.1 + total + 130];
            // SAFETY: there is room for `total` bytes behind the skew, and no reference to them at the moment.
            unsafe { sgl.stream_to(target.as_mut_ptr().add(skews.1)) };
            fence();
            let (before, rest) = target.split_at(skews.1);
            let (copied, after) = rest.split_at(total);
            prop_assert_eq!(copied, &source[skews.0..]);
            prop_assert!(before.iter().chain(after).all(|&b| b == 0xEE));
        }
    }

    /// Another thread that sees the number of a round sees its data.
    #[test]
    fn what_is_streamed_is_there_before_what_is_stored_behind_the_fence() {
        const BLOCK: usize = 8192;
        const ROUNDS: usize = 2000;
        let mark = |round: usize| round.to_le_bytes()[0];
        let blocks: Vec<AtomicU8> = (0..BLOCK * 2).map(|_| AtomicU8::new(0)).collect();
        let (round, seen) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..=ROUNDS {
                    let source = vec![mark(number); BLOCK];
                    let segments = [iovec {
                        iov_base: source.as_ptr().cast_mut().cast(),
                        iov_len: BLOCK,
                    }];
                    // SAFETY: both live until the copy is made.
                    let sgl = unsafe { Sgl::from_raw(&segments, BLOCK) };
                    let to = blocks[number % 2 * BLOCK].as_ptr();
                    // SAFETY: the other thread reads the other half, until it is told of this one.
                    unsafe { sgl.stream_to(to) };
                    fence();
                    round.store(number, Ordering::Release);
                    while seen.load(Ordering::Acquire) < number {
                        std::thread::yield_now();
                    }
                }
            });
            for number in 1..=ROUNDS {
                while round.load(Ordering::Acquire) < number {
                    std::thread::yield_now();
                }
                let block = &blocks[number % 2 * BLOCK..][..BLOCK];
                let last = [BLOCK - 1, 0, BLOCK / 2].map(|at| block[at].load(Ordering::Relaxed));
                assert_eq!(last, [mark(number); 3]);
                seen.store(number, Ordering::Release);
            }
        });
    }
}
