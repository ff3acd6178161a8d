//! The one command table: everything that is known about a command before it is executed.
//!
//! A [`Row`] is one command of the standards. The table drives [`decode`] (unknown opcodes and service actions, reserved
//! bits), REPORT SUPPORTED OPERATION CODES ([`rsoc`](crate::rsoc)), the choice of what passes a unit attention or a
//! reservation, and the fuzzers. Adding a command is adding its row to `commands.rs` and its handler to a logical unit,
//! which matches on [`Operation`].
//!
//! What a logical unit supports follows from its [`Profile`]: its device type selects rows, its [`Features`] select rows
//! and single bits in them. A bit that is not supported is a reserved bit: it is refused, and it is absent from the usage
//! map that the initiator reads.

mod commands;

pub use commands::Operation;

use crate::alua::AccessClass;
use crate::be::Fields;
use crate::cdb::{Cdb, MAX_LEN};
use crate::reservation::Effect;
use crate::sense::{AdditionalSense, Sense};

/// PERIPHERAL DEVICE TYPE (SPC-4 6.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DeviceType {
    /// Direct access block device.
    Disk = 0x00,
    /// Sequential access device.
    Tape = 0x01,
    /// CD/DVD.
    Optical = 0x05,
    /// Media changer.
    Changer = 0x08,
    /// Well-known logical unit.
    WellKnown = 0x1e,
    /// Unknown or no device: the answer of a target for a LUN that it does not have.
    Absent = 0x1f,
}

bitflags::bitflags! {
    /// A set of device types.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DeviceTypes: u8 {
        /// [`DeviceType::Disk`].
        const DISK = 1 << 0;
        /// [`DeviceType::Tape`].
        const TAPE = 1 << 1;
        /// [`DeviceType::Optical`].
        const OPTICAL = 1 << 2;
        /// [`DeviceType::Changer`].
        const CHANGER = 1 << 3;
        /// [`DeviceType::WellKnown`].
        const WELL_KNOWN = 1 << 4;
        /// [`DeviceType::Absent`].
        const ABSENT = 1 << 5;
        /// Every real logical unit, but not the well-known one.
        const UNITS = Self::DISK.bits() | Self::TAPE.bits() | Self::OPTICAL.bits() | Self::CHANGER.bits();
    }

    /// What a logical unit can do beyond what every unit of its type can.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Features: u32 {
        /// DPO and FUA bits are accepted (DPOFUA in MODE SENSE).
        const DPO_FUA = 1 << 0;
        /// Logical block provisioning: UNMAP, and the UNMAP bit of WRITE SAME.
        const PROVISIONING = 1 << 1;
        /// The medium can be removed.
        const REMOVABLE = 1 << 2;
        /// The unit has a place for what outlives a restart: saved mode pages, identifying information.
        const SAVING = 1 << 3;
        /// The whole medium can be overwritten by SANITIZE, which outlives a restart.
        const SANITIZE = 1 << 4;
        /// All blocks can be given back by SANITIZE, and read as zeroes then.
        const BLOCK_ERASE = 1 << 5;
        /// A write can be promised to be done as a whole or not at all.
        const ATOMIC_WRITE = 1 << 6;
        /// Initiators choose the access states of its ports.
        const EXPLICIT_ALUA = 1 << 7;
    }
}

impl DeviceType {
    /// The set that has this member only.
    #[must_use]
    pub const fn as_set(self) -> DeviceTypes {
        match self {
            Self::Disk => DeviceTypes::DISK,
            Self::Tape => DeviceTypes::TAPE,
            Self::Optical => DeviceTypes::OPTICAL,
            Self::Changer => DeviceTypes::CHANGER,
            Self::WellKnown => DeviceTypes::WELL_KNOWN,
            Self::Absent => DeviceTypes::ABSENT,
        }
    }
}

/// Which commands, and which of their bits, a logical unit supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its device type.
    pub device: DeviceType,
    /// Its abilities.
    pub features: Features,
}

impl Profile {
    /// A profile without special features.
    #[must_use]
    pub const fn new(device: DeviceType) -> Self {
        Self {
            device,
            features: Features::empty(),
        }
    }

    /// The same with `features`.
    #[must_use]
    pub const fn with(self, features: Features) -> Self {
        Self {
            features: self.features.union(features),
            ..self
        }
    }

    /// The supported commands, in ascending order of opcode and service action.
    pub fn rows(self) -> impl Iterator<Item = &'static Row> + Clone {
        commands::TABLE
            .iter()
            .filter(move |row| row.is_supported_by(self))
    }

    /// The supported commands with this opcode.
    pub fn rows_of(self, opcode: u8) -> impl Iterator<Item = &'static Row> + Clone {
        commands::with_opcode(opcode)
            .iter()
            .filter(move |row| row.is_supported_by(self))
    }
}

/// Which way a command's data goes, if it has any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// It never has data.
    None,
    /// To the initiator (data-in).
    In,
    /// From the initiator (data-out).
    Out,
}

/// How a command fares under another nexus' persistent reservation: the groups of SC-042.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReservationClass {
    /// Allowed under every reservation.
    Always,
    /// Like a read: refused to those whom an *exclusive access* reservation shuts out.
    Read,
    /// Like a write: refused to those whom any reservation shuts out.
    Write,
    /// START STOP UNIT: [`Always`](Self::Always) if it starts without LOEJ or a power condition, else like a write.
    StartStop,
    /// PREVENT ALLOW MEDIUM REMOVAL: [`Always`](Self::Always) if it allows, else like a write.
    PreventAllow,
    /// RESERVE, RELEASE, PERSISTENT RESERVE IN and OUT: what they meet with is for each of them to say.
    Reservation,
}

impl ReservationClass {
    /// What a command of this class does as far as a persistent reservation is concerned.
    #[must_use]
    pub fn effect(self, cdb: Cdb<'_>) -> Effect {
        let flags = cdb.0.u8::<4>();
        match self {
            Self::Always | Self::Reservation => Effect::None,
            Self::Read => Effect::Read,
            // START = 1, LOEJ = 0, POWER CONDITION = 0.
            Self::StartStop if flags & 0xf3 == 0x01 => Effect::None,
            Self::PreventAllow if flags & 0x03 == 0 => Effect::None,
            Self::Write | Self::StartStop | Self::PreventAllow => Effect::Write,
        }
    }
}

/// Bits of a CDB that are reserved unless the logical unit has a feature.
#[derive(Clone, Copy, Debug)]
struct OptionalBits {
    feature: Features,
    /// The bits where they stand in the first 16 bytes, as [`Row::allowed`] has them.
    bits: u128,
}

/// One command.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What a logical unit does for it. Commands that differ only in the size of their fields share an operation.
    pub operation: Operation,
    /// Its name in the standards.
    pub name: &'static str,
    /// Which way its data goes.
    pub direction: Direction,
    /// How it fares under a reservation.
    pub reservation: ReservationClass,
    /// In which states of its target port group it is executed.
    pub access: AccessClass,
    /// It is executed while a unit attention is pending (SAM-5 5.14: INQUIRY, REPORT LUNS, REQUEST SENSE).
    pub passes_unit_attention: bool,
    /// After this many seconds an initiator may ask for progress; 0 = not indicated.
    pub nominal_timeout: u32,
    /// An initiator should not give up before so many seconds.
    pub recommended_timeout: u32,
    /// CDB usage data (SPC-4 6.35) of a unit without features: the opcode, the service action, and ones elsewhere for
    /// bits that mean something. Its length is the CDB's.
    usage: &'static [u8],
    optional: &'static [OptionalBits],
    service_action: Option<u16>,
    devices: DeviceTypes,
    requires: Features,
    /// NACA, where it stands in the first 16 bytes.
    naca: u128,
    /// Ones where a CDB may have ones, identity included: the two halves of 32 bytes, in memory order.
    allowed: [u128; 2],
}

impl Row {
    /// OPERATION CODE.
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        match self.usage {
            [opcode, ..] => *opcode,
            [] => 0,
        }
    }

    /// SERVICE ACTION, if the opcode has them.
    #[inline]
    #[must_use]
    pub const fn service_action(&self) -> Option<u16> {
        self.service_action
    }

    /// The CDB's length in bytes.
    #[must_use]
    pub const fn cdb_length(&self) -> usize {
        self.usage.len()
    }

    /// It is executed even while another nexus has reserved the unit as in SPC-2, or says itself what it meets with then
    /// (SC-045).
    #[must_use]
    pub fn minds_no_reservation(&self, cdb: Cdb<'_>) -> bool {
        match self.reservation {
            ReservationClass::Reservation => true,
            ReservationClass::PreventAllow => self.reservation.effect(cdb) == Effect::None,
            _ => self.passes_unit_attention,
        }
    }

    /// Whether a unit of this profile has the command.
    #[inline]
    #[must_use]
    pub const fn is_supported_by(&self, profile: Profile) -> bool {
        self.devices.intersects(profile.device.as_set()) && profile.features.contains(self.requires)
    }

    /// CDB usage data for a unit of this profile; the first [`cdb_length`](Self::cdb_length) bytes count.
    #[must_use]
    pub fn usage_map(&self, profile: Profile) -> [u8; MAX_LEN] {
        let mut map = [0; MAX_LEN];
        for (to, from) in map.iter_mut().zip(self.usage) {
            *to = *from;
        }
        let optional = self.optional_bits(profile).to_ne_bytes();
        for (to, from) in map.iter_mut().zip(optional) {
            *to |= from;
        }
        map
    }

    /// The optional bits that a unit of this profile has.
    #[inline]
    fn optional_bits(&self, profile: Profile) -> u128 {
        let present = |optional: &&OptionalBits| profile.features.contains(optional.feature);
        let naca = match DeviceTypes::UNITS.intersects(profile.device.as_set()) {
            true => self.naca,
            // What is not a unit of its own has no task set that could be stopped.
            false => 0,
        };
        self.optional
            .iter()
            .filter(present)
            .fold(naca, |all, optional| all | optional.bits)
    }

    /// Refuses bits that mean nothing in this command, with a pointer to the first of them (SC-006).
    #[inline]
    fn check_reserved(&self, profile: Profile, cdb: &[u8; MAX_LEN]) -> Result<(), Sense> {
        let [low, high] = self.allowed;
        let mut odd = [
            u128::from_ne_bytes(cdb.bytes::<0, 16>()) & !low,
            u128::from_ne_bytes(cdb.bytes::<16, 16>()) & !high,
        ];
        if odd == [0, 0] {
            return Ok(());
        }
        let [low, _] = &mut odd;
        *low &= !self.optional_bits(profile);
        if odd == [0, 0] {
            Ok(())
        } else {
            Err(point_at_first(odd))
        }
    }
}

/// Finds the command that `cdb` asks a unit of `profile` for.
///
/// # Errors
/// - 5/20/00 for an opcode that the unit does not have (5/25/00 if there is no unit),
/// - 5/24/00 with a field pointer for a service action that it does not have, and for bits that mean nothing in the
///   command, LINK in the CONTROL byte among them.
#[inline]
pub fn decode(profile: Profile, cdb: &[u8; MAX_LEN]) -> Result<&'static Row, Sense> {
    let view = Cdb(cdb);
    for row in commands::with_opcode(view.opcode()) {
        let wanted = row
            .service_action()
            .is_none_or(|action| action == view.service_action());
        if wanted && row.is_supported_by(profile) {
            if view.opcode() == 0x7f && view.additional_length() != ADDITIONAL_LENGTH {
                return Err(Sense::invalid_field_in_cdb(7));
            }
            return row.check_reserved(profile, cdb).map(|()| row);
        }
    }
    Err(unknown(profile, view))
}

/// ADDITIONAL CDB LENGTH of the variable-length commands: they have 32 bytes, of which the first 8 do not count.
const ADDITIONAL_LENGTH: u8 = 0x18;

/// 5/24/00 with a pointer to the leftmost of these bits.
#[cold]
fn point_at_first([low, high]: [u128; 2]) -> Sense {
    let bytes = low.to_ne_bytes().into_iter().chain(high.to_ne_bytes());
    let first = (0..)
        .zip(bytes)
        .find_map(|(at, bits)| Some((at, highest_bit(bits)?)));
    let (byte, bit) = first.unwrap_or_default();
    Sense::invalid_bits_in_cdb(byte, bit)
}

fn highest_bit(byte: u8) -> Option<u8> {
    (0..8).rev().find(|bit| byte >> bit & 1 == 1)
}

#[cold]
fn unknown(profile: Profile, cdb: Cdb<'_>) -> Sense {
    if profile.device == DeviceType::Absent {
        Sense::illegal_request(AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED)
    } else if profile.rows_of(cdb.opcode()).next().is_none() {
        Sense::illegal_request(AdditionalSense::INVALID_OPERATION_CODE)
    } else if cdb.opcode() == 0x7f {
        Sense::invalid_field_in_cdb(8)
    } else {
        Sense::invalid_bits_in_cdb(1, 4)
    }
}

#[cfg(test)]
mod tests;
