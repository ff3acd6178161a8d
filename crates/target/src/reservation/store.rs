//! Where persistent reservations are saved, and the thread that waits for it.

use std::io;
use std::sync::mpsc::{Sender, channel};

use super::Reservations;

/// A place for one unit's reservations that outlasts the process. Both methods may take their time: they are called
/// from a thread of their own, and at the start.
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

type Job = Box<dyn FnOnce(&dyn Store) + Send>;

/// Runs jobs with a store on a thread of its own, one after the other.
#[derive(Debug)]
pub(crate) struct Keeper(Sender<Job>);

impl Keeper {
    /// Starts the thread. It ends when nobody can send it a job any more.
    pub(crate) fn start(store: Box<dyn Store>) -> io::Result<Keeper> {
        let (jobs, waiting) = channel::<Job>();
        std::thread::Builder::new()
            .name("lunar-keeper".into())
            .spawn(move || waiting.into_iter().for_each(|job| job(&*store)))?;
        Ok(Keeper(jobs))
    }

    /// Runs `job` when all before it are over. Whether there is still a thread to do it.
    pub(crate) fn run(&self, job: impl FnOnce(&dyn Store) + Send + 'static) -> bool {
        self.0.send(Box::new(job)).is_ok()
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
