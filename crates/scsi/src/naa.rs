//! NAA identifiers (SPC-4 7.8.6.6): the 64-bit names of logical units and ports.

/// A locally assigned identifier (NAA 3h): 60 bits of a hash of `source`.
///
/// The result is part of what guests and clusters remember (`/dev/disk/by-id`, multipath, Windows' disk signatures,
/// who holds a persistent reservation): it never changes. FNV-1a, finished with splitmix64 so that similar names differ
/// in all bits.
#[must_use]
pub fn locally_assigned(source: &str) -> u64 {
    let mut hash = source
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^= hash >> 31;
    (3 << 60) | (hash >> 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identifier_of_a_name_never_changes() {
        assert_eq!(locally_assigned("drive0"), 0x384b_6d33_f486_9108);
        assert_ne!(locally_assigned("drive1"), locally_assigned("drive0"));
    }
}
