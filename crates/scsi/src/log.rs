//! Log pages (SPC-4 7.3, SC-024): what a unit has counted and found out about itself.
//!
//! A page is a list of [`Parameter`]s in ascending order of their codes; LOG SENSE starts at the one it names. The lists
//! of pages (00h, 00h/FFh) have no parameters: see [`supported`].

use crate::cdb::Cdb;
use crate::sense::Sense;

/// Page and subpage codes.
pub mod code {
    /// Supported Log Pages.
    pub const SUPPORTED_PAGES: (u8, u8) = (0x00, 0x00);
    /// Supported Log Pages and Subpages.
    pub const SUPPORTED_SUBPAGES: (u8, u8) = (0x00, 0xff);
    /// Write Error Counters.
    pub const WRITE_ERRORS: (u8, u8) = (0x02, 0x00);
    /// Read Error Counters.
    pub const READ_ERRORS: (u8, u8) = (0x03, 0x00);
    /// Verify Error Counters.
    pub const VERIFY_ERRORS: (u8, u8) = (0x05, 0x00);
    /// Logical Block Provisioning (SBC-3).
    pub const LOGICAL_BLOCK_PROVISIONING: (u8, u8) = (0x0c, 0x00);
    /// Temperature.
    pub const TEMPERATURE: (u8, u8) = (0x0d, 0x00);
    /// Self-Test Results.
    pub const SELF_TEST_RESULTS: (u8, u8) = (0x10, 0x00);
    /// General Statistics and Performance.
    pub const STATISTICS: (u8, u8) = (0x19, 0x00);
    /// Informational Exceptions.
    pub const INFORMATIONAL_EXCEPTIONS: (u8, u8) = (0x2f, 0x00);
}

/// TEMPERATURE when the unit has no sensor.
pub const NO_TEMPERATURE: u8 = 0xff;

/// PARAMETER CONTROL BYTE of a counter that stops at its maximum.
const COUNTER: u8 = 0x00;
/// DU = 0, TSD = 0, FORMAT AND LINKING 11b: a binary list.
const LIST: u8 = 0x03;

/// PC: which values of a parameter are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Values {
    /// The thresholds; none can be set, so they are as high as can be.
    Threshold,
    /// What has been counted.
    Cumulative,
    /// The thresholds that the unit starts with.
    DefaultThreshold,
    /// What counters start with.
    DefaultCumulative,
}

impl Values {
    /// Of LOG SENSE or LOG SELECT.
    #[must_use]
    pub fn of(cdb: Cdb<'_>) -> Self {
        match cdb.page_byte() >> 6 {
            0 => Self::Threshold,
            1 => Self::Cumulative,
            2 => Self::DefaultThreshold,
            _ => Self::DefaultCumulative,
        }
    }
}

/// One log parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// PARAMETER CODE.
    pub code: u16,
    control: u8,
    value: Vec<u8>,
}

impl Parameter {
    /// A counter of 8 bytes, of which `values` are wanted.
    #[must_use]
    pub fn counter(code: u16, count: u64, values: Values) -> Self {
        let count = match values {
            Values::Cumulative => count,
            Values::DefaultCumulative => 0,
            Values::Threshold | Values::DefaultThreshold => u64::MAX,
        };
        Self {
            code,
            control: COUNTER,
            value: count.to_be_bytes().to_vec(),
        }
    }

    /// Anything else: a list in binary format.
    #[must_use]
    pub fn list(code: u16, value: impl Into<Vec<u8>>) -> Self {
        Self {
            code,
            control: LIST,
            value: value.into(),
        }
    }

    fn append_to(&self, out: &mut Vec<u8>) {
        out.extend(self.code.to_be_bytes());
        out.push(self.control);
        out.push(u8::try_from(self.value.len()).unwrap_or(u8::MAX));
        out.extend(&self.value);
    }
}

/// Appends a page: its header, what `body` appends, and the PAGE LENGTH, which counts the latter.
fn page(out: &mut Vec<u8>, (page, subpage): (u8, u8), body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    let subpage_format = if subpage == 0 { 0 } else { 0x40 };
    // DS: the unit does not save its parameters.
    let disable_save = if page == 0 { 0 } else { 0x80 };
    out.extend([disable_save | subpage_format | page, subpage, 0, 0]);
    body(out);
    let length = u16::try_from(out.len() - start - 4).unwrap_or(u16::MAX);
    if let Some(field) = out.get_mut(start + 2..start + 4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends a list of `pages`, which are all that the unit has, ascending: page 00h, or with subpages 00h/FFh.
pub fn supported(out: &mut Vec<u8>, pages: &[(u8, u8)], with_subpages: bool) {
    let key = if with_subpages {
        code::SUPPORTED_SUBPAGES
    } else {
        code::SUPPORTED_PAGES
    };
    page(out, key, |out| {
        for &(page, subpage) in pages {
            if with_subpages {
                out.extend([page, subpage]);
            } else if subpage == 0 {
                out.push(page);
            }
        }
    });
}

/// Appends the page `key` from the parameter that LOG SENSE points to.
///
/// # Errors
/// 5/24/00 if there is none at or behind it.
pub fn parameters(
    out: &mut Vec<u8>,
    key: (u8, u8),
    parameters: &[Parameter],
    from: u16,
) -> Result<(), Sense> {
    let wanted = || parameters.iter().filter(|p| p.code >= from);
    if from != 0 && wanted().next().is_none() {
        return Err(Sense::invalid_field_in_cdb(5));
    }
    page(out, key, |out| wanted().for_each(|p| p.append_to(out)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_of_pages_have_codes_alone_or_pairs() {
        let pages = [(0x00, 0x00), (0x00, 0xff), (0x02, 0x00), (0x19, 0x20)];
        let mut out = Vec::new();
        supported(&mut out, &pages, false);
        assert_eq!(out, [0x00, 0, 0, 2, 0x00, 0x02]);
        out.clear();
        supported(&mut out, &pages, true);
        assert_eq!(
            out,
            [
                0x40, 0xff, 0, 8, 0x00, 0x00, 0x00, 0xff, 0x02, 0x00, 0x19, 0x20
            ]
        );
    }

    #[test]
    fn a_page_starts_at_the_parameter_pointer() {
        let list = [
            Parameter::counter(3, 7, Values::Cumulative),
            Parameter::list(5, [1, 2]),
        ];
        let ask = |from| {
            let mut out = Vec::new();
            parameters(&mut out, (0x03, 0), &list, from).map(|()| out)
        };
        let second = [0, 5, 0x03, 2, 1, 2];
        let first = [0, 3, 0x00, 8, 0, 0, 0, 0, 0, 0, 0, 7];
        let whole = [&[0x83, 0, 0, 18][..], &first, &second].concat();
        assert_eq!(ask(0), Ok(whole.clone()));
        assert_eq!(ask(3), Ok(whole));
        assert_eq!(ask(4), Ok([&[0x83, 0, 0, 6][..], &second].concat()));
        assert_eq!(ask(6), Err(Sense::invalid_field_in_cdb(5)));
    }

    #[test]
    fn counters_have_the_four_kinds_of_values() {
        let value = |values| Parameter::counter(0, 7, values).value;
        assert_eq!(value(Values::Cumulative), 7u64.to_be_bytes());
        assert_eq!(value(Values::DefaultCumulative), [0; 8]);
        assert_eq!(value(Values::Threshold), [0xff; 8]);
        assert_eq!(value(Values::DefaultThreshold), [0xff; 8]);
    }
}
