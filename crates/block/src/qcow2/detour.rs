//! The detour: everything through `imago`, by tasks, on buffers of our own.
//!
//! A task holds a bounded piece at a time. `imago` locks its metadata itself; our lock around it is shared by those who
//! only find and add, and exclusive for those who take away, see the [module above](super).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use imago::format::PreallocateMode;
use imago::{Mapping, ShallowMapping};
use lunar_reactor::AlignedBuf;
use tokio::sync::{RwLock, RwLockWriteGuard};

use super::Access;
use super::map::Map;
use super::way::{Closed, Ways};
use crate::{Allocation, Op, OpKind};

/// Bytes of our own memory that one operation holds at most.
const PIECE: usize = 1 << 20;
/// What is discarded or zeroed in one go while others wait.
const ZERO_PIECE: u64 = 256 << 20;
/// Clusters whose places are learnt by the way, beyond those of the operation.
const LEARN: u64 = 64;

/// What all data handles of an image share.
#[derive(Debug)]
pub(super) struct Core {
    access: RwLock<Access>,
    pub cluster_size: u64,
    /// A file of the image has blocks that are longer than those of an operation can be.
    long_blocks: bool,
    pub map: Map,
    pub ways: Arc<Ways>,
    /// Operations that may have changed what `imago` keeps in memory.
    changes: AtomicU64,
    /// How many of them are in the file for sure.
    flushed: AtomicU64,
}

/// Nobody else uses the image, on either way.
struct Alone<'a> {
    _closed: Closed<'a>,
    access: RwLockWriteGuard<'a, Access>,
}

impl Core {
    pub fn new(access: Access, cluster_size: u64, long_blocks: bool) -> Core {
        Core {
            access: RwLock::new(access),
            cluster_size,
            long_blocks,
            map: Map::new(cluster_size),
            ways: Arc::default(),
            changes: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
        }
    }

    /// Nothing waits in `imago`'s memory to be written.
    #[inline]
    pub fn is_flushed(&self) -> bool {
        // In this order a change that comes between is seen or was not made by anybody who has been answered.
        let changes = self.changes.load(Ordering::SeqCst);
        self.flushed.load(Ordering::SeqCst) == changes
    }

    /// Notes that metadata may have changed: after the change, and before anybody is told of it.
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    async fn alone(&self) -> Alone<'_> {
        let access = self.access.write().await;
        Alone {
            _closed: self.ways.close().await,
            access,
        }
    }

    /// Enters the places of a range that somebody has just used, and of some clusters behind it. `access` is what keeps
    /// them from being taken away meanwhile.
    async fn learn(&self, access: &Access, offset: u64, len: u64) {
        if offset >= access.size() || self.map.find(offset, len).is_some() {
            return;
        }
        let cluster = self.cluster_size;
        let mut at = offset / cluster * cluster;
        // A last cluster that the image ends in has no place of its own, so that nobody goes past the end.
        let end = (offset + len)
            .next_multiple_of(cluster)
            .max(at + LEARN * cluster)
            .min(access.size() / cluster * cluster);
        while at < end {
            // Whatever is wrong with the tables, who needs them will be told.
            let Ok((
                ShallowMapping::Raw {
                    offset: place,
                    writable: true,
                    ..
                },
                len,
            )) = access.get_shallow_mapping(at, end - at).await
            else {
                return;
            };
            if len < cluster {
                return;
            }
            self.map.learn(at, place, len);
            at += len / cluster * cluster;
        }
    }

    pub async fn serve(&self, op: Op) -> io::Result<()> {
        match op.kind {
            OpKind::Read => self.read(op).await,
            OpKind::Write { fua } => {
                self.write(op).await?;
                self.flush_if(fua).await
            }
            OpKind::Flush => self.flush().await,
            OpKind::Discard => self.zero(op.offset, op.len, true).await,
            OpKind::WriteZeroes { unmap, fua } => {
                self.zero(op.offset, op.len, unmap).await?;
                self.flush_if(fua).await
            }
        }
    }

    async fn read(&self, op: Op) -> io::Result<()> {
        let len = op.data.len();
        let mut buf = AlignedBuf::new(len.min(PIECE), 4096);
        let mut done = 0;
        while done < len {
            let Some(part) = buf.get_mut(..(len - done).min(PIECE)) else {
                break;
            };
            let access = self.access.read().await;
            let offset = op.offset + done as u64;
            access.read(&mut *part, offset).await?;
            self.learn(&access, offset, part.len() as u64).await;
            done += op.data.write_at(done, part);
        }
        Ok(())
    }

    async fn write(&self, op: Op) -> io::Result<()> {
        let len = op.data.len();
        let mut buf = AlignedBuf::new(len.min(PIECE), 4096);
        let mut done = 0;
        while done < len {
            let Some(part) = buf.get_mut(..(len - done).min(PIECE)) else {
                break;
            };
            op.data.read_at(done, part);
            self.write_piece(part, op.offset + done as u64).await?;
            done += part.len();
        }
        Ok(())
    }

    async fn write_piece(&self, part: &[u8], offset: u64) -> io::Result<()> {
        if self.long_blocks {
            let alone = self.alone().await;
            self.write_with(&alone.access, part, offset).await
        } else {
            let access = self.access.read().await;
            self.write_with(&access, part, offset).await
        }
    }

    async fn write_with(&self, access: &Access, part: &[u8], offset: u64) -> io::Result<()> {
        let written = access.write(part, offset).await;
        self.changed();
        self.learn(access, offset, part.len() as u64).await;
        written
    }

    async fn zero(&self, mut offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let end = offset.checked_add(len).ok_or(rustix::io::Errno::INVAL)?;
        while offset < end {
            let next = (offset / ZERO_PIECE + 1)
                .saturating_mul(ZERO_PIECE)
                .min(end);
            match self.zero_piece(offset, next - offset, unmap).await {
                // A version 2 image has no zero clusters.
                Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                    self.write_zeroes(offset, next - offset).await?;
                }
                other => other?,
            }
            offset = next;
        }
        Ok(())
    }

    async fn zero_piece(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let mut alone = self.alone().await;
        self.map.forget(offset, len);
        let zeroed = if unmap {
            alone.access.discard_to_zero(offset, len).await
        } else {
            alone.access.write_zeroes(offset, len).await
        };
        self.changed();
        zeroed
    }

    async fn write_zeroes(&self, mut offset: u64, len: u64) -> io::Result<()> {
        let end = offset.saturating_add(len);
        let zeroes = AlignedBuf::new(PIECE, 4096);
        while offset < end {
            let len = usize::try_from(end - offset).unwrap_or(PIECE).min(PIECE);
            let part = zeroes.get(..len).unwrap_or_default();
            self.write_piece(part, offset).await?;
            offset += len as u64;
        }
        Ok(())
    }

    /// What is behind the old end of the image beneath would show through a new end, so zeroes are put in its place.
    pub async fn resize(&self, size: u64, backing: u64) -> io::Result<()> {
        let access = &mut self.alone().await.access;
        self.map.clear();
        self.changed();
        if access.size() < backing {
            let zeroed = size.min(backing);
            access.resize_grow(zeroed, PreallocateMode::Zero).await?;
        }
        access.resize(size, PreallocateMode::None).await?;
        access.flush().await?;
        access.sync().await
    }

    /// Clusters of the backing chain count as well: they are what a read finds.
    pub async fn allocation(&self, offset: u64, len: u64) -> io::Result<Allocation> {
        let access = self.access.read().await;
        Ok(match access.get_mapping(offset, len).await? {
            (Mapping::Eof { .. }, _) => Allocation::hole(len),
            (Mapping::Zero { .. }, len) => Allocation::hole(len),
            (_, len) => Allocation::data(len),
        })
    }

    async fn flush_if(&self, fua: bool) -> io::Result<()> {
        if fua { self.flush().await } else { Ok(()) }
    }

    pub async fn flush(&self) -> io::Result<()> {
        let access = self.access.read().await;
        let changes = self.changes.load(Ordering::SeqCst);
        access.flush().await?;
        access.sync().await?;
        self.flushed.fetch_max(changes, Ordering::SeqCst);
        Ok(())
    }
}
