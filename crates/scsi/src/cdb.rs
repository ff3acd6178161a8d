//! Command descriptor blocks: where the standards put a command's fields (SPC-4 4.2).
//!
//! [`Cdb`] is a borrowed view of the 32 bytes a transport delivers. An accessor reads the place its field has in CDBs of
//! this opcode's length; whether the command has such a field is for the caller to know. Call them after
//! [`decode`](crate::table::decode): reserved bits are zero then.

use crate::be::Fields;

/// Bytes a transport delivers for a CDB; shorter commands leave the rest unused.
pub const MAX_LEN: usize = 32;

/// A CDB's length by the group code in its opcode (SPC-4 4.2); `None` for the variable-length opcodes 7Eh and 7Fh,
/// and for the reserved and vendor-specific groups.
#[must_use]
pub const fn group_length(opcode: u8) -> Option<u8> {
    match opcode {
        0x00..=0x1f => Some(6),
        0x20..=0x5f => Some(10),
        0x80..=0x9f => Some(16),
        0xa0..=0xbf => Some(12),
        _ => None,
    }
}

/// NACA in the CONTROL byte.
pub(crate) const NACA: u8 = 0x04;

/// A view of a CDB's fields.
#[derive(Clone, Copy, Debug)]
pub struct Cdb<'a>(pub &'a [u8; MAX_LEN]);

impl Cdb<'_> {
    /// OPERATION CODE.
    #[inline]
    #[must_use]
    pub fn opcode(self) -> u8 {
        self.0.u8::<0>()
    }

    /// SERVICE ACTION: byte 1 bits 4-0, or bytes 8-9 of a variable-length CDB.
    #[inline]
    #[must_use]
    pub fn service_action(self) -> u16 {
        if self.opcode() == 0x7f {
            self.0.u16::<8>()
        } else {
            u16::from(self.byte1() & 0x1f)
        }
    }

    /// ADDITIONAL CDB LENGTH of a variable-length CDB.
    #[inline]
    #[must_use]
    pub fn additional_length(self) -> u8 {
        self.0.u8::<7>()
    }

    /// Byte 2, where mode and log commands have PC and the page code.
    #[inline]
    #[must_use]
    pub fn page_byte(self) -> u8 {
        self.0.u8::<2>()
    }

    /// Byte 1, the home of most flag bits.
    #[inline]
    #[must_use]
    pub fn byte1(self) -> u8 {
        self.0.u8::<1>()
    }

    /// NACA of the CONTROL byte: if the command fails, an auto contingent allegiance is to be established (SAM-5 5.2).
    #[inline]
    #[must_use]
    pub fn naca(self) -> bool {
        let control = match self.opcode() {
            0x00..=0x1f => self.0.u8::<5>(),
            0x20..=0x5f => self.0.u8::<9>(),
            0x60..=0x7f => self.0.u8::<1>(),
            0x80..=0x9f => self.0.u8::<15>(),
            0xa0..=0xbf => self.0.u8::<11>(),
            _ => 0, // vendor-specific
        };
        control & NACA != 0
    }

    /// LOGICAL BLOCK ADDRESS: 21 bits in a 6-byte CDB, 32 in 10 and 12 bytes, 64 in 16 and 32 bytes.
    #[inline]
    #[must_use]
    pub fn lba(self) -> u64 {
        match self.opcode() {
            0x00..=0x1f => u64::from(self.0.u24::<1>() & 0x001f_ffff),
            0x80..=0x9f => self.0.u64::<2>(),
            0x7f => self.0.u64::<12>(),
            _ => u64::from(self.0.u32::<2>()),
        }
    }

    /// TRANSFER LENGTH (or NUMBER OF LOGICAL BLOCKS) in logical blocks; 0 means 256 in a 6-byte CDB (SC-007).
    #[inline]
    #[must_use]
    pub fn transfer_length(self) -> u32 {
        match self.opcode() {
            0x00..=0x1f => match self.0.u8::<4>() {
                0 => 256,
                n => u32::from(n),
            },
            0x80..=0x9f => self.0.u32::<10>(),
            0xa0..=0xbf => self.0.u32::<6>(),
            0x7f => self.0.u32::<28>(),
            _ => u32::from(self.0.u16::<7>()),
        }
    }

    /// ALLOCATION LENGTH: how many bytes the initiator has room for.
    #[inline]
    #[must_use]
    pub fn allocation_length(self) -> u32 {
        match self.opcode() {
            // INQUIRY, whose field grew, and RECEIVE DIAGNOSTIC RESULTS
            0x12 | 0x1c => u32::from(self.0.u16::<3>()),
            0x3c => self.0.u24::<6>(), // READ BUFFER
            0x00..=0x1f => u32::from(self.0.u8::<4>()),
            0x80..=0x9f => self.0.u32::<10>(),
            0xa0..=0xbf => self.0.u32::<6>(),
            _ => u32::from(self.0.u16::<7>()),
        }
    }

    /// PARAMETER LIST LENGTH: how many bytes the initiator sends.
    #[inline]
    #[must_use]
    pub fn parameter_list_length(self) -> u32 {
        match self.opcode() {
            0x1d => u32::from(self.0.u16::<3>()), // SEND DIAGNOSTIC
            0x00..=0x1f => u32::from(self.0.u8::<4>()),
            0x3b => self.0.u24::<6>(), // WRITE BUFFER
            0x5f => self.0.u32::<5>(), // PERSISTENT RESERVE OUT
            0x80..=0x9f => self.0.u32::<10>(),
            0xa0..=0xbf => self.0.u32::<6>(),
            _ => u32::from(self.0.u16::<7>()),
        }
    }

    /// The byte of a READ, WRITE, VERIFY or WRITE SAME CDB that holds its flags: PROTECT, DPO, FUA, BYTCHK, UNMAP, NDOB.
    #[inline]
    #[must_use]
    pub fn block_flags(self) -> u8 {
        if self.opcode() == 0x7f {
            self.0.u8::<10>()
        } else {
            self.byte1()
        }
    }

    /// FUA: the data is to be on the medium before the status. The 6-byte commands have no such bit.
    #[inline]
    #[must_use]
    pub fn fua(self) -> bool {
        self.opcode() > 0x1f && self.block_flags() & 0x08 != 0
    }

    /// DPO: these blocks will not be wanted soon.
    #[inline]
    #[must_use]
    pub fn dpo(self) -> bool {
        self.opcode() > 0x1f && self.block_flags() & 0x10 != 0
    }

    /// RDPROTECT, WRPROTECT or VRPROTECT (SC-081).
    #[inline]
    #[must_use]
    pub fn protect(self) -> u8 {
        if self.opcode() > 0x1f {
            self.block_flags() >> 5
        } else {
            0
        }
    }

    /// BYTCHK of VERIFY: 0 = no data, 1 = compare with the data-out buffer, 3 = compare each block with the one sent.
    #[inline]
    #[must_use]
    pub fn bytchk(self) -> u8 {
        self.block_flags() >> 1 & 3
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cdb(bytes: &[u8]) -> [u8; MAX_LEN] {
        let mut cdb = [0; MAX_LEN];
        cdb[..bytes.len()].copy_from_slice(bytes);
        cdb
    }

    #[test]
    fn each_length_has_its_own_places_for_lba_and_transfer_length() {
        let read_6 = cdb(&[0x08, 0x01, 0x02, 0x03, 0x04, 0]);
        let read_10 = cdb(&[0x28, 0, 1, 2, 3, 4, 0, 5, 6, 0]);
        let read_12 = cdb(&[0xa8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0]);
        let read_16 = cdb(&[0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0]);
        let mut read_32 = cdb(&[0x7f, 0, 0, 0, 0, 0, 0, 0x18, 0, 9]);
        read_32[12..20].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        read_32[28..].copy_from_slice(&[9, 10, 11, 12]);
        for (cdb, lba, length) in [
            (read_6, 0x0001_0203, 4),
            (read_10, 0x0102_0304, 0x0506),
            (read_12, 0x0102_0304, 0x0506_0708),
            (read_16, 0x0102_0304_0506_0708, 0x090a_0b0c),
            (read_32, 0x0102_0304_0506_0708, 0x090a_0b0c),
        ] {
            assert_eq!(
                (Cdb(&cdb).lba(), Cdb(&cdb).transfer_length()),
                (lba, length),
                "{cdb:02x?}"
            );
        }
        assert_eq!(Cdb(&read_32).service_action(), 9);
    }

    #[test]
    fn zero_means_256_in_a_6_byte_cdb_and_nothing_in_the_others() {
        assert_eq!(Cdb(&cdb(&[0x0a])).transfer_length(), 256);
        assert_eq!(Cdb(&cdb(&[0x2a])).transfer_length(), 0);
    }

    #[test]
    fn a_6_byte_cdb_has_no_flags_where_its_lba_is() {
        let read = cdb(&[0x08, 0x1f, 0xff, 0xff, 1, 0]);
        let view = Cdb(&read);
        assert_eq!((view.fua(), view.dpo(), view.protect()), (false, false, 0));
        assert_eq!(view.lba(), 0x001f_ffff);
    }

    #[test]
    fn flags_are_found_in_byte_1_or_in_byte_10_of_a_32_byte_cdb() {
        let mut long = cdb(&[0x7f]);
        long[10] = 0b1011_1110;
        for flags in [cdb(&[0x2f, 0b1011_1110]), long] {
            let view = Cdb(&flags);
            assert_eq!(
                (view.protect(), view.dpo(), view.fua(), view.bytchk()),
                (5, true, true, 3)
            );
        }
    }

    #[test]
    fn lengths_of_parameter_data_are_where_each_command_has_them() {
        let inquiry = cdb(&[0x12, 0, 0, 0x01, 0x02, 0]);
        let mode_sense_10 = cdb(&[0x5a, 0, 0, 0, 0, 0, 0, 0x01, 0x02, 0]);
        let read_capacity_16 = cdb(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x02]);
        let report_luns = cdb(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x02]);
        for cdb in [inquiry, mode_sense_10, read_capacity_16, report_luns] {
            assert_eq!(Cdb(&cdb).allocation_length(), 0x0102);
        }
        assert_eq!(Cdb(&cdb(&[0x1a, 0, 0, 0, 9])).allocation_length(), 9);
        assert_eq!(Cdb(&cdb(&[0x15, 0, 0, 0, 9])).parameter_list_length(), 9);
        assert_eq!(
            Cdb(&cdb(&[0x5f, 0, 0, 0, 0, 0, 0, 0, 24])).parameter_list_length(),
            24
        );
        assert_eq!(
            Cdb(&cdb(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24])).parameter_list_length(),
            24
        );
    }

    proptest! {
        #[test]
        fn every_field_of_any_bytes_can_be_read(cdb: [u8; MAX_LEN]) {
            let view = Cdb(&cdb);
            prop_assert!(view.protect() < 8 && view.bytchk() < 4);
            prop_assert!(group_length(view.opcode()) != Some(6) || view.lba() < 1 << 21);
        }
    }
}
