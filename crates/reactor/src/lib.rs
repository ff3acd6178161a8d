//! A per-core event loop on io_uring.
//!
//! One thread, one ring, one application. The thread lets the application look for work ([`App::poll`]), hands it
//! what has completed, runs the tasks that are ready, lets it publish its results in one batch ([`App::flush`]),
//! submits everything new in one system call, and goes round again. When there is nothing to do it spins for a
//! bounded, adaptive time, arms what can wake it, looks once more, and sleeps in `io_uring_enter`: an idle reactor
//! costs no CPU at all.
//!
//! # The central type
//! [`Handle`], a cheap clone (`Rc`), is how code on the thread starts operations and tasks. Two styles share it:
//! - the *direct* style names an operation with a [`Token`] and gets the kernel's result in [`App::complete`]: no
//!   allocation and no future, for READ, WRITE and flush ([`Handle::submit`]; and [`Handle::attempt`] for what takes less
//!   time than an entry in the ring);
//! - the *task* style is `async`: [`Handle::spawn`] runs a future, and [`Handle::read`] and its neighbours are the
//!   same operations, awaited. Such a future may be dropped at any time: what the kernel still uses stays alive in
//!   the ring's own table until it completes.
//!
//! [`Awaitable`] joins the two: a token whose results go to a future, so that a task can drive a direct-style
//! interface.
//!
//! # Threading
//! Nothing here is `Send` except [`Remote`], through which other threads send typed messages, and the wakers of
//! tasks, so that a lock shared between reactors can wake a task of another one. Messages are handled in order; an
//! answered message is therefore a barrier. What the ring cannot do without blocking a task gives to [`offload()`], whose
//! few threads belong to the process, not to a reactor.
//!
//! # Errors
//! Operations report the kernel's errno unchanged; setting up a ring reports [`std::io::Error`].

mod buf;
mod fixed;
mod handle;
mod inline;
mod offload;
mod remote;
mod ring;
mod run;
mod spin;
mod syscall;
mod task;
mod user_data;

pub use buf::{AlignedBuf, IoBuf};
pub use fixed::Registered;
pub use handle::{Awaitable, Handle, Watch};
pub use offload::{NotDone, Sequence, block_on, offload};
pub use remote::Remote;
pub use ring::{File, clock};
pub use run::{Config, Reactor, Thread, spawn};
pub use syscall::{DEFERRED, Syscall};

/// Names one direct operation; the application chooses it (a slot index, say). The two top bits are
/// reserved for the reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// What runs on a reactor. What only starts tasks and operations has no work of its own to look for, and leaves the rest as
/// it is.
pub trait App: 'static {
    /// What other threads may tell it.
    type Message: Send + 'static;

    /// A message has arrived.
    fn message(&mut self, message: Self::Message);

    /// The direct operation `token` has ended with the kernel's `result` (a count, or a negated errno), was ended
    /// by [`Handle::deliver`], or has waited for time and has it now ([`DEFERRED`]).
    fn complete(&mut self, token: Token, result: i32);

    /// The descriptor watched under `token` has become ready. Wake-ups coalesce: look at everything it stands for.
    fn ready(&mut self, _token: Token) {}

    /// Looks for new work and starts it; returns whether there was any. Called on every turn, so it must be bounded.
    fn poll(&mut self) -> bool {
        false
    }

    /// The turn's completions have been handed over: publish the results in one batch.
    fn flush(&mut self) {}

    /// The loop is about to sleep: ask for wake-ups, then look again. `true` means that work has appeared meanwhile.
    fn arm(&mut self) -> bool {
        false
    }

    /// The loop is awake again (or `arm` found work): wake-ups may be suppressed.
    fn disarm(&mut self) {}
}
