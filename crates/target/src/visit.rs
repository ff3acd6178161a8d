//! Visits: what is done to a unit's medium by a command that was sent elsewhere.
//!
//! EXTENDED COPY reads and writes units that have not received it, so their line knows nothing of it, and the transport
//! does not find it among their commands. It makes each of its steps a [`Visit`]. A visit waits while one who has claimed
//! the bytes has his turn, and he waits for the visits that have begun before.
//!
//! Nobody waits for anything else during a visit than for its one operation. So nobody can wait for ever, even if copies
//! cross each other, as long as whoever claims something does not wait for a copy as a whole: a transport leaves that to
//! those who want to be alone for the sake of order, and they claim nothing.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::line::{Calls, Turn, Waiter};
use crate::{Extent, LuState, Ticket, overlap};

/// Somebody is at work in a part of a unit's medium, until this is dropped.
#[derive(Debug)]
pub struct Visit {
    state: Arc<LuState>,
    ticket: Ticket,
}

impl Visit {
    /// Begins when nobody has these bytes for himself. What may be done to the unit is to be looked up only then. The
    /// future may be dropped.
    pub async fn begin(state: &Arc<LuState>, extent: Range<u64>) -> Visit {
        let (welcome, welcomed) = oneshot::channel();
        let visit = Visit {
            state: Arc::clone(state),
            ticket: Ticket::new(),
        };
        let visitor = Visitor {
            ticket: visit.ticket,
            extent: Some(extent),
            watchers: vec![],
        };
        let turn: Turn = Box::new(move |_| {
            // The visit may have been given up meanwhile.
            let _: Result<(), ()> = welcome.send(());
        });
        visit.change(|visitors| {
            visitors.waiting.push((visitor, turn));
            vec![]
        });
        // The turn is dropped only with the visit.
        let _: Result<(), _> = welcomed.await;
        visit
    }

    /// Visits do not move the epoch of the unit: they are in the way of no command that is about to start.
    fn change(&self, change: impl FnOnce(&mut Visitors) -> Vec<(Ticket, Turn)>) {
        let (gone, rest) = {
            let mut shared = self.state.lock();
            let gone = change(&mut shared.line.visitors);
            (Calls(gone), shared.line.advance())
        };
        gone.make();
        rest.make();
    }
}

impl LuState {
    /// Is over when all visits are that go on now; `None` if there are none.
    pub(crate) fn visits_over(&self) -> Option<impl Future<Output = ()> + use<>> {
        self.lock().line.visitors.over()
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.change(|visitors| visitors.leave(self.ticket));
    }
}

/// Those who visit a unit, and those who wait to do so.
#[derive(Default)]
pub(crate) struct Visitors {
    inside: Vec<Visitor>,
    waiting: Vec<(Visitor, Turn)>,
}

struct Visitor {
    ticket: Ticket,
    extent: Extent,
    /// Told when the visit is over.
    watchers: Vec<Turn>,
}

impl Visitors {
    /// Whether somebody is at work there.
    pub(crate) fn are_at(&self, extent: &Extent) -> bool {
        self.inside.iter().any(|v| overlap(&v.extent, extent))
    }

    /// Lets in who does not wait for the one at the front of the line: because that one claims other bytes, or has come
    /// later and not had his turn.
    pub(crate) fn let_in(&mut self, front: Option<&Waiter>, calls: &mut Vec<(Ticket, Turn)>) {
        let waits = |visitor: &Visitor| {
            front.is_some_and(|front| {
                overlap(&front.claim, &visitor.extent)
                    && (front.turn.is_none() || front.ticket < visitor.ticket)
            })
        };
        for (visitor, turn) in self.waiting.extract_if(.., |(visitor, _)| !waits(visitor)) {
            calls.push((visitor.ticket, turn));
            self.inside.push(visitor);
        }
    }

    fn leave(&mut self, ticket: Ticket) -> Vec<(Ticket, Turn)> {
        self.waiting.retain(|(visitor, _)| visitor.ticket != ticket);
        let gone = self.inside.extract_if(.., |v| v.ticket == ticket);
        gone.flat_map(|visitor| visitor.watchers)
            .map(|turn| (ticket, turn))
            .collect()
    }

    /// Is over when all those are that visit the unit now; `None` if nobody does.
    fn over(&mut self) -> Option<impl Future<Output = ()> + use<>> {
        let (last, gone) = oneshot::channel::<()>();
        let last = Arc::new(last);
        for visitor in &mut self.inside {
            let held = Arc::clone(&last);
            visitor.watchers.push(Box::new(move |_| drop(held)));
        }
        (!self.inside.is_empty()).then_some(async move {
            // The news is that the sender has gone.
            let _: Result<(), _> = gone.await;
        })
    }
}
