//! Operations of one data handle that wait inside a filter, by their tokens.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use lunar_reactor::Token;

/// What a filter notes about each operation that it holds.
///
/// Each is given its token once, by [`Handle::deliver`](lunar_reactor::Handle::deliver), when the entry says why, and
/// taken out when the token comes back: nothing that happens in between makes a second completion of it.
#[derive(Debug)]
pub(super) struct Parked<T> {
    /// Looked at on the way of every operation.
    count: Cell<usize>,
    entries: RefCell<HashMap<Token, T>>,
}

impl<T> Default for Parked<T> {
    fn default() -> Parked<T> {
        Parked {
            count: Cell::new(0),
            entries: RefCell::default(),
        }
    }
}

impl<T> Parked<T> {
    pub fn insert(&self, token: Token, entry: T) {
        let mut entries = self.entries.borrow_mut();
        entries.insert(token, entry);
        self.count.set(entries.len());
    }

    pub fn is_empty(&self) -> bool {
        self.count.get() == 0
    }

    /// Takes the entry of an operation out, if it has one.
    #[inline]
    pub fn take(&self, token: Token) -> Option<T> {
        if self.count.get() == 0 {
            return None;
        }
        self.remove(token)
    }

    #[cold]
    fn remove(&self, token: Token) -> Option<T> {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.remove(&token);
        self.count.set(entries.len());
        entry
    }

    /// Changes the entry of an operation, if it has one.
    pub fn change<R>(&self, token: Token, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.entries.borrow_mut().get_mut(&token).map(change)
    }
}
