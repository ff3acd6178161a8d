//! A disk in use: any commands, from two nexuses, with any data and any buffers. Nothing panics, everything ends, and the
//! medium is what a model of a few lines says: no command reads or changes anything else.
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
use lunar_target::{Command, Completion, Ended, LogicalUnit, NexusId, Outcome, Path, Seen, Then, begin};
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
    cdb: [u8; 32],
    /// One byte, repeated, or these bytes.
    out: Result<(u8, u16), Vec<u8>>,
    room: u16,
}

fuzz_target!(|input: Input| {
    let reactor = reactor().lock().unwrap();
    assert!(reactor.remote.send(input));
    reactor
        .done
        .recv()
        .expect("the input was run to its end");
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
    fn ready(&mut self, _: Token) {}
    fn poll(&mut self) -> bool {
        false
    }
    fn flush(&mut self) {}
    fn arm(&mut self) -> bool {
        false
    }
    fn disarm(&mut self) {}
}

async fn run_input(reactor: Handle, input: Input) {
    let options = NodeOptions {
        discard_unmap: true,
        ..NodeOptions::default()
    };
    let image = open_node(Driver::Memory { size: SIZE as u64 }, &options).unwrap();
    let io = image.open(&reactor).unwrap();
    let block = if input.large_blocks { 4096 } else { 512 };
    let config = DiskConfig {
        logical_block_size: block,
        removable: input.removable,
        ..DiskConfig::default()
    };
    let disk = Disk::new(config, Arc::clone(&image)).unwrap();
    let nexuses = [NexusId(1), NexusId(2)];
    let seen = [Seen::default(), Seen::default()];
    for nexus in nexuses {
        let number = nexus.0 as u16;
        let path = Path::new(TransportId(number.into()), number);
        disk.state().add_nexus(nexus, path).unwrap();
    }
    let mut model = Model {
        bytes: vec![0; SIZE],
        block: block as usize,
    };
    for step in input.steps.into_iter().take(32) {
        let cdb = step.cdb;
        let mut out = match step.out {
            Ok((byte, len)) => vec![byte; usize::from(len)],
            Err(bytes) => bytes,
        };
        let sent = out.clone();
        let mut data = vec![0; usize::from(step.room)];
        let which = usize::from(step.second_nexus);
        let outcome = one(&disk, &reactor, &io, nexuses[which], &seen[which], &cdb, &mut out, &mut data);
        if let Some(completion) = outcome.await {
            assert_eq!(completion.sense.is_some(), completion.status == Status::CHECK_CONDITION);
            let direction = decode(disk.profile(), &cdb).map(|row| row.direction);
            let room = if direction == Ok(Direction::Out) { out.len() } else { data.len() };
            assert!(completion.transferred <= room);
            if completion.status == Status::GOOD {
                model.good(&cdb, &sent);
                if let Some(read) = model.read(&cdb) {
                    assert_eq!(completion.transferred, read.len());
                    assert!(data.starts_with(read));
                }
            }
        }
        // An operation in the background has the medium until it is done.
        while let Err(sense) = disk.ready()
            && [AdditionalSense::FORMAT_IN_PROGRESS, AdditionalSense::SANITIZE_IN_PROGRESS]
                .contains(&sense.additional)
        {
            reactor.yield_now().await;
        }
        assert!(out == sent, "data-out is the initiator's");
        let (result, medium) =
            run_owned(&reactor, &io, OpKind::Read, 0, SIZE, Buffer::new(SIZE)).await;
        result.unwrap();
        assert!(*medium == *model.bytes, "{cdb:x?}");
    }
}

#[allow(clippy::too_many_arguments, reason = "the parts of one command")]
async fn one(
    disk: &Disk,
    reactor: &Handle,
    io: &Rc<dyn DataHandle>,
    nexus: NexusId,
    seen: &Seen,
    cdb: &[u8; 32],
    out: &mut [u8],
    data: &mut [u8],
) -> Option<Completion> {
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
    let command = Command {
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
        aborter: &|| Box::new(|_| Box::pin(std::future::ready(()))),
        luns: &|luns| luns.extend([0, 1, 16383]),
        units: &|_| {},
    };
    match begin(disk, seen, command) {
        Outcome::Done(completion) => {
            data_in.write_at(0, &reply);
            Some(completion)
        }
        Outcome::Overrun => None,
        Outcome::Io(op) => {
            let result = run(reactor, io, op).await;
            Some(disk.finish(&op, result))
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
