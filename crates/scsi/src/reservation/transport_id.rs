//! TransportIDs: the names of initiator ports (SPC-4 7.6.4).

use std::fmt;

use crate::be::Fields;
use crate::naa;

/// The name of an initiator port in the form of a SAS address, an NAA identifier. No protocol identifier is assigned to
/// virtio, and SAS is the one whose names are of one fixed size (SC-046).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TransportId(pub u64);

/// FORMAT CODE 0, PROTOCOL IDENTIFIER 6.
const SAS: u8 = 0x06;

impl TransportId {
    /// Bytes of a TransportID.
    pub const LEN: usize = Self::SIZE as usize;

    /// The same as it stands in a length field.
    pub(super) const SIZE: u8 = 24;

    /// The identifier of a port that its user calls so: the name itself if it is `naa.` and 16 hexadecimal digits, or
    /// else one derived from it.
    #[must_use]
    pub fn of_name(name: &str) -> TransportId {
        TransportId(literal(name).unwrap_or_else(|| naa::locally_assigned(name)))
    }

    /// As it stands on the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; TransportId::LEN] {
        let mut id = [0; TransportId::LEN];
        id.put_u8::<0>(SAS);
        id.put_u64::<4>(self.0);
        id
    }

    /// Reads one; `None` if it is not a SAS port's.
    #[must_use]
    pub fn parse(id: [u8; TransportId::LEN]) -> Option<TransportId> {
        (id.u8::<0>() == SAS).then(|| TransportId(id.u64::<4>()))
    }
}

fn literal(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("naa.")?;
    let plain = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

impl fmt::Display for TransportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "naa.{:016x}", self.0)
    }
}
