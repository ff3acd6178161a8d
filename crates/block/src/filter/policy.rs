//! What becomes of an operation that the host fails: `rerror=` and `werror=`.
//!
//! [`ErrorPolicy`] stands directly beneath a device. An operation that has failed is reported, taken for done, or kept:
//! then the device is *stopped*, which those who listen are told, later operations wait as well, and
//! [`ErrorPolicy::resume`] starts all of them again in the order in which they came to wait. The device above knows
//! nothing of it; its guest sees a delay.
//!
//! Only failures of the host get here ([`Error::is_host_failure`]). What a guest does wrong is refused above, so that no
//! guest can stop anything.
//!
//! While nothing has failed, an operation costs a look at one flag that hardly ever changes, and one at the handle's own
//! memory. There is one stopped state for all reactors; each handle keeps its own operations, and a task that waits for the
//! state to end.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use lunar_reactor::{Handle, Token};

use super::parked::Parked;
use crate::{
    AllocationQuery, Cancel, DataHandle, Error, Image, Info, Op, OpKind, Progress, Space, Stats,
};

/// What is done about failures of one kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The guest is told.
    Report,
    /// The guest is told that all is well: data is lost, or was not read.
    Ignore,
    /// As `Stop` when there is no space left, as `Report` otherwise.
    Enospc,
    /// The device is stopped and the operation kept, to be repeated.
    Stop,
}

/// `rerror=` and `werror=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRules {
    /// For reads.
    pub read: OnError,
    /// For everything else, flushes and discards included.
    pub write: OnError,
}

impl Default for ErrorRules {
    /// What `auto` means.
    fn default() -> ErrorRules {
        ErrorRules {
            read: OnError::Report,
            write: OnError::Enospc,
        }
    }
}

/// What was done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The guest was told.
    Report,
    /// The guest was told that all is well.
    Ignore,
    /// The operation is kept until the device goes on.
    Stop,
}

/// Which rule an operation falls under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `rerror=`
    Read,
    /// `werror=`
    Write,
}

/// A failure, and what was done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which rule applied.
    pub side: Side,
    /// What was done.
    pub action: Action,
    /// What the host has said.
    pub error: Error,
}

/// What a policy tells those who listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyEvent {
    /// An operation has failed.
    Failed(Failure),
    /// Because of it the device, which was running, has stopped.
    Stopped,
}

/// How an image has fared since the device last went on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoStatus {
    /// Well.
    #[default]
    Ok,
    /// It is stopped by an error.
    Failed,
    /// It is stopped because there is no space left.
    NoSpace,
}

/// An image whose failures are dealt with. See the module.
pub struct ErrorPolicy {
    image: Arc<dyn Image>,
    shared: Arc<Shared>,
}

struct Shared {
    /// [`State::stopped`], for a look without the lock.
    stopped: AtomicBool,
    state: Mutex<State>,
    listener: Box<dyn Fn(PolicyEvent) + Send + Sync>,
}

struct State {
    rules: ErrorRules,
    stopped: bool,
    /// The device goes: nothing stops it any more.
    ended: bool,
    status: IoStatus,
    /// The handles' tasks that wait for the stop to end.
    waiting: Vec<Waker>,
}

impl std::fmt::Debug for ErrorPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ErrorPolicy")
            .field("image", &self.image)
            .field("rules", &self.rules())
            .field("stopped", &self.is_stopped())
            .finish()
    }
}

impl ErrorPolicy {
    /// Puts a policy on top of `image`. `listener` is called on the reactors' threads, for each failure, and must not
    /// wait.
    pub fn new(
        image: Arc<dyn Image>,
        rules: ErrorRules,
        listener: impl Fn(PolicyEvent) + Send + Sync + 'static,
    ) -> Arc<ErrorPolicy> {
        Arc::new(ErrorPolicy {
            image,
            shared: Arc::new(Shared {
                stopped: AtomicBool::new(false),
                state: Mutex::new(State {
                    rules,
                    stopped: false,
                    ended: false,
                    status: IoStatus::Ok,
                    waiting: Vec::new(),
                }),
                listener: Box::new(listener),
            }),
        })
    }

    /// The rules.
    pub fn rules(&self) -> ErrorRules {
        self.shared.state().rules
    }

    /// Changes the rules for failures to come.
    pub fn set_rules(&self, rules: ErrorRules) {
        self.shared.state().rules = rules;
    }

    /// Stops the device as an error would: operations that come wait, those under way go on.
    pub fn stop(&self) {
        let mut state = self.shared.state();
        if !state.ended {
            self.shared.set_stopped(&mut state, true);
        }
    }

    /// Lets the device go on, and repeats what has failed. Whether it was stopped.
    pub fn resume(&self) -> bool {
        let mut state = self.shared.state();
        let was = state.stopped;
        state.status = IoStatus::Ok;
        self.shared.set_stopped(&mut state, false);
        was
    }

    /// Whether the device is stopped.
    pub fn is_stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Acquire)
    }

    /// What has stopped it, if an error has.
    pub fn io_status(&self) -> IoStatus {
        self.shared.state().status
    }
}

impl Image for ErrorPolicy {
    fn info(&self) -> Info {
        self.image.info()
    }

    fn open(&self, reactor: &Handle) -> Result<Rc<dyn DataHandle>, Error> {
        self.shared.state().ended = false;
        Ok(Rc::new(PolicyHandle(Rc::new(Keeper {
            io: self.image.open(reactor)?,
            reactor: reactor.clone(),
            shared: Arc::clone(&self.shared),
            kept: Parked::default(),
            order: RefCell::default(),
            is_waiting: Cell::new(false),
            impatient: Cell::new(0),
            cancelled: RefCell::default(),
        }))))
    }

    fn stats(&self) -> Stats {
        self.image.stats()
    }

    /// What is kept is tried a last time; until the image is opened again, failures are reported.
    fn end_waits(&self) {
        let mut state = self.shared.state();
        state.ended = true;
        self.shared.set_stopped(&mut state, false);
        drop(state);
        self.image.end_waits();
    }

    fn space(&self) -> Option<Space> {
        self.image.space()
    }

    fn resize(&self, size: u64) -> Result<(), Error> {
        self.image.resize(size)
    }

    fn refresh(&self) -> Result<(), Error> {
        self.image.refresh()
    }

    fn close(&self) -> Result<(), Error> {
        self.image.close()
    }
}

impl Shared {
    /// A state left by a panicking thread is as good as any: it is changed by single assignments.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_stopped(&self, state: &mut State, stopped: bool) {
        state.stopped = stopped;
        self.stopped.store(stopped, Ordering::Release);
        if !stopped {
            for waker in state.waiting.drain(..) {
                waker.wake();
            }
        }
    }

    fn poll_running(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if !state.stopped {
            return Poll::Ready(());
        }
        state.waiting.push(context.waker().clone());
        Poll::Pending
    }

    /// An operation has failed: what is to be done about it.
    fn decide(&self, kind: OpKind, error: &Error) -> Action {
        let side = match kind {
            OpKind::Read => Side::Read,
            _ => Side::Write,
        };
        let mut state = self.state();
        if state.ended {
            return Action::Report;
        }
        let rule = match side {
            Side::Read => state.rules.read,
            Side::Write => state.rules.write,
        };
        let no_space = *error == Error::NoSpace;
        let action = match rule {
            OnError::Report => Action::Report,
            OnError::Enospc if !no_space => Action::Report,
            OnError::Ignore => Action::Ignore,
            OnError::Enospc | OnError::Stop => Action::Stop,
        };
        let was_running = !state.stopped;
        if action == Action::Stop {
            // The first error says why.
            if state.status == IoStatus::Ok {
                state.status = match no_space {
                    true => IoStatus::NoSpace,
                    false => IoStatus::Failed,
                };
            }
            self.set_stopped(&mut state, true);
        }
        drop(state);
        (self.listener)(PolicyEvent::Failed(Failure {
            side,
            action,
            error: error.clone(),
        }));
        if action == Action::Stop && was_running {
            (self.listener)(PolicyEvent::Stopped);
        }
        action
    }
}

struct PolicyHandle(Rc<Keeper>);

/// The operations of one reactor that are kept.
struct Keeper {
    io: Rc<dyn DataHandle>,
    reactor: Handle,
    shared: Arc<Shared>,
    kept: Parked<Kept>,
    /// Those of them that wait, as they came.
    order: RefCell<VecDeque<Token>>,
    /// A task waits for the stop to end.
    is_waiting: Cell<bool>,
    /// How many are in `cancelled`, looked at on the way of every operation.
    impatient: Cell<usize>,
    /// Operations below that must not be kept when they fail.
    cancelled: RefCell<HashMap<Token, Cancel>>,
}

/// What becomes of an operation that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// It waits.
    Waits,
    /// Its token is on the way, and it is started again.
    Again,
    /// Its token is on the way, and it ends.
    Ends,
}

impl DataHandle for PolicyHandle {
    #[inline]
    fn start(&self, op: &mut Op, token: Token) -> Progress {
        if self.0.shared.stopped.load(Ordering::Acquire) {
            return Keeper::keep(&self.0, op, token);
        }
        let progress = self.0.io.start(op, token);
        self.settle(progress, op, token)
    }

    #[inline]
    fn resume(&self, op: &mut Op, token: Token, result: i32) -> Progress {
        match self.0.kept.take(token) {
            None => {
                let progress = self.0.io.resume(op, token, result);
                self.settle(progress, op, token)
            }
            Some(Kept::Ends) => Progress::Done(Err(Error::Cancelled)),
            Some(Kept::Waits | Kept::Again) => self.start(op, token),
        }
    }

    fn cancel(&self, token: Token, why: Cancel) {
        let keeper = &self.0;
        let was = keeper
            .kept
            .change(token, |kept| std::mem::replace(kept, Kept::Ends));
        match was {
            Some(Kept::Waits) => {
                keeper.order.borrow_mut().retain(|other| *other != token);
                keeper.reactor.deliver(token, 0);
            }
            Some(Kept::Again | Kept::Ends) => {}
            None => {
                let mut cancelled = keeper.cancelled.borrow_mut();
                cancelled.insert(token, why);
                keeper.impatient.set(cancelled.len());
                drop(cancelled);
                keeper.io.cancel(token, why);
            }
        }
    }

    fn allocation(&self, offset: u64, len: u64) -> AllocationQuery {
        self.0.io.allocation(offset, len)
    }
}

impl PolicyHandle {
    #[inline]
    fn settle(&self, progress: Progress, op: &mut Op, token: Token) -> Progress {
        match progress {
            Progress::Done(Ok(())) if self.0.impatient.get() == 0 => Progress::Done(Ok(())),
            Progress::Done(result) => Keeper::judge(&self.0, result, op, token),
            Progress::Pending => Progress::Pending,
        }
    }
}

impl Keeper {
    /// An operation is over, and may have failed.
    #[cold]
    fn judge(this: &Rc<Keeper>, result: Result<(), Error>, op: &mut Op, token: Token) -> Progress {
        let mut cancelled = this.cancelled.borrow_mut();
        let why = cancelled.remove(&token);
        this.impatient.set(cancelled.len());
        drop(cancelled);
        let error = match result {
            Err(error) if error.is_host_failure() && why != Some(Cancel::Abandoned) => error,
            over => return Progress::Done(over),
        };
        match this.shared.decide(op.kind, &error) {
            Action::Report => Progress::Done(Err(error)),
            Action::Ignore => Progress::Done(Ok(())),
            // Its initiator is asked to send it again, and then it can wait.
            Action::Stop if why.is_some() => Progress::Done(Err(Error::Cancelled)),
            Action::Stop => Keeper::keep(this, op, token),
        }
    }

    /// Lets an operation wait until the stop ends.
    #[cold]
    fn keep(this: &Rc<Keeper>, op: &mut Op, token: Token) -> Progress {
        op.rewind();
        this.kept.insert(token, Kept::Waits);
        this.order.borrow_mut().push_back(token);
        if !this.is_waiting.replace(true) {
            let (shared, keeper) = (Arc::clone(&this.shared), Rc::downgrade(this));
            this.reactor.spawn(async move {
                poll_fn(|context| shared.poll_running(context)).await;
                // It is gone if its operations were cancelled, and then its device detached.
                if let Some(keeper) = keeper.upgrade() {
                    keeper.is_waiting.set(false);
                    keeper.release();
                }
            });
        }
        Progress::Pending
    }

    /// Starts everything again.
    fn release(&self) {
        for token in self.order.take() {
            self.kept.change(token, |kept| *kept = Kept::Again);
            self.reactor.deliver(token, 0);
        }
    }
}
