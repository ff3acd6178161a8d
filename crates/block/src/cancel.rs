//! Ending operations that wait for something other than the medium.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use lunar_reactor::Token;

use crate::{AllocationQuery, DataHandle, Error, Op, Progress};

/// Why an operation may not wait any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// Nobody wants its result: it need not be carried out.
    Abandoned,
    /// Nobody can wait for it, because its ring or its device goes: now, or not at all.
    Hurried,
}

/// Ends the waits of a task's operations, from elsewhere on the same reactor.
///
/// The task goes through [`Canceller::guard`] to its images, and runs one operation at a time on each.
#[derive(Clone, Default)]
pub struct Canceller(Rc<Waits>);

#[derive(Default)]
struct Waits {
    why: Cell<Option<Cancel>>,
    /// The operations under way.
    current: RefCell<Vec<(Token, Rc<dyn DataHandle>)>>,
}

impl std::fmt::Debug for Canceller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Canceller").field(&self.0.why.get()).finish()
    }
}

impl Canceller {
    /// From now on no operation waits, neither those under way nor those to come. `Abandoned` is not taken back.
    pub fn cancel(&self, why: Cancel) {
        if self.0.why.get() == Some(Cancel::Abandoned) {
            return;
        }
        self.0.why.set(Some(why));
        for (token, io) in &*self.0.current.borrow() {
            io.cancel(*token, why);
        }
    }

    /// Why operations do not wait, if they do not.
    #[must_use]
    pub fn reason(&self) -> Option<Cancel> {
        self.0.why.get()
    }

    /// The way to an image on which this ends waits.
    #[must_use]
    pub fn guard(&self, io: &Rc<dyn DataHandle>) -> Rc<dyn DataHandle> {
        Rc::new(Guarded {
            io: Rc::clone(io),
            waits: Rc::clone(&self.0),
        })
    }
}

struct Guarded {
    io: Rc<dyn DataHandle>,
    waits: Rc<Waits>,
}

impl DataHandle for Guarded {
    fn start(&self, op: &mut Op, token: Token) -> Progress {
        let why = self.waits.why.get();
        if why == Some(Cancel::Abandoned) {
            return Progress::Done(Err(Error::Cancelled));
        }
        let progress = self.io.start(op, token);
        if matches!(progress, Progress::Pending) {
            let mut current = self.waits.current.borrow_mut();
            current.push((token, Rc::clone(&self.io)));
            if let Some(why) = why {
                self.io.cancel(token, why);
            }
        }
        progress
    }

    fn resume(&self, op: &mut Op, token: Token, result: i32) -> Progress {
        let progress = self.io.resume(op, token, result);
        if matches!(progress, Progress::Done(_)) {
            let mut current = self.waits.current.borrow_mut();
            current.retain(|(other, _)| *other != token);
        }
        progress
    }

    fn cancel(&self, token: Token, why: Cancel) {
        self.io.cancel(token, why);
    }

    fn allocation(&self, offset: u64, len: u64) -> AllocationQuery {
        self.io.allocation(offset, len)
    }
}
