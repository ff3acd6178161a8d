//! Standard INQUIRY data (SPC-4 6.6, SC-010): who a logical unit is.

use crate::be::{Fields, u8_at};
use crate::table::DeviceType;

/// PERIPHERAL QUALIFIER: is there a device behind the LUN?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Qualifier {
    /// There is.
    #[default]
    Connected = 0b000,
    /// There could be, but there is not now.
    NotConnected = 0b001,
    /// There cannot be.
    NotSupported = 0b011,
}

/// The first byte of standard INQUIRY data and of every VPD page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peripheral {
    /// Is it there?
    pub qualifier: Qualifier,
    /// What is it?
    pub device: DeviceType,
}

impl Peripheral {
    /// 7Fh: what a target answers for a LUN that it does not have (VS-024).
    pub const ABSENT: Self = Self {
        qualifier: Qualifier::NotSupported,
        device: DeviceType::Absent,
    };

    /// A connected device.
    #[must_use]
    pub const fn connected(device: DeviceType) -> Self {
        Self {
            qualifier: Qualifier::Connected,
            device,
        }
    }

    /// The byte.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        (self.qualifier as u8) << 5 | self.device as u8
    }
}

/// VERSION DESCRIPTOR values: the standards a unit claims to follow.
pub mod version {
    /// SAM-5, no version claimed.
    pub const SAM_5: u16 = 0x00a0;
    /// SPC-4, no version claimed.
    pub const SPC_4: u16 = 0x0460;
    /// SBC-3, no version claimed.
    pub const SBC_3: u16 = 0x04c0;
}

/// What a unit says about itself; [`to_bytes`](Self::to_bytes) makes standard INQUIRY data of it.
#[derive(Clone, Copy, Debug)]
pub struct StandardInquiry<'a> {
    /// What it is.
    pub peripheral: Peripheral,
    /// RMB: its medium can be removed.
    pub removable: bool,
    /// 3PC: it has the commands of page 8Fh.
    pub third_party_copy: bool,
    /// VERSION: 05h for SPC-3, 06h for SPC-4.
    pub version: u8,
    /// T10 VENDOR IDENTIFICATION, up to 8 ASCII characters.
    pub vendor: &'a str,
    /// PRODUCT IDENTIFICATION, up to 16 ASCII characters.
    pub product: &'a str,
    /// PRODUCT REVISION LEVEL, up to 4 ASCII characters.
    pub revision: &'a str,
    /// Up to 8 of [`version`]'s numbers.
    pub standards: &'a [u16],
}

impl StandardInquiry<'_> {
    /// Standard INQUIRY data: hierarchical LUNs (HISUP), response data format 2, command queuing (CMDQUE).
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 96] {
        let mut data = [0u8; 96];
        let removable = if self.removable { 0x80 } else { 0 };
        data.put::<0, 8>([
            self.peripheral.to_byte(),
            removable,
            self.version,
            0x10 | 0x02,                                  // HISUP, RESPONSE DATA FORMAT
            96 - 5,                                       // ADDITIONAL LENGTH
            if self.third_party_copy { 0x08 } else { 0 }, // 3PC
            0,
            0x02, // CMDQUE
        ]);
        data.put::<8, 8>(ascii(self.vendor));
        data.put::<16, 16>(ascii(self.product));
        data.put::<32, 4>(ascii(self.revision));
        let slots = data.get_mut(58..74).unwrap_or_default().chunks_exact_mut(2);
        for (slot, standard) in slots.zip(self.standards) {
            slot.copy_from_slice(&standard.to_be_bytes());
        }
        data
    }
}

/// A left-aligned ASCII field, padded with spaces (SPC-4). What is too long is cut, what is not printable ASCII
/// becomes a space.
#[must_use]
pub fn ascii<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (to, from) in field.iter_mut().zip(text.chars()) {
        *to = u8::try_from(from)
            .ok()
            .filter(|b| (b' '..=b'~').contains(b))
            .unwrap_or(b' ');
    }
    field
}

/// Standard INQUIRY data as an initiator reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// PERIPHERAL QUALIFIER, 0 to 7.
    pub qualifier: u8,
    /// PERIPHERAL DEVICE TYPE, 0 to 31.
    pub device_type: u8,
    /// RMB.
    pub removable: bool,
    /// VERSION.
    pub version: u8,
    /// T10 VENDOR IDENTIFICATION without the padding.
    pub vendor: String,
    /// PRODUCT IDENTIFICATION without the padding.
    pub product: String,
    /// PRODUCT REVISION LEVEL without the padding.
    pub revision: String,
}

impl Identity {
    /// Reads standard INQUIRY data; `None` if it lacks even the first five bytes. Text that was cut off is empty.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let peripheral = u8_at(data, 0)?;
        u8_at(data, 4)?;
        Some(Self {
            qualifier: peripheral >> 5,
            device_type: peripheral & 0x1f,
            removable: u8_at(data, 1)? & 0x80 != 0,
            version: u8_at(data, 2)?,
            vendor: text(data.get(8..16)),
            product: text(data.get(16..32)),
            revision: text(data.get(32..36)),
        })
    }
}

/// The text of an ASCII field that a foreign device filled: printable characters only, without the padding.
pub(crate) fn text(field: Option<&[u8]>) -> String {
    let printable = |&b: &u8| {
        if (b' '..=b'~').contains(&b) {
            char::from(b)
        } else {
            ' '
        }
    };
    let text: String = field.unwrap_or_default().iter().map(printable).collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: StandardInquiry<'_> = StandardInquiry {
        peripheral: Peripheral::connected(DeviceType::Disk),
        removable: false,
        third_party_copy: false,
        version: 6,
        vendor: "LUNAR",
        product: "DISK",
        revision: "0.1.0",
        standards: &[version::SAM_5, version::SPC_4, version::SBC_3],
    };

    #[test]
    fn standard_inquiry_data_is_laid_out_as_spc_says() {
        let data = DISK.to_bytes();
        assert_eq!(data[..8], [0x00, 0x00, 0x06, 0x12, 91, 0, 0, 0x02]);
        assert_eq!(&data[8..36], b"LUNAR   DISK            0.1.");
        assert_eq!(data[36..58], [0; 22]);
        assert_eq!(data[58..64], [0x00, 0xa0, 0x04, 0x60, 0x04, 0xc0]);
        assert_eq!(data[64..], [0; 32]);
    }

    #[test]
    fn removable_is_bit_7_of_byte_1_and_an_absent_unit_is_7f() {
        let odd = StandardInquiry {
            removable: true,
            third_party_copy: false,
            peripheral: Peripheral::ABSENT,
            ..DISK
        };
        assert_eq!(odd.to_bytes()[..2], [0x7f, 0x80]);
    }

    #[test]
    fn characters_that_are_not_printable_ascii_become_spaces() {
        assert_eq!(&ascii::<6>("a\nü~"), b"a  ~  ");
    }

    #[test]
    fn identity_reads_what_the_unit_says() {
        let identity = Identity::parse(&DISK.to_bytes()).unwrap();
        assert_eq!(
            (identity.qualifier, identity.device_type, identity.version),
            (0, 0, 6)
        );
        assert_eq!(
            (&*identity.vendor, &*identity.product, &*identity.revision),
            ("LUNAR", "DISK", "0.1.")
        );
        assert_eq!(Identity::parse(&[0; 4]), None);
        assert_eq!(Identity::parse(&DISK.to_bytes()[..20]).unwrap().product, "");
    }
}
