//! Where persistent reservations are saved, one state after the other.

use std::future::Future;
use std::io;
use std::sync::Arc;

use lunar_reactor::{NotDone, Sequence};

use super::Reservations;

/// A place for one unit's reservations that outlasts the process. Both methods may take their time: they are
/// called away from the reactors, and at the start.
pub trait Store: Send + Sync {
    /// Replaces what was saved before, completely or not at all. When it returns, the record survives a loss of power.
    ///
    /// # Errors
    /// The reason; which of the two records is there then is not known.
    fn save(&self, record: &[u8]) -> io::Result<()>;

    /// What was saved last, if anything ever was.
    ///
    /// # Errors
    /// The reason. A record that is not whole, or another unit's, is an error.
    fn load(&self) -> io::Result<Option<Vec<u8>>>;
}

/// Reservations that cannot be restored. They are never ignored: they may be all that keeps two hosts from writing to
/// one file system.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The store says why.
    #[error(transparent)]
    Store(#[from] io::Error),
    /// Whatever it is, it is not a record of reservations.
    #[error("what was kept are no persistent reservations")]
    NoRecord,
}

/// Runs jobs with a store away from the reactors, one after the other.
pub(crate) struct Keeper {
    store: Arc<dyn Store>,
    jobs: Sequence,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

impl Keeper {
    pub(crate) fn new(store: Box<dyn Store>) -> Keeper {
        Keeper {
            store: store.into(),
            jobs: Sequence::default(),
        }
    }

    /// Runs `job` when all before it are over, whether or not anybody waits for what comes of it.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&dyn Store) -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, NotDone>> + Send + 'static {
        let store = Arc::clone(&self.store);
        self.jobs.offload(move || job(&*store))
    }
}

/// What a store has kept.
pub(crate) fn load(store: &dyn Store) -> Result<Option<Reservations>, RestoreError> {
    let decode = |record: Vec<u8>| Reservations::decode(&record).ok_or(RestoreError::NoRecord);
    store.load()?.map(decode).transpose()
}

/// Keeps a state.
pub(crate) fn save(store: &dyn Store, state: &Reservations) -> io::Result<()> {
    store.save(state.encode().as_bytes())
}
