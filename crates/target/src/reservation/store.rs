//! Where persistent reservations are saved, and the thread that waits for it.

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

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

/// Runs jobs with a store on a thread of its own, one after the other. Most units never see a reservation, so the
/// thread starts with the first job.
pub(crate) struct Keeper {
    store: Mutex<Option<Box<dyn Store>>>,
    jobs: OnceLock<Sender<Job>>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

impl Keeper {
    pub(crate) fn new(store: Box<dyn Store>) -> Keeper {
        Keeper {
            store: Mutex::new(Some(store)),
            jobs: OnceLock::new(),
        }
    }

    /// Runs `job` when all before it are over. Whether there is a thread to do it.
    pub(crate) fn run(&self, job: impl FnOnce(&dyn Store) + Send + 'static) -> bool {
        self.jobs()
            .is_some_and(|jobs| jobs.send(Box::new(job)).is_ok())
    }

    fn jobs(&self) -> Option<&Sender<Job>> {
        if let Some(jobs) = self.jobs.get() {
            return Some(jobs);
        }
        let mut place = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = place.take() {
            let (jobs, waiting) = channel::<Job>();
            // It ends when nobody can send it a job any more.
            let thread = std::thread::Builder::new().name("lunar-keeper".into());
            // Where there can be no thread, its end of the channel is gone, and every job is refused.
            let _: io::Result<JoinHandle<()>> =
                thread.spawn(move || waiting.into_iter().for_each(|job| job(&*store)));
            let _: Result<(), Sender<Job>> = self.jobs.set(jobs);
        }
        self.jobs.get()
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
