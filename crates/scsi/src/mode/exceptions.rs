//! What the Informational Exceptions Control page asks for (SPC-4 7.5.11, SC-023).

use super::ModePages;
use super::page::{ModePage, code};

/// EWASC in byte 2: warnings are reported like exceptions.
const EWASC: u8 = 0x10;
/// DEXCPT in byte 2: nothing is reported.
const DEXCPT: u8 = 0x08;
/// TEST in byte 2.
const TEST: u8 = 0x04;
/// MRIE in byte 3.
const MRIE: u8 = 0x0f;

/// Method of reporting informational exceptions (MRIE).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reporting {
    /// They are in the log page only.
    #[default]
    Nowhere,
    /// Once, as a unit attention.
    UnitAttention,
    /// When REQUEST SENSE asks.
    OnRequest,
}

/// What is reported, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exceptions {
    /// TEST: there is an exception (5D/FF), though a false one.
    pub test: bool,
    /// MRIE.
    pub reporting: Reporting,
}

impl Exceptions {
    /// From bytes 2 and 3 of the page. The error is the place of what cannot be: byte and bit.
    const fn new(byte2: u8, byte3: u8) -> Result<Self, (usize, u8)> {
        let (test, disabled) = (byte2 & TEST != 0, byte2 & DEXCPT != 0);
        if test && disabled {
            return Err((2, 2));
        }
        let reporting = match byte3 & MRIE {
            0x0 => Reporting::Nowhere,
            0x2 => Reporting::UnitAttention,
            0x6 => Reporting::OnRequest,
            _ => return Err((3, 3)),
        };
        let reporting = if disabled {
            Reporting::Nowhere
        } else {
            reporting
        };
        Ok(Self { test, reporting })
    }
}

impl ModePage {
    /// Informational Exceptions Control: nothing is reported (DEXCPT, MRIE = 0) until an initiator asks for it, and then once
    /// (REPORT COUNT = 1).
    #[must_use]
    pub fn informational_exceptions() -> Self {
        let parameters = [DEXCPT, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        Self::new(code::INFORMATIONAL_EXCEPTIONS, &parameters)
            .with_changeable(2, EWASC | DEXCPT | TEST)
            .with_changeable(3, MRIE)
    }
}

impl ModePages {
    /// What is reported, and how. The error is the place of what cannot be in the page: byte and bit.
    pub(super) fn check_exceptions(&self) -> Result<Exceptions, (usize, u8)> {
        let byte = |at| self.byte(code::INFORMATIONAL_EXCEPTIONS, at).unwrap_or(0);
        Exceptions::new(byte(2), byte(3))
    }

    /// What is reported, and how.
    #[must_use]
    pub fn exceptions(&self) -> Exceptions {
        self.check_exceptions().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_needs_exceptions_to_be_enabled() {
        let reported = |byte2, byte3| Exceptions::new(byte2, byte3);
        let with = |test, reporting| Ok(Exceptions { test, reporting });
        assert_eq!(reported(DEXCPT, 0), with(false, Reporting::Nowhere));
        assert_eq!(reported(DEXCPT, 6), with(false, Reporting::Nowhere));
        assert_eq!(reported(0, 6), with(false, Reporting::OnRequest));
        assert_eq!(
            reported(TEST | EWASC, 2),
            with(true, Reporting::UnitAttention)
        );
        assert_eq!(reported(TEST | DEXCPT, 2), Err((2, 2)));
        for mrie in [1, 3, 4, 5, 7, 0xF] {
            assert_eq!(reported(0, mrie), Err((3, 3)), "{mrie}");
        }
    }
}
