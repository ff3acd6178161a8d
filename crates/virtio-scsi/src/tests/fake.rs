//! A logical unit whose operations end when the test says so.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lunar_block::{Asked, DataHandle, Error, Image, Info, Op, OpKind, Progress, Space, Stats};
use lunar_reactor::{Handle, Token};
use lunar_scsi::{Cdb, DeviceType, Profile, Row};
use lunar_target::{Command, Completion, Extent, LogicalUnit, LuState, NexusId, Outcome};

use super::harness::DEADLINE;

pub const BLOCK: usize = 512;
const BLOCKS: usize = 128;

/// Blocks in memory. READ and WRITE are block operations (tasks, if the
/// buffer is longer than the CDB says), SYNCHRONIZE CACHE is a task, INQUIRY
/// replies with the unit's name. FORMAT UNIT is a task that stands aside. WRITE SAME(10) increments every word of a
/// block, alone and in several steps; at odd addresses it wants the whole unit.
pub struct Fake {
    state: Arc<LuState>,
    name: u8,
    pub gate: Gate,
    pub resets: AtomicUsize,
    pub losses: Mutex<Vec<NexusId>>,
}

/// The image of a [`Fake`]: while it is closed, operations that are started stay in flight.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
pub struct Inner {
    open: AtomicBool,
    waiting: AtomicUsize,
    handles: AtomicUsize,
    pub data: Mutex<Vec<u8>>,
    pub fails_to_open: AtomicBool,
}

impl Fake {
    pub fn new(name: u8) -> Arc<Fake> {
        Arc::new(Fake {
            state: Arc::default(),
            name,
            gate: Gate(Arc::new(Inner {
                open: AtomicBool::new(true),
                waiting: AtomicUsize::new(0),
                handles: AtomicUsize::new(0),
                data: Mutex::new(vec![name; BLOCK * BLOCKS]),
                fails_to_open: AtomicBool::new(false),
            })),
            resets: AtomicUsize::new(0),
            losses: Mutex::default(),
        })
    }
}

impl std::ops::Deref for Gate {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Inner {
    pub fn shut(&self) {
        self.open.store(false, Ordering::SeqCst);
    }
    pub fn release(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
    fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }
    /// Data handles there are.
    pub fn handles(&self) -> usize {
        self.handles.load(Ordering::SeqCst)
    }
    /// Returns when so many operations are in flight.
    #[track_caller]
    pub fn await_waiting(&self, count: usize) {
        let start = Instant::now();
        while self.waiting.load(Ordering::SeqCst) != count {
            assert!(
                start.elapsed() < DEADLINE,
                "{count} operations never were in flight"
            );
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// The first word of a block.
    pub fn word(&self, at: usize) -> u64 {
        let data = self.data.lock().unwrap();
        u64::from_le_bytes(data[at..at + 8].try_into().unwrap())
    }

    fn fill(&self, range: std::ops::Range<usize>, word: u64) {
        for bytes in self.data.lock().unwrap()[range].chunks_mut(8) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }

    async fn pass(&self, reactor: &Handle) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while !self.is_open() {
            reactor.sleep(Duration::from_millis(1)).await;
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What the incrementing command wants to be alone with.
fn section(lba: u64) -> Extent {
    let offset = lba * BLOCK as u64;
    lba.is_multiple_of(2).then(|| offset..offset + BLOCK as u64)
}

impl LogicalUnit for Fake {
    fn state(&self) -> &Arc<LuState> {
        &self.state
    }

    fn profile(&self) -> Profile {
        Profile::new(DeviceType::Disk)
    }

    fn execute(&self, _row: &'static Row, command: &mut Command<'_>) -> Outcome {
        let fields = command.fields();
        let len = fields.transfer_length() as usize * BLOCK;
        let offset = fields.lba() * BLOCK as u64;
        match fields.opcode() {
            0x00 => Outcome::good(0),
            0x12 => {
                command.reply.resize(36, self.name);
                command.replied()
            }
            0x28 if len > command.data_in.len() => Outcome::Overrun,
            0x2A if len > command.data_out.len() => Outcome::Overrun,
            0x28 if len == command.data_in.len() => Outcome::Io(Op::read(offset, command.data_in)),
            0x28 => {
                let (image, io, reactor) =
                    (self.gate.clone(), command.data_in, command.reactor.clone());
                Outcome::task(async move {
                    image.pass(&reactor).await;
                    let data = image.data.lock().unwrap();
                    Completion::good(io.write_at(0, &data[offset as usize..][..len]))
                })
            }
            0x2A if len == command.data_out.len() => {
                Outcome::Io(Op::write(offset, command.data_out, false))
            }
            0x2A => {
                let (image, out, reactor) =
                    (self.gate.clone(), command.data_out, command.reactor.clone());
                Outcome::task(async move {
                    image.pass(&reactor).await;
                    let mut data = image.data.lock().unwrap();
                    Completion::good(out.read_at(0, &mut data[offset as usize..][..len]))
                })
            }
            0x04 => {
                let (image, reactor) = (self.gate.clone(), command.reactor.clone());
                command.ended.stand_aside();
                Outcome::task(async move {
                    image.pass(&reactor).await;
                    Completion::good(0)
                })
            }
            0x35 => {
                let (image, reactor) = (self.gate.clone(), command.reactor.clone());
                Outcome::task(async move {
                    image.pass(&reactor).await;
                    Completion::good(0)
                })
            }
            0x41 => {
                let (image, reactor) = (self.gate.clone(), command.reactor.clone());
                let at = offset as usize;
                Outcome::exclusive(section(fields.lba()), async move {
                    image.pass(&reactor).await;
                    let word = image.word(at);
                    reactor.yield_now().await;
                    for half in [at, at + BLOCK / 2] {
                        image.fill(half..half + BLOCK / 2, word + 1);
                        reactor.yield_now().await;
                    }
                    Completion::good(0)
                })
            }
            other => unreachable!("the tests send no command {other:#x}"),
        }
    }

    fn extent(&self, _row: &'static Row, cdb: Cdb<'_>) -> Extent {
        let offset = cdb.lba() * BLOCK as u64;
        match cdb.opcode() {
            0x28 | 0x2A => Some(offset..offset + u64::from(cdb.transfer_length()) * BLOCK as u64),
            0x00 => Some(0..0),
            _ => None,
        }
    }

    fn finish(&self, asked: &Asked, result: Result<(), Error>) -> Completion {
        result.unwrap();
        Completion::good(asked.len as usize)
    }

    fn reset(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
        self.state.reset();
    }

    fn nexus_loss(&self, nexus: NexusId) {
        self.losses.lock().unwrap().push(nexus);
        self.state.nexus_loss(nexus);
    }

    fn image(&self) -> Option<Arc<dyn Image>> {
        Some(Arc::new(self.gate.clone()))
    }
}

impl Image for Gate {
    fn info(&self) -> Info {
        Info {
            size: (BLOCK * BLOCKS) as u64,
            read_only: false,
            request_align: 1,
            discard_granularity: 4096,
            can_discard: true,
            discard_zeroes: true,
            flushes: true,
            volatile: true,
            name: "gate".into(),
        }
    }
    fn open(&self, reactor: &Handle) -> Result<Rc<dyn DataHandle>, Error> {
        if self.fails_to_open.load(Ordering::SeqCst) {
            return Err(Error::from_errno(libc::EMFILE));
        }
        self.handles.fetch_add(1, Ordering::SeqCst);
        Ok(Rc::new(GateHandle {
            image: self.clone(),
            reactor: reactor.clone(),
        }))
    }
    fn stats(&self) -> Stats {
        Stats::default()
    }
    fn space(&self) -> Option<Space> {
        None
    }
    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

struct GateHandle {
    image: Gate,
    reactor: Handle,
}

impl Drop for GateHandle {
    fn drop(&mut self) {
        self.image.handles.fetch_sub(1, Ordering::SeqCst);
    }
}

impl DataHandle for GateHandle {
    fn start(&self, op: &mut Op, token: Token) -> Progress {
        if self.image.is_open() {
            return self.resume(op, token, 0);
        }
        let (image, reactor) = (self.image.clone(), self.reactor.clone());
        self.reactor.spawn(async move {
            image.pass(&reactor).await;
            reactor.deliver(token, 0);
        });
        Progress::Pending
    }

    fn resume(&self, op: &mut Op, _token: Token, _result: i32) -> Progress {
        let mut data = self.image.data.lock().unwrap();
        let range = op.offset as usize..(op.offset + op.len) as usize;
        let moved = match op.kind {
            OpKind::Read => op.data.write_at(0, &data[range]),
            OpKind::Write { .. } => op.data.read_at(0, &mut data[range]),
            OpKind::Flush => 0,
            OpKind::Discard | OpKind::WriteZeroes { .. } => {
                data[range].fill(0);
                op.len as usize
            }
        };
        assert_eq!(moved as u64, op.len);
        Progress::Done(Ok(()))
    }
}
