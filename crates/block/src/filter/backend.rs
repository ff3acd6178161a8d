//! What every device has between itself and its image.
//!
//! A [`Backend`] counts and takes the time of operations ([`account`](super::account)), deals with failures of the host
//! ([`policy`](super::policy)), and limits how many operations there are, if somebody wants that
//! ([`throttle`](super::throttle)). Those that an error has stopped wait here, and [`Backend::resume`] starts all of them
//! again in the order in which they came to wait. The device above knows nothing of it; its guest sees a delay. An
//! operation that began before that and fails after it says nothing about the device as it is now: it is begun anew.
//!
//! There is one state for all reactors, and an *epoch* that moves whenever it changes in a way that concerns operations:
//! a stop, whatever lets it go on, the first limit and the last, histograms. An operation looks at the epoch, and only
//! when it has moved at the state ([`BackendHandle::look`]). So what is not in use is not on its way: the throttle is put
//! in front of a handle's image when there is a limit, and taken away again when there is none and nothing waits in it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
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
            self.shared.halt(&mut state);
        }
    }

    /// Lets the device go on, and repeats what has failed. Whether it was stopped.
    pub fn resume(&self) -> bool {
        let mut state = self.shared.state();
        let was = state.stopped;
        state.status = IoStatus::Ok;
        self.shared.let_go(&mut state);
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
        Rc::new_cyclic(|me| BackendHandle {
            is_plain: Cell::new(true),
            seen: Cell::new(UNKNOWN),
            shared: Arc::clone(&self.shared),
            account: self.accounts.open(),
            image: below,
            reactor: reactor.clone(),
            me: Weak::clone(me),
            throttle: RefCell::default(),
            histograms: RefCell::default(),
            kept: Parked::default(),
            order: RefCell::default(),
            is_waiting: Cell::new(false),
            cancelled: RefCell::default(),
        })
    }

    /// What is kept is tried a last time; until the image is opened again, failures are reported. What waits for a limit
    /// goes.
    fn release(&self) {
        let mut state = self.shared.state();
        state.ended = true;
        self.shared.let_go(&mut state);
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

    /// Operations that come wait from now on.
    fn halt(&self, state: &mut State) {
        if !state.stopped {
            state.stopped = true;
            self.change();
        }
    }

    /// Those that wait go on, in an epoch of their own: what began before it is old news.
    fn let_go(&self, state: &mut State) {
        state.stopped = false;
        state.resumed = self.change();
        for waker in state.waiting.drain(..) {
            waker.wake();
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
            self.halt(&mut state);
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

/// An epoch that has never been, for handles that have to look again anyway.
const UNKNOWN: u64 = u64::MAX;

/// One reactor's part of a backend, and the operations that are kept there.
///
/// What every operation looks at comes first, in one cache line: with thousands of disks, each of them is in no cache.
#[repr(C, align(64))]
struct BackendHandle {
    /// Nothing but the image has to do with an operation: no limit is in its way, no histogram wants to hear of it, and it
    /// may be kept when it fails.
    is_plain: Cell<bool>,
    /// The epoch of what is known here, or [`UNKNOWN`].
    seen: Cell<u64>,
    shared: Arc<Shared>,
    account: Arc<Account>,
    image: Rc<dyn DataHandle>,
    reactor: Handle,
    /// For the task that waits for the stop to end.
    me: Weak<BackendHandle>,
    /// What operations are given to instead of the image, while there is a limit.
    throttle: RefCell<Option<Rc<ThrottleHandle>>>,
    histograms: RefCell<Histograms>,
    kept: Parked<Kept>,
    /// Those of them that wait, as they came.
    order: RefCell<VecDeque<Token>>,
    /// A task waits for the stop to end.
    is_waiting: Cell<bool>,
    /// Operations below that must not be kept when they fail.
    cancelled: RefCell<HashMap<Token, Cancel>>,
}

/// What an operation looks at.
const _: () = assert!(std::mem::offset_of!(BackendHandle, me) <= 64);

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
        op.begun = self.reactor.now();
        self.begin(op, token)
    }

    #[inline]
    fn resume(&self, op: &mut Op, token: Token, result: i32) -> Progress {
        if let Some(kept) = self.kept.take(token) {
            return self.go_on(kept, op, token);
        }
        let progress = match self.is_plain.get() {
            true => self.image.resume(op, token, result),
            false => self.below().resume(op, token, result),
        };
        self.settle(progress, op, token)
    }

    fn cancel(&self, token: Token, why: Cancel) {
        let was = self
            .kept
            .change(token, |kept| std::mem::replace(kept, Kept::Ends));
        match was {
            Some(Kept::Waits) => {
                self.order.borrow_mut().retain(|other| *other != token);
                self.reactor.deliver(token, 0);
            }
            Some(Kept::Again | Kept::Ends) => {}
            None => {
                self.cancelled.borrow_mut().insert(token, why);
                self.classify();
                self.below().cancel(token, why);
            }
        }
    }

    fn lines(&self, lines: &mut Lines) {
        lines.add_first(self);
        lines.add(&self.shared.epoch);
        self.account.lines(lines);
        self.image.lines(lines);
    }

    fn allocation(&self, offset: u64, len: u64) -> AllocationQuery {
        self.image.allocation(offset, len)
    }
}

impl BackendHandle {
    #[inline]
    fn begin(&self, op: &mut Op, token: Token) -> Progress {
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        if self.seen.get() != epoch && !self.look(epoch) {
            return self.keep(op, token);
        }
        op.epoch = epoch;
        let progress = match self.is_plain.get() {
            true => self.image.start(op, token),
            false => self.below().start(op, token),
        };
        self.settle(progress, op, token)
    }

    #[inline]
    fn settle(&self, progress: Progress, op: &mut Op, token: Token) -> Progress {
        match progress {
            Progress::Done(Ok(())) if self.is_plain.get() => {
                self.succeeded(op);
                Progress::Done(Ok(()))
            }
            Progress::Done(result) => self.judge(result, op, token),
            Progress::Pending => Progress::Pending,
        }
    }

    /// What was kept need not wait any longer.
    #[cold]
    fn go_on(&self, kept: Kept, op: &mut Op, token: Token) -> Progress {
        match kept {
            Kept::Ends => Progress::Done(Err(Error::Cancelled)),
            Kept::Waits | Kept::Again => self.begin(op, token),
        }
    }

    /// What operations are given to, if it need not be the image.
    #[cold]
    fn below(&self) -> Rc<dyn DataHandle> {
        match &*self.throttle.borrow() {
            Some(throttle) => Rc::clone(throttle) as Rc<dyn DataHandle>,
            None => Rc::clone(&self.image),
        }
    }

    /// Finds out whether operations are plain from now on.
    fn classify(&self) {
        let is_plain = self.throttle.borrow().is_none()
            && self.histograms.borrow().is_empty()
            && self.cancelled.borrow().is_empty();
        self.is_plain.set(is_plain);
    }

    /// Learns of what has changed. Whether the device runs.
    #[cold]
    fn look(&self, epoch: u64) -> bool {
        let state = self.shared.state();
        let running = !state.stopped;
        self.histograms.replace(state.histograms.clone());
        drop(state);
        let limited = self.shared.membership.group().is_some();
        let mut throttle = self.throttle.borrow_mut();
        let mut settled = running;
        match &*throttle {
            None if limited => {
                let (image, membership) = (Rc::clone(&self.image), &self.shared.membership);
                let new = ThrottleHandle::new(image, &self.reactor, membership, None);
                *throttle = Some(Rc::new(new));
            }
            Some(old) if !limited && old.is_empty() => *throttle = None,
            // What it holds is on its way through it.
            Some(_) if !limited => settled = false,
            _ => {}
        }
        drop(throttle);
        self.classify();
        self.seen.set(if settled { epoch } else { UNKNOWN });
        running
    }

    #[inline]
    fn succeeded(&self, op: &Op) {
        let asked = op.asked();
        let (kind, now) = (Kind::of(asked.kind), self.reactor.now());
        let ns = now.saturating_sub(op.begun);
        self.account.succeeded(kind, asked.len, ns, now);
        if !self.is_plain.get() {
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
    fn judge(&self, result: Result<(), Error>, op: &mut Op, token: Token) -> Progress {
        let why = self.impatience(token);
        let error = match result {
            Ok(()) => {
                self.succeeded(op);
                return Progress::Done(Ok(()));
            }
            Err(error) => error,
        };
        if !error.is_host_failure() || why == Some(Cancel::Abandoned) {
            return self.failed(op, error);
        }
        match self.shared.decide(op.kind, op.epoch, &error) {
            Some(Action::Report) => self.failed(op, error),
            Some(Action::Ignore) => {
                // The guest is told that all is well, and everybody else what was not.
                let _: Progress = self.failed(op, error);
                Progress::Done(Ok(()))
            }
            // Its initiator is asked to send it again, and then it can wait.
            Some(Action::Stop) | None if why.is_some() => self.failed(op, Error::Cancelled),
            Some(Action::Stop) => self.keep(op, token),
            None => {
                op.rewind();
                self.kept.insert(token, Kept::Again);
                self.reactor.deliver(token, 0);
                Progress::Pending
            }
        }
    }

    /// An operation is over: why it must not be kept, if so.
    fn impatience(&self, token: Token) -> Option<Cancel> {
        let mut cancelled = self.cancelled.borrow_mut();
        if cancelled.is_empty() {
            return None;
        }
        let why = cancelled.remove(&token);
        drop(cancelled);
        self.classify();
        why
    }

    /// Lets an operation wait until the stop ends.
    #[cold]
    fn keep(&self, op: &mut Op, token: Token) -> Progress {
        op.rewind();
        self.kept.insert(token, Kept::Waits);
        self.order.borrow_mut().push_back(token);
        if !self.is_waiting.replace(true) {
            let (shared, me) = (Arc::clone(&self.shared), Weak::clone(&self.me));
            self.reactor.spawn(async move {
                poll_fn(|context| shared.poll_running(context)).await;
                // It is gone if its operations were cancelled, and then its device detached.
                if let Some(handle) = me.upgrade() {
                    handle.is_waiting.set(false);
                    handle.release();
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
