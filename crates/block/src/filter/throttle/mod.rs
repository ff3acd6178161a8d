//! `throttle`: limits on operations and bytes per second.
//!
//! The parameters are QEMU's, and mean the same: leaky buckets ([`bucket`]) for the average of reads, writes and both, with
//! bursts, shared by the images of a [`ThrottleGroup`] ([`group`]), which take turns. Flushes are not limited. An operation
//! that a limit keeps waiting keeps its caller waiting, so that there are never more of them than the callers have slots.
//!
//! An image can change its group, or leave it, while operations wait: those look for their turn in the new one.

mod bucket;
mod group;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use lunar_reactor::{Handle, Token};

use self::group::{Lane, Pump};
use super::parked::Parked;
use super::{Filter, FilterNode, Gate};
use crate::{AllocationQuery, Cancel, DataHandle, Error, Image, NodeOptions, Op, OpKind, Progress};

pub use bucket::Limit;
pub use group::{Limits, ThrottleGroup};

/// An image with limits. See the module.
#[derive(Debug)]
pub struct Throttle {
    image: Arc<dyn Image>,
    membership: Arc<Membership>,
    node: FilterNode,
}

/// The group that an image is in, as all its data handles have to see it.
#[derive(Debug)]
pub(super) struct Membership {
    /// Which image of its group it is.
    number: usize,
    /// Moves with each change, so that handles look at the group only then.
    generation: AtomicU64,
    group: Mutex<Option<Arc<ThrottleGroup>>>,
}

impl Membership {
    pub fn new(group: Option<Arc<ThrottleGroup>>) -> Arc<Membership> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        Arc::new(Membership {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            generation: AtomicU64::new(0),
            group: Mutex::new(group),
        })
    }

    pub fn group(&self) -> MutexGuard<'_, Option<Arc<ThrottleGroup>>> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the image into another group, or none. What waits in the old one waits in the new one then, or goes.
    pub fn set(&self, group: Option<Arc<ThrottleGroup>>) {
        let old = {
            let mut current = self.group();
            let old = std::mem::replace(&mut *current, group);
            self.generation.fetch_add(1, Ordering::Release);
            old
        };
        if let Some(old) = old {
            old.let_go(|image, _, _| image == self.number);
        }
    }

    /// Whatever waits goes at once.
    pub fn end_waits(&self) {
        if let Some(group) = &*self.group() {
            group.let_go(|image, _, _| image == self.number);
        }
    }
}

impl Throttle {
    /// Makes a node of `image` that is one of the group's.
    ///
    /// # Errors
    /// [`Error::Open`]: it would write to an image that is read-only.
    pub fn new(
        image: Arc<dyn Image>,
        group: Arc<ThrottleGroup>,
        options: &NodeOptions,
    ) -> Result<Arc<Throttle>, Error> {
        Ok(Arc::new(Throttle {
            node: FilterNode::above(&*image, options, "throttle")?,
            membership: Membership::new(Some(group)),
            image,
        }))
    }

    /// Its group.
    pub fn group(&self) -> Option<Arc<ThrottleGroup>> {
        self.membership.group().clone()
    }

    /// Puts it into another group, or none. What waits in the old one waits in the new one then, or goes.
    pub fn set_group(&self, group: Option<Arc<ThrottleGroup>>) {
        self.membership.set(group);
    }
}

impl Filter for Throttle {
    fn below(&self) -> &Arc<dyn Image> {
        &self.image
    }

    fn node(&self) -> Option<&FilterNode> {
        Some(&self.node)
    }

    fn over(&self, below: Rc<dyn DataHandle>, reactor: &Handle) -> Rc<dyn DataHandle> {
        let gate = Some(self.node.gate());
        Rc::new(ThrottleHandle::new(below, reactor, &self.membership, gate))
    }

    fn release(&self) {
        self.membership.end_waits();
    }
}

pub(super) struct ThrottleHandle(Rc<Member>);

/// Where an operation waits, if it is limited.
#[inline]
fn lane(op: &Op) -> Option<Lane> {
    match op.kind {
        OpKind::Flush => None,
        OpKind::Read => Some(Lane::Read),
        OpKind::Write { .. } | OpKind::Discard | OpKind::WriteZeroes { .. } => Some(Lane::Write),
    }
}

/// One reactor's part of an image.
struct Member {
    io: Rc<dyn DataHandle>,
    reactor: Handle,
    gate: Option<Gate>,
    membership: Arc<Membership>,
    /// The group as this handle knows it, and of which generation it is.
    generation: Cell<u64>,
    group: RefCell<Option<Arc<ThrottleGroup>>>,
    pump: Arc<Pump>,
    held: Parked<Then>,
    /// How many of those are not let go yet.
    waiting: Cell<usize>,
    is_pumping: Cell<bool>,
}

/// What becomes of an operation that waits.
#[derive(Clone, Copy)]
enum Then {
    /// It starts, unless the group has changed since this generation.
    Starts(u64),
    /// It starts, whatever the group says: it is wanted out of the way.
    Hurries,
    Cancelled,
}

impl Member {
    /// Learns of a change of group. Whether there was one since `generation`.
    #[inline]
    fn has_changed(&self, generation: u64) -> bool {
        self.membership.generation.load(Ordering::Acquire) != generation
    }

    #[inline]
    fn look(&self) {
        if self.has_changed(self.generation.get()) {
            self.look_again();
        }
    }

    #[cold]
    fn look_again(&self) {
        let current = self.membership.group();
        let generation = self.membership.generation.load(Ordering::Acquire);
        self.generation.set(generation);
        self.group.borrow_mut().clone_from(&current);
    }

    /// Starts an operation, or lets it wait for its turn.
    #[inline]
    fn start(this: &Rc<Member>, lane: Lane, op: &mut Op, token: Token) -> Progress {
        this.look();
        match &*this.group.borrow() {
            Some(group) if !group.admits(lane, op.len) => {
                Member::wait(this, group, lane, op, token)
            }
            _ => this.io.start(op, token),
        }
    }

    fn wait(
        this: &Rc<Member>,
        group: &ThrottleGroup,
        lane: Lane,
        op: &Op,
        token: Token,
    ) -> Progress {
        let generation = this.generation.get();
        this.held.insert(token, Then::Starts(generation));
        this.waiting.set(this.waiting.get() + 1);
        group.join(lane, this.membership.number, (token, op.len), &this.pump);
        if this.has_changed(generation) {
            // Whoever changed the group may have been too early to find this one there.
            group.let_go(|_, pump, other| Arc::ptr_eq(pump, &this.pump) && other == token);
        }
        if !this.is_pumping.replace(true) {
            this.reactor.spawn(Member::pump(Rc::clone(this)));
        }
        Progress::Pending
    }

    /// Delivers what the group lets go, as long as anything waits.
    async fn pump(this: Rc<Member>) {
        while this.waiting.get() > 0 {
            this.look();
            let group = this.group.borrow().clone();
            let alarm = group.and_then(|group| group.serve(&this.pump));
            let mut alarm = alarm.map(|time| {
                let reactor = this.reactor.clone();
                Box::pin(async move { reactor.sleep(time).await })
            });
            let granted = poll_fn(|context| {
                let (granted, woken) = this.pump.look(context.waker());
                let rung = match &mut alarm {
                    Some(alarm) => alarm.as_mut().poll(context).is_ready(),
                    None => false,
                };
                match woken || rung {
                    true => Poll::Ready(granted),
                    false => Poll::Pending,
                }
            })
            .await;
            this.waiting.set(this.waiting.get() - granted.len());
            for token in granted {
                this.reactor.deliver(token, 0);
            }
        }
        this.is_pumping.set(false);
    }
}

impl ThrottleHandle {
    pub fn new(
        io: Rc<dyn DataHandle>,
        reactor: &Handle,
        membership: &Arc<Membership>,
        gate: Option<Gate>,
    ) -> ThrottleHandle {
        let (generation, group) = {
            // Changed together, under the lock.
            let group = membership.group();
            let generation = membership.generation.load(Ordering::Acquire);
            (generation, group.clone())
        };
        ThrottleHandle(Rc::new(Member {
            io,
            reactor: reactor.clone(),
            gate,
            membership: Arc::clone(membership),
            generation: Cell::new(generation),
            group: RefCell::new(group),
            pump: Arc::default(),
            held: Parked::default(),
            waiting: Cell::new(0),
            is_pumping: Cell::new(false),
        }))
    }

    /// Whether it holds no operation.
    pub fn is_empty(&self) -> bool {
        self.0.held.is_empty()
    }

    fn pass(&self, progress: Progress) -> Progress {
        match progress {
            Progress::Done(result) => self.done(result),
            Progress::Pending => Progress::Pending,
        }
    }

    fn done(&self, result: Result<(), Error>) -> Progress {
        match &self.0.gate {
            Some(gate) => gate.done(result),
            None => Progress::Done(result),
        }
    }
}

impl DataHandle for ThrottleHandle {
    fn start(&self, op: &mut Op, token: Token) -> Progress {
        let this = &self.0;
        if let Some(over) = this.gate.as_ref().and_then(|gate| gate.admit(op)) {
            return over;
        }
        let Some(lane) = lane(op) else {
            return self.pass(this.io.start(op, token));
        };
        self.pass(Member::start(this, lane, op, token))
    }

    fn resume(&self, op: &mut Op, token: Token, result: i32) -> Progress {
        match self.0.held.take(token) {
            None => self.pass(self.0.io.resume(op, token, result)),
            Some(Then::Starts(generation)) if self.0.has_changed(generation) => {
                // It is not over yet, nor counted twice: only its turn is looked for again.
                match lane(op) {
                    Some(lane) => self.pass(Member::start(&self.0, lane, op, token)),
                    None => self.pass(self.0.io.start(op, token)),
                }
            }
            Some(Then::Starts(_) | Then::Hurries) => self.pass(self.0.io.start(op, token)),
            Some(Then::Cancelled) => self.done(Err(Error::Cancelled)),
        }
    }

    fn cancel(&self, token: Token, why: Cancel) {
        let this = &self.0;
        let waits = this.held.change(token, |then| {
            *then = match why {
                Cancel::Abandoned => Then::Cancelled,
                _ => Then::Hurries,
            };
        });
        match (waits, &*this.group.borrow()) {
            (None, _) => this.io.cancel(token, why),
            (Some(()), Some(group)) => {
                group.let_go(|_, pump, other| Arc::ptr_eq(pump, &this.pump) && other == token);
            }
            // It has been let go already.
            (Some(()), None) => {}
        }
    }

    fn allocation(&self, offset: u64, len: u64) -> AllocationQuery {
        self.0.io.allocation(offset, len)
    }
}
