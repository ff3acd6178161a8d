//! Big-endian fields at fixed places: how every SCSI structure is laid out.
//!
//! [`Fields`] serves arrays: the place is a constant, so a field that does not fit is a compile error and an access
//! cannot panic. [`u16_at`] and its siblings serve slices of a length that somebody else chose: they answer `None`
//! beyond the end.

/// Fields of a fixed-size structure, addressed as the standards do: by the byte they start at.
///
/// ```
/// use lunar_scsi::be::Fields;
/// let mut page = [0u8; 64];
/// page.put_u16::<2>(0x3c);
/// assert_eq!((page.u8::<3>(), page.u16::<2>()), (0x3c, 0x3c));
/// ```
pub trait Fields {
    /// The `LEN` bytes from byte `AT`.
    fn bytes<const AT: usize, const LEN: usize>(&self) -> [u8; LEN];

    /// Stores `value` from byte `AT` on.
    fn put<const AT: usize, const LEN: usize>(&mut self, value: [u8; LEN]);

    /// The byte at `AT`.
    #[inline]
    fn u8<const AT: usize>(&self) -> u8 {
        u8::from_be_bytes(self.bytes::<AT, 1>())
    }

    /// The 16-bit field at `AT`.
    #[inline]
    fn u16<const AT: usize>(&self) -> u16 {
        u16::from_be_bytes(self.bytes::<AT, 2>())
    }

    /// The 24-bit field at `AT`.
    #[inline]
    fn u24<const AT: usize>(&self) -> u32 {
        let [a, b, c] = self.bytes::<AT, 3>();
        u32::from_be_bytes([0, a, b, c])
    }

    /// The 32-bit field at `AT`.
    #[inline]
    fn u32<const AT: usize>(&self) -> u32 {
        u32::from_be_bytes(self.bytes::<AT, 4>())
    }

    /// The 64-bit field at `AT`.
    #[inline]
    fn u64<const AT: usize>(&self) -> u64 {
        u64::from_be_bytes(self.bytes::<AT, 8>())
    }

    /// Stores a byte.
    #[inline]
    fn put_u8<const AT: usize>(&mut self, value: u8) {
        self.put::<AT, 1>([value]);
    }

    /// Stores a 16-bit field.
    #[inline]
    fn put_u16<const AT: usize>(&mut self, value: u16) {
        self.put::<AT, 2>(value.to_be_bytes());
    }

    /// Stores a 32-bit field.
    #[inline]
    fn put_u32<const AT: usize>(&mut self, value: u32) {
        self.put::<AT, 4>(value.to_be_bytes());
    }

    /// Stores a 64-bit field.
    #[inline]
    fn put_u64<const AT: usize>(&mut self, value: u64) {
        self.put::<AT, 8>(value.to_be_bytes());
    }
}

// The inline assertions prove at compile time that AT..AT + LEN is inside.
impl<const N: usize> Fields for [u8; N] {
    #[inline]
    fn bytes<const AT: usize, const LEN: usize>(&self) -> [u8; LEN] {
        const { assert!(AT + LEN <= N, "the field lies beyond the structure") };
        let mut bytes = [0; LEN];
        bytes.copy_from_slice(&self[AT..AT + LEN]);
        bytes
    }

    #[inline]
    fn put<const AT: usize, const LEN: usize>(&mut self, value: [u8; LEN]) {
        const { assert!(AT + LEN <= N, "the field lies beyond the structure") };
        self[AT..AT + LEN].copy_from_slice(&value);
    }
}

/// The `LEN` bytes from byte `at`, if they are all there.
#[inline]
#[must_use]
pub fn bytes_at<const LEN: usize>(data: &[u8], at: usize) -> Option<[u8; LEN]> {
    data.get(at..)?.first_chunk().copied()
}

/// The byte at `at`, if it is there.
#[inline]
#[must_use]
pub fn u8_at(data: &[u8], at: usize) -> Option<u8> {
    data.get(at).copied()
}

/// The 16-bit field at `at`, if it is all there.
#[inline]
#[must_use]
pub fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    bytes_at(data, at).map(u16::from_be_bytes)
}

/// The 32-bit field at `at`, if it is all there.
#[inline]
#[must_use]
pub fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    bytes_at(data, at).map(u32::from_be_bytes)
}

/// The 64-bit field at `at`, if it is all there.
#[inline]
#[must_use]
pub fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    bytes_at(data, at).map(u64::from_be_bytes)
}
