//! Sense data: why a command did not end in GOOD (SPC-4 4.5).
//!
//! [`Sense`] is the meaning, a small `Copy` value that travels through the code; [`Sense::encode`] turns it into one of
//! the two wire formats at the very end, and [`Sense::parse`] reads either.

mod additional;
mod wire;

use std::fmt;

pub use additional::AdditionalSense;
pub use wire::{Format, SenseData};

/// The first classification of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SenseKey {
    /// Nothing to report.
    NoSense = 0x0,
    /// The command succeeded with some recovery action.
    RecoveredError = 0x1,
    /// The logical unit is not accessible; operator intervention may help.
    NotReady = 0x2,
    /// A flaw of the medium.
    MediumError = 0x3,
    /// A hardware failure that could not be recovered.
    HardwareError = 0x4,
    /// The initiator asked for something wrong.
    IllegalRequest = 0x5,
    /// Something happened that this nexus has to know first.
    UnitAttention = 0x6,
    /// Protected data: write-protected, or no space.
    DataProtect = 0x7,
    /// Blank or non-blank medium where the other was expected.
    BlankCheck = 0x8,
    /// Vendor specific.
    VendorSpecific = 0x9,
    /// A third-party copy was aborted.
    CopyAborted = 0xa,
    /// The logical unit aborted the command; a retry may help.
    AbortedCommand = 0xb,
    /// Buffered data could not be written: end of medium.
    VolumeOverflow = 0xd,
    /// The data and the medium differ.
    Miscompare = 0xe,
    /// Completion information for a command that succeeded.
    Completed = 0xf,
    /// 0Ch, not used by the standard any more.
    Obsolete = 0xc,
}

impl SenseKey {
    /// The key in the low four bits of `byte`.
    #[must_use]
    pub const fn from_nibble(byte: u8) -> Self {
        match byte & 0x0f {
            0x0 => Self::NoSense,
            0x1 => Self::RecoveredError,
            0x2 => Self::NotReady,
            0x3 => Self::MediumError,
            0x4 => Self::HardwareError,
            0x5 => Self::IllegalRequest,
            0x6 => Self::UnitAttention,
            0x7 => Self::DataProtect,
            0x8 => Self::BlankCheck,
            0x9 => Self::VendorSpecific,
            0xa => Self::CopyAborted,
            0xb => Self::AbortedCommand,
            0xd => Self::VolumeOverflow,
            0xe => Self::Miscompare,
            0xf => Self::Completed,
            _ => Self::Obsolete,
        }
    }
}

impl fmt::Display for SenseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSense => "NO SENSE",
            Self::RecoveredError => "RECOVERED ERROR",
            Self::NotReady => "NOT READY",
            Self::MediumError => "MEDIUM ERROR",
            Self::HardwareError => "HARDWARE ERROR",
            Self::IllegalRequest => "ILLEGAL REQUEST",
            Self::UnitAttention => "UNIT ATTENTION",
            Self::DataProtect => "DATA PROTECT",
            Self::BlankCheck => "BLANK CHECK",
            Self::VendorSpecific => "VENDOR SPECIFIC",
            Self::CopyAborted => "COPY ABORTED",
            Self::AbortedCommand => "ABORTED COMMAND",
            Self::VolumeOverflow => "VOLUME OVERFLOW",
            Self::Miscompare => "MISCOMPARE",
            Self::Completed => "COMPLETED",
            Self::Obsolete => "obsolete sense key",
        })
    }
}

/// Where the field in error is (SC-030): in the CDB or in the parameter data, at which byte, and, if it is not
/// the whole byte, at which bit (the leftmost of the field).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FieldPointer {
    /// In the CDB (C/D = 1), or else in the data-out parameter list.
    pub in_cdb: bool,
    /// The byte the field starts at.
    pub byte: u16,
    /// Bit 7 to 0 of that byte, if the pointer is that precise.
    pub bit: Option<u8>,
}

/// The SENSE KEY SPECIFIC field; its meaning depends on the sense key (SC-030).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeySpecific {
    /// ILLEGAL REQUEST: what is wrong.
    Field(FieldPointer),
    /// NO SENSE and NOT READY: how far a background operation is, in 65536ths.
    Progress(u16),
    /// RECOVERED, MEDIUM and HARDWARE ERROR: how many retries were made.
    Retries(u16),
}

bitflags::bitflags! {
    /// The stream bits of sense data (SSC-4); a disk sets none of them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct StreamFlags: u8 {
        /// FILEMARK: a filemark or setmark was read.
        const FILEMARK = 0x80;
        /// EOM: beyond early warning, or at the beginning of the partition.
        const END_OF_MEDIUM = 0x40;
        /// ILI: the requested length did not match the block's.
        const INCORRECT_LENGTH = 0x20;
    }
}

/// Sense data by meaning, independent of its wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sense {
    /// The kind of trouble.
    pub key: SenseKey,
    /// The trouble (ASC and ASCQ).
    pub additional: AdditionalSense,
    /// It concerns an earlier command (response codes 71h and 73h).
    pub deferred: bool,
    /// FILEMARK, EOM and ILI.
    pub stream: StreamFlags,
    /// Device-type specific, for READ and WRITE the first failing LBA (SC-031).
    pub information: Option<u64>,
    /// Depends on the command.
    pub command_specific: Option<u64>,
    /// Depends on the key.
    pub key_specific: Option<KeySpecific>,
}

impl Sense {
    /// NO SENSE, 0/00/00.
    pub const NONE: Self = Self::new(SenseKey::NoSense, AdditionalSense::NONE);

    /// Sense data that consists of a key and an additional sense code.
    #[must_use]
    pub const fn new(key: SenseKey, additional: AdditionalSense) -> Self {
        Self {
            key,
            additional,
            deferred: false,
            stream: StreamFlags::empty(),
            information: None,
            command_specific: None,
            key_specific: None,
        }
    }

    /// 5/ASC/ASCQ.
    #[must_use]
    pub const fn illegal_request(additional: AdditionalSense) -> Self {
        Self::new(SenseKey::IllegalRequest, additional)
    }

    /// 2/ASC/ASCQ.
    #[must_use]
    pub const fn not_ready(additional: AdditionalSense) -> Self {
        Self::new(SenseKey::NotReady, additional)
    }

    /// 6/ASC/ASCQ.
    #[must_use]
    pub const fn unit_attention(additional: AdditionalSense) -> Self {
        Self::new(SenseKey::UnitAttention, additional)
    }

    /// 5/24/00 with a pointer to the whole field that starts at `byte` of the CDB.
    #[must_use]
    pub const fn invalid_field_in_cdb(byte: u16) -> Self {
        Self::illegal_request(AdditionalSense::INVALID_FIELD_IN_CDB).at_cdb(byte, None)
    }

    /// 5/24/00 with a pointer to the field of the CDB whose leftmost bit is `bit` of `byte`.
    #[must_use]
    pub const fn invalid_bits_in_cdb(byte: u16, bit: u8) -> Self {
        Self::illegal_request(AdditionalSense::INVALID_FIELD_IN_CDB).at_cdb(byte, Some(bit))
    }

    /// 5/26/00 with a pointer to the whole field that starts at `byte` of the parameter list.
    #[must_use]
    pub const fn invalid_field_in_parameters(byte: u16) -> Self {
        Self::illegal_request(AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST)
            .at_parameter(byte, None)
    }

    /// 5/26/00 with a pointer to the field of the parameter list whose leftmost bit is `bit` of `byte`.
    #[must_use]
    pub const fn invalid_bits_in_parameters(byte: u16, bit: u8) -> Self {
        Self::illegal_request(AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST)
            .at_parameter(byte, Some(bit))
    }

    /// The same, pointing into the CDB.
    #[must_use]
    pub const fn at_cdb(mut self, byte: u16, bit: Option<u8>) -> Self {
        self.key_specific = Some(KeySpecific::Field(FieldPointer {
            in_cdb: true,
            byte,
            bit,
        }));
        self
    }

    /// The same, pointing into the parameter list.
    #[must_use]
    pub const fn at_parameter(mut self, byte: u16, bit: Option<u8>) -> Self {
        self.key_specific = Some(KeySpecific::Field(FieldPointer {
            in_cdb: false,
            byte,
            bit,
        }));
        self
    }

    /// The same, with an INFORMATION field.
    #[must_use]
    pub const fn with_information(mut self, information: u64) -> Self {
        self.information = Some(information);
        self
    }

    /// The same, with a progress indication in 65536ths (NO SENSE and NOT READY only).
    #[must_use]
    pub const fn with_progress(mut self, progress: u16) -> Self {
        self.key_specific = Some(KeySpecific::Progress(progress));
        self
    }
}

impl fmt::Display for Sense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.deferred {
            f.write_str("deferred ")?;
        }
        write!(f, "{}: {}", self.key, self.additional)?;
        match self.key_specific {
            Some(KeySpecific::Field(pointer)) => {
                let place = if pointer.in_cdb {
                    "CDB"
                } else {
                    "parameter list"
                };
                write!(f, ", {place} byte {}", pointer.byte)?;
                if let Some(bit) = pointer.bit {
                    write!(f, " bit {bit}")?;
                }
            }
            Some(KeySpecific::Progress(progress)) => {
                write!(f, ", {} % done", u32::from(progress) * 100 / 65536)?;
            }
            Some(KeySpecific::Retries(retries)) => write!(f, ", {retries} retries")?,
            None => {}
        }
        for (name, _) in self.stream.iter_names() {
            write!(f, ", {}", name.to_lowercase().replace('_', " "))?;
        }
        if let Some(information) = self.information {
            write!(f, ", information {information:#x}")?;
        }
        if let Some(specific) = self.command_specific {
            write!(f, ", command-specific information {specific:#x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
