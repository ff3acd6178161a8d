//! Which chains are in flight.

/// A set of chain heads, or of buffer IDs.
#[derive(Debug)]
pub(crate) struct Heads {
    words: Box<[u64]>,
    count: u16,
}

impl Heads {
    /// The empty set, with room for heads up to `size`.
    pub(crate) fn new(size: u16) -> Heads {
        Heads {
            words: vec![0; usize::from(size) / 64 + 1].into_boxed_slice(),
            count: 0,
        }
    }

    pub(crate) fn len(&self) -> u16 {
        self.count
    }

    /// Adds a head; false if it was there, or does not fit.
    #[inline]
    pub(crate) fn insert(&mut self, head: u16) -> bool {
        match self.words.get_mut(usize::from(head / 64)) {
            Some(word) if *word & bit(head) == 0 => {
                *word |= bit(head);
                self.count += 1;
                true
            }
            _ => false,
        }
    }

    /// Takes a head out; false if it was not there.
    #[inline]
    pub(crate) fn remove(&mut self, head: u16) -> bool {
        match self.words.get_mut(usize::from(head / 64)) {
            Some(word) if *word & bit(head) != 0 => {
                *word &= !bit(head);
                self.count -= 1;
                true
            }
            _ => false,
        }
    }
}

fn bit(head: u16) -> u64 {
    1 << (head % 64)
}
