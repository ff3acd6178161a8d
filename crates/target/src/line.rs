//! The line in front of a logical unit: how a command gets the unit, or a part of its medium, for itself.
//!
//! Commands run side by side, on any worker, and nobody counts them. A command that must not (COMPARE AND WRITE, a task
//! with the ORDERED attribute) joins the line. From then on commands that it would collide with join behind it instead of
//! starting, and when it is at the front, the transport waits until those that were started before are over. When it is
//! done, whoever stands behind it is called, in the order of arrival, up to the next one that wants to be alone.
//!
//! Whoever is called stays in the line until he has begun: only then is it the turn of one behind him who wants to be
//! alone. So a command that turns out to want that itself (it was parked before anybody had looked what it is) has kept
//! its place.
//!
//! What a command has to do with another unit than the one it was sent to (EXTENDED COPY) are visits, see [`crate::Visit`]:
//! one who wants to be alone is called when those that overlap are over.
//!
//! A [`Place`] in the line is given up by dropping it, wherever and for whatever reason: begun, ended by task management,
//! done, or lost with its worker. Nobody who stands behind can be forgotten.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::LogicalUnit;
use crate::visit::Visitors;

/// What a command may touch: bytes of the medium (none, if the range is empty), or `None` for everything there is about
/// a unit.
pub type Extent = Option<Range<u64>>;

/// Whether two commands have to do with the same thing.
#[must_use]
pub fn overlap(a: &Extent, b: &Extent) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.start.max(b.start) < a.end.min(b.end),
        _ => true,
    }
}

/// Names a place in a line. Never used again for another one, in any line of the process, so that a message about a
/// place that was given up meanwhile is recognized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub struct Ticket(u64);

impl Ticket {
    /// The next one.
    #[expect(
        clippy::new_without_default,
        reason = "no two are the same, so none is the default"
    )]
    #[must_use]
    pub fn new() -> Ticket {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Ticket(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What to do when it is one's turn. Called by whoever makes way, so it must do no more than pass the word on.
pub(crate) type Turn = Box<dyn FnOnce(Ticket) + Send>;

/// Calls those whose turn it is; not under the lock, in which they would be called from anywhere.
#[must_use]
pub(crate) struct Calls(pub(crate) Vec<(Ticket, Turn)>);

impl Calls {
    pub(crate) fn make(self) {
        for (ticket, turn) in self.0 {
            turn(ticket);
        }
    }
}

/// Those who wait, those who were called and have not begun, and the one at the front who has the unit, or will have it
/// when others are over.
#[derive(Default)]
pub(crate) struct Line {
    queue: VecDeque<Waiter>,
    pub(crate) visitors: Visitors,
}

pub(crate) struct Waiter {
    pub(crate) ticket: Ticket,
    extent: Extent,
    exclusive: bool,
    /// What nobody may visit meanwhile.
    pub(crate) claim: Extent,
    /// Taken when the turn has come.
    pub(crate) turn: Option<Turn>,
}

impl Waiter {
    /// Wants to be alone, with something that a command of this extent touches.
    fn keeps_out(&self, extent: &Extent) -> bool {
        self.exclusive && overlap(&self.extent, extent)
    }
}

/// Where to join a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// At its end.
    Tail,
    /// Behind the one whose turn it is (HEAD OF QUEUE).
    Head,
}

impl Line {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether a command must not simply be started.
    pub(crate) fn blocks(&self, extent: &Extent) -> bool {
        self.queue.iter().any(|waiter| waiter.keeps_out(extent))
    }

    fn join(&mut self, waiter: Waiter, rank: Rank) -> Calls {
        match rank {
            Rank::Tail => self.queue.push_back(waiter),
            Rank::Head => self.queue.insert(self.queue.len().min(1), waiter),
        }
        self.advance()
    }

    fn leave(&mut self, ticket: Ticket) -> Calls {
        self.queue.retain(|waiter| waiter.ticket != ticket);
        self.advance()
    }

    /// One who was called wants to be alone, with `extent`: he will be called again. If he is the only one already, he
    /// stays that, and only visits are still in his way.
    fn single_out(&mut self, ticket: Ticket, extent: Extent, turn: Turn) -> Calls {
        if let Some(waiter) = self.queue.iter_mut().find(|w| w.ticket == ticket) {
            if !waiter.exclusive {
                waiter.extent = extent.clone();
            }
            waiter.exclusive = true;
            waiter.claim = extent;
            waiter.turn = Some(turn);
        }
        self.advance()
    }

    /// Whether one who was called may begin. If not, because somebody ahead of him was singled out meanwhile, he will be
    /// called again.
    fn may_begin(&mut self, ticket: Ticket, turn: Turn) -> bool {
        let line = self.queue.make_contiguous();
        let at = line.iter().position(|waiter| waiter.ticket == ticket);
        let (ahead, rest) = line.split_at_mut(at.unwrap_or(0));
        let [waiter, ..] = rest else {
            return true;
        };
        let free = !ahead.iter().any(|other| other.keeps_out(&waiter.extent));
        if !free {
            waiter.turn = Some(turn);
        }
        free
    }

    /// Calls everybody who stands in front of the first that wants to be alone, and that one if it is at the front and
    /// nobody visits what it claims.
    pub(crate) fn advance(&mut self) -> Calls {
        let mut calls = Vec::new();
        self.visitors.let_in(self.queue.front(), &mut calls);
        for (at, waiter) in self.queue.iter_mut().enumerate() {
            if !waiter.exclusive || at == 0 && !self.visitors.are_at(&waiter.claim) {
                calls.extend(waiter.turn.take().map(|turn| (waiter.ticket, turn)));
            }
            if waiter.exclusive {
                break;
            }
        }
        Calls(calls)
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.queue.iter().map(|waiter| waiter.ticket))
            .finish()
    }
}

/// A command's place in the line of a unit; dropped, it is given up.
pub struct Place {
    unit: Arc<dyn LogicalUnit>,
    ticket: Ticket,
    exclusive: bool,
}

impl Place {
    /// Waits to be alone with `extent`: from now on no command that overlaps is started. `turn` is called when the place
    /// is at the front and nobody visits `extent`, perhaps at once; what was started before is then still to be waited for.
    pub fn exclusive(
        unit: &Arc<dyn LogicalUnit>,
        extent: Extent,
        turn: impl FnOnce(Ticket) + Send + 'static,
    ) -> Place {
        Place::alone(unit, extent.clone(), extent, turn)
    }

    /// Waits to be the only command of the unit, for the sake of order alone: visits are no commands, and go on. `turn` is
    /// called as by [`exclusive`](Place::exclusive).
    pub fn ordered(
        unit: &Arc<dyn LogicalUnit>,
        turn: impl FnOnce(Ticket) + Send + 'static,
    ) -> Place {
        Place::alone(unit, None, Some(0..0), turn)
    }

    fn alone(
        unit: &Arc<dyn LogicalUnit>,
        extent: Extent,
        claim: Extent,
        turn: impl FnOnce(Ticket) + Send + 'static,
    ) -> Place {
        let ticket = Ticket::new();
        let place = Place {
            unit: unit.clone(),
            ticket,
            exclusive: true,
        };
        let waiter = Waiter {
            ticket,
            extent,
            exclusive: true,
            claim,
            turn: Some(Box::new(turn)),
        };
        let calls = unit
            .state()
            .change_line(|line| line.join(waiter, Rank::Tail));
        calls.make();
        place
    }

    /// Waits behind those in the line; `turn` is called when the command may start. `None`: it may at once.
    pub fn shared(
        unit: &Arc<dyn LogicalUnit>,
        extent: Extent,
        rank: Rank,
        turn: impl FnOnce(Ticket) + Send + 'static,
    ) -> Option<Place> {
        let ticket = Ticket::new();
        let calls = unit.state().change_line(|line| {
            let waiter = Waiter {
                ticket,
                extent: extent.clone(),
                exclusive: false,
                claim: Some(0..0),
                turn: Some(Box::new(turn)),
            };
            line.blocks(&extent).then(|| line.join(waiter, rank))
        })?;
        calls.make();
        Some(Place {
            unit: unit.clone(),
            ticket,
            exclusive: false,
        })
    }

    /// Its name.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Whether it stands for a command that wants to be alone.
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    /// Whether the command, whose turn has come, may begin beside others now. If not, `turn` is called once more.
    #[must_use]
    pub fn may_begin(&self, turn: impl FnOnce(Ticket) + Send + 'static) -> bool {
        let state = self.unit.state();
        state.change_line(|line| line.may_begin(self.ticket, Box::new(turn)))
    }

    /// The command, whose turn has come, wants to be alone with `extent`: it keeps its place, and `turn` is called when
    /// that is at the front and nobody visits `extent`.
    #[must_use]
    pub fn singled_out(
        mut self,
        extent: Extent,
        turn: impl FnOnce(Ticket) + Send + 'static,
    ) -> Place {
        self.exclusive = true;
        let state = self.unit.state();
        state
            .change_line(|line| line.single_out(self.ticket, extent, Box::new(turn)))
            .make();
        self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.unit
            .state()
            .change_line(|line| line.leave(self.ticket))
            .make();
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place")
            .field("ticket", &self.ticket)
            .field("exclusive", &self.exclusive)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;

    /// A line whose turns are noted.
    #[derive(Default)]
    struct Model {
        line: Line,
        called: Arc<Mutex<Vec<Ticket>>>,
    }

    impl Model {
        fn join(&mut self, exclusive: bool, rank: Rank) -> Ticket {
            let ticket = Ticket::new();
            let waiter = Waiter {
                ticket,
                extent: None,
                exclusive,
                claim: None,
                turn: Some(self.turn()),
            };
            self.line.join(waiter, rank).make();
            ticket
        }

        fn turn(&self) -> Turn {
            let called = self.called.clone();
            Box::new(move |ticket| called.lock().unwrap().push(ticket))
        }

        fn called(&self) -> Vec<Ticket> {
            std::mem::take(&mut self.called.lock().unwrap())
        }
    }

    #[test]
    fn only_bytes_that_both_touch_make_two_commands_collide() {
        assert!(overlap(&Some(0..512), &Some(511..512)));
        assert!(!overlap(&Some(0..512), &Some(512..1024)));
        assert!(!overlap(&Some(0..512), &Some(7..7)));
        assert!(overlap(&None, &Some(7..7)));
        assert!(overlap(&None, &None));
    }

    #[test]
    fn turns_come_in_the_order_of_arrival_up_to_the_next_one_that_wants_to_be_alone() {
        let mut model = Model::default();
        let first = model.join(true, Rank::Tail);
        assert_eq!(model.called(), [first]);
        let [a, b] = [(); 2].map(|()| model.join(false, Rank::Tail));
        let second = model.join(true, Rank::Tail);
        let behind = model.join(false, Rank::Tail);
        let head = model.join(false, Rank::Head);
        assert_eq!(model.called(), []);
        model.line.leave(first).make();
        assert_eq!(model.called(), [head, a, b]);
        for begun in [b, head, a] {
            assert_eq!(model.called(), [], "not before all of them have begun");
            model.line.leave(begun).make();
        }
        assert_eq!(model.called(), [second]);
        model.line.leave(second).make();
        assert_eq!(model.called(), [behind]);
        model.line.leave(behind).make();
        assert!(model.line.is_empty());
    }

    #[test]
    fn one_that_turns_out_to_want_to_be_alone_keeps_its_place() {
        let mut model = Model::default();
        let first = model.join(true, Rank::Tail);
        let [before, one, behind] = [(); 3].map(|()| model.join(false, Rank::Tail));
        let last = model.join(true, Rank::Tail);
        model.line.leave(first).make();
        assert_eq!(model.called(), [first, before, one, behind]);
        let turn = model.turn();
        model.line.single_out(one, None, turn).make();
        let turn = model.turn();
        assert!(!model.line.may_begin(behind, turn));
        let turn = model.turn();
        assert!(model.line.may_begin(before, turn));
        assert_eq!(model.called(), []);
        model.line.leave(before).make();
        assert_eq!(model.called(), [one]);
        model.line.leave(one).make();
        assert_eq!(model.called(), [behind]);
        model.line.leave(behind).make();
        assert_eq!(model.called(), [last]);
    }

    proptest! {
        #[test]
        fn whoever_leaves_and_whenever_everybody_has_a_turn_and_those_who_want_to_be_alone_are(
            steps in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), any::<prop::sample::Index>()), 1..60),
        ) {
            let mut model = Model::default();
            let (mut there, mut called) = (Vec::new(), Vec::new());
            for (join, exclusive, head, which) in steps {
                if join || there.is_empty() {
                    let rank = if head { Rank::Head } else { Rank::Tail };
                    there.push(model.join(exclusive, rank));
                } else if exclusive && let Some(&one) = called.last() {
                    let turn = model.turn();
                    model.line.single_out(one, None, turn).make();
                } else {
                    model.line.leave(there.swap_remove(which.index(there.len()))).make();
                }
                called.extend(model.called());
                if let Some(alone) = model.line.queue.iter().position(|waiter| waiter.exclusive && waiter.turn.is_none()) {
                    prop_assert_eq!(alone, 0);
                }
            }
            while let Some(front) = model.line.queue.front().map(|waiter| waiter.ticket) {
                // Somebody has always been called: nobody waits for nothing.
                prop_assert!(called.contains(&front));
                model.line.leave(front).make();
                called.extend(model.called());
            }
            for ticket in there {
                prop_assert!(called.contains(&ticket));
            }
        }
    }
}
