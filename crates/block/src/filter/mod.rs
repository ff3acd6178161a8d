//! What stands between a device and its image.
//!
//! The options of a node (read-only, discard, detect-zeroes, no-flush) and the counting are in [`gate`], a plain struct
//! inside each data handle. The others are images of their own around another one, so that whoever does not use them does
//! not pay: [`policy`] decides what becomes of failed operations, [`throttle`] limits how many there are, [`faults`] makes
//! them fail on purpose.
//!
//! An operation that one of these holds back keeps its token, which the filter delivers by itself when it goes on; the
//! application's `resume` then brings it to that filter first, since it is outside of all that the token could otherwise
//! wait for. So a token waits in one place at a time, and a filter needs a note of no others than those it holds
//! ([`parked`]). What it holds it gives up when asked to: [`DataHandle::cancel`](crate::DataHandle::cancel).

pub(crate) mod faults;
mod gate;
mod parked;
pub(crate) mod policy;
pub(crate) mod throttle;

pub use gate::Stats;
pub(crate) use gate::{Gate, Ledger, Policy};
