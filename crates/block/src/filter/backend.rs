//! What every device has between itself and its image.
//!
//! A [`Backend`] counts and takes the time of operations ([`account`](super::account)), deals with failures of the host
//! ([`policy`](super::policy)), and limits how many operations there are, if somebody wants that
//! ([`throttle`](super::throttle)). Those that an error has stopped wait here, and [`Backend::resume`] starts all of them
//! again in the order in which they came to wait. The device above knows nothing of it; its guest sees a delay. An
//! operation that began before that and fails after it says nothing about the device as it is now: it is begun anew.
//!
//! There is one state for all reactors, and an *epoch* that moves whenever it changes in a way that concerns operations:
//! a stop, whatever lets it go on, the first limit and the last, histograms. An operation looks at the epoch, and only when it has
//! moved at the state ([`Keeper::look`]). So what is not in use is not on its way: the throttle is put in front of a
//! handle's image when there is a limit, and taken away again when there is none and nothing waits in it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use lunar_reactor::{Handle, Token, clock};
use lunar_sgl::prefetch::Lines;

use super::account::{Account, Activities, Kind};
use super::books::Books;
use super::latency::Histograms;
use super::parked::Parked;
use super::policy::{Action, ErrorRules, Failure, IoStatus, PolicyEvent};
use super::throttle::{Membership, ThrottleGroup, ThrottleHandle};
use super::{Filter, FilterNode};
use crate::{AllocationQuery, Cancel, DataHandle, Error, Image, Op, OpKind, Progress};

/// An image as a device has it. See the module.
pub struct Backend {
    image: Arc<dyn Image>,
    shared: Arc<Shared>,
    accounts: Books<Account>,
}

struct Shared {
    epoch: AtomicU64,
    state: Mutex<State>,
    membership: Arc<Membership>,
    listener: Box<dyn Fn(PolicyEvent) + Send + Sync>,
}

struct State {
    rules: ErrorRules,
    stopped: bool,
    /// The epoch since which the device is to go on: what began in an earlier one tells old news if it fails.
    resumed: u64,
    /// The device goes: nothing stops it any more.
    ended: bool,
    status: IoStatus,
    /// The handles' tasks that wait for the stop to end.
    waiting: Vec<Waker>,
    histograms: Histograms,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend")
            .field("image", &self.image)
            .field("rules", &self.rules())
            .field("stopped", &self.is_stopped())
            .finish()
    }
}

impl Backend {
    /// Stands on `image`. `listener` is called on the reactors' threads, for each failure, and must not wait.
    pub fn new(
        image: Arc<dyn Image>,
        rules: ErrorRules,
        listener: impl Fn(PolicyEvent) + Send + Sync + 'static,
    ) -> Arc<Backend> {
        Arc::new(Backend {
            image,
            accounts: Books::default(),
            shared: Arc::new(Shared {
                epoch: AtomicU64::new(0),
                state: Mutex::new(State {
                    rules,
                    stopped: false,
                    resumed: 0,
                    ended: false,
                    status: IoStatus::Ok,
                    waiting: Vec::new(),
                    histograms: Histograms::default(),
                }),
                membership: Membership::new(None),
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
        state.resumed = self.shared.change();
        was
    }

    /// Whether the device is stopped.
    pub fn is_stopped(&self) -> bool {
        self.shared.state().stopped
    }

    /// What has stopped it, if an error has.
    pub fn io_status(&self) -> IoStatus {
        self.shared.state().status
    }

    /// The group whose limits it has.
    pub fn group(&self) -> Option<Arc<ThrottleGroup>> {
        self.shared.membership.group().clone()
    }

    /// Puts it into another group, or none. What waits in the old one waits in the new one then, or goes.
    pub fn set_group(&self, group: Option<Arc<ThrottleGroup>>) {
        self.shared.membership.set(group);
        self.shared.change();
    }

    /// What was done with the device, through all its paths.
    pub fn activities(&self) -> Activities {
        self.accounts.total().collect(clock())
    }

    /// The histograms that somebody has set.
    pub fn histograms(&self) -> Histograms {
        self.shared.state().histograms.clone()
    }

    /// Sets histograms; they begin empty.
    pub fn set_histograms(&self, histograms: Histograms) {
        self.shared.state().histograms = histograms;
        self.shared.change();
    }
}

impl Filter for Backend {
    fn below(&self) -> &Arc<dyn Image> {
        &self.image
    }

    fn node(&self) -> Option<&FilterNode> {
        None
    }

    fn over(&self, below: Rc<dyn DataHandle>, reactor: &Handle) -> Rc<dyn DataHandle> {
        self.shared.state().ended = false;
        Rc::new(BackendHandle(Rc::new(Keeper {
            io: RefCell::new(Rc::clone(&below)),
            image: below,
            throttle: RefCell::default(),
            reactor: reactor.clone(),
            shared: Arc::clone(&self.shared),
            seen: Cell::new(None),
            account: self.accounts.open(),
            histograms: RefCell::default(),
            has_histograms: Cell::new(false),
            kept: Parked::default(),
            order: RefCell::default(),
            is_waiting: Cell::new(false),
            impatient: Cell::new(0),
            cancelled: RefCell::default(),
        })))
    }

    /// What is kept is tried a last time; until the image is opened again, failures are reported. What waits for a limit
    /// goes.
    fn release(&self) {
        let mut state = self.shared.state();
        state.ended = true;
        self.shared.set_stopped(&mut state, false);
        drop(state);
        self.shared.membership.end_waits();
    }
}

impl Shared {
    /// A state left by a panicking thread is as good as any: it is changed by single assignments.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has changed that operations have to look at. The epoch that begins with it.
    fn change(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::Release) + 1
    }

    fn set_stopped(&self, state: &mut State, stopped: bool) {
        if state.stopped != stopped {
            state.stopped = stopped;
            self.change();
        }
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

    /// An operation that was last begun in `epoch` has failed: what is to be done about it, or nothing because it is
    /// old news.
    fn decide(&self, kind: OpKind, epoch: u64, error: &Error) -> Option<Action> {
        let mut state = self.state();
        if state.ended {
            return Some(Action::Report);
        }
        let (side, action) = state.rules.decide(kind, error);
        let was_running = !state.stopped;
        if action == Action::Stop {
            if epoch < state.resumed {
                return None;
            }
            // The first error says why.
            if state.status == IoStatus::Ok {
                state.status = match *error == Error::NoSpace {
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
        Some(action)
    }
}

struct BackendHandle(Rc<Keeper>);

/// One reactor's part of a backend, and the operations that are kept there.
struct Keeper {
    /// What operations are given to: the throttle, or the image.
    io: RefCell<Rc<dyn DataHandle>>,
    image: Rc<dyn DataHandle>,
    throttle: RefCell<Option<Rc<ThrottleHandle>>>,
    reactor: Handle,
    shared: Arc<Shared>,
    /// The epoch of what is known here; `None` if it has to be looked at again anyway.
    seen: Cell<Option<u64>>,
    account: Arc<Account>,
    histograms: RefCell<Histograms>,
    has_histograms: Cell<bool>,
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

impl DataHandle for BackendHandle {
    #[inline]
    fn start(&self, op: &mut Op, token: Token) -> Progress {
        op.begun = self.0.reactor.now();
        Keeper::start(&self.0, op, token)
    }

    #[inline]
    fn resume(&self, op: &mut Op, token: Token, result: i32) -> Progress {
        let this = &self.0;
        match this.kept.take(token) {
            None => {
                let progress = this.io.borrow().resume(op, token, result);
                Keeper::settle(this, progress, op, token)
            }
            Some(Kept::Ends) => Progress::Done(Err(Error::Cancelled)),
            Some(Kept::Waits | Kept::Again) => Keeper::start(this, op, token),
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
                keeper.io.borrow().cancel(token, why);
            }
        }
    }

    fn lines(&self, lines: &mut Lines) {
        let keeper = &*self.0;
        lines.add(self);
        lines.add(&keeper.shared.epoch);
        lines.add(&keeper.io);
        lines.add(&keeper.seen);
        lines.add(&keeper.kept);
        lines.add(&keeper.impatient);
        lines.add(&keeper.has_histograms);
        keeper.account.lines(lines);
        keeper.image.lines(lines);
    }

    fn allocation(&self, offset: u64, len: u64) -> AllocationQuery {
        self.0.image.allocation(offset, len)
    }
}

impl Keeper {
    #[inline]
    fn start(this: &Rc<Keeper>, op: &mut Op, token: Token) -> Progress {
        let epoch = this.shared.epoch.load(Ordering::Acquire);
        if this.seen.get() != Some(epoch) && !this.look(epoch) {
            return Keeper::keep(this, op, token);
        }
        op.epoch = epoch;
        let progress = this.io.borrow().start(op, token);
        Keeper::settle(this, progress, op, token)
    }

    #[inline]
    fn settle(this: &Rc<Keeper>, progress: Progress, op: &mut Op, token: Token) -> Progress {
        match progress {
            Progress::Done(Ok(())) if this.impatient.get() == 0 => {
                this.succeeded(op);
                Progress::Done(Ok(()))
            }
            Progress::Done(result) => Keeper::judge(this, result, op, token),
            Progress::Pending => Progress::Pending,
        }
    }

    /// Learns of what has changed. Whether the device runs.
    #[cold]
    fn look(&self, epoch: u64) -> bool {
        let state = self.shared.state();
        let running = !state.stopped;
        self.has_histograms.set(!state.histograms.is_empty());
        self.histograms.replace(state.histograms.clone());
        drop(state);
        let limited = self.shared.membership.group().is_some();
        let mut throttle = self.throttle.borrow_mut();
        let mut settled = running;
        match &*throttle {
            None if limited => {
                let (image, membership) = (Rc::clone(&self.image), &self.shared.membership);
                let new = Rc::new(ThrottleHandle::new(image, &self.reactor, membership, None));
                self.io.replace(Rc::clone(&new) as Rc<dyn DataHandle>);
                *throttle = Some(new);
            }
            Some(old) if !limited && old.is_empty() => {
                self.io.replace(Rc::clone(&self.image));
                *throttle = None;
            }
            // What it holds is on its way through it.
            Some(_) if !limited => settled = false,
            _ => {}
        }
        self.seen.set(settled.then_some(epoch));
        running
    }

    #[inline]
    fn succeeded(&self, op: &Op) {
        let asked = op.asked();
        let (kind, now) = (Kind::of(asked.kind), self.reactor.now());
        let ns = now.saturating_sub(op.begun);
        self.account.succeeded(kind, asked.len, ns, now);
        if self.has_histograms.get() {
            self.histograms.borrow().count(kind, ns);
        }
    }

    /// An operation has ended with an error, which its device is told.
    fn failed(&self, op: &Op, error: Error) -> Progress {
        let (kind, now) = (Kind::of(op.asked().kind), self.reactor.now());
        let ns = now.saturating_sub(op.begun);
        self.account.failed(kind, &error, ns, now);
        Progress::Done(Err(error))
    }

    /// An operation is over, and may have failed.
    #[cold]
    fn judge(this: &Rc<Keeper>, result: Result<(), Error>, op: &mut Op, token: Token) -> Progress {
        let mut cancelled = this.cancelled.borrow_mut();
        let why = cancelled.remove(&token);
        this.impatient.set(cancelled.len());
        drop(cancelled);
        let error = match result {
            Ok(()) => {
                this.succeeded(op);
                return Progress::Done(Ok(()));
            }
            Err(error) => error,
        };
        if !error.is_host_failure() || why == Some(Cancel::Abandoned) {
            return this.failed(op, error);
        }
        match this.shared.decide(op.kind, op.epoch, &error) {
            Some(Action::Report) => this.failed(op, error),
            Some(Action::Ignore) => {
                // The guest is told that all is well, and everybody else what was not.
                let _: Progress = this.failed(op, error);
                Progress::Done(Ok(()))
            }
            // Its initiator is asked to send it again, and then it can wait.
            Some(Action::Stop) | None if why.is_some() => this.failed(op, Error::Cancelled),
            Some(Action::Stop) => Keeper::keep(this, op, token),
            None => {
                op.rewind();
                this.kept.insert(token, Kept::Again);
                this.reactor.deliver(token, 0);
                Progress::Pending
            }
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
