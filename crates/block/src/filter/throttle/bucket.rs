//! Leaky buckets without a lock.
//!
//! A bucket fills with what is let through, and leaks at the configured rate; while it is fuller than it may be, nothing
//! more is let through. Its level is kept as the time at which it will be empty, one atomic word: it leaks by the mere
//! passing of time, and adding to it moves that time on. Several reactors that look and add at once can let through one
//! operation each too many; the next ones wait so much longer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What an average and its bursts are limited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Units per second in the long run; 0 is no limit.
    pub average: u64,
    /// Units per second during a burst; 0 is none.
    pub burst: u64,
    /// For how many seconds a burst may last.
    pub burst_seconds: u64,
}

impl Default for Limit {
    fn default() -> Limit {
        Limit {
            average: 0,
            burst: 0,
            burst_seconds: 1,
        }
    }
}

/// Moments are counted in these parts of a nanosecond, so that the cost of one byte is not rounded away.
const PARTS: f64 = 256.0;
const SECOND: f64 = 1e9 * PARTS;
/// How far ahead of its average a limit without burst may be, and a burst of its own rate: this makes up for requests
/// that come in waves.
const SLACK: f64 = SECOND / 10.0;

/// One rate.
#[derive(Debug, Default)]
struct Leak {
    /// Parts that one unit costs, as the bits of an `f64`; 0 is no limit.
    cost: AtomicU64,
    /// How full it may be, in parts.
    room: AtomicU64,
    /// When it will be empty, in parts.
    empty_at: AtomicU64,
}

impl Leak {
    fn set(&self, rate: u64, room: f64) {
        let cost = if rate == 0 { 0.0 } else { SECOND / rate as f64 };
        self.empty_at.store(0, Ordering::Relaxed);
        self.room.store(parts(room), Ordering::Relaxed);
        self.cost.store(cost.to_bits(), Ordering::Relaxed);
    }

    /// How long nothing can be let through, in parts.
    fn wait(&self, now: u64) -> u64 {
        if self.cost.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let level = self.empty_at.load(Ordering::Relaxed).saturating_sub(now);
        level.saturating_sub(self.room.load(Ordering::Relaxed))
    }

    fn add(&self, units: f64, now: u64) {
        let cost = f64::from_bits(self.cost.load(Ordering::Relaxed));
        if cost == 0.0 {
            return;
        }
        let cost = parts(units * cost);
        let add = |empty_at: u64| Some(empty_at.max(now).saturating_add(cost));
        // It always says what to store.
        let _: Result<u64, u64> =
            self.empty_at
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "never negative, and it saturates"
)]
fn parts(parts: f64) -> u64 {
    parts as u64
}

/// A limit with its burst.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    average: Leak,
    /// A burst that may last longer than a second has a rate of its own.
    burst: Leak,
}

impl Bucket {
    /// Sets the limit; the bucket is empty then.
    pub fn set(&self, limit: Limit) {
        let Limit {
            average,
            burst,
            burst_seconds,
        } = limit;
        if burst == 0 || average == 0 {
            self.average.set(average, SLACK);
            self.burst.set(0, 0.0);
            return;
        }
        let whole_burst = burst as f64 * burst_seconds as f64;
        self.average
            .set(average, whole_burst / average as f64 * SECOND);
        let rate = if burst_seconds > 1 { burst } else { 0 };
        self.burst.set(rate, SLACK);
    }

    /// How long nothing can be let through, in parts.
    pub fn wait(&self, now: u64) -> u64 {
        self.average.wait(now).max(self.burst.wait(now))
    }

    /// Something is let through.
    pub fn add(&self, units: f64, now: u64) {
        self.average.add(units, now);
        self.burst.add(units, now);
    }
}

/// A moment, in parts since whatever began then.
pub(super) fn moment(elapsed: Duration) -> u64 {
    let nanoseconds = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
    nanoseconds.saturating_mul(256)
}

/// Parts as a time to sleep, rounded up so that it is over then.
pub(super) fn duration(parts: u64) -> Duration {
    Duration::from_nanos(parts / 256 + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation, reason = "numbers of the test's own")]

    use super::*;

    const MS: u64 = 1_000_000 * 256;

    /// How many units of one go through in `ms` milliseconds, asked for as fast as they are let through.
    fn passed(limit: Limit, ms: u64) -> u64 {
        let bucket = Bucket::default();
        bucket.set(limit);
        let (mut now, mut units) = (MS, 0);
        while now < (ms + 1) * MS {
            match bucket.wait(now) {
                0 => {
                    bucket.add(1.0, now);
                    units += 1;
                    // Ten million a second, if nothing limits it.
                    now += 25_600;
                }
                wait => now += wait,
            }
        }
        units
    }

    fn about(limit: Limit, ms: u64, expected: u64) {
        let units = passed(limit, ms);
        assert!(
            units.abs_diff(expected) <= expected / 50 + 2,
            "{units}, not {expected}"
        );
    }

    #[test]
    fn without_burst_a_tenth_of_a_second_is_ahead() {
        for average in [10, 1000, 100_000] {
            let limit = Limit {
                average,
                ..Limit::default()
            };
            about(limit, 1000, average + average / 10);
            about(limit, 10_000, 10 * average + average / 10);
        }
    }

    #[test]
    fn a_burst_of_a_second_is_as_much_as_the_burst_rate_lets_through_in_one() {
        let limit = Limit {
            average: 100,
            burst: 2000,
            burst_seconds: 1,
        };
        about(limit, 10, 2000);
        about(limit, 5000, 2000 + 500);
    }

    #[test]
    fn a_longer_burst_keeps_to_the_burst_rate_and_then_to_the_average() {
        let limit = Limit {
            average: 100,
            burst: 2000,
            burst_seconds: 3,
        };
        about(limit, 1000, 2000 + 200);
        about(limit, 2500, 5000 + 200);
        // After the burst, only the average.
        let (early, late) = (passed(limit, 6000), passed(limit, 10_000));
        assert!((395..=405).contains(&(late - early)), "{early} {late}");
    }

    #[test]
    fn a_burst_comes_back_when_the_bucket_has_leaked() {
        let bucket = Bucket::default();
        bucket.set(Limit {
            average: 100,
            burst: 1000,
            burst_seconds: 1,
        });
        bucket.add(1500.0, MS);
        // 500 too much leak away in five seconds.
        assert_eq!(bucket.wait(MS).div_ceil(MS), 5000);
        assert_eq!(bucket.wait(5001 * MS + MS), 0);
    }

    #[test]
    fn the_price_of_a_byte_is_not_rounded_away() {
        let limit = Limit {
            average: 30_000_000_000,
            ..Limit::default()
        };
        let bucket = Bucket::default();
        bucket.set(limit);
        for _ in 0..1_000_000 {
            bucket.add(4096.0, 0);
        }
        let took = bucket.wait(0) as f64 / SECOND + 0.1;
        let expected = 4096e6 / 30e9;
        assert!((took / expected - 1.0).abs() < 0.01, "{took} {expected}");
    }
}
