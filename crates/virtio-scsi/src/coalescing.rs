//! Interrupts held back, so that one does for several completions.
//!
//! Completions are published at once, and a driver that looks finds them. Only the signal waits, and only while there is
//! more to come from the same ring: commands in flight, or chains that have not been taken. When there is nothing more,
//! when enough completions have come together, or when the time is over, it is sent. So a driver that has one command at a
//! time is never kept waiting, and a worker that goes to sleep meanwhile is woken by an [`Alarm`].

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use lunar_reactor::{Handle, clock};

/// How far a controller holds its drivers' interrupts back while more completions are to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coalescing {
    /// The longest time. With none, every interrupt is sent at once.
    pub time: Duration,
    /// So many completions wait no longer.
    pub completions: u32,
}

impl Default for Coalescing {
    /// Nothing is held back.
    fn default() -> Self {
        Coalescing {
            time: Duration::ZERO,
            completions: 16,
        }
    }
}

/// The interrupts of one ring.
#[derive(Debug, Default)]
pub(crate) struct Interrupts {
    /// In nanoseconds; 0 if nothing is held back.
    time: u64,
    completions: u32,
    /// Completions until the last look.
    seen: u32,
    held: Option<Held>,
}

/// An interrupt that the driver waits for.
#[derive(Debug)]
struct Held {
    /// When the time is over, as [`clock`] tells it.
    until: u64,
    completions: u32,
}

impl Interrupts {
    /// Has them held back so far from now on; `completed` is how many completions there were. Whether one is owed at once.
    pub fn set(&mut self, coalescing: Coalescing, completed: u32) -> bool {
        self.time = u64::try_from(coalescing.time.as_nanos()).unwrap_or(u64::MAX);
        self.completions = coalescing.completions;
        self.seen = completed;
        self.held.take().is_some()
    }

    /// Whether none is ever held back.
    #[inline]
    pub fn are_sent_at_once(&self) -> bool {
        self.time == 0
    }

    /// Whether an interrupt is to be sent now. `wanted` if the driver wants one for what has just been published,
    /// `completed` is how many completions there have been, and `more` tells whether some are to come.
    pub fn is_due(
        &mut self,
        wanted: bool,
        completed: u32,
        more: impl FnOnce() -> bool,
        now: impl FnOnce() -> u64,
    ) -> bool {
        let fresh = completed.wrapping_sub(std::mem::replace(&mut self.seen, completed));
        if !wanted && self.held.is_none() {
            return false;
        }
        let due = !more() || {
            let now = now();
            let held = self.held.get_or_insert(Held {
                until: now.saturating_add(self.time),
                completions: 0,
            });
            held.completions = held.completions.saturating_add(fresh);
            held.completions >= self.completions || now >= held.until
        };
        if due {
            self.held = None;
        }
        due
    }

    /// It has been sent, whether it was due or not.
    pub fn sent(&mut self) {
        self.held = None;
    }

    /// When the one that is held back is due at the latest.
    pub fn until(&self) -> Option<u64> {
        self.held.as_ref().map(|held| held.until)
    }
}

/// Wakes a worker that sleeps while it holds interrupts back. What is due is found by the turn that follows.
#[derive(Default)]
pub(crate) struct Alarm(Rc<Cell<Option<u64>>>);

impl Alarm {
    /// Sees to it that the worker is awake at this time; whether that is so already because it has come.
    pub fn set(&self, reactor: &Handle, until: u64) -> bool {
        let now = clock();
        if now >= until {
            return true;
        }
        if self.0.get().is_none_or(|earlier| until < earlier) {
            self.0.set(Some(until));
            let (alarm, handle) = (Rc::clone(&self.0), reactor.clone());
            reactor.spawn(async move {
                handle.sleep(Duration::from_nanos(until - now)).await;
                if alarm.get() == Some(until) {
                    alarm.set(None);
                }
            });
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interrupts() -> Interrupts {
        let mut interrupts = Interrupts::default();
        let coalescing = Coalescing {
            time: Duration::from_nanos(100),
            completions: 10,
        };
        assert!(!interrupts.set(coalescing, 0));
        interrupts
    }

    #[test]
    fn one_is_held_until_nothing_more_is_to_come() {
        let mut held = interrupts();
        assert!(!held.is_due(true, 4, || true, || 1000));
        assert_eq!(held.until(), Some(1100));
        assert!(!held.is_due(false, 5, || true, || 1001));
        assert!(held.is_due(false, 6, || false, || panic!("nobody needs the time")));
        assert_eq!(held.until(), None);
        // With nothing more to come, none is held in the first place.
        assert!(held.is_due(true, 7, || false, || panic!("nobody needs the time")));
        assert!(!held.is_due(false, 9, || panic!("nobody asks"), || 0));
    }

    #[test]
    fn one_is_sent_when_enough_completions_have_come_together() {
        let mut held = interrupts();
        // Those that the driver found without one do not count.
        assert!(!held.is_due(false, 100, || true, || 0));
        assert!(!held.is_due(true, 104, || true, || 0));
        assert!(!held.is_due(false, 109, || true, || 0));
        assert!(held.is_due(false, 110, || true, || 0));
        assert!(!held.is_due(true, 119, || true, || 0));
        assert!(held.is_due(true, 120, || true, || 0));
        assert!(held.is_due(true, 130, || true, || 0));
    }

    #[test]
    fn one_is_sent_when_the_time_is_over() {
        let mut held = interrupts();
        assert!(!held.is_due(true, 1, || true, || 1000));
        assert!(!held.is_due(true, 2, || true, || 1099));
        assert!(held.is_due(false, 2, || true, || 1100));
        assert!(!held.is_due(true, 3, || true, || 1101));
        assert_eq!(held.until(), Some(1201));
    }

    #[test]
    fn one_that_is_held_is_owed_when_the_setting_changes() {
        let mut held = interrupts();
        assert!(!held.is_due(true, 1, || true, || 1000));
        assert!(held.set(Coalescing::default(), 1));
        assert!(held.are_sent_at_once());
        assert!(!held.set(Coalescing::default(), 1));
    }
}
