//! The filters between a device and its image: each is an image like any other, and does what it is for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and its patterns are cut to bytes"
)]

mod support;

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lunar_block::{
    Action, Cancel, Canceller, DataHandle, DetectZeroes, Driver, Error, ErrorPolicy, ErrorRules,
    FaultInjection, FaultOn, FaultRule, Faults, Image, Info, IoStatus, NodeOptions, OnError, Op,
    PolicyEvent, Side, Space, Stats, open_node, run,
};
use lunar_reactor::Handle;
use proptest::prelude::*;
use support::suite::conforms;
use support::{Memory, Reactor, disk_dir, open_file, open_qcow2, qcow2_file, raw_file};

const SIZE: u64 = (2 << 20) + 3 * 512;
const ERRNO_EIO: i32 = libc::EIO;

fn memory() -> Arc<dyn Image> {
    let options = NodeOptions {
        discard_unmap: true,
        ..NodeOptions::default()
    };
    open_node(Driver::Memory { size: SIZE }, &options).unwrap()
}

fn reactors() -> [Reactor; 2] {
    [Reactor::new(), Reactor::new()]
}

fn faulty(image: Arc<dyn Image>, rules: Vec<FaultRule>) -> Arc<FaultInjection> {
    let options = NodeOptions {
        discard_unmap: true,
        ..NodeOptions::default()
    };
    FaultInjection::new(image, Faults { rules, seed: 7 }, &options).unwrap()
}

/// Everything on one side fails.
fn failing(on: FaultOn, errno: i32) -> FaultRule {
    FaultRule {
        on,
        errno: Some(errno),
        ..FaultRule::default()
    }
}

fn rules(read: OnError, write: OnError) -> ErrorRules {
    ErrorRules { read, write }
}

const STOP: ErrorRules = ErrorRules {
    read: OnError::Stop,
    write: OnError::Stop,
};

/// A policy on top of faults, and what it says.
struct Bench {
    reactor: Reactor,
    faults: Arc<FaultInjection>,
    policy: Arc<ErrorPolicy>,
    events: Receiver<PolicyEvent>,
}

impl Bench {
    fn new(rules: ErrorRules, faults: Vec<FaultRule>) -> Bench {
        Bench::over(memory(), rules, faults)
    }

    fn over(image: Arc<dyn Image>, rules: ErrorRules, faults: Vec<FaultRule>) -> Bench {
        let faults = faulty(image, faults);
        let (send, events) = channel();
        let send = Mutex::new(send);
        let policy = ErrorPolicy::new(faults.clone(), rules, move |event| {
            // A test may have ended.
            let _ = send.lock().unwrap().send(event);
        });
        Bench {
            reactor: Reactor::new(),
            faults,
            policy,
            events,
        }
    }

    fn mend(&self) {
        self.faults.set(Faults::default()).unwrap();
    }

    fn image(&self) -> Arc<dyn Image> {
        self.policy.clone()
    }

    /// Starts operations on one handle, in this order; gives each one's number and result as they end, and something to
    /// cancel each with.
    fn start(&self, ops: Vec<What>) -> Started {
        start(&self.reactor, self.image(), ops)
    }

    /// One operation, to its end.
    fn end_of(&self, what: What) -> Result<(), Error> {
        self.start(vec![what]).next().1
    }
}

/// An operation on the sector of a number.
#[derive(Clone, Copy, Debug)]
enum What {
    Read(u64),
    Write(u64),
    Flush,
    Discard(u64),
    WriteZeroes(u64),
}

type Ended = (usize, Result<(), Error>);

struct Started {
    ended: Receiver<Ended>,
    cancel: std::sync::mpsc::Sender<(usize, Cancel)>,
}

const SOON: Duration = Duration::from_millis(60);

impl Started {
    fn next(&self) -> Ended {
        self.ended.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    fn nothing_ends(&self) {
        assert_eq!(
            self.ended.recv_timeout(SOON),
            Err(RecvTimeoutError::Timeout)
        );
    }

    fn cancel(&self, number: usize, why: Cancel) {
        self.cancel.send((number, why)).unwrap();
    }
}

/// The byte that a write fills a sector with.
fn byte(sector: u64) -> u8 {
    sector as u8 | 1
}

async fn carry_out(reactor: Handle, io: Rc<dyn DataHandle>, what: What) -> Result<(), Error> {
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

fn start(reactor: &Reactor, image: Arc<dyn Image>, ops: Vec<What>) -> Started {
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

fn io(errno: i32) -> Error {
    Error::from_errno(errno)
}

/// An image that keeps its failures to itself: the suite wants to see none.
#[derive(Debug)]
struct Discreet(Arc<dyn Image>);

impl Image for Discreet {
    fn info(&self) -> Info {
        self.0.info()
    }
    fn open(&self, reactor: &Handle) -> Result<Rc<dyn DataHandle>, Error> {
        self.0.open(reactor)
    }
    fn stats(&self) -> Stats {
        let mut stats = self.0.stats();
        stats.errors = 0;
        stats
    }
    fn space(&self) -> Option<Space> {
        self.0.space()
    }
    fn close(&self) -> Result<(), Error> {
        self.0.close()
    }
}

#[test]
fn a_policy_over_an_image_that_never_fails_is_that_image() {
    let bench = Bench::new(STOP, Vec::new());
    conforms(&reactors(), &bench.image(), 20).unwrap();
    assert!(bench.events.try_recv().is_err());
}

#[test]
fn a_policy_over_a_file_conforms_and_the_file_holds_the_model() {
    let dir = disk_dir();
    let path = raw_file(dir.path(), "disk.raw", SIZE);
    let file = open_file(&path, &NodeOptions::default()).unwrap();
    let image: Arc<dyn Image> = ErrorPolicy::new(file, STOP, |_| panic!("nothing fails"));
    let model = conforms(&reactors(), &image, 10).unwrap();
    image.close().unwrap();
    assert!(std::fs::read(&path).unwrap() == model);
}

#[test]
fn fault_injection_conforms_whether_it_does_nothing_or_delays() {
    let options = NodeOptions {
        discard_unmap: true,
        detect_zeroes: DetectZeroes::Unmap,
        ..NodeOptions::default()
    };
    let slow = FaultRule {
        probability: 0.1,
        latency: Duration::from_micros(300),
        errno: None,
        ..FaultRule::default()
    };
    for rules in [Vec::new(), vec![slow]] {
        let faults = Faults { rules, seed: 3 };
        let slows = !faults.rules.is_empty();
        let image = FaultInjection::new(memory(), faults, &options).unwrap();
        let shared: Arc<dyn Image> = image.clone();
        conforms(&reactors(), &shared, 20).unwrap();
        assert_eq!(image.fired().iter().any(|n| *n > 20), slows);
    }
}

/// Lets a stopped device go on whenever it stops, until it is dropped.
struct Operator {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u32>>,
}

impl Operator {
    fn of(policy: &Arc<ErrorPolicy>) -> Operator {
        let stop = Arc::new(AtomicBool::new(false));
        let (over, policy) = (stop.clone(), policy.clone());
        let thread = std::thread::spawn(move || {
            let mut times = 0;
            while !over.load(Ordering::Relaxed) {
                times += u32::from(policy.is_stopped() && policy.resume());
                std::thread::sleep(Duration::from_micros(200));
            }
            policy.resume();
            times
        });
        Operator {
            stop,
            thread: Some(thread),
        }
    }

    /// How often it had something to do.
    fn times(mut self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

fn errors_are_only_delays(image: Arc<dyn Image>) {
    let fault = |on, errno, torn| FaultRule {
        on,
        errno: Some(errno),
        probability: 0.02,
        torn,
        ..FaultRule::default()
    };
    let slow_failure = FaultRule {
        probability: 0.01,
        latency: Duration::from_micros(200),
        errno: Some(libc::ENOENT),
        ..FaultRule::default()
    };
    let bench = Bench::over(
        image,
        STOP,
        vec![
            fault(FaultOn::Read, libc::EIO, 0),
            fault(FaultOn::Write, libc::ENOSPC, 1024),
            fault(FaultOn::Flush, libc::EIO, 0),
            fault(FaultOn::Discard, libc::ESTALE, 0),
            fault(FaultOn::WriteZeroes, libc::ENOSPC, 512),
            slow_failure,
        ],
    );
    let operator = Operator::of(&bench.policy);
    let image: Arc<dyn Image> = Arc::new(Discreet(bench.image()));
    conforms(&reactors(), &image, 15).unwrap();
    assert!(operator.times() > 10, "nothing was stopped");
    let fired = bench.faults.fired();
    assert!(fired.iter().all(|n| *n > 0), "{fired:?}");
}

#[test]
fn with_stop_every_error_is_only_a_delay_and_no_byte_is_lost_in_memory() {
    errors_are_only_delays(memory());
}

#[test]
fn with_stop_every_error_is_only_a_delay_and_no_byte_is_lost_in_a_file() {
    let dir = disk_dir();
    let path = raw_file(dir.path(), "disk.raw", SIZE);
    let options = NodeOptions {
        discard_unmap: true,
        direct: true,
        ..NodeOptions::default()
    };
    errors_are_only_delays(open_file(&path, &options).unwrap());
}

#[test]
fn with_stop_every_error_is_only_a_delay_and_no_byte_is_lost_in_qcow2() {
    let dir = disk_dir();
    let path = qcow2_file(dir.path(), "disk.qcow2", SIZE, &[]);
    let options = NodeOptions {
        discard_unmap: true,
        ..NodeOptions::default()
    };
    errors_are_only_delays(open_qcow2(&path, &options).unwrap());
}

#[test]
fn each_rule_does_what_its_name_says_for_reads_and_writes() {
    use OnError::{Enospc, Ignore, Report};
    let (eio, full) = (libc::EIO, libc::ENOSPC);
    let writes = [
        What::Write(1),
        What::Flush,
        What::Discard(1),
        What::WriteZeroes(1),
    ];
    for (rule, errno, expected, action) in [
        (Report, eio, Err(io(eio)), Action::Report),
        (Report, full, Err(Error::NoSpace), Action::Report),
        (Ignore, eio, Ok(()), Action::Ignore),
        (Ignore, full, Ok(()), Action::Ignore),
        (Enospc, eio, Err(io(eio)), Action::Report),
        (Enospc, libc::ENOENT, Err(io(libc::ENOENT)), Action::Report),
    ] {
        for (side, ops, rules) in [
            (Side::Read, &[What::Read(1)][..], rules(rule, Report)),
            (Side::Write, &writes[..], rules(Report, rule)),
        ] {
            for what in ops {
                let bench = Bench::new(rules, vec![failing(FaultOn::Any, errno)]);
                assert_eq!(bench.end_of(*what), expected, "{rule:?} {what:?}");
                let PolicyEvent::Failed(failure) = bench.events.try_recv().unwrap() else {
                    panic!("it stopped");
                };
                assert_eq!((failure.side, failure.action), (side, action));
                assert_eq!(failure.error, io(errno));
                assert!(bench.events.try_recv().is_err() && !bench.policy.is_stopped());
                assert_eq!(bench.policy.io_status(), IoStatus::Ok);
            }
        }
    }
}

#[test]
fn what_auto_means_stops_a_write_without_space_and_reports_everything_else() {
    let bench = Bench::new(
        ErrorRules::default(),
        vec![failing(FaultOn::Any, libc::ENOSPC)],
    );
    assert_eq!(bench.end_of(What::Read(0)), Err(Error::NoSpace));
    let started = bench.start(vec![What::Write(3)]);
    started.nothing_ends();
    assert!(bench.policy.is_stopped());
    assert_eq!(bench.policy.io_status(), IoStatus::NoSpace);
    bench.mend();
    assert!(bench.policy.resume());
    assert_eq!(started.next(), (0, Ok(())));
    let events: Vec<_> = bench.events.try_iter().collect();
    assert!(
        matches!(
            &events[..],
            [
                PolicyEvent::Failed(read),
                PolicyEvent::Failed(write),
                PolicyEvent::Stopped
            ] if read.action == Action::Report && write.action == Action::Stop
        ),
        "{events:?}"
    );
    assert!(!bench.policy.resume(), "it was running");
}

#[test]
fn a_stopped_device_keeps_what_failed_and_what_comes_later_and_repeats_it_in_order() {
    for on in [FaultOn::Read, FaultOn::Write] {
        let bench = Bench::new(
            STOP,
            vec![FaultRule {
                count: Some(1),
                ..failing(on, ERRNO_EIO)
            }],
        );
        let (first, later) = match on {
            FaultOn::Read => (What::Read(1), What::Write(2)),
            _ => (What::Write(1), What::Read(2)),
        };
        let ops = vec![first, later, What::Flush, What::Discard(9), first];
        let started = bench.start(ops);
        started.nothing_ends();
        assert_eq!(bench.policy.io_status(), IoStatus::Failed);
        assert!(bench.policy.resume());
        let order: Vec<_> = (0..5).map(|_| started.next()).collect();
        let expected: Vec<Ended> = (0..5).map(|n| (n, Ok(()))).collect();
        assert_eq!(order, expected);
        assert_eq!(bench.policy.io_status(), IoStatus::Ok);
    }
}

#[test]
fn an_error_on_one_reactor_stops_the_others_as_well() {
    let bench = Bench::new(
        STOP,
        vec![FaultRule {
            count: Some(1),
            ..failing(FaultOn::Write, ERRNO_EIO)
        }],
    );
    let other = Reactor::new();
    let one = bench.start(vec![What::Write(1)]);
    one.nothing_ends();
    let two = start(&other, bench.image(), vec![What::Read(1), What::Flush]);
    two.nothing_ends();
    bench.policy.resume();
    assert_eq!(one.next(), (0, Ok(())));
    assert_eq!([two.next(), two.next()], [(0, Ok(())), (1, Ok(()))]);
}

#[test]
fn an_error_that_is_still_there_stops_again() {
    let bench = Bench::new(STOP, vec![failing(FaultOn::Write, libc::ENOSPC)]);
    let started = bench.start(vec![What::Write(1), What::Write(2)]);
    for _ in 0..3 {
        started.nothing_ends();
        assert!(bench.policy.resume());
        let deadline = Instant::now() + Duration::from_secs(10);
        while !bench.policy.is_stopped() {
            assert!(Instant::now() < deadline, "it does not stop again");
            std::thread::yield_now();
        }
    }
    bench.mend();
    bench.policy.resume();
    let mut ended = [started.next(), started.next()];
    ended.sort_by_key(|(number, _)| *number);
    assert_eq!(ended, [(0, Ok(())), (1, Ok(()))]);
}

#[test]
fn what_a_guest_does_wrong_stops_nothing() {
    let past_the_end = SIZE / 512 + 7;
    let bench = Bench::new(STOP, Vec::new());
    for what in [What::Read(past_the_end), What::Write(past_the_end)] {
        assert_eq!(bench.end_of(what), Err(Error::OutOfRange));
    }
    // Guest memory that is not there.
    bench
        .faults
        .set(Faults {
            rules: vec![failing(FaultOn::Any, libc::EFAULT)],
            seed: 0,
        })
        .unwrap();
    assert_eq!(bench.end_of(What::Read(1)), Err(io(libc::EFAULT)));
    let read_only = NodeOptions {
        read_only: true,
        ..NodeOptions::default()
    };
    let image = open_node(Driver::Memory { size: SIZE }, &read_only).unwrap();
    let policy = ErrorPolicy::new(image, STOP, |event| panic!("{event:?}"));
    let write = start(&bench.reactor, policy, vec![What::Write(1)]).next();
    assert_eq!(write.1, Err(Error::ReadOnly));
    assert!(bench.events.try_recv().is_err() && !bench.policy.is_stopped());
}

#[test]
fn an_operation_that_is_kept_can_be_cancelled_and_the_others_go_on() {
    for why in [Cancel::Abandoned, Cancel::Hurried] {
        let bench = Bench::new(STOP, vec![failing(FaultOn::Write, ERRNO_EIO)]);
        let started = bench.start(vec![What::Write(1), What::Read(2), What::Write(3)]);
        started.nothing_ends();
        started.cancel(0, why);
        assert_eq!(started.next(), (0, Err(Error::Cancelled)));
        started.cancel(1, why);
        assert_eq!(started.next(), (1, Err(Error::Cancelled)));
        started.nothing_ends();
        bench.mend();
        bench.policy.resume();
        assert_eq!(started.next(), (2, Ok(())));
    }
}

#[test]
fn an_operation_that_was_cancelled_before_it_failed_is_not_kept() {
    for (why, stops) in [(Cancel::Abandoned, false), (Cancel::Hurried, true)] {
        let late = FaultRule {
            torn: 512,
            latency: Duration::from_millis(1),
            ..failing(FaultOn::Write, ERRNO_EIO)
        };
        let bench = Bench::new(STOP, vec![late]);
        let started = bench.start(vec![What::Write(1)]);
        started.cancel(0, why);
        let (_, result) = started.next();
        assert!(result.is_err());
        // Nobody wants to know about one; the other is to be sent again, and waits then.
        assert_eq!(bench.policy.is_stopped(), stops, "{why:?}: {result:?}");
    }
}

#[test]
fn when_the_device_goes_what_is_kept_is_tried_a_last_time() {
    let bench = Bench::new(STOP, vec![failing(FaultOn::Write, ERRNO_EIO)]);
    let started = bench.start(vec![What::Write(1), What::Read(2)]);
    started.nothing_ends();
    bench.policy.end_waits();
    assert_eq!(started.next(), (0, Err(io(ERRNO_EIO))));
    assert_eq!(started.next(), (1, Ok(())));
    assert!(!bench.policy.is_stopped());
}

#[test]
fn a_device_can_be_stopped_without_an_error() {
    let bench = Bench::new(ErrorRules::default(), Vec::new());
    bench.policy.stop();
    let started = bench.start(vec![What::Read(1)]);
    started.nothing_ends();
    assert_eq!(bench.policy.io_status(), IoStatus::Ok);
    bench.policy.resume();
    assert_eq!(started.next(), (0, Ok(())));
}

#[test]
fn nothing_keeps_an_image_open_when_all_that_was_kept_is_cancelled() {
    let image = memory();
    let weak = Arc::downgrade(&image);
    let bench = Bench::over(image, STOP, vec![failing(FaultOn::Any, ERRNO_EIO)]);
    let started = bench.start(vec![What::Write(1)]);
    started.nothing_ends();
    started.cancel(0, Cancel::Abandoned);
    assert_eq!(started.next(), (0, Err(Error::Cancelled)));
    assert!(bench.policy.is_stopped());
    drop(bench);
    assert!(weak.upgrade().is_none());
}

#[test]
fn a_torn_write_leaves_its_first_sectors_in_the_image() {
    for (torn, sectors) in [(0, 0), (511, 0), (512, 1), (1500, 2), (1 << 20, 4)] {
        let rule = FaultRule {
            torn,
            count: Some(1),
            ..failing(FaultOn::Write, ERRNO_EIO)
        };
        let image: Arc<dyn Image> = faulty(memory(), vec![rule]);
        let reactor = Reactor::new();
        let content = reactor.run(move |reactor| async move {
            let io = image.open(&reactor).unwrap();
            let data = Memory::with(&[700, 1348], 0, &[0x5A; 2048]);
            let wrote = run(&reactor, &io, Op::write(4096, data.sgl(), true)).await;
            assert_eq!(wrote, Err(Error::from_errno(libc::EIO)));
            let back = Memory::new(&[2048], 0);
            run(&reactor, &io, Op::read(4096, back.sgl()))
                .await
                .unwrap();
            back.content()
        });
        let (torn, rest) = content.split_at(sectors * 512);
        assert!(torn.iter().all(|b| *b == 0x5A) && rest.iter().all(|b| *b == 0));
    }
}

#[test]
fn a_rule_meets_only_the_operations_it_is_for() {
    let rule = FaultRule {
        range: 5 * 512..6 * 512,
        skip: 1,
        count: Some(2),
        ..failing(FaultOn::Write, libc::ENOSPC)
    };
    let bench = Bench::new(rules(OnError::Report, OnError::Report), vec![rule]);
    let ends = |what| bench.end_of(what);
    for other in [
        What::Write(4),
        What::Write(6),
        What::Read(5),
        What::WriteZeroes(5),
        What::Flush,
    ] {
        assert_eq!(ends(other), Ok(()), "{other:?}");
    }
    let fates: Vec<bool> = (0..5).map(|_| ends(What::Write(5)).is_err()).collect();
    assert_eq!(fates, [false, true, true, false, false]);
    assert_eq!(bench.faults.fired(), [2]);
}

#[test]
fn dice_fall_the_same_way_from_the_same_seed_and_about_as_often_as_they_should() {
    let run = |seed| {
        let rule = FaultRule {
            probability: 0.25,
            ..failing(FaultOn::Write, libc::EIO)
        };
        let faults = Faults {
            rules: vec![rule],
            seed,
        };
        let image = FaultInjection::new(memory(), faults, &NodeOptions::default()).unwrap();
        let reactor = Reactor::new();
        let ops = vec![What::Write(1); 400];
        let started = start(&reactor, image, ops);
        let mut fates: Vec<_> = (0..400).map(|_| started.next()).collect();
        fates.sort_by_key(|(number, _)| *number);
        let fates: Vec<bool> = fates.iter().map(|(_, fate)| fate.is_err()).collect();
        fates
    };
    let fates = run(1);
    assert_eq!(fates, run(1));
    assert_ne!(fates, run(2));
    let failed = fates.iter().filter(|f| **f).count();
    assert!((70..130).contains(&failed), "{failed} of 400");
}

#[test]
fn rules_that_make_no_sense_are_refused_and_the_old_ones_stay() {
    let image = faulty(memory(), vec![failing(FaultOn::Read, libc::EIO)]);
    let default = FaultRule::default;
    for (rule, word) in [
        (
            FaultRule {
                probability: 1.5,
                ..default()
            },
            "probability",
        ),
        (
            FaultRule {
                probability: f64::NAN,
                ..default()
            },
            "probability",
        ),
        (
            FaultRule {
                errno: Some(0),
                ..default()
            },
            "errno",
        ),
        (
            FaultRule {
                errno: None,
                ..default()
            },
            "latency",
        ),
        (
            FaultRule {
                torn: 512,
                ..failing(FaultOn::Read, 5)
            },
            "torn",
        ),
        (
            FaultRule {
                range: 5..5,
                ..default()
            },
            "range",
        ),
    ] {
        let faults = Faults {
            rules: vec![rule],
            seed: 0,
        };
        let Err(Error::Open(message)) = image.set(faults) else {
            panic!("{word} was taken");
        };
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(image.faults().rules, [failing(FaultOn::Read, libc::EIO)]);
}

#[test]
fn a_delayed_operation_can_be_cancelled_and_takes_its_time_otherwise() {
    let delay = |ms| FaultRule {
        latency: Duration::from_millis(ms),
        errno: None,
        ..FaultRule::default()
    };
    let reactor = Reactor::new();
    let image = faulty(memory(), vec![delay(50)]);
    let begun = Instant::now();
    assert_eq!(
        start(&reactor, image.clone(), vec![What::Read(1)]).next().1,
        Ok(())
    );
    assert!(begun.elapsed() >= Duration::from_millis(50));
    image
        .set(Faults {
            rules: vec![delay(3_600_000)],
            seed: 0,
        })
        .unwrap();
    let started = start(&reactor, image, vec![What::Read(1), What::Write(2)]);
    started.cancel(0, Cancel::Abandoned);
    assert_eq!(started.next(), (0, Err(Error::Cancelled)));
    started.cancel(1, Cancel::Hurried);
    assert_eq!(started.next(), (1, Ok(())));
}

#[derive(Clone, Debug)]
enum Deed {
    Resume,
    Stop,
    Fail(u8),
    Cancel(usize, bool),
    Pause,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        2 => Just(Deed::Resume),
        1 => Just(Deed::Stop),
        2 => (0u8..100).prop_map(Deed::Fail),
        3 => (0usize..24, any::<bool>()).prop_map(|(n, hurried)| Deed::Cancel(n, hurried)),
        1 => Just(Deed::Pause),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_operation_ends_once_whatever_happens_meanwhile(deeds in prop::collection::vec(deed(), 1..20)) {
        let faults = |percent: u8| Faults {
            rules: vec![FaultRule {
                probability: f64::from(percent) / 100.0,
                latency: Duration::from_micros(u64::from(percent) * 7 % 400),
                ..failing(FaultOn::Any, libc::EIO)
            }],
            seed: u64::from(percent),
        };
        let bench = Bench::new(STOP, faults(50).rules);
        let ops: Vec<What> = (0..24).map(|n| match n % 4 {
            0 => What::Write(n),
            1 => What::Read(n),
            2 => What::Flush,
            _ => What::WriteZeroes(n),
        }).collect();
        let started = bench.start(ops);
        let mut cancelled = [false; 24];
        for deed in deeds {
            match deed {
                Deed::Resume => { bench.policy.resume(); }
                Deed::Stop => bench.policy.stop(),
                Deed::Fail(percent) => bench.faults.set(faults(percent)).unwrap(),
                Deed::Cancel(n, hurried) => {
                    cancelled[n] = true;
                    // All may be over already.
                    let _ = started.cancel.send((n, if hurried { Cancel::Hurried } else { Cancel::Abandoned }));
                }
                Deed::Pause => std::thread::sleep(Duration::from_micros(500)),
            }
        }
        bench.mend();
        let operator = Operator::of(&bench.policy);
        let mut ends = [0; 24];
        for _ in 0..24 {
            let (number, result) = started.next();
            ends[number] += 1;
            match result {
                Ok(()) => {}
                Err(error) => prop_assert!(cancelled[number], "{number}: {error}"),
            }
        }
        prop_assert_eq!(ends, [1; 24]);
        operator.times();
        prop_assert!(started.ended.try_recv().is_err());
    }
}

/// What a policy costs: `cargo test --release -p lunar-block --test filters -- --ignored --nocapture`.
#[test]
#[ignore = "figures, to be read by people"]
#[allow(clippy::print_stdout, reason = "its output is its purpose")]
fn figures_of_what_an_operation_costs() {
    use lunar_block::{Limit, Limits, Throttle, ThrottleGroup};
    let null = || {
        let driver = Driver::Null {
            size: SIZE,
            read_zeroes: false,
            latency_ns: 0,
        };
        open_node(driver, &NodeOptions::default()).unwrap()
    };
    let throttle = |average| {
        let iops_total = Limit {
            average,
            ..Limit::default()
        };
        let limits = Limits {
            iops_total,
            ..Limits::default()
        };
        let group = ThrottleGroup::new(limits).unwrap();
        Throttle::new(null(), group, &NodeOptions::default()).unwrap()
    };
    let policy: Arc<dyn Image> = ErrorPolicy::new(null(), STOP, |_| ());
    let subjects: [(&str, Arc<dyn Image>); 5] = [
        ("null", null()),
        ("policy on null", policy),
        ("throttle without limits on null", throttle(0)),
        (
            "throttle far from its limit on null",
            throttle(1_000_000_000),
        ),
        ("blkdebug without rules on null", faulty(null(), Vec::new())),
    ];
    let reactor = Reactor::new();
    let mut best = [f64::MAX; 5];
    for _ in 0..9 {
        for ((_, image), best) in subjects.iter().zip(&mut best) {
            let image = image.clone();
            let time = reactor.run(move |reactor| async move {
                let io = image.open(&reactor).unwrap();
                let memory = Memory::new(&[4096], 0);
                let begun = Instant::now();
                for n in 0..1_000_000u64 {
                    let mut op = Op::read(n % 64 * 4096, memory.sgl());
                    let progress = io.start(&mut op, lunar_reactor::Token(n));
                    assert!(matches!(progress, lunar_block::Progress::Done(Ok(()))));
                }
                begun.elapsed().as_secs_f64() * 1e3
            });
            *best = best.min(time);
        }
    }
    for ((name, _), best) in subjects.iter().zip(best) {
        println!("{name}: {best:.1} ns");
    }
}
