//! How much of its host an image takes.

/// The space of an image that takes what it needs as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that it takes now, its metadata included.
    pub used: u64,
    /// Bytes that it could take in addition before writes fail with [`Error::NoSpace`](crate::Error::NoSpace). Others may
    /// take them, too.
    pub available: u64,
}
