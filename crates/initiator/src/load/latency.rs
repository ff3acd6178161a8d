//! How long requests took.

use std::time::Duration;

/// Buckets for each power of two.
const STEPS: u64 = 64;
/// As a power of two.
const STEPS_LOG: u32 = 6;
/// Up to 2^40 ns, a quarter of an hour.
const BUCKETS: usize = 64 * 35;

/// A histogram of latencies, exact to 1/64.
#[derive(Clone, Debug)]
pub struct Latencies {
    /// Counts of `(STEPS + i % STEPS) << (i / STEPS)` nanoseconds and what is between that and the next.
    buckets: Vec<u64>,
    count: u64,
    sum: Duration,
    max: Duration,
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies {
            buckets: vec![0; BUCKETS],
            count: 0,
            sum: Duration::ZERO,
            max: Duration::ZERO,
        }
    }
}

impl Latencies {
    pub(crate) fn add(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let ns = ns.max(STEPS);
        let shift = ns.ilog2() - STEPS_LOG;
        let bucket = u64::from(shift) * STEPS + (ns >> shift) - STEPS;
        let bucket = usize::try_from(bucket).unwrap_or(BUCKETS).min(BUCKETS - 1);
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.count += 1;
        self.sum += latency;
        self.max = self.max.max(latency);
    }

    /// Takes those of `other` in.
    pub fn merge(&mut self, other: &Latencies) {
        for (to, from) in self.buckets.iter_mut().zip(&other.buckets) {
            *to += from;
        }
        self.count += other.count;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The average.
    pub fn mean(&self) -> Duration {
        let ns = self.sum.as_nanos() / u128::from(self.count.max(1));
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The latency that `percent` of the requests did not exceed (to 1/64).
    pub fn percentile(&self, percent: f64) -> Duration {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rounded count between 0 and all"
        )]
        let wanted = (self.count as f64 * percent.clamp(0.0, 100.0) / 100.0).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in (0u64..).zip(&self.buckets) {
            seen += count;
            if seen >= wanted.max(1) {
                // The bucket's upper end.
                let ns = (STEPS + 1 + bucket % STEPS) << (bucket / STEPS);
                return Duration::from_nanos(ns).min(self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact_to_a_sixty_fourth() {
        let mut latencies = Latencies::default();
        for us in 1..=1000 {
            latencies.add(Duration::from_micros(us));
        }
        for (percent, us) in [(1.0, 10.0), (50.0, 500.0), (99.0, 990.0), (100.0, 1000.0)] {
            let found = latencies.percentile(percent).as_secs_f64() * 1e6;
            assert!(
                found >= us && found <= us * 65.0 / 64.0,
                "{percent}: {found}"
            );
        }
        assert_eq!(latencies.max(), Duration::from_millis(1));
        assert_eq!(latencies.mean(), Duration::from_nanos(500_500));
        latencies.add(Duration::from_secs(100_000));
        assert_eq!(latencies.percentile(100.0), latencies.percentile(99.99));
    }
}
