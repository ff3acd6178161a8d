//! Command descriptor blocks: where the standards put a command's fields (SPC-4 4.2).
//!
//! [`Cdb`] is a borrowed view of the 32 bytes a transport delivers. An accessor reads the place its field has in CDBs of
//! this opcode's length; whether the command has such a field is for the caller to know. Call them after
//! [`decode`](crate::table::decode): reserved bits are zero then.

use crate::be::Fields;

/// Bytes a transport delivers for a CDB; shorter commands leave the rest unused.
pub const MAX_LEN: usize = 32;

/// A CDB's length by the group code in its opcode (SPC-4 4.2.5.1); `None` for the variable-length opcodes 7Eh and 7Fh,
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

    /// Byte 1, the home of most flag bits.
    #[inline]
    #[must_use]
    pub fn byte1(self) -> u8 {
        self.0.u8::<1>()
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
            0x12 => u32::from(self.0.u16::<3>()), // INQUIRY, whose field grew
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
            0x00..=0x1f => u32::from(self.0.u8::<4>()),
            0x5f => self.0.u32::<5>(), // PERSISTENT RESERVE OUT
            0x80..=0x9f => self.0.u32::<10>(),
            0xa0..=0xbf => self.0.u32::<6>(),
            _ => u32::from(self.0.u16::<7>()),
        }
    }

    /// The byte of a READ, WRITE or VERIFY CDB that holds the PROTECT, DPO, FUA and BYTCHK fields.
    #[inline]
    fn block_flags(self) -> u8 {
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
