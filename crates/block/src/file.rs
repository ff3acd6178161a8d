//! `file` and `host_device`: bytes of the host, moved directly from and to the guest's memory.
//!
//! An operation that suits the file is one system call in place, or one entry in the ring and one completion: see
//! [`crate::route`]. What does not suit it (memory that
//! `O_DIRECT` refuses, a short transfer, a range that cannot be zeroed in one call) is handed to a task, see
//! [`crate::bounce`].

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lunar_reactor::{DEFERRED, File, Handle, Syscall, Token, offload};
use lunar_sgl::prefetch::Lines;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::bounce::Lane;
use crate::claim::Claims;
use crate::filter::{Gate, Ledger, Policy};
use crate::host::{Align, Expect, HostFile};
use crate::op::Step;
use crate::route::{Route, Sweeps};
use crate::{
    AllocationQuery, DataHandle, Error, Image, Info, NodeOptions, Op, OpKind, Progress, Space,
    Stats, WriteThreshold,
};

/// The image.
#[derive(Debug)]
pub(crate) struct FileImage {
    shared: Arc<Shared>,
    policy: Policy,
    ledger: Ledger,
    size: AtomicU64,
}

/// What all data handles of an image have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub host: HostFile,
    /// Where the medium's blocks are longer than those of an operation can be.
    pub claims: Option<Arc<Claims>>,
    pub sweeps: Sweeps,
}

impl Shared {
    pub fn new(host: HostFile) -> Shared {
        Shared {
            claims: (host.align.request > 512).then(|| Arc::new(Claims::new())),
            sweeps: Sweeps::default(),
            host,
        }
    }

    /// One reactor's way to the file.
    pub fn route(&self, reactor: &Handle, file: &File, gate: &Gate) -> Route {
        let sweeps = self.sweeps.clone();
        Route::new(
            reactor.clone(),
            file.clone(),
            self.host.medium,
            sweeps,
            gate.clone(),
        )
    }
}

/// Opens a file or a device.
pub(crate) fn open(
    path: &Path,
    expect: Expect,
    options: &NodeOptions,
) -> Result<Arc<dyn Image>, Error> {
    let host = HostFile::open(path, expect, options, false)?;
    let end = host.end()?;
    Ok(Arc::new(FileImage {
        policy: Policy::new(options, host.can_punch),
        ledger: Ledger::default(),
        size: AtomicU64::new(whole(end)),
        shared: Arc::new(Shared::new(host)),
    }))
}

/// QEMU's rule: the last sector may be cut short in the file.
fn whole(end: u64) -> u64 {
    end.checked_next_multiple_of(512).unwrap_or(end)
}

impl Image for FileImage {
    fn info(&self) -> Info {
        let host = &self.shared.host;
        Info {
            size: self.size.load(Ordering::Relaxed),
            read_only: self.policy.read_only,
            request_align: host.align.request.max(host.align.memory),
            discard_granularity: host.granularity,
            can_discard: self.policy.unmap,
            discard_zeroes: self.policy.unmap,
            flushes: !self.policy.no_flush,
            volatile: false,
            name: host.name(),
        }
    }

    fn open(&self, reactor: &Handle) -> Result<Rc<dyn DataHandle>, Error> {
        let file = reactor.register(self.shared.host.duplicate()?);
        let lane = Rc::new(Lane {
            reactor: reactor.clone(),
            file,
            shared: Arc::clone(&self.shared),
        });
        Ok(Rc::new(FileHandle::new(
            lane,
            self.ledger.gate(self.policy),
        )))
    }

    fn stats(&self) -> Stats {
        self.ledger.total()
    }

    fn write_threshold(&self) -> Option<&Arc<WriteThreshold>> {
        Some(self.ledger.threshold())
    }

    fn space(&self) -> Option<Space> {
        self.shared.host.space()
    }

    fn resize(&self, size: u64) -> Result<(), Error> {
        let host = &self.shared.host;
        let refuse = |what: &str| Err(Error::Resize(format!("{}: {what}", host.name())));
        if !host.writable {
            return refuse("it is open read-only");
        }
        if !host.is_device {
            let _sweep = self.shared.sweeps.during();
            host.set_end(size)?;
        } else if whole(host.end()?) != size {
            return refuse("a block device has the size that the host gives it; change it there");
        }
        self.size.store(size, Ordering::Relaxed);
        Ok(())
    }

    fn refresh(&self) -> Result<(), Error> {
        let end = whole(self.shared.host.end()?);
        self.size.fetch_max(end, Ordering::Relaxed);
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        self.shared.host.close(!self.policy.no_flush)
    }
}

/// A file's data handle; also the way of a format's operations to places in its file.
pub(crate) struct FileHandle {
    route: Route,
    /// For what is not one call.
    lane: Rc<Lane>,
    align: Align,
    /// As in [`Shared`].
    claims: Option<Arc<Claims>>,
    gate: Gate,
}

impl FileHandle {
    pub fn new(lane: Rc<Lane>, gate: Gate) -> FileHandle {
        FileHandle {
            route: lane.shared.route(&lane.reactor, &lane.file, &gate),
            align: lane.shared.host.align,
            claims: lane.shared.claims.clone(),
            lane,
            gate,
        }
    }

    /// Whether the kernel takes `op` as it is.
    #[inline]
    fn suits(&self, op: &Op) -> bool {
        let Align { memory, request } = self.align;
        if memory == 1 && request == 1 {
            return true;
        }
        let (memory, request) = (u64::from(memory) - 1, u64::from(request) - 1);
        (op.offset | op.len) & request == 0
            && op
                .data
                .segments()
                .iter()
                .all(|s| s.iov_base.addr() as u64 & memory == 0 && s.iov_len as u64 & request == 0)
    }

    /// Claims the place that `op`, which suits, will change until the kernel has done so. `false`: it has to wait.
    #[inline]
    fn claim(&self, op: &Op) -> bool {
        let claimed = match &self.claims {
            Some(claims) if op.kind.writes() => claims.try_share(op.offset, op.len),
            _ => true,
        };
        if claimed && op.kind.sweeps() {
            self.lane.shared.sweeps.begin();
        }
        claimed
    }

    /// Ends what [`FileHandle::claim`] has begun.
    #[inline]
    fn unclaim(&self, op: &Op) {
        if let Some(claims) = &self.claims
            && op.kind.writes()
        {
            claims.unshare(op.offset, op.len);
        }
        if op.kind.sweeps() {
            self.lane.shared.sweeps.end();
        }
    }

    /// The next step of `op`.
    #[inline]
    fn call(op: &Op) -> Syscall {
        match (op.step, op.kind) {
            (Step::Sync, _) | (_, OpKind::Flush) => Syscall::Sync { data_only: true },
            (_, OpKind::Read) => Syscall::Read {
                data: op.data,
                offset: op.offset,
                rw_flags: 0,
            },
            (_, OpKind::Write { fua }) => Syscall::Write {
                data: op.data,
                offset: op.offset,
                rw_flags: write_flags(fua),
            },
            (_, OpKind::Discard | OpKind::WriteZeroes { .. }) => Syscall::Allocate {
                mode: zero_mode(op.kind),
                offset: op.offset,
                len: op.len,
            },
        }
    }

    /// Takes the next step of `op`, and those that follow if it is over at once.
    #[inline]
    fn step(&self, op: &mut Op, token: Token) -> Progress {
        match self.route.start(Self::call(op), token) {
            Some(result) => self.resume(op, token, result),
            None => Progress::Pending,
        }
    }

    /// Hands the rest of `op`, from byte `done` on, to a task, which delivers the operation's result.
    fn hand_over(&self, op: &mut Op, done: usize, token: Token) -> Progress {
        op.step = Step::Task;
        let (lane, op) = (Rc::clone(&self.lane), *op);
        self.lane.reactor.spawn(async move {
            let result = match op.kind {
                OpKind::Read => lane.read(op, done).await,
                OpKind::Write { fua } => lane.write(op, done, write_flags(fua)).await,
                OpKind::Flush => lane.sync().await,
                OpKind::Discard | OpKind::WriteZeroes { .. } => {
                    let fua = matches!(op.kind, OpKind::WriteZeroes { fua: true, .. });
                    lane.zero(op.offset, op.len, zero_mode(op.kind), fua).await
                }
            };
            lane.reactor
                .deliver(token, result.err().map_or(0, |e| -e.raw_os_error()));
        });
        Progress::Pending
    }
}

impl DataHandle for FileHandle {
    fn start(&self, op: &mut Op, token: Token) -> Progress {
        if let Some(over) = self.gate.admit(op) {
            return over;
        }
        if self.suits(op) && self.claim(op) {
            return self.step(op, token);
        }
        if matches!(op.kind, OpKind::Read | OpKind::Write { .. }) {
            self.gate.bounced();
        }
        self.hand_over(op, 0, token)
    }

    fn resume(&self, op: &mut Op, token: Token, result: i32) -> Progress {
        if result == DEFERRED {
            return self.step(op, token);
        }
        if op.step != Step::Task && matches!(-result, libc::EINTR | libc::EAGAIN) {
            self.route.submit(Self::call(op), token);
            return Progress::Pending;
        }
        if op.step == Step::Whole {
            self.unclaim(op);
        }
        let done = match usize::try_from(result) {
            Ok(done) => done,
            Err(_) if op.step == Step::Whole && cannot_zero(op.kind, -result) => {
                return self.hand_over(op, 0, token);
            }
            Err(_) => return self.gate.done(Err(Error::from_errno(-result))),
        };
        match (op.step, op.kind) {
            (Step::Whole, OpKind::Read | OpKind::Write { .. }) if (done as u64) < op.len => {
                self.hand_over(op, done, token)
            }
            (Step::Whole, OpKind::WriteZeroes { fua: true, .. }) => {
                op.step = Step::Sync;
                self.step(op, token)
            }
            _ => self.gate.done(Ok(())),
        }
    }

    fn lines(&self, lines: &mut Lines) {
        lines.add(self);
        self.gate.lines(lines);
    }

    fn allocation(&self, offset: u64, len: u64) -> AllocationQuery {
        let shared = Arc::clone(&self.lane.shared);
        let found = offload(move || shared.host.allocation(offset, len));
        Box::pin(async { Ok(found.await.map_err(|_| Errno::AGAIN)??) })
    }
}

fn write_flags(fua: bool) -> i32 {
    if fua { libc::RWF_DSYNC } else { 0 }
}

/// Discarding here is zeroing with permission to free: the range reads as zeroes, as [`Info::discard_zeroes`] says.
fn zero_mode(kind: OpKind) -> i32 {
    let flags = match kind {
        OpKind::WriteZeroes { unmap: false, .. } => FallocateFlags::ZERO_RANGE,
        _ => FallocateFlags::PUNCH_HOLE,
    };
    (flags | FallocateFlags::KEEP_SIZE).bits().cast_signed()
}

/// The kernel will not zero this range by itself: because it cannot, or because the range does not fit the device's
/// blocks.
fn cannot_zero(kind: OpKind, errno: i32) -> bool {
    matches!(kind, OpKind::Discard | OpKind::WriteZeroes { .. })
        && matches!(errno, libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)
}
