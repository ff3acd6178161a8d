//! GET LBA STATUS data (SBC-3 5.4, SC-062): which blocks have space, and which were given back.

use crate::be::Fields;

/// PROVISIONING STATUS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Provisioning {
    /// The blocks have space.
    Mapped = 0,
    /// They have none.
    Deallocated = 1,
}

/// Blocks with the same status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LbaStatus {
    /// The first.
    pub lba: u64,
    /// How many.
    pub blocks: u32,
    /// Their status.
    pub provisioning: Provisioning,
}

/// Bytes before the descriptors.
pub const HEADER: usize = 8;
/// Bytes of a descriptor.
pub const DESCRIPTOR: usize = 16;

/// The parameter data.
#[must_use]
pub fn to_bytes(list: &[LbaStatus]) -> Vec<u8> {
    // PARAMETER DATA LENGTH counts what follows it.
    let length = u32::try_from(4 + DESCRIPTOR * list.len()).unwrap_or(u32::MAX);
    let mut header = [0; HEADER];
    header.put_u32::<0>(length);
    let mut data = header.to_vec();
    for status in list {
        let mut descriptor = [0; DESCRIPTOR];
        descriptor.put_u64::<0>(status.lba);
        descriptor.put_u32::<8>(status.blocks);
        descriptor.put_u8::<12>(status.provisioning as u8);
        data.extend(descriptor);
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_laid_out_as_sbc_says() {
        let list = [
            LbaStatus {
                lba: 0x0102_0304_0506_0708,
                blocks: 0x090a_0b0c,
                provisioning: Provisioning::Mapped,
            },
            LbaStatus {
                lba: 1,
                blocks: 2,
                provisioning: Provisioning::Deallocated,
            },
        ];
        let expected = [
            &[0, 0, 0, 36, 0, 0, 0, 0][..],
            &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0, 0, 0],
            &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 1, 0, 0, 0],
        ];
        assert_eq!(to_bytes(&list), expected.concat());
        assert_eq!(to_bytes(&[]), [0, 0, 0, 4, 0, 0, 0, 0]);
    }
}
