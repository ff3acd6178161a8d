//! How long to look for work before sleeping.
//!
//! There are two kinds of waiting. A guest's next request may come at once or never; what the kernel has in hand is sure to
//! come, and wakes the thread. Both take about as long as they have lately, and waiting for them awake is worth its while
//! if that is short: for guests half of the longest look, which it is for a guest that works with single requests; for the
//! kernel, which needs no kick, an eighth. Else the thread looks for no longer than the pause between two requests.

use std::time::Duration;

use crate::clock;

/// Turns without work for each look at the clock, which costs as much as several of them.
const TURNS_PER_LOOK: u32 = 16;

/// Turns that a driver may pause from one request to the next: about a microsecond, less than a sleep and a wake-up cost.
const PAUSE: u32 = 8;

/// So many sleeps until a wait that has taken too long is tried awake again: to be woken takes time itself, which
/// makes waits look longer than they are.
const TRIAL: u32 = 256;

/// One kind of waiting. Times are in nanoseconds.
struct Wait {
    /// How long it may take to be worth looking for. It is looked for twice as long.
    patience: u64,
    /// How long it took lately, where it was longer than a pause.
    average: u64,
    /// Sleeps since the last trial.
    sleeps: u32,
}

impl Wait {
    fn new(patience: u64) -> Wait {
        Wait {
            patience,
            average: 0,
            sleeps: 0,
        }
    }

    /// It was over after `wait`. One says little, and a very long one no more than that it was too long.
    fn learn(&mut self, wait: u64) {
        let wait = wait.min(self.patience * 2);
        self.average = (self.average * 7 + wait) / 8;
    }

    /// It was, asleep.
    fn slept(&mut self, wait: u64) {
        self.learn(wait);
        self.sleeps += 1;
        if self.sleeps == TRIAL {
            self.sleeps = 0;
            self.average = self.average.min(self.patience);
        }
    }
}

/// See the module.
pub(crate) struct Spin {
    /// The longest look.
    max: u64,
    /// For what guests ask next.
    guests: Wait,
    /// For what the kernel has in hand, whoever is faster.
    kernel: Wait,
    /// When the clock was first looked at since there was work.
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
        let max = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX);
        // So that there is room for sums of them.
        let most = max.min(u64::MAX / 16);
        Spin {
            max,
            guests: Wait::new(most / 2),
            kernel: Wait::new(most / 8),
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

    /// `in_kernel`: the kernel has something in hand.
    fn wait(&mut self, in_kernel: bool) -> &mut Wait {
        match in_kernel {
            true => &mut self.kernel,
            false => &mut self.guests,
        }
    }

    /// There was work. `in_kernel`: the kernel had some in hand until now.
    pub fn worked(&mut self, in_kernel: bool) {
        self.turns = 0;
        if let Some(since) = self.since.take() {
            let wait = (self.clock)() - since;
            self.wait(in_kernel).learn(wait);
        }
    }

    /// There was no work. Whether to look again; `in_kernel`: the kernel has some in hand.
    pub fn goes_on(&mut self, in_kernel: bool) -> bool {
        self.turns = self.turns.wrapping_add(1);
        let turns = self.turns;
        let Wait {
            patience, average, ..
        } = *self.wait(in_kernel);
        if patience == 0 {
            return false;
        }
        if average > patience {
            return turns < PAUSE;
        }
        if !turns.is_multiple_of(TURNS_PER_LOOK) {
            return true;
        }
        let now = (self.clock)();
        now - *self.since.get_or_insert(now) < patience * 2
    }

    /// The thread goes to sleep; the answer is for [`Spin::slept`].
    pub fn sleeps(&mut self) -> u64 {
        self.turns = 0;
        self.since.take().unwrap_or_else(self.clock)
    }

    /// The thread is awake again, and has waited since `since`.
    pub fn slept(&mut self, since: u64, in_kernel: bool) {
        let wait = (self.clock)() - since;
        self.wait(in_kernel).slept(wait);
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
    /// And a wake-up 8 µs.
    const WAKE: u64 = 8_000;
    /// What is looked for longer than this on average is looked for in earnest.
    const SHORT: u64 = 2_000;

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
        NOW.set(start + ns + WAKE);
        spin.slept(since, in_kernel);
        awake
    }

    /// How long each of so many waits was done awake on average.
    fn waits(spin: &mut Spin, count: u64, ns: u64, in_kernel: bool) -> u64 {
        (0..count).map(|_| wait(spin, ns, in_kernel)).sum::<u64>() / count
    }

    #[test]
    fn without_a_time_to_look_for_the_thread_sleeps_at_once() {
        assert_eq!(waits(&mut spin(0), 100, 1, false), 0);
        assert_eq!(waits(&mut spin(0), 100, 1, true), 0);
    }

    #[test]
    fn a_guest_that_asks_within_half_of_the_time_is_waited_for_awake() {
        assert!(waits(&mut spin(32), 100, 15_000, false) >= 15_000);
    }

    #[test]
    fn a_guest_that_asks_later_is_hardly_looked_for() {
        for ns in [20_000, 40_000, 1_000_000] {
            let awake = waits(&mut spin(32), 1000, ns, false);
            assert!((1..SHORT).contains(&awake), "{awake} ns of {ns}");
        }
    }

    #[test]
    fn a_slow_answer_of_the_kernel_is_slept_for_after_a_short_look() {
        for (max_us, ns) in [(32, 30_000), (1000, 340_000)] {
            let mut spin = spin(max_us);
            waits(&mut spin, 20, ns, true);
            let awake = waits(&mut spin, 1000, ns, true);
            assert!((1..SHORT).contains(&awake), "{awake} ns of {ns}");
        }
    }

    #[test]
    fn a_fast_answer_of_the_kernel_is_waited_for_awake() {
        for (max_us, ns) in [(32, 3_000), (1000, 30_000)] {
            assert!(waits(&mut spin(max_us), 100, ns, true) >= ns, "{ns}");
        }
    }

    #[test]
    fn one_slow_answer_among_fast_ones_changes_nothing() {
        let mut spin = spin(1000);
        waits(&mut spin, 50, 30_000, true);
        wait(&mut spin, 50_000_000, true);
        assert!(wait(&mut spin, 30_000, true) >= 30_000);
    }

    #[test]
    fn a_wait_that_has_become_short_is_noticed_although_wake_ups_lengthen_it() {
        let mut spin = spin(32);
        waits(&mut spin, 300, 1_000_000, false);
        assert!(wait(&mut spin, 12_000, false) < SHORT);
        waits(&mut spin, 300, 12_000, false);
        assert!(waits(&mut spin, 100, 12_000, false) >= 12_000);
    }

    #[test]
    fn what_the_kernel_takes_says_nothing_of_the_guest() {
        let mut spin = spin(32);
        for _ in 0..50 {
            wait(&mut spin, 340_000, true);
            assert!(wait(&mut spin, 12_000, false) >= 12_000);
        }
    }
}
