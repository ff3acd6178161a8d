//! A throttle group: limits that several images share, and who waits for them.
//!
//! What is within the limits passes without a lock: buckets are atomics. What is not waits in a lane, one for reads and one
//! for everything else, in which the images take turns, one operation each. Each waiting operation belongs to a data
//! handle, whose task (its *pump*) has it delivered. The pump whose operation is the next of a lane has the alarm clock;
//! whenever the next one changes to somebody else's, that pump is woken.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use lunar_reactor::Token;

use super::bucket::{Bucket, Limit, duration, moment};
use crate::Error;

/// QEMU's limit of limits.
const MAX: u64 = 1_000_000_000_000_000;

/// What a group limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `iops-total`
    pub iops_total: Limit,
    /// `iops-read`
    pub iops_read: Limit,
    /// `iops-write`
    pub iops_write: Limit,
    /// `bps-total`
    pub bps_total: Limit,
    /// `bps-read`
    pub bps_read: Limit,
    /// `bps-write`
    pub bps_write: Limit,
    /// `iops-size`: a larger operation counts as several of this many bytes. 0: each counts as one.
    pub iops_size: u64,
}

impl Limits {
    /// Whether there is any limit.
    pub fn is_unlimited(&self) -> bool {
        self.named().iter().all(|(_, limit)| limit.average == 0)
    }

    /// Each limit with its name.
    pub fn named(&self) -> [(&'static str, Limit); 6] {
        [
            ("iops-total", self.iops_total),
            ("iops-read", self.iops_read),
            ("iops-write", self.iops_write),
            ("bps-total", self.bps_total),
            ("bps-read", self.bps_read),
            ("bps-write", self.bps_write),
        ]
    }

    /// # Errors
    /// [`Error::Open`]: what contradicts what.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |what: String| Err(Error::Open(format!("throttling: {what}")));
        for (unit, total, read, write) in [
            ("iops", self.iops_total, self.iops_read, self.iops_write),
            ("bps", self.bps_total, self.bps_read, self.bps_write),
        ] {
            let both = |value: fn(&Limit) -> u64| {
                value(&total) > 0 && (value(&read) > 0 || value(&write) > 0)
            };
            if both(|l| l.average) || both(|l| l.burst) {
                return refuse(format!(
                    "{unit}-total cannot be used together with {unit}-read or {unit}-write"
                ));
            }
        }
        for (name, limit) in self.named() {
            let Limit {
                average,
                burst,
                burst_seconds,
            } = limit;
            if average > MAX || burst > MAX {
                return refuse(format!("{name}: values are at most {MAX}"));
            }
            if burst_seconds == 0 {
                return refuse(format!("{name}-max-length is at least 1 second"));
            }
            if burst > 0 && average == 0 {
                return refuse(format!("{name}-max needs {name}"));
            }
            if burst > 0 && burst < average {
                return refuse(format!("{name}-max cannot be lower than {name}"));
            }
            if burst_seconds > 1 && burst == 0 {
                return refuse(format!("{name}-max-length needs {name}-max"));
            }
            if burst.checked_mul(burst_seconds).is_none_or(|b| b > MAX) {
                return refuse(format!("{name}-max-length is too long for {name}-max"));
            }
        }
        let iops = [self.iops_total, self.iops_read, self.iops_write];
        if self.iops_size > 0 && iops.iter().all(|limit| limit.average == 0) {
            return refuse("iops-size needs a limit on iops".into());
        }
        Ok(())
    }
}

/// Which lane an operation waits in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Lane {
    #[default]
    Read,
    Write,
}

impl Lane {
    fn other(self) -> Lane {
        match self {
            Lane::Read => Lane::Write,
            Lane::Write => Lane::Read,
        }
    }
}

/// Limits that several images share. See the module.
#[derive(Debug)]
pub struct ThrottleGroup {
    begun: Instant,
    /// Looked at without the lock by every operation.
    limited: AtomicBool,
    total: Rates,
    read: Rates,
    write: Rates,
    iops_size: AtomicU64,
    /// How many wait in each lane.
    waiting: [AtomicUsize; 2],
    state: Mutex<State>,
}

/// Operations and bytes.
#[derive(Debug, Default)]
struct Rates {
    iops: Bucket,
    bps: Bucket,
}

impl Rates {
    fn wait(&self, now: u64) -> u64 {
        self.iops.wait(now).max(self.bps.wait(now))
    }

    fn add(&self, operations: f64, bytes: u64, now: u64) {
        self.iops.add(operations, now);
        self.bps.add(bytes as f64, now);
    }
}

#[derive(Debug, Default)]
struct State {
    limits: Limits,
    lanes: [Turns; 2],
    /// Which lane is served first.
    turn: Lane,
}

/// The images with operations in a lane; the first has its turn.
#[derive(Debug, Default)]
struct Turns {
    images: VecDeque<(usize, VecDeque<Waiter>)>,
    /// Who has been told that the next operation is his.
    clock: Option<usize>,
}

/// An operation that waits.
#[derive(Debug)]
struct Waiter {
    token: Token,
    bytes: u64,
    pump: Arc<Pump>,
}

/// The task that delivers what a data handle has waiting.
#[derive(Debug, Default)]
pub(super) struct Pump {
    inbox: Mutex<Inbox>,
}

#[derive(Debug, Default)]
struct Inbox {
    granted: Vec<Token>,
    woken: bool,
    waker: Option<Waker>,
}

impl Pump {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(self: &Arc<Pump>) -> usize {
        Arc::as_ptr(self).addr()
    }

    pub fn wake(&self) {
        let mut inbox = self.inbox();
        inbox.woken = true;
        let waker = inbox.waker.take();
        drop(inbox);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// What may go, and whether it was woken; if not, it will be.
    pub fn look(&self, waker: &Waker) -> (Vec<Token>, bool) {
        let mut inbox = self.inbox();
        inbox.waker = Some(waker.clone());
        let woken = std::mem::take(&mut inbox.woken);
        (std::mem::take(&mut inbox.granted), woken)
    }
}

impl Turns {
    /// Adds an operation to an image's.
    fn push(&mut self, image: usize, waiter: Waiter) {
        match self.images.iter_mut().find(|(other, _)| *other == image) {
            Some((_, waiters)) => waiters.push_back(waiter),
            None => self.images.push_back((image, VecDeque::from([waiter]))),
        }
    }

    fn next(&self) -> Option<&Waiter> {
        self.images.front()?.1.front()
    }

    /// Takes the next operation; then it is another image's turn.
    fn pop(&mut self) -> Option<Waiter> {
        let (image, mut waiters) = self.images.pop_front()?;
        let waiter = waiters.pop_front();
        if !waiters.is_empty() {
            self.images.push_back((image, waiters));
        }
        waiter
    }

    /// Takes the operations that `is` is true of.
    fn take(&mut self, is: impl Fn(usize, &Waiter) -> bool) -> Vec<Waiter> {
        let mut taken = Vec::new();
        for (image, waiters) in &mut self.images {
            let (out, stay) = std::mem::take(waiters)
                .into_iter()
                .partition::<VecDeque<_>, _>(|waiter| is(*image, waiter));
            taken.extend(out);
            *waiters = stay;
        }
        self.images.retain(|(_, waiters)| !waiters.is_empty());
        taken
    }
}

impl ThrottleGroup {
    /// A group with these limits.
    ///
    /// # Errors
    /// [`Error::Open`] for limits that contradict each other.
    pub fn new(limits: Limits) -> Result<Arc<ThrottleGroup>, Error> {
        let group = ThrottleGroup {
            begun: Instant::now(),
            limited: AtomicBool::new(false),
            total: Rates::default(),
            read: Rates::default(),
            write: Rates::default(),
            iops_size: AtomicU64::new(0),
            waiting: Default::default(),
            state: Mutex::default(),
        };
        group.set(limits)?;
        Ok(Arc::new(group))
    }

    /// Changes the limits, for those that wait already, too. What was let through before is forgotten.
    ///
    /// # Errors
    /// [`Error::Open`] for limits that contradict each other; the old ones stay.
    pub fn set(&self, limits: Limits) -> Result<(), Error> {
        limits.check()?;
        let mut state = self.state();
        state.limits = limits;
        self.total.iops.set(limits.iops_total);
        self.total.bps.set(limits.bps_total);
        self.read.iops.set(limits.iops_read);
        self.read.bps.set(limits.bps_read);
        self.write.iops.set(limits.iops_write);
        self.write.bps.set(limits.bps_write);
        self.iops_size.store(limits.iops_size, Ordering::Relaxed);
        self.limited
            .store(!limits.is_unlimited(), Ordering::Release);
        for lane in &mut state.lanes {
            // Whoever has the clock sets it anew.
            lane.clock = None;
        }
        self.dispatch(&mut state, None);
        Ok(())
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        self.state().limits
    }

    /// How many operations wait.
    pub fn waiting(&self) -> usize {
        self.waiting
            .iter()
            .map(|lane| lane.load(Ordering::Relaxed))
            .sum()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        #[cfg(test)]
        if let Some(now) = tests::NOW.get() {
            return now;
        }
        moment(self.begun.elapsed())
    }

    fn rates(&self, lane: Lane) -> &Rates {
        match lane {
            Lane::Read => &self.read,
            Lane::Write => &self.write,
        }
    }

    fn queue(&self, lane: Lane) -> &AtomicUsize {
        let [read, write] = &self.waiting;
        match lane {
            Lane::Read => read,
            Lane::Write => write,
        }
    }

    /// How long the next operation of a lane has to wait, in parts.
    fn wait(&self, lane: Lane, now: u64) -> u64 {
        self.total.wait(now).max(self.rates(lane).wait(now))
    }

    fn account(&self, lane: Lane, bytes: u64, now: u64) {
        let size = self.iops_size.load(Ordering::Relaxed);
        let operations = match size {
            0 => 1.0,
            size => (bytes as f64 / size as f64).max(1.0),
        };
        self.total.add(operations, bytes, now);
        self.rates(lane).add(operations, bytes, now);
    }

    /// Whether an operation may go at once. If not, it has to join.
    #[inline]
    pub(super) fn admits(&self, lane: Lane, bytes: u64) -> bool {
        if !self.limited.load(Ordering::Acquire) {
            return true;
        }
        self.admits_within_limits(lane, bytes)
    }

    fn admits_within_limits(&self, lane: Lane, bytes: u64) -> bool {
        let now = self.now();
        if self.queue(lane).load(Ordering::Relaxed) > 0 || self.wait(lane, now) > 0 {
            return false;
        }
        self.account(lane, bytes, now);
        true
    }

    /// An operation waits for its turn.
    pub(super) fn join(
        &self,
        lane: Lane,
        image: usize,
        (token, bytes): (Token, u64),
        pump: &Arc<Pump>,
    ) {
        let mut state = self.state();
        let waiter = Waiter {
            token,
            bytes,
            pump: Arc::clone(pump),
        };
        state.turns(lane).push(image, waiter);
        self.queue(lane).fetch_add(1, Ordering::Relaxed);
        // If it is the next one, its pump learns of it.
        self.dispatch(&mut state, None);
    }

    /// Lets go whoever may, and tells each lane's next one to set his clock. What is left to wait for `mine`, if one of
    /// them is.
    pub(super) fn serve(&self, mine: &Arc<Pump>) -> Option<Duration> {
        self.dispatch(&mut self.state(), Some(mine))
    }

    fn dispatch(&self, state: &mut State, mine: Option<&Arc<Pump>>) -> Option<Duration> {
        let now = self.now();
        // One from each lane in turn, so that neither keeps the other from what both share.
        while [state.turn, state.turn.other()].into_iter().any(|lane| {
            let may_go = self.wait(lane, now) == 0;
            let Some(next) = may_go.then(|| state.turns(lane).pop()).flatten() else {
                return false;
            };
            state.turn = lane.other();
            self.account(lane, next.bytes, now);
            self.leave(lane, &next);
            true
        }) {}
        let mut soonest = None;
        for lane in [Lane::Read, Lane::Write] {
            let wait = duration(self.wait(lane, now));
            let turns = state.turns(lane);
            let Some(next) = turns.next() else {
                turns.clock = None;
                continue;
            };
            let pump = Arc::clone(&next.pump);
            let had_clock = turns.clock.replace(pump.name()) == Some(pump.name());
            if mine.is_some_and(|mine| Arc::ptr_eq(mine, &pump)) {
                soonest = Some(soonest.map_or(wait, |other: Duration| other.min(wait)));
            } else if !had_clock {
                pump.wake();
            }
        }
        soonest
    }

    /// An operation that has been taken out of its lane may go.
    fn leave(&self, lane: Lane, waiter: &Waiter) {
        self.queue(lane).fetch_sub(1, Ordering::Relaxed);
        waiter.pump.inbox().granted.push(waiter.token);
        waiter.pump.wake();
    }

    /// Lets operations go whether it is their turn or not: one of a data handle, or all of an image.
    pub(super) fn let_go(&self, which: impl Fn(usize, &Arc<Pump>, Token) -> bool) {
        let mut state = self.state();
        for lane in [Lane::Read, Lane::Write] {
            let turns = state.turns(lane);
            for waiter in turns.take(|image, waiter| which(image, &waiter.pump, waiter.token)) {
                self.leave(lane, &waiter);
            }
        }
        self.dispatch(&mut state, None);
    }
}

impl State {
    fn turns(&mut self, lane: Lane) -> &mut Turns {
        let [read, write] = &mut self.lanes;
        match lane {
            Lane::Read => read,
            Lane::Write => write,
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and its numbers are small"
)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// The time of every group of this thread, in parts, whatever clocks say.
        pub(super) static NOW: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// An image that always has so many operations of this size under way, which take no time.
    struct Load {
        depth: usize,
        bytes: u64,
        pump: Arc<Pump>,
        alarm: Option<u64>,
        waiting: usize,
        done: u64,
    }

    impl Load {
        fn new(depth: usize, bytes: u64) -> Load {
            Load {
                depth,
                bytes,
                pump: Arc::default(),
                alarm: None,
                waiting: 0,
                done: 0,
            }
        }

        /// Starts what can be started, until all wait.
        fn fill(&mut self, group: &ThrottleGroup, image: usize) {
            while self.waiting < self.depth {
                if group.admits(Lane::Read, self.bytes) {
                    self.done += 1;
                } else {
                    let operation = (Token(self.waiting as u64), self.bytes);
                    group.join(Lane::Read, image, operation, &self.pump);
                    self.waiting += 1;
                }
            }
        }

        /// What its task does when it runs: takes what was let go, and sets its alarm, which rings so much too late.
        /// Whether there was anything.
        fn turn(&mut self, group: &ThrottleGroup, now: u64, late: Duration) -> bool {
            let (granted, woken) = self.pump.look(Waker::noop());
            let rung = self.alarm.is_some_and(|at| at <= now);
            self.waiting -= granted.len();
            self.done += granted.len() as u64;
            if woken || rung {
                let alarm = group.serve(&self.pump);
                self.alarm = alarm.map(|time| now + moment(time + late));
            }
            woken || rung || !granted.is_empty()
        }
    }

    /// How many operations each has done after ten seconds, if every timer is so late.
    fn after_ten_seconds(limits: Limits, mut loads: Vec<Load>, late: Duration) -> Vec<u64> {
        let group = ThrottleGroup::new(limits).unwrap();
        let mut now = 1;
        while now < moment(Duration::from_secs(10)) {
            NOW.set(Some(now));
            let mut busy = false;
            for (image, load) in loads.iter_mut().enumerate() {
                load.fill(&group, image);
                busy |= load.turn(&group, now, late);
            }
            if !busy {
                let next = loads.iter().filter_map(|load| load.alarm).min();
                now = next.unwrap().max(now + 1);
            }
        }
        NOW.set(None);
        loads.iter().map(|load| load.done).collect()
    }

    fn limit(average: u64) -> Limit {
        Limit {
            average,
            ..Limit::default()
        }
    }

    fn iops(average: u64) -> Limits {
        Limits {
            iops_total: limit(average),
            ..Limits::default()
        }
    }

    /// What comes of a limit, in thousandths of it.
    fn share(limits: Limits, per_second: u64, depth: usize, late: Duration) -> u64 {
        let done = after_ten_seconds(limits, vec![Load::new(depth, 65_536)], late);
        done[0] * 100 / per_second
    }

    #[test]
    fn a_limit_is_reached_to_two_percent_in_ten_seconds_however_late_timers_are_within_a_tenth() {
        for late in [0, 1, 20, 80].map(Duration::from_millis) {
            for depth in [1, 32] {
                for average in [20, 200, 5000] {
                    let share = share(iops(average), average, depth, late);
                    assert!(
                        (990..=1020).contains(&share),
                        "{average} {depth} {late:?}: {share}"
                    );
                }
                let limits = Limits {
                    bps_total: limit(100 * 65_536),
                    ..Limits::default()
                };
                let share = share(limits, 100, depth, late);
                assert!(
                    (990..=1020).contains(&share),
                    "bytes {depth} {late:?}: {share}"
                );
            }
        }
    }

    #[test]
    fn time_that_nobody_ran_in_is_lost_beyond_a_tenth_of_a_second() {
        let share = share(iops(200), 200, 32, Duration::from_millis(200));
        assert!((400..=700).contains(&share), "{share}");
    }

    #[test]
    fn images_of_a_group_have_equal_shares_whatever_their_depth() {
        let loads = [1, 8, 32].map(|depth| Load::new(depth, 4096));
        let done = after_ten_seconds(iops(3000), loads.into(), Duration::from_micros(50));
        let total: u64 = done.iter().sum();
        assert!((29_900..=30_600).contains(&total), "{done:?}");
        for share in &done {
            assert!(share.abs_diff(total / 3) <= total / 60, "{done:?}");
        }
    }

    #[test]
    fn a_burst_is_over_when_it_has_lasted_as_long_as_it_may() {
        let burst = Limit {
            average: 100,
            burst: 1000,
            burst_seconds: 2,
        };
        let limits = Limits {
            iops_total: burst,
            ..Limits::default()
        };
        let done = after_ten_seconds(limits, vec![Load::new(32, 4096)], Duration::ZERO);
        // Two seconds' worth of the burst, and the average all the time.
        assert!((2900..=3150).contains(&done[0]), "{done:?}");
    }
}
