//! The parameter list of UNMAP (SBC-3, SC-060).

use crate::be::{Fields, u16_at};
use crate::sense::{AdditionalSense, Sense};

/// What the unit takes, as its Block Limits page says; FFFFFFFFh = no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Logical blocks on the unit.
    pub capacity: u64,
    /// MAXIMUM UNMAP LBA COUNT: the sum over all descriptors.
    pub max_blocks: u32,
    /// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT.
    pub max_descriptors: u32,
}

/// A range of logical blocks, inside the unit's capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// The first.
    pub lba: u64,
    /// How many; may be 0.
    pub blocks: u32,
}

const HEADER: usize = 8;
const DESCRIPTOR: usize = 16;

/// Checks the whole list and then returns its ranges: a list with anything wrong in it unmaps nothing.
///
/// `list` is as long as the CDB's PARAMETER LIST LENGTH says; an empty one is no error. Bytes behind the last whole
/// descriptor are ignored.
///
/// # Errors
/// - 5/1A/00 if the header, or the descriptors that it announces, are cut off,
/// - 5/26/00 beyond a limit,
/// - 5/21/00 with the LBA for a range that is not all on the unit.
pub fn parse(list: &[u8], limits: Limits) -> Result<impl Iterator<Item = Range> + '_, Sense> {
    let descriptors = descriptors(list)?;
    if exceeds(descriptors.len() as u64, limits.max_descriptors) {
        return Err(Sense::invalid_field_in_parameters(2)); // UNMAP BLOCK DESCRIPTOR DATA LENGTH
    }
    let mut sum = 0;
    for (at, range) in (HEADER..).step_by(DESCRIPTOR).zip(ranges(descriptors)) {
        sum += u64::from(range.blocks); // at most 2^12 descriptors of 2^32 blocks
        if exceeds(sum, limits.max_blocks) {
            let field = u16::try_from(at + 8).unwrap_or(u16::MAX);
            return Err(Sense::invalid_field_in_parameters(field));
        }
        let end = range.lba.checked_add(u64::from(range.blocks));
        if end.is_none_or(|end| end > limits.capacity) {
            let sense = Sense::illegal_request(AdditionalSense::LBA_OUT_OF_RANGE);
            return Err(sense.with_information(range.lba));
        }
    }
    Ok(ranges(descriptors))
}

fn exceeds(value: u64, limit: u32) -> bool {
    limit != u32::MAX && value > u64::from(limit)
}

/// The descriptors that the header announces and the list holds.
fn descriptors(list: &[u8]) -> Result<&[[u8; DESCRIPTOR]], Sense> {
    if list.is_empty() {
        return Ok(&[]);
    }
    let cut_off = Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
    let length = u16_at(list, 2).ok_or(cut_off)?;
    let bytes = list
        .get(HEADER..HEADER + usize::from(length))
        .ok_or(cut_off)?;
    Ok(bytes.as_chunks().0)
}

fn ranges(descriptors: &[[u8; DESCRIPTOR]]) -> impl Iterator<Item = Range> + '_ {
    descriptors.iter().map(|d| Range {
        lba: d.u64::<0>(),
        blocks: d.u32::<8>(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        capacity: 1000,
        max_blocks: 100,
        max_descriptors: 3,
    };
    const TRUNCATED: Sense = Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);

    fn list(ranges: &[(u64, u32)]) -> Vec<u8> {
        let length = u16::try_from(ranges.len() * 16).unwrap();
        let mut list = [
            (length + 6).to_be_bytes(),
            length.to_be_bytes(),
            [0; 2],
            [0; 2],
        ]
        .concat();
        for (lba, blocks) in ranges {
            list.extend(lba.to_be_bytes());
            list.extend(blocks.to_be_bytes());
            list.extend([0; 4]);
        }
        list
    }

    fn parsed(list: &[u8]) -> Result<Vec<(u64, u32)>, Sense> {
        Ok(parse(list, LIMITS)?.map(|r| (r.lba, r.blocks)).collect())
    }

    #[test]
    fn ranges_up_to_the_last_block_are_accepted() {
        let good = [(0, 50), (950, 50), (1000, 0)];
        assert_eq!(parsed(&list(&good)), Ok(good.to_vec()));
        assert_eq!(parsed(&[]), Ok(vec![]));
        assert_eq!(parsed(&list(&[])), Ok(vec![]));
    }

    #[test]
    fn a_list_that_is_cut_off_is_a_parameter_list_length_error() {
        let whole = list(&[(0, 1), (1, 1)]);
        for length in 1..whole.len() {
            assert_eq!(parsed(&whole[..length]), Err(TRUNCATED), "{length} bytes");
        }
    }

    #[test]
    fn bytes_behind_the_last_whole_descriptor_are_ignored() {
        let mut odd = list(&[(7, 1)]);
        odd[3] += 3;
        odd.extend([0xff; 3]);
        assert_eq!(parsed(&odd), Ok(vec![(7, 1)]));
    }

    #[test]
    fn each_limit_is_an_invalid_field_where_it_is_exceeded() {
        let many = list(&[(0, 1), (1, 1), (2, 1), (3, 1)]);
        assert_eq!(parsed(&many), Err(Sense::invalid_field_in_parameters(2)));
        let much = list(&[(0, 60), (100, 41)]);
        assert_eq!(
            parsed(&much),
            Err(Sense::invalid_field_in_parameters(8 + 16 + 8))
        );
    }

    #[test]
    fn a_range_beyond_the_end_reports_its_lba() {
        for (lba, blocks) in [(999, 2), (1001, 0), (u64::MAX, 1)] {
            let sense = parsed(&list(&[(0, 1), (lba, blocks)])).unwrap_err();
            assert_eq!(sense.additional, AdditionalSense::LBA_OUT_OF_RANGE);
            assert_eq!(sense.information, Some(lba));
        }
    }

    proptest! {
        #[test]
        fn accepted_ranges_keep_the_limits(list in proptest::collection::vec(any::<u8>(), 0..100)) {
            let limits = Limits { capacity: u64::MAX, max_blocks: u32::MAX, max_descriptors: u32::MAX };
            if let Ok(ranges) = parse(&list, limits) {
                for range in ranges {
                    prop_assert!(range.lba.checked_add(u64::from(range.blocks)).is_some());
                }
            }
        }
    }
}
