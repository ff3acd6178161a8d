//! `raw`: another image, or a part of it, as it is.
//!
//! A raw node that adds nothing costs nothing: its data handles are those of the image beneath.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lunar_reactor::{Handle, Token};
use lunar_sgl::prefetch::Lines;

use crate::filter::{Gate, Ledger, Policy};
use crate::{
    AllocationQuery, Cancel, DataHandle, DetectZeroes, Error, Image, Info, NodeOptions, Op, OpKind,
    Progress, Space, Stats, WriteThreshold,
};

/// The image.
#[derive(Debug)]
pub(crate) struct Raw {
    file: Arc<dyn Image>,
    offset: u64,
    /// `size=` says how long it is, and it stays so.
    fixed: bool,
    size: Arc<AtomicU64>,
    policy: Policy,
    /// Counts for the part, or for the options; unused when the data handles are the file's.
    ledger: Option<Ledger>,
}

/// Opens a part of `file`, or all of it.
pub(crate) fn open(
    file: Arc<dyn Image>,
    offset: u64,
    size: Option<u64>,
    options: &NodeOptions,
) -> Result<Arc<dyn Image>, Error> {
    let below = file.info();
    let refuse = |what: String| Error::Open(format!("{}: {what}", below.name));
    if below.read_only && !options.read_only {
        return Err(refuse(
            "the file node is read-only; open the raw node with read-only=on too".into(),
        ));
    }
    let rest = below.size.checked_sub(offset).ok_or_else(|| {
        refuse(format!(
            "offset={offset} is past its end ({} bytes); choose a smaller one",
            below.size
        ))
    })?;
    let fixed = size.is_some();
    let size = size.unwrap_or(rest);
    if size > rest {
        return Err(refuse(format!(
            "size={size} at offset={offset} is more than it holds ({} bytes); choose a smaller one",
            below.size
        )));
    }
    if !offset.is_multiple_of(512) || !size.is_multiple_of(512) {
        return Err(refuse(
            "offset= and size= of a raw node must be multiples of 512".into(),
        ));
    }
    let policy = Policy::new(options, below.can_discard);
    let adds_nothing = offset == 0
        && size == below.size
        && policy.read_only == below.read_only
        && (!policy.no_flush || !below.flushes)
        && policy.unmap == below.can_discard
        && policy.detect_zeroes == DetectZeroes::Off;
    Ok(Arc::new(Raw {
        file,
        offset,
        fixed,
        size: Arc::new(AtomicU64::new(size)),
        policy,
        ledger: (!adds_nothing).then(Ledger::default),
    }))
}

impl Image for Raw {
    fn info(&self) -> Info {
        Info {
            size: self.size.load(Ordering::Relaxed),
            ..self.policy.over(self.file.info())
        }
    }

    fn open(&self, reactor: &Handle) -> Result<Rc<dyn DataHandle>, Error> {
        let inner = self.file.open(reactor)?;
        Ok(match &self.ledger {
            None => inner,
            Some(ledger) => Rc::new(RawHandle {
                inner,
                offset: self.offset,
                size: Arc::clone(&self.size),
                gate: ledger.gate(self.policy),
            }),
        })
    }

    fn stats(&self) -> Stats {
        let below = self.file.stats();
        match &self.ledger {
            None => below,
            Some(ledger) => ledger.total().above(below),
        }
    }

    fn write_threshold(&self) -> Option<&Arc<WriteThreshold>> {
        match &self.ledger {
            None => self.file.write_threshold(),
            Some(ledger) => Some(ledger.threshold()),
        }
    }

    fn space(&self) -> Option<Space> {
        // Of a part nobody knows.
        let whole = self.offset == 0 && self.info().size == self.file.info().size;
        whole.then(|| self.file.space()).flatten()
    }

    fn end_waits(&self) {
        self.file.end_waits();
    }

    fn resize(&self, size: u64) -> Result<(), Error> {
        let refuse = |what: &str| Error::Resize(format!("{}: {what}", self.file.info().name));
        if self.policy.read_only {
            return Err(refuse("it is open read-only"));
        }
        if self.fixed {
            return Err(refuse(
                "it is a part whose size= is given, which stays as it is",
            ));
        }
        let end = self.offset.checked_add(size);
        self.file
            .resize(end.ok_or_else(|| refuse("no file can be so long"))?)?;
        self.size.store(size, Ordering::Relaxed);
        Ok(())
    }

    fn refresh(&self) -> Result<(), Error> {
        self.file.refresh()?;
        if !self.fixed {
            // Smaller than before only if somebody has ordered that.
            let rest = self.file.info().size.saturating_sub(self.offset);
            self.size.store(rest, Ordering::Relaxed);
        }
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        self.file.close()
    }
}

struct RawHandle {
    inner: Rc<dyn DataHandle>,
    offset: u64,
    size: Arc<AtomicU64>,
    gate: Gate,
}

impl RawHandle {
    fn pass(&self, progress: Progress) -> Progress {
        match progress {
            Progress::Done(result) => self.gate.done(result),
            Progress::Pending => Progress::Pending,
        }
    }
}

impl DataHandle for RawHandle {
    fn start(&self, op: &mut Op, token: Token) -> Progress {
        if let Some(over) = self.gate.admit(op) {
            return over;
        }
        if op.kind != OpKind::Flush {
            // What lies outside the part belongs to somebody else, so here the range is checked.
            match op.offset.checked_add(op.len) {
                Some(end) if end <= self.size.load(Ordering::Relaxed) => op.offset += self.offset,
                _ => return self.gate.done(Err(Error::OutOfRange)),
            }
        }
        self.pass(self.inner.start(op, token))
    }

    fn resume(&self, op: &mut Op, token: Token, result: i32) -> Progress {
        self.pass(self.inner.resume(op, token, result))
    }

    fn cancel(&self, token: Token, why: Cancel) {
        self.inner.cancel(token, why);
    }

    fn lines(&self, lines: &mut Lines) {
        lines.add(self);
        self.gate.lines(lines);
        self.inner.lines(lines);
    }

    fn allocation(&self, offset: u64, len: u64) -> AllocationQuery {
        match offset.checked_add(len) {
            Some(end) if end <= self.size.load(Ordering::Relaxed) => {
                self.inner.allocation(self.offset + offset, len)
            }
            _ => Box::pin(std::future::ready(Err(Error::OutOfRange))),
        }
    }
}
