//! REPORT LUNS: the LUNs behind a target port (SPC-4 6.33, VS-025).

use crate::be::{bytes_at, u8_at, u32_at};
use crate::cdb::Cdb;
use crate::lun::LunAddress;
use crate::sense::Sense;

/// SELECT REPORT: which LUNs the initiator wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SelectReport {
    /// 00h: the ordinary ones.
    Units,
    /// 01h: the well-known ones.
    WellKnown,
    /// 02h: all.
    All,
}

impl SelectReport {
    /// Reads and checks the CDB of REPORT LUNS.
    ///
    /// # Errors
    /// 5/24/00 for an unknown SELECT REPORT and for an ALLOCATION LENGTH below 16.
    pub fn parse(cdb: Cdb<'_>) -> Result<Self, Sense> {
        if cdb.allocation_length() < 16 {
            return Err(Sense::invalid_field_in_cdb(6));
        }
        match u8_at(cdb.0, 2) {
            Some(0x00) => Ok(Self::Units),
            Some(0x01) => Ok(Self::WellKnown),
            Some(0x02) => Ok(Self::All),
            _ => Err(Sense::invalid_field_in_cdb(2)),
        }
    }

    /// Whether this kind of LUN is asked for.
    #[must_use]
    pub const fn wants(self, lun: LunAddress) -> bool {
        match lun {
            LunAddress::Unit(_) => matches!(self, Self::Units | Self::All),
            LunAddress::WellKnown(_) => matches!(self, Self::WellKnown | Self::All),
        }
    }
}

/// Appends the LUN list. The LUN LIST LENGTH counts all of it, whatever the ALLOCATION LENGTH leaves of it.
pub fn encode(out: &mut Vec<u8>, luns: impl IntoIterator<Item = LunAddress>) {
    let start = out.len();
    out.extend([0; 8]);
    for lun in luns {
        out.extend(lun.to_bytes());
    }
    let length = u32::try_from(out.len() - start - 8).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(start..start + 4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// Bytes that the whole list has, header included, however much of it was received; `None` without a header.
#[must_use]
pub fn full_length(data: &[u8]) -> Option<u64> {
    u32_at(data, 0).map(|length| u64::from(length) + 8)
}

/// The LUNs in a list, as far as they were received and their addressing method is known here.
pub fn parse(data: &[u8]) -> impl Iterator<Item = LunAddress> {
    let end = full_length(data)
        .and_then(|length| usize::try_from(length).ok())
        .unwrap_or(0);
    let list = data.get(8..end.min(data.len())).unwrap_or_default();
    list.chunks_exact(8)
        .filter_map(|lun| LunAddress::from_bytes(bytes_at(lun, 0)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lun::Lun;

    fn cdb(select: u8, allocation: u8) -> [u8; 32] {
        let mut cdb = [0; 32];
        cdb[..10].copy_from_slice(&[0xa0, 0, select, 0, 0, 0, 0, 0, 0, allocation]);
        cdb
    }

    #[test]
    fn the_list_is_laid_out_as_spc_says_and_read_back() {
        let luns = [0, 1, 256].map(|n| LunAddress::Unit(Lun::new(n).unwrap()));
        let mut out = Vec::new();
        encode(&mut out, luns.into_iter().chain([LunAddress::REPORT_LUNS]));
        let expected = [
            [0, 0, 0, 32, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0, 0],
            [0, 1, 0, 0, 0, 0, 0, 0],
            [0x41, 0, 0, 0, 0, 0, 0, 0],
            [0xc1, 1, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(out, expected.concat());
        assert_eq!(parse(&out).count(), 4);
        assert_eq!(parse(&out[..31]).collect::<Vec<_>>(), luns[..2]);
        assert_eq!(full_length(&out[..16]), Some(40));
    }

    #[test]
    fn select_report_and_allocation_length_are_checked() {
        assert_eq!(
            SelectReport::parse(Cdb(&cdb(0, 16))),
            Ok(SelectReport::Units)
        );
        assert_eq!(
            SelectReport::parse(Cdb(&cdb(2, 255))),
            Ok(SelectReport::All)
        );
        assert_eq!(
            SelectReport::parse(Cdb(&cdb(3, 16))),
            Err(Sense::invalid_field_in_cdb(2))
        );
        assert_eq!(
            SelectReport::parse(Cdb(&cdb(0, 15))),
            Err(Sense::invalid_field_in_cdb(6))
        );
    }

    #[test]
    fn each_selection_wants_its_kind() {
        let unit = LunAddress::Unit(Lun::default());
        for (select, wants) in [
            (SelectReport::Units, (true, false)),
            (SelectReport::WellKnown, (false, true)),
            (SelectReport::All, (true, true)),
        ] {
            assert_eq!(
                (select.wants(unit), select.wants(LunAddress::REPORT_LUNS)),
                wants
            );
        }
    }
}
