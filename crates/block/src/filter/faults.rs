//! `blkdebug`: faults on purpose, to test what is above.
//!
//! A list of [`FaultRule`]s says which operations meet a fault: an error, a delay, or a write that is torn. The first rule
//! that applies and fires decides. Rules count what they see over all reactors, and their dice are thrown from a seed, so
//! that the n-th operation a rule sees meets the same fate in each run. They can be exchanged while operations are under
//! way ([`FaultInjection::set`]).

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lunar_reactor::{Handle, Token};

use super::parked::Parked;
use super::{Filter, FilterNode, Gate};
use crate::{
    AllocationQuery, Cancel, DataHandle, Error, Image, NodeOptions, Op, OpKind, Progress, run,
    run_list,
};

/// The operations that a rule is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FaultOn {
    /// All.
    #[default]
    Any,
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Flushes.
    Flush,
    /// Discards.
    Discard,
    /// Write-zeroes, what detect-zeroes makes of a write included.
    WriteZeroes,
}

/// Which operations meet a fault, and which.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultRule {
    /// The kind of operation.
    pub on: FaultOn,
    /// It touches one of these bytes. A flush touches none: it is met by rules for everywhere, `0..u64::MAX`.
    pub range: Range<u64>,
    /// So many of them go by first.
    pub skip: u64,
    /// So many of them meet the fault at most.
    pub count: Option<u64>,
    /// How likely it is that one does, from 0 to 1.
    pub probability: f64,
    /// How long it is held first.
    pub latency: Duration,
    /// How it then fails. Without, it is carried out.
    pub errno: Option<i32>,
    /// Of a write or write-zeroes that fails, so many bytes reach the image, rounded down to sectors.
    pub torn: u64,
}

impl Default for FaultRule {
    /// Everything fails with EIO.
    fn default() -> FaultRule {
        FaultRule {
            on: FaultOn::Any,
            range: 0..u64::MAX,
            skip: 0,
            count: None,
            probability: 1.0,
            latency: Duration::ZERO,
            errno: Some(libc::EIO),
            torn: 0,
        }
    }
}

/// The faults of an image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// The first that applies and fires decides.
    pub rules: Vec<FaultRule>,
    /// Where the dice begin.
    pub seed: u64,
}

impl Faults {
    /// Whether they make sense.
    ///
    /// # Errors
    /// [`Error::Open`]: what does not.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |what: &str| Err(Error::Open(format!("blkdebug: {what}")));
        for rule in &self.rules {
            if !(0.0..=1.0).contains(&rule.probability) {
                return refuse("a probability is a number from 0 to 1");
            }
            if rule.errno.is_some_and(|errno| !(1..4096).contains(&errno)) {
                return refuse("errno is a number from 1 to 4095; 5 is EIO, 28 is ENOSPC");
            }
            if rule.errno.is_none() && rule.latency.is_zero() {
                return refuse("a rule has an error, a latency, or both");
            }
            if rule.torn > 0
                && (rule.errno.is_none()
                    || matches!(rule.on, FaultOn::Read | FaultOn::Flush | FaultOn::Discard))
            {
                return refuse("only writes that fail can be torn");
            }
            if rule.range.is_empty() {
                return refuse("a range has at least one byte");
            }
        }
        Ok(())
    }
}

/// An image with faults. See the module.
#[derive(Debug)]
pub struct FaultInjection {
    image: Arc<dyn Image>,
    shared: Arc<Shared>,
    node: FilterNode,
}

#[derive(Debug)]
struct Shared {
    /// Moves with each change, so that handles look at the rules only then.
    generation: AtomicU64,
    active: Mutex<Arc<Active>>,
}

/// Rules, and what they have seen.
#[derive(Debug, Default)]
struct Active {
    faults: Faults,
    counts: Vec<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    seen: AtomicU64,
    fired: AtomicU64,
}

impl FaultInjection {
    /// Puts faults on top of `image`.
    ///
    /// # Errors
    /// [`Error::Open`] for rules that make no sense.
    pub fn new(
        image: Arc<dyn Image>,
        faults: Faults,
        options: &NodeOptions,
    ) -> Result<Arc<FaultInjection>, Error> {
        let injection = FaultInjection {
            node: FilterNode::above(&*image, options, "blkdebug")?,
            image,
            shared: Arc::new(Shared {
                generation: AtomicU64::new(0),
                active: Mutex::default(),
            }),
        };
        injection.set(faults)?;
        Ok(Arc::new(injection))
    }

    /// Exchanges the rules; the new ones have seen nothing yet.
    ///
    /// # Errors
    /// [`Error::Open`] for rules that make no sense; the old ones stay.
    pub fn set(&self, faults: Faults) -> Result<(), Error> {
        faults.check()?;
        let counts = faults.rules.iter().map(|_| Counts::default()).collect();
        *self.shared.active() = Arc::new(Active { faults, counts });
        self.shared.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// The rules.
    pub fn faults(&self) -> Faults {
        self.shared.active().faults.clone()
    }

    /// How many operations have met the fault of each rule.
    pub fn fired(&self) -> Vec<u64> {
        let active = Arc::clone(&self.shared.active());
        let counts = active.counts.iter();
        counts.map(|c| c.fired.load(Ordering::Relaxed)).collect()
    }
}

impl Shared {
    fn active(&self) -> MutexGuard<'_, Arc<Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Filter for FaultInjection {
    fn below(&self) -> &Arc<dyn Image> {
        &self.image
    }

    fn node(&self) -> Option<&FilterNode> {
        Some(&self.node)
    }

    fn over(&self, below: Rc<dyn DataHandle>, reactor: &Handle) -> Rc<dyn DataHandle> {
        let generation = self.shared.generation.load(Ordering::Acquire);
        Rc::new(FaultHandle {
            io: below,
            reactor: reactor.clone(),
            gate: self.node.gate(),
            active: RefCell::new(Arc::clone(&self.shared.active())),
            shared: Arc::clone(&self.shared),
            generation: Cell::new(generation),
            held: Rc::default(),
            serial: Cell::new(0),
        })
    }
}

impl FaultRule {
    fn applies(&self, op: &Op) -> bool {
        let kind = match self.on {
            FaultOn::Any => true,
            FaultOn::Read => op.kind == OpKind::Read,
            FaultOn::Write => matches!(op.kind, OpKind::Write { .. }),
            FaultOn::Flush => op.kind == OpKind::Flush,
            FaultOn::Discard => op.kind == OpKind::Discard,
            FaultOn::WriteZeroes => matches!(op.kind, OpKind::WriteZeroes { .. }),
        };
        let everywhere = self.range == (0..u64::MAX);
        let end = op.offset.saturating_add(op.len);
        kind && (everywhere || (op.offset < self.range.end && self.range.start < end))
    }
}

impl Counts {
    /// Whether the next operation that a rule applies to meets its fault. `dice` is a sequence for this rule alone.
    fn fires(&self, rule: &FaultRule, dice: u64) -> bool {
        let seen = self.seen.fetch_add(1, Ordering::Relaxed);
        if seen < rule.skip || (rule.probability < 1.0 && throw(dice, seen) >= rule.probability) {
            return false;
        }
        let limit = rule.count.unwrap_or(u64::MAX);
        let more = |fired: u64| (fired < limit).then(|| fired.saturating_add(1));
        self.fired
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }
}

/// The n-th throw of the dice: SplitMix64, from 0 to below 1.
fn throw(seed: u64, n: u64) -> f64 {
    let mut x = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^= x >> 31;
    (x >> 11) as f64 / (1u64 << 53) as f64
}

struct FaultHandle {
    io: Rc<dyn DataHandle>,
    reactor: Handle,
    gate: Gate,
    shared: Arc<Shared>,
    /// The rules as this handle knows them, and of which generation they are.
    active: RefCell<Arc<Active>>,
    generation: Cell<u64>,
    held: Rc<Parked<Held>>,
    serial: Cell<u64>,
}

/// An operation that is held.
struct Held {
    /// Tells it from an earlier one with the same token.
    serial: u64,
    stage: Stage,
    then: Then,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Delayed,
    Torn,
    /// Its token is on the way.
    Released,
}

#[derive(Clone, Copy)]
enum Then {
    Pass,
    Fail(i32),
    Cancelled,
}

/// What a rule does.
struct Fault {
    latency: Duration,
    errno: Option<i32>,
    torn: u64,
}

impl FaultHandle {
    fn pick(&self, op: &Op) -> Option<Fault> {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if self.generation.replace(generation) != generation {
            *self.active.borrow_mut() = Arc::clone(&self.shared.active());
        }
        let Active { faults, counts } = &**self.active.borrow();
        let dice = (0u64..).map(|rule| faults.seed ^ rule.rotate_left(32));
        let mut rules = faults.rules.iter().zip(counts).zip(dice);
        let ((rule, _), _) =
            rules.find(|((rule, counts), dice)| rule.applies(op) && counts.fires(rule, *dice))?;
        let is_write = matches!(op.kind, OpKind::Write { .. } | OpKind::WriteZeroes { .. });
        let torn = if is_write { rule.torn.min(op.len) } else { 0 };
        Some(Fault {
            latency: rule.latency,
            errno: rule.errno,
            torn: torn / 512 * 512,
        })
    }

    fn hold(&self, fault: Fault, op: &Op, token: Token) {
        let serial = self.serial.get() + 1;
        self.serial.set(serial);
        let then = fault.errno.map_or(Then::Pass, Then::Fail);
        let stage = Stage::Delayed;
        self.held.insert(
            token,
            Held {
                serial,
                stage,
                then,
            },
        );
        let (reactor, io, held, op) = (
            self.reactor.clone(),
            Rc::clone(&self.io),
            Rc::clone(&self.held),
            *op,
        );
        // Whether the operation is still there to go from one stage to the next.
        let step = move |from, to| {
            let is_there = held.change(token, |h| {
                let is = h.serial == serial && h.stage == from;
                if is {
                    h.stage = to;
                }
                is
            });
            is_there == Some(true)
        };
        self.reactor.spawn(async move {
            if !fault.latency.is_zero() {
                reactor.sleep(fault.latency).await;
            }
            if !step(Stage::Delayed, Stage::Torn) {
                return;
            }
            if let Ok(torn @ 1..) = usize::try_from(fault.torn) {
                // It fails whatever becomes of the part.
                let _: Result<(), Error> = match op.kind {
                    OpKind::Write { .. } => {
                        let part = op.data.slice(0, torn);
                        run_list(&reactor, &io, op.kind, op.offset, part).await
                    }
                    kind => run(&reactor, &io, Op::new(kind, op.offset, fault.torn, op.data)).await,
                };
            }
            if step(Stage::Torn, Stage::Released) {
                reactor.deliver(token, 0);
            }
        });
    }

    fn pass(&self, progress: Progress) -> Progress {
        match progress {
            Progress::Done(result) => self.gate.done(result),
            Progress::Pending => Progress::Pending,
        }
    }
}

impl DataHandle for FaultHandle {
    fn start(&self, op: &mut Op, token: Token) -> Progress {
        if let Some(over) = self.gate.admit(op) {
            return over;
        }
        match self.pick(op) {
            None => self.pass(self.io.start(op, token)),
            Some(Fault {
                latency: Duration::ZERO,
                errno: Some(errno),
                torn: 0,
            }) => self.gate.done(Err(Error::from_errno(errno))),
            Some(fault) => {
                self.hold(fault, op, token);
                Progress::Pending
            }
        }
    }

    fn resume(&self, op: &mut Op, token: Token, result: i32) -> Progress {
        match self.held.take(token).map(|held| held.then) {
            None => self.pass(self.io.resume(op, token, result)),
            Some(Then::Pass) => self.pass(self.io.start(op, token)),
            Some(Then::Fail(errno)) => self.gate.done(Err(Error::from_errno(errno))),
            Some(Then::Cancelled) => self.gate.done(Err(Error::Cancelled)),
        }
    }

    fn cancel(&self, token: Token, why: Cancel) {
        let delayed = self.held.change(token, |held| {
            if why == Cancel::Abandoned && held.stage != Stage::Torn {
                held.then = Then::Cancelled;
            }
            if held.stage != Stage::Delayed {
                return false;
            }
            held.stage = Stage::Released;
            true
        });
        match delayed {
            None => self.io.cancel(token, why),
            Some(true) => self.reactor.deliver(token, 0),
            Some(false) => {}
        }
    }

    fn allocation(&self, offset: u64, len: u64) -> AllocationQuery {
        self.io.allocation(offset, len)
    }
}
