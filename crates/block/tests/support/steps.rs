//! Single operations on an image whose errors the test decides: each one's end is a message, and each can be cancelled.

use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lunar_block::{
    Backend, Cancel, Canceller, DataHandle, Driver, Error, ErrorRules, FaultInjection, FaultOn,
    FaultRule, Faults, Image, NodeOptions, OnError, Op, PolicyEvent, open_node, run,
};
use lunar_reactor::Handle;

use super::{Memory, Reactor};

pub const SIZE: u64 = (2 << 20) + 3 * 512;
pub const ERRNO_EIO: i32 = libc::EIO;

pub fn memory() -> Arc<dyn Image> {
    let options = NodeOptions {
        discard_unmap: true,
        ..NodeOptions::default()
    };
    open_node(Driver::Memory { size: SIZE }, &options).unwrap()
}

pub fn reactors() -> [Reactor; 2] {
    [Reactor::new(), Reactor::new()]
}

pub fn faulty(image: Arc<dyn Image>, rules: Vec<FaultRule>) -> Arc<FaultInjection> {
    let options = NodeOptions {
        discard_unmap: true,
        ..NodeOptions::default()
    };
    FaultInjection::new(image, Faults { rules, seed: 7 }, &options).unwrap()
}

/// Everything on one side fails.
pub fn failing(on: FaultOn, errno: i32) -> FaultRule {
    FaultRule {
        on,
        errno: Some(errno),
        ..FaultRule::default()
    }
}

pub fn rules(read: OnError, write: OnError) -> ErrorRules {
    ErrorRules { read, write }
}

pub const STOP: ErrorRules = ErrorRules {
    read: OnError::Stop,
    write: OnError::Stop,
};

/// A backend on top of faults, and what it says.
pub struct Bench {
    pub reactor: Reactor,
    pub faults: Arc<FaultInjection>,
    pub backend: Arc<Backend>,
    pub events: Receiver<PolicyEvent>,
}

impl Bench {
    pub fn new(rules: ErrorRules, faults: Vec<FaultRule>) -> Bench {
        Bench::over(memory(), rules, faults)
    }

    pub fn over(image: Arc<dyn Image>, rules: ErrorRules, faults: Vec<FaultRule>) -> Bench {
        let faults = faulty(image, faults);
        let (send, events) = channel();
        let send = Mutex::new(send);
        let backend = Backend::new(faults.clone(), rules, move |event| {
            // A test may have ended.
            let _ = send.lock().unwrap().send(event);
        });
        Bench {
            reactor: Reactor::new(),
            faults,
            backend,
            events,
        }
    }

    pub fn mend(&self) {
        self.faults.set(Faults::default()).unwrap();
    }

    pub fn image(&self) -> Arc<dyn Image> {
        self.backend.clone()
    }

    /// Starts operations on one handle, in this order; gives each one's number and result as they end, and something to
    /// cancel each with.
    pub fn start(&self, ops: Vec<What>) -> Started {
        start(&self.reactor, self.image(), ops)
    }

    /// One operation, to its end.
    pub fn end_of(&self, what: What) -> Result<(), Error> {
        self.start(vec![what]).next().1
    }
}

/// An operation on the sector of a number.
#[derive(Clone, Copy, Debug)]
pub enum What {
    Read(u64),
    Write(u64),
    Flush,
    Discard(u64),
    WriteZeroes(u64),
}

pub type Ended = (usize, Result<(), Error>);

pub struct Started {
    pub ended: Receiver<Ended>,
    pub cancel: std::sync::mpsc::Sender<(usize, Cancel)>,
}

pub const SOON: Duration = Duration::from_millis(60);

impl Started {
    pub fn next(&self) -> Ended {
        self.ended.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    pub fn nothing_ends(&self) {
        assert_eq!(
            self.ended.recv_timeout(SOON),
            Err(RecvTimeoutError::Timeout)
        );
    }

    pub fn cancel(&self, number: usize, why: Cancel) {
        self.cancel.send((number, why)).unwrap();
    }
}

/// The byte that a write fills a sector with.
pub fn byte(sector: u64) -> u8 {
    sector as u8 | 1
}

pub async fn carry_out(reactor: Handle, io: Rc<dyn DataHandle>, what: What) -> Result<(), Error> {
    match what {
        What::Read(sector) => {
            let memory = Memory::new(&[512], 0);
            run(&reactor, &io, Op::read(sector * 512, memory.sgl())).await
        }
        What::Write(sector) => {
            let memory = Memory::with(&[512], 0, &[byte(sector); 512]);
            run(&reactor, &io, Op::write(sector * 512, memory.sgl(), false)).await
        }
        What::Flush => run(&reactor, &io, Op::flush()).await,
        What::Discard(sector) => run(&reactor, &io, Op::discard(sector * 512, 512)).await,
        What::WriteZeroes(sector) => {
            let op = Op::write_zeroes(sector * 512, 512, false, false);
            run(&reactor, &io, op).await
        }
    }
}

pub fn start(reactor: &Reactor, image: Arc<dyn Image>, ops: Vec<What>) -> Started {
    let (send, ended) = channel();
    let (cancel, cancels) = channel::<(usize, Cancel)>();
    reactor.start(move |reactor| async move {
        let io = image.open(&reactor).unwrap();
        let left = Rc::new(std::cell::Cell::new(ops.len()));
        let cancellers: Vec<Canceller> = ops.iter().map(|_| Canceller::default()).collect();
        for (number, what) in ops.into_iter().enumerate() {
            let (handle, send, left) = (reactor.clone(), send.clone(), left.clone());
            let io = cancellers[number].guard(&io);
            reactor.spawn(async move {
                let _ = send.send((number, carry_out(handle, io, what).await));
                left.set(left.get() - 1);
            });
        }
        drop((io, send));
        while left.get() > 0 {
            for (number, why) in cancels.try_iter() {
                cancellers[number].cancel(why);
            }
            reactor.sleep(Duration::from_millis(1)).await;
        }
    });
    Started { ended, cancel }
}

pub fn io(errno: i32) -> Error {
    Error::from_errno(errno)
}
