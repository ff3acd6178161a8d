//! The slow lane of a file: everything that is not one call on the guest's own memory.
//!
//! Transfers that `O_DIRECT` does not take go through aligned buffers of our own, a bounded piece at a time; a piece
//! that begins or ends inside a block of the medium is read, patched and written back while nobody else writes there, see
//! [`crate::claim`]. Transfers that the kernel has cut short are finished here too, and zeroes are written where the medium
//! cannot make them.

use std::sync::Arc;

use lunar_reactor::{AlignedBuf, File, Handle, IoBuf};
use lunar_sgl::Sgl;
use rustix::io::Errno;

use crate::Op;
use crate::file::Shared;
use crate::host::Align;

/// Bytes of our own memory that one operation holds at most (and a block at either end).
const PIECE: u64 = 1 << 20;

/// One reactor's slow lane to a file.
pub(crate) struct Lane {
    pub reactor: Handle,
    pub file: File,
    pub shared: Arc<Shared>,
}

/// What is written.
#[derive(Clone, Copy)]
enum Source {
    /// The bytes of a list, from here on.
    Data(Sgl, usize),
    Zeroes,
}

impl Lane {
    fn align(&self) -> Align {
        self.shared.host.align
    }

    fn is_direct(&self) -> bool {
        self.align().request > 1
    }

    /// Reads what `op` still lacks after `done` bytes. Behind the end of the file are zeroes.
    pub async fn read(&self, op: Op, mut done: usize) -> Result<(), Errno> {
        let len = op.data.len();
        while done < len {
            let offset = op.offset + done as u64;
            done += if offset >= self.shared.host.end()? {
                op.data.fill_at(done, len - done, 0)
            } else if self.is_direct() {
                let piece = clip(len - done);
                let window = self.window(offset, piece);
                let buf = self.fill(&window).await?;
                let from = window.inside(offset);
                op.data
                    .write_at(done, buf.get(from..from + piece).unwrap_or_default())
            } else {
                let rest = IoBuf::List(op.data.slice(done, len - done));
                let (read, _) = self.reactor.read(&self.file, rest, offset, 0).await;
                match again(read)? {
                    // The file has become shorter meanwhile.
                    Some(0) => op.data.fill_at(done, len - done, 0),
                    other => other.unwrap_or(0),
                }
            };
        }
        Ok(())
    }

    /// Writes what `op` still lacks after `done` bytes.
    pub async fn write(&self, op: Op, mut done: usize, flags: i32) -> Result<(), Errno> {
        let len = op.data.len();
        // Only what was whole blocks has been begun: it goes on from a block, so that it remains so.
        done -= done % self.align().request as usize;
        while done < len {
            let offset = op.offset + done as u64;
            done += if self.is_direct() {
                let piece = clip(len - done);
                self.patch(offset, piece, Source::Data(op.data, done), flags)
                    .await?;
                piece
            } else {
                let rest = IoBuf::List(op.data.slice(done, len - done));
                let (wrote, _) = self.reactor.write(&self.file, rest, offset, flags).await;
                progress(again(wrote)?)?
            };
        }
        Ok(())
    }

    /// Makes `offset..offset + len` read as zeroes: the kernel does it for the whole blocks if it can, the rest is
    /// written.
    pub async fn zero(&self, offset: u64, len: u64, mode: i32, fua: bool) -> Result<(), Errno> {
        let block = if self.shared.host.is_device {
            u64::from(rustix::fs::ioctl_blksszget(self.shared.host.fd()).unwrap_or(4096)).max(512)
        } else {
            1
        };
        let end = offset.checked_add(len).ok_or(Errno::INVAL)?;
        let from = offset.next_multiple_of(block).min(end);
        let to = (end / block * block).max(from);
        let mut left = [(offset, end), (end, end)];
        if from < to {
            // What is a part of a block the kernel zeroes without disturbing others; patches it knows nothing of.
            let claim = match &self.shared.claims {
                Some(claims) => Some(claims.share(from, to - from).await),
                None => None,
            };
            let sweep = self.shared.sweeps.during();
            let zeroed = self
                .reactor
                .allocate(&self.file, mode, from, to - from)
                .await;
            drop((claim, sweep));
            match zeroed {
                Ok(()) => left = [(offset, from), (to, end)],
                Err(e) if can_be_written(&e) => {}
                Err(e) => return Err(errno(&e)),
            }
        }
        for (mut at, end) in left {
            while at < end {
                let piece = usize::try_from((end - at).min(PIECE)).unwrap_or(0);
                self.patch(at, piece, Source::Zeroes, 0).await?;
                at += piece as u64;
            }
        }
        if fua { self.sync().await } else { Ok(()) }
    }

    /// `fdatasync`.
    pub async fn sync(&self) -> Result<(), Errno> {
        let synced = self.reactor.sync(&self.file, true).await;
        synced.map_err(|e| errno(&e))
    }

    /// Writes `len` bytes (a piece at most) at `offset` through a buffer of our own.
    async fn patch(
        &self,
        offset: u64,
        len: usize,
        source: Source,
        flags: i32,
    ) -> Result<(), Errno> {
        let window = self.window(offset, len);
        let whole = window.start == offset && window.len == len;
        let _claim = match &self.shared.claims {
            Some(claims) if whole => Some(claims.share(offset, len as u64).await),
            Some(claims) => Some(claims.exclude(window.start, window.len as u64).await),
            // Every operation is whole blocks.
            None => None,
        };
        let mut buf = if whole {
            self.buffer(len)
        } else {
            self.fill(&window).await?
        };
        #[cfg(test)]
        tests::dawdle(&self.reactor).await;
        let from = window.inside(offset);
        if let Some(part) = buf.get_mut(from..from + len) {
            match source {
                Source::Data(data, at) => {
                    data.read_at(at, part);
                }
                Source::Zeroes => part.fill(0),
            }
        }
        self.put(window.start, buf, flags).await
    }

    /// Reads whole blocks into memory of our own.
    pub async fn read_own(&self, offset: u64, len: usize) -> Result<AlignedBuf, Errno> {
        let buf = self.fill(&Window { start: offset, len }).await;
        #[cfg(test)]
        tests::dawdle(&self.reactor).await;
        buf
    }

    /// Writes whole blocks from memory of our own.
    pub async fn write_own(&self, offset: u64, buf: AlignedBuf, flags: i32) -> Result<(), Errno> {
        self.put(offset, buf, flags).await
    }

    /// The whole blocks around a piece.
    fn window(&self, offset: u64, len: usize) -> Window {
        let block = u64::from(self.align().request);
        let start = offset / block * block;
        let end = (offset + len as u64).next_multiple_of(block);
        Window {
            start,
            len: usize::try_from(end - start).unwrap_or(len),
        }
    }

    fn buffer(&self, len: usize) -> AlignedBuf {
        AlignedBuf::new(len, self.align().memory.max(self.align().request) as usize)
    }

    /// Reads a window; what lies behind the end of the file stays zero.
    async fn fill(&self, window: &Window) -> Result<AlignedBuf, Errno> {
        let mut buf = self.buffer(window.len);
        let mut done = 0;
        loop {
            let offset = window.start + done as u64;
            if done >= window.len || offset >= self.shared.host.end()? {
                return Ok(buf);
            }
            let part = if done == 0 {
                std::mem::replace(&mut buf, AlignedBuf::new(0, 1))
            } else {
                self.buffer(window.len - done)
            };
            let (read, part) = self
                .reactor
                .read(&self.file, IoBuf::Owned(part), offset, 0)
                .await;
            if let IoBuf::Owned(part) = part {
                if done == 0 {
                    buf = part;
                } else if let Some(rest) = buf.get_mut(done..) {
                    rest.copy_from_slice(&part);
                }
            }
            match again(read)? {
                Some(0) => return Ok(buf),
                Some(n) => done += n,
                None => {}
            }
        }
    }

    /// Writes a buffer, all of it.
    async fn put(&self, offset: u64, buf: AlignedBuf, flags: i32) -> Result<(), Errno> {
        let len = buf.len();
        let mut done = 0;
        let mut part = buf;
        loop {
            let (wrote, back) = self
                .reactor
                .write(&self.file, IoBuf::Owned(part), offset + done as u64, flags)
                .await;
            let n = progress(again(wrote)?)?;
            done += n;
            let IoBuf::Owned(back) = back else {
                return Err(Errno::IO);
            };
            if done >= len {
                return Ok(());
            }
            part = if n == 0 {
                back
            } else {
                let mut rest = self.buffer(len - done);
                rest.copy_from_slice(back.get(n..).unwrap_or_default());
                rest
            };
        }
    }
}

/// Whole blocks of the medium.
struct Window {
    start: u64,
    len: usize,
}

impl Window {
    fn inside(&self, offset: u64) -> usize {
        usize::try_from(offset - self.start).unwrap_or(self.len)
    }
}

fn clip(len: usize) -> usize {
    len.min(usize::try_from(PIECE).unwrap_or(len))
}

/// `None` when the call is to be made again.
fn again(result: std::io::Result<usize>) -> Result<Option<usize>, Errno> {
    match result.map_err(|e| errno(&e)) {
        Ok(n) => Ok(Some(n)),
        Err(Errno::INTR | Errno::AGAIN) => Ok(None),
        Err(e) => Err(e),
    }
}

/// A write that gets nowhere without an error has run out of space.
fn progress(written: Option<usize>) -> Result<usize, Errno> {
    match written {
        Some(0) => Err(Errno::NOSPC),
        Some(n) => Ok(n),
        None => Ok(0),
    }
}

fn can_be_written(error: &std::io::Error) -> bool {
    matches!(
        errno(error),
        Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR | Errno::AGAIN
    )
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests;
