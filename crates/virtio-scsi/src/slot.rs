//! A chain and the views into it: where headers, data and the response are.
#![allow(
    unsafe_code,
    reason = "the one place of this crate where lists of guest memory are made from a chain"
)]

use std::fmt;

use lunar_sgl::Sgl;
use lunar_virtqueue::Chain;

/// A chain is shorter than what has to be in it (VS-039). Its ring is broken by it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TooShort;

impl fmt::Display for TooShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a chain is too short for the headers of its message")
    }
}

/// A chain taken apart into the parts of a message. Made once per slot and reused, so that its lists keep their
/// capacity.
///
/// # Why the views are sound
/// They point into the chain's own lists and into guest memory. Both stay: the chain is only changed by
/// [`Parts::chain_mut`], which drops the views first and is used for a chain that is not in flight; and a ring keeps
/// its memory map, and its worker the slot, while a chain is in flight, which is until the last operation on its
/// views has completed.
#[derive(Debug)]
pub(crate) struct Parts {
    chain: Chain,
    request: Sgl,
    data_out: Sgl,
    response: Sgl,
    data_in: Sgl,
}

impl Parts {
    pub fn new() -> Parts {
        Parts {
            chain: Chain::new(),
            request: Sgl::EMPTY,
            data_out: Sgl::EMPTY,
            response: Sgl::EMPTY,
            data_in: Sgl::EMPTY,
        }
    }

    /// The chain, to be popped into.
    #[inline]
    pub fn chain_mut(&mut self) -> &mut Chain {
        self.request = Sgl::EMPTY;
        self.data_out = Sgl::EMPTY;
        self.response = Sgl::EMPTY;
        self.data_in = Sgl::EMPTY;
        &mut self.chain
    }

    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Bytes the driver has written, and bytes it wants written.
    pub fn len(&self) -> (usize, usize) {
        (self.chain.readable.len(), self.chain.writable.len())
    }

    /// Takes what the driver wrote apart: a request of `at` bytes, and then data. The boundary may fall anywhere in
    /// the chain (VS-038).
    #[inline]
    pub fn split_request(&mut self, at: usize) -> Result<(), TooShort> {
        // SAFETY: see the type; a chain is split once in each direction, so no earlier view is left.
        let parts = unsafe { self.chain.readable.split_at(at) };
        (self.request, self.data_out) = parts.ok_or(TooShort)?;
        Ok(())
    }

    /// Takes what the driver wants written apart: a response of `at` bytes, and then data.
    #[inline]
    pub fn split_response(&mut self, at: usize) -> Result<(), TooShort> {
        // SAFETY: as in `split_request`.
        let parts = unsafe { self.chain.writable.split_at(at) };
        (self.response, self.data_in) = parts.ok_or(TooShort)?;
        Ok(())
    }

    /// The request header. Reads it from guest memory: once, please.
    pub fn request(&self) -> Sgl {
        self.request
    }

    pub fn data_out(&self) -> Sgl {
        self.data_out
    }

    pub fn response(&self) -> Sgl {
        self.response
    }

    pub fn data_in(&self) -> Sgl {
        self.data_in
    }
}
