//! The structures of virtio-scsi, as a driver writes and reads them (VS-020, VS-030 to VS-061).

use lunar_scsi::Lun;

/// Bytes of CDB in a request; the value that a controller starts with (VS-003).
pub(crate) const CDB: usize = 32;
/// Bytes of sense data in a response; the value that a controller starts with (VS-003).
const SENSE: usize = 96;
/// Bytes of a request before its data.
pub(crate) const REQUEST: usize = 19 + CDB;
/// Bytes of a response before its data.
pub(crate) const RESPONSE: usize = 12 + SENSE;
/// Bytes of an event.
pub(crate) const EVENT: usize = 16;
/// The same, as descriptors count.
pub(crate) const EVENT_LEN: u32 = 16;

/// The eight bytes that address a logical unit. Tests may use any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub [u8; 8]);

impl Address {
    /// The REPORT LUNS well-known logical unit (VS-021).
    pub const REPORT_LUNS: Address = Address([0xC1, 1, 0, 0, 0, 0, 0, 0]);

    /// A LUN behind a target, in flat form whatever its number, as Linux writes it (VS-022).
    pub fn new(target: u8, lun: Lun) -> Address {
        let [high, low] = lun.number().to_be_bytes();
        Address([1, target, 0x40 | high, low, 0, 0, 0, 0])
    }

    /// The same with peripheral form below 256, as Windows writes it.
    pub fn peripheral(target: u8, lun: Lun) -> Address {
        let [high, low] = lun.to_single_level();
        Address([1, target, high, low, 0, 0, 0, 0])
    }
}

/// How a command is to be ordered (VS-033).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "SAM's names")]
pub enum TaskAttribute {
    #[default]
    Simple = 0,
    Ordered = 1,
    HeadOfQueue = 2,
    Aca = 3,
}

/// What a task management request asks for (VS-050).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "SAM's names")]
pub enum TaskFunction {
    AbortTask = 0,
    AbortTaskSet = 1,
    ClearAca = 2,
    ClearTaskSet = 3,
    NexusReset = 4,
    LunReset = 5,
    QueryTask = 6,
    QueryTaskSet = 7,
}

/// Response codes (VS-034, VS-051).
#[expect(missing_docs, reason = "the specification's names")]
pub mod response {
    pub const OK: u8 = 0;
    pub const OVERRUN: u8 = 1;
    pub const ABORTED: u8 = 2;
    pub const BAD_TARGET: u8 = 3;
    pub const RESET: u8 = 4;
    pub const BUSY: u8 = 5;
    pub const TRANSPORT_FAILURE: u8 = 6;
    pub const TARGET_FAILURE: u8 = 7;
    pub const NEXUS_FAILURE: u8 = 8;
    pub const FAILURE: u8 = 9;
    pub const FUNCTION_SUCCEEDED: u8 = 10;
    pub const FUNCTION_REJECTED: u8 = 11;
    pub const INCORRECT_LUN: u8 = 12;
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// One of [`response`]: whether the command reached a logical unit.
    pub response: u8,
    /// SCSI status.
    pub status: u8,
    /// Status qualifier.
    pub status_qualifier: u16,
    /// Bytes of the buffers that were not transferred.
    pub residual: u32,
    /// Sense data, as long as the server says it is.
    pub sense: Vec<u8>,
    /// What was read: the data-in buffer without the residual (whole, if the response does not say OK and GOOD).
    pub data: Vec<u8>,
    /// The used ring's length.
    pub written: u32,
}

impl Response {
    /// Whether the command reached a logical unit and ended with GOOD status.
    pub fn is_good(&self) -> bool {
        self.response == response::OK && self.status == 0
    }

    /// Sense key, ASC and ASCQ of the sense data in fixed or descriptor format, if there is any.
    pub fn sense_key(&self) -> Option<(u8, u8, u8)> {
        let byte = |at: usize| self.sense.get(at).copied();
        match byte(0)? & 0x7F {
            0x70 | 0x71 => Some((byte(2)? & 0xF, byte(12)?, byte(13)?)),
            0x72 | 0x73 => Some((byte(1)? & 0xF, byte(2)?, byte(3)?)),
            _ => None,
        }
    }

    /// A response without data, from its fixed part.
    pub(crate) fn parse(bytes: &[u8; RESPONSE], written: u32) -> Response {
        let sense_len = u32_at(bytes, 0);
        let sense = bytes.iter().skip(12).copied();
        let sense = sense.take(usize::try_from(sense_len).unwrap_or(SENSE));
        let [low, high, status, response] = u32_at(bytes, 8).to_le_bytes();
        Response {
            residual: u32_at(bytes, 4),
            status_qualifier: u16::from_le_bytes([low, high]),
            status,
            response,
            sense: sense.collect(),
            data: Vec::new(),
            written,
        }
    }
}

/// Something that the controller reports by itself (VS-060, VS-061).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Kind of event, without the bit for missed events.
    pub event: u32,
    /// Which logical unit.
    pub address: Address,
    /// Why.
    pub reason: u32,
    /// Whether earlier events were lost for want of buffers.
    pub missed: bool,
}

impl Event {
    /// Nothing, but for the report of missed events.
    pub const NONE: u32 = 0;
    /// A logical unit was reset (reason 0), appeared (1) or disappeared (2).
    pub const TRANSPORT_RESET: u32 = 1;
    /// Something that [`ControlQueue::subscribe`](crate::ControlQueue::subscribe) asked for.
    pub const ASYNC_NOTIFY: u32 = 2;
    /// A parameter changed; the reason holds ASC and ASCQ.
    pub const PARAM_CHANGE: u32 = 3;

    pub(crate) fn parse(bytes: &[u8; EVENT]) -> Event {
        const MISSED: u32 = 1 << 31;
        let event = u32_at(bytes, 0);
        let mut address = [0; 8];
        for (to, from) in address.iter_mut().zip(bytes.iter().skip(4)) {
            *to = *from;
        }
        Event {
            event: event & !MISSED,
            address: Address(address),
            reason: u32_at(bytes, 12),
            missed: event & MISSED != 0,
        }
    }
}

/// A request's fixed part.
pub(crate) fn request(
    address: Address,
    id: u64,
    attribute: TaskAttribute,
    cdb: &[u8],
) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    let head = address.0.into_iter().chain(id.to_le_bytes());
    let head = head.chain([attribute as u8, 0, 0]);
    for (to, from) in bytes.iter_mut().zip(head.chain(cdb.iter().copied())) {
        *to = from;
    }
    bytes
}

/// The little-endian word at `at`; 0 beyond the end.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|w| w.try_into().ok());
    u32::from_le_bytes(word.unwrap_or_default())
}
