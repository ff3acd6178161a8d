//! A disk over an image that records what is done to it, driven command by command on a real reactor.
#![allow(
    unsafe_code,
    dead_code,
    clippy::cast_possible_truncation,
    reason = "describes the tests' own memory as scatter-gather lists; each test file uses a part; sizes are small"
)]

use std::rc::Rc;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lunar_block::{
    Allocation, AllocationQuery, DataHandle, Error, Image, Info, Op, OpKind, Progress, Space, Stats,
};
use lunar_devices::{Disk, DiskConfig};
use lunar_reactor::{App, Config, Handle, Token, spawn};
use lunar_scsi::reservation::TransportId;
use lunar_scsi::table::Direction;
use lunar_scsi::{AdditionalSense, Sense, SenseKey, Status};
use lunar_sgl::Sgl;
use lunar_target::spc::Primary;
use lunar_target::{
    Aborter, Command, Completion, Ended, LogicalUnit, NexusId, Outcome, Path, Reached, Seen,
    Surroundings, Then, Visitor, begin,
};

pub const A: NexusId = NexusId(1);
pub const B: NexusId = NexusId(2);

/// One operation that reached the image: kind, first byte, bytes.
pub type Done = (OpKind, u64, u64);

/// An image in memory that remembers its operations and can be told to fail or to be slow.
#[derive(Debug)]
pub struct Recorder {
    pub info: Mutex<Info>,
    pub bytes: Mutex<Vec<u8>>,
    pub log: Mutex<Vec<Done>>,
    /// Every operation from now on fails like this.
    pub failure: Mutex<Option<Error>>,
    /// Operations complete later instead of at once.
    pub slow: bool,
    /// This byte reads as zero whatever is written there.
    pub forgets_byte: Option<usize>,
    /// How full its host is.
    pub space: Mutex<Option<Space>>,
}

impl Recorder {
    pub fn new(size: usize) -> Recorder {
        Recorder {
            info: Mutex::new(Info {
                size: size as u64,
                read_only: false,
                request_align: 1,
                discard_granularity: 4096,
                can_discard: true,
                discard_zeroes: true,
                flushes: true,
                volatile: true,
                name: "recorder".into(),
            }),
            bytes: Mutex::new(vec![0; size]),
            log: Mutex::default(),
            failure: Mutex::default(),
            slow: false,
            forgets_byte: None,
            space: Mutex::default(),
        }
    }

    fn perform(&self, op: &Op) -> Result<(), Error> {
        self.log.lock().unwrap().push((op.kind, op.offset, op.len));
        if let Some(error) = self.failure.lock().unwrap().clone() {
            return Err(error);
        }
        let range = op.offset as usize..(op.offset + op.len) as usize;
        let mut all = self.bytes.lock().unwrap();
        let bytes = all.get_mut(range).ok_or(Error::OutOfRange)?;
        match op.kind {
            OpKind::Read => {
                assert_eq!(
                    op.data.len() as u64,
                    op.len,
                    "the buffer is as long as the operation"
                );
                op.data.write_at(0, bytes);
            }
            OpKind::Write { .. } => {
                assert_eq!(
                    op.data.len() as u64,
                    op.len,
                    "the buffer is as long as the operation"
                );
                op.data.read_at(0, bytes);
            }
            OpKind::Flush => {}
            OpKind::Discard | OpKind::WriteZeroes { .. } => bytes.fill(0),
        }
        if let Some(byte) = self.forgets_byte {
            all[byte] = 0;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Recorded(Arc<Recorder>);

impl Image for Recorded {
    fn info(&self) -> Info {
        self.0.info.lock().unwrap().clone()
    }

    fn open(&self, reactor: &Handle) -> Result<Rc<dyn DataHandle>, Error> {
        Ok(Rc::new(RecordedHandle {
            image: Arc::clone(&self.0),
            reactor: reactor.clone(),
        }))
    }

    fn stats(&self) -> Stats {
        Stats::default()
    }

    fn space(&self) -> Option<Space> {
        *self.0.space.lock().unwrap()
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

struct RecordedHandle {
    image: Arc<Recorder>,
    reactor: Handle,
}

impl DataHandle for RecordedHandle {
    fn start(&self, op: &mut Op, token: Token) -> Progress {
        if self.image.slow {
            self.reactor.deliver(token, 0);
            return Progress::Pending;
        }
        Progress::Done(self.image.perform(op))
    }

    fn resume(&self, op: &mut Op, _token: Token, _result: i32) -> Progress {
        Progress::Done(self.image.perform(op))
    }

    /// Bytes that differ from zero are data, and what one question finds is short.
    fn allocation(&self, offset: u64, len: u64) -> AllocationQuery {
        let bytes = self.image.bytes.lock().unwrap();
        let bytes = &bytes[offset as usize..(offset + len) as usize];
        let allocated = bytes[0] != 0;
        let alike = bytes
            .iter()
            .take(8 * 512)
            .take_while(|&&b| (b != 0) == allocated);
        let len = alike.count() as u64;
        Box::pin(std::future::ready(Ok(Allocation { allocated, len })))
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub completion: Completion,
    /// Data-in, as much of it as was moved.
    pub data: Vec<u8>,
}

impl Answer {
    /// The data of a command that ended with GOOD.
    #[track_caller]
    pub fn good(self) -> Vec<u8> {
        assert_eq!(
            self.completion.status,
            Status::GOOD,
            "{:?}",
            self.completion.sense
        );
        self.data
    }

    /// The sense data of one that did not.
    #[track_caller]
    pub fn sense(self) -> Sense {
        assert_eq!(self.completion.status, Status::CHECK_CONDITION);
        self.completion
            .sense
            .expect("CHECK CONDITION carries sense data")
    }

    /// Sense key, ASC, ASCQ of one that did not.
    #[track_caller]
    pub fn code(self) -> (u8, u8, u8) {
        let sense = self.sense();
        (sense.key as u8, sense.additional.asc, sense.additional.ascq)
    }
}

/// A disk and what is needed to send it commands.
pub struct Bench {
    pub disk: Arc<Disk>,
    pub image: Arc<Recorder>,
    pub io: Rc<dyn DataHandle>,
    reactor: Handle,
    seen: [Seen; 3],
    /// What EXTENDED COPY finds.
    pub reaches: Vec<(Arc<dyn LogicalUnit>, Rc<dyn DataHandle>)>,
}

impl Surroundings for Bench {
    fn aborter(&self) -> Aborter {
        Box::new(|_| Box::pin(std::future::ready(())))
    }

    fn luns(&self, list: &mut Vec<u16>) {
        list.extend([0, 5, 300]);
    }

    fn units(&self, visit: Visitor<'_>) {
        for (unit, io) in &self.reaches {
            visit(Reached {
                unit,
                io,
                attached: Rc::new(()),
            });
        }
    }
}

impl Bench {
    pub fn new(reactor: Handle, image: Recorder, config: DiskConfig) -> Bench {
        let image = Arc::new(image);
        let backing: Arc<dyn Image> = Arc::new(Recorded(Arc::clone(&image)));
        let io = backing.open(&reactor).unwrap();
        let disk = Disk::new(config, backing).unwrap();
        let unit: Arc<dyn LogicalUnit> = disk.clone();
        let reaches = vec![(unit, Rc::clone(&io))];
        Bench {
            disk,
            image,
            io,
            reactor,
            seen: Default::default(),
            reaches,
        }
    }

    /// Lets A and B in and takes their first unit attention away.
    pub async fn settled(self) -> Bench {
        for nexus in [A, B] {
            let number = nexus.0 as u16;
            let path = Path::new(TransportId(number.into()), number);
            self.disk.state().add_nexus(nexus, path).unwrap();
        }
        for nexus in [A, B] {
            let sense = self.from(nexus, &[0; 6], &[], 0).await.sense();
            assert_eq!(sense.key, SenseKey::UnitAttention);
        }
        self
    }

    /// Runs a command; `None` is OVERRUN.
    pub async fn try_from(
        &self,
        nexus: NexusId,
        cdb: &[u8],
        out: &[u8],
        room: usize,
    ) -> Option<Answer> {
        let seen = &self.seen[nexus.0 as usize];
        self.try_with(nexus, cdb, out, room, |command| {
            begin(&*self.disk, seen, command)
        })
        .await
    }

    /// Runs a command that `start` starts; `None` is OVERRUN.
    pub async fn try_with(
        &self,
        nexus: NexusId,
        cdb: &[u8],
        out: &[u8],
        room: usize,
        start: impl FnOnce(&mut Command<'_>) -> Outcome,
    ) -> Option<Answer> {
        let mut bytes = [0; 32];
        bytes[..cdb.len()].copy_from_slice(cdb);
        let mut out = out.to_vec();
        let mut data = vec![0xEE; room];
        let segments = [&mut out, &mut data].map(|v| {
            // Two segments each, so that nothing relies on one.
            let middle = v.len() / 3;
            let (a, b) = v.split_at_mut(middle);
            [a, b].map(|s| libc::iovec {
                iov_base: s.as_mut_ptr().cast(),
                iov_len: s.len(),
            })
        });
        let [data_out, data_in] =
            [(&segments[0], out.len()), (&segments[1], data.len())].map(|(s, len)| {
                // SAFETY: the memory and the arrays live until the command has completed, below.
                unsafe { Sgl::from_raw(s, len) }
            });
        let mut reply = Vec::new();
        let mut command = Command {
            nexus,
            cdb: &bytes,
            data_out,
            data_in,
            reply: &mut reply,
            io: Some(&self.io),
            reactor: &self.reactor,
            admitted: false,
            aca: None,
            ended: &Ended::default(),
            around: self,
        };
        let completion = match start(&mut command) {
            Outcome::Done(completion) => {
                data_in.write_at(0, &reply);
                completion
            }
            Outcome::Overrun => {
                assert!(reply.is_empty() || room < reply.len());
                return None;
            }
            Outcome::Io(op) => {
                let result = lunar_block::run(&self.reactor, &self.io, op).await;
                self.disk.finish(op.asked(), result)
            }
            // Nothing else runs here: a command is always alone.
            Outcome::Task(task) => task.await,
            Outcome::Exclusive(_, steps) => match steps.await {
                Then::Done(completion) => completion,
                Then::Rest(task) => task.await,
            },
            Outcome::Wait(_) => unreachable!("there is nobody to wait for"),
        };
        assert_eq!(
            completion.sense.is_some(),
            completion.status == Status::CHECK_CONDITION
        );
        // The command's one direction says whose bytes were counted.
        let row = lunar_scsi::decode(self.disk.profile(), &bytes);
        let moved = match row {
            Ok(row) if row.direction == Direction::Out => {
                assert!(completion.transferred <= out.len());
                0
            }
            _ => completion.transferred,
        };
        assert!(moved <= data.len());
        data.truncate(moved);
        Some(Answer { completion, data })
    }

    /// Runs a command whose buffers are large enough.
    #[track_caller]
    pub fn from<'a>(
        &'a self,
        nexus: NexusId,
        cdb: &[u8],
        out: &[u8],
        room: usize,
    ) -> impl Future<Output = Answer> + use<'a> {
        let (cdb, out) = (cdb.to_vec(), out.to_vec());
        async move {
            self.try_from(nexus, &cdb, &out, room)
                .await
                .expect("no OVERRUN")
        }
    }

    /// Waits until no operation has the medium.
    pub async fn settle(&self) {
        let in_progress = [
            AdditionalSense::FORMAT_IN_PROGRESS,
            AdditionalSense::SANITIZE_IN_PROGRESS,
        ];
        while let Err(sense) = self.disk.ready()
            && in_progress.contains(&sense.additional)
        {
            self.reactor.sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits.
    pub async fn pause(&self, time: Duration) {
        self.reactor.sleep(time).await;
    }

    /// Runs a command from A without data-out.
    pub async fn ask(&self, cdb: &[u8], room: usize) -> Answer {
        self.from(A, cdb, &[], room).await
    }

    /// Runs a command from A with data-out.
    pub async fn tell(&self, cdb: &[u8], out: &[u8]) -> Answer {
        self.from(A, cdb, out, 0).await
    }

    /// What has reached the image since the last call.
    pub fn log(&self) -> Vec<Done> {
        std::mem::take(&mut *self.image.log.lock().unwrap())
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.image.bytes.lock().unwrap().clone()
    }
}

struct Idle;

impl App for Idle {
    type Message = ();
    fn message(&mut self, (): ()) {}
    fn complete(&mut self, _: Token, _: i32) {}
}

/// Runs a test on a reactor, where its futures can make progress.
#[track_caller]
pub fn on_reactor<F: Future<Output = ()> + 'static>(
    test: impl FnOnce(Handle) -> F + Send + 'static,
) {
    let (done, wait) = mpsc::channel();
    let config = Config {
        name: "test".into(),
        ..Config::default()
    };
    let thread = spawn(config, move |handle| {
        let future = test(handle.clone());
        handle.spawn(async move {
            future.await;
            done.send(()).unwrap();
        });
        Idle
    })
    .expect("a reactor");
    wait.recv_timeout(Duration::from_secs(60))
        .expect("the test ended with a panic, see above, or hangs");
    assert!(thread.stop());
}

/// Runs a test on a disk of `size` bytes.
#[track_caller]
pub fn on_disk<F: Future<Output = ()> + 'static>(
    size: usize,
    config: DiskConfig,
    test: impl FnOnce(Bench) -> F + Send + 'static,
) {
    on_image(Recorder::new(size), config, test);
}

/// Runs a test on a disk over an image, once with operations that complete at once and once with slow ones.
#[track_caller]
pub fn on_image<F: Future<Output = ()> + 'static>(
    image: Recorder,
    config: DiskConfig,
    test: impl FnOnce(Bench) -> F + Send + 'static,
) {
    on_reactor(move |reactor| async move {
        test(Bench::new(reactor, image, config).settled().await).await;
    });
}
