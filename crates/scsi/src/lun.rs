//! Logical unit numbers as they travel (SAM-5 4.7).
//!
//! A LUN is eight bytes with up to four levels; Lunar's targets have one level, so the first two bytes say everything
//! and the other six are zero. Two addressing methods name the same units: *peripheral device* (`00 nn`, LUNs below
//! 256) and *flat space* (`40|hi lo`, all 16384). We emit the form that hosts compare against, peripheral wherever it
//! can express the number (VS-023), and accept both everywhere (VS-022).

use std::fmt;

/// A single-level logical unit number, 0 to 16383.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lun(u16);

impl Lun {
    /// The highest number that flat space addressing can express.
    pub const MAX: Self = Self(0x3fff);

    /// The LUN `number`, unless it is above 16383.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number <= Self::MAX.0 {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The plain number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The two-byte single-level form that REPORT LUNS lists.
    #[must_use]
    pub const fn to_single_level(self) -> [u8; 2] {
        let [high, low] = self.0.to_be_bytes();
        if high == 0 {
            [0, low]
        } else {
            [0x40 | high, low]
        }
    }

    /// The eight-byte form.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        let [a, b] = self.to_single_level();
        [a, b, 0, 0, 0, 0, 0, 0]
    }
}

impl fmt::Display for Lun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an eight-byte (or two-byte single-level) LUN structure names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LunAddress {
    /// An ordinary logical unit.
    Unit(Lun),
    /// A well-known logical unit (extended addressing, SAM-5 4.7), such as [`LunAddress::REPORT_LUNS`].
    WellKnown(u8),
}

impl LunAddress {
    /// The REPORT LUNS well-known logical unit, `C1 01` on the wire (VS-021).
    pub const REPORT_LUNS: Self = Self::WellKnown(0x01);

    /// Reads the two bytes of a single-level address; `None` for addressing methods that name nothing here.
    #[must_use]
    pub const fn from_single_level(bytes: [u8; 2]) -> Option<Self> {
        let [method, low] = bytes;
        match method {
            0x00 => Some(Self::Unit(Lun(low as u16))),
            0x40..=0x7f => Some(Self::Unit(Lun(u16::from_be_bytes([method & 0x3f, low])))),
            0xc1 => Some(Self::WellKnown(low)),
            _ => None,
        }
    }

    /// Reads an eight-byte LUN; `None` if it has a second level or an addressing method that names nothing here.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Option<Self> {
        match bytes {
            [a, b, 0, 0, 0, 0, 0, 0] => Self::from_single_level([a, b]),
            _ => None,
        }
    }

    /// The eight-byte form.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        match self {
            Self::Unit(lun) => lun.to_bytes(),
            Self::WellKnown(number) => [0xc1, number, 0, 0, 0, 0, 0, 0],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luns_below_256_travel_in_peripheral_form_and_the_others_in_flat_form() {
        let wire = |n| Lun::new(n).unwrap().to_bytes();
        assert_eq!(wire(0), [0; 8]);
        assert_eq!(wire(255), [0x00, 0xff, 0, 0, 0, 0, 0, 0]);
        assert_eq!(wire(256), [0x41, 0x00, 0, 0, 0, 0, 0, 0]);
        assert_eq!(wire(16383), [0x7f, 0xff, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Lun::new(16384), None);
    }

    #[test]
    fn every_lun_is_read_back_from_both_forms() {
        for n in 0..=0x3fff {
            let lun = Lun::new(n).unwrap();
            assert_eq!(
                LunAddress::from_bytes(lun.to_bytes()),
                Some(LunAddress::Unit(lun))
            );
            let [high, low] = n.to_be_bytes();
            assert_eq!(
                LunAddress::from_single_level([0x40 | high, low]),
                Some(LunAddress::Unit(lun))
            );
        }
    }

    #[test]
    fn the_report_luns_unit_is_c1_01() {
        let wire = [0xc1, 0x01, 0, 0, 0, 0, 0, 0];
        assert_eq!(LunAddress::REPORT_LUNS.to_bytes(), wire);
        assert_eq!(LunAddress::from_bytes(wire), Some(LunAddress::REPORT_LUNS));
    }

    #[test]
    fn other_methods_and_second_levels_name_nothing() {
        for method in (0x01..=0x3f).chain(0x80..=0xc0).chain(0xc2..=0xff) {
            assert_eq!(
                LunAddress::from_single_level([method, 1]),
                None,
                "{method:02x}"
            );
        }
        for at in 2..8 {
            let mut bytes = [0; 8];
            bytes[at] = 1;
            assert_eq!(LunAddress::from_bytes(bytes), None, "byte {at}");
        }
    }
}
