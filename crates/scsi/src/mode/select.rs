//! MODE SELECT: the parameter list, checked to the last byte before anything changes.

use super::{BlockDescriptor, Form, ModePages, Preamble};
use crate::be::{u8_at, u16_at, u32_at, u64_at};
use crate::cdb::Cdb;
use crate::sense::{AdditionalSense, Sense};

const TRUNCATED: Sense = Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);

fn invalid(at: usize) -> Sense {
    Sense::invalid_field_in_parameters(u16::try_from(at).unwrap_or(u16::MAX))
}

fn invalid_bit(at: usize, bit: u8) -> Sense {
    Sense::invalid_bits_in_parameters(u16::try_from(at).unwrap_or(u16::MAX), bit)
}

impl ModePages {
    /// The pages after a MODE SELECT with this decoded CDB and parameter list, which is as long as the CDB says. The
    /// unit compares them with what it has: if they differ, it applies and stores them, and every other nexus gets a unit
    /// attention (2A/01).
    ///
    /// Header and block descriptor may only repeat what [`sense`](Self::sense) returns; a number of blocks of 0 means
    /// the present one. MODE DATA LENGTH, WP, DPOFUA and PS are reserved in MODE SELECT and ignored.
    ///
    /// # Errors
    /// - 5/24/00 if PF is 0 and there are parameters: their format would be vendor specific,
    /// - 5/1A/00 if the list ends in the middle of something,
    /// - 5/26/00 with a field pointer for a page that the unit lacks, a wrong page length, a change to anything that is
    ///   not changeable.
    pub fn select(&self, cdb: Cdb<'_>, list: &[u8], preamble: &Preamble) -> Result<Self, Sense> {
        let mut pages = self.clone();
        let save = cdb.byte1() & 0x01 != 0;
        if list.is_empty() {
            if save {
                pages.save();
            }
            return Ok(pages);
        }
        if cdb.byte1() & 0x10 == 0 {
            return Err(Sense::invalid_bits_in_cdb(1, 4));
        }
        let mut at = preamble.check(list, Form::of(cdb))?;
        while at < list.len() {
            at += pages.select_page(list, at)?;
        }
        if save {
            pages.save();
        }
        Ok(pages)
    }

    /// Changes one page as the list says from byte `at` on; returns the page's length there.
    fn select_page(&mut self, list: &[u8], at: usize) -> Result<usize, Sense> {
        let rest = list.get(at..).unwrap_or_default();
        let first = u8_at(rest, 0).ok_or(TRUNCATED)?;
        let has_subpage = first & 0x40 != 0;
        let subpage = if has_subpage {
            u8_at(rest, 1).ok_or(TRUNCATED)?
        } else {
            0
        };
        let length = if has_subpage {
            4 + usize::from(u16_at(rest, 2).ok_or(TRUNCATED)?)
        } else {
            2 + usize::from(u8_at(rest, 1).ok_or(TRUNCATED)?)
        };

        let same_code = |key: (u8, u8)| key.0 == first & 0x3f;
        if !self.pages.iter().any(|page| same_code(page.key())) {
            return Err(invalid_bit(at, 5)); // PAGE CODE
        }
        let page = self.pages.iter_mut().find(|page| {
            same_code(page.key())
                && page.key().1 == subpage
                && (page.header_length() == 4) == has_subpage
        });
        let Some(page) = page else {
            return Err(if has_subpage {
                invalid(at + 1)
            } else {
                invalid_bit(at, 6)
            });
        };
        if page.current().len() != length {
            return Err(invalid(at + if has_subpage { 2 } else { 1 })); // PAGE LENGTH
        }
        let bytes = rest.get(..length).ok_or(TRUNCATED)?;
        page.change_to(bytes)
            .map_err(|(byte, bit)| invalid_bit(at + byte, bit))?;
        let key = page.key();
        match self.contradiction(key) {
            Some((byte, bit)) => Err(invalid_bit(at + byte, bit)),
            None => Ok(length),
        }
    }
}

impl Preamble {
    /// Checks header and block descriptor of a MODE SELECT list; returns where the pages start.
    fn check(&self, list: &[u8], form: Form) -> Result<usize, Sense> {
        let (header, medium_type_at, length_at) = match form {
            Form::Six => (4, 1, 3),
            Form::Ten => (8, 2, 6),
        };
        let long = form == Form::Ten && u8_at(list, 4).is_some_and(|byte| byte & 1 == 1);
        let descriptors = match form {
            Form::Six => u8_at(list, length_at).map(usize::from),
            Form::Ten => u16_at(list, length_at).map(usize::from),
        };
        let descriptors = descriptors.ok_or(TRUNCATED)?;
        if u8_at(list, medium_type_at) != Some(self.medium_type) {
            return Err(invalid(medium_type_at));
        }
        if descriptors == 0 {
            return Ok(header);
        }
        let one = if long { 16 } else { 8 };
        let Some(blocks) = self.blocks.filter(|_| descriptors == one) else {
            return Err(invalid(length_at));
        };
        let end = header + descriptors;
        let descriptor = list.get(header..end).ok_or(TRUNCATED)?;
        blocks
            .check(descriptor, long)
            .map_err(|byte| invalid(header + byte))?;
        Ok(end)
    }
}

impl BlockDescriptor {
    /// Whether a block descriptor asks for what is there already; the error is the first byte of the field that does not.
    fn check(self, descriptor: &[u8], long: bool) -> Result<(), usize> {
        let (blocks, present, length, length_at) = if long {
            (
                u64_at(descriptor, 0),
                self.blocks,
                u32_at(descriptor, 12),
                12,
            )
        } else {
            let clipped = u32::try_from(self.blocks).unwrap_or(u32::MAX);
            let length = u32_at(descriptor, 4).map(|n| n & 0x00ff_ffff);
            (
                u32_at(descriptor, 0).map(u64::from),
                u64::from(clipped),
                length,
                5,
            )
        };
        match (blocks, length) {
            (Some(blocks), _) if blocks != 0 && blocks != present => Err(0),
            (_, Some(length)) if length != self.block_length => Err(length_at),
            _ => Ok(()),
        }
    }
}
