//! How long operations take: counted finely for everybody, and coarsely for who has asked.
//!
//! Every operation falls into one of some 200 classes whose widths grow with the time, so that any quantile is known to an
//! eighth. Each data handle counts for itself. [`Histogram`]s have boundaries that somebody wanted exactly; they are rare,
//! so all handles share them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::books::add;

/// Classes that a doubling of the time is divided into.
const STEPS: usize = 8;
/// Below this many nanoseconds, as a power of two, classes are as wide as the first ones above.
const FIRST: u32 = 10;
/// At this many, half a minute, the last class begins.
const LAST: u32 = 35;
const CLASSES: usize = (LAST - FIRST + 1) as usize * STEPS + 1;

/// The class of a time.
#[inline]
fn class(ns: u64) -> usize {
    // A time in the first doublings counts as if they were one.
    let exponent = (ns | 1 << (FIRST - 1)).ilog2();
    let doublings = (exponent + 1 - FIRST) as usize;
    let shift = exponent.max(FIRST) - STEPS.ilog2();
    let step = usize::try_from(ns >> shift).unwrap_or(usize::MAX) & (STEPS - 1);
    (doublings * STEPS + step).min(CLASSES - 1)
}

/// Where a class ends: the least time that is in a later one.
fn end(class: usize) -> u64 {
    let next = class + 1;
    if next >= CLASSES {
        return u64::MAX;
    }
    let (doublings, step) = (next / STEPS, (next % STEPS) as u64);
    match doublings.checked_sub(1) {
        None => step << (FIRST - STEPS.ilog2()),
        Some(more) => (STEPS as u64 + step) << (more + FIRST as usize - STEPS.ilog2() as usize),
    }
}

/// How many operations of one handle fell into each class.
#[derive(Debug)]
pub(super) struct Classes([AtomicU64; CLASSES]);

impl Default for Classes {
    fn default() -> Classes {
        Classes(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Classes {
    #[inline]
    pub fn count(&self, ns: u64) {
        if let Some(count) = self.0.get(class(ns)) {
            add(count, 1);
        }
    }

    pub fn absorb(&self, other: &Classes) {
        for (sum, count) in self.0.iter().zip(&other.0) {
            add(sum, count.load(Ordering::Relaxed));
        }
    }

    pub fn collect(&self) -> Latencies {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        let classes = counts.enumerate().filter(|(_, count)| *count > 0);
        Latencies(classes.map(|(class, count)| (end(class), count)).collect())
    }
}

/// How long operations took: classes of time, each by its end in nanoseconds, and how many fell into it. Those into which
/// none fell are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies(pub Vec<(u64, u64)>);

impl Latencies {
    /// So many operations of a thousand took less than this many nanoseconds. `None`: there were none.
    pub fn quantile(&self, of_thousand: u64) -> Option<u64> {
        let total: u64 = self.0.iter().map(|(_, count)| count).sum();
        let wanted = u128::from(total) * u128::from(of_thousand);
        let mut passed = 0;
        let reached = |(_, count): &&(u64, u64)| {
            passed += u128::from(*count) * 1000;
            passed >= wanted
        };
        self.0.iter().find(reached).map(|(end, _)| *end)
    }
}

/// How many operations of a kind fell between boundaries that somebody has set.
#[derive(Debug)]
pub struct Histogram {
    boundaries: Vec<u64>,
    /// One more than there are boundaries.
    bins: Vec<AtomicU64>,
}

impl Histogram {
    /// Boundaries in nanoseconds. `None`: they are not ascending, or not above 0, or there is none.
    pub fn new(boundaries: Vec<u64>) -> Option<Histogram> {
        let ascending = boundaries.is_sorted_by(|a, b| a < b);
        let positive = boundaries.first().is_some_and(|first| *first > 0);
        (ascending && positive).then(|| Histogram {
            bins: (0..=boundaries.len()).map(|_| AtomicU64::new(0)).collect(),
            boundaries,
        })
    }

    /// The boundaries.
    pub fn boundaries(&self) -> &[u64] {
        &self.boundaries
    }

    /// How many took less than the first boundary, how many less than the next, and so on; the last is the rest.
    pub fn bins(&self) -> Vec<u64> {
        let bins = self.bins.iter();
        bins.map(|bin| bin.load(Ordering::Relaxed)).collect()
    }

    fn count(&self, ns: u64) {
        let bin = self.boundaries.partition_point(|boundary| *boundary <= ns);
        if let Some(bin) = self.bins.get(bin) {
            bin.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The histograms of a device, for each kind of operation that somebody wanted one of.
#[derive(Clone, Debug, Default)]
pub struct Histograms {
    /// Of reads.
    pub reads: Option<Arc<Histogram>>,
    /// Of writes.
    pub writes: Option<Arc<Histogram>>,
    /// Of flushes.
    pub flushes: Option<Arc<Histogram>>,
    /// Of appending to zones, which no device of ours has: its bins stay empty.
    pub zone_appends: Option<Arc<Histogram>>,
}

impl Histograms {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        let all = [&self.reads, &self.writes, &self.flushes, &self.zone_appends];
        all.into_iter().all(Option::is_none)
    }

    #[cold]
    pub(super) fn count(&self, kind: super::account::Kind, ns: u64) {
        use super::account::Kind;
        let histogram = match kind {
            Kind::Read => &self.reads,
            Kind::Write => &self.writes,
            Kind::Flush => &self.flushes,
            Kind::Discard => &None,
        };
        if let Some(histogram) = histogram {
            histogram.count(ns);
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    reason = "a failed expectation is a test's verdict"
)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_each_other_without_gap_and_are_an_eighth_wide_at_most() {
        let mut begin = 0;
        for number in 0..CLASSES {
            assert_eq!(class(begin), number, "{begin}");
            let end = end(number);
            assert!(end > begin);
            assert_eq!(class(end - 1), number, "{end}");
            let narrow = end == u64::MAX || end - begin <= (begin / 8).max(128);
            assert!(narrow, "{begin}..{end}");
            begin = end;
        }
        assert_eq!(begin, u64::MAX);
        assert_eq!(class(u64::MAX), CLASSES - 1);
    }

    #[test]
    fn a_quantile_is_the_end_of_the_class_that_reaches_it() {
        let classes = Classes::default();
        for _ in 0..990 {
            classes.count(10_000);
        }
        for _ in 0..10 {
            classes.count(5_000_000);
        }
        let latencies = classes.collect();
        let [half, most, nearly_all] = [500, 990, 999].map(|q| latencies.quantile(q).unwrap());
        assert!((10_000..11_251).contains(&half), "{half}");
        assert_eq!(half, most);
        assert!((5_000_000..5_625_001).contains(&nearly_all), "{nearly_all}");
        assert_eq!(Latencies::default().quantile(500), None);
    }

    #[test]
    fn a_time_on_a_boundary_is_in_the_bin_above_it() {
        let histogram = Histogram::new(vec![10, 100]).unwrap();
        for ns in [0, 9, 10, 99, 100, u64::MAX] {
            histogram.count(ns);
        }
        assert_eq!(histogram.bins(), [2, 2, 2]);
    }

    #[test]
    fn boundaries_ascend_from_above_zero() {
        for bad in [vec![], vec![0, 1], vec![2, 1], vec![1, 1]] {
            assert!(Histogram::new(bad).is_none());
        }
    }
}
