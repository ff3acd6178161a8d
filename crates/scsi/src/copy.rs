//! EXTENDED COPY (LID1) and RECEIVE COPY RESULTS (SPC-4 6.4, 6.18 f., SC-064, SC-065): what an initiator asks a copy
//! manager for, and what it hears about it.

use crate::be::{Fields, u8_at, u16_at, u32_at};
use crate::sense::{AdditionalSense, Sense};

/// What a copy manager takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// MAXIMUM CSCD DESCRIPTOR COUNT.
    pub cscds: u16,
    /// MAXIMUM SEGMENT DESCRIPTOR COUNT.
    pub segments: u16,
    /// MAXIMUM SEGMENT LENGTH in bytes.
    pub segment_bytes: u32,
    /// Copies at a time.
    pub concurrent: u8,
    /// DATA SEGMENT GRANULARITY: what segments are multiples of, as a power of two.
    pub granularity: u8,
}

impl Limits {
    /// MAXIMUM DESCRIPTOR LIST LENGTH: room for as many descriptors as there may be, of the longest kind.
    #[must_use]
    pub const fn list_bytes(&self) -> u32 {
        (self.cscds as u32 + self.segments as u32) * 32
    }
}

/// DESCRIPTOR TYPE CODE values.
pub mod code {
    /// Block device to block device.
    pub const BLOCK_TO_BLOCK: u8 = 0x02;
    /// The same, counted in bytes.
    pub const BLOCK_TO_BLOCK_BYTES: u8 = 0x0a;
    /// Identification descriptor CSCD.
    pub const IDENTIFICATION: u8 = 0xe4;
    /// All that [`parse`](super::parse) knows, ascending.
    pub const SUPPORTED: [u8; 3] = [BLOCK_TO_BLOCK, BLOCK_TO_BLOCK_BYTES, IDENTIFICATION];
}

/// LIST ID USAGE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListId {
    /// The result is kept under this number.
    Held(u8),
    /// There is none to be kept.
    None,
}

/// A parameter list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy<'a> {
    /// Under which number its result is asked for.
    pub list_id: ListId,
    /// Copy sources and copy destinations.
    pub cscds: Vec<Cscd<'a>>,
    /// What to copy.
    pub segments: Vec<Segment>,
}

/// A copy source or copy destination: a logical unit, by one of its designators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cscd<'a> {
    /// Where its descriptor starts in the list.
    pub at: u16,
    /// LU ID TYPE: reserved before SPC-4, ignored since.
    pub lu_id_type: u8,
    /// NUL, obsolete since SPC-4.
    pub null: bool,
    /// PERIPHERAL DEVICE TYPE.
    pub device_type: u8,
    /// RELATIVE INITIATOR PORT IDENTIFIER; 0 = any.
    pub initiator_port: u16,
    /// CODE SET, ASSOCIATION and DESIGNATOR TYPE as the first two bytes of a designator have them.
    pub kind: [u8; 2],
    /// DESIGNATOR.
    pub designator: &'a [u8],
    /// DISK BLOCK LENGTH.
    pub block_length: u32,
}

/// How much a segment copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Logical blocks of the source.
    SourceBlocks(u16),
    /// Logical blocks of the destination (DC).
    DestinationBlocks(u16),
    /// Bytes, and where they start in the first block of either side.
    Bytes {
        /// How many.
        count: u32,
        /// In the source's block.
        source_offset: u16,
        /// In the destination's block.
        destination_offset: u16,
    },
}

/// One piece of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where its descriptor starts in the list.
    pub at: u16,
    /// Which CSCD to copy from.
    pub source: u16,
    /// Which CSCD to copy to.
    pub destination: u16,
    /// How much.
    pub amount: Amount,
    /// First block at the source.
    pub source_lba: u64,
    /// First block at the destination.
    pub destination_lba: u64,
}

const HEADER: usize = 16;
const CSCD: usize = 32;

const LENGTH: Sense = Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);

/// Reads a whole list before anything of it is done. `list` is as long as the PARAMETER LIST LENGTH; `None` for an empty
/// one, which asks for nothing.
///
/// # Errors
/// - 5/1A/00 for a list that is cut off or longer than the limit,
/// - 5/26/06 to 5/26/0B for too many descriptors, types that are not known, and inline data,
/// - 5/26/00 for fields that cannot have their value.
pub fn parse(list: &[u8], limits: Limits) -> Result<Option<Copy<'_>>, Sense> {
    if list.is_empty() {
        return Ok(None);
    }
    let header: [u8; HEADER] = *list.first_chunk().ok_or(LENGTH)?;
    let (cscd_bytes, segment_bytes) = (u32::from(header.u16::<2>()), header.u32::<8>());
    if header.u32::<12>() != 0 {
        return Err(refused(
            AdditionalSense::INLINE_DATA_LENGTH_EXCEEDED,
            12,
            None,
        ));
    }
    let list_id = match header.u8::<1>() >> 3 & 3 {
        0b00 | 0b10 => ListId::Held(header.u8::<0>()),
        0b11 if header.u8::<0>() == 0 => ListId::None,
        0b11 => return Err(Sense::invalid_field_in_parameters(0)),
        _ => return Err(Sense::invalid_bits_in_parameters(1, 4)),
    };
    let total = u64::from(cscd_bytes) + u64::from(segment_bytes);
    if total > u64::from(limits.list_bytes()) {
        return Err(LENGTH);
    }
    let rest = list.get(HEADER..).unwrap_or_default();
    let cscd_bytes = usize::try_from(cscd_bytes).map_err(|_| LENGTH)?;
    let segment_bytes = usize::try_from(segment_bytes).map_err(|_| LENGTH)?;
    let (cscds, rest) = rest.split_at_checked(cscd_bytes).ok_or(LENGTH)?;
    let segments = rest.get(..segment_bytes).ok_or(LENGTH)?;
    Ok(Some(Copy {
        list_id,
        cscds: parse_cscds(cscds, limits)?,
        segments: parse_segments(segments, HEADER + cscd_bytes, limits)?,
    }))
}

fn parse_cscds(bytes: &[u8], limits: Limits) -> Result<Vec<Cscd<'_>>, Sense> {
    if bytes.len() > usize::from(limits.cscds) * CSCD {
        return Err(refused(
            AdditionalSense::TOO_MANY_TARGET_DESCRIPTORS,
            2,
            None,
        ));
    }
    let (descriptors, cut_off) = bytes.as_chunks::<CSCD>();
    if !cut_off.is_empty() {
        return Err(Sense::invalid_field_in_parameters(2)); // CSCD DESCRIPTOR LIST LENGTH
    }
    let parse = |(at, d): (usize, &'_ [u8; CSCD])| -> Result<Cscd<'_>, Sense> {
        let at = place(at);
        if d.u8::<0>() != code::IDENTIFICATION {
            let unknown = AdditionalSense::UNSUPPORTED_TARGET_DESCRIPTOR_TYPE;
            return Err(refused(unknown, at, None));
        }
        let length = usize::from(d.u8::<7>());
        let designator = (bytes.get(usize::from(at) - HEADER + 8..))
            .and_then(|from| from.get(..length))
            .filter(|_| length <= 20)
            .ok_or(Sense::invalid_field_in_parameters(at + 7))?;
        Ok(Cscd {
            at,
            lu_id_type: d.u8::<1>() >> 6,
            null: d.u8::<1>() & 0x20 != 0,
            device_type: d.u8::<1>() & 0x1f,
            initiator_port: d.u16::<2>(),
            kind: [d.u8::<4>() & 0x0f, d.u8::<5>() & 0x3f],
            designator,
            block_length: d.u24::<29>(),
        })
    };
    (HEADER..)
        .step_by(CSCD)
        .zip(descriptors)
        .map(parse)
        .collect()
}

fn parse_segments(mut rest: &[u8], start: usize, limits: Limits) -> Result<Vec<Segment>, Sense> {
    let end = start + rest.len();
    let mut segments = Vec::new();
    while !rest.is_empty() {
        let at = place(end - rest.len());
        let length = match u8_at(rest, 0) {
            Some(code::BLOCK_TO_BLOCK) => 28,
            Some(code::BLOCK_TO_BLOCK_BYTES) => 32,
            _ => {
                let unknown = AdditionalSense::UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE;
                return Err(refused(unknown, at, None));
            }
        };
        let (segment, behind) = rest.split_at_checked(length).ok_or(LENGTH)?;
        rest = behind;
        if segments.len() == usize::from(limits.segments) {
            return Err(refused(
                AdditionalSense::TOO_MANY_SEGMENT_DESCRIPTORS,
                8,
                None,
            ));
        }
        if u16_at(segment, 2).map(usize::from) != Some(length - 4) {
            return Err(Sense::invalid_field_in_parameters(at + 2)); // DESCRIPTOR LENGTH
        }
        segments.push(parse_segment(at, segment).ok_or(LENGTH)?);
    }
    Ok(segments)
}

fn parse_segment(at: u16, segment: &[u8]) -> Option<Segment> {
    let fields: [u8; 28] = *segment.first_chunk()?;
    let amount = if fields.u8::<0>() == code::BLOCK_TO_BLOCK_BYTES {
        Amount::Bytes {
            count: u32_at(segment, 8)?,
            source_offset: u16_at(segment, 28)?,
            destination_offset: u16_at(segment, 30)?,
        }
    } else if fields.u8::<1>() & 0x02 != 0 {
        Amount::DestinationBlocks(fields.u16::<10>())
    } else {
        Amount::SourceBlocks(fields.u16::<10>())
    };
    Some(Segment {
        at,
        source: fields.u16::<4>(),
        destination: fields.u16::<6>(),
        amount,
        source_lba: fields.u64::<12>(),
        destination_lba: fields.u64::<20>(),
    })
}

fn place(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}

const fn refused(why: AdditionalSense, byte: u16, bit: Option<u8>) -> Sense {
    Sense::illegal_request(why).at_parameter(byte, bit)
}

/// What has become of a copy, in the words of RECEIVE COPY RESULTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CopyState {
    /// It is under way.
    InProgress = 0,
    /// It ended without errors.
    Done = 1,
    /// It ended with errors.
    Failed = 2,
}

/// RECEIVE COPY RESULTS data with service action COPY STATUS.
#[must_use]
pub fn status(state: CopyState, segments: u16, bytes: u64) -> [u8; 12] {
    let mut data = [0; 12];
    data.put_u32::<0>(8);
    data.put_u8::<4>(state as u8);
    data.put_u16::<5>(segments);
    // TRANSFER COUNT in bytes as long as it fits, else in units of 1024.
    match u32::try_from(bytes) {
        Ok(bytes) => data.put_u32::<8>(bytes),
        Err(_) => {
            data.put_u8::<7>(1);
            data.put_u32::<8>(u32::try_from(bytes >> 10).unwrap_or(u32::MAX));
        }
    }
    data
}

/// RECEIVE COPY RESULTS data with service action OPERATING PARAMETERS.
#[must_use]
pub fn operating_parameters(limits: Limits) -> [u8; 47] {
    let mut data = [0; 47];
    data.put_u32::<0>(43);
    data.put_u8::<4>(0x01); // SNLID: LIST ID USAGE 11b
    data.put_u16::<8>(limits.cscds);
    data.put_u16::<10>(limits.segments);
    data.put_u32::<12>(limits.list_bytes());
    data.put_u32::<16>(limits.segment_bytes);
    data.put_u16::<34>(limits.concurrent.into());
    data.put_u8::<36>(limits.concurrent);
    data.put_u8::<37>(limits.granularity);
    data.put_u8::<43>(3);
    data.put::<44, 3>(code::SUPPORTED);
    data
}

#[cfg(test)]
mod tests;
