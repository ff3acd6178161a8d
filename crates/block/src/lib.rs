//! Images: where a logical unit's blocks live.
//!
//! An image has two faces. The *control handle*, [`Image`], is shared by every thread: what the image is, its
//! statistics, and closing it. From it each reactor opens a *data handle*, [`DataHandle`], which belongs to that
//! thread alone and starts operations on it without locks or allocation. [`open_node`] makes an image from a
//! [`Driver`] and the [`NodeOptions`] that apply to all drivers.
//!
//! # The central type
//! [`Op`], one operation on one image: read, write, flush, discard or write zeroes. It lives in the caller's request
//! slot and is driven by two calls. [`DataHandle::start`] either answers at once or says [`Progress::Pending`]; then
//! the application receives the operation's token and calls [`DataHandle::resume`], which again answers or goes on.
//! [`run`] does the same from a task.
//!
//! # Who promises what
//! *The caller* checks that `offset + len` does not pass [`Info::size`], that the buffer is exactly as long as the
//! operation, keeps both alive until `Done`, and orders operations that overlap (SAM leaves that to the initiator).
//! *The image* accepts every offset and length that is a multiple of 512, every alignment of memory, and every length
//! of the scatter-gather list; what does not suit the medium is bounced and counted in [`Stats::bounces`]. A range
//! past the end, which only a mistake of the caller produces, is [`Error::OutOfRange`] or a host error; it is never
//! memory-unsafe.
//! A failed operation may have been carried out in part. An operation that has been completed is seen by every later
//! one, from whichever reactor; it is durable after a later flush, or at once with `fua`.
//!
//! # Threading
//! `Arc<dyn Image>` goes anywhere. `Rc<dyn DataHandle>` stays on its reactor. Opening and closing an image blocks and
//! belongs to the control thread.
//!
//! # Errors
//! [`Error`] for everything. An image that cannot be opened explains itself in one line: the file, what is wrong with
//! it, and what to do. Sense data is made elsewhere, in one place.

mod allocation;
mod bounce;
mod buffer;
mod cancel;
mod claim;
mod empty;
mod file;
mod filter;
mod host;
mod lock;
mod memory;
mod node;
mod null;
mod op;
mod qcow2;
mod raw;
#[cfg(test)]
#[path = "../tests/support/reactor.rs"]
mod reactor;
mod route;
mod space;

use std::rc::Rc;
use std::sync::Arc;

use lunar_reactor::{Handle, Token};
use lunar_sgl::prefetch::Lines;

pub use allocation::{Allocation, AllocationQuery};
pub use buffer::{Buffer, run_list, run_owned};
pub use cancel::{Cancel, Canceller};
pub use empty::no_medium;
pub use filter::backend::Backend;
pub use filter::faults::{FaultInjection, FaultOn, FaultRule, Faults};
pub use filter::policy::{Action, ErrorRules, Failure, IoStatus, OnError, PolicyEvent, Side};
pub use filter::throttle::{Limit, Limits, Throttle, ThrottleGroup};
pub use filter::{Activities, Activity, Histogram, Histograms, Latencies, Stats, WriteThreshold};
pub use node::{CacheMode, DetectZeroes, Driver, Locking, NodeOptions, open_node};
pub use op::{Asked, Op, OpKind, Progress};
pub use space::{Space, space_of};

/// One reactor's way to an image.
pub trait DataHandle {
    /// Starts `op`, which must be new ([`Op::new`]). The operation and its buffer must stay valid until `Done` has been
    /// returned from here or from [`DataHandle::resume`]; until then the operation belongs to the handle, which may
    /// rewrite it ([`Op::asked`] still tells what it was).
    fn start(&self, op: &mut Op, token: Token) -> Progress;

    /// `token` has completed with `result`: finishes the operation or starts its next step under the same token.
    fn resume(&self, op: &mut Op, token: Token, result: i32) -> Progress;

    /// The operation in flight under `token` is not to wait for anything but the medium any longer: neither for its turn
    /// nor for the error that it met to be mended. If it waited, its token completes soon, and the operation is carried
    /// out ([`Cancel::Hurried`] and nothing forbids it) or ends with [`Error::Cancelled`]. What the kernel has been given
    /// goes on to its end.
    fn cancel(&self, token: Token, why: Cancel) {
        // Nothing waits here.
        let _ = (token, why);
    }

    /// Adds where that is in memory which each operation looks at.
    fn lines(&self, lines: &mut Lines) {
        let _ = lines;
    }

    /// How the image stores the bytes from `offset` on, of which `len` (at least one) are of interest. The answer is about
    /// at least one of them, and found in bounded time; where it ends before the allocation changes, it is about 4 KiB at
    /// least. An image that does not know says that there is data.
    fn allocation(&self, offset: u64, len: u64) -> AllocationQuery {
        let _ = offset;
        Box::pin(std::future::ready(Ok(Allocation::data(len))))
    }
}

/// Runs one operation from a task, through any data handle.
///
/// The future must be driven to its end: dropping it early would end the caller's hold on the buffer while the kernel
/// may still use it.
///
/// # Errors
/// As the image's.
pub async fn run(reactor: &Handle, io: &Rc<dyn DataHandle>, mut op: Op) -> Result<(), Error> {
    let mut completion = reactor.awaitable();
    let mut progress = io.start(&mut op, completion.token());
    loop {
        match progress {
            Progress::Done(result) => return result,
            Progress::Pending => {
                let result = completion.result().await;
                progress = io.resume(&mut op, completion.token(), result);
            }
        }
    }
}

/// The shared face of an image. `Arc<dyn Image>` is what a drive or a `--blockdev` node is.
pub trait Image: Send + Sync + std::fmt::Debug {
    /// What the image is now.
    fn info(&self) -> Info;

    /// Whether there is a medium at all: a drive whose medium was removed has an image that has none ([`no_medium`]).
    fn has_medium(&self) -> bool {
        true
    }

    /// Opens the data handle for one reactor (called on the reactor's thread).
    ///
    /// # Errors
    /// [`Error::Io`] when the reactor cannot take the file.
    fn open(&self, reactor: &Handle) -> Result<Rc<dyn DataHandle>, Error>;

    /// What has been done through all data handles since the image was opened.
    fn stats(&self) -> Stats;

    /// The threshold that writes to the node can have.
    fn write_threshold(&self) -> Option<&Arc<WriteThreshold>> {
        None
    }

    /// How much space the image takes now, and how much more there is; `None` where nobody knows. Blocking: for the control
    /// plane.
    fn space(&self) -> Option<Space>;

    /// The device goes: operations that wait for something other than the medium, in whichever data handle, do so no
    /// longer. Called before the data handles are let go; it does not wait.
    fn end_waits(&self) {}

    /// Gives the image another size, in bytes: a multiple of 512. What is added reads as zeroes, what is cut off is lost.
    /// Operations may be under way. Blocking.
    ///
    /// # Errors
    /// [`Error::Resize`] when it cannot have this size, and the host's errors.
    fn resize(&self, size: u64) -> Result<(), Error> {
        let _ = size;
        Err(Error::Resize(format!(
            "{}: its size cannot be changed",
            self.info().name
        )))
    }

    /// Looks whether the medium has grown by itself; [`Info::size`] is up to date afterwards. A medium that has shrunk is
    /// left as it was. Blocking.
    ///
    /// # Errors
    /// The host's.
    fn refresh(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Makes everything durable and releases the image's lock; called once, when no data handle is left. Blocking.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::NoSpace`]: something that was written may not be durable. The lock is released all the
    /// same.
    fn close(&self) -> Result<(), Error>;
}

/// What an image is.
#[derive(Clone, Debug)]
pub struct Info {
    /// Bytes, a multiple of 512: a file whose length is not is read as if zeroes followed, up to the next multiple.
    pub size: u64,
    /// Writes, discards and write-zeroes are refused with [`Error::ReadOnly`].
    pub read_only: bool,
    /// Requests whose offset, length and segments are multiples of this many bytes (a power of two) are served without a
    /// bounce; 1 without `O_DIRECT`.
    pub request_align: u32,
    /// The unit in which space is allocated or freed (cluster, file-system block), a hint for VPD B0.
    pub discard_granularity: u32,
    /// Discards free space (`discard=unmap` and the backend can).
    pub can_discard: bool,
    /// A discarded range reads as zeroes.
    pub discard_zeroes: bool,
    /// `cache.no-flush=off`.
    pub flushes: bool,
    /// Nothing of it outlives the process.
    pub volatile: bool,
    /// For people: the file name, or the driver.
    pub name: String,
}

/// Why an operation or an image failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No space is left for the write.
    #[error("no space left on the device")]
    NoSpace,
    /// The operation would modify an image that was opened read-only.
    #[error("the image is read-only")]
    ReadOnly,
    /// The operation reaches past the end of the image, or its buffer is too short.
    #[error("the operation reaches past the end of the image")]
    OutOfRange,
    /// The host failed the operation: what it said, and its error number.
    #[error("{0}")]
    Io(String, /** errno */ i32),
    /// The image has no such operation.
    #[error("not supported by this image")]
    Unsupported,
    /// It was not carried out, because it would have had to wait and could not ([`DataHandle::cancel`]). The same
    /// operation may succeed later.
    #[error("the operation was cancelled")]
    Cancelled,

    /// The image cannot be given that size: the message names the file, and what is wrong.
    #[error("{0}")]
    Resize(String),
    /// The image cannot be opened: the message names the file, what is wrong, and the remedy.
    #[error("{0}")]
    Open(String),
    /// The image cannot be opened, because somebody else has a lock on it: the message is of the same kind.
    #[error("{0}")]
    InUse(String),
}

impl Error {
    /// Whether the host has failed, as opposed to an operation that nobody should have asked for, or that was cancelled.
    /// Memory of the guest that is not there (`EFAULT`) is no failure of the host's storage.
    #[must_use]
    pub fn is_host_failure(&self) -> bool {
        match self {
            Error::NoSpace => true,
            Error::Io(_, errno) => *errno != libc::EFAULT,
            Error::ReadOnly
            | Error::OutOfRange
            | Error::Unsupported
            | Error::Cancelled
            | Error::Resize(_)
            | Error::Open(_)
            | Error::InUse(_) => false,
        }
    }

    /// The error that the host calls `errno`.
    pub fn from_errno(errno: i32) -> Error {
        match errno {
            libc::ENOSPC | libc::EDQUOT => Error::NoSpace,
            _ => Error::Io(std::io::Error::from_raw_os_error(errno).to_string(), errno),
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        match error.raw_os_error() {
            Some(errno) => Error::from_errno(errno),
            None if error.kind() == std::io::ErrorKind::StorageFull => Error::NoSpace,
            None => Error::Io(error.to_string(), libc::EIO),
        }
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Error {
        Error::from_errno(errno.raw_os_error())
    }
}
