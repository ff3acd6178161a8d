//! `throttle`: limits on operations and bytes per second.
//!
//! The parameters are QEMU's, and mean the same: leaky buckets ([`bucket`]) for the average of reads, writes and both, with
//! bursts, shared by the images of a [`ThrottleGroup`] ([`group`]), which take turns. Flushes are not limited. An operation
//! that a limit keeps waiting keeps its caller waiting, so that there are never more of them than the callers have slots.

mod bucket;
mod group;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use lunar_reactor::{Handle, Token};

use self::group::{Lane, Pump};
use super::parked::Parked;
use super::{Gate, Ledger, Policy};
use crate::{
    AllocationQuery, Cancel, DataHandle, Error, Image, Info, NodeOptions, Op, OpKind, Progress,
    Space, Stats,
};

pub use bucket::Limit;
pub use group::{Limits, ThrottleGroup};

/// An image with limits. See the module.
#[derive(Debug)]
pub struct Throttle {
    image: Arc<dyn Image>,
    group: Arc<ThrottleGroup>,
    /// Which image of the group it is.
    number: usize,
    /// What a node has; limits of a device are no node of their own.
    node: Option<(Policy, Ledger)>,
}

impl Throttle {
    /// Limits a device: with no options, and no statistics, but the image's.
    pub fn beneath_device(image: Arc<dyn Image>, group: Arc<ThrottleGroup>) -> Arc<Throttle> {
        Throttle::make(image, group, None)
    }

    /// Makes a node of `image` that is one of the group's.
    ///
    /// # Errors
    /// [`Error::Open`]: it would write to an image that is read-only.
    pub fn new(
        image: Arc<dyn Image>,
        group: Arc<ThrottleGroup>,
        options: &NodeOptions,
    ) -> Result<Arc<Throttle>, Error> {
        let policy = Policy::above(&image.info(), options, "throttle")?;
        Ok(Throttle::make(
            image,
            group,
            Some((policy, Ledger::default())),
        ))
    }

    fn make(
        image: Arc<dyn Image>,
        group: Arc<ThrottleGroup>,
        node: Option<(Policy, Ledger)>,
    ) -> Arc<Throttle> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        Arc::new(Throttle {
            image,
            group,
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            node,
        })
    }

    /// Its group.
    pub fn group(&self) -> &Arc<ThrottleGroup> {
        &self.group
    }
}

impl Image for Throttle {
    fn info(&self) -> Info {
        let below = self.image.info();
        match &self.node {
            Some((policy, _)) => policy.over(below),
            None => below,
        }
    }

    fn open(&self, reactor: &Handle) -> Result<Rc<dyn DataHandle>, Error> {
        Ok(Rc::new(ThrottleHandle(Rc::new(Member {
            io: self.image.open(reactor)?,
            reactor: reactor.clone(),
            gate: self
                .node
                .as_ref()
                .map(|(policy, ledger)| ledger.gate(*policy)),
            group: Arc::clone(&self.group),
            number: self.number,
            pump: Arc::default(),
            held: Parked::default(),
            waiting: Cell::new(0),
            is_pumping: Cell::new(false),
        }))))
    }

    fn stats(&self) -> Stats {
        let below = self.image.stats();
        match &self.node {
            Some((_, ledger)) => Stats {
                bounces: below.bounces,
                ..ledger.total()
            },
            None => below,
        }
    }

    /// Whatever waits goes at once.
    fn end_waits(&self) {
        self.group.let_go(|image, _, _| image == self.number);
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

struct ThrottleHandle(Rc<Member>);

/// One reactor's part of an image.
struct Member {
    io: Rc<dyn DataHandle>,
    reactor: Handle,
    gate: Option<Gate>,
    group: Arc<ThrottleGroup>,
    number: usize,
    pump: Arc<Pump>,
    held: Parked<Then>,
    /// How many of those are not let go yet.
    waiting: Cell<usize>,
    is_pumping: Cell<bool>,
}

/// What becomes of an operation that waits.
#[derive(Clone, Copy)]
enum Then {
    Starts,
    Cancelled,
}

impl Member {
    fn wait(this: &Rc<Member>, lane: Lane, op: &Op, token: Token) -> Progress {
        this.held.insert(token, Then::Starts);
        this.waiting.set(this.waiting.get() + 1);
        this.group
            .join(lane, this.number, (token, op.len), &this.pump);
        if !this.is_pumping.replace(true) {
            this.reactor.spawn(Member::pump(Rc::clone(this)));
        }
        Progress::Pending
    }

    /// Delivers what the group lets go, as long as anything waits.
    async fn pump(this: Rc<Member>) {
        while this.waiting.get() > 0 {
            let alarm = this.group.serve(&this.pump);
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
        let lane = match op.kind {
            OpKind::Flush => return self.pass(this.io.start(op, token)),
            OpKind::Read => Lane::Read,
            OpKind::Write { .. } | OpKind::Discard | OpKind::WriteZeroes { .. } => Lane::Write,
        };
        if this.group.admits(lane, op.len) {
            return self.pass(this.io.start(op, token));
        }
        Member::wait(this, lane, op, token)
    }

    fn resume(&self, op: &mut Op, token: Token, result: i32) -> Progress {
        match self.0.held.take(token) {
            None => self.pass(self.0.io.resume(op, token, result)),
            Some(Then::Starts) => self.pass(self.0.io.start(op, token)),
            Some(Then::Cancelled) => self.done(Err(Error::Cancelled)),
        }
    }

    fn cancel(&self, token: Token, why: Cancel) {
        let this = &self.0;
        let waits = this.held.change(token, |then| {
            if why == Cancel::Abandoned {
                *then = Then::Cancelled;
            }
        });
        match waits {
            None => this.io.cancel(token, why),
            Some(()) => this
                .group
                .let_go(|_, pump, other| Arc::ptr_eq(pump, &this.pump) && other == token),
        }
    }

    fn allocation(&self, offset: u64, len: u64) -> AllocationQuery {
        self.0.io.allocation(offset, len)
    }
}
