//! Designators: the names of a logical unit, its port and its target in VPD page 83h (SPC-4 7.8, SC-013).

use std::fmt;

use crate::be::{u8_at, u16_at};
use crate::inquiry::{ascii, text};

/// What a designator names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Association {
    /// The addressed logical unit.
    LogicalUnit = 0,
    /// The target port that received the command.
    TargetPort = 1,
    /// The target device.
    TargetDevice = 2,
}

/// The name, by its DESIGNATOR TYPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identifier<'a> {
    /// 0h: vendor-specific text.
    VendorSpecific(&'a [u8]),
    /// 1h: T10 vendor identification (8 bytes) and a text that this vendor keeps unique.
    T10Vendor {
        /// The vendor, space-padded: see [`Identifier::t10`].
        vendor: [u8; 8],
        /// The text.
        id: &'a [u8],
    },
    /// 2h: 8, 12 or 16 bytes of EUI-64.
    Eui64(&'a [u8]),
    /// 3h: 8 or 16 bytes, of which the first four bits tell the format.
    Naa(&'a [u8]),
    /// 4h.
    RelativeTargetPort(u16),
    /// 5h.
    TargetPortGroup(u16),
    /// 8h: an iSCSI-style UTF-8 name (`naa.…`, `eui.…`, `iqn.…`), zero-terminated and padded on the wire.
    ScsiName(&'a [u8]),
    /// A type that this crate does not name.
    Other {
        /// DESIGNATOR TYPE.
        kind: u8,
        /// The designator.
        bytes: &'a [u8],
    },
}

impl<'a> Identifier<'a> {
    /// A T10 vendor identifier.
    #[must_use]
    pub fn t10(vendor: &str, id: &'a str) -> Self {
        Self::T10Vendor {
            vendor: ascii(vendor),
            id: id.as_bytes(),
        }
    }
}

/// One entry of page 83h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Designator<'a> {
    /// What it names.
    pub association: Association,
    /// The name.
    pub identifier: Identifier<'a>,
}

const BINARY: u8 = 1;
const ASCII: u8 = 2;
const UTF_8: u8 = 3;

/// Longest designator that the length byte can express, in whole words.
const MAX: usize = 252;

impl<'a> Designator<'a> {
    /// A name of the logical unit.
    #[must_use]
    pub const fn unit(identifier: Identifier<'a>) -> Self {
        Self {
            association: Association::LogicalUnit,
            identifier,
        }
    }

    /// A name of the target port.
    #[must_use]
    pub const fn port(identifier: Identifier<'a>) -> Self {
        Self {
            association: Association::TargetPort,
            identifier,
        }
    }

    /// Appends the entry. A name that is too long for it is cut.
    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        let (code_set, kind) = match self.identifier {
            Identifier::VendorSpecific(_) => (ASCII, 0),
            Identifier::T10Vendor { .. } => (ASCII, 1),
            Identifier::Eui64(_) => (BINARY, 2),
            Identifier::Naa(_) => (BINARY, 3),
            Identifier::RelativeTargetPort(_) => (BINARY, 4),
            Identifier::TargetPortGroup(_) => (BINARY, 5),
            Identifier::ScsiName(_) => (UTF_8, 8),
            Identifier::Other { kind, .. } => (BINARY, kind & 0x0f),
        };
        out.extend([code_set, (self.association as u8) << 4 | kind, 0, 0]);
        let start = out.len();
        match self.identifier {
            Identifier::T10Vendor { vendor, id } => {
                out.extend(vendor);
                out.extend(id.iter().take(MAX - 8));
            }
            Identifier::RelativeTargetPort(n) | Identifier::TargetPortGroup(n) => {
                out.extend([0, 0]);
                out.extend(n.to_be_bytes());
            }
            Identifier::ScsiName(name) => {
                out.extend(name.iter().take(MAX - 4));
                out.push(0);
                let length = (out.len() - start).next_multiple_of(4);
                out.resize(start + length, 0);
            }
            Identifier::VendorSpecific(bytes)
            | Identifier::Eui64(bytes)
            | Identifier::Naa(bytes)
            | Identifier::Other { bytes, .. } => out.extend(bytes.iter().take(MAX)),
        }
        let length = u8::try_from(out.len() - start).unwrap_or(u8::MAX);
        if let Some(field) = out.get_mut(start - 1) {
            *field = length;
        }
    }

    /// Reads the body of one entry; `None` for a reserved association.
    fn parse(association_and_kind: u8, bytes: &'a [u8]) -> Option<Self> {
        let association = match association_and_kind >> 4 & 0b11 {
            0 => Association::LogicalUnit,
            1 => Association::TargetPort,
            2 => Association::TargetDevice,
            _ => return None,
        };
        let kind = association_and_kind & 0x0f;
        let other = Identifier::Other { kind, bytes };
        let identifier = match kind {
            0 => Identifier::VendorSpecific(bytes),
            1 => match bytes.split_first_chunk() {
                Some((&vendor, id)) => Identifier::T10Vendor { vendor, id },
                None => other,
            },
            2 => Identifier::Eui64(bytes),
            3 => Identifier::Naa(bytes),
            4 => u16_at(bytes, 2).map_or(other, Identifier::RelativeTargetPort),
            5 => u16_at(bytes, 2).map_or(other, Identifier::TargetPortGroup),
            8 => Identifier::ScsiName(bytes.split(|&b| b == 0).next().unwrap_or_default()),
            _ => other,
        };
        Some(Self {
            association,
            identifier,
        })
    }
}

/// The entries of page 83h, the page header included in `page`. It ends at the first entry that is cut off.
pub fn designators(page: &[u8]) -> impl Iterator<Item = Designator<'_>> {
    let end = 4 + usize::from(u16_at(page, 2).unwrap_or(0));
    let mut rest = page.get(4..end.min(page.len())).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u8_at(rest, 3)?);
        let kind = u8_at(rest, 1)?;
        let bytes = rest.get(4..4 + length)?;
        rest = rest.get(4 + length..)?;
        Some(Designator::parse(kind, bytes))
    })
    .flatten()
}

/// As lsscsi and udev write it: `naa.…`, `eui.…`, `t10.…`.
impl fmt::Display for Identifier<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prefix, bytes) = match *self {
            Self::VendorSpecific(id) => return write!(f, "vendor.{}", text(Some(id))),
            Self::T10Vendor { vendor, id } => {
                return write!(f, "t10.{} {}", text(Some(&vendor)), text(Some(id)));
            }
            Self::ScsiName(name) => return f.write_str(&text(Some(name))),
            Self::RelativeTargetPort(n) => return write!(f, "port.{n}"),
            Self::TargetPortGroup(n) => return write!(f, "group.{n}"),
            Self::Eui64(bytes) => ("eui", bytes),
            Self::Naa(bytes) => ("naa", bytes),
            Self::Other { kind, bytes } => {
                write!(f, "type{kind}.")?;
                return bytes.iter().try_for_each(|b| write!(f, "{b:02x}"));
            }
        };
        write!(f, "{prefix}.")?;
        bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
