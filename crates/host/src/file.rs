//! Declarations from a configuration file.
//!
//! A file is TOML. What holds for the whole server stands first, in keys that are called as the options of the command
//! line. Objects are tables, one for each, with the keys of the option of the same name:
//!
//! ```toml
//! workers = 2
//!
//! [[drive]]
//! id = "system"
//! file = "/srv/system.qcow2"
//! format = "qcow2"
//! if = "none"
//!
//! [[device]]
//! driver = "scsi-hd"
//! drive = "system"
//! ```
//!
//! Nothing is known about the keys here: tables become [`Options`], as an option's text or a JSON object does, and are
//! read by the same property tables. What this adds is where each of them was written, so that a refusal can point at it.

mod excerpt;
#[cfg(test)]
mod tests;
mod write;

use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::keyval::Options;
use crate::property::{self, Kind, Property};
use crate::workers::WorkerThreads;
use crate::{catalog, model};

use excerpt::Excerpt;
pub use write::write;

/// A configuration file that follows TOML's syntax.
#[derive(Debug)]
pub struct File {
    /// As its user calls it.
    name: String,
    text: String,
    settings: Settings,
    written: Vec<Entry>,
    objects: Vec<Declaration>,
    blockdevs: Vec<Declaration>,
    drives: Vec<Declaration>,
    devices: Vec<Declaration>,
}

/// What holds for the whole server; absent where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The socket of the controller that has none of its own.
    pub socket_path: Option<PathBuf>,
    /// Images: disks at targets 0, 1, ….
    pub images: Vec<String>,
    /// Where commands are taken.
    pub monitor: Vec<String>,
    /// The monitor of the QEMU that is paused while a disk of it is stopped by an error.
    pub qemu_monitor: Option<String>,
    /// Where metrics are given.
    pub metrics: Option<String>,
    /// Request queues of a controller that does not say.
    pub queues: Option<u16>,
    /// Threads of the data path.
    pub workers: Option<WorkerThreads>,
    /// Microseconds for which they look for work before they sleep.
    pub poll_us: Option<u32>,
    /// What to log.
    pub log: Option<String>,
    /// In which form.
    pub log_format: Option<String>,
}

/// The most threads of the data path.
pub const MAX_WORKERS: u16 = 256;
/// The longest time to look for work, in microseconds.
pub const MAX_POLL_US: u32 = 1_000_000;

/// The keys in front of the first table.
pub static SETTINGS: &[Property<Settings>] = &[
    Property {
        name: "socket-path",
        kind: Kind::Text(|s, v| s.socket_path = Some(v.into())),
        default: "",
        description: "the socket of the controller that has none of its own",
    },
    Property {
        name: "images",
        kind: Kind::Text(|s, v| s.images.push(v)),
        default: "",
        description: "disks at targets 0, 1, …, LUN 0",
    },
    Property {
        name: "monitor",
        kind: Kind::Text(|s, v| s.monitor.push(v)),
        default: "",
        description: "where commands are taken",
    },
    Property {
        name: "qemu-monitor",
        kind: Kind::Text(|s, v| s.qemu_monitor = Some(v)),
        default: "",
        description: "QEMU's monitor: its machine is paused while an error stops a disk of it",
    },
    Property {
        name: "metrics",
        kind: Kind::Text(|s, v| s.metrics = Some(v)),
        default: "",
        description: "where metrics are given",
    },
    Property {
        name: "queues",
        kind: Kind::U16(1..=catalog::MAX_QUEUES, |s, v| s.queues = Some(v)),
        default: "one for each CPU of the host",
        description: "request queues of a controller",
    },
    Property {
        name: "workers",
        kind: Kind::Form("N[,cpus=LIST]", |s, v| {
            let workers = v.parse::<WorkerThreads>();
            s.workers = Some(workers.map_err(|error| error.to_string())?);
            Ok(())
        }),
        default: "1",
        description: "threads that serve the queues, and the CPUs that they stay on",
    },
    Property {
        name: "poll-us",
        kind: Kind::U32(0..=MAX_POLL_US, |s, v| s.poll_us = Some(v)),
        default: "32",
        description: "microseconds for which a thread looks for work before it sleeps",
    },
    Property {
        name: "log",
        kind: Kind::Text(|s, v| s.log = Some(v)),
        default: "warn",
        description: "what to log",
    },
    Property {
        name: "log-format",
        kind: Kind::Text(|s, v| s.log_format = Some(v)),
        default: "text",
        description: "how to log: text or json",
    },
];

/// The tables.
const TABLES: [&str; 4] = ["object", "blockdev", "drive", "device"];

/// An object as it is written.
#[derive(Clone, Debug)]
pub struct Declaration {
    /// Its properties.
    pub options: Options,
    /// Where it is, for messages: `vm1.toml:12 [[device]]`.
    pub origin: String,
    header: Range<usize>,
    written: Vec<Entry>,
}

/// A key with its value and the places of both.
#[derive(Clone, Debug)]
struct Entry {
    /// Dotted.
    key: String,
    text: String,
    key_at: Range<usize>,
    value_at: Range<usize>,
}

/// A file that is refused, and where it is wrong: `vm1.toml:12:8: what`, with an excerpt below.
#[derive(Debug, thiserror::Error)]
#[error("{file}:{excerpt}")]
pub struct Error {
    file: String,
    excerpt: Excerpt,
}

impl File {
    /// Reads a file's text. `name` is what its user calls it.
    ///
    /// # Errors
    /// It does not follow the syntax, or a setting is not right. What is in the tables is not looked at.
    pub fn parse(name: &str, text: String) -> Result<File, Error> {
        let mut file = File {
            name: name.to_owned(),
            text,
            settings: Settings::default(),
            written: Vec::new(),
            objects: Vec::new(),
            blockdevs: Vec::new(),
            drives: Vec::new(),
            devices: Vec::new(),
        };
        let text = std::mem::take(&mut file.text);
        let outcome = file.read(&text);
        file.text = text;
        match outcome {
            Ok(()) => Ok(file),
            Err((message, at)) => Err(file.error(&message, at)),
        }
    }

    fn read(&mut self, text: &str) -> Result<(), (String, Range<usize>)> {
        let root = DeTable::parse(text).map_err(|error| {
            let at = error.span().unwrap_or(text.len()..text.len());
            (error.message().to_owned(), at)
        })?;
        let mut settings = Vec::new();
        for (key, value) in in_order(root.get_ref()) {
            let name = key.get_ref().as_ref();
            if TABLES.contains(&name) {
                for table in tables(name, value)? {
                    let declaration = self.declaration(text, name, table)?;
                    match name {
                        "object" => self.objects.push(declaration),
                        "blockdev" => self.blockdevs.push(declaration),
                        "drive" => self.drives.push(declaration),
                        _ => self.devices.push(declaration),
                    }
                }
                continue;
            }
            match value.get_ref() {
                DeValue::Array(values) if is_list(name) => {
                    for value in values {
                        settings.push(entry(name.to_owned(), key.span(), value)?);
                    }
                }
                DeValue::Array(_) | DeValue::Table(_) => return Err(no_such_table(key)),
                _ => settings.push(entry(name.to_owned(), key.span(), value)?),
            }
        }
        let options = settings.iter().map(Entry::pair).collect();
        let owner = "a configuration file";
        property::apply(&mut self.settings, owner, &options, &[SETTINGS]).map_err(|error| {
            let found = blame(&error.clone().into(), &settings);
            (error.to_string(), found.unwrap_or_default())
        })?;
        self.written = settings;
        Ok(())
    }

    fn declaration(
        &self,
        text: &str,
        kind: &str,
        table: &Spanned<DeValue<'_>>,
    ) -> Result<Declaration, (String, Range<usize>)> {
        let DeValue::Table(found) = table.get_ref() else {
            let message = format!("must be a table: [[{kind}]]");
            return Err((message, table.span()));
        };
        let mut written = Vec::new();
        flatten("", found, &mut written)?;
        let line = Excerpt::line(text, table.span().start);
        Ok(Declaration {
            options: written.iter().map(Entry::pair).collect(),
            origin: format!("{}:{line} [[{kind}]]", self.name),
            header: table.span(),
            written,
        })
    }

    /// What holds for the whole server.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// `[[object]]`, in the order written.
    pub fn objects(&self) -> &[Declaration] {
        &self.objects
    }

    /// `[[blockdev]]`, in the order written.
    pub fn blockdevs(&self) -> &[Declaration] {
        &self.blockdevs
    }

    /// `[[drive]]`, in the order written.
    pub fn drives(&self) -> &[Declaration] {
        &self.drives
    }

    /// `[[device]]`, in the order written.
    pub fn devices(&self) -> &[Declaration] {
        &self.devices
    }

    /// A declaration of this file is refused.
    pub fn refuse(&self, declaration: &Declaration, error: &model::Error) -> Error {
        let at = blame(error, &declaration.written);
        let at = at.unwrap_or_else(|| declaration.header.clone());
        self.error(&error.to_string(), at)
    }

    /// A property of a declaration of this file has a wrong value.
    pub fn refuse_property(&self, origin: &str, property: &str, message: &str) -> Option<Error> {
        let mut all = [&self.objects, &self.blockdevs, &self.drives, &self.devices]
            .into_iter()
            .flatten();
        let declaration = all.find(|declaration| declaration.origin == origin)?;
        let mut written = declaration.written.iter();
        let entry = written.find(|entry| entry.key == property);
        let at = entry.map_or_else(|| declaration.header.clone(), |e| e.value_at.clone());
        Some(self.error(message, at))
    }

    /// A setting of this file is refused; `text` is its value, or one of them.
    pub fn refuse_setting(&self, name: &str, text: &str, message: &str) -> Error {
        let mut written = self.written.iter();
        let entry = written.find(|entry| entry.key == name && entry.text == text);
        self.error(message, entry.map_or(0..0, |entry| entry.value_at.clone()))
    }

    fn error(&self, message: &str, at: Range<usize>) -> Error {
        Error {
            file: self.name.clone(),
            excerpt: Excerpt::new(&self.text, at, message),
        }
    }
}

impl Entry {
    fn pair(&self) -> (String, String) {
        (self.key.clone(), self.text.clone())
    }
}

/// Settings that can have several values.
fn is_list(name: &str) -> bool {
    matches!(name, "images" | "monitor")
}

/// The parser sorts by name; people read in the order written.
fn in_order<'t, 'i>(
    table: &'t DeTable<'i>,
) -> Vec<(
    &'t Spanned<toml::de::DeString<'i>>,
    &'t Spanned<DeValue<'i>>,
)> {
    let mut all: Vec<_> = table.iter().collect();
    all.sort_by_key(|(key, _)| key.span().start);
    all
}

fn tables<'t, 'i>(
    name: &str,
    value: &'t Spanned<DeValue<'i>>,
) -> Result<Vec<&'t Spanned<DeValue<'i>>>, (String, Range<usize>)> {
    match value.get_ref() {
        DeValue::Array(tables) => Ok(tables.iter().collect()),
        _ => {
            let message = format!("there can be several: write [[{name}]]");
            Err((message, value.span()))
        }
    }
}

fn no_such_table(key: &Spanned<toml::de::DeString<'_>>) -> (String, Range<usize>) {
    let name = key.get_ref().as_ref();
    let settings = SETTINGS.iter().map(|row| row.name);
    let known = property::nearest(name, TABLES.into_iter().chain(settings));
    let message = format!(
        "a configuration file has no table {name:?}{}; there are [[object]], [[blockdev]], [[drive]] and [[device]]",
        property::did_you_mean(&known)
    );
    (message, key.span())
}

/// Depth is bounded by the parser.
fn flatten(
    prefix: &str,
    table: &DeTable<'_>,
    entries: &mut Vec<Entry>,
) -> Result<(), (String, Range<usize>)> {
    for (key, value) in in_order(table) {
        put(
            format!("{prefix}{}", key.get_ref()),
            key.span(),
            value,
            entries,
        )?;
    }
    Ok(())
}

/// Elements of arrays are called by their place, as in QEMU.
fn put(
    key: String,
    key_at: Range<usize>,
    value: &Spanned<DeValue<'_>>,
    entries: &mut Vec<Entry>,
) -> Result<(), (String, Range<usize>)> {
    match value.get_ref() {
        DeValue::Table(inner) => flatten(&format!("{key}."), inner, entries),
        DeValue::Array(elements) => elements.iter().enumerate().try_for_each(|(i, element)| {
            put(format!("{key}.{i}"), key_at.clone(), element, entries)
        }),
        _ => {
            entries.push(entry(key, key_at, value)?);
            Ok(())
        }
    }
}

fn entry(
    key: String,
    key_at: Range<usize>,
    value: &Spanned<DeValue<'_>>,
) -> Result<Entry, (String, Range<usize>)> {
    let text = match value.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Boolean(true) => "on".to_owned(),
        DeValue::Boolean(false) => "off".to_owned(),
        DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
        DeValue::Integer(number) if number.radix() == 16 => format!("0x{}", number.as_str()),
        other => {
            let message = format!("{key}: {} cannot be the value of a property", kind(other));
            return Err((message, value.span()));
        }
    };
    Ok(Entry {
        key,
        text,
        key_at,
        value_at: value.span(),
    })
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::Integer(number) if number.radix() == 8 => "an octal number",
        DeValue::Integer(_) => "a binary number",
        DeValue::Float(_) => "a fraction",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        _ => "this",
    }
}

/// What of it is wrong, if that can be told.
fn blame(error: &model::Error, entries: &[Entry]) -> Option<Range<usize>> {
    use model::Error as E;
    let value = |names: &[&str], text: Option<&str>| {
        let mut entries = entries.iter();
        let found = entries.find(|entry| {
            names.iter().any(|name| is_called(&entry.key, name))
                && text.is_none_or(|text| entry.text == text)
        });
        found.map(|entry| entry.value_at.clone())
    };
    match error {
        E::Property(property::Error::Unknown { owner, name, .. }) => {
            let called: Vec<_> = entries.iter().filter(|e| is_called(&e.key, name)).collect();
            let owned = |entry: &&&Entry| belongs(&entry.key, name, owner, entries);
            let found = called.iter().find(owned).or(called.first());
            found.map(|entry| entry.key_at.clone())
        }
        E::Property(property::Error::Value {
            name, value: text, ..
        }) => value(&[name], Some(text)),
        E::BadName(name) | E::DuplicateId { id: name, .. } => {
            value(&["id", "node-name"], Some(name))
        }
        E::NoSuchDevice { name, .. } | E::NoSuchDriver { name, .. } => {
            value(&["driver"], Some(name))
        }
        E::NotServed { name, .. } => value(&["driver"], Some(name)),
        E::NoSuchDrive { drive, .. } | E::SamePath { drive, .. } => value(&["drive"], Some(drive)),
        E::InUse { drive, .. } => value(&["drive", "file", "image"], Some(drive)),
        E::NoSuchNode(name) | E::Qcow2NeedsFile(name) => value(&["file", "image"], Some(name)),
        E::NoSuchBus { bus, .. } => value(&["bus"], Some(bus)),
        E::AddressTaken { .. } => value(&["lun"], None).or_else(|| value(&["scsi-id"], None)),
        E::NoFreeLun { .. } => value(&["scsi-id"], None),
        E::BootIndexTaken { .. } => value(&["bootindex"], None),
        E::Cdrom => value(&["media"], None).or_else(|| value(&["file"], None)),
        E::PartOfQcow2 => value(&["offset", "size"], None),
        E::TwoFiles => value(&["file"], None),
        E::SameSocket { .. } => value(&["socket"], None),
        _ => None,
    }
}

/// The last part of a dotted key.
fn is_called(key: &str, name: &str) -> bool {
    key.strip_suffix(name)
        .is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('.'))
}

/// Whether `key`, whose last part is `name`, is written where the driver is `owner`.
fn belongs(key: &str, name: &str, owner: &str, entries: &[Entry]) -> bool {
    let prefix = key.strip_suffix(name).unwrap_or_default();
    let driver = format!("{prefix}driver");
    let mut entries = entries.iter();
    prefix.trim_end_matches('.') == owner
        || entries.any(|entry| entry.key == driver && entry.text == owner)
}
