//! What the `user_data` of the ring's entries says of their completion.
//!
//! The application's [`Token`] if the top bit is clear, else one of the reactor's own kinds with an index. The bit below
//! tells the epoch of an operation on a file.

use crate::Token;

/// Set in what is the reactor's own.
pub(crate) const OWN: u64 = 1 << 63;
/// Which of the two counts of operations in flight an entry belongs to.
pub(crate) const EPOCH: u64 = 1 << 62;
const KIND_SHIFT: u32 = 56;
const INDEX_MASK: u64 = (1 << 32) - 1;
const GENERATION_SHIFT: u32 = 32;
/// Generations are counted in so many bits.
pub(crate) const GENERATION_MASK: u32 = (1 << 24) - 1;

/// The reactor's own kinds of completion.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// An awaited operation: index into `pending`.
    Op = 0,
    /// A multishot poll: index into `watches`.
    Watch = 1,
    /// A result for a task that drives a direct interface: index into `awaitables`, with its generation.
    Awaitable = 2,
    /// Nobody is interested.
    Ignored = 3,
}

/// What names an operation of the reactor's own.
#[inline]
pub(crate) fn own(kind: Kind, index: usize) -> u64 {
    OWN | (kind as u64) << KIND_SHIFT | (index as u64 & INDEX_MASK)
}

/// What names the results for a task.
pub(crate) fn awaitable(index: usize, generation: u32) -> Token {
    Token(own(Kind::Awaitable, index) | u64::from(generation) << GENERATION_SHIFT)
}

/// Where a completion goes, and the index there.
pub(crate) enum Destination {
    App(Token),
    Op(usize),
    Watch(usize),
    Awaitable(usize, u32),
    Ignored,
}

#[inline]
pub(crate) fn destination(user_data: u64) -> Destination {
    if user_data & OWN == 0 {
        return Destination::App(Token(user_data & !EPOCH));
    }
    let index = usize::try_from(user_data & INDEX_MASK).unwrap_or(usize::MAX);
    let generation =
        u32::try_from(user_data >> GENERATION_SHIFT & u64::from(GENERATION_MASK)).unwrap_or(0);
    match (user_data & !(OWN | EPOCH)) >> KIND_SHIFT {
        0 => Destination::Op(index),
        1 => Destination::Watch(index),
        2 => Destination::Awaitable(index, generation),
        _ => Destination::Ignored,
    }
}
