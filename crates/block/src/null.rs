//! `null-co`: an image that keeps nothing, for measuring everything else.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lunar_reactor::{Handle, Token};
use lunar_sgl::prefetch::Lines;

use crate::filter::{Gate, Ledger, Policy};
use crate::{
    DataHandle, Error, Image, Info, NodeOptions, Op, OpKind, Progress, Space, Stats, WriteThreshold,
};

/// The image.
#[derive(Debug)]
pub(crate) struct Null {
    size: AtomicU64,
    read_zeroes: bool,
    latency: Duration,
    policy: Policy,
    ledger: Ledger,
}

/// Opens the node. Without `read_zeroes` a read leaves the buffer as it was; `latency` delays every operation.
pub(crate) fn open(
    size: u64,
    read_zeroes: bool,
    latency: Duration,
    options: &NodeOptions,
) -> Arc<dyn Image> {
    Arc::new(Null {
        size: AtomicU64::new(size),
        read_zeroes,
        latency,
        policy: Policy::new(options, true),
        ledger: Ledger::default(),
    })
}

impl Image for Null {
    fn info(&self) -> Info {
        Info {
            size: self.size.load(Ordering::Relaxed),
            read_only: self.policy.read_only,
            request_align: 1,
            discard_granularity: 4096,
            can_discard: self.policy.unmap,
            discard_zeroes: self.policy.unmap && self.read_zeroes,
            flushes: !self.policy.no_flush,
            volatile: true,
            name: "null-co".into(),
        }
    }

    fn open(&self, reactor: &Handle) -> Result<Rc<dyn DataHandle>, Error> {
        Ok(Rc::new(NullHandle {
            reactor: reactor.clone(),
            read_zeroes: self.read_zeroes,
            latency: self.latency,
            gate: self.ledger.gate(self.policy),
        }))
    }

    fn stats(&self) -> Stats {
        self.ledger.total()
    }

    fn write_threshold(&self) -> Option<&Arc<WriteThreshold>> {
        Some(self.ledger.threshold())
    }

    fn space(&self) -> Option<Space> {
        None
    }

    fn resize(&self, size: u64) -> Result<(), Error> {
        self.size.store(size, Ordering::Relaxed);
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

struct NullHandle {
    reactor: Handle,
    read_zeroes: bool,
    latency: Duration,
    gate: Gate,
}

impl DataHandle for NullHandle {
    fn start(&self, op: &mut Op, token: Token) -> Progress {
        if let Some(over) = self.gate.admit(op) {
            return over;
        }
        if op.kind == OpKind::Read && self.read_zeroes {
            op.data.fill_at(0, op.data.len(), 0);
        }
        if self.latency.is_zero() {
            return self.gate.done(Ok(()));
        }
        let (reactor, latency) = (self.reactor.clone(), self.latency);
        self.reactor.spawn(async move {
            reactor.sleep(latency).await;
            reactor.deliver(token, 0);
        });
        Progress::Pending
    }

    fn resume(&self, _op: &mut Op, _token: Token, _result: i32) -> Progress {
        self.gate.done(Ok(()))
    }

    fn lines(&self, lines: &mut Lines) {
        lines.add(self);
        self.gate.lines(lines);
    }
}
