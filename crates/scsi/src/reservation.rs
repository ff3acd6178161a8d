//! Persistent reservations on the wire: PERSISTENT RESERVE IN and OUT (SPC-4 6.15, 6.16).
//!
//! What the fields do is the target's affair; here are their places, and the one rule that needs no state: which
//! commands a reservation of each [`Kind`] keeps out ([`Kind::excludes`]).

mod transport_id;

use crate::be::{bytes_at, u8_at, u16_at, u32_at, u64_at};
use crate::sense::{AdditionalSense, Sense};

pub use transport_id::TransportId;

/// What a command does to the medium, as far as reservations are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Nothing that a reservation protects.
    None,
    /// It reads, or tells what only a reader should know.
    Read,
    /// It changes something, or keeps others from it.
    Write,
}

/// TYPE of a reservation. The SCOPE is always the logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Only the holder writes.
    WriteExclusive = 1,
    /// Only the holder reads and writes.
    ExclusiveAccess = 3,
    /// One holder; whoever is registered writes.
    WriteExclusiveRegistrants = 5,
    /// One holder; whoever is registered reads and writes.
    ExclusiveAccessRegistrants = 6,
    /// Whoever is registered holds it, and writes.
    WriteExclusiveAll = 7,
    /// Whoever is registered holds it, and reads and writes.
    ExclusiveAccessAll = 8,
}

impl Kind {
    /// All six.
    pub const ALL: [Kind; 6] = [
        Kind::WriteExclusive,
        Kind::ExclusiveAccess,
        Kind::WriteExclusiveRegistrants,
        Kind::ExclusiveAccessRegistrants,
        Kind::WriteExclusiveAll,
        Kind::ExclusiveAccessAll,
    ];

    /// Reads byte 2 of the CDB, SCOPE and TYPE.
    ///
    /// # Errors
    /// 5/24/00 for a scope other than the logical unit, and for a type that is not one of the six.
    pub fn from_cdb(scope_and_type: u8) -> Result<Kind, Sense> {
        if scope_and_type >> 4 != 0 {
            return Err(Sense::invalid_bits_in_cdb(2, 7));
        }
        Kind::from_type(scope_and_type).ok_or(Sense::invalid_bits_in_cdb(2, 3))
    }

    /// The kind of this number.
    #[must_use]
    pub fn from_type(number: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// Every registrant is a holder (types 7 and 8).
    #[must_use]
    pub const fn is_held_by_all(self) -> bool {
        matches!(self, Kind::WriteExclusiveAll | Kind::ExclusiveAccessAll)
    }

    /// Registrants may do what the holder may (types 5 to 8).
    #[must_use]
    pub const fn admits_registrants(self) -> bool {
        !matches!(self, Kind::WriteExclusive | Kind::ExclusiveAccess)
    }

    /// Whether a nexus that is not a holder is kept from commands of this effect (SC-042).
    #[must_use]
    pub const fn excludes(self, effect: Effect, registered: bool) -> bool {
        if registered && self.admits_registrants() {
            return false;
        }
        match effect {
            Effect::None => false,
            Effect::Write => true,
            Effect::Read => matches!(
                self,
                Kind::ExclusiveAccess | Kind::ExclusiveAccessRegistrants | Kind::ExclusiveAccessAll
            ),
        }
    }
}

/// SERVICE ACTION of PERSISTENT RESERVE IN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum In {
    /// 00h.
    ReadKeys,
    /// 01h.
    ReadReservation,
    /// 02h.
    ReportCapabilities,
    /// 03h.
    ReadFullStatus,
}

impl In {
    /// The action of this number.
    #[must_use]
    pub const fn from_service_action(number: u16) -> Option<In> {
        Some(match number {
            0 => In::ReadKeys,
            1 => In::ReadReservation,
            2 => In::ReportCapabilities,
            3 => In::ReadFullStatus,
            _ => return None,
        })
    }
}

/// SERVICE ACTION of PERSISTENT RESERVE OUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Out {
    /// 00h.
    Register,
    /// 01h.
    Reserve,
    /// 02h.
    Release,
    /// 03h.
    Clear,
    /// 04h.
    Preempt,
    /// 05h.
    PreemptAndAbort,
    /// 06h.
    RegisterAndIgnoreExistingKey,
    /// 07h.
    RegisterAndMove,
}

impl Out {
    /// The action of this number.
    #[must_use]
    pub const fn from_service_action(number: u16) -> Option<Out> {
        Some(match number {
            0 => Out::Register,
            1 => Out::Reserve,
            2 => Out::Release,
            3 => Out::Clear,
            4 => Out::Preempt,
            5 => Out::PreemptAndAbort,
            6 => Out::RegisterAndIgnoreExistingKey,
            7 => Out::RegisterAndMove,
            _ => return None,
        })
    }
}

/// The parameter list of PERSISTENT RESERVE OUT.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Parameters {
    /// RESERVATION KEY.
    pub key: u64,
    /// SERVICE ACTION RESERVATION KEY.
    pub action_key: u64,
    /// SPEC_I_PT: register these initiator ports too. `None` if the bit is 0.
    pub initiators: Option<Vec<TransportId>>,
    /// ALL_TG_PT: register through every target port.
    pub all_target_ports: bool,
    /// APTPL: keep everything over a loss of power.
    pub persist: bool,
    /// Where REGISTER AND MOVE moves to.
    pub destination: Destination,
}

/// What REGISTER AND MOVE says besides the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Destination {
    /// UNREG: the registration of the one who moves ends.
    pub unregister: bool,
    /// RELATIVE TARGET PORT IDENTIFIER.
    pub target_port: u16,
    /// The initiator port.
    pub initiator: TransportId,
}

/// Bytes in a parameter list without TransportIDs.
const HEADER: usize = 24;

impl Parameters {
    /// The longest list that is read: 255 initiator ports.
    pub const MAX_LEN: u32 = 28 + 255 * TransportId::SIZE as u32;

    /// Reads the list of `action`.
    ///
    /// # Errors
    /// 5/1A/00 for a list of another length than the action has, 5/26/00 for a TransportID that no SAS port has.
    pub fn parse(action: Out, list: &[u8]) -> Result<Parameters, Sense> {
        let length_error = Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
        let key = u64_at(list, 0).ok_or(length_error)?;
        let action_key = u64_at(list, 8).ok_or(length_error)?;
        let parameters = Parameters {
            key,
            action_key,
            ..Parameters::default()
        };
        if action == Out::RegisterAndMove {
            let flags = u8_at(list, 17).ok_or(length_error)?;
            let target_port = u16_at(list, 18).ok_or(length_error)?;
            let announced = u32_at(list, 20).ok_or(length_error)?;
            let id = list.get(HEADER..).unwrap_or_default();
            if usize::try_from(announced) != Ok(id.len()) {
                return Err(length_error);
            }
            let id = bytes_at(id, 0).filter(|_| id.len() == TransportId::LEN);
            return Ok(Parameters {
                persist: flags & 0x01 != 0,
                destination: Destination {
                    unregister: flags & 0x02 != 0,
                    target_port,
                    initiator: TransportId::parse(id.ok_or(length_error)?)
                        .ok_or(Sense::invalid_field_in_parameters(24))?,
                },
                ..parameters
            });
        }
        let flags = u8_at(list, 20).ok_or(length_error)?;
        let listed = list.get(HEADER..).ok_or(length_error)?;
        let registers = matches!(action, Out::Register | Out::RegisterAndIgnoreExistingKey);
        let initiators = if registers && flags & 0x08 != 0 {
            Some(initiators(listed, length_error)?)
        } else if listed.is_empty() {
            None
        } else {
            return Err(length_error);
        };
        Ok(Parameters {
            initiators,
            all_target_ports: registers && flags & 0x04 != 0,
            persist: registers && flags & 0x01 != 0,
            ..parameters
        })
    }
}

/// The additional parameter data of SPEC_I_PT: a length, and TransportIDs.
fn initiators(data: &[u8], length_error: Sense) -> Result<Vec<TransportId>, Sense> {
    let announced = u32_at(data, 0).ok_or(length_error)?;
    let ids = data.get(4..).unwrap_or_default();
    if usize::try_from(announced) != Ok(ids.len()) || !ids.len().is_multiple_of(TransportId::LEN) {
        return Err(length_error);
    }
    ids.chunks_exact(TransportId::LEN)
        .map(|id| bytes_at(id, 0).and_then(TransportId::parse))
        .collect::<Option<_>>()
        .ok_or(Sense::invalid_field_in_parameters(28))
}

/// A reservation as PERSISTENT RESERVE IN shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The holder's key; 0 if all registrants are holders.
    pub key: u64,
    /// Its type.
    pub kind: Kind,
}

/// One registration in READ FULL STATUS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FullStatus {
    /// Its key.
    pub key: u64,
    /// The type of the reservation that it holds, if it does.
    pub holds: Option<Kind>,
    /// RELATIVE TARGET PORT IDENTIFIER.
    pub target_port: u16,
    /// The initiator port.
    pub initiator: TransportId,
}

/// What REPORT CAPABILITIES tells apart; everything else is always supported: ALL_TG_PT, SPEC_I_PT, the exceptions for
/// SPC-2 reservations (CRH), all six types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// PTPL_C: reservations can be kept over a loss of power.
    pub can_persist: bool,
    /// PTPL_A: they are.
    pub persists: bool,
}

/// Appends READ KEYS data.
pub fn read_keys(out: &mut Vec<u8>, generation: u32, keys: impl IntoIterator<Item = u64>) {
    with_length(out, generation, |out| {
        out.extend(keys.into_iter().flat_map(u64::to_be_bytes));
    });
}

/// Appends READ RESERVATION data.
pub fn read_reservation(out: &mut Vec<u8>, generation: u32, reservation: Option<Reservation>) {
    with_length(out, generation, |out| {
        if let Some(Reservation { key, kind }) = reservation {
            out.extend(key.to_be_bytes());
            out.extend([0, 0, 0, 0, 0, kind as u8, 0, 0]);
        }
    });
}

/// Appends READ FULL STATUS data.
pub fn read_full_status(
    out: &mut Vec<u8>,
    generation: u32,
    registrations: impl IntoIterator<Item = FullStatus>,
) {
    with_length(out, generation, |out| {
        for status in registrations {
            out.extend(status.key.to_be_bytes());
            let holder = u8::from(status.holds.is_some());
            let kind = status.holds.map_or(0, |kind| kind as u8);
            out.extend([0, 0, 0, 0, holder, kind, 0, 0, 0, 0]);
            out.extend(status.target_port.to_be_bytes());
            out.extend([0, 0, 0, TransportId::SIZE]);
            out.extend(status.initiator.to_bytes());
        }
    });
}

/// REPORT CAPABILITIES data.
#[must_use]
pub fn report_capabilities(capabilities: Capabilities) -> [u8; 8] {
    let crh_sip_atp = 0b0001_1100;
    [
        0,
        8,
        crh_sip_atp | u8::from(capabilities.can_persist),
        0x80 | u8::from(capabilities.persists),
        0xea,
        0x01,
        0,
        0,
    ]
}

/// PRGENERATION, ADDITIONAL LENGTH, and what follows.
fn with_length(out: &mut Vec<u8>, generation: u32, body: impl FnOnce(&mut Vec<u8>)) {
    out.extend(generation.to_be_bytes());
    let start = out.len();
    out.extend([0; 4]);
    body(out);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(start..start + 4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

#[cfg(test)]
mod tests;
