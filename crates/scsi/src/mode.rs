//! Mode parameters (SPC-4 7.5, SC-020): what an initiator may read and change about a unit.
//!
//! A unit declares its pages, each with default bytes and a mask of the bits that may be changed ([`ModePage`]).
//! [`ModePages::sense`] answers MODE SENSE from them. [`ModePages::select`] checks a whole MODE SELECT list and returns
//! the pages as they would be: nothing is half applied, and the unit commits them, or looks at the difference first.
//!
//! Saved values exist if the unit has a place for them ([`ModePages::with_saving`]): it stores what
//! [`ModePages::saved_record`] returns and gives it back to [`ModePages::restore`]. Otherwise PC = 3 is 5/39/00, and the
//! PS bit is 0.

mod exceptions;
mod page;
mod rules;
mod select;
mod thresholds;

pub use exceptions::{Exceptions, Reporting};
pub use page::{ModePage, code};
pub use rules::{ErrorSpread, TaskRules};
pub use thresholds::{Resource, Threshold};

use crate::be::Fields;
use crate::cdb::Cdb;
use crate::sense::{AdditionalSense, Sense};

/// The subpage code that asks for all subpages.
const ALL_SUBPAGES: u8 = 0xff;
/// The page code that asks for all pages.
const ALL_PAGES: u8 = 0x3f;

/// Which of the two mode parameter headers a command uses: MODE SENSE(6) or (10), MODE SELECT(6) or (10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// A header of 4 bytes.
    Six,
    /// A header of 8 bytes.
    Ten,
}

impl Form {
    /// The form that a decoded mode command has.
    #[must_use]
    pub fn of(cdb: Cdb<'_>) -> Self {
        if cdb.opcode() < 0x20 {
            Self::Six
        } else {
            Self::Ten
        }
    }
}

/// What stands before the pages: the same for every page, and not changeable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Preamble {
    /// MEDIUM TYPE; 0 for disks.
    pub medium_type: u8,
    /// DEVICE-SPECIFIC PARAMETER, see [`disk_parameter`].
    pub device_specific: u8,
    /// The block descriptor, for units that have blocks.
    pub blocks: Option<BlockDescriptor>,
}

/// The DEVICE-SPECIFIC PARAMETER of a disk: WP and DPOFUA.
#[must_use]
pub const fn disk_parameter(write_protected: bool, dpo_fua: bool) -> u8 {
    (write_protected as u8) << 7 | (dpo_fua as u8) << 4
}

/// The block descriptor of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BlockDescriptor {
    /// NUMBER OF LOGICAL BLOCKS.
    pub blocks: u64,
    /// LOGICAL BLOCK LENGTH in bytes.
    pub block_length: u32,
}

impl BlockDescriptor {
    /// The 8-byte form; what it cannot express is all ones.
    fn to_short(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes.put_u32::<4>(self.block_length.min(0x00ff_ffff));
        bytes.put_u32::<0>(u32::try_from(self.blocks).unwrap_or(u32::MAX));
        bytes
    }

    /// The 16-byte form (LONGLBA).
    fn to_long(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes.put_u64::<0>(self.blocks);
        bytes.put_u32::<12>(self.block_length);
        bytes
    }
}

/// A unit's mode pages.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ModePages {
    /// In ascending order of code and subpage.
    pages: Vec<ModePage>,
    savable: bool,
}

impl ModePages {
    /// These pages.
    #[must_use]
    pub fn new(pages: impl IntoIterator<Item = ModePage>) -> Self {
        let mut pages: Vec<_> = pages.into_iter().collect();
        pages.sort_by_key(ModePage::key);
        Self {
            pages,
            savable: false,
        }
    }

    /// The same, of which the unit can keep saved values.
    #[must_use]
    pub fn with_saving(self) -> Self {
        Self {
            savable: true,
            ..self
        }
    }

    /// Makes the present values the saved ones (SP of MODE SELECT).
    fn save(&mut self) {
        self.pages.iter_mut().for_each(ModePage::save);
    }

    /// The saved values, to be stored: the pages one after the other.
    #[must_use]
    pub fn saved_record(&self) -> Vec<u8> {
        self.pages
            .iter()
            .flat_map(ModePage::saved)
            .copied()
            .collect()
    }

    /// Takes stored saved values over, and makes them the present ones. What the unit does not know or cannot change any
    /// more keeps its default.
    pub fn restore(&mut self, record: &[u8]) {
        let mut at = 0;
        while let Some(header) = record.get(at..at + 2) {
            let length = match *header {
                [first, _] if first & 0x40 != 0 => {
                    let length = crate::be::u16_at(record, at + 2);
                    length.map(|length| 4 + usize::from(length))
                }
                [_, length] => Some(2 + usize::from(length)),
                _ => None,
            };
            let Some(bytes) = length.and_then(|length| record.get(at..at + length)) else {
                break;
            };
            at += bytes.len();
            let found = self
                .pages
                .iter_mut()
                .find(|page| page.default().len() == bytes.len() && page.has_header_of(bytes));
            let Some(page) = found else {
                continue;
            };
            page.restore(bytes);
            let key = page.key();
            if self.contradiction(key).is_some() {
                let page = self.pages.iter_mut().filter(|page| page.key() == key);
                page.for_each(ModePage::reset);
            }
        }
        self.save();
    }

    /// The place in a page of what must not be, though each bit may be changed: byte and bit.
    fn contradiction(&self, key: (u8, u8)) -> Option<(usize, u8)> {
        match key {
            code::CONTROL => self.task_rules().err(),
            code::INFORMATIONAL_EXCEPTIONS => self.check_exceptions().err(),
            _ => None,
        }
    }

    /// Says in the Control page how long an extended self-test takes, in seconds.
    pub fn set_extended_self_test_time(&mut self, seconds: u16) {
        let page = self.pages.iter_mut().find(|p| p.key() == code::CONTROL);
        if let Some(page) = page {
            page.describe(10, &seconds.to_be_bytes());
        }
    }

    /// Whether all values in force are the same.
    #[must_use]
    pub fn same_values(&self, other: &Self) -> bool {
        let current = |pages: &Self| -> Vec<u8> {
            let pages = pages.pages.iter();
            pages.flat_map(ModePage::current).copied().collect()
        };
        current(self) == current(other)
    }

    /// Back to the saved values, or else the defaults, as after a reset.
    pub fn reset(&mut self) {
        self.pages.iter_mut().for_each(ModePage::reset);
    }

    /// Whether any of the bits `mask` in byte `at` of a page is set; `false` for pages and bytes that the unit lacks.
    #[must_use]
    pub fn is_set(&self, (page, subpage): (u8, u8), at: usize, mask: u8) -> bool {
        self.byte((page, subpage), at)
            .is_some_and(|byte| byte & mask != 0)
    }

    /// Byte `at` of a page.
    fn byte(&self, key: (u8, u8), at: usize) -> Option<u8> {
        let page = self.pages.iter().find(|p| p.key() == key)?;
        page.current().get(at).copied()
    }

    /// WCE of the Caching page: writes may be answered before they are on the medium.
    #[must_use]
    pub fn write_cache_enabled(&self) -> bool {
        self.is_set(code::CACHING, 2, 0x04)
    }

    /// Sets WCE, whatever it is by default.
    pub fn set_write_cache(&mut self, enabled: bool) {
        let page = self.pages.iter_mut().find(|p| p.key() == code::CACHING);
        if let Some(page) = page {
            page.set(2, 0x04, enabled);
        }
    }

    /// D_SENSE of the Control page: sense data is returned in descriptor format.
    #[must_use]
    pub fn descriptor_sense(&self) -> bool {
        self.is_set(code::CONTROL, 2, 0x04)
    }

    /// SWP of the Control page: the initiator has write-protected the unit.
    #[must_use]
    pub fn software_write_protect(&self) -> bool {
        self.is_set(code::CONTROL, 4, 0x08)
    }

    /// TST, QERR, UA_INTLCK_CTRL and TAS of the Control page.
    ///
    /// # Errors
    /// Byte and bit of a value that does not exist.
    pub fn task_rules(&self) -> Result<TaskRules, (usize, u8)> {
        TaskRules::new([2, 3, 4, 5].map(|at| self.byte(code::CONTROL, at).unwrap_or(0)))
    }

    /// Appends the MODE SENSE parameter data for a decoded CDB. It is complete, with the MODE DATA LENGTH to match: the
    /// caller clips it to the ALLOCATION LENGTH.
    ///
    /// # Errors
    /// 5/39/00 for saved values that the unit does not keep, 5/24/00 for a page or subpage that the unit does not have.
    pub fn sense(&self, out: &mut Vec<u8>, cdb: Cdb<'_>, preamble: &Preamble) -> Result<(), Sense> {
        let control = cdb.0.u8::<2>() >> 6;
        let wanted = (cdb.0.u8::<2>() & 0x3f, cdb.0.u8::<3>());
        if control == 3 && !self.savable {
            let sense = Sense::illegal_request(AdditionalSense::SAVING_PARAMETERS_NOT_SUPPORTED);
            return Err(sense.at_cdb(2, Some(7)));
        }
        let selected = |page: &&ModePage| is_selected(page.key(), wanted);
        if !self.pages.iter().any(|page| selected(&page)) {
            let code_is_wrong =
                wanted.0 != ALL_PAGES && !self.pages.iter().any(|page| page.key().0 == wanted.0);
            let (byte, bit) = if code_is_wrong { (2, 5) } else { (3, 7) };
            return Err(Sense::invalid_bits_in_cdb(byte, bit));
        }

        let start = out.len();
        let form = Form::of(cdb);
        preamble.append_to(out, form, cdb.byte1());
        for page in self.pages.iter().filter(selected) {
            let at = out.len();
            out.extend_from_slice(match control {
                0 => page.current(),
                1 => page.changeable(),
                2 => page.default(),
                _ => page.saved(),
            });
            if let Some(header) = out.get_mut(at).filter(|_| self.savable) {
                *header |= 0x80; // PS
            }
        }
        set_mode_data_length(out.get_mut(start..).unwrap_or_default(), form);
        Ok(())
    }
}

/// Whether MODE SENSE for page and subpage `wanted` returns the page `key`.
fn is_selected(key: (u8, u8), wanted: (u8, u8)) -> bool {
    match wanted {
        (ALL_PAGES, ALL_SUBPAGES) => true,
        (ALL_PAGES, subpage) => subpage == 0 && key.1 == 0,
        (page, ALL_SUBPAGES) => page == key.0,
        wanted => wanted == key,
    }
}

impl Preamble {
    /// Appends header and block descriptor as the CDB's DBD (b3) and LLBAA (b4) ask for them.
    fn append_to(&self, out: &mut Vec<u8>, form: Form, flags: u8) {
        let disabled = flags & 0x08 != 0;
        let long = form == Form::Ten && flags & 0x10 != 0;
        let blocks = self.blocks.filter(|_| !disabled);
        let length: u8 = match (blocks, long) {
            (None, _) => 0,
            (Some(_), false) => 8,
            (Some(_), true) => 16,
        };
        let &Self {
            medium_type,
            device_specific,
            ..
        } = self;
        match form {
            Form::Six => out.extend([0, medium_type, device_specific, length]),
            Form::Ten => {
                out.extend([
                    0,
                    0,
                    medium_type,
                    device_specific,
                    u8::from(long),
                    0,
                    0,
                    length,
                ]);
            }
        }
        match blocks {
            Some(blocks) if long => out.extend(blocks.to_long()),
            Some(blocks) => out.extend(blocks.to_short()),
            None => {}
        }
    }
}

/// The MODE DATA LENGTH counts what follows it.
fn set_mode_data_length(data: &mut [u8], form: Form) {
    let length = data.len();
    match (form, data) {
        (Form::Six, [field, ..]) => *field = u8::try_from(length - 1).unwrap_or(u8::MAX),
        (Form::Ten, [high, low, ..]) => {
            [*high, *low] = u16::try_from(length - 2).unwrap_or(u16::MAX).to_be_bytes();
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
