//! The process's data-path threads.

use std::fmt;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use lunar_reactor::{Config, Reactor, Remote, Thread, spawn};
use lunar_target::NexusId;

use crate::Error;
use crate::barrier::{Barrier, Reply};
use crate::statistics::{Counters, WorkerStats};
use crate::worker::{Message, Worker};

/// How the data-path threads are set up that serve all controllers.
#[derive(Clone, Debug)]
pub struct WorkersConfig {
    /// Threads, at least one.
    pub count: usize,
    /// How long a thread looks for work before it sleeps.
    pub spin: Duration,
    /// The CPUs that they stay on: one each, if there are as many as threads; otherwise each may use all. Without any they
    /// run anywhere.
    pub cpus: Vec<usize>,
}

impl WorkersConfig {
    /// The CPUs of one of the threads.
    fn cpus_of(&self, number: usize) -> Vec<usize> {
        match self.cpus.get(number) {
            Some(&own) if self.cpus.len() == self.count => vec![own],
            _ => self.cpus.clone(),
        }
    }
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

/// How a data-path thread is set up that serves the controllers that ask for it.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Its name.
    pub name: String,
    /// How long it looks for work before it sleeps.
    pub spin: Duration,
    /// The CPUs that it stays on; without any it runs anywhere.
    pub cpus: Vec<usize>,
}

/// Names a data-path thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerId(pub(crate) usize);

/// Submission queue entries of each thread's ring.
const RING_ENTRIES: u32 = 512;

/// How workers reach each other, by their numbers. A number is free when its worker has gone.
#[derive(Clone, Default)]
pub(crate) struct Peers(Arc<RwLock<Vec<Option<Remote<Message>>>>>);

impl Peers {
    /// One of them.
    pub fn get(&self, number: usize) -> Option<Remote<Message>> {
        let peers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        peers.get(number).cloned().flatten()
    }

    /// All that there are.
    pub fn all(&self) -> Vec<Remote<Message>> {
        // A message that nobody takes may tell others that it is over, so no lock is held when one is sent.
        let peers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        peers.iter().flatten().cloned().collect()
    }

    fn set(&self, number: usize, remote: Option<Remote<Message>>) {
        let mut peers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if number >= peers.len() {
            peers.resize_with(number + 1, || None);
        }
        if let Some(peer) = peers.get_mut(number) {
            *peer = remote;
        }
    }
}

/// A data-path thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerThread {
    /// Its name.
    pub name: String,
    /// The system's number for it.
    pub id: i32,
    /// How long it looks for work before it sleeps.
    pub spin: Duration,
    /// What it has done.
    pub stats: WorkerStats,
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

/// The data-path threads: some that serve all controllers, from the start to the end, and others that come and go and
/// serve those controllers that ask for them.
pub struct Workers {
    pub(crate) peers: Peers,
    /// By number.
    threads: Mutex<Vec<Option<Running>>>,
    /// The first so many serve all controllers.
    common: usize,
    /// Where the next queue goes.
    place: AtomicUsize,
    nexus: AtomicU32,
}

struct Running {
    thread: Thread<Message>,
    name: String,
    /// The system's number for it.
    id: i32,
    spin: Duration,
    counters: Arc<Counters>,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("threads", &self.threads())
            .finish_non_exhaustive()
    }
}

impl Workers {
    /// Starts the threads that serve all controllers.
    ///
    /// # Errors
    /// One of them cannot be started, or not on its CPUs. None is left then.
    pub fn start(config: WorkersConfig) -> std::io::Result<Arc<Workers>> {
        let workers = Arc::new(Workers::new(config.count.max(1)));
        for number in 0..workers.common {
            workers.add(WorkerConfig {
                name: format!("lunar-worker{number}"),
                spin: config.spin,
                cpus: config.cpus_of(number),
            })?;
        }
        Ok(workers)
    }

    fn new(common: usize) -> Workers {
        Workers {
            peers: Peers::default(),
            threads: Mutex::default(),
            common,
            place: AtomicUsize::new(0),
            nexus: AtomicU32::new(1),
        }
    }

    /// So many workers without threads: each is made by [`Workers::on_this_thread`], and all are before there is a
    /// controller.
    pub fn without_threads(count: usize) -> Arc<Workers> {
        Arc::new(Workers::new(count.max(1)))
    }

    /// The worker of this number, which the caller's own thread gives its turns.
    ///
    /// # Errors
    /// The worker's ring could not be set up.
    pub fn on_this_thread(&self, number: usize) -> std::io::Result<LocalWorker> {
        let peers = self.peers.clone();
        let reactor = Reactor::new(RING_ENTRIES, |handle| {
            Worker::new(handle, number, peers, Arc::default())
        })?;
        self.peers.set(number, Some(reactor.remote()));
        Ok(LocalWorker(reactor))
    }

    /// Starts one more thread, for those controllers that ask for it.
    ///
    /// # Errors
    /// It cannot be started, or not on these CPUs.
    pub fn add(&self, config: WorkerConfig) -> std::io::Result<WorkerId> {
        let mut threads = self.lock();
        let free = threads.iter().position(Option::is_none);
        let number = free.unwrap_or(threads.len());
        let id = Arc::new(AtomicI32::new(0));
        let setup = Config {
            name: config.name.clone(),
            entries: RING_ENTRIES,
            spin: config.spin,
            cpus: config.cpus,
        };
        let counters = Arc::<Counters>::default();
        let (peers, its, own) = (self.peers.clone(), Arc::clone(&id), Arc::clone(&counters));
        let thread = spawn(setup, move |reactor| {
            let number_of_thread = rustix::thread::gettid().as_raw_nonzero().get();
            its.store(number_of_thread, Ordering::Relaxed);
            Worker::new(reactor, number, peers, own)
        })?;
        self.peers.set(number, Some(thread.remote().clone()));
        let running = Some(Running {
            thread,
            name: config.name,
            id: id.load(Ordering::Relaxed),
            spin: config.spin,
            counters,
        });
        match threads.get_mut(number) {
            Some(place) => *place = running,
            None => threads.push(running),
        }
        Ok(WorkerId(number))
    }

    /// Ends a thread that [`Workers::add`] started, after what it has in flight has completed. Controllers that have
    /// queues there stay, without a data path.
    pub fn remove(&self, worker: WorkerId) {
        let WorkerId(number) = worker;
        let running = self.lock().get_mut(number).and_then(Option::take);
        if let Some(running) = running {
            self.peers.set(number, None);
            running.thread.stop();
        }
    }

    /// Has a thread that [`Workers::add`] started look for work for so long before it sleeps, from now on.
    pub fn set_spin(&self, worker: WorkerId, spin: Duration) {
        let WorkerId(number) = worker;
        if let Some(Some(running)) = self.lock().get_mut(number) {
            running.spin = spin;
            running.thread.set_spin(spin);
        }
    }

    /// The threads that there are.
    pub fn threads(&self) -> Vec<WorkerThread> {
        let threads = self.lock();
        let info = |running: &Running| WorkerThread {
            name: running.name.clone(),
            id: running.id,
            spin: running.spin,
            stats: running.counters.read(),
        };
        threads.iter().flatten().map(info).collect()
    }

    /// Ends the threads, after what they have in flight has completed. Controllers stay, without a data path.
    pub fn stop(&self) {
        let threads = std::mem::take(&mut *self.lock());
        for running in threads.into_iter().flatten() {
            running.thread.stop();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Running>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker for one more queue of a controller that does not say: round robin.
    pub(crate) fn place(&self) -> usize {
        self.place.fetch_add(1, Ordering::Relaxed) % self.common
    }

    /// A nexus that no other controller of the process has had.
    pub(crate) fn new_nexus(&self) -> NexusId {
        NexusId(self.nexus.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends a message to one worker.
    pub(crate) fn send(&self, worker: usize, message: Message) -> Result<(), Error> {
        let sent = self
            .peers
            .get(worker)
            .is_some_and(|remote| remote.send(message));
        match sent {
            true => Ok(()),
            false => Err(Error::Stopped),
        }
    }

    /// Sends a message to one worker and waits until it is done.
    pub(crate) fn run(
        &self,
        worker: usize,
        message: impl FnOnce(Barrier) -> Message,
    ) -> Result<(), Error> {
        let (barrier, wait) = Barrier::channel();
        self.send(worker, message(barrier))?;
        wait.wait();
        Ok(())
    }

    /// Sends a message to each of these workers and waits until all have done it.
    pub(crate) fn run_on_each(
        &self,
        workers: &[usize],
        message: impl Fn(Barrier) -> Message,
    ) -> Result<(), Error> {
        let (barrier, wait) = Barrier::channel();
        for &worker in workers {
            self.send(worker, message(barrier.clone()))?;
        }
        drop(barrier);
        wait.wait();
        Ok(())
    }

    /// Sends a message to one worker and waits for its answer.
    pub(crate) fn ask<T>(
        &self,
        worker: usize,
        message: impl FnOnce(Reply<T>) -> Message,
    ) -> Result<T, Error> {
        let (reply, answer) = channel();
        self.send(worker, message(reply))?;
        answer.recv().map_err(|_| Error::Stopped)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}
