//! Images: where a logical unit's blocks live.
//!
//! An image has two faces. The *control handle*, [`Image`], is shared by every thread: what the image is, how to
//! flush, resize or close it. From it each reactor opens a *data handle*, [`DataHandle`], which belongs to that
//! thread alone and starts operations on it without locks or allocation.
#![allow(
    clippy::unimplemented,
    missing_docs,
    unused_variables,
    reason = "SKELETON: replace"
)]

use std::rc::Rc;
use std::sync::Arc;

use lunar_reactor::{Handle, Token};
use lunar_sgl::Sgl;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// Data from the image into the buffer.
    Read,
    /// Data from the buffer into the image; `fua` = on stable storage before it completes.
    Write { fua: bool },
    /// Everything completed before is on stable storage when it completes.
    Flush,
    /// The range need not be kept; it reads afterwards as [`Info::discard_zeroes`] says. May do nothing.
    Discard,
    /// The range reads as zeroes afterwards; with `unmap` its space may be given back, without it stays provisioned.
    WriteZeroes { unmap: bool, fua: bool },
}

/// One operation on an image. Offsets and lengths are in bytes.
///
/// The caller has checked that `offset + len` does not pass [`Info::size`] and that both are multiples of the
/// *logical unit's* block size (512 at least). The buffer's length equals `len` for reads and writes. The image must
/// cope with any buffer alignment and with a stricter alignment of its own ([`Info::request_align`] is advice).
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub kind: OpKind,
    pub offset: u64,
    pub len: u64,
    pub data: Sgl,
    /// Bytes done so far: the data handle's own note between `start` and `resume`.
    pub done: u64,
}

/// Whether an operation is over.
#[derive(Debug)]
#[must_use]
pub enum Progress {
    Done(Result<(), Error>),
    /// The application will get `token` in [`lunar_reactor::App::complete`] and must then call [`DataHandle::resume`].
    Pending,
}

/// One reactor's way to an image.
pub trait DataHandle {
    /// Starts `op`. `op` and its buffer must stay valid until `Done` has been returned from here or from `resume`.
    fn start(&self, op: &mut Op, token: Token) -> Progress;

    /// `token` has completed with `result`: finishes the operation or starts its next step under the same token.
    fn resume(&self, op: &mut Op, token: Token, result: i32) -> Progress;
}

/// Runs one operation from a task, through any data handle.
pub async fn run(reactor: &Handle, io: &Rc<dyn DataHandle>, op: Op) -> Result<(), Error> {
    unimplemented!()
}

/// The shared face of an image. `Arc<dyn Image>` is what a drive or a `--blockdev` node is.
pub trait Image: Send + Sync + std::fmt::Debug {
    /// What the image is now.
    fn info(&self) -> Info;
    /// Opens the data handle for one reactor (called on the reactor's thread).
    fn open(&self, reactor: &Handle) -> Result<Rc<dyn DataHandle>, Error>;
    /// Makes everything durable and releases the image's lock; called once, when no data handle is left. Blocking.
    fn close(&self) -> Result<(), Error>;
}

/// What an image is.
#[derive(Clone, Debug)]
pub struct Info {
    /// Bytes.
    pub size: u64,
    pub read_only: bool,
    /// Requests aligned to this many bytes are served without a bounce (O_DIRECT), a power of two.
    pub request_align: u32,
    /// The unit in which space is allocated or freed (cluster, file-system block), a hint for VPD B0.
    pub discard_granularity: u32,
    /// Discards free space (`discard=unmap` and the backend can).
    pub can_discard: bool,
    /// A discarded range reads as zeroes.
    pub discard_zeroes: bool,
    /// `cache.no-flush=off`.
    pub flushes: bool,
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
    #[error("the image is read-only")]
    ReadOnly,
    #[error("{0}")]
    Io(String, /** errno */ i32),
    #[error("not supported by this image")]
    Unsupported,
    /// The image cannot be opened: the message names the file, what is wrong, and the remedy.
    #[error("{0}")]
    Open(String),
}

/// How an image is opened (drive options and block nodes both end here); see [`open_node`].
#[derive(Clone, Debug)]
pub struct NodeOptions {
    pub read_only: bool,
    pub direct: bool,
    pub no_flush: bool,
    pub discard_unmap: bool,
    pub detect_zeroes: DetectZeroes,
    pub force_share: bool,
    pub locking: bool,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectZeroes {
    Off,
    On,
    Unmap,
}
/// A driver and its own options.
#[derive(Clone, Debug)]
pub enum Driver {
    File {
        filename: std::path::PathBuf,
    },
    HostDevice {
        filename: std::path::PathBuf,
    },
    Raw {
        file: Arc<dyn Image>,
        offset: u64,
        size: Option<u64>,
    },
    Qcow2 {
        file: std::path::PathBuf,
    },
    Null {
        size: u64,
        read_zeroes: bool,
        latency_ns: u64,
    },
    Memory {
        size: u64,
    },
}
/// Opens a node.
pub fn open_node(driver: Driver, options: &NodeOptions) -> Result<Arc<dyn Image>, Error> {
    unimplemented!()
}
