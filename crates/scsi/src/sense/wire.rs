//! The two wire formats of sense data: fixed (SC-030) and descriptor (SC-031).

use super::{AdditionalSense, FieldPointer, KeySpecific, Sense, SenseKey, StreamFlags};
use crate::be::{Fields, bytes_at, u8_at, u16_at, u32_at, u64_at};

/// Which of the two formats; the D_SENSE bit of the Control mode page chooses, and DESC in REQUEST SENSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// 18 bytes, numbers of at most 32 bits.
    #[default]
    Fixed,
    /// A header and one descriptor for each thing to say.
    Descriptor,
}

/// Encoded sense data: a byte string with its storage.
#[derive(Clone, Copy, Debug)]
pub struct SenseData {
    bytes: [u8; Self::CAPACITY],
    len: u8,
}

impl SenseData {
    /// Header, INFORMATION, COMMAND-SPECIFIC, SENSE KEY SPECIFIC and stream descriptor.
    const CAPACITY: usize = 8 + 12 + 12 + 8 + 4;

    /// The bytes to send.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Adds a descriptor and counts it in the ADDITIONAL SENSE LENGTH.
    fn push<const N: usize>(&mut self, descriptor: [u8; N]) {
        let at = usize::from(self.len);
        if let (Some(room), Ok(added)) = (self.bytes.get_mut(at..at + N), u8::try_from(N)) {
            room.copy_from_slice(&descriptor);
            self.len += added;
            self.bytes.put_u8::<7>(self.len - 8);
        }
    }
}

impl AsRef<[u8]> for SenseData {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

const VALID: u8 = 0x80;
const SKSV: u8 = 0x80;
const IN_CDB: u8 = 0x40;
const BIT_POINTER_VALID: u8 = 0x08;

impl Sense {
    /// The bytes of this sense data in the wanted format.
    #[must_use]
    pub fn encode(&self, format: Format) -> SenseData {
        match format {
            Format::Fixed => self.encode_fixed(),
            Format::Descriptor => self.encode_descriptor(),
        }
    }

    /// A number too big for a fixed-format field is left out: VALID is 0 then (SC-031).
    fn encode_fixed(&self) -> SenseData {
        let mut out = SenseData {
            bytes: [0; SenseData::CAPACITY],
            len: 18,
        };
        let b = &mut out.bytes;
        let mut response_code = 0x70 | u8::from(self.deferred);
        if let Some(information) = self.information.and_then(|i| u32::try_from(i).ok()) {
            response_code |= VALID;
            b.put_u32::<3>(information);
        }
        b.put_u8::<0>(response_code);
        b.put_u8::<2>(self.stream.bits() | self.key as u8);
        b.put_u8::<7>(10);
        if let Some(specific) = self.command_specific.and_then(|s| u32::try_from(s).ok()) {
            b.put_u32::<8>(specific);
        }
        b.put_u8::<12>(self.additional.asc);
        b.put_u8::<13>(self.additional.ascq);
        if let Some(specific) = self.key_specific {
            b.put::<15, 3>(specific.to_bytes());
        }
        out
    }

    fn encode_descriptor(&self) -> SenseData {
        let mut out = SenseData {
            bytes: [0; SenseData::CAPACITY],
            len: 8,
        };
        let response_code = 0x72 | u8::from(self.deferred);
        let AdditionalSense { asc, ascq } = self.additional;
        out.bytes
            .put::<0, 4>([response_code, self.key as u8, asc, ascq]);
        if let Some(information) = self.information {
            let mut descriptor = [0u8; 12];
            descriptor.put::<0, 3>([0x00, 10, VALID]);
            descriptor.put_u64::<4>(information);
            out.push(descriptor);
        }
        if let Some(specific) = self.command_specific {
            let mut descriptor = [0u8; 12];
            descriptor.put::<0, 2>([0x01, 10]);
            descriptor.put_u64::<4>(specific);
            out.push(descriptor);
        }
        if let Some(specific) = self.key_specific {
            let [a, b, c] = specific.to_bytes();
            out.push([0x02, 6, 0, 0, a, b, c, 0]);
        }
        if !self.stream.is_empty() {
            out.push([0x04, 2, 0, self.stream.bits()]);
        }
        out
    }

    /// Reads sense data of either format; `None` if it is neither, or too short to hold an additional sense code.
    ///
    /// A sender may cut sense data anywhere: what is missing is absent in the result.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let response_code = u8_at(data, 0)?;
        let mut sense = match response_code & 0x7f {
            0x70 | 0x71 => Self::parse_fixed(data)?,
            0x72 | 0x73 => Self::parse_descriptor(data)?,
            _ => return None,
        };
        sense.deferred = response_code & 1 == 1;
        Some(sense)
    }

    fn parse_fixed(data: &[u8]) -> Option<Self> {
        let flags = u8_at(data, 2)?;
        let mut sense = Self::new(
            SenseKey::from_nibble(flags),
            AdditionalSense::new(u8_at(data, 12)?, u8_at(data, 13)?),
        );
        sense.stream = StreamFlags::from_bits_truncate(flags);
        if u8_at(data, 0)? & VALID != 0 {
            sense.information = u32_at(data, 3).map(u64::from);
        }
        // There is no bit that says whether this field means anything: zero is taken for "nothing".
        sense.command_specific = u32_at(data, 8).filter(|&s| s != 0).map(u64::from);
        sense.key_specific =
            bytes_at(data, 15).and_then(|bytes| KeySpecific::from_bytes(sense.key, bytes));
        Some(sense)
    }

    fn parse_descriptor(data: &[u8]) -> Option<Self> {
        let mut sense = Self::new(
            SenseKey::from_nibble(u8_at(data, 1)?),
            AdditionalSense::new(u8_at(data, 2)?, u8_at(data, 3)?),
        );
        let end = 8 + usize::from(u8_at(data, 7).unwrap_or(0));
        let mut rest = data.get(8..end.min(data.len())).unwrap_or_default();
        while let (Some(kind), Some(len)) = (u8_at(rest, 0), u8_at(rest, 1)) {
            match kind {
                0x00 if u8_at(rest, 2).is_some_and(|b| b & VALID != 0) => {
                    sense.information = u64_at(rest, 4);
                }
                0x01 => sense.command_specific = u64_at(rest, 4),
                0x02 => {
                    sense.key_specific =
                        bytes_at(rest, 4).and_then(|b| KeySpecific::from_bytes(sense.key, b));
                }
                // Stream commands, and block commands, which have ILI alone at the same place.
                0x04 => sense.stream |= stream_bits(rest, StreamFlags::all()),
                0x05 => sense.stream |= stream_bits(rest, StreamFlags::INCORRECT_LENGTH),
                _ => {}
            }
            rest = rest.get(2 + usize::from(len)..).unwrap_or_default();
        }
        Some(sense)
    }
}

fn stream_bits(descriptor: &[u8], meant: StreamFlags) -> StreamFlags {
    StreamFlags::from_bits_truncate(u8_at(descriptor, 3).unwrap_or(0)) & meant
}

impl KeySpecific {
    fn to_bytes(self) -> [u8; 3] {
        let (flags, [high, low]) = match self {
            Self::Field(FieldPointer { in_cdb, byte, bit }) => {
                let place = if in_cdb { IN_CDB } else { 0 };
                let bit = bit.map_or(0, |bit| BIT_POINTER_VALID | (bit & 7));
                (place | bit, byte.to_be_bytes())
            }
            Self::Progress(n) | Self::Retries(n) => (0, n.to_be_bytes()),
        };
        [SKSV | flags, high, low]
    }

    fn from_bytes(key: SenseKey, bytes: [u8; 3]) -> Option<Self> {
        let flags = bytes.u8::<0>();
        let value = u16_at(&bytes, 1)?;
        if flags & SKSV == 0 {
            return None;
        }
        match key {
            SenseKey::IllegalRequest => Some(Self::Field(FieldPointer {
                in_cdb: flags & IN_CDB != 0,
                byte: value,
                bit: (flags & BIT_POINTER_VALID != 0).then_some(flags & 7),
            })),
            SenseKey::NoSense | SenseKey::NotReady => Some(Self::Progress(value)),
            SenseKey::RecoveredError | SenseKey::MediumError | SenseKey::HardwareError => {
                Some(Self::Retries(value))
            }
            _ => None,
        }
    }
}
