//! `qcow2`: the format through the `imago` crate, on our own files.
//!
//! Every operation is a task that works on a buffer of ours, a bounded piece at a time. Several reactors share one
//! image: `imago` locks its metadata itself. What may move clusters away under a reader (discarding), or looks at a
//! cluster before it changes all of it (zeroing a part), takes the image's lock exclusively; everything else shares it.

mod extension;
mod header;
mod storage;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use imago::format::PreallocateMode;
use imago::format::builder::FormatDriverBuilder;
use imago::{DenyImplicitOpenGate, FormatAccess, Mapping};
use lunar_reactor::{AlignedBuf, Handle, Token, block_on};
use tokio::sync::RwLock;

use self::header::{Backing, Header};
use self::storage::{Attached, QcowFile};
use crate::file::Shared;
use crate::filter::{Gate, Ledger, Policy};
use crate::host::{Expect, HostFile};
use crate::{
    Allocation, AllocationQuery, DataHandle, DetectZeroes, Error, Image, Info, NodeOptions, Op,
    OpKind, Progress, Space, Stats, WriteThreshold,
};

type Access = FormatAccess<QcowFile>;

/// Bytes of our own memory that one operation holds at most.
const PIECE: usize = 1 << 20;
/// What is discarded or zeroed in one go while others wait.
const ZERO_PIECE: u64 = 256 << 20;
/// Images in a chain; more are a loop.
const MAX_CHAIN: usize = 64;

/// The image.
#[derive(Debug)]
pub(crate) struct Qcow2 {
    core: Arc<Core>,
    policy: Policy,
    ledger: Ledger,
    /// This image's file and those of its backing chain.
    files: Vec<QcowFile>,
    name: String,
    size: AtomicU64,
    /// Bytes of the image beneath, 0 if there is none.
    backing: u64,
}

#[derive(Debug)]
struct Core {
    access: RwLock<Access>,
    cluster_size: u64,
}

/// Opens an image and its backing chain.
pub(crate) fn open(path: &Path, options: &NodeOptions) -> Result<Arc<dyn Image>, Error> {
    let mut files = Vec::new();
    let (access, header, backing) = open_layer(path, options, &mut files)?;
    // Version 2 has no zero clusters, and so nothing to put in place of a discarded one.
    let policy = Policy::new(options, header.version >= 3);
    Ok(Arc::new(Qcow2 {
        core: Arc::new(Core {
            access: RwLock::new(access),
            cluster_size: header.cluster_size,
        }),
        policy,
        ledger: Ledger::default(),
        files,
        name: path.display().to_string(),
        // QEMU's rule: a last sector that is not whole does not exist.
        size: AtomicU64::new(header.size / 512 * 512),
        backing,
    }))
}

/// Opens one image of a chain, and what is beneath it; also says how long the latter is.
fn open_layer(
    path: &Path,
    options: &NodeOptions,
    files: &mut Vec<QcowFile>,
) -> Result<(Access, Header, u64), Error> {
    let name = path.display().to_string();
    let refuse = |what: String| Error::Open(format!("{name}: {what}"));
    let file = open_file(path, options, true, files)?;
    let host = &file.shared().host;
    let header = header::check(&name, host.end()?, &|offset, len| {
        let mut buf = host.read_blocking(offset, len)?.to_vec();
        buf.truncate(len);
        Ok(buf)
    })
    .map_err(refuse)?;
    if header.has_bitmaps && !options.read_only {
        tracing::warn!(image = %name, "writing makes the image's dirty bitmaps inconsistent");
    }
    let backing = match &header.backing {
        None => None,
        Some(backing) => Some(open_backing(path, backing, options, files)?),
    };
    let beneath = backing.as_ref().map_or(0, FormatAccess::size);
    let builder = imago::qcow2::Qcow2::<QcowFile>::builder(file)
        .write(!options.read_only)
        .backing(backing)
        .data_file(None);
    let image = block_on(builder.open(DenyImplicitOpenGate::default())).map_err(|e| {
        refuse(format!(
            "it cannot be opened: {e}; examine it with qemu-img check {name}"
        ))
    })?;
    Ok((FormatAccess::new(image), header, beneath))
}

fn open_backing(
    path: &Path,
    backing: &Backing,
    options: &NodeOptions,
    files: &mut Vec<QcowFile>,
) -> Result<Access, Error> {
    let refuse = |what: String| {
        Error::Open(format!(
            "{}: its backing file {} cannot be used: {what}",
            path.display(),
            backing.file
        ))
    };
    if files.len() >= MAX_CHAIN {
        return Err(refuse(format!(
            "the chain has more than {MAX_CHAIN} images; shorten it with qemu-img rebase"
        )));
    }
    let file = backing.file.strip_prefix("file:").unwrap_or(&backing.file);
    let before_slash = file.split('/').next().unwrap_or_default();
    if before_slash.contains(':') {
        return Err(refuse(
            "it is not a file name but a protocol's; copy it to a file and use qemu-img rebase"
                .into(),
        ));
    }
    let below = path.parent().unwrap_or(Path::new("")).join(file);
    let options = NodeOptions {
        read_only: true,
        share_rw: false,
        discard_unmap: false,
        detect_zeroes: DetectZeroes::Off,
        ..options.clone()
    };
    let explain = |error| match error {
        Error::Open(what) => refuse(what),
        Error::InUse(what) => Error::InUse(refuse(what).to_string()),
        other => other,
    };
    match backing.format.as_str() {
        "qcow2" => {
            let (access, ..) = open_layer(&below, &options, files).map_err(explain)?;
            Ok(access)
        }
        "raw" => {
            let file = open_file(&below, &options, false, files).map_err(explain)?;
            let raw = block_on(imago::raw::Raw::open_image(file, false))?;
            Ok(FormatAccess::new(raw))
        }
        other => Err(refuse(format!(
            "its format {other} is not supported; convert it with qemu-img convert"
        ))),
    }
}

fn open_file(
    path: &Path,
    options: &NodeOptions,
    resizes: bool,
    files: &mut Vec<QcowFile>,
) -> Result<QcowFile, Error> {
    let host = HostFile::open(path, Expect::Any, options, resizes)?;
    let file = QcowFile::new(Shared::new(host), options.no_flush, options.discard_unmap);
    files.push(file.clone());
    Ok(file)
}

impl Image for Qcow2 {
    fn info(&self) -> Info {
        let request = self.files.iter().map(|f| f.shared().host.align.request);
        Info {
            size: self.size.load(Ordering::Relaxed),
            read_only: self.policy.read_only,
            request_align: request.max().unwrap_or(1),
            discard_granularity: u32::try_from(self.core.cluster_size).unwrap_or(65536),
            can_discard: self.policy.unmap,
            discard_zeroes: self.policy.unmap,
            flushes: !self.policy.no_flush,
            volatile: false,
            name: self.name.clone(),
        }
    }

    fn open(&self, reactor: &Handle) -> Result<Rc<dyn DataHandle>, Error> {
        let lanes: Result<Vec<_>, _> = self.files.iter().map(|f| f.attach(reactor)).collect();
        Ok(Rc::new(Qcow2Handle {
            reactor: reactor.clone(),
            core: Arc::clone(&self.core),
            gate: self.ledger.gate(self.policy),
            failures: Rc::default(),
            _lanes: lanes?,
        }))
    }

    fn stats(&self) -> Stats {
        self.ledger.total()
    }

    fn write_threshold(&self) -> Option<&Arc<WriteThreshold>> {
        Some(self.ledger.threshold())
    }

    fn space(&self) -> Option<Space> {
        // The layers beneath are not written to. Clusters that are free again inside the file still count: it does not shrink.
        self.files.first()?.shared().host.space()
    }

    fn resize(&self, size: u64) -> Result<(), Error> {
        let refuse = |what: &str| Error::Resize(format!("{}: {what}", self.name));
        if self.policy.read_only {
            return Err(refuse("it is open read-only"));
        }
        // An entry of the first table stands for a table of 8-byte entries, one for each cluster.
        let cluster = self.core.cluster_size;
        if size.div_ceil(cluster * (cluster / 8)) > header::MAX_L1_BYTES / 8 {
            return Err(refuse("that is more than its format can hold"));
        }
        block_on(self.core.resize(size, self.backing))?;
        self.size.store(size, Ordering::Relaxed);
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        let flushed = if self.policy.read_only {
            Ok(())
        } else {
            block_on(self.core.flush())
        };
        for file in &self.files {
            // Synced by the line above; this only lets go of the locks.
            file.shared().host.close(false)?;
        }
        Ok(flushed?)
    }
}

struct Qcow2Handle {
    reactor: Handle,
    core: Arc<Core>,
    gate: Gate,
    /// Errors that tasks have left for `resume`: a completion carries a number only.
    failures: Rc<RefCell<HashMap<Token, Error>>>,
    _lanes: Vec<Attached>,
}

impl DataHandle for Qcow2Handle {
    fn start(&self, op: &mut Op, token: Token) -> Progress {
        if let Some(over) = self.gate.admit(op) {
            return over;
        }
        let (reactor, core, op) = (self.reactor.clone(), Arc::clone(&self.core), *op);
        let failures = Rc::clone(&self.failures);
        self.reactor.spawn(async move {
            let result = match core.serve(op).await {
                Ok(()) => 0,
                Err(error) => {
                    failures.borrow_mut().insert(token, error.into());
                    -libc::EIO
                }
            };
            reactor.deliver(token, result);
        });
        Progress::Pending
    }

    fn resume(&self, _op: &mut Op, token: Token, result: i32) -> Progress {
        self.gate.done(if result == 0 {
            Ok(())
        } else {
            let known = self.failures.borrow_mut().remove(&token);
            Err(known.unwrap_or_else(|| Error::from_errno(-result)))
        })
    }

    fn allocation(&self, offset: u64, len: u64) -> AllocationQuery {
        let core = Arc::clone(&self.core);
        Box::pin(async move { Ok(core.allocation(offset, len).await?) })
    }
}

impl Core {
    async fn serve(&self, op: Op) -> std::io::Result<()> {
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

    async fn read(&self, op: Op) -> std::io::Result<()> {
        let len = op.data.len();
        let mut buf = AlignedBuf::new(len.min(PIECE), 4096);
        let mut done = 0;
        while done < len {
            let Some(part) = buf.get_mut(..(len - done).min(PIECE)) else {
                break;
            };
            let access = self.access.read().await;
            access.read(&mut *part, op.offset + done as u64).await?;
            done += op.data.write_at(done, part);
        }
        Ok(())
    }

    async fn write(&self, op: Op) -> std::io::Result<()> {
        let len = op.data.len();
        let mut buf = AlignedBuf::new(len.min(PIECE), 4096);
        let mut done = 0;
        while done < len {
            let Some(part) = buf.get_mut(..(len - done).min(PIECE)) else {
                break;
            };
            op.data.read_at(done, part);
            let access = self.access.read().await;
            access.write(&*part, op.offset + done as u64).await?;
            done += part.len();
        }
        Ok(())
    }

    async fn zero(&self, mut offset: u64, len: u64, unmap: bool) -> std::io::Result<()> {
        let end = offset.checked_add(len).ok_or(rustix::io::Errno::INVAL)?;
        while offset < end {
            let next = (offset / ZERO_PIECE + 1)
                .saturating_mul(ZERO_PIECE)
                .min(end);
            match self.zero_piece(offset, next - offset, unmap).await {
                // A version 2 image has no zero clusters.
                Err(e) if e.kind() == std::io::ErrorKind::Unsupported => {
                    self.write_zeroes(offset, next - offset).await?;
                }
                other => other?,
            }
            offset = next;
        }
        Ok(())
    }

    async fn zero_piece(&self, offset: u64, len: u64, unmap: bool) -> std::io::Result<()> {
        if unmap {
            return self.access.write().await.discard_to_zero(offset, len).await;
        }
        if (offset | len).is_multiple_of(self.cluster_size) {
            return self.access.read().await.write_zeroes(offset, len).await;
        }
        self.access.write().await.write_zeroes(offset, len).await
    }

    async fn write_zeroes(&self, mut offset: u64, len: u64) -> std::io::Result<()> {
        let end = offset.saturating_add(len);
        let zeroes = AlignedBuf::new(PIECE, 4096);
        while offset < end {
            let len = usize::try_from(end - offset).unwrap_or(PIECE).min(PIECE);
            let part = zeroes.get(..len).unwrap_or_default();
            self.access.read().await.write(part, offset).await?;
            offset += len as u64;
        }
        Ok(())
    }

    /// What is behind the old end of the image beneath would show through a new end, so zeroes are put in its place.
    async fn resize(&self, size: u64, backing: u64) -> std::io::Result<()> {
        let mut access = self.access.write().await;
        if access.size() < backing {
            let zeroed = size.min(backing);
            access.resize_grow(zeroed, PreallocateMode::Zero).await?;
        }
        access.resize(size, PreallocateMode::None).await?;
        access.flush().await?;
        access.sync().await
    }

    /// Clusters of the backing chain count as well: they are what a read finds.
    async fn allocation(&self, offset: u64, len: u64) -> std::io::Result<Allocation> {
        let access = self.access.read().await;
        Ok(match access.get_mapping(offset, len).await? {
            (Mapping::Eof { .. }, _) => Allocation::hole(len),
            (Mapping::Zero { .. }, len) => Allocation::hole(len),
            (_, len) => Allocation::data(len),
        })
    }

    async fn flush_if(&self, fua: bool) -> std::io::Result<()> {
        if fua { self.flush().await } else { Ok(()) }
    }

    async fn flush(&self) -> std::io::Result<()> {
        let access = self.access.read().await;
        access.flush().await?;
        access.sync().await
    }
}
