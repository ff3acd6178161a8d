//! Property tables: what can be written about a device, a drive or a node, once.
//!
//! A row names a property, says what values it takes and how one is stored, and describes it. Parsing, range
//! checks, error messages and every help text read the same rows, so they cannot disagree.

use std::fmt::{self, Write as _};
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::keyval::{Options, Value};

/// One property of a `T`.
#[derive(Debug)]
pub struct Property<T: 'static> {
    /// As QEMU spells it, where QEMU has it.
    pub name: &'static str,
    /// The values it takes.
    pub kind: Kind<T>,
    /// The value in effect when it is not given, as text; empty when there is none.
    pub default: &'static str,
    /// One line for people.
    pub description: &'static str,
}

/// Stores a value.
pub type Set<T, V> = fn(&mut T, V);

/// A word that can be written, and what it sets.
pub type Choice<T> = (&'static str, fn(&mut T));

/// The values of a property, and where one is stored.
#[derive(Debug)]
pub enum Kind<T: 'static> {
    /// `on` or `off`.
    Bool(Set<T, bool>),
    /// `on`, `off`, or `auto` (`None`).
    OnOffAuto(Set<T, Option<bool>>),
    /// Bytes, with an optional suffix K, M, G, T, P or E (powers of 1024).
    Size(RangeInclusive<u64>, Set<T, u64>),
    /// A 16-bit number, decimal or hexadecimal.
    U16(RangeInclusive<u16>, Set<T, u16>),
    /// A 32-bit number.
    U32(RangeInclusive<u32>, Set<T, u32>),
    /// A 64-bit number.
    U64(RangeInclusive<u64>, Set<T, u64>),
    /// A number from 0 to the given one, or -1 for "choose one" (`None`).
    Choose(u16, Set<T, Option<u16>>),
    /// Any text.
    Text(Set<T, String>),
    /// Text of a form that is called so; what refuses another says what would be right.
    Form(&'static str, fn(&mut T, &str) -> Result<(), String>),
    /// One of a few words.
    Word(&'static [Choice<T>]),
}

/// A property that is not there, or a value that it does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody knows this property.
    #[error("{owner} has no property {name:?}{}", did_you_mean(.suggestion))]
    Unknown {
        /// What has no such property.
        owner: String,
        /// As written.
        name: String,
        /// The nearest name that exists.
        suggestion: Option<&'static str>,
    },
    /// The property is there, the value is not right.
    #[error("{name}={value}: {expected}")]
    Value {
        /// The property.
        name: String,
        /// As written.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// A bare word that is not a switch.
    #[error("{name} needs a value: {name}=<{kind}>")]
    NeedsValue {
        /// The property.
        name: &'static str,
        /// Its type.
        kind: String,
    },
}

/// `; did you mean "x"?`, or nothing.
pub(crate) fn did_you_mean(suggestion: &Option<&'static str>) -> String {
    suggestion.map_or_else(String::new, |name| format!("; did you mean {name:?}?"))
}

/// The candidate that looks most like `name`, if one does.
pub(crate) fn nearest(
    name: &str,
    candidates: impl IntoIterator<Item = &'static str>,
) -> Option<&'static str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Stores every option in `target` by the rows of `tables`. `owner` is what the properties belong to, for messages.
pub fn apply<T>(
    target: &mut T,
    owner: &str,
    options: &Options,
    tables: &[&'static [Property<T>]],
) -> Result<(), Error> {
    let find = |name: &str| {
        tables
            .iter()
            .copied()
            .flatten()
            .find(|row| row.name == name)
    };
    for (name, value) in options.iter() {
        let unknown = || Error::Unknown {
            owner: owner.to_owned(),
            name: name.to_owned(),
            suggestion: nearest(name, tables.iter().copied().flatten().map(|row| row.name)),
        };
        match value {
            Value::Text(text) => find(name).ok_or_else(unknown)?.store(target, text)?,
            Value::Bare => match (find(name), name.strip_prefix("no").and_then(find)) {
                (Some(row), _) if row.is_switch() => row.store(target, "on")?,
                (None, Some(row)) if row.is_switch() => row.store(target, "off")?,
                (Some(row), _) => {
                    return Err(Error::NeedsValue {
                        name: row.name,
                        kind: row.kind.to_string(),
                    });
                }
                (None, _) => return Err(unknown()),
            },
        }
    }
    Ok(())
}

/// The rows as a help text in the form of `qemu -device x,help`, sorted by name.
pub fn help<T>(owner: &str, tables: &[&'static [Property<T>]]) -> String {
    let mut rows: Vec<_> = tables.iter().copied().flatten().collect();
    rows.sort_by_key(|row| row.name);
    let mut text = format!("{owner} options:\n");
    for row in rows {
        let left = format!("{}=<{}>", row.name, row.kind);
        let _ = write!(text, "  {left:<31} - {}", row.description);
        if !row.default.is_empty() {
            let _ = write!(text, " (default: {})", row.default);
        }
        text.push('\n');
    }
    text
}

impl<T> Property<T> {
    fn is_switch(&self) -> bool {
        matches!(self.kind, Kind::Bool(_) | Kind::OnOffAuto(_))
    }

    fn store(&self, target: &mut T, text: &str) -> Result<(), Error> {
        let wrong = |expected: String| Error::Value {
            name: self.name.to_owned(),
            value: text.to_owned(),
            expected,
        };
        match &self.kind {
            Kind::Bool(set) => {
                let value = on_off(text).ok_or_else(|| wrong("must be on or off".into()))?;
                set(target, value);
            }
            Kind::OnOffAuto(set) => {
                let value = match text {
                    "auto" => None,
                    _ => Some(on_off(text).ok_or_else(|| wrong("must be on, off or auto".into()))?),
                };
                set(target, value);
            }
            Kind::Size(range, set) => {
                let value = size(text)
                    .ok_or_else(|| wrong("must be a size in bytes, such as 4096 or 10G".into()))?;
                set(target, within(value, range).map_err(wrong)?);
            }
            Kind::U16(range, set) => set(target, whole(text, range).map_err(wrong)?),
            Kind::U32(range, set) => set(target, whole(text, range).map_err(wrong)?),
            Kind::U64(range, set) => set(target, whole(text, range).map_err(wrong)?),
            Kind::Choose(_, set) if text == "-1" => set(target, None),
            Kind::Choose(most, set) => {
                let value = whole(text, &(0..=*most)).map_err(wrong)?;
                set(target, Some(value));
            }
            Kind::Text(set) => set(target, text.to_owned()),
            Kind::Form(_, set) => set(target, text).map_err(wrong)?,
            Kind::Word(words) => {
                let (_, set) = words
                    .iter()
                    .find(|(word, _)| *word == text)
                    .ok_or_else(|| {
                        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                        wrong(format!("must be {}", one_of(&words)))
                    })?;
                set(target);
            }
        }
        Ok(())
    }
}

/// The type, in QEMU's words.
impl<T> fmt::Display for Kind<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Bool(_) => f.write_str("bool"),
            Kind::OnOffAuto(_) => f.write_str("OnOffAuto"),
            Kind::Size(..) => f.write_str("size"),
            Kind::U16(..) => f.write_str("uint16"),
            Kind::U32(..) => f.write_str("uint32"),
            Kind::U64(..) => f.write_str("uint64"),
            Kind::Choose(..) => f.write_str("int32"),
            Kind::Text(_) => f.write_str("str"),
            Kind::Form(name, _) => f.write_str(name),
            Kind::Word(words) => {
                for (i, (word, _)) in words.iter().enumerate() {
                    write!(f, "{}{word}", if i == 0 { "" } else { "|" })?;
                }
                Ok(())
            }
        }
    }
}

/// `a`, `a or b`, `a, b or c`.
fn one_of(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [word] => (*word).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

fn on_off(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

fn whole<N>(text: &str, range: &RangeInclusive<N>) -> Result<N, String>
where
    N: TryFrom<u64> + Into<u64> + Copy,
{
    let (least, most): (u64, u64) = ((*range.start()).into(), (*range.end()).into());
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let value = match digits {
        // `from_str_radix` would take a sign.
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            u64::from_str_radix(hex, 16).ok()
        }
        Some(_) => None,
        None => decimal(text),
    };
    value
        .filter(|value| (least..=most).contains(value))
        .and_then(|value| N::try_from(value).ok())
        .ok_or_else(|| match least == most {
            true => format!("must be {least}"),
            false => format!("must be a number from {least} to {most}"),
        })
}

/// A number in digits alone: `parse` would take a sign.
pub(crate) fn decimal<N: FromStr>(text: &str) -> Option<N> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

fn within(value: u64, range: &RangeInclusive<u64>) -> Result<u64, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (least, most) = (range.start(), range.end());
    Err(if *most == u64::MAX {
        format!("must be at least {least} bytes")
    } else {
        format!("must be from {least} to {most} bytes")
    })
}

/// `4096`, `0x1000`, `10G`, `1.5T`.
pub fn size(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let plain = hex.bytes().all(|b| b.is_ascii_hexdigit());
        return plain.then(|| u64::from_str_radix(hex, 16).ok()).flatten();
    }
    let unit = text.chars().last()?.to_ascii_uppercase();
    let shift = match unit {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        'T' => 40,
        'P' => 50,
        'E' => 60,
        _ => 0,
    };
    let number = if shift != 0 || unit == 'B' {
        text.get(..text.len() - 1)?
    } else {
        text
    };
    let (integer, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // A fraction longer than nine digits is smaller than the bytes it would have to name.
    if fraction.len() > 9 {
        return None;
    }
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let units: u64 = decimal(integer)?;
    let scaled = u128::from(units) * scale + decimal::<u128>(fraction)?;
    u64::try_from((scaled << shift) / scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyval::{DEVICE, DRIVE};

    #[derive(Debug, Default, PartialEq)]
    struct Thing {
        removable: bool,
        write_cache: Option<bool>,
        size: u64,
        lun: Option<u16>,
        wwn: u64,
        serial: String,
        discard: bool,
    }

    static TABLE: &[Property<Thing>] = &[
        Property {
            name: "removable",
            kind: Kind::Bool(|t, v| t.removable = v),
            default: "off",
            description: "the medium can be taken out",
        },
        Property {
            name: "write-cache",
            kind: Kind::OnOffAuto(|t, v| t.write_cache = v),
            default: "auto",
            description: "a cache",
        },
        Property {
            name: "size",
            kind: Kind::Size(512..=u64::MAX, |t, v| t.size = v),
            default: "",
            description: "bytes",
        },
        Property {
            name: "lun",
            kind: Kind::Choose(16383, |t, v| t.lun = v),
            default: "-1",
            description: "logical unit number",
        },
        Property {
            name: "wwn",
            kind: Kind::U64(0..=u64::MAX, |t, v| t.wwn = v),
            default: "0",
            description: "name",
        },
        Property {
            name: "serial",
            kind: Kind::Text(|t, v| t.serial = v),
            default: "",
            description: "serial number",
        },
        Property {
            name: "discard",
            kind: Kind::Word(&[
                ("ignore", |t| t.discard = false),
                ("unmap", |t| t.discard = true),
            ]),
            default: "ignore",
            description: "what to do",
        },
    ];

    fn read(text: &str) -> Result<Thing, String> {
        let mut thing = Thing::default();
        let options = Options::parse(text, DRIVE).map_err(|e| e.to_string())?;
        apply(&mut thing, "scsi-x", &options, &[TABLE]).map_err(|e| e.to_string())?;
        Ok(thing)
    }

    #[test]
    fn every_kind_stores_its_value() {
        let thing = read(
            "removable,write-cache=off,size=1.5K,lun=16383,wwn=0x5000c50000000001,serial=a b,discard=unmap",
        )
        .unwrap();
        assert_eq!(
            thing,
            Thing {
                removable: true,
                write_cache: Some(false),
                size: 1536,
                lun: Some(16383),
                wwn: 0x5000_c500_0000_0001,
                serial: "a b".into(),
                discard: true,
            }
        );
        assert_eq!(read("noremovable,lun=-1").unwrap(), Thing::default());
    }

    #[test]
    fn wrong_values_say_what_would_be_right() {
        for (text, message) in [
            ("removable=perhaps", "removable=perhaps: must be on or off"),
            ("write-cache=1", "write-cache=1: must be on, off or auto"),
            (
                "size=1x",
                "size=1x: must be a size in bytes, such as 4096 or 10G",
            ),
            ("size=511", "size=511: must be at least 512 bytes"),
            ("lun=16384", "lun=16384: must be a number from 0 to 16383"),
            ("lun=+1", "lun=+1: must be a number from 0 to 16383"),
            ("lun=", "lun=: must be a number from 0 to 16383"),
            (
                "wwn=0x",
                "wwn=0x: must be a number from 0 to 18446744073709551615",
            ),
            ("discard=yes", "discard=yes: must be ignore or unmap"),
            ("lun", "lun needs a value: lun=<int32>"),
            ("discard", "discard needs a value: discard=<ignore|unmap>"),
            (
                "seriall=x",
                "scsi-x has no property \"seriall\"; did you mean \"serial\"?",
            ),
            ("zzzzzz=x", "scsi-x has no property \"zzzzzz\""),
            (
                "noremoveable",
                "scsi-x has no property \"noremoveable\"; did you mean \"removable\"?",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), message);
        }
    }

    #[test]
    fn sizes_are_exact_and_never_wrap() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("10K", Some(10 << 10)),
            ("10k", Some(10 << 10)),
            ("3G", Some(3 << 30)),
            ("0.5G", Some(1 << 29)),
            ("512B", Some(512)),
            ("15E", Some(15 << 60)),
            ("16E", None),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("0x200", Some(512)),
            ("0x+2", None),
            ("-1", None),
            ("G", None),
            ("", None),
            ("1.", None),
            ("1.5.5K", None),
            ("1ä", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }

    #[test]
    fn help_lists_types_defaults_and_descriptions() {
        let text = help("scsi-x", &[TABLE]);
        assert!(text.starts_with("scsi-x options:\n  discard=<ignore|unmap>          - what to do (default: ignore)\n"), "{text}");
        assert!(
            text.contains("  serial=<str>                    - serial number\n"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1 + TABLE.len());
    }

    #[test]
    fn a_driver_given_twice_is_the_last_one() {
        let mut options = Options::parse("scsi-hd,driver=scsi-cd", DEVICE).unwrap();
        assert_eq!(options.take("driver").unwrap(), "scsi-cd");
    }
}
