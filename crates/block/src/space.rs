//! How much of its host an image takes.

use std::sync::Arc;

use lunar_reactor::offload;

use crate::Image;

/// The space of an image that takes what it needs as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that it takes now, its metadata included.
    pub used: u64,
    /// Bytes that it could take in addition before writes fail with [`Error::NoSpace`](crate::Error::NoSpace). Others may
    /// take them, too.
    pub available: u64,
}

/// [`Image::space`] for a task: its reactor goes on meanwhile.
pub async fn space_of(image: &Arc<dyn Image>) -> Option<Space> {
    let image = Arc::clone(image);
    offload(move || image.space()).await.ok().flatten()
}
