//! The reactor from the inside.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::remote::Bell;
use crate::ring::{File, Ring};
use crate::syscall::Syscall;
use crate::task::Executor;
use crate::{IoBuf, Token};

thread_local! {
    static CURRENT: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

/// The reactor, from the inside. Cheap to clone, bound to its thread.
#[derive(Clone)]
pub struct Handle {
    pub(crate) ring: Rc<Ring>,
    pub(crate) executor: Rc<Executor>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle")
    }
}

impl Handle {
    pub(crate) fn new(ring: Rc<Ring>, bell: std::sync::Arc<Bell>) -> Handle {
        Handle {
            ring,
            executor: Rc::new(Executor::new(bell)),
        }
    }

    pub(crate) fn set_current(handle: Option<Handle>) {
        let old = CURRENT.with(|current| current.replace(handle));
        drop(old);
    }

    /// The handle of the reactor that runs this thread, if one does.
    pub fn current() -> Option<Handle> {
        CURRENT.with(|current| current.borrow().clone())
    }

    /// The time, in nanoseconds as [`clock`](crate::clock) tells it, when somebody first asked in this part of the turn:
    /// looking for work is one, what completed and the tasks are the other. So the clock is read twice in a turn at most,
    /// however much there is to do, and once more after each [attempt](Handle::attempt), because that took time.
    #[inline]
    pub fn now(&self) -> u64 {
        self.ring.now()
    }

    /// Makes a file known to the ring, which speeds every operation on it up.
    pub fn register(&self, fd: OwnedFd) -> File {
        self.ring.register(fd)
    }

    /// Starts a direct operation; its result arrives in [`crate::App::complete`].
    pub fn submit(&self, file: &File, call: Syscall, token: Token) {
        self.ring.submit_direct(file, call, token);
    }

    /// Carries `call` out here and now and returns what [`crate::App::complete`] would get, or `None` when this turn of the
    /// loop has spent enough time in such calls already: then it must be submitted or deferred. The loop stands still
    /// meanwhile, so this is for calls that only move memory, or that `RWF_NOWAIT` keeps from waiting.
    #[inline]
    #[must_use]
    pub fn attempt(&self, file: &File, call: Syscall) -> Option<i32> {
        self.ring.attempt(file, call)
    }

    /// What could not be [attempted](Handle::attempt) for want of time waits for its turn: [`crate::App::complete`] gets
    /// [`DEFERRED`](crate::DEFERRED), and the attempt is to be made again. Those that wait are served in their order, before
    /// new work is looked for. `false`: that is not for `call`, which is too long for any turn, or not for an
    /// [`Awaitable`]'s token; it must be submitted.
    #[must_use]
    pub fn defer(&self, call: &Syscall, token: Token) -> bool {
        self.ring.defer(call, token)
    }

    /// Ends `token` from within: for a task that serves a direct operation. The result arrives in
    /// [`crate::App::complete`] in this turn or the next, or at the [`Awaitable`] whose token it is.
    pub fn deliver(&self, token: Token, result: i32) {
        self.ring.deliver(token, result);
    }

    /// A token whose results go to a future.
    pub fn awaitable(&self) -> Awaitable {
        let (key, token) = self.ring.new_awaitable();
        Awaitable {
            ring: Rc::clone(&self.ring),
            key,
            token,
        }
    }

    /// Watches a descriptor for readability until the guard is dropped: [`crate::App::ready`] is called at each
    /// wake-up, and once at the start if it is readable already. The reactor keeps a duplicate.
    pub fn watch(&self, fd: impl AsFd, token: Token) -> std::io::Result<Watch> {
        Ok(self.watch_owned(fd.as_fd().try_clone_to_owned()?, token))
    }

    /// The same for a descriptor that nobody else needs: this cannot fail.
    pub fn watch_owned(&self, fd: OwnedFd, token: Token) -> Watch {
        Watch {
            ring: Rc::clone(&self.ring),
            key: self.ring.watch(fd, Some(token)),
        }
    }

    /// Runs a future on this thread. It is polled for the first time before this returns.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.executor.spawn(Box::pin(future));
    }

    /// Reads into `buf` at `offset`; the count may be short.
    pub async fn read(
        &self,
        file: &File,
        buf: IoBuf,
        offset: u64,
        rw_flags: i32,
    ) -> (std::io::Result<usize>, IoBuf) {
        let key = self.ring.start_call(file, Some(buf), |data| Syscall::Read {
            data,
            offset,
            rw_flags,
        });
        self.transfer(key).await
    }

    /// Writes `buf` at `offset`; the count may be short.
    pub async fn write(
        &self,
        file: &File,
        buf: IoBuf,
        offset: u64,
        rw_flags: i32,
    ) -> (std::io::Result<usize>, IoBuf) {
        let key = self
            .ring
            .start_call(file, Some(buf), |data| Syscall::Write {
                data,
                offset,
                rw_flags,
            });
        self.transfer(key).await
    }

    async fn transfer(&self, key: usize) -> (std::io::Result<usize>, IoBuf) {
        let (result, buf) = self.op(key).await;
        // An operation that was given memory always has it to return; an empty list stands for "none".
        let buf = buf.unwrap_or_else(|| IoBuf::List(lunar_sgl::Sgl::EMPTY.slice(0, 0)));
        (
            usize::try_from(result).map_err(|_| std::io::Error::from_raw_os_error(-result)),
            buf,
        )
    }

    /// `fsync`, or `fdatasync` with `data_only`.
    pub async fn sync(&self, file: &File, data_only: bool) -> std::io::Result<()> {
        let key = self
            .ring
            .start_call(file, None, |_| Syscall::Sync { data_only });
        done(self.op(key).await.0)
    }

    /// `fallocate`.
    pub async fn allocate(
        &self,
        file: &File,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> std::io::Result<()> {
        let key = self
            .ring
            .start_call(file, None, |_| Syscall::Allocate { mode, offset, len });
        done(self.op(key).await.0)
    }

    /// Waits.
    pub async fn sleep(&self, time: Duration) {
        let key = self.ring.start_timeout(time);
        self.op(key).await;
    }

    /// Lets everything else run before going on.
    pub async fn yield_now(&self) {
        let mut yielded = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn op(&self, key: usize) -> OpFuture<'_> {
        OpFuture {
            ring: &self.ring,
            key: Some(key),
        }
    }
}

fn done(result: i32) -> std::io::Result<()> {
    if result < 0 {
        Err(std::io::Error::from_raw_os_error(-result))
    } else {
        Ok(())
    }
}

/// Waits for an operation in the ring's table; dropped early, it leaves the operation there to end alone.
struct OpFuture<'a> {
    ring: &'a Ring,
    key: Option<usize>,
}

impl Future for OpFuture<'_> {
    type Output = (i32, Option<IoBuf>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(key) = self.key else {
            return Poll::Pending;
        };
        let poll = self.ring.poll_op(key, cx.waker());
        if poll.is_ready() {
            self.key = None;
        }
        poll
    }
}

impl Drop for OpFuture<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.ring.orphan_op(key);
        }
    }
}

/// A token whose results go to a future instead of the application. See [`Handle::awaitable`].
///
/// Once it is dropped, late results for its token are ignored.
pub struct Awaitable {
    ring: Rc<Ring>,
    key: usize,
    token: Token,
}

impl std::fmt::Debug for Awaitable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Awaitable").field(&self.token).finish()
    }
}

impl Awaitable {
    /// The token to start operations with.
    pub fn token(&self) -> Token {
        self.token
    }

    /// The next result for the token.
    pub async fn result(&mut self) -> i32 {
        poll_fn(|cx| self.ring.poll_awaitable(self.key, cx.waker())).await
    }
}

impl Drop for Awaitable {
    fn drop(&mut self) {
        self.ring.drop_awaitable(self.key);
    }
}

/// Keeps a descriptor watched. See [`Handle::watch`].
pub struct Watch {
    ring: Rc<Ring>,
    key: usize,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ring.unwatch(self.key);
    }
}
