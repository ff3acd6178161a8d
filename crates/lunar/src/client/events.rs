//! `lunar events`: what happens, as it happens.

use std::sync::mpsc::channel;

use anyhow::bail;
use serde_json::Value;

use super::{listen, tell};
use crate::Failure;
use crate::args::Events;

/// Prints until the server ends.
pub fn run(options: &Events) -> Result<(), Failure> {
    print(options).map_err(Failure::Runtime)
}

fn print(options: &Events) -> anyhow::Result<()> {
    let (sender, events) = channel();
    let _client = listen(&options.at, move |event| {
        // The printer may have ended.
        let _ = sender.send(event);
    })?;
    let mut last = None;
    for event in events {
        let text = match options.json {
            true => format!("{event}\n"),
            false => show(&event),
        };
        if !tell(&text)? {
            return Ok(());
        }
        last = event
            .get("event")
            .and_then(Value::as_str)
            .map(str::to_owned);
    }
    match last.as_deref() {
        Some("SHUTDOWN") => Ok(()),
        _ => bail!("the server has closed the connection"),
    }
}

/// `2026-01-31T12:00:00.123456Z DEVICE_DELETED device=disk1 path=/machine/peripheral/disk1`.
fn show(event: &Value) -> String {
    let number = |pointer| event.pointer(pointer).and_then(Value::as_i64);
    let seconds = number("/timestamp/seconds").unwrap_or_default();
    let micros = number("/timestamp/microseconds").unwrap_or_default();
    let name = event.get("event").and_then(Value::as_str);
    let mut text = format!("{}.{micros:06}Z {}", date(seconds), name.unwrap_or("?"));
    let data = event.get("data").and_then(Value::as_object);
    for (key, value) in data.into_iter().flatten() {
        match value {
            Value::String(word) if !word.is_empty() && !word.contains([' ', '"', '\n']) => {
                text.push_str(&format!(" {key}={word}"));
            }
            value => text.push_str(&format!(" {key}={value}")),
        }
    }
    text + "\n"
}

/// The date and time of a second since 1970, in UTC.
fn date(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years begin in March here, so that the day that comes and goes is a year's last; 400 of them are an era.
    let day = days + 719_468;
    let (era, day) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_709_251_200, "2024-03-01T00:00:00"),
            (4_107_542_400, "2100-03-01T00:00:00"),
            (-1, "1969-12-31T23:59:59"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn a_line_has_the_time_the_name_and_the_data() {
        let event = serde_json::json!({
            "event": "DEVICE_DELETED",
            "data": {"device": "d", "path": "a b"},
            "timestamp": {"seconds": 1, "microseconds": 20}
        });
        assert_eq!(
            show(&event),
            "1970-01-01T00:00:01.000020Z DEVICE_DELETED device=d path=\"a b\"\n"
        );
    }
}
