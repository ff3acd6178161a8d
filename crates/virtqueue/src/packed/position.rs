//! Where a side is in a packed ring.

use super::PackedDescriptor;
use crate::Error;

/// Where both sides of a new packed ring are, in the encoding of [`Queue::new`](crate::Queue::new): at descriptor 0, with
/// both wrap counters 1 (VU-015).
pub const PACKED_BASE: u32 = 0x8000_8000;

/// The bit of the wrap counter beside an index of 15 bits.
const WRAP: u16 = 1 << 15;

/// The index of a descriptor, and the wrap counter of whoever is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) index: u16,
    pub(crate) wrap: bool,
}

impl Position {
    pub(crate) const START: Position = Position {
        index: 0,
        wrap: true,
    };

    /// Index in bits 14-0, wrap counter in bit 15, as in event suppression and in ring bases.
    pub(crate) fn bits(self) -> u16 {
        self.index | if self.wrap { WRAP } else { 0 }
    }

    pub(crate) fn from_bits(bits: u16) -> Position {
        Position {
            index: bits & !WRAP,
            wrap: bits & WRAP != 0,
        }
    }

    /// `places` further on, at most the ring's size.
    #[inline]
    pub(crate) fn advance(self, places: u16, size: u16) -> Position {
        // At most 32767 + 32768.
        let index = self.index + places;
        match index.checked_sub(size) {
            Some(index) => Position {
                index,
                wrap: !self.wrap,
            },
            None => Position { index, ..self },
        }
    }

    /// Places from here on to `later`. Positions repeat after two rounds.
    #[inline]
    pub(crate) fn places_to(self, later: Position, size: u16) -> u32 {
        let size = u32::from(size);
        let linear = |p: Position| u32::from(p.index) + if p.wrap { 0 } else { size };
        let (from, to) = (linear(self), linear(later));
        if to >= from {
            to - from
        } else {
            to + 2 * size - from
        }
    }

    /// The flags of a descriptor that the driver makes available here.
    #[inline]
    pub(crate) fn available(self) -> u16 {
        match self.wrap {
            true => PackedDescriptor::AVAIL,
            false => PackedDescriptor::USED,
        }
    }

    /// The flags of a descriptor that the device returns here.
    #[inline]
    pub(crate) fn used(self) -> u16 {
        match self.wrap {
            true => PackedDescriptor::AVAIL | PackedDescriptor::USED,
            false => 0,
        }
    }

    /// Whether a descriptor here with these flags is the device's.
    #[inline]
    pub(crate) fn is_available(self, flags: u16) -> bool {
        owner(flags) == self.available()
    }

    /// Whether a descriptor here with these flags has been returned.
    #[inline]
    pub(crate) fn is_used(self, flags: u16) -> bool {
        owner(flags) == self.used()
    }
}

#[inline]
fn owner(flags: u16) -> u16 {
    flags & (PackedDescriptor::AVAIL | PackedDescriptor::USED)
}

/// The two positions of a ring base: the available one in bits 15-0, the used one in bits 31-16 (VU-015).
pub(crate) fn base(avail: Position, used: Position) -> u32 {
    u32::from(avail.bits()) | u32::from(used.bits()) << 16
}

/// The available and the used position of a base, and the places between them, which a predecessor took and never
/// returned.
pub(crate) fn from_base(base: u32, size: u16) -> Result<(Position, Position, u16), Error> {
    let refused = Error::RingBase(base);
    let half = |bits: u32| {
        let position = u16::try_from(bits & 0xffff).map(Position::from_bits).ok();
        position.filter(|p| p.index < size).ok_or(refused)
    };
    let (avail, used) = (half(base)?, half(base >> 16)?);
    let places = u16::try_from(used.places_to(avail, size)).map_err(|_| refused)?;
    match places <= size {
        true => Ok((avail, used, places)),
        false => Err(refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_returns_after_two_rounds() {
        for size in [1u16, 2, 3, 5, 8, 32768] {
            for step in [1, size] {
                let mut at = Position::START;
                let rounds = 2 * u32::from(size) / u32::from(step);
                for i in 0..rounds {
                    assert_eq!(
                        Position::START.places_to(at, size),
                        i * u32::from(step),
                        "{size}"
                    );
                    assert!(at.index < size);
                    assert_eq!(Position::from_bits(at.bits()), at);
                    at = at.advance(step, size);
                }
                assert_eq!(at, Position::START);
            }
        }
    }

    #[test]
    fn a_base_has_both_positions_and_they_are_in_the_ring_and_in_order() {
        let start = (Position::START, Position::START, 0);
        assert_eq!(from_base(PACKED_BASE, 4), Ok(start));
        assert_eq!(base(start.0, start.1), PACKED_BASE);
        // Available at 1 of the second round, used at 3 of the first.
        let (avail, used, places) = from_base(0x8003_0001, 4).unwrap();
        assert_eq!((avail.bits(), used.bits(), places), (1, 0x8003, 2));
        assert_eq!(base(avail, used), 0x8003_0001);
        for wrong in [0x8000_8004, 0x8004_8000, 0x8001_8000, 0x8000_0001] {
            assert_eq!(from_base(wrong, 4), Err(Error::RingBase(wrong)));
        }
    }
}
