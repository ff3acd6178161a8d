//! What is known of where clusters are: guest cluster → host cluster, in the image's own file.
//!
//! Only clusters that are data, whole, and referred to once are entered: whoever knows the place of one may read and write
//! it there. Forgetting one is always allowed; what must never be there is a place that the cluster no longer has, see the
//! [module above](super) for who sees to that.
//!
//! It is one array in which each guest cluster has one possible entry, shared with those that are a multiple of
//! [`ENTRIES`] away. An entry says in one word which of them it is about and where that is, so it is read and replaced by
//! one atomic operation, and readers never meet half of one. Parts of the array in which nothing was ever entered do not
//! exist.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Clusters that can be known at a time: 256 GiB of clusters of 64 KiB, with 32 MiB of memory.
const ENTRIES: u64 = PARTS * PART;
/// Parts of the array.
const PARTS: u64 = 1024;
/// Entries of a part.
const PART: u64 = 4096;
/// Bits of an entry that are the host cluster's number; 0, the header's, is nothing. Those above say which guest cluster
/// it is.
const HOST_BITS: u32 = 40;

/// What is known of one image.
#[derive(Debug)]
pub(super) struct Map {
    cluster_bits: u32,
    parts: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

impl Map {
    pub fn new(cluster_size: u64) -> Map {
        Map {
            cluster_bits: cluster_size.trailing_zeros(),
            parts: (0..PARTS).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Where a range is in the file, if all of it is known and in one piece.
    #[inline]
    pub fn find(&self, offset: u64, len: u64) -> Option<u64> {
        let first = offset >> self.cluster_bits;
        let last = offset.checked_add(len.checked_sub(1)?)? >> self.cluster_bits;
        let host = self.get(first)?;
        for step in 1..=last - first {
            if self.get(first + step)? != host + step {
                return None;
            }
        }
        let inside = offset & ((1 << self.cluster_bits) - 1);
        Some((host << self.cluster_bits) | inside)
    }

    /// Enters the clusters of a range, which is whole clusters, in one piece and at `host` in the file.
    pub fn learn(&self, offset: u64, host: u64, len: u64) {
        let (guest, host) = (offset >> self.cluster_bits, host >> self.cluster_bits);
        for step in 0..len >> self.cluster_bits {
            let (guest, host) = (guest + step, host + step);
            // What an entry has no bits for is not known.
            if host < 1 << HOST_BITS && guest / ENTRIES < 1 << (u64::BITS - HOST_BITS) {
                let entry = (guest / ENTRIES) << HOST_BITS | host;
                if let Some(cell) = self.part(guest).get_or_init(empty).get(place(guest)) {
                    cell.store(entry, Ordering::Release);
                }
            }
        }
    }

    /// Forgets all clusters that a range touches.
    pub fn forget(&self, offset: u64, len: u64) {
        let first = offset >> self.cluster_bits;
        let end = offset.saturating_add(len).div_ceil(1 << self.cluster_bits);
        for guest in first..end.min(first.saturating_add(ENTRIES)) {
            if let Some(cell) = self.part(guest).get().and_then(|p| p.get(place(guest))) {
                cell.store(0, Ordering::Release);
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for cell in self.parts.iter().filter_map(OnceLock::get).flatten() {
            cell.store(0, Ordering::Release);
        }
    }

    /// Bytes of memory.
    pub fn memory(&self) -> u64 {
        let parts = self.parts.iter().filter(|part| part.get().is_some());
        parts.count() as u64 * PART * size_of::<AtomicU64>() as u64
    }

    #[inline]
    fn get(&self, guest: u64) -> Option<u64> {
        let cell = self.part(guest).get()?.get(place(guest))?;
        let entry = cell.load(Ordering::Acquire);
        let host = entry & ((1 << HOST_BITS) - 1);
        (entry >> HOST_BITS == guest / ENTRIES && host != 0).then_some(host)
    }

    #[inline]
    #[expect(clippy::indexing_slicing, reason = "there are PARTS of them")]
    fn part(&self, guest: u64) -> &OnceLock<Box<[AtomicU64]>> {
        &self.parts[(guest % ENTRIES / PART) as usize]
    }
}

/// Which entry of its part is about a cluster.
#[inline]
fn place(guest: u64) -> usize {
    (guest % PART) as usize
}

fn empty() -> Box<[AtomicU64]> {
    (0..PART).map(|_| AtomicU64::new(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const K64: u64 = 65536;

    #[test]
    fn a_range_is_found_only_if_all_of_it_is_known_and_in_one_piece() {
        let map = Map::new(K64);
        assert_eq!(map.find(0, 512), None);
        map.learn(4 * K64, 100 * K64, 3 * K64);
        map.learn(7 * K64, 200 * K64, K64);
        assert_eq!(map.find(4 * K64, 3 * K64), Some(100 * K64));
        assert_eq!(map.find(5 * K64 + 512, 512), Some(101 * K64 + 512));
        assert_eq!(map.find(6 * K64, K64 + 512), None, "it is in two pieces");
        assert_eq!(map.find(7 * K64, K64), Some(200 * K64));
        assert_eq!(map.find(7 * K64, K64 + 512), None, "its end is not known");
        assert_eq!(map.find(4 * K64 - 512, 1024), None, "nor its beginning");
        assert_eq!(map.find(u64::MAX - 511, 1024), None);
        assert_eq!(map.find(4 * K64, 0), None);
    }

    #[test]
    fn all_clusters_that_a_range_touches_are_forgotten() {
        let map = Map::new(512);
        map.learn(0, 512 * 10, 512 * 8);
        map.forget(512 + 1, 1024);
        let known: Vec<u64> = (0..8)
            .filter(|c| map.find(c * 512, 512).is_some())
            .collect();
        assert_eq!(known, [0, 4, 5, 6, 7]);
        map.clear();
        assert!((0..8).all(|c| map.find(c * 512, 512).is_none()));
    }

    #[test]
    fn clusters_that_share_an_entry_are_never_taken_for_each_other() {
        let map = Map::new(K64);
        let far = ENTRIES * K64;
        map.learn(K64, 5 * K64, K64);
        assert_eq!(map.find(K64 + far, 512), None);
        map.learn(K64 + far, 9 * K64, K64);
        assert_eq!(map.find(K64, 512), None);
        assert_eq!(map.find(K64 + far, 512), Some(9 * K64));
    }

    #[test]
    fn what_an_entry_has_no_room_for_is_not_known() {
        let map = Map::new(512);
        map.learn(0, 512 << HOST_BITS, 512);
        assert_eq!(map.find(0, 512), None);
        map.learn(u64::MAX / 512 * 512, 512, 512);
        assert_eq!(map.find(u64::MAX / 512 * 512, 1), None);
    }

    #[test]
    fn memory_is_taken_where_something_is_known_and_bounded() {
        let map = Map::new(K64);
        assert_eq!(map.memory(), 0);
        map.forget(0, u64::MAX);
        assert_eq!(map.memory(), 0);
        map.learn(0, K64, K64);
        map.learn(ENTRIES * K64, K64, K64);
        assert_eq!(map.memory(), 32768);
        for part in 0..2 * PARTS {
            map.learn(part * PART * K64, K64, K64);
        }
        assert_eq!(map.memory(), 32 << 20);
    }
}
