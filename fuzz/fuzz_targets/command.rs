//! A disk in use: any commands, from two nexuses, with any data and any buffers. Nothing panics, everything ends, and the
//! medium is what a model of a few lines says: no command reads or changes anything else. Copies go between this disk and
//! another one, reservations keep nexuses out, and write protection holds.
#![no_main]

use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use lunar_block::{Buffer, DataHandle, Driver, NodeOptions, OpKind, open_node, run, run_owned};
use lunar_devices::{Disk, DiskConfig};
use lunar_reactor::{App, Config, Handle, Remote, Thread, Token};
use lunar_scsi::reservation::TransportId;
use lunar_scsi::table::Direction;
use lunar_scsi::{AdditionalSense, Status, decode};
use lunar_sgl::Sgl;
use lunar_target::spc::Primary;
use lunar_target::{
    Aborter, Command, Completion, Ended, LogicalUnit, NexusId, Outcome, Path, Reached, Seen,
    Surroundings, Then, Visitor, begin,
};
use model::Model;

#[path = "../../crates/devices/tests/support/model.rs"]
mod model;

const SIZE: usize = 64 << 10;

#[derive(Arbitrary, Debug)]
struct Input {
    removable: bool,
    large_blocks: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
struct Step {
    second_nexus: bool,
    command: Shape,
    /// One byte, repeated, or these bytes.
    out: Result<(u8, u16), Vec<u8>>,
    room: u16,
}

/// Any CDB at all, or one that has a chance to mean something.
#[derive(Arbitrary, Debug)]
enum Shape {
    Raw([u8; 32]),
    /// Which opcode, its flags, LBA and blocks.
    Range(u8, u8, u8, u8),
    Copy(Vec<Segment>),
    /// Action, type, key, service action key, flags.
    Reserve(u8, u8, u8, u8, u8),
    /// SWP.
    Protect(bool),
}

#[derive(Arbitrary, Debug)]
struct Segment {
    from_second: bool,
    to_second: bool,
    blocks: u8,
    source: u8,
    destination: u8,
}

/// Opcodes that name a range; those of 32 bytes by their service action.
const RANGES: [(u8, u8); 24] = [
    (0x28, 0),
    (0x2A, 0),
    (0x2E, 0),
    (0x2F, 0),
    (0x34, 0),
    (0x35, 0),
    (0x41, 0),
    (0x88, 0),
    (0x89, 0),
    (0x8A, 0),
    (0x8B, 0),
    (0x8E, 0),
    (0x8F, 0),
    (0x90, 0),
    (0x93, 0),
    (0x9C, 0),
    (0xA8, 0),
    (0xAA, 0),
    (0xAE, 0),
    (0x7F, 0x09),
    (0x7F, 0x0A),
    (0x7F, 0x0B),
    (0x7F, 0x0C),
    (0x7F, 0x0D),
];

impl Shape {
    /// The CDB, and the parameter list that belongs to it. `names` are the designators of the disks.
    fn make(&self, block: u32, names: &[Vec<u8>; 2]) -> ([u8; 32], Option<Vec<u8>>) {
        let mut cdb = [0; 32];
        match *self {
            Shape::Raw(raw) => return (raw, None),
            Shape::Range(which, flags, lba, blocks) => {
                let (opcode, action) = RANGES[usize::from(which) % RANGES.len()];
                cdb[0] = opcode;
                match opcode >> 5 {
                    3 => {
                        (cdb[7], cdb[9], cdb[10]) = (0x18, action, flags);
                        (cdb[19], cdb[31]) = (lba, blocks);
                    }
                    4 => {
                        (cdb[1], cdb[9], cdb[13]) = (flags, lba, blocks);
                        if opcode == 0x9C {
                            cdb[12..14].copy_from_slice(&[0, blocks]);
                        }
                    }
                    5 => (cdb[1], cdb[5], cdb[9]) = (flags, lba, blocks),
                    _ => (cdb[1], cdb[5], cdb[8]) = (flags, lba, blocks),
                }
                (cdb, None)
            }
            Shape::Copy(ref segments) => {
                let segments: Vec<_> = segments.iter().take(6).collect();
                let mut list = vec![
                    0,
                    0x18,
                    0,
                    64,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    segments.len() as u8 * 28,
                ];
                list.extend([0; 4]);
                for name in names {
                    let mut descriptor = vec![0xE4, 0, 0, 0];
                    descriptor.extend(name);
                    descriptor.resize(29, 0);
                    descriptor.extend(&block.to_be_bytes()[1..]);
                    list.extend(descriptor);
                }
                for s in segments {
                    list.extend([
                        2,
                        0,
                        0,
                        0x18,
                        0,
                        s.from_second.into(),
                        0,
                        s.to_second.into(),
                        0,
                        0,
                        0,
                    ]);
                    list.push(s.blocks);
                    list.extend([0, 0, 0, 0, 0, 0, 0, s.source]);
                    list.extend([0, 0, 0, 0, 0, 0, 0, s.destination]);
                }
                cdb[0] = 0x83;
                cdb[10..14].copy_from_slice(&(list.len() as u32).to_be_bytes());
                (cdb, Some(list))
            }
            Shape::Reserve(action, kind, key, action_key, flags) => {
                let mut list = vec![0; 24];
                (list[7], list[15], list[20]) = (key % 4, action_key % 4, flags & 0x0D);
                (cdb[0], cdb[1], cdb[2], cdb[8]) = (0x5F, action % 8, kind % 9, 24);
                (cdb, Some(list))
            }
            Shape::Protect(on) => {
                let list = vec![
                    0,
                    0,
                    0,
                    0,
                    0x0A,
                    0x0A,
                    0,
                    0x10,
                    u8::from(on) << 3,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                ];
                (cdb[0], cdb[1], cdb[4]) = (0x15, 0x10, 16);
                (cdb, Some(list))
            }
        }
    }
}

fuzz_target!(|input: Input| {
    let reactor = reactor().lock().unwrap();
    assert!(reactor.remote.send(input));
    reactor.done.recv().expect("the input was run to its end");
});

/// The one reactor, to which inputs are sent and which says when each is done.
struct Reactor {
    remote: Remote<Input>,
    done: Receiver<()>,
    _thread: Thread<Input>,
}

fn reactor() -> &'static Mutex<Reactor> {
    static REACTOR: OnceLock<Mutex<Reactor>> = OnceLock::new();
    REACTOR.get_or_init(|| {
        let (sender, done) = channel();
        let thread = lunar_reactor::spawn(Config::default(), |handle| Fuzzer { handle, sender })
            .expect("a reactor");
        Mutex::new(Reactor {
            remote: thread.remote().clone(),
            done,
            _thread: thread,
        })
    })
}

struct Fuzzer {
    handle: Handle,
    sender: Sender<()>,
}

impl App for Fuzzer {
    type Message = Input;
    fn message(&mut self, input: Input) {
        let (handle, sender) = (self.handle.clone(), self.sender.clone());
        self.handle.spawn(async move {
            run_input(handle, input).await;
            sender.send(()).unwrap();
        });
    }
    fn complete(&mut self, _: Token, _: i32) {}
}

async fn run_input(reactor: Handle, input: Input) {
    let options = NodeOptions {
        discard_unmap: true,
        ..NodeOptions::default()
    };
    let block = if input.large_blocks { 4096 } else { 512 };
    let config = DiskConfig {
        logical_block_size: block,
        removable: input.removable,
        ..DiskConfig::default()
    };
    let disks = ["first", "second"].map(|name| {
        let image = open_node(Driver::Memory { size: SIZE as u64 }, &options).unwrap();
        let io = image.open(&reactor).unwrap();
        let identity = name.into();
        (
            Disk::new(
                DiskConfig {
                    identity,
                    ..config.clone()
                },
                image,
            )
            .unwrap(),
            io,
        )
    });
    let [(disk, io), (_, other)] = &disks;
    // The last one only looks.
    let nexuses = [NexusId(1), NexusId(2), NexusId(3)];
    let seen: [Seen; 3] = Default::default();
    for nexus in nexuses {
        let number = nexus.0 as u16;
        let path = Path::new(TransportId(number.into()), number);
        for (disk, _) in &disks {
            disk.state().add_nexus(nexus, path.clone()).unwrap();
        }
    }
    let bench = Bench {
        disks: &disks,
        reactor: &reactor,
    };
    let names = [0, 1].map(|which| {
        let mut page = Vec::new();
        disks[which].0.vpd(0x83, &mut page);
        let naa = page.windows(4).position(|w| w == [1, 3, 0, 8]).unwrap();
        page[naa..naa + 12].to_vec()
    });
    let new = || Model {
        bytes: vec![0; SIZE],
        block: block as usize,
    };
    let (mut model, mut second) = (new(), new());
    for step in input.steps.into_iter().take(32) {
        let (cdb, list) = step.command.make(block, &names);
        let mut out = match (list, step.out) {
            (Some(list), _) => list,
            (None, Ok((byte, len))) => vec![byte; usize::from(len)],
            (None, Err(bytes)) => bytes,
        };
        let sent = out.clone();
        let mut data = vec![0; usize::from(step.room)];
        let which = usize::from(step.second_nexus);
        let protected = disk.state().software_write_protect();
        let excluded = bench.excluded(nexuses[which], &seen[2]).await;
        let outcome = bench.one(nexuses[which], &seen[which], &cdb, &mut out, &mut data);
        let outcome = outcome.await;
        if cdb[0] == 0x83 {
            // What of it was done before it failed, if it did, is its first segments.
            let good = outcome.is_some_and(|completion| completion.status == Status::GOOD);
            let media = [
                contents(&reactor, io).await,
                contents(&reactor, other).await,
            ];
            follow_copy([&mut model, &mut second], &step.command, &media, good);
            continue;
        }
        if let Some(completion) = outcome {
            assert_eq!(
                completion.sense.is_some(),
                completion.status == Status::CHECK_CONDITION
            );
            let direction = decode(disk.profile(), &cdb).map(|row| row.direction);
            let room = if direction == Ok(Direction::Out) {
                out.len()
            } else {
                data.len()
            };
            assert!(completion.transferred <= room);
            if completion.status == Status::GOOD {
                assert!(
                    !(model.changes(&cdb) && (protected || excluded.0)),
                    "{cdb:x?}"
                );
                model.good(&cdb, &sent);
                if let Some(read) = model.read(&cdb) {
                    assert!(!excluded.1 || read.is_empty(), "{cdb:x?}");
                    assert_eq!(completion.transferred, read.len());
                    assert!(data.starts_with(read));
                }
            }
        }
        // An operation in the background has the medium until it is done.
        while let Err(sense) = disk.ready()
            && [
                AdditionalSense::FORMAT_IN_PROGRESS,
                AdditionalSense::SANITIZE_IN_PROGRESS,
            ]
            .contains(&sense.additional)
        {
            reactor.yield_now().await;
        }
        assert!(out == sent, "data-out is the initiator's");
        assert!(*contents(&reactor, io).await == *model.bytes, "{cdb:x?}");
        assert!(
            *contents(&reactor, other).await == *second.bytes,
            "{cdb:x?}"
        );
    }
}

async fn contents(reactor: &Handle, io: &Rc<dyn DataHandle>) -> Buffer {
    let (result, medium) = run_owned(reactor, io, OpKind::Read, 0, SIZE, Buffer::new(SIZE)).await;
    result.unwrap();
    medium
}

/// The models become what the media are, which must be what they are after all segments of a copy, or, when it has failed,
/// after the first ones.
fn follow_copy(models: [&mut Model; 2], command: &Shape, media: &[Buffer; 2], good: bool) {
    let same = |models: &[&mut Model; 2]| (0..2).all(|i| *media[i] == *models[i].bytes);
    let segments = match command {
        Shape::Copy(segments) => &segments[..segments.len().min(6)],
        _ => &[],
    };
    for s in segments {
        if !good && same(&models) {
            return;
        }
        let block = models[0].block;
        let len = usize::from(s.blocks) * block;
        let [from, to] = [s.source, s.destination].map(|lba| usize::from(lba) * block);
        if from + len > SIZE || to + len > SIZE {
            break;
        }
        let copied = models[usize::from(s.from_second)].bytes[from..from + len].to_vec();
        models[usize::from(s.to_second)].bytes[to..to + len].copy_from_slice(&copied);
    }
    assert!(same(&models), "{command:?}");
}

struct Bench<'a> {
    disks: &'a [(Arc<Disk>, Rc<dyn DataHandle>); 2],
    reactor: &'a Handle,
}

impl Surroundings for Bench<'_> {
    fn aborter(&self) -> Aborter {
        Box::new(|_| Box::pin(std::future::ready(())))
    }

    fn luns(&self, list: &mut Vec<u16>) {
        list.extend([0, 1, 16383]);
    }

    fn units(&self, visit: Visitor<'_>) {
        for (disk, io) in self.disks {
            let unit: Arc<dyn LogicalUnit> = disk.clone();
            visit(Reached {
                unit: &unit,
                io,
                attached: Rc::new(()),
            });
        }
    }
}

impl Bench<'_> {
    /// Whether a reservation keeps the nexus from writing, and from reading: from what PERSISTENT RESERVE IN says.
    async fn excluded(&self, nexus: NexusId, seen: &Seen) -> (bool, bool) {
        let mut cdb = [0; 32];
        (cdb[0], cdb[1], cdb[7]) = (0x5E, 3, 4);
        let mut data = vec![0; 1024];
        let status = loop {
            let completion = self
                .one(NexusId(3), seen, &cdb, &mut [], &mut data)
                .await
                .unwrap();
            if completion.status != Status::CHECK_CONDITION {
                break completion.status;
            }
        };
        if status != Status::GOOD {
            // RESERVE of SPC-2.
            return (false, false);
        }
        let len = u32::from_be_bytes(data[4..8].try_into().unwrap()) as usize;
        let mut rest = &data[8..8 + len];
        let (mut registered, mut holds, mut reserved) = (false, false, 0);
        while !rest.is_empty() {
            let more = u32::from_be_bytes(rest[20..24].try_into().unwrap()) as usize;
            let own = u32::from(u16::from_be_bytes([rest[18], rest[19]])) == nexus.0;
            registered |= own;
            if rest[12] & 1 != 0 {
                holds |= own;
                reserved = rest[13] & 0x0F;
            }
            rest = &rest[24 + more..];
        }
        match reserved {
            0 => (false, false),
            1 => (!holds, false),
            3 => (!holds, !holds),
            5 | 7 => (!registered, false),
            6 | 8 => (!registered, !registered),
            other => panic!("type {other}"),
        }
    }

    async fn one(
        &self,
        nexus: NexusId,
        seen: &Seen,
        cdb: &[u8; 32],
        out: &mut [u8],
        data: &mut [u8],
    ) -> Option<Completion> {
        let (reactor, (disk, io)) = (self.reactor, &self.disks[0]);
        let segments = [&mut *out, &mut *data].map(|bytes| {
            [libc::iovec {
                iov_base: bytes.as_mut_ptr().cast(),
                iov_len: bytes.len(),
            }]
        });
        // SAFETY: the memory and the arrays live until the command has completed, below.
        let [data_out, data_in] =
            [&segments[0], &segments[1]].map(|s| unsafe { Sgl::from_raw(s, s[0].iov_len) });
        let mut reply = Vec::new();
        let mut command = Command {
            nexus,
            cdb,
            data_out,
            data_in,
            reply: &mut reply,
            io: Some(io),
            reactor,
            admitted: false,
            aca: None,
            ended: &Ended::default(),
            around: self,
        };
        match begin(&**disk, seen, &mut command) {
            Outcome::Done(completion) => {
                data_in.write_at(0, &reply);
                Some(completion)
            }
            Outcome::Overrun => None,
            Outcome::Io(op) => {
                let result = run(reactor, io, op).await;
                Some(disk.finish(&op.asked(), result))
            }
            // Nothing else runs here: a command is always alone, and there is nobody to wait for.
            Outcome::Task(task) => Some(task.await),
            Outcome::Exclusive(_, steps) => Some(match steps.await {
                Then::Done(completion) => completion,
                Then::Rest(task) => task.await,
            }),
            Outcome::Wait(_) => unreachable!(),
        }
    }
}
