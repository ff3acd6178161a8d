//! A per-core event loop on io_uring.
//!
//! One thread, one ring, one application. The thread runs [`App::poll`], hands it what has completed, runs the
//! tasks that are ready, submits everything new in one system call, and goes round again; when there is nothing to
//! do it spins for a bounded time, arms what can wake it, looks once more, and sleeps in `io_uring_enter`.
//!
//! # The central type
//! [`Handle`], a cheap clone (`Rc`), is how code on the thread starts operations, timers and tasks. Two styles share
//! it. The *direct* style names an operation with a [`Token`] and gets the kernel's result in [`App::complete`]: no
//! allocation, for READ, WRITE and flush. The *task* style is `async`: [`Handle::spawn`] runs a future, and the
//! `async` methods of `Handle` are the same operations awaited. A future may be dropped at any time: what the kernel
//! still uses stays alive in the ring's own table until it completes.
//!
//! # Threading
//! Nothing here is `Send` but [`Remote`], through which other threads send typed messages. A message that is
//! answered is a barrier: whatever the loop had done before it is visible.
#![allow(
    unsafe_code,
    reason = "the op layer is the one place that hands memory to io_uring"
)]
#![allow(
    clippy::unimplemented,
    missing_docs,
    unused_variables,
    dead_code,
    reason = "SKELETON: replace"
)]

use std::future::Future;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use lunar_sgl::{Sgl, SglBuf};

/// Names one direct operation; the application chooses it (a slot index, say). The top bit is the reactor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// What runs on a reactor.
pub trait App: 'static {
    /// What other threads may tell it.
    type Message: Send + 'static;

    /// A message has arrived.
    fn message(&mut self, message: Self::Message);

    /// The direct operation `token` has completed with the kernel's `result` (a count, or a negated errno), or was
    /// completed by [`Handle::deliver`].
    fn complete(&mut self, token: Token, result: i32);

    /// The descriptor watched under `token` ([`Handle::watch`]) has become ready.
    fn ready(&mut self, token: Token);

    /// Looks for new work and starts it. Returns whether there was any. Called on every turn of the loop.
    fn poll(&mut self) -> bool;

    /// Called after completions of this turn were delivered and before sleeping/submitting: publish results in batches
    /// (one used-ring publish, one interrupt per queue and turn).
    fn flush(&mut self);

    /// The loop is about to sleep: ask for wake-ups (enable notifications), then look again. Returning `true` means
    /// work has appeared meanwhile and the loop must go on.
    fn arm(&mut self) -> bool;

    /// The loop has been woken, or `arm` has found work: notifications may be suppressed again.
    fn disarm(&mut self);
}

/// How a reactor is set up.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    /// Submission queue entries; the completion queue has four times as many. In-flight operations are not bounded by it.
    pub entries: u32,
    /// How long to spin without work before sleeping.
    pub spin: Duration,
    pub cpu: Option<usize>,
}

/// Starts a reactor thread; `make` builds the application on it.
pub fn spawn<A: App>(
    config: Config,
    make: impl FnOnce(Handle) -> A + Send + 'static,
) -> std::io::Result<Thread<A::Message>> {
    unimplemented!()
}

/// A running reactor: joined by [`Thread::stop`].
pub struct Thread<M> {
    pub remote: Remote<M>,
}
impl<M: Send + 'static> Thread<M> {
    /// Ends the loop after in-flight operations have completed, and joins the thread.
    pub fn stop(self) {}
}

/// Sends messages to a reactor from any thread.
pub struct Remote<M> {
    _m: std::marker::PhantomData<fn(M)>,
}
impl<M> Clone for Remote<M> {
    fn clone(&self) -> Self {
        unimplemented!()
    }
}
impl<M: Send + 'static> Remote<M> {
    /// Queues `message`; wakes the loop if it sleeps. `false` when the reactor is gone.
    pub fn send(&self, message: M) -> bool {
        unimplemented!()
    }
}

/// A file registered with one reactor's ring (fixed file, falling back to the plain descriptor). Unregistered on drop
/// of the last clone; the kernel keeps the file until in-flight operations on it have ended.
#[derive(Clone, Debug)]
pub struct File {
    _p: Rc<OwnedFd>,
}

/// What a direct or awaited operation does.
#[derive(Clone, Copy, Debug)]
pub enum Syscall {
    /// READV at offset.
    Read {
        data: Sgl,
        offset: u64,
        rw_flags: i32,
    },
    /// WRITEV at offset; `rw_flags` e.g. RWF_DSYNC.
    Write {
        data: Sgl,
        offset: u64,
        rw_flags: i32,
    },
    /// fdatasync / fsync.
    Sync { data_only: bool },
    /// fallocate.
    Allocate { mode: i32, offset: u64, len: u64 },
}

/// Memory for awaited I/O, given to the operation and returned by it, so that dropping the future is harmless.
#[derive(Debug)]
pub enum IoBuf {
    /// Foreign memory (a guest's).
    List(SglBuf),
    /// Our own, aligned (bounce buffers).
    Owned(AlignedBuf),
}

/// A zeroed heap buffer of given alignment.
#[derive(Debug)]
pub struct AlignedBuf {
    _p: (),
}
impl AlignedBuf {
    pub fn new(len: usize, align: usize) -> AlignedBuf {
        unimplemented!()
    }
}
impl std::ops::Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        unimplemented!()
    }
}
impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        unimplemented!()
    }
}

/// The reactor, from the inside. Cheap to clone, bound to its thread.
#[derive(Clone)]
pub struct Handle {
    _p: Rc<()>,
}

impl Handle {
    /// The handle of the reactor this thread runs, if it runs one.
    pub fn current() -> Option<Handle> {
        unimplemented!()
    }

    /// Registers a file.
    pub fn register(&self, fd: OwnedFd) -> std::io::Result<File> {
        unimplemented!()
    }

    /// Starts a direct operation: its result arrives in [`App::complete`].
    pub fn submit(&self, file: &File, call: Syscall, token: Token) {
        unimplemented!()
    }

    /// Completes `token` from within (a task that served a direct operation): arrives in [`App::complete`] in this or the next turn.
    pub fn deliver(&self, token: Token, result: i32) {
        unimplemented!()
    }

    /// A token that completes a future instead of reaching the application: for driving a direct-style interface from a task.
    /// The future yields the results delivered for it, in order.
    pub fn awaitable(&self) -> Awaitable {
        unimplemented!()
    }

    /// Watches a descriptor with a multishot poll: [`App::ready`] is called for each wake-up. Ends when the guard is dropped.
    pub fn watch(&self, fd: RawFd, token: Token) -> Watch {
        unimplemented!()
    }

    /// Runs a future on this thread. It is polled first before `spawn` returns or in this turn.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        unimplemented!()
    }

    pub async fn read(
        &self,
        file: &File,
        buf: IoBuf,
        offset: u64,
        rw_flags: i32,
    ) -> (std::io::Result<usize>, IoBuf) {
        unimplemented!()
    }
    pub async fn write(
        &self,
        file: &File,
        buf: IoBuf,
        offset: u64,
        rw_flags: i32,
    ) -> (std::io::Result<usize>, IoBuf) {
        unimplemented!()
    }
    pub async fn sync(&self, file: &File, data_only: bool) -> std::io::Result<()> {
        unimplemented!()
    }
    pub async fn allocate(
        &self,
        file: &File,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> std::io::Result<()> {
        unimplemented!()
    }
    /// Waits; resolution is that of the ring's timeouts.
    pub async fn sleep(&self, time: Duration) {
        unimplemented!()
    }
    /// Lets other tasks and the application run before going on.
    pub async fn yield_now(&self) {
        unimplemented!()
    }
}

/// See [`Handle::awaitable`]. Dropping it while an operation is in flight leaves the operation orphaned: its result is ignored.
pub struct Awaitable {
    _p: (),
}
impl Awaitable {
    pub fn token(&self) -> Token {
        unimplemented!()
    }
    /// The next result delivered for the token.
    pub async fn result(&mut self) -> i32 {
        unimplemented!()
    }
}

/// Keeps a descriptor watched.
#[derive(Debug)]
pub struct Watch {
    _p: (),
}
