//! Where an image has data, and where only room for some.

use std::future::Future;
use std::pin::Pin;

use crate::Error;

/// How a range of an image is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Space is taken for it. What is not allocated reads as zeroes.
    pub allocated: bool,
    /// Bytes that are stored like the first one; more that are may follow.
    pub len: u64,
}

impl Allocation {
    /// Data, as far as anybody knows.
    pub fn data(len: u64) -> Allocation {
        Allocation {
            allocated: true,
            len,
        }
    }

    /// Nothing is stored.
    pub fn hole(len: u64) -> Allocation {
        Allocation {
            allocated: false,
            len,
        }
    }
}

/// The answer to [`DataHandle::allocation`](crate::DataHandle::allocation), to be awaited on the handle's reactor.
pub type AllocationQuery = Pin<Box<dyn Future<Output = Result<Allocation, Error>>>>;
