//! Events: what is told without being asked, and how often.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;

/// The least time between two events of the same kind about the same thing, where that is limited; QEMU's.
pub const PERIOD: Duration = Duration::from_secs(1);

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The event's name.
    pub name: &'static str,
    /// What it says.
    pub data: Option<Value>,
    /// When.
    pub at: SystemTime,
    /// A guest can cause it as often as it likes: at most one in a second for the thing with this name is told.
    pub limited: Option<String>,
}

impl Notice {
    /// As it is sent.
    pub fn to_message(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Message<'a> {
            timestamp: Timestamp,
            event: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            data: Option<&'a Value>,
        }
        #[derive(Serialize)]
        struct Timestamp {
            seconds: u64,
            microseconds: u32,
        }
        let since = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        crate::session::line(&Message {
            timestamp: Timestamp {
                seconds: since.as_secs(),
                microseconds: since.subsec_micros(),
            },
            event: self.name,
            data: self.data.as_ref(),
        })
    }
}

/// Holds back events that come too fast: the first is told at once, of those that follow within the period only the
/// last, when it is over.
#[derive(Debug, Default)]
pub struct Limiter {
    recent: BTreeMap<(&'static str, String), Recent>,
}

#[derive(Debug)]
struct Recent {
    until: Instant,
    held: Option<Notice>,
}

impl Limiter {
    /// The notice, if it is to be told now.
    pub fn admit(&mut self, notice: Notice, now: Instant) -> Option<Notice> {
        let Some(key) = &notice.limited else {
            return Some(notice);
        };
        let key = (notice.name, key.clone());
        match self.recent.get_mut(&key) {
            Some(recent) => {
                recent.held = Some(notice);
                None
            }
            None => {
                let until = now + PERIOD;
                self.recent.insert(key, Recent { until, held: None });
                Some(notice)
            }
        }
    }

    /// The notices that have been held back for long enough.
    pub fn due(&mut self, now: Instant) -> Vec<Notice> {
        let mut due = Vec::new();
        self.recent.retain(|_, recent| {
            if now < recent.until {
                return true;
            }
            recent.until = now + PERIOD;
            let told = recent.held.take();
            let goes_on = told.is_some();
            due.extend(told);
            goes_on
        });
        due
    }

    /// When [`due`](Limiter::due) has something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        self.recent.values().map(|recent| recent.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(about: Option<&str>, number: u64) -> Notice {
        Notice {
            name: "BLOCK_IO_ERROR",
            data: Some(number.into()),
            at: UNIX_EPOCH + Duration::from_micros(1_500_000 + number),
            limited: about.map(str::to_owned),
        }
    }

    #[test]
    fn timestamps_are_seconds_and_microseconds() {
        let text = String::from_utf8(notice(None, 7).to_message()).unwrap();
        assert_eq!(
            text,
            "{\"timestamp\":{\"seconds\":1,\"microseconds\":500007},\"event\":\"BLOCK_IO_ERROR\",\"data\":7}\r\n"
        );
    }

    #[test]
    fn of_events_in_quick_succession_the_first_and_the_last_are_told() {
        let start = Instant::now();
        let mut limiter = Limiter::default();
        assert!(limiter.admit(notice(Some("a"), 1), start).is_some());
        assert!(limiter.admit(notice(Some("a"), 2), start).is_none());
        assert!(limiter.admit(notice(Some("b"), 3), start).is_some());
        assert!(limiter.admit(notice(None, 4), start).is_some());
        assert!(limiter.admit(notice(Some("a"), 5), start).is_none());
        assert_eq!(limiter.deadline(), Some(start + PERIOD));
        assert!(limiter.due(start).is_empty());

        let later = start + PERIOD;
        assert_eq!(limiter.due(later), [notice(Some("a"), 5)]);
        assert!(
            limiter.admit(notice(Some("b"), 6), later).is_some(),
            "quiet for a period"
        );
        assert!(limiter.admit(notice(Some("a"), 7), later).is_none());
        assert_eq!(limiter.due(later + PERIOD), [notice(Some("a"), 7)]);
        assert!(limiter.due(later + 2 * PERIOD).is_empty());
        assert_eq!(limiter.deadline(), None, "nothing is remembered for ever");
    }
}
