//! Declarations as a configuration file.

use std::fmt::Write as _;

use toml::Value as Toml;

use super::Settings;
use crate::catalog;
use crate::keyval::{Options, Value};
use crate::property::{Kind, Property, decimal};

/// The text of a file that declares these objects: pairs of `blockdev`, `drive` or `device` and the options.
pub fn write<'a>(
    settings: &Settings,
    objects: impl IntoIterator<Item = (&'static str, &'a Options)>,
) -> String {
    let mut text = String::new();
    let Settings {
        socket_path,
        images,
        monitor,
        qemu_monitor,
        metrics,
        queues,
        workers,
        poll_us,
        log,
        log_format,
    } = settings;
    let string = |text: &str| Toml::String(text.to_owned()).to_string();
    let list = |texts: &[String]| {
        let texts: Vec<String> = texts.iter().map(|text| string(text)).collect();
        (!texts.is_empty()).then(|| format!("[{}]", texts.join(", ")))
    };
    let path = socket_path.as_ref().map(|path| path.to_string_lossy());
    for (name, value) in [
        ("socket-path", path.as_deref().map(string)),
        ("images", list(images)),
        ("monitor", list(monitor)),
        ("qemu-monitor", qemu_monitor.as_deref().map(string)),
        ("metrics", metrics.as_deref().map(string)),
        ("queues", queues.map(|n| n.to_string())),
        (
            "workers",
            workers.as_ref().map(|threads| match threads.to_string() {
                number if decimal::<u16>(&number).is_some() => number,
                other => string(&other),
            }),
        ),
        ("poll-us", poll_us.map(|n| n.to_string())),
        ("log", log.as_deref().map(string)),
        ("log-format", log_format.as_deref().map(string)),
    ] {
        if let Some(value) = value {
            let _ = writeln!(text, "{name} = {value}");
        }
    }
    for (kind, options) in objects {
        if !text.is_empty() {
            text.push('\n');
        }
        let _ = writeln!(text, "[[{kind}]]");
        for (key, value) in options.iter() {
            let (key, value) = match value {
                Value::Text(text) => (key, text.as_str()),
                Value::Bare => switch(key),
            };
            let _ = writeln!(text, "{} = {}", spelled(key, options), scalar(key, value));
        }
    }
    text
}

/// A bare word says `on`, or with `no` in front `off`.
pub(crate) fn switch(word: &str) -> (&str, &'static str) {
    let plain = word.strip_prefix("no").filter(|plain| is_known(plain));
    match plain {
        Some(plain) if !is_known(word) => (plain, "off"),
        _ => (word, "on"),
    }
}

/// Dots nest, except below a key that has a value of its own (`cache` and `cache.writeback`).
fn spelled(key: &str, options: &Options) -> String {
    let clashes = |other: &str| {
        let longer = key.strip_prefix(other);
        longer.is_some_and(|rest| rest.starts_with('.'))
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let parts = || key.split('.');
    if parts().all(|part| !part.is_empty() && part.chars().all(plain))
        && !options.iter().any(|(other, _)| clashes(other))
    {
        key.to_owned()
    } else {
        Toml::String(key.to_owned()).to_string()
    }
}

/// Texts are texts even where they look like something else; all other values are as they look.
fn scalar(key: &str, text: &str) -> String {
    let number = text.len() <= 18
        && text.bytes().all(|b| b.is_ascii_digit())
        && (text == "0" || !text.starts_with('0') && !text.is_empty());
    match text {
        "on" if !is_text(key) => "true".to_owned(),
        "off" if !is_text(key) => "false".to_owned(),
        _ if number && !is_text(key) => text.to_owned(),
        _ => Toml::String(text.to_owned()).to_string(),
    }
}

fn is_text(key: &str) -> bool {
    fn texts<T>(tables: &[&[Property<T>]], key: &str) -> bool {
        let mut rows = tables.iter().copied().flatten();
        rows.any(|row| super::is_called(key, row.name) && matches!(row.kind, Kind::Text(_)))
    }
    key.ends_with("driver")
        || key == "qom-type"
        || texts(catalog::CONTROLLER, key)
        || texts(&[catalog::DISK], key)
        || texts(catalog::THROTTLE_GROUP, key)
        || texts(&[catalog::IOTHREAD], key)
        || texts(catalog::DRIVE, key)
        || catalog::BLOCK_DRIVERS
            .iter()
            .any(|driver| texts(&driver.tables(), key))
}

fn is_known(name: &str) -> bool {
    fn has<T>(tables: &[&[Property<T>]], name: &str) -> bool {
        tables.iter().copied().flatten().any(|row| row.name == name)
    }
    has(catalog::CONTROLLER, name) || has(&[catalog::DISK], name) || has(catalog::DRIVE, name)
}
