//! Work that may block, away from the reactors.
//!
//! A few threads serve the whole process. They come when there is work, and go when there has been none for a while, so
//! that a process that needs none has none.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::sync::oneshot;

/// How much work is done at a time: one slow disk is not to hold up what the others have to do.
const THREADS: usize = 8;
/// How much work waits; there is more only where the host hangs and a guest does not tire of asking.
const WAITING: usize = 4096;
/// How long a thread waits for more work.
const LINGER: Duration = Duration::from_secs(2);

/// The work has come to no result: there was no thread to do it, there was too much of it, or it has panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no thread to do it")]
pub struct NotDone;

type Job = Box<dyn FnOnce() + Send>;

/// Runs `work`, which may block, on another thread. It begins now, whether or not anybody waits for the future, which can
/// be awaited on any thread.
///
/// # Errors
/// [`NotDone`], at once where there can be no thread.
pub fn offload<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, NotDone>> + Send + 'static {
    let (job, result) = job(work);
    POOL.submit(job);
    result
}

/// Work that is [offloaded](offload) one piece after the other, in the order in which it was given.
#[derive(Clone, Default)]
pub struct Sequence {
    /// What has to wait; `None` while no thread is at work for the sequence.
    waiting: Arc<Mutex<Option<VecDeque<Job>>>>,
}

impl std::fmt::Debug for Sequence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sequence").finish_non_exhaustive()
    }
}

impl Sequence {
    /// As [`offload`], but the work begins when all before it has ended.
    ///
    /// # Errors
    /// As [`offload`].
    pub fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, NotDone>> + Send + 'static {
        let (job, result) = job(work);
        let mut waiting = lock(&self.waiting);
        if let Some(queue) = &mut *waiting {
            if queue.len() < WAITING {
                queue.push_back(job);
            }
        } else {
            *waiting = Some(VecDeque::new());
            drop(waiting);
            self.go_on(job);
        }
        result
    }

    /// Has `job` done, and then what has come to wait.
    fn go_on(&self, job: Job) {
        let mut turn = Turn(Some(self.clone()));
        POOL.submit(Box::new(move || {
            job();
            let Some(sequence) = turn.0.take() else {
                return;
            };
            let mut waiting = lock(&sequence.waiting);
            match waiting.as_mut().and_then(VecDeque::pop_front) {
                // Behind what others wait for.
                Some(next) => {
                    drop(waiting);
                    sequence.go_on(next);
                }
                None => *waiting = None,
            }
        }));
    }
}

/// The duty to go on with a sequence. Where nobody can, nothing of it is done.
struct Turn(Option<Sequence>);

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(sequence) = &self.0 {
            let refused = lock(&sequence.waiting).take();
            drop(refused);
        }
    }
}

/// `work` as a job that does not panic, and its result.
fn job<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> (
    Job,
    impl Future<Output = Result<T, NotDone>> + Send + 'static,
) {
    let (done, result) = oneshot::channel();
    let job = move || {
        // What panics is dropped with all that it could have left half changed; its channel says so.
        if let Ok(result) = catch_unwind(AssertUnwindSafe(work)) {
            // Nobody may want to know any more.
            let _ = done.send(result);
        }
    };
    (Box::new(job), async { result.await.map_err(|_| NotDone) })
}

static POOL: Pool = Pool {
    state: Mutex::new(State {
        jobs: VecDeque::new(),
        threads: 0,
        idle: 0,
    }),
    more: Condvar::new(),
};

struct Pool {
    state: Mutex<State>,
    /// There is a job for an idle thread.
    more: Condvar,
}

struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Of these, those that wait for a job.
    idle: usize,
}

impl Pool {
    /// A job that nobody can do is dropped.
    fn submit(&'static self, job: Job) {
        let mut state = lock(&self.state);
        if state.jobs.len() >= WAITING {
            return;
        }
        state.jobs.push_back(job);
        self.more.notify_one();
        if state.jobs.len() > state.idle && state.threads < THREADS {
            let builder = thread::Builder::new().name("lunar-blocking".into());
            if builder.spawn(|| self.work()).is_ok() {
                state.threads += 1;
            } else if state.threads == 0 {
                let refused = std::mem::take(&mut state.jobs);
                // Dropping them may lead back here.
                drop(state);
                drop(refused);
            }
        }
    }

    fn work(&self) {
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = lock(&self.state);
                continue;
            }
            state.idle += 1;
            let (next, waited) = self
                .more
                .wait_timeout(state, LINGER)
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

/// Waits for a future on a thread that is no reactor, and so may be blocked.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Nothing that could panic is done under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::panic,
        reason = "a test fails by panicking"
    )]

    use std::sync::mpsc::channel;
    use std::time::Instant;

    use super::*;

    #[test]
    fn work_is_done_elsewhere_and_its_result_comes_back() {
        let here = thread::current().id();
        let there = block_on(offload(|| thread::current().id())).unwrap();
        assert_ne!(here, there);
    }

    #[test]
    fn work_is_done_though_nobody_waits_for_it() {
        let (sender, done) = channel();
        drop(offload(move || sender.send(()).unwrap()));
        done.recv().unwrap();
    }

    #[test]
    fn work_that_panics_is_not_done_and_harms_no_other() {
        let sequence = Sequence::default();
        let first = sequence.offload(|| panic!("as it should"));
        let second = sequence.offload(|| 2);
        assert_eq!(block_on(first), Err::<(), _>(NotDone));
        assert_eq!(block_on(second), Ok(2));
        assert_eq!(block_on(offload(|| 3)), Ok(3));
    }

    #[test]
    fn work_that_hangs_does_not_hold_up_other_work() {
        let (release, hang) = channel::<()>();
        let hanging = offload(move || hang.recv().is_err());
        assert_eq!(block_on(offload(|| 1)), Ok(1));
        drop(release);
        assert_eq!(block_on(hanging), Ok(true));
    }

    #[test]
    fn a_sequence_keeps_its_order_while_two_of_them_go_on_together() {
        let (release, hang) = channel::<()>();
        let stuck = Sequence::default();
        let stuck_until_released = stuck.offload(move || hang.recv().is_err());
        let behind = stuck.offload(|| ());
        let mut behind = pin!(behind);

        let sequence = Sequence::default();
        let order = Arc::new(Mutex::new(Vec::new()));
        let all: Vec<_> = (0..500)
            .map(|n| {
                let order = Arc::clone(&order);
                sequence.offload(move || order.lock().unwrap().push(n))
            })
            .collect();
        for done in all {
            block_on(done).unwrap();
        }
        assert!(order.lock().unwrap().iter().copied().eq(0..500));
        // The sequence has come to rest and begins anew.
        assert_eq!(block_on(sequence.offload(|| 7)), Ok(7));

        let waker = Waker::noop();
        let mut context = Context::from_waker(waker);
        assert!(behind.as_mut().poll(&mut context).is_pending());
        drop(release);
        assert_eq!(block_on(stuck_until_released), Ok(true));
        assert_eq!(block_on(behind), Ok(()));
    }

    #[test]
    fn threads_are_few_and_leave_when_there_is_nothing_to_do() {
        let work = || thread::sleep(Duration::from_millis(1));
        let all: Vec<_> = (0..200).map(|_| offload(work)).collect();
        assert!(lock(&POOL.state).threads <= THREADS);
        for done in all {
            block_on(done).unwrap();
        }
        let until = Instant::now() + Duration::from_secs(20);
        while lock(&POOL.state).threads > 0 {
            assert!(Instant::now() < until, "threads stay");
            thread::sleep(Duration::from_millis(20));
        }
    }
}
