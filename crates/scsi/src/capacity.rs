//! READ CAPACITY data (SBC-3, SC-018): how big a disk is and how its blocks behave.

use crate::be::{Fields, bytes_at};

/// What both READ CAPACITY commands report, as far as each has room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Capacity {
    /// How many logical blocks there are; at least one.
    pub blocks: u64,
    /// Bytes in a logical block.
    pub block_length: u32,
    /// LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT, 0 to 15.
    pub physical_exponent: u8,
    /// LOWEST ALIGNED LOGICAL BLOCK ADDRESS, 14 bits.
    pub lowest_aligned: u16,
    /// LBPME: blocks can be unmapped.
    pub provisioning: bool,
    /// LBPRZ: unmapped blocks read as zeroes.
    pub reads_zeroes: bool,
}

impl Capacity {
    fn last_lba(&self) -> u64 {
        self.blocks.saturating_sub(1)
    }

    /// READ CAPACITY(10) data; a last LBA that it cannot express is FFFFFFFFh.
    #[must_use]
    pub fn to_bytes_10(&self) -> [u8; 8] {
        let mut data = [0; 8];
        data.put_u32::<0>(u32::try_from(self.last_lba()).unwrap_or(u32::MAX));
        data.put_u32::<4>(self.block_length);
        data
    }

    /// READ CAPACITY(16) data.
    #[must_use]
    pub fn to_bytes_16(&self) -> [u8; 32] {
        let mut data = [0; 32];
        data.put_u64::<0>(self.last_lba());
        data.put_u32::<8>(self.block_length);
        data.put_u8::<13>(self.physical_exponent & 0x0f);
        let flags = u16::from(self.provisioning) << 15 | u16::from(self.reads_zeroes) << 14;
        data.put_u16::<14>(flags | self.lowest_aligned & 0x3fff);
        data
    }

    /// Reads READ CAPACITY(10) data; `None` if it is cut off, or if the disk is too big for it: ask READ CAPACITY(16).
    #[must_use]
    pub fn parse_10(data: &[u8]) -> Option<Self> {
        let data: [u8; 8] = bytes_at(data, 0)?;
        match data.u32::<0>() {
            u32::MAX => None,
            last => Some(Self {
                blocks: u64::from(last) + 1,
                block_length: data.u32::<4>(),
                ..Self::default()
            }),
        }
    }

    /// Reads READ CAPACITY(16) data; `None` if it is cut off or its number of blocks does not fit 64 bits.
    #[must_use]
    pub fn parse_16(data: &[u8]) -> Option<Self> {
        let data: [u8; 32] = bytes_at(data, 0)?;
        let alignment = data.u16::<14>();
        Some(Self {
            blocks: data.u64::<0>().checked_add(1)?,
            block_length: data.u32::<8>(),
            physical_exponent: data.u8::<13>() & 0x0f,
            lowest_aligned: alignment & 0x3fff,
            provisioning: alignment & 0x8000 != 0,
            reads_zeroes: alignment & 0x4000 != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_forms_are_laid_out_as_sbc_says() {
        let disk = Capacity {
            blocks: 0x0102_0305,
            block_length: 512,
            physical_exponent: 3,
            lowest_aligned: 0x0203,
            provisioning: true,
            reads_zeroes: true,
        };
        assert_eq!(disk.to_bytes_10(), [1, 2, 3, 4, 0, 0, 2, 0]);
        let mut expected = [0; 32];
        expected[..16].copy_from_slice(&[0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 2, 0, 0, 3, 0xc2, 0x03]);
        assert_eq!(disk.to_bytes_16(), expected);
    }

    #[test]
    fn a_disk_beyond_32_bits_sends_the_initiator_to_read_capacity_16() {
        for blocks in [1 << 32, (1 << 32) + 1, u64::MAX] {
            let disk = Capacity {
                blocks,
                block_length: 512,
                ..Capacity::default()
            };
            assert_eq!(disk.to_bytes_10()[..4], [0xff; 4]);
            assert_eq!(Capacity::parse_10(&disk.to_bytes_10()), None);
        }
        let last_that_fits = Capacity {
            blocks: (1 << 32) - 1,
            ..Capacity::default()
        };
        assert_eq!(last_that_fits.to_bytes_10()[..4], [0xff, 0xff, 0xff, 0xfe]);
    }

    proptest! {
        #[test]
        fn read_capacity_16_loses_nothing(
            blocks in 1u64.., block_length: u32, physical_exponent in 0u8..16, lowest_aligned in 0u16..0x4000,
            provisioning: bool, reads_zeroes: bool,
        ) {
            let disk =
                Capacity { blocks, block_length, physical_exponent, lowest_aligned, provisioning, reads_zeroes };
            prop_assert_eq!(Capacity::parse_16(&disk.to_bytes_16()), Some(disk));
        }
    }
}
