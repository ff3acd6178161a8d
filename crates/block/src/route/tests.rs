//! All ways lead to the same bytes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and its numbers are small"
)]

use std::path::Path;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::filter::{Ledger, Policy};
use crate::host::tests::MEDIUM;
use crate::reactor::Reactor;
use crate::{Buffer, Driver, NodeOptions, Op, OpKind, Stats, open_node, run, run_owned};

const SIZE: u64 = 4 << 20;
/// More than a turn allows.
const LONG: usize = 2 << 20;

#[derive(Clone, Debug)]
struct Act {
    kind: OpKind,
    offset: u64,
    len: usize,
    byte: u8,
}

fn act() -> impl Strategy<Value = Act> {
    let kind = prop_oneof![
        4 => Just(OpKind::Read),
        4 => any::<bool>().prop_map(|fua| OpKind::Write { fua }),
        1 => Just(OpKind::Flush),
        1 => Just(OpKind::Discard),
        1 => any::<(bool, bool)>().prop_map(|(unmap, fua)| OpKind::WriteZeroes { unmap, fua }),
    ];
    let len = prop_oneof![3 => 1..16usize, 2 => 1..512usize, 1 => Just(LONG / 512)];
    // Some begin behind the end of the file, or reach there: it is shorter than the image believes.
    (kind, 0..SIZE / 512, len, any::<u8>()).prop_map(|(kind, sector, sectors, byte)| Act {
        kind,
        offset: sector * 512,
        len: sectors * 512,
        byte,
    })
}

/// What each operation said and read, what the file holds in the end, and how it was done.
type Outcome = (
    Vec<(Result<(), crate::Error>, Option<Vec<u8>>)>,
    Vec<u8>,
    Stats,
);

fn carry_out(dir: &Path, medium: Medium, read_only: bool, acts: Vec<Act>) -> Outcome {
    let path = dir.join("disk.raw");
    let content: Vec<u8> = (0..SIZE - SIZE / 4 + 700)
        .map(|i| (i % 251) as u8)
        .collect();
    std::fs::write(&path, content).unwrap();
    let options = NodeOptions {
        discard_unmap: true,
        read_only,
        ..NodeOptions::default()
    };
    MEDIUM.set(Some(medium));
    let filename = path.clone();
    let image = open_node(Driver::File { filename }, &options).unwrap();
    MEDIUM.set(None);
    let reactor = Reactor::new();
    let shared = Arc::clone(&image);
    let results = reactor.run(move |handle| async move {
        let io = shared.open(&handle).unwrap();
        let mut results = Vec::new();
        for act in acts {
            let (offset, len) = (act.offset, act.len as u64);
            results.push(match act.kind {
                OpKind::Read | OpKind::Write { .. } => {
                    let mut buffer = Buffer::new(act.len);
                    buffer.fill(act.byte);
                    let done = run_owned(&handle, &io, act.kind, offset, act.len, buffer).await;
                    (done.0, Some(done.1.to_vec()))
                }
                OpKind::Flush => (run(&handle, &io, Op::flush()).await, None),
                OpKind::Discard => (run(&handle, &io, Op::discard(offset, len)).await, None),
                OpKind::WriteZeroes { unmap, fua } => {
                    let op = Op::write_zeroes(offset, len, unmap, fua);
                    (run(&handle, &io, op).await, None)
                }
            });
        }
        results
    });
    let stats = image.stats();
    image.close().unwrap();
    (results, std::fs::read(&path).unwrap(), stats)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_place_and_through_the_ring_results_and_bytes_are_the_same(
        acts in proptest::collection::vec(act(), 1..24),
        read_only in proptest::bool::weighted(0.2),
        on_disk in any::<bool>(),
    ) {
        let dir = match on_disk {
            true => tempfile::tempdir().unwrap(),
            false => tempfile::tempdir_in("/dev/shm").unwrap(),
        };
        let run = |medium| carry_out(dir.path(), medium, read_only, acts.clone());
        let (results, content, stats) = run(Medium::Device);
        prop_assert_eq!(stats.inline, 0);
        for medium in [Medium::Memory, Medium::Cache] {
            let (r, c, s) = run(medium);
            prop_assert!(r == results, "{:?}: other results", medium);
            prop_assert!(c == content, "{:?}: other bytes", medium);
            prop_assert_eq!((s.reads, s.writes, s.errors), (stats.reads, stats.writes, stats.errors));
            let short = |a: &Act| a.kind == OpKind::Read && a.len < 1 << 20;
            if medium == Medium::Memory {
                prop_assert!(s.inline >= acts.iter().filter(|a| short(a)).count() as u64);
            }
        }
    }
}

/// A route to a file, with what counts its operations.
fn route(handle: &Handle, medium: Medium, sweeps: &Sweeps) -> (Route, Ledger) {
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.set_len(SIZE).unwrap();
    let ledger = Ledger::default();
    let gate = ledger.gate(Policy::new(&NodeOptions::default(), false));
    let file = handle.register(file.into());
    (
        Route::new(handle.clone(), file, medium, sweeps.clone(), gate),
        ledger,
    )
}

const SYNC: Syscall = Syscall::Sync { data_only: true };
const NO_WRITE: Syscall = Syscall::Write {
    data: Sgl::EMPTY,
    offset: 0,
    rw_flags: 0,
};

#[test]
fn while_a_range_is_zeroed_writes_do_not_wait_for_it_in_place() {
    let reactor = Reactor::new();
    reactor.run(|handle| async move {
        let sweeps = Sweeps::default();
        let (route, ledger) = route(&handle, Medium::Memory, &sweeps);
        let mut completion = handle.awaitable();
        assert_eq!(route.start(NO_WRITE, completion.token()), Some(0));
        let sweep = sweeps.during();
        assert_eq!(route.start(NO_WRITE, completion.token()), None);
        assert_eq!(completion.result().await, 0);
        drop(sweep);
        assert_eq!(route.start(NO_WRITE, completion.token()), Some(0));
        assert_eq!(ledger.total().inline, 2);
    });
}

#[test]
fn what_sweeps_never_does_so_in_place() {
    let reactor = Reactor::new();
    reactor.run(|handle| async move {
        for medium in [Medium::Memory, Medium::Cache, Medium::Device] {
            let (route, _) = route(&handle, medium, &Sweeps::default());
            let mut completion = handle.awaitable();
            let punch = Syscall::Allocate {
                mode: libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                offset: 0,
                len: 4096,
            };
            assert_eq!(route.start(punch, completion.token()), None, "{medium:?}");
            assert_eq!(completion.result().await, 0);
        }
    });
}

#[test]
fn a_turn_that_has_done_enough_in_place_leaves_what_tasks_wait_for_to_the_ring() {
    let reactor = Reactor::new();
    reactor.run(|handle| async move {
        let (route, ledger) = route(&handle, Medium::Memory, &Sweeps::default());
        let mut completion = handle.awaitable();
        // All in one turn, because nothing is awaited in between.
        let started = (0..1000).map(|_| route.start(SYNC, completion.token()));
        let in_place = started.filter(Option::is_some).count();
        assert!((1..=256).contains(&in_place), "{in_place} in one turn");
        for _ in in_place..1000 {
            assert_eq!(completion.result().await, 0);
        }
        assert_eq!(ledger.total().inline, in_place as u64);
        // That was another turn.
        assert_eq!(route.start(SYNC, completion.token()), Some(0));
    });
}

/// Bytes of each of some operations that are started at once.
const PIECE: usize = 320 << 10;
/// How many there are: more than a turn has time for.
const PIECES: usize = 40;

/// A list of leaked memory.
fn leaked(len: usize) -> Sgl {
    let segments = Box::leak(Box::new([libc::iovec {
        iov_base: vec![0u8; len].leak().as_mut_ptr().cast(),
        iov_len: len,
    }]));
    // SAFETY: memory and array are leaked.
    #[allow(unsafe_code, reason = "a test's stand-in for guest memory")]
    unsafe {
        Sgl::from_raw(segments, len)
    }
}

/// Writes a file in pieces that differ, or reads it, and says what was read when that is over.
struct Eager {
    handle: Handle,
    image: Arc<dyn crate::Image>,
    io: Option<Rc<dyn crate::DataHandle>>,
    ops: Vec<Op>,
    running: usize,
    over: Option<std::sync::mpsc::Sender<Vec<u8>>>,
}

impl Eager {
    fn progress(&mut self, progress: crate::Progress) {
        let crate::Progress::Done(result) = progress else {
            return;
        };
        result.unwrap();
        self.running -= 1;
        if self.running == 0 {
            let mut bytes = vec![0; PIECE * PIECES];
            for (piece, op) in bytes.chunks_mut(PIECE).zip(&self.ops) {
                op.data.read_at(0, piece);
            }
            self.over.take().unwrap().send(bytes).unwrap();
        }
    }
}

impl lunar_reactor::App for Eager {
    type Message = (OpKind, std::sync::mpsc::Sender<Vec<u8>>);

    fn message(&mut self, (kind, over): Self::Message) {
        let io = self.image.open(&self.handle).unwrap();
        self.io = Some(Rc::clone(&io));
        (self.running, self.over) = (PIECES, Some(over));
        self.ops.clear();
        for i in 0..PIECES {
            let data = leaked(PIECE);
            if kind.writes() {
                data.fill_at(0, PIECE, i as u8 + 1);
            }
            self.ops
                .push(Op::new(kind, (i * PIECE) as u64, PIECE as u64, data));
        }
        for i in 0..PIECES {
            let progress = io.start(&mut self.ops[i], Token(i as u64));
            self.progress(progress);
        }
    }
    fn complete(&mut self, token: Token, result: i32) {
        let io = Rc::clone(self.io.as_ref().unwrap());
        let progress = io.resume(&mut self.ops[token.0 as usize], token, result);
        self.progress(progress);
    }
}

#[test]
fn what_exceeds_a_turn_is_done_in_place_as_well_if_the_file_is_in_memory() {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    file.as_file().set_len((PIECE * PIECES) as u64).unwrap();
    let filename = file.path().to_owned();
    let image = open_node(Driver::File { filename }, &NodeOptions::default()).unwrap();
    let shared = Arc::clone(&image);
    let reactor = lunar_reactor::spawn(lunar_reactor::Config::default(), |handle| Eager {
        handle,
        image: shared,
        io: None,
        ops: Vec::new(),
        running: 0,
        over: None,
    })
    .unwrap();
    let bytes = [OpKind::Write { fua: true }, OpKind::Read].map(|kind| {
        let (over, end) = std::sync::mpsc::channel();
        assert!(reactor.remote().send((kind, over)));
        end.recv().unwrap()
    });
    assert!(reactor.stop());
    assert!(bytes[0] == bytes[1]);
    assert!(bytes[1] == std::fs::read(file.path()).unwrap());
    assert_eq!(image.stats().inline, 2 * PIECES as u64);
}

#[test]
fn a_file_that_is_not_in_the_cache_is_hardly_ever_tried() {
    let luck = Luck::default();
    let mut tries = 0;
    for _ in 0..10_000 {
        if luck.is_worth_a_try() {
            tries += 1;
            luck.learn(false);
        }
    }
    assert!(tries <= 10_000 / MOST_SKIPPED + 10, "{tries} tries");
    // And one that has come into it is noticed.
    let until = (0..10_000).take_while(|_| !luck.is_worth_a_try()).count();
    assert!(until < MOST_SKIPPED as usize, "{until} without a try");
    luck.learn(true);
    assert!((0..1000).all(|_| luck.is_worth_a_try()));
}

#[test]
fn single_misses_do_not_end_the_attempts() {
    let luck = Luck::default();
    let mut tries = 0;
    for n in 0..10_000 {
        if luck.is_worth_a_try() {
            tries += 1;
            luck.learn(n % 10 > 0);
        }
    }
    assert!(tries > 9000, "{tries} tries");
}
