//! Who may write where, on a medium whose blocks are longer than those that are written.
//!
//! A write that begins or ends inside a block of the medium is a *patch*: the block is read, changed in part and written
//! back. Whatever else becomes of the block in the meantime would be undone. So a patch excludes everything else that
//! writes to its blocks, on every reactor, while writes of whole blocks and the file system's own zeroing go on side by
//! side.
//!
//! The medium is divided into stripes, and each stripe belongs to one of a fixed number of locks, which are shared by
//! whole writes and exclusive for patches. They are fair: who comes first is served first, so neither kind can hold up the
//! other for ever. As long as there are no patches nearby, a write claims its place by one atomic operation for each
//! stripe, and waits for nothing; it is carried out by the kernel without a task, as on any other medium.

use tokio::sync::Semaphore;

/// A stripe has this many bytes, as a power of two: few writes touch more than two.
const STRIPE_SHIFT: u32 = 18;
/// As many as a mask has bits. Stripes that are this far apart have the same lock.
const LOCKS: u32 = u64::BITS;
/// Permits of a lock: a whole write takes one, a patch takes all.
const ALL: u32 = 1 << 16;

/// The locks of an image.
#[derive(Debug)]
pub(crate) struct Claims([Semaphore; LOCKS as usize]);

/// A place to write to, until it is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Claim<'a> {
    claims: &'a Claims,
    permits: u32,
    /// The locks that are held, one bit for each.
    held: u64,
}

impl Claims {
    pub fn new() -> Claims {
        Claims(std::array::from_fn(|_| Semaphore::new(ALL as usize)))
    }

    /// Claims a range for a write of whole blocks, if that is possible at once. Whoever gets it gives it back by
    /// [`Claims::unshare`].
    #[inline]
    pub fn try_share(&self, offset: u64, len: u64) -> bool {
        let mut claim = self.nothing(1);
        for (lock, bit) in self.locks(touched(offset, len)) {
            let Ok(permit) = lock.try_acquire() else {
                return false;
            };
            permit.forget();
            claim.held |= bit;
        }
        std::mem::forget(claim);
        true
    }

    /// Ends what [`Claims::try_share`] has begun with the same range.
    #[inline]
    pub fn unshare(&self, offset: u64, len: u64) {
        drop(Claim {
            held: touched(offset, len),
            ..self.nothing(1)
        });
    }

    /// Claims a range for a write of whole blocks.
    pub async fn share(&self, offset: u64, len: u64) -> Claim<'_> {
        self.claim(offset, len, 1).await
    }

    /// Claims whole blocks for a patch.
    pub async fn exclude(&self, offset: u64, len: u64) -> Claim<'_> {
        self.claim(offset, len, ALL).await
    }

    /// Locks are taken in the order of their numbers, so nobody waits in a circle; those who do not wait
    /// ([`Claims::try_share`]) need no order.
    async fn claim(&self, offset: u64, len: u64, permits: u32) -> Claim<'_> {
        let mut claim = self.nothing(permits);
        for (lock, bit) in self.locks(touched(offset, len)) {
            // Never closed, so never refused.
            if let Ok(permit) = lock.acquire_many(permits).await {
                permit.forget();
                claim.held |= bit;
            }
        }
        claim
    }

    fn nothing(&self, permits: u32) -> Claim<'_> {
        Claim {
            claims: self,
            permits,
            held: 0,
        }
    }

    /// The locks of a mask, in order.
    #[inline]
    fn locks(&self, mut mask: u64) -> impl Iterator<Item = (&Semaphore, u64)> {
        std::iter::from_fn(move || {
            let lock = self.0.get(mask.trailing_zeros() as usize)?;
            let bit = mask & mask.wrapping_neg();
            mask ^= bit;
            Some((lock, bit))
        })
    }
}

impl Drop for Claim<'_> {
    #[inline]
    fn drop(&mut self) {
        for (lock, _) in self.claims.locks(self.held) {
            lock.add_permits(self.permits as usize);
        }
    }
}

/// The locks of the stripes that a range touches, as a mask.
#[inline]
fn touched(offset: u64, len: u64) -> u64 {
    let first = offset >> STRIPE_SHIFT;
    let last = offset.saturating_add(len.saturating_sub(1)) >> STRIPE_SHIFT;
    match u32::try_from(last - first) {
        Ok(further) if further < LOCKS - 1 => {
            let turn = u32::try_from(first % u64::from(LOCKS)).unwrap_or_default();
            ((1 << (further + 1)) - 1u64).rotate_left(turn)
        }
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::panic,
        clippy::cast_possible_truncation,
        reason = "a test fails by panicking, and its numbers are small"
    )]

    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Context, Poll, Waker};

    use lunar_reactor::block_on;
    use proptest::prelude::*;

    use super::*;

    const STRIPE: u64 = 1 << STRIPE_SHIFT;
    /// More than there are locks.
    const STRIPES: u64 = 2 * LOCKS as u64;

    fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn whole_writes_go_on_side_by_side_and_a_patch_waits_for_them() {
        let claims = Claims::new();
        assert!(claims.try_share(0, 4096) && claims.try_share(0, 8192));
        let mut patch = pin!(claims.exclude(4096, 4096));
        assert!(poll(patch.as_mut()).is_none());
        claims.unshare(0, 4096);
        assert!(poll(patch.as_mut()).is_none());
        claims.unshare(0, 8192);
        assert!(poll(patch.as_mut()).is_some());
    }

    #[test]
    fn whoever_comes_after_a_patch_waits_behind_it() {
        let claims = Claims::new();
        assert!(claims.try_share(0, 4096));
        let mut patch = pin!(claims.exclude(0, 4096));
        assert!(poll(patch.as_mut()).is_none());
        assert!(!claims.try_share(0, 4096), "the patch would starve");
        let mut whole = pin!(claims.share(0, 4096));
        let mut other_patch = pin!(claims.exclude(0, 4096));
        assert!(poll(whole.as_mut()).is_none());
        assert!(poll(other_patch.as_mut()).is_none());
        claims.unshare(0, 4096);
        let patching = poll(patch.as_mut());
        assert!(patching.is_some() && poll(whole.as_mut()).is_none());
        drop(patching);
        let writing = poll(whole.as_mut());
        assert!(writing.is_some() && poll(other_patch.as_mut()).is_none());
        drop(writing);
        assert!(poll(other_patch.as_mut()).is_some());
    }

    #[test]
    fn a_patch_does_not_concern_those_who_write_elsewhere() {
        let claims = Claims::new();
        let patch = block_on(claims.exclude(STRIPE - 4096, 8192));
        assert!(!claims.try_share(0, 4096) && !claims.try_share(2 * STRIPE - 4096, 4096));
        assert!(claims.try_share(2 * STRIPE, 4096));
        assert!(!claims.try_share(0, u64::MAX), "everything");
        drop(patch);
        claims.unshare(2 * STRIPE, 4096);
        assert!(claims.try_share(0, u64::MAX));
        claims.unshare(0, u64::MAX);
        drop(block_on(claims.exclude(0, u64::MAX)));
    }

    #[test]
    fn a_claim_that_is_given_up_halfway_leaves_nothing_behind() {
        let claims = Claims::new();
        let last = block_on(claims.exclude(STRIPE, 1));
        {
            let mut both = pin!(claims.exclude(0, 2 * STRIPE));
            assert!(poll(both.as_mut()).is_none());
            assert!(!claims.try_share(0, 1));
        }
        assert!(!claims.try_share(0, 2 * STRIPE));
        assert!(claims.try_share(0, 1));
        claims.unshare(0, 1);
        drop(last);
        drop(block_on(claims.exclude(0, u64::MAX)));
    }

    #[test]
    fn nobody_waits_in_a_circle_and_patches_are_alone() {
        let claims = Claims::new();
        // What is going on in each stripe, beyond the number of locks: whole writes count 1, patches 1000.
        let stripes: Vec<AtomicU32> = (0..STRIPES).map(|_| AtomicU32::new(0)).collect();
        let work = |seed: u64| {
            let mut random = seed;
            for _ in 0..3000 {
                random = random.wrapping_mul(6_364_136_223_846_793_005) + 1;
                let first = (random >> 33) % (STRIPES - 4);
                let count = 1 + (random >> 50) % 4;
                let (offset, len) = (first * STRIPE, count * STRIPE);
                let is_patch = random >> 60 < 4;
                let (claim, weight) = if is_patch {
                    (Some(block_on(claims.exclude(offset, len))), 1000)
                } else if claims.try_share(offset, len) {
                    (None, 1)
                } else {
                    (Some(block_on(claims.share(offset, len))), 1)
                };
                let mine = stripes.iter().skip(first as usize).take(count as usize);
                for stripe in mine.clone() {
                    let others = stripe.fetch_add(weight, Ordering::SeqCst);
                    assert!(others < if is_patch { 1 } else { 1000 }, "{others}");
                }
                std::thread::yield_now();
                for stripe in mine {
                    stripe.fetch_sub(weight, Ordering::SeqCst);
                }
                if claim.is_none() {
                    claims.unshare(offset, len);
                }
            }
        };
        std::thread::scope(|scope| {
            for seed in 1..5 {
                scope.spawn(move || work(seed));
            }
        });
        drop(block_on(claims.exclude(0, u64::MAX)));
    }

    proptest! {
        #[test]
        fn ranges_that_have_a_byte_in_common_have_a_lock_in_common(
            at: u64, before in 0..100 * STRIPE, after in 0..100 * STRIPE,
            other_before in 0..100 * STRIPE, other_after in 0..100 * STRIPE,
        ) {
            let around = |before: u64, after: u64| {
                let offset = at.saturating_sub(before);
                touched(offset, (at - offset + 1).saturating_add(after))
            };
            let (one, other) = (around(before, after), around(other_before, other_after));
            prop_assert!(one & other & touched(at, 1) != 0);
            prop_assert_eq!(touched(at, 1).count_ones(), 1);
        }
    }
}
