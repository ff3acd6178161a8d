//! Commands that wait in a unit's line, and how one of them gets to be alone.
//!
//! A command that has to wait is parked in its slot, with its header already copied. When its turn comes, its worker gets
//! a message. A command that may run beside others is then started. For one that has to be alone, every worker looks
//! through its slots: those that collide and were started before hold a barrier until they are over, and then the
//! command is started. On the way of commands that meet nobody this costs nothing: that somebody is in line moves the
//! unit's epoch, which they look at anyway.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lunar_reactor::{Remote, Token};
use lunar_target::{Alone, Ended, Extent, LogicalUnit, NexusId, Place, Ticket};

use crate::barrier::Barrier;
use crate::wire::CDB;
use crate::worker::Message;
use crate::workers::{Peers, Workers};

/// A command that waits for its turn.
pub(crate) struct Parked {
    /// What it may touch.
    pub extent: Extent,
    pub what: Pending,
}

/// How it goes on.
pub(crate) enum Pending {
    /// It is begun.
    Command([u8; CDB]),
    /// It has begun, and its steps are run.
    Steps(Alone, Ended),
}

/// The slot of a command, as others reach it.
#[derive(Clone)]
pub(crate) struct Seat {
    home: Remote<Message>,
    token: Token,
}

impl Seat {
    /// `None` while the worker is being started; it has no commands then.
    pub fn new(peers: &Peers, home: usize, token: Token) -> Option<Seat> {
        let home = peers.get(home)?;
        Some(Seat { home, token })
    }

    /// Tells the slot's worker that the turn has come. A worker that has gone has no slots.
    pub fn turn(self) -> impl FnOnce(Ticket) + Send {
        let Seat { home, token } = self;
        move |ticket| {
            home.send(Message::Turn { token, ticket });
        }
    }

    /// The slot's command has failed, and has something to do with others: it will be told when they are over.
    pub fn settled(self) -> Barrier {
        let Seat { home, token } = self;
        Barrier::new(move || {
            home.send(Message::Settled { token });
        })
    }

    /// It is the slot's turn to be alone: it will be told when everything that collides is over.
    pub fn clear_the_way(
        self,
        peers: &Peers,
        ticket: Ticket,
        unit: &Arc<dyn LogicalUnit>,
        parked: &Parked,
    ) {
        let Seat { home, token } = self;
        let over = Barrier::new(move || {
            home.send(Message::Alone { token, ticket });
        });
        Fence {
            unit: unit.clone(),
            extent: parked.extent.clone(),
            of: None,
            in_order: matches!(parked.what, Pending::Command(_)),
            over,
        }
        .send(peers);
    }
}

impl Workers {
    /// Waits until no command on any controller touches these bytes of a unit, for a limited time. If it comes to that,
    /// none is begun while the place that is returned is kept.
    pub fn keep_off(
        &self,
        unit: &Arc<dyn LogicalUnit>,
        bytes: Range<u64>,
        patience: Duration,
    ) -> Option<Place> {
        let fence = |over| Fence {
            unit: unit.clone(),
            extent: Some(bytes.clone()),
            of: None,
            in_order: false,
            over,
        };
        // Commands that were looked at before now: those that are in line after this knew of whatever came before.
        let (over, wait) = Barrier::channel();
        fence(over).send(&self.peers);
        let deadline = Instant::now() + patience;
        if !wait.wait_within(patience) {
            return None;
        }
        let (over, wait) = Barrier::channel();
        let (peers, fence) = (self.peers.clone(), fence(over));
        let place = Place::exclusive(unit, Some(bytes), move |_| fence.send(&peers));
        let left = deadline.saturating_duration_since(Instant::now());
        wait.wait_within(left).then_some(place)
    }
}

/// Somebody waits for what is going on with a unit, or a part of its medium.
#[derive(Clone)]
pub(crate) struct Fence {
    pub unit: Arc<dyn LogicalUnit>,
    pub extent: Extent,
    /// Only this nexus' commands are in his way.
    pub of: Option<NexusId>,
    /// For the sake of order (ORDERED): whatever was there before has to be over.
    pub in_order: bool,
    /// For those in the way to hold.
    pub over: Barrier,
}

impl Fence {
    /// Lets every worker look through its slots.
    pub fn send(self, peers: &Peers) {
        for peer in peers.all() {
            // A worker that has gone has no commands.
            peer.send(Message::Fence(self.clone()));
        }
    }
}
