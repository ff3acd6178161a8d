//! What is behind a controller: targets, logical units, and what they say of themselves.

use lunar_scsi::{Lun, LunAddress};

use crate::{Address, Command, Data, Error, Initiator, Response, response};

/// A logical unit as a scan found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its target.
    pub target: u8,
    /// Its number there.
    pub lun: Lun,
    /// Peripheral device type: 0 disk, 1 tape, 5 CD/DVD, 8 changer, ...
    pub device_type: u8,
    /// Whether the medium can be removed.
    pub removable: bool,
    /// T10 vendor identification, without padding.
    pub vendor: String,
    /// Product identification, without padding.
    pub product: String,
    /// Product revision, without padding.
    pub revision: String,
    /// Unit serial number (VPD page 80h), if it has one.
    pub serial: Option<String>,
    /// Designators of the logical unit (VPD page 83h).
    pub designators: Vec<Designator>,
    /// Its size, if it is of a type that has one, and there is a medium.
    pub capacity: Option<Capacity>,
}

/// What identifies a logical unit (SPC-6 7.7.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Designator {
    /// 0 vendor specific, 1 T10 vendor id, 2 EUI-64, 3 NAA, 8 SCSI name string, ...
    pub kind: u8,
    /// 1 binary, 2 ASCII, 3 UTF-8.
    pub code_set: u8,
    /// The identifier itself.
    pub bytes: Vec<u8>,
}

impl std::fmt::Display for Designator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            1 => f.write_str("t10.")?,
            2 => f.write_str("eui.")?,
            3 => f.write_str("naa.")?,
            _ => {}
        }
        match self.code_set {
            1 => self.bytes.iter().try_for_each(|b| write!(f, "{b:02x}")),
            _ => f.write_str(&text(&self.bytes)),
        }
    }
}

/// The size of a logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Logical blocks.
    pub blocks: u64,
    /// Bytes of each.
    pub block_size: u32,
}

impl Capacity {
    /// Bytes in all.
    pub fn bytes(&self) -> u128 {
        u128::from(self.blocks) * u128::from(self.block_size)
    }
}

/// Room for the longest answer that is asked for: REPORT LUNS of 16384 logical units does not fit, and is asked again.
const ANSWER: u16 = 4096;

impl Initiator {
    /// Asks all 256 targets what they have.
    pub fn scan(&mut self) -> Result<Vec<Unit>, Error> {
        let mut units = Vec::new();
        for target in 0..=u8::MAX {
            self.scan_target(target, &mut units)?;
        }
        Ok(units)
    }

    /// Asks one target what it has.
    pub fn scan_target(&mut self, target: u8, units: &mut Vec<Unit>) -> Result<(), Error> {
        for lun in self.report_luns(target)? {
            units.extend(self.describe(target, lun)?);
        }
        Ok(())
    }

    /// The logical units behind a target; none if the target does not exist.
    pub fn report_luns(&mut self, target: u8) -> Result<Vec<Lun>, Error> {
        let lun0 = Lun::new(0).unwrap_or(Lun::MAX);
        let address = Address::new(target, lun0);
        let mut len = u32::from(ANSWER);
        loop {
            let mut cdb = [0; 12];
            put(&mut cdb, 0, &[0xA0]);
            put(&mut cdb, 6, &len.to_be_bytes());
            let answer = self.read_in(address, &cdb, len)?;
            if answer.response == response::BAD_TARGET {
                return Ok(Vec::new());
            }
            let data = good(answer, "REPORT LUNS")?.data;
            let whole = be32(&data, 0).saturating_add(8);
            if whole > len {
                // A list cannot be longer than all LUNs there are; one that claims to be is read as far as that.
                let longest = (u32::from(Lun::MAX.number()) + 2) * 8;
                let longer = whole.min(longest);
                if longer > len {
                    len = longer;
                    continue;
                }
            }
            let entries = data.get(8..).unwrap_or_default().chunks_exact(8);
            return Ok(entries
                .take(usize::try_from(whole / 8).unwrap_or(0).saturating_sub(1))
                .filter_map(|e| match LunAddress::from_bytes(e.try_into().ok()?)? {
                    LunAddress::Unit(lun) => Some(lun),
                    LunAddress::WellKnown(_) => None,
                })
                .collect());
        }
    }

    /// What a logical unit says of itself; `None` if INQUIRY says that there is none.
    pub fn describe(&mut self, target: u8, lun: Lun) -> Result<Option<Unit>, Error> {
        let address = Address::new(target, lun);
        let inquiry = self.inquiry(address, None)?;
        let inquiry = good(inquiry, "INQUIRY")?.data;
        let byte = |at: usize| inquiry.get(at).copied().unwrap_or(0);
        if byte(0) >> 5 != 0 {
            return Ok(None);
        }
        let field = |from: usize, to: usize| text(inquiry.get(from..to).unwrap_or_default());
        let device_type = byte(0) & 0x1F;
        let pages = self.page(address, 0)?.unwrap_or_default();
        let serial = match pages.contains(&0x80) {
            true => self.page(address, 0x80)?.map(|p| text(&p)),
            false => None,
        };
        let designators = match pages.contains(&0x83) {
            true => designators(&self.page(address, 0x83)?.unwrap_or_default()),
            false => Vec::new(),
        };
        Ok(Some(Unit {
            target,
            lun,
            device_type,
            removable: byte(1) & 0x80 != 0,
            vendor: field(8, 16),
            product: field(16, 32),
            revision: field(32, 36),
            serial,
            designators,
            capacity: self.capacity(address, device_type)?,
        }))
    }

    /// INQUIRY, of standard data or of a VPD page.
    pub fn inquiry(&mut self, address: Address, page: Option<u8>) -> Result<Response, Error> {
        // 252 rather than ANSWER: old devices look at one byte of the length.
        let len: u16 = if page.is_some() { ANSWER } else { 252 };
        let [high, low] = len.to_be_bytes();
        let cdb = [0x12, page.is_some().into(), page.unwrap_or(0), high, low, 0];
        self.read_in(address, &cdb, len.into())
    }

    /// The contents of a VPD page, without its header; `None` if the unit does not have it.
    fn page(&mut self, address: Address, page: u8) -> Result<Option<Vec<u8>>, Error> {
        let answer = self.inquiry(address, Some(page))?;
        if !answer.is_good() {
            return Ok(None);
        }
        let len = usize::from(be16(&answer.data, 2));
        let body = answer.data.get(4..).unwrap_or_default();
        Ok(Some(body.iter().take(len).copied().collect()))
    }

    fn capacity(&mut self, address: Address, device_type: u8) -> Result<Option<Capacity>, Error> {
        const NONE: u32 = u32::MAX;
        let (disk, optical) = (device_type == 0, matches!(device_type, 5 | 7));
        if !disk && !optical {
            return Ok(None);
        }
        let mut cdb = [0; 10];
        put(&mut cdb, 0, &[0x25]);
        let short = self.read_in(address, &cdb, 8)?;
        if !short.is_good() {
            // No medium, or not ready: it has no size now.
            return Ok(None);
        }
        let last = be32(&short.data, 0);
        if last != NONE {
            return Ok(Some(Capacity {
                blocks: u64::from(last) + 1,
                block_size: be32(&short.data, 4),
            }));
        }
        let mut cdb = [0; 16];
        put(&mut cdb, 0, &[0x9E, 0x10]);
        put(&mut cdb, 13, &[32]);
        let long = self.read_in(address, &cdb, 32)?;
        if !long.is_good() {
            return Ok(None);
        }
        let last = u64::from(be32(&long.data, 0)) << 32 | u64::from(be32(&long.data, 4));
        Ok(Some(Capacity {
            blocks: last.saturating_add(1),
            block_size: be32(&long.data, 8),
        }))
    }

    /// The size of a disk.
    pub fn capacity_of(&mut self, address: Address) -> Result<Capacity, Error> {
        let capacity = self.capacity(address, 0)?;
        capacity.ok_or(Error::Missing("a logical unit with a capacity"))
    }

    fn read_in(&mut self, address: Address, cdb: &[u8], len: u32) -> Result<Response, Error> {
        let data = Data::In(usize::try_from(len).unwrap_or(0));
        self.command_after_attentions(&Command::new(address, cdb, data))
    }
}

/// The response, if it is a success.
pub(crate) fn good(response: Response, what: &'static str) -> Result<Response, Error> {
    if response.is_good() {
        return Ok(response);
    }
    Err(Error::Command {
        what,
        response: Box::new(response),
    })
}

/// The designators of the logical unit itself in a page 83h (association 0).
fn designators(page: &[u8]) -> Vec<Designator> {
    let mut list = Vec::new();
    let mut rest = page;
    while let [code_set, kind, _, len, after @ ..] = rest {
        let Some((bytes, next)) = after.split_at_checked(usize::from(*len)) else {
            break;
        };
        if kind >> 4 & 3 == 0 {
            list.push(Designator {
                kind: kind & 0xF,
                code_set: code_set & 0xF,
                bytes: bytes.to_vec(),
            });
        }
        rest = next;
    }
    list
}

/// Printable text without padding: what a device sends must not control a terminal.
fn text(bytes: &[u8]) -> String {
    let printable = |b: &u8| match b {
        0x20..=0x7E => char::from(*b),
        0 => ' ',
        _ => '?',
    };
    let text: String = bytes.iter().map(printable).collect();
    text.trim().to_owned()
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    let word = bytes.get(at..at + 2).and_then(|w| w.try_into().ok());
    u16::from_be_bytes(word.unwrap_or_default())
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|w| w.try_into().ok());
    u32::from_be_bytes(word.unwrap_or_default())
}

/// Copies `from` to `at`.
pub(crate) fn put(bytes: &mut [u8], at: usize, from: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(from) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn designators_of_a_cut_page_are_those_that_are_whole() {
        let page = [
            1, 3, 0, 2, 0xAB, 0xCD, 2, 0x11, 0, 1, b'x', 2, 1, 0, 9, b'c',
        ];
        let found = designators(&page);
        let naa = Designator {
            kind: 3,
            code_set: 1,
            bytes: vec![0xAB, 0xCD],
        };
        let naa_only = std::slice::from_ref(&naa);
        assert_eq!(found, naa_only, "the second is a port's, the third is cut");
        assert_eq!(naa.to_string(), "naa.abcd");
    }

    #[test]
    fn text_cannot_control_a_terminal() {
        assert_eq!(text(b"DISK\x1b[2J  \0"), "DISK?[2J");
    }
}
