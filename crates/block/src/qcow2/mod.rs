//! `qcow2`: the format through the `imago` crate, on our own files, and past it where the place is known.
//!
//! There are two ways to an image. The *detour* is a task that asks `imago`, works on a buffer of ours and can do
//! everything: find, allocate, copy on write, decompress, zero, discard ([`detour`]). The *straight way* is what a raw file
//! has: one operation on the file itself with the guest's memory, for reads and writes of clusters whose place is known
//! ([`map`]). The first operation on a cluster makes the detour, and learns the place of what follows too.
//!
//! # Why a place that is known is right
//! A place is entered only if the cluster is plain data in the image's own file, and the table says that nothing else
//! refers to it. Then there are few ways for it to become wrong, and all of them are ours, since nobody else opens the
//! image:
//!
//! - *Zeroing, discarding and resizing* take it away. They are done by somebody who is alone ([`detour::Core::alone`]): who
//!   has the lock of the format exclusively, so nobody else is on the detour, and has closed the straight way, so no
//!   operation is under way to a place that will be somebody else's ([`way`]). The places are forgotten before anything is
//!   done.
//! - *Everything else* shares the lock and takes no place away: a write goes to where such a cluster is, and what it
//!   allocates or copies is a cluster that was not entered. Since places are learnt under the same lock, nobody enters one
//!   that is being taken away.
//! - *On a medium with long blocks*, `imago` changes a part of a block by reading and writing all of it, and excludes only
//!   its own writes meanwhile. There, whoever writes on the detour is alone too. The straight way has its own means for
//!   parts of blocks, those of any file.
//!
//! # Durability
//! Where a new cluster is stands in `imago`'s memory until a flush. A flush, and a write with FUA, may go straight only if
//! nothing of that kind is left to be written, which two counters tell: changes made, and changes flushed.
//!
//! # Threading
//! Several reactors share one image. The detour's locks are `imago`'s and the one of the format; the straight way costs two
//! atomic operations on memory of the data handle's own.

mod detour;
mod extension;
mod header;
mod map;
mod storage;
mod way;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use imago::format::builder::FormatDriverBuilder;
use imago::{DenyImplicitOpenGate, FormatAccess};
use lunar_reactor::{Handle, Token, block_on};
use lunar_sgl::prefetch::Lines;

use self::detour::Core;
use self::header::{Backing, Header};
use self::storage::{Attached, QcowFile};
use self::way::Way;
use crate::file::{FileHandle, Shared};
use crate::filter::{Gate, Ledger, Policy};
use crate::host::{Expect, HostFile};
use crate::op::Step;
use crate::{
    AllocationQuery, DataHandle, DetectZeroes, Error, Image, Info, NodeOptions, Op, OpKind,
    Progress, Space, Stats, WriteThreshold,
};

type Access = FormatAccess<QcowFile>;

/// Images in a chain; more are a loop.
const MAX_CHAIN: usize = 64;

/// The image.
#[derive(Debug)]
pub(crate) struct Qcow2 {
    core: Arc<Core>,
    policy: Policy,
    ledger: Ledger,
    /// Counts what goes straight to the file.
    straight: Ledger,
    /// This image's file and those of its backing chain.
    files: Vec<QcowFile>,
    name: String,
    size: AtomicU64,
    /// Bytes of the image beneath, 0 if there is none.
    backing: u64,
}

/// Opens an image and its backing chain.
pub(crate) fn open(path: &Path, options: &NodeOptions) -> Result<Arc<dyn Image>, Error> {
    let mut files = Vec::new();
    let (access, header, backing) = open_layer(path, options, &mut files)?;
    let long_blocks = files.iter().any(|f| f.shared().claims.is_some());
    // Version 2 has no zero clusters, and so nothing to put in place of a discarded one.
    let policy = Policy::new(options, header.version >= 3);
    Ok(Arc::new(Qcow2 {
        core: Arc::new(Core::new(access, header.cluster_size, long_blocks)),
        policy,
        ledger: Ledger::default(),
        straight: Ledger::default(),
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
        let lanes = lanes?;
        let own = lanes.first().ok_or(Error::Unsupported)?;
        // What passes this handle's gate goes straight as it is.
        let as_it_is = Policy::new(&NodeOptions::default(), true);
        let file = FileHandle::new(Rc::clone(&own.lane), self.straight.gate(as_it_is));
        Ok(Rc::new(Qcow2Handle {
            reactor: reactor.clone(),
            core: Arc::clone(&self.core),
            gate: self.ledger.gate(self.policy),
            file,
            way: self.core.ways.add(),
            failures: Rc::default(),
            _lanes: lanes,
        }))
    }

    fn stats(&self) -> Stats {
        let straight = self.straight.total();
        self.ledger.total().above(Stats {
            straight: straight.reads + straight.writes + straight.flushes,
            map_memory: self.core.map.memory(),
            ..straight
        })
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
    /// Straight to the image's own file.
    file: FileHandle,
    way: Way,
    /// Errors that tasks have left for `resume`: a completion carries a number only.
    failures: Rc<RefCell<HashMap<Token, Error>>>,
    _lanes: Vec<Attached>,
}

impl Qcow2Handle {
    /// Puts `op` on the straight way, if it can go there: returns where in the file.
    #[inline]
    fn enter(&self, op: &Op) -> Option<u64> {
        match op.kind {
            OpKind::Read | OpKind::Write { .. } | OpKind::Flush => {}
            OpKind::Discard | OpKind::WriteZeroes { .. } => return None,
        }
        if !self.way.enter() {
            return None;
        }
        // The place first: a change that has made it known has been counted before.
        let place = match op.kind {
            OpKind::Flush => Some(op.offset),
            _ => self.core.map.find(op.offset, op.len),
        };
        let durable = matches!(op.kind, OpKind::Flush | OpKind::Write { fua: true });
        let place = place.filter(|_| !durable || self.core.is_flushed());
        if place.is_none() {
            self.way.leave();
        }
        place
    }

    /// What the file says of an operation on the straight way.
    #[inline]
    fn pass(&self, progress: Progress) -> Progress {
        match progress {
            Progress::Done(result) => {
                self.way.leave();
                self.gate.done(result)
            }
            Progress::Pending => Progress::Pending,
        }
    }

    fn go_round(&self, op: &mut Op, token: Token) -> Progress {
        op.step = Step::Detour;
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
}

impl DataHandle for Qcow2Handle {
    fn start(&self, op: &mut Op, token: Token) -> Progress {
        if let Some(over) = self.gate.admit(op) {
            return over;
        }
        match self.enter(op) {
            Some(place) => {
                op.offset = place;
                self.pass(self.file.start(op, token))
            }
            None => self.go_round(op, token),
        }
    }

    fn resume(&self, op: &mut Op, token: Token, result: i32) -> Progress {
        if op.step != Step::Detour {
            return self.pass(self.file.resume(op, token, result));
        }
        self.gate.done(if result == 0 {
            Ok(())
        } else {
            let known = self.failures.borrow_mut().remove(&token);
            Err(known.unwrap_or_else(|| Error::from_errno(-result)))
        })
    }

    fn lines(&self, lines: &mut Lines) {
        lines.add(self);
        self.gate.lines(lines);
        self.file.lines(lines);
    }

    fn allocation(&self, offset: u64, len: u64) -> AllocationQuery {
        let core = Arc::clone(&self.core);
        Box::pin(async move { Ok(core.allocation(offset, len).await?) })
    }
}
