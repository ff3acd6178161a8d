//! `--log` and `--log-format`: messages to standard error, and not too many of them.
//!
//! Guests and front ends can make a server say something as often as they like, by breaking a ring or by connecting
//! again and again. So every place in the code that says something has a budget, here and nowhere else: some messages at
//! once, and then a few in a second. What was left out is counted, and told with the next one that is let through.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::ValueEnum;
use tracing::callsite::Identifier;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

/// How many messages of one place can come at once.
const BURST: u32 = 50;
/// After how long there can be one more.
const REFILL: Duration = Duration::from_millis(500);
/// Who tells what was left out, which has no budget: it goes before one that had.
const SELF: &str = "lunar::log";

/// A filter as `--log` takes it.
pub fn filter(text: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(text).with_context(|| {
        format!("--log {text}: must be error, warn, info, debug, trace or filters")
    })
}

/// What a message looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A line for people.
    #[default]
    Text,
    /// A line with a JSON object, for what collects and searches logs.
    Json,
}

/// Logs from now on.
pub fn start(filter: EnvFilter, format: Format) {
    let messages = fmt::layer().with_writer(std::io::stderr);
    let messages = match format {
        Format::Text => messages.with_ansi(std::io::stderr().is_terminal()).boxed(),
        Format::Json => messages.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(Limit::default())
        .with(messages)
        .init();
}

/// The budgets, by place in the code: there are as many as there are such places.
#[derive(Debug, Default)]
struct Limit {
    budgets: Mutex<HashMap<Identifier, Budget>>,
}

/// What a place may still say.
#[derive(Debug)]
struct Budget {
    left: u32,
    /// Since when there could be more.
    since: Instant,
    left_out: u64,
}

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let place = event.metadata();
        if place.target() == SELF {
            return true;
        }
        let admitted = {
            let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let budget = budgets.entry(place.callsite());
            budget.or_insert_with(|| Budget::new(now)).admit(now)
        };
        if let Some(left_out @ 1..) = admitted {
            let (module, line) = (place.module_path(), place.line());
            tracing::warn!(target: SELF, left_out, module, line, "there were more messages like the next one");
        }
        admitted.is_some()
    }
}

impl Budget {
    fn new(now: Instant) -> Budget {
        Budget {
            left: BURST,
            since: now,
            left_out: 0,
        }
    }

    /// If a message may be said now: how many before it were not.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let passed = now.saturating_duration_since(self.since);
        let more = passed.as_nanos() / REFILL.as_nanos();
        if more > 0 {
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(more).min(BURST);
            self.since = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.left_out))
            }
            None => {
                self.left_out += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_says_a_burst_and_then_a_little() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let said = |budget: &mut Budget, at: Instant| {
            (0..1000).filter(|_| budget.admit(at).is_some()).count()
        };
        assert_eq!(said(&mut budget, start), 50);
        assert_eq!(said(&mut budget, start + REFILL / 2), 0);
        assert_eq!(said(&mut budget, start + REFILL * 3), 3);
        let later = start + Duration::from_secs(3600);
        assert_eq!(said(&mut budget, later), 50);
        assert_eq!(said(&mut budget, later), 0);
    }

    #[test]
    fn what_was_left_out_is_counted_once() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for _ in 0..60 {
            budget.admit(start);
        }
        assert_eq!(budget.admit(start + REFILL), Some(10));
        assert_eq!(budget.admit(start + REFILL * 2), Some(0));
    }
}
