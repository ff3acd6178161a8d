//! The op layer: the only code that puts entries into the ring.
//!
//! Memory that the kernel uses belongs either to the application (direct style, kept alive by the promise of
//! [`Sgl::from_raw`]) or to the operation's entry in `pending`, which only the completion removes.
#![allow(
    unsafe_code,
    reason = "the one place where memory and descriptors are handed to the kernel"
)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

use io_uring::types::{Fd, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use lunar_sgl::Sgl;
use rustix::time::{ClockId, clock_gettime};
use slab::Slab;

use crate::fixed::Fixed;
use crate::inline::{Allowance, carry_out};
use crate::syscall::Syscall;
use crate::user_data::{
    Destination, EPOCH, GENERATION_MASK, Kind, OWN, awaitable, destination, own,
};
use crate::{IoBuf, Token};

/// Files one ring can hold registered; further ones work through their descriptor.
const FILE_TABLE: u64 = 16384;
/// `IORING_ENTER_GETEVENTS`: run deferred completions.
const ENTER_GETEVENTS: u32 = 1;

/// A file known to one reactor's ring, by a registered slot if there is one left.
///
/// Dropping the last clone unregisters and closes it, as soon as the operations that were in flight at that moment
/// have completed.
#[derive(Clone)]
pub struct File {
    inner: Rc<FileInner>,
}

struct FileInner {
    /// Present until the drop.
    fd: Option<OwnedFd>,
    raw: RawFd,
    slot: Option<u32>,
    ring: Rc<Ring>,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File")
            .field("fd", &self.inner.raw)
            .field("slot", &self.inner.slot)
            .finish()
    }
}

impl Drop for FileInner {
    fn drop(&mut self) {
        if let Some(fd) = self.fd.take() {
            self.ring.retired.borrow_mut().fresh.push((fd, self.slot));
            self.ring.release_files();
        }
    }
}

/// Files that were dropped but may still be named by entries the kernel has not looked up.
///
/// The kernel resolves a descriptor or slot when it starts the operation, which for fsync and fallocate is some time
/// after submission. So a slot means another file only after all older operations are over, which two counts tell:
/// each operation is counted under the epoch it started in; when the older epoch has drained, the files dropped
/// before the last change of epoch go, and the epoch changes again.
#[derive(Default)]
struct Retired {
    fresh: Vec<(OwnedFd, Option<u32>)>,
    aging: Vec<(OwnedFd, Option<u32>)>,
}

/// An awaited operation. Removed by its completion only.
struct Pending {
    /// Memory the kernel uses until then.
    buf: Option<IoBuf>,
    time: Option<Box<Timespec>>,
    state: PendingState,
}

enum PendingState {
    Running(Option<Waker>),
    Done(i32),
    /// The future is gone.
    Orphaned,
}

/// A watched descriptor (our own duplicate, so that its number cannot come to mean another file).
struct Watched {
    fd: OwnedFd,
    token: Option<Token>,
}

struct Awaited {
    generation: u32,
    results: VecDeque<i32>,
    waker: Option<Waker>,
}

/// Nanoseconds since some moment before, the same for all threads. Never 0.
pub fn clock() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()).max(1)
}

pub(crate) struct Ring {
    /// The time of this part of the turn, once somebody has asked; 0 before.
    now: Cell<u64>,
    uring: RefCell<IoUring>,
    /// Completions run when the loop asks for them, not in the middle of anything.
    deferred: bool,
    free_files: RefCell<Vec<u32>>,
    pending: RefCell<Slab<Pending>>,
    watches: RefCell<Slab<Watched>>,
    awaitables: RefCell<Slab<Awaited>>,
    generation: Cell<u32>,
    /// Results that came without the kernel.
    delivered: RefCell<VecDeque<(Token, i32)>>,
    /// Operations that were not in time for their turn's allowance, the oldest first.
    waiting: RefCell<VecDeque<Token>>,
    /// One of them has its turn.
    retrying: Cell<bool>,
    /// Operations on files that the kernel has not completed, by epoch.
    in_flight: [Cell<usize>; 2],
    /// 0 or [`EPOCH`].
    epoch: Cell<u64>,
    retired: RefCell<Retired>,
    reaped: Cell<Vec<cqueue::Entry>>,
    allowance: Allowance,
    fixed: Fixed,
}

/// A completion for the application.
pub(crate) enum Event {
    Complete(Token, i32),
    Ready(Token),
}

impl Ring {
    pub(crate) fn new(entries: u32) -> std::io::Result<Rc<Ring>> {
        let entries = entries.clamp(8, 4096);
        let mut deferred = true;
        let uring = IoUring::builder()
            .setup_cqsize(entries.saturating_mul(4))
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(entries)
            .or_else(|_| {
                // Linux before 6.1.
                deferred = false;
                IoUring::builder()
                    .setup_cqsize(entries.saturating_mul(4))
                    .build(entries)
            })?;
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
            .current
            .unwrap_or(FILE_TABLE);
        let files = u32::try_from(limit.min(FILE_TABLE)).unwrap_or(0);
        let table = uring
            .submitter()
            .register_files_sparse(files)
            .map_or(0, |()| files);
        Ok(Rc::new(Ring {
            now: Cell::new(0),
            uring: RefCell::new(uring),
            deferred,
            free_files: RefCell::new((0..table).rev().collect()),
            pending: RefCell::new(Slab::new()),
            watches: RefCell::new(Slab::new()),
            awaitables: RefCell::new(Slab::new()),
            generation: Cell::new(0),
            delivered: RefCell::new(VecDeque::new()),
            waiting: RefCell::new(VecDeque::new()),
            retrying: Cell::new(false),
            in_flight: [Cell::new(0), Cell::new(0)],
            epoch: Cell::new(0),
            retired: RefCell::default(),
            reaped: Cell::new(Vec::new()),
            allowance: Allowance::new(),
            fixed: Fixed::default(),
        }))
    }

    #[inline]
    pub(crate) fn now(&self) -> u64 {
        match self.now.get() {
            0 => self.look_at_clock(),
            now => now,
        }
    }

    #[cold]
    fn look_at_clock(&self) -> u64 {
        let now = clock();
        self.now.set(now);
        now
    }

    /// Time has passed.
    #[inline]
    pub(crate) fn forget_now(&self) {
        self.now.set(0);
    }

    /// A turn of the loop begins.
    #[inline]
    pub(crate) fn begin_turn(&self) {
        self.forget_now();
        self.allowance.renew();
    }

    pub(crate) fn register(self: &Rc<Self>, fd: OwnedFd) -> File {
        let raw = fd.as_raw_fd();
        let slot = self.free_files.borrow_mut().pop().filter(|&slot| {
            self.uring
                .borrow()
                .submitter()
                .register_files_update(slot, &[raw])
                .is_ok()
        });
        File {
            inner: Rc::new(FileInner {
                fd: Some(fd),
                raw,
                slot,
                ring: Rc::clone(self),
            }),
        }
    }

    /// The count of the operations that started in `epoch`.
    fn count(&self, epoch: u64) -> &Cell<usize> {
        let [even, odd] = &self.in_flight;
        if epoch == 0 { even } else { odd }
    }

    fn completed(&self, user_data: u64) {
        let count = self.count(user_data & EPOCH);
        count.set(count.get().saturating_sub(1));
        if count.get() == 0 {
            self.release_files();
        }
    }

    /// Lets go of dropped files that no operation in flight can name any more.
    fn release_files(&self) {
        let mut retired = self.retired.borrow_mut();
        while self.count(self.epoch.get() ^ EPOCH).get() == 0
            && !(retired.fresh.is_empty() && retired.aging.is_empty())
        {
            for (fd, slot) in retired.aging.drain(..) {
                if let Some(slot) = slot
                    && self
                        .uring
                        .borrow()
                        .submitter()
                        .register_files_update(slot, &[-1])
                        .is_ok()
                {
                    self.free_files.borrow_mut().push(slot);
                }
                drop(fd);
            }
            retired.aging = std::mem::take(&mut retired.fresh);
            self.epoch.set(self.epoch.get() ^ EPOCH);
        }
    }

    /// Puts one entry into the submission queue, making room if there is none.
    fn push(&self, entry: &squeue::Entry) {
        loop {
            // SAFETY: whatever the entry points to lives until its completion (see the module documentation), and
            // so does its descriptor (`Retired`, `Watched`).
            if unsafe { self.uring.borrow_mut().submission().push(entry) }.is_ok() {
                return;
            }
            self.submit();
        }
    }

    fn push_call(&self, file: &File, call: Syscall, user_data: u64) {
        let fixed = match &call {
            Syscall::Read { data, .. } | Syscall::Write { data, .. } => self.fixed.find(data),
            Syscall::Sync { .. } | Syscall::Allocate { .. } => None,
        };
        let entry = match file.inner.slot.and_then(|slot| i32::try_from(slot).ok()) {
            Some(slot) => call.entry(Fd(slot), fixed).flags(squeue::Flags::FIXED_FILE),
            None => call.entry(Fd(file.inner.raw), fixed),
        };
        let epoch = self.epoch.get();
        let count = self.count(epoch);
        count.set(count.get() + 1);
        self.push(&entry.user_data(user_data & !EPOCH | epoch));
    }

    /// What the kernel knows of memory, and the way to tell it more.
    pub(crate) fn with_fixed<T>(&self, then: impl FnOnce(&Fixed, &IoUring) -> T) -> T {
        then(&self.fixed, &self.uring.borrow())
    }

    pub(crate) fn submit_direct(&self, file: &File, call: Syscall, token: Token) {
        self.push_call(file, call, token.0);
    }

    /// Carries `call` out at once, if the turn's allowance is enough.
    #[inline]
    pub(crate) fn attempt(&self, file: &File, call: Syscall) -> Option<i32> {
        if !self.allowance.take(&call) {
            return None;
        }
        let result = carry_out(file.inner.raw, call);
        self.forget_now();
        Some(result)
    }

    /// Lets `token` wait until a turn has time for `call`, if one ever has.
    #[cold]
    pub(crate) fn defer(&self, call: &Syscall, token: Token) -> bool {
        // A task runs when the others of its turn have been served: it could wait for ever.
        if !Allowance::covers(call) || token.0 & OWN != 0 {
            return false;
        }
        let mut waiting = self.waiting.borrow_mut();
        if self.retrying.get() {
            waiting.push_front(token);
        } else {
            waiting.push_back(token);
        }
        true
    }

    /// Lets those that wait for time go on, in their order, until there is none left. Returns whether there were any.
    #[inline]
    pub(crate) fn retry(&self, mut again: impl FnMut(Token)) -> bool {
        if self.waiting.borrow().is_empty() {
            return false;
        }
        self.retrying.set(true);
        while !self.allowance.is_used_up() {
            let Some(token) = self.waiting.borrow_mut().pop_front() else {
                break;
            };
            again(token);
        }
        self.retrying.set(false);
        true
    }

    pub(crate) fn deliver(&self, token: Token, result: i32) {
        self.delivered.borrow_mut().push_back((token, result));
    }

    /// Starts an awaited operation that owns `buf`.
    pub(crate) fn start_call(
        &self,
        file: &File,
        buf: Option<IoBuf>,
        call: impl FnOnce(Sgl) -> Syscall,
    ) -> usize {
        let mut pending = self.pending.borrow_mut();
        let entry = pending.vacant_entry();
        let key = entry.key();
        let mut own_segment = None;
        let data = match &buf {
            // SAFETY: the view is used until `push_call` has made the entry; what that points to is the list's heap
            // array, which lives in `pending` until the completion.
            Some(IoBuf::List(list)) => unsafe { list.as_sgl() },
            Some(IoBuf::Owned(owned)) => {
                let base = owned.as_ptr().cast_mut().cast();
                let segment = own_segment.insert([libc::iovec {
                    iov_base: base,
                    iov_len: owned.len(),
                }]);
                // SAFETY: as above; a single segment is passed by address and length, never as an array.
                unsafe { Sgl::from_raw(segment, owned.len()) }
            }
            None => Sgl::EMPTY,
        };
        entry.insert(Pending {
            buf,
            time: None,
            state: PendingState::Running(None),
        });
        drop(pending);
        self.push_call(file, call(data), own(Kind::Op, key));
        key
    }

    pub(crate) fn start_timeout(&self, time: std::time::Duration) -> usize {
        let time = Box::new(Timespec::from(time));
        let entry = opcode::Timeout::new(&*time).build();
        let key = self.pending.borrow_mut().insert(Pending {
            buf: None,
            time: Some(time),
            state: PendingState::Running(None),
        });
        self.push(&entry.user_data(own(Kind::Op, key)));
        key
    }

    /// The result of an awaited operation, and its memory back.
    pub(crate) fn poll_op(&self, key: usize, waker: &Waker) -> Poll<(i32, Option<IoBuf>)> {
        let mut pending = self.pending.borrow_mut();
        match pending.get_mut(key).map(|op| &mut op.state) {
            Some(PendingState::Running(slot)) => {
                match slot {
                    Some(old) => old.clone_from(waker),
                    None => *slot = Some(waker.clone()),
                }
                Poll::Pending
            }
            Some(PendingState::Done(result)) => {
                let result = *result;
                let op = pending.remove(key);
                Poll::Ready((result, op.buf))
            }
            // A future is not polled after it ended, and only its own drop orphans the operation.
            Some(PendingState::Orphaned) | None => Poll::Ready((-libc::ECANCELED, None)),
        }
    }

    /// The future of an awaited operation is dropped before its end.
    pub(crate) fn orphan_op(&self, key: usize) {
        let mut pending = self.pending.borrow_mut();
        let Some(op) = pending.get_mut(key) else {
            return;
        };
        if matches!(op.state, PendingState::Done(_)) {
            pending.remove(key);
            return;
        }
        op.state = PendingState::Orphaned;
        let timer = op.time.is_some();
        drop(pending);
        if timer {
            let remove = opcode::TimeoutRemove::new(own(Kind::Op, key)).build();
            self.push(&remove.user_data(own(Kind::Ignored, 0)));
        }
    }

    pub(crate) fn watch(&self, fd: OwnedFd, token: Option<Token>) -> usize {
        let raw = fd.as_raw_fd();
        let key = self.watches.borrow_mut().insert(Watched { fd, token });
        self.push_watch(key, raw);
        key
    }

    fn push_watch(&self, key: usize, fd: i32) {
        let events = u32::from(libc::POLLIN.unsigned_abs());
        let entry = opcode::PollAdd::new(Fd(fd), events).multi(true).build();
        self.push(&entry.user_data(own(Kind::Watch, key)));
    }

    pub(crate) fn unwatch(&self, key: usize) {
        // The last completion of the poll frees the slot and closes the descriptor.
        if let Some(watch) = self.watches.borrow_mut().get_mut(key) {
            watch.token = None;
        }
        let remove = opcode::PollRemove::new(own(Kind::Watch, key)).build();
        self.push(&remove.user_data(own(Kind::Ignored, 0)));
    }

    pub(crate) fn new_awaitable(&self) -> (usize, Token) {
        let generation = self.generation.get().wrapping_add(1) & GENERATION_MASK;
        self.generation.set(generation);
        let key = self.awaitables.borrow_mut().insert(Awaited {
            generation,
            results: VecDeque::new(),
            waker: None,
        });
        (key, awaitable(key, generation))
    }

    pub(crate) fn poll_awaitable(&self, key: usize, waker: &Waker) -> Poll<i32> {
        let mut awaitables = self.awaitables.borrow_mut();
        let Some(awaited) = awaitables.get_mut(key) else {
            return Poll::Pending;
        };
        match awaited.results.pop_front() {
            Some(result) => Poll::Ready(result),
            None => {
                awaited.waker = Some(waker.clone());
                Poll::Pending
            }
        }
    }

    pub(crate) fn drop_awaitable(&self, key: usize) {
        self.awaitables.borrow_mut().try_remove(key);
    }

    /// Hands everything queued to the kernel, and collects deferred completions.
    pub(crate) fn submit(&self) {
        let mut uring = self.uring.borrow_mut();
        let (queued, taskrun) = {
            let queue = uring.submission();
            (queue.len(), queue.taskrun() || queue.cq_overflow())
        };
        if queued == 0 && !taskrun {
            return;
        }
        let flags = if self.deferred || taskrun {
            ENTER_GETEVENTS
        } else {
            0
        };
        // Errors (EAGAIN, EBUSY, EINTR) leave the entries queued: the next turn tries again.
        // SAFETY: no argument is passed.
        let _ = unsafe {
            uring.submitter().enter::<libc::sigset_t>(
                u32::try_from(queued).unwrap_or(u32::MAX),
                0,
                flags,
                None,
            )
        };
    }

    /// Submits, and sleeps until there is a completion.
    pub(crate) fn wait(&self) {
        let _ = self.uring.borrow().submit_and_wait(1);
    }

    /// Operations that the kernel has not completed.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.iter().map(Cell::get).sum()
    }

    /// Whether no operation is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight() == 0 && self.waiting.borrow().is_empty()
    }

    /// Hands every completion to its destination; the application's go to `sink`. Returns whether there was any.
    pub(crate) fn reap(&self, mut sink: impl FnMut(Event)) -> bool {
        let mut reaped = self.reaped.take();
        reaped.extend(self.uring.borrow_mut().completion());
        let mut any = !reaped.is_empty();
        for entry in reaped.drain(..) {
            let (result, flags) = (entry.result(), entry.flags());
            match destination(entry.user_data()) {
                Destination::App(token) => {
                    self.completed(entry.user_data());
                    sink(Event::Complete(token, result));
                }
                Destination::Awaitable(key, generation) => {
                    self.completed(entry.user_data());
                    self.finish_awaitable(key, generation, result);
                }
                Destination::Op(key) => {
                    if self.finish_op(key, result) {
                        self.completed(entry.user_data());
                    }
                }
                Destination::Watch(key) => self.watch_event(key, result, flags, &mut sink),
                Destination::Ignored => {}
            }
        }
        self.reaped.set(reaped);
        // Only what is there now: a sink that delivers again is served in the next turn.
        let delivered = self.delivered.borrow().len();
        for _ in 0..delivered {
            let Some((token, result)) = self.delivered.borrow_mut().pop_front() else {
                break;
            };
            any = true;
            match destination(token.0) {
                Destination::App(token) => sink(Event::Complete(token, result)),
                Destination::Awaitable(key, generation) => {
                    self.finish_awaitable(key, generation, result)
                }
                Destination::Op(_) | Destination::Watch(_) | Destination::Ignored => {}
            }
        }
        any
    }

    /// Returns whether the operation was one on a file.
    fn finish_op(&self, key: usize, result: i32) -> bool {
        let mut pending = self.pending.borrow_mut();
        let Some(op) = pending.get_mut(key) else {
            return false;
        };
        let on_file = op.time.is_none();
        match std::mem::replace(&mut op.state, PendingState::Done(result)) {
            PendingState::Running(waker) => {
                drop(pending);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            PendingState::Orphaned => {
                let op = pending.remove(key);
                drop(pending);
                drop(op);
            }
            PendingState::Done(_) => {}
        }
        on_file
    }

    fn finish_awaitable(&self, key: usize, generation: u32, result: i32) {
        let mut awaitables = self.awaitables.borrow_mut();
        let Some(awaited) = awaitables
            .get_mut(key)
            .filter(|a| a.generation == generation)
        else {
            return;
        };
        awaited.results.push_back(result);
        let waker = awaited.waker.take();
        drop(awaitables);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn watch_event(&self, key: usize, result: i32, flags: u32, sink: &mut impl FnMut(Event)) {
        let mut watches = self.watches.borrow_mut();
        let Some(watch) = watches.get(key) else {
            return;
        };
        let (token, fd) = (watch.token, watch.fd.as_raw_fd());
        let ended = !cqueue::more(flags);
        match token {
            None => {
                let gone = ended.then(|| watches.try_remove(key));
                drop(watches);
                drop(gone);
            }
            Some(token) => {
                drop(watches);
                // A poll that the kernel ended (queue overflow) is set up again; one that fails would do so for ever.
                if ended && result >= 0 {
                    self.push_watch(key, fd);
                }
                sink(Event::Ready(token));
            }
        }
    }
}
