//! What stands between a device and its image.
//!
//! The options of a node (read-only, discard, detect-zeroes, no-flush) and the counting are in [`gate`], a plain struct
//! inside each data handle. The others are images of their own around another one, each a [`Filter`]: [`backend`] is what
//! a device has beneath it, [`throttle`] limits how many operations there are, [`faults`] makes them fail on purpose.
//!
//! An operation that one of these holds back keeps its token, which the filter delivers by itself when it goes on; the
//! application's `resume` then brings it to that filter first, since it is outside of all that the token could otherwise
//! wait for. So a token waits in one place at a time, and a filter needs a note of no others than those it holds
//! ([`parked`]). What it holds it gives up when asked to: [`DataHandle::cancel`].

mod account;
pub(crate) mod backend;
mod books;
pub(crate) mod faults;
mod gate;
mod latency;
mod parked;
pub(crate) mod policy;
mod threshold;
pub(crate) mod throttle;

use std::rc::Rc;
use std::sync::Arc;

use lunar_reactor::Handle;

use crate::{DataHandle, Error, Image, Info, NodeOptions, Space};

pub use account::{Activities, Activity};
pub use gate::Stats;
pub(crate) use gate::{Gate, Ledger, Policy};
pub use latency::{Histogram, Histograms, Latencies};
pub use threshold::WriteThreshold;

/// What differs between images that stand on another one; the rest of them is the image below.
pub(crate) trait Filter: std::fmt::Debug + Send + Sync {
    /// What it stands on.
    fn below(&self) -> &Arc<dyn Image>;

    /// Its options and counts, if it is a node of its own.
    fn node(&self) -> Option<&FilterNode>;

    /// Its data handle over the one of the image below.
    fn over(&self, below: Rc<dyn DataHandle>, reactor: &Handle) -> Rc<dyn DataHandle>;

    /// The device goes: what waits here goes on or ends.
    fn release(&self) {}
}

/// What a filter has that is a node.
#[derive(Debug)]
pub(crate) struct FilterNode {
    policy: Policy,
    ledger: Ledger,
}

impl FilterNode {
    /// A node with these options above an image.
    ///
    /// # Errors
    /// [`Error::Open`]: it would write to an image that is read-only.
    pub fn above(
        below: &dyn Image,
        options: &NodeOptions,
        driver: &str,
    ) -> Result<FilterNode, Error> {
        Ok(FilterNode {
            policy: Policy::above(&below.info(), options, driver)?,
            ledger: Ledger::default(),
        })
    }

    /// The gate of a new data handle.
    pub fn gate(&self) -> Gate {
        self.ledger.gate(self.policy)
    }
}

impl<F: Filter> Image for F {
    fn info(&self) -> Info {
        let below = self.below().info();
        match self.node() {
            Some(node) => node.policy.over(below),
            None => below,
        }
    }

    fn has_medium(&self) -> bool {
        self.below().has_medium()
    }

    fn open(&self, reactor: &Handle) -> Result<Rc<dyn DataHandle>, Error> {
        Ok(self.over(self.below().open(reactor)?, reactor))
    }

    fn stats(&self) -> Stats {
        let below = self.below().stats();
        match self.node() {
            Some(node) => node.ledger.total().above(below),
            None => below,
        }
    }

    fn write_threshold(&self) -> Option<&Arc<WriteThreshold>> {
        match self.node() {
            Some(node) => Some(node.ledger.threshold()),
            None => self.below().write_threshold(),
        }
    }

    fn end_waits(&self) {
        self.release();
        self.below().end_waits();
    }

    fn space(&self) -> Option<Space> {
        self.below().space()
    }

    fn resize(&self, size: u64) -> Result<(), Error> {
        self.below().resize(size)
    }

    fn refresh(&self) -> Result<(), Error> {
        self.below().refresh()
    }

    fn close(&self) -> Result<(), Error> {
        self.below().close()
    }
}
