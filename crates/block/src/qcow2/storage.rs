//! The qcow2 implementation's way to its files: `imago`'s `Storage` on a reactor's ring.
//!
//! On a reactor every call goes through that reactor's [`Lane`] to the file; elsewhere (opening, closing) it blocks. The
//! storage is shared by all reactors while a lane belongs to one, so the lanes are kept per thread: a data handle
//! [attaches](QcowFile::attach) the files of its image and detaches them when it goes.
//!
//! The kernel only ever works on buffers of our own here: what `imago` passes is borrowed from a future, which it may
//! drop. A write runs in a task of its own for the same reason, so that it ends even if nobody waits for it, and
//! `settle_writes` can wait for it.
#![allow(
    unsafe_code,
    reason = "imago's trait declares its methods unsafe; nothing unsafe is done in them"
)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;
use lunar_reactor::{AlignedBuf, Handle};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use tokio::sync::{RwLock, oneshot};

use crate::Error;
use crate::bounce::Lane;
use crate::file::Shared;

/// What a reactor's thread has attached: file number → its lane, and how many handles hold it.
type Lanes = HashMap<u64, (Rc<Lane>, usize)>;

thread_local! {
    static LANES: RefCell<Lanes> = RefCell::default();
}

/// One file of an image or of its backing chain.
#[derive(Clone)]
pub(crate) struct QcowFile {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    number: u64,
    /// `cache.no-flush`.
    no_flush: bool,
    /// Clusters that become free are given back to the host.
    punch: bool,
    helper: CommonStorageHelper,
    /// Held shared by every modifying request until the kernel has finished it.
    modifying: Arc<RwLock<()>>,
}

impl QcowFile {
    pub fn new(shared: Shared, no_flush: bool, punch: bool) -> QcowFile {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        QcowFile {
            inner: Arc::new(Inner {
                punch: punch && shared.host.can_punch,
                shared: Arc::new(shared),
                number: NUMBER.fetch_add(1, Ordering::Relaxed),
                no_flush,
                helper: CommonStorageHelper::default(),
                modifying: Arc::default(),
            }),
        }
    }

    pub fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    /// Opens this thread's lane to the file.
    pub fn attach(&self, reactor: &Handle) -> Result<Attached, Error> {
        let number = self.inner.number;
        let present = LANES.with_borrow_mut(|lanes| {
            let (lane, holders) = lanes.get_mut(&number)?;
            *holders += 1;
            Some(Rc::clone(lane))
        });
        let lane = match present {
            Some(lane) => lane,
            None => {
                let lane = Rc::new(self.lane_on(reactor.clone())?);
                let known = (Rc::clone(&lane), 1);
                LANES.with_borrow_mut(|lanes| lanes.insert(number, known));
                lane
            }
        };
        Ok(Attached { number, lane })
    }

    fn lane_on(&self, reactor: Handle) -> Result<Lane, Error> {
        let shared = Arc::clone(&self.inner.shared);
        let file = reactor.register(shared.host.duplicate()?);
        Ok(Lane {
            reactor,
            file,
            shared,
        })
    }

    /// This thread's lane; `None` when the thread is no reactor and may block.
    fn lane(&self) -> io::Result<Option<Rc<Lane>>> {
        let attached = LANES.with_borrow(|lanes| {
            let lane = lanes.get(&self.inner.number)?;
            Some(Rc::clone(&lane.0))
        });
        match (attached, Handle::current()) {
            (Some(lane), _) => Ok(Some(lane)),
            (None, None) => Ok(None),
            (None, Some(reactor)) => {
                let lane = self.lane_on(reactor).map_err(io::Error::other)?;
                Ok(Some(Rc::new(lane)))
            }
        }
    }

    /// Runs a modifying request to its end, whether or not the caller waits.
    async fn modify<F>(
        &self,
        lane: &Rc<Lane>,
        request: impl FnOnce(Rc<Lane>) -> F,
    ) -> io::Result<()>
    where
        F: Future<Output = Result<(), Errno>> + 'static,
    {
        let unsettled = Arc::clone(&self.inner.modifying).read_owned().await;
        let (done, outcome) = oneshot::channel();
        let request = request(Rc::clone(lane));
        lane.reactor.spawn(async move {
            let result = request.await;
            drop(unsettled);
            // The other end is gone if the request was given up.
            let _ = done.send(result);
        });
        match outcome.await {
            Ok(result) => Ok(result?),
            Err(_) => Err(io::Error::other("the reactor has stopped")),
        }
    }

    async fn zero(&self, offset: u64, len: u64, mode: FallocateFlags) -> io::Result<()> {
        match self.lane()? {
            None => Ok(self.shared().host.zero_blocking(offset, len, mode)?),
            Some(lane) => {
                let mode = mode.bits().cast_signed();
                self.modify(&lane, |lane| async move {
                    lane.zero(offset, len, mode, false).await
                })
                .await
            }
        }
    }
}

/// Keeps a file attached to this thread.
pub(crate) struct Attached {
    number: u64,
    pub lane: Rc<Lane>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        let last = LANES.try_with(|lanes| {
            let mut lanes = lanes.borrow_mut();
            let (_, holders) = lanes.get_mut(&self.number)?;
            *holders -= 1;
            if *holders == 0 {
                lanes.remove(&self.number)
            } else {
                None
            }
        });
        // Unregisters the file, which calls into the ring: not while the table is borrowed.
        drop(last);
    }
}

impl fmt::Debug for QcowFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("QcowFile")
            .field(&self.shared().host.path)
            .finish()
    }
}

impl fmt::Display for QcowFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared().host.path.display().fmt(f)
    }
}

impl Storage for QcowFile {
    fn req_align(&self) -> usize {
        self.shared().host.align.request as usize
    }

    fn zero_align(&self) -> usize {
        // Smaller ranges are written, in one request that merges into neighbours, instead of splitting an extent.
        (self.shared().host.granularity as usize).max(self.req_align())
    }

    fn discard_align(&self) -> usize {
        self.zero_align()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.shared().host.end()?)
    }

    fn get_filename(&self) -> Option<PathBuf> {
        Some(self.shared().host.path.clone())
    }

    async unsafe fn pure_readv(&self, mut bufv: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        let len = usize::try_from(bufv.len()).map_err(io::Error::other)?;
        let buf = match self.lane()? {
            None => self.shared().host.read_blocking(offset, len)?,
            Some(lane) => lane.read_own(offset, len).await?,
        };
        bufv.copy_from_slice(buf.get(..len).unwrap_or_default());
        Ok(())
    }

    async unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        let len = usize::try_from(bufv.len()).map_err(io::Error::other)?;
        let align = self.shared().host.align;
        let mut buf = AlignedBuf::new(len, align.memory.max(align.request) as usize);
        bufv.copy_into_slice(&mut buf);
        match self.lane()? {
            None => Ok(self.shared().host.write_blocking(offset, &buf)?),
            Some(lane) => {
                self.modify(
                    &lane,
                    |lane| async move { lane.write_own(offset, buf, 0).await },
                )
                .await
            }
        }
    }

    async unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.zero(offset, length, FallocateFlags::ZERO_RANGE).await
    }

    async unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.zero(offset, length, FallocateFlags::ZERO_RANGE).await
    }

    async unsafe fn pure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        if !self.inner.punch {
            return Ok(());
        }
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.zero(offset, length, mode).await
    }

    async fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    async fn sync(&self) -> io::Result<()> {
        if self.inner.no_flush {
            return Ok(());
        }
        match self.lane()? {
            None => Ok(rustix::fs::fdatasync(self.shared().host.fd())?),
            Some(lane) => Ok(lane.sync().await?),
        }
    }

    async fn settle_writes(&self) -> io::Result<()> {
        drop(self.inner.modifying.write().await);
        Ok(())
    }

    async unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.inner.helper
    }
}
