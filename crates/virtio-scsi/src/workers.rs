//! The process's data-path threads.

use std::fmt;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use lunar_reactor::{Config, Reactor, Remote, Thread, spawn};
use lunar_target::NexusId;

use crate::Error;
use crate::worker::{Message, Worker};

/// How the data-path threads are set up.
#[derive(Clone, Debug)]
pub struct WorkersConfig {
    /// Threads, at least one.
    pub count: usize,
    /// How long a thread looks for work before it sleeps.
    pub spin: Duration,
    /// The CPU of each thread; threads beyond the list run anywhere.
    pub cpus: Vec<usize>,
}

impl Default for WorkersConfig {
    fn default() -> Self {
        WorkersConfig {
            count: 1,
            spin: Duration::from_micros(50),
            cpus: Vec::new(),
        }
    }
}

/// Submission queue entries of each thread's ring.
const RING_ENTRIES: u32 = 512;

/// How workers reach each other. Empty until all of them run.
pub(crate) type Peers = Arc<OnceLock<Vec<Remote<Message>>>>;

/// A data-path thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerThread {
    /// Its name.
    pub name: String,
    /// The system's number for it.
    pub id: i32,
    /// How long it looks for work before it sleeps.
    pub spin: Duration,
}

/// A worker that the thread it was made on drives, see [`Workers::on_this_thread`].
pub struct LocalWorker(Reactor<Worker>);

impl fmt::Debug for LocalWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LocalWorker").finish_non_exhaustive()
    }
}

impl LocalWorker {
    /// Does everything that there is to do now, and returns whether there was anything. Calls that control a controller
    /// wait for their answer, which only this gives: they are for other threads.
    pub fn turn(&mut self) -> bool {
        self.0.turn()
    }
}

/// The data-path threads.
pub struct Workers {
    pub(crate) peers: Peers,
    threads: Mutex<Vec<Thread<Message>>>,
    count: usize,
    infos: Vec<WorkerThread>,
    /// Where the next queue goes.
    place: AtomicUsize,
    nexus: AtomicU32,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl Workers {
    /// Starts the threads.
    pub fn start(config: WorkersConfig) -> std::io::Result<Arc<Workers>> {
        let peers = Peers::default();
        let count = config.count.max(1);
        let mut threads: Vec<Thread<Message>> = Vec::with_capacity(count);
        let mut infos = Vec::with_capacity(count);
        for index in 0..count {
            let name = format!("lunar-worker{index}");
            let id = Arc::new(AtomicI32::new(0));
            infos.push((name.clone(), Arc::clone(&id)));
            let setup = Config {
                name,
                entries: RING_ENTRIES,
                spin: config.spin,
                cpu: config.cpus.get(index).copied(),
            };
            let peers = peers.clone();
            let make = move |reactor| {
                let own = rustix::thread::gettid().as_raw_nonzero().get();
                id.store(own, Ordering::Relaxed);
                Worker::new(reactor, index, peers)
            };
            match spawn(setup, make) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    join(threads);
                    return Err(error);
                }
            }
        }
        peers.get_or_init(|| {
            threads
                .iter()
                .map(|thread| thread.remote().clone())
                .collect()
        });
        Ok(Arc::new(Workers {
            peers,
            threads: Mutex::new(threads),
            count,
            infos: infos
                .into_iter()
                .map(|(name, id)| WorkerThread {
                    name,
                    id: id.load(Ordering::Relaxed),
                    spin: config.spin,
                })
                .collect(),
            place: AtomicUsize::new(0),
            nexus: AtomicU32::new(1),
        }))
    }

    /// One worker without a thread: the caller's own takes its turns.
    ///
    /// # Errors
    /// The worker's ring could not be set up.
    pub fn on_this_thread() -> std::io::Result<(Arc<Workers>, LocalWorker)> {
        let peers = Peers::default();
        let of_worker = peers.clone();
        let reactor = Reactor::new(RING_ENTRIES, |handle| Worker::new(handle, 0, of_worker))?;
        peers.get_or_init(|| vec![reactor.remote()]);
        let workers = Workers {
            peers,
            threads: Mutex::default(),
            count: 1,
            infos: Vec::new(),
            place: AtomicUsize::new(0),
            nexus: AtomicU32::new(1),
        };
        Ok((Arc::new(workers), LocalWorker(reactor)))
    }

    /// The threads, as they were started.
    pub fn threads(&self) -> Vec<WorkerThread> {
        self.infos.clone()
    }

    /// Ends the threads, after what they have in flight has completed. Controllers stay, without a data path.
    pub fn stop(&self) {
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        join(threads);
    }

    /// The worker for one more queue: round robin.
    pub(crate) fn place(&self) -> usize {
        self.place.fetch_add(1, Ordering::Relaxed) % self.count
    }

    /// A nexus that no other controller of the process has had.
    pub(crate) fn new_nexus(&self) -> NexusId {
        NexusId(self.nexus.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends a message to one worker.
    pub(crate) fn send(&self, worker: usize, message: Message) -> Result<(), Error> {
        let remote = self.peers.get().and_then(|peers| peers.get(worker));
        match remote.is_some_and(|remote| remote.send(message)) {
            true => Ok(()),
            false => Err(Error::Stopped),
        }
    }
}

fn join(threads: Vec<Thread<Message>>) {
    for thread in threads {
        thread.stop();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}
