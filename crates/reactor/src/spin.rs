//! How long to look for work before sleeping.
//!
//! There are two kinds of waiting. A guest's next request may come at once or never: looking for it goes on longer while
//! that would have found it, and less long while it would not. What the kernel has in hand is sure to come, and wakes the
//! thread; it takes about as long as it has lately. So a look that outlasts the pause between two requests goes on only
//! while the kernel is fast: an answer that takes its time loses little by a wake-up, and the processor gains all of it.

use std::time::Duration;

use crate::clock;

/// Turns without work for each look at the clock, which costs as much as several of them.
const TURNS_PER_LOOK: u32 = 16;

/// What a driver needs from one request to the next, and less than what it costs to sleep and to be woken. In
/// nanoseconds, like all times here.
const PAUSE: u64 = 1_000;

/// Looking for less time than this is not worth its while.
const LEAST: u64 = 4_000;

/// The kernel may take this part of the longest look to be waited for awake.
const PART: u64 = 8;

/// See the module.
pub(crate) struct Spin {
    max: u64,
    /// How long to look for what guests ask.
    guest: u64,
    /// How long the kernel has taken lately, where that was longer than [`PAUSE`].
    kernel: u64,
    /// How long the kernel may take.
    patience: u64,
    /// When the first look at the clock since there was work was taken.
    since: Option<u64>,
    /// Turns since there was work.
    turns: u32,
    clock: fn() -> u64,
}

impl Spin {
    /// Looks for so long at most.
    pub fn new(max: Duration) -> Spin {
        Spin::with_clock(max, clock)
    }

    fn with_clock(max: Duration, clock: fn() -> u64) -> Spin {
        let max = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX / PART);
        Spin {
            max,
            guest: max / 4,
            kernel: 0,
            patience: max / PART,
            since: None,
            turns: 0,
            clock,
        }
    }

    /// Looks for so long at most from now on.
    pub fn limit(&mut self, max: u64) {
        if max != self.max {
            *self = Spin::with_clock(Duration::from_nanos(max), self.clock);
        }
    }

    /// There was work. `in_kernel`: the kernel had some in hand until now.
    pub fn worked(&mut self, in_kernel: bool) {
        self.turns = 0;
        if let Some(since) = self.since.take()
            && in_kernel
        {
            self.learn(since);
        }
    }

    /// There was no work. Whether to look again; `in_kernel`: the kernel has some in hand.
    pub fn goes_on(&mut self, in_kernel: bool) -> bool {
        let limit = match in_kernel {
            true if self.kernel > self.patience => PAUSE.min(self.max),
            true => self.patience * 2,
            false => self.guest,
        };
        if limit == 0 {
            return false;
        }
        self.turns = self.turns.wrapping_add(1);
        if !self.turns.is_multiple_of(TURNS_PER_LOOK) {
            return true;
        }
        let now = (self.clock)();
        now - *self.since.get_or_insert(now) < limit
    }

    /// The thread goes to sleep; the answer is for [`Spin::slept`].
    pub fn sleeps(&mut self) -> u64 {
        self.turns = 0;
        self.since.take().unwrap_or_else(self.clock)
    }

    /// The thread is awake again, and has waited since `since`.
    pub fn slept(&mut self, since: u64, in_kernel: bool) {
        if in_kernel {
            self.learn(since);
        } else if (self.clock)() - since < self.max {
            self.guest = (self.guest * 2).clamp(LEAST.min(self.max), self.max);
        } else {
            self.guest = if self.guest < LEAST {
                0
            } else {
                self.guest / 2
            };
        }
    }

    /// The kernel has been waited for since `since`. One wait says little, and a very long one no more than that it was
    /// too long.
    fn learn(&mut self, since: u64) {
        let wait = ((self.clock)() - since).min(self.patience * 2);
        if wait > PAUSE {
            self.kernel = (self.kernel * 7 + wait) / 8;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(1) };
    }

    /// Each look takes 50 ns.
    const TURN: u64 = 50;

    fn spin(max_us: u64) -> Spin {
        Spin::with_clock(Duration::from_micros(max_us), || NOW.get())
    }

    /// Waits for what takes `ns`, and returns how long that was done awake.
    fn wait(spin: &mut Spin, ns: u64, in_kernel: bool) -> u64 {
        let start = NOW.get();
        while spin.goes_on(in_kernel) {
            NOW.set(NOW.get() + TURN);
            if NOW.get() - start >= ns {
                spin.worked(in_kernel);
                return NOW.get() - start;
            }
        }
        let awake = NOW.get() - start;
        let since = spin.sleeps();
        NOW.set(start + ns);
        spin.slept(since, in_kernel);
        awake
    }

    /// What becomes of a wait that is always the same.
    fn in_the_long_run(max_us: u64, ns: u64, in_kernel: bool) -> u64 {
        let mut spin = spin(max_us);
        for _ in 0..50 {
            wait(&mut spin, ns, in_kernel);
        }
        wait(&mut spin, ns, in_kernel)
    }

    #[test]
    fn without_a_time_to_look_for_the_thread_sleeps_at_once() {
        assert_eq!(in_the_long_run(0, 1, false), 0);
        assert_eq!(in_the_long_run(0, 1, true), 0);
    }

    #[test]
    fn a_guest_that_asks_within_the_time_is_waited_for_awake() {
        assert!(in_the_long_run(32, 20_000, false) >= 20_000);
    }

    #[test]
    fn a_guest_that_asks_later_is_not_looked_for() {
        assert_eq!(in_the_long_run(32, 40_000, false), 0);
        assert_eq!(in_the_long_run(32, 1_000_000, false), 0);
    }

    #[test]
    fn a_slow_answer_of_the_kernel_is_slept_for_after_a_short_look() {
        for (max_us, ns) in [(32, 30_000), (1000, 340_000)] {
            let awake = in_the_long_run(max_us, ns, true);
            assert!((1..3_000).contains(&awake), "{awake} ns of {ns}");
        }
    }

    #[test]
    fn a_fast_answer_of_the_kernel_is_waited_for_awake() {
        for (max_us, ns) in [(32, 3_000), (1000, 30_000)] {
            assert!(in_the_long_run(max_us, ns, true) >= ns, "{ns}");
        }
    }

    #[test]
    fn one_slow_answer_among_fast_ones_changes_nothing() {
        let mut spin = spin(1000);
        for _ in 0..50 {
            wait(&mut spin, 30_000, true);
        }
        wait(&mut spin, 50_000_000, true);
        assert!(wait(&mut spin, 30_000, true) >= 30_000);
    }

    #[test]
    fn a_kernel_that_has_become_fast_is_noticed() {
        let mut spin = spin(1000);
        for _ in 0..50 {
            wait(&mut spin, 340_000, true);
        }
        for _ in 0..20 {
            wait(&mut spin, 30_000, true);
        }
        assert!(wait(&mut spin, 30_000, true) >= 30_000);
    }

    #[test]
    fn what_the_kernel_takes_says_nothing_of_the_guest() {
        let mut spin = spin(32);
        for _ in 0..50 {
            wait(&mut spin, 340_000, true);
            wait(&mut spin, 20_000, false);
        }
        assert!(wait(&mut spin, 20_000, false) >= 20_000);
    }
}
