//! What the bytes in the queues mean (VIRTIO 1.3 §5.6.6).

use lunar_scsi::be::Fields;
use lunar_scsi::{Lun, LunAddress};

use crate::config::Sizes;

/// The request header up to the CDB.
pub(crate) const REQUEST_FIXED: usize = 19;
/// The response up to the sense data.
pub(crate) const RESPONSE_FIXED: usize = 12;
/// The CDB as logical units take it.
pub(crate) const CDB: usize = 32;
/// Header bytes that are ever looked at; a longer CDB field is skipped.
pub(crate) const REQUEST_MAX: usize = REQUEST_FIXED + CDB;
/// The longest sense data there is (SPC-4 4.5: an additional length of 244 at most).
pub(crate) const SENSE_MAX: usize = 252;

/// How the transport fared with a request or a control message (VS-034, VS-051).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Response {
    /// The request reached the logical unit; for a task management function: function complete.
    Ok = 0,
    Overrun = 1,
    Aborted = 2,
    BadTarget = 3,
    Reset = 4,
    Failure = 9,
    FunctionSucceeded = 10,
    FunctionRejected = 11,
    IncorrectLun = 12,
}

/// Where a `lun` field points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A logical unit of a target.
    Unit { target: u8, lun: u16 },
    /// The REPORT LUNS well-known logical unit: of the whole device, or behind one target (VS-021).
    ReportLuns { target: Option<u8> },
}

impl Address {
    /// The target behind which it is, if it is behind one.
    #[inline]
    pub fn target(self) -> Option<u8> {
        match self {
            Address::Unit { target, .. } => Some(target),
            Address::ReportLuns { target } => target,
        }
    }

    /// Decodes a `lun` field; `None` when it addresses nothing there can be (VS-020, VS-022, VS-024).
    #[inline]
    pub fn decode(field: [u8; 8]) -> Option<Address> {
        let [1, target, hi, lo, 0, 0, 0, 0] = field else {
            let of_device = LunAddress::from_bytes(field) == Some(LunAddress::REPORT_LUNS);
            return of_device.then_some(Address::ReportLuns { target: None });
        };
        match LunAddress::from_single_level([hi, lo])? {
            LunAddress::Unit(lun) => Some(Address::Unit {
                target,
                lun: lun.number(),
            }),
            LunAddress::REPORT_LUNS => Some(Address::ReportLuns {
                target: Some(target),
            }),
            LunAddress::WellKnown(_) => None,
        }
    }
}

/// The `lun` field of an event: Linux compares all 16 bits with what REPORT LUNS gave it (VS-023).
fn event_lun(target: u8, lun: Lun) -> [u8; 8] {
    let [hi, lo] = lun.to_single_level();
    [1, target, hi, lo, 0, 0, 0, 0]
}

/// The first bytes of `bytes` from `at` on.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// How a command is ordered among the others of its task set (SAM-5 8.6, VS-033).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    Simple,
    Ordered,
    HeadOfQueue,
    Aca,
}

impl Attribute {
    /// One that does not exist is as good as SIMPLE (VS-033).
    fn decode(byte: u8) -> Attribute {
        match byte {
            1 => Attribute::Ordered,
            2 => Attribute::HeadOfQueue,
            3 => Attribute::Aca,
            _ => Attribute::Simple,
        }
    }
}

/// A request header (VS-030). The tag is the driver's; `prio` and `crn` are ignored (VS-033).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestHeader {
    pub lun: [u8; 8],
    pub tag: u64,
    pub attribute: Attribute,
    /// Zero-padded, or cut off, to 32 bytes.
    pub cdb: [u8; CDB],
}

impl RequestHeader {
    /// Bytes it has in the request.
    pub fn size(sizes: Sizes) -> usize {
        REQUEST_FIXED + usize::from(sizes.cdb)
    }

    /// Takes a header apart. `bytes` is zero behind the end of a short CDB field.
    #[inline]
    pub fn parse(bytes: &[u8; REQUEST_MAX]) -> RequestHeader {
        RequestHeader {
            lun: bytes.bytes::<0, 8>(),
            tag: u64::from_le_bytes(bytes.bytes::<8, 8>()),
            attribute: Attribute::decode(bytes.u8::<16>()),
            cdb: bytes.bytes::<REQUEST_FIXED, CDB>(),
        }
    }
}

/// A response header (VS-032); the sense data follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResponseHeader {
    pub sense_len: usize,
    pub residual: usize,
    pub status: u8,
    pub response: Response,
}

impl ResponseHeader {
    /// Bytes it has in the response, the sense field included.
    pub fn size(sizes: Sizes) -> usize {
        RESPONSE_FIXED + usize::from(sizes.sense)
    }

    #[inline]
    pub fn encode(&self) -> [u8; RESPONSE_FIXED] {
        // Neither reaches 2^32: a chain holds no more than that, and headers besides.
        let [s0, s1, s2, s3] = word(self.sense_len);
        let [r0, r1, r2, r3] = word(self.residual);
        // Between them the status qualifier, which has nothing to say.
        let (status, response) = (self.status, self.response as u8);
        [s0, s1, s2, s3, r0, r1, r2, r3, 0, 0, status, response]
    }
}

fn word(value: usize) -> [u8; 4] {
    u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes()
}

/// Bytes of a task management request, the longest control message.
pub(crate) const CONTROL_MAX: usize = 24;

/// A message of the control queue (VS-050, VS-055).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ControlRequest {
    TaskManagement {
        function: Option<TaskManagement>,
        lun: [u8; 8],
        tag: u64,
    },
    /// AN_QUERY and AN_SUBSCRIBE: which asynchronous notifications there are, or shall be sent.
    Notifications {
        lun: [u8; 8],
    },
    Unknown,
}

/// Task management functions (SAM-5 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskManagement {
    AbortTask,
    AbortTaskSet,
    ClearAca,
    ClearTaskSet,
    NexusReset,
    UnitReset,
    QueryTask,
    QueryTaskSet,
}

impl ControlRequest {
    /// Takes a message apart; `None` when it is too short to be one.
    pub fn parse(bytes: &[u8]) -> Option<ControlRequest> {
        let word = |at| field(bytes, at).map(u32::from_le_bytes);
        Some(match word(0)? {
            0 => ControlRequest::TaskManagement {
                function: match word(4)? {
                    0 => Some(TaskManagement::AbortTask),
                    1 => Some(TaskManagement::AbortTaskSet),
                    2 => Some(TaskManagement::ClearAca),
                    3 => Some(TaskManagement::ClearTaskSet),
                    4 => Some(TaskManagement::NexusReset),
                    5 => Some(TaskManagement::UnitReset),
                    6 => Some(TaskManagement::QueryTask),
                    7 => Some(TaskManagement::QueryTaskSet),
                    _ => None,
                },
                lun: field(bytes, 8)?,
                tag: u64::from_le_bytes(field(bytes, 16)?),
            },
            1 | 2 => {
                word(12)?;
                ControlRequest::Notifications {
                    lun: field(bytes, 4)?,
                }
            }
            _ => ControlRequest::Unknown,
        })
    }
}

/// Bytes of an event.
pub(crate) const EVENT: usize = 16;

/// What can be reported on the event queue (VS-061).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Nothing but the flag that others were missed.
    None,
    /// A logical unit has appeared.
    Rescan { target: u8, lun: Lun },
    /// A logical unit has gone.
    Removed { target: u8, lun: Lun },
    /// Something about a logical unit has changed; the additional sense code and its qualifier say what.
    ParamChange {
        target: u8,
        lun: Lun,
        asc: u8,
        ascq: u8,
    },
}

/// Set in an event when others before it were lost (VS-062).
const EVENTS_MISSED: u32 = 1 << 31;

impl Event {
    pub fn encode(self, missed: bool) -> [u8; EVENT] {
        let (event, lun, reason) = match self {
            Event::None => (0, [0; 8], 0),
            Event::Rescan { target, lun } => (1, event_lun(target, lun), 1),
            Event::Removed { target, lun } => (1, event_lun(target, lun), 2),
            Event::ParamChange {
                target,
                lun,
                asc,
                ascq,
            } => (
                3,
                event_lun(target, lun),
                u32::from(asc) | u32::from(ascq) << 8,
            ),
        };
        let event: u32 = event | if missed { EVENTS_MISSED } else { 0 };
        let mut bytes = [0; EVENT];
        let all = event
            .to_le_bytes()
            .into_iter()
            .chain(lun)
            .chain(reason.to_le_bytes());
        for (to, from) in bytes.iter_mut().zip(all) {
            *to = from;
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_senders_forms_of_a_lun_name_the_same_unit() {
        let unit = |target, lun| Some(Address::Unit { target, lun });
        assert_eq!(Address::decode([1, 7, 0, 5, 0, 0, 0, 0]), unit(7, 5));
        assert_eq!(Address::decode([1, 7, 0x40, 5, 0, 0, 0, 0]), unit(7, 5));
        assert_eq!(
            Address::decode([1, 255, 0x7F, 0xFF, 0, 0, 0, 0]),
            unit(255, 16383)
        );
    }

    #[test]
    fn malformed_lun_fields_address_nothing() {
        for field in [
            [0, 0, 0, 0, 0, 0, 0, 0],
            [2, 0, 0, 0, 0, 0, 0, 0],
            [1, 0, 0, 0, 0, 0, 0, 1],
            [1, 0, 0x01, 0, 0, 0, 0, 0],
            [1, 0, 0x80, 0, 0, 0, 0, 0],
            [1, 0, 0xC1, 2, 0, 0, 0, 0],
            [0xC1, 1, 0, 1, 0, 0, 0, 0],
            [0xC1, 2, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(Address::decode(field), None, "{field:x?}");
        }
    }

    #[test]
    fn the_report_luns_unit_is_found_on_the_device_and_behind_a_target() {
        let found = |target| Some(Address::ReportLuns { target });
        assert_eq!(Address::decode([0xC1, 1, 0, 0, 0, 0, 0, 0]), found(None));
        assert_eq!(Address::decode([1, 9, 0xC1, 1, 0, 0, 0, 0]), found(Some(9)));
    }

    #[test]
    fn events_carry_the_lun_as_report_luns_gives_it() {
        let lun = |number| Lun::new(number).unwrap();
        let rescan = Event::Rescan {
            target: 3,
            lun: lun(255),
        }
        .encode(false);
        assert_eq!(rescan, [1, 0, 0, 0, 1, 3, 0, 255, 0, 0, 0, 0, 1, 0, 0, 0]);
        let removed = Event::Removed {
            target: 3,
            lun: lun(256),
        }
        .encode(true);
        assert_eq!(
            removed,
            [1, 0, 0, 0x80, 1, 3, 0x41, 0, 0, 0, 0, 0, 2, 0, 0, 0]
        );
        let resized = Event::ParamChange {
            target: 0,
            lun: lun(0),
            asc: 0x2A,
            ascq: 9,
        }
        .encode(false);
        assert_eq!(resized, [3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x2A, 9, 0, 0]);
    }

    proptest! {
        #[test]
        fn every_event_lun_decodes_to_the_unit_it_is_about(target: u8, lun in 0u16..16384) {
            prop_assert_eq!(Address::decode(event_lun(target, Lun::new(lun).unwrap())), Some(Address::Unit { target, lun }));
        }
    }

    #[test]
    fn the_response_header_is_laid_out_as_specified() {
        let header = ResponseHeader {
            sense_len: 18,
            residual: 0x0102_0304,
            status: 2,
            response: Response::Overrun,
        };
        assert_eq!(header.encode(), [18, 0, 0, 0, 4, 3, 2, 1, 0, 0, 2, 1]);
    }
}
