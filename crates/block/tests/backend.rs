//! What a device has beneath it: failures are dealt with, limits come and go, and what is done is counted.
#![cfg(test)]
#![allow(clippy::cast_possible_truncation, reason = "patterns are cut to bytes")]

mod support;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lunar_block::{
    Action, Activity, Backend, Cancel, DataHandle, Driver, Error, ErrorRules, FaultOn, FaultRule,
    Faults, Histogram, Histograms, Image, Info, IoStatus, Limit, Limits, NodeOptions, OnError,
    PolicyEvent, Side, Space, Stats, ThrottleGroup, open_node,
};
use lunar_reactor::Handle;
use proptest::prelude::*;
use support::steps::*;
use support::suite::conforms;
use support::{Reactor, disk_dir, open_file, open_qcow2, qcow2_file, raw_file};

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
fn a_backend_over_an_image_that_never_fails_is_that_image() {
    let bench = Bench::new(STOP, Vec::new());
    conforms(&reactors(), &bench.image(), 20).unwrap();
    assert!(bench.events.try_recv().is_err());
}

#[test]
fn a_backend_over_a_file_conforms_and_the_file_holds_the_model() {
    let dir = disk_dir();
    let path = raw_file(dir.path(), "disk.raw", SIZE);
    let file = open_file(&path, &NodeOptions::default()).unwrap();
    let image: Arc<dyn Image> = Backend::new(file, STOP, |_| panic!("nothing fails"));
    let model = conforms(&reactors(), &image, 10).unwrap();
    image.close().unwrap();
    assert!(std::fs::read(&path).unwrap() == model);
}

/// Lets a stopped device go on whenever it stops, until it is dropped.
struct Operator {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u32>>,
}

impl Operator {
    fn of(backend: &Arc<Backend>) -> Operator {
        let stop = Arc::new(AtomicBool::new(false));
        let (over, backend) = (stop.clone(), backend.clone());
        let thread = std::thread::spawn(move || {
            let mut times = 0;
            while !over.load(Ordering::Relaxed) {
                times += u32::from(backend.is_stopped() && backend.resume());
                std::thread::sleep(Duration::from_micros(200));
            }
            backend.resume();
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
    let operator = Operator::of(&bench.backend);
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
                assert!(bench.events.try_recv().is_err() && !bench.backend.is_stopped());
                assert_eq!(bench.backend.io_status(), IoStatus::Ok);
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
    assert!(bench.backend.is_stopped());
    assert_eq!(bench.backend.io_status(), IoStatus::NoSpace);
    bench.mend();
    assert!(bench.backend.resume());
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
    assert!(!bench.backend.resume(), "it was running");
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
        assert_eq!(bench.backend.io_status(), IoStatus::Failed);
        assert!(bench.backend.resume());
        let order: Vec<_> = (0..5).map(|_| started.next()).collect();
        let expected: Vec<Ended> = (0..5).map(|n| (n, Ok(()))).collect();
        assert_eq!(order, expected);
        assert_eq!(bench.backend.io_status(), IoStatus::Ok);
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
    bench.backend.resume();
    assert_eq!(one.next(), (0, Ok(())));
    assert_eq!([two.next(), two.next()], [(0, Ok(())), (1, Ok(()))]);
}

#[test]
fn an_error_that_is_still_there_stops_again() {
    let bench = Bench::new(STOP, vec![failing(FaultOn::Write, libc::ENOSPC)]);
    let started = bench.start(vec![What::Write(1), What::Write(2)]);
    for _ in 0..3 {
        started.nothing_ends();
        assert!(bench.backend.resume());
        let deadline = Instant::now() + Duration::from_secs(10);
        while !bench.backend.is_stopped() {
            assert!(Instant::now() < deadline, "it does not stop again");
            std::thread::yield_now();
        }
    }
    bench.mend();
    bench.backend.resume();
    let mut ended = [started.next(), started.next()];
    ended.sort_by_key(|(number, _)| *number);
    assert_eq!(ended, [(0, Ok(())), (1, Ok(()))]);
}

#[test]
fn what_began_before_a_device_was_let_go_on_and_fails_after_is_repeated_and_stops_nothing() {
    let once = |on, latency| FaultRule {
        count: Some(1),
        latency,
        ..failing(on, libc::ENOSPC)
    };
    let bench = Bench::new(
        STOP,
        vec![
            once(FaultOn::Write, Duration::from_secs(1)),
            once(FaultOn::Flush, Duration::ZERO),
        ],
    );
    let started = bench.start(vec![What::Write(1), What::Flush]);
    while !bench.backend.is_stopped() {
        std::thread::yield_now();
    }
    bench.backend.resume();
    assert_eq!(started.next(), (1, Ok(())));
    assert_eq!(started.next(), (0, Ok(())));
    assert!(!bench.backend.is_stopped());
    let events: Vec<_> = bench.events.try_iter().collect();
    assert!(
        matches!(&events[..], [PolicyEvent::Failed(_), PolicyEvent::Stopped]),
        "{events:?}"
    );
    assert_eq!(bench.faults.fired(), [1, 1]);
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
    let backend = Backend::new(image, STOP, |event| panic!("{event:?}"));
    let write = start(&bench.reactor, backend, vec![What::Write(1)]).next();
    assert_eq!(write.1, Err(Error::ReadOnly));
    assert!(bench.events.try_recv().is_err() && !bench.backend.is_stopped());
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
        bench.backend.resume();
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
        assert_eq!(bench.backend.is_stopped(), stops, "{why:?}: {result:?}");
    }
}

#[test]
fn when_the_device_goes_what_is_kept_is_tried_a_last_time() {
    let bench = Bench::new(STOP, vec![failing(FaultOn::Write, ERRNO_EIO)]);
    let started = bench.start(vec![What::Write(1), What::Read(2)]);
    started.nothing_ends();
    bench.backend.end_waits();
    assert_eq!(started.next(), (0, Err(io(ERRNO_EIO))));
    assert_eq!(started.next(), (1, Ok(())));
    assert!(!bench.backend.is_stopped());
}

#[test]
fn a_device_can_be_stopped_without_an_error() {
    let bench = Bench::new(ErrorRules::default(), Vec::new());
    bench.backend.stop();
    let started = bench.start(vec![What::Read(1)]);
    started.nothing_ends();
    assert_eq!(bench.backend.io_status(), IoStatus::Ok);
    bench.backend.resume();
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
    assert!(bench.backend.is_stopped());
    drop(bench);
    assert!(weak.upgrade().is_none());
}

fn iops(limit: u64) -> Arc<ThrottleGroup> {
    let iops_total = Limit {
        average: limit,
        ..Limit::default()
    };
    let limits = Limits {
        iops_total,
        ..Limits::default()
    };
    ThrottleGroup::new(limits).unwrap()
}

#[test]
fn a_limit_is_in_the_way_only_as_long_as_there_is_one() {
    let bench = Bench::new(STOP, Vec::new());
    let reads = |n| (0..n).map(What::Read).collect();
    for _ in 0..3 {
        let group = iops(1);
        bench.backend.set_group(Some(group.clone()));
        let started = bench.start(reads(9));
        assert_eq!(started.next().1, Ok(()));
        started.nothing_ends();
        assert!(group.waiting() > 0);
        bench.backend.set_group(None);
        (0..8).for_each(|_| assert_eq!(started.next().1, Ok(())));
        assert_eq!(group.waiting(), 0);
        // Within the time of a few, were there still a limit.
        let begun = Instant::now();
        let started = bench.start(reads(100));
        (0..100).for_each(|_| assert_eq!(started.next().1, Ok(())));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    assert!(bench.events.try_recv().is_err());
}

#[test]
fn a_limit_that_comes_and_goes_under_load_loses_nothing() {
    let bench = Bench::new(STOP, Vec::new());
    let over = Arc::new(AtomicBool::new(false));
    let changes = std::thread::spawn({
        let (over, backend) = (over.clone(), bench.backend.clone());
        move || {
            while !over.load(Ordering::Relaxed) {
                backend.set_group(Some(iops(20_000)));
                std::thread::sleep(Duration::from_micros(300));
                backend.set_group(None);
                std::thread::sleep(Duration::from_micros(300));
            }
        }
    });
    conforms(&reactors(), &bench.image(), 20).unwrap();
    over.store(true, Ordering::Relaxed);
    changes.join().unwrap();
}

/// Delays everything on one side.
fn slow(on: FaultOn, latency: Duration) -> FaultRule {
    FaultRule {
        on,
        latency,
        errno: None,
        ..FaultRule::default()
    }
}

#[test]
fn operations_are_counted_when_they_end_with_the_time_that_they_took() {
    let time = Duration::from_millis(20);
    let bench = Bench::new(
        rules(OnError::Report, OnError::Report),
        vec![
            slow(FaultOn::Read, time),
            failing(FaultOn::Flush, ERRNO_EIO),
        ],
    );
    assert_eq!(bench.backend.activities().idle, None);
    for what in [
        What::Read(1),
        What::Read(2),
        What::Write(1),
        What::Discard(3),
    ] {
        assert_eq!(bench.end_of(what), Ok(()));
    }
    assert_eq!(bench.end_of(What::Flush), Err(io(ERRNO_EIO)));
    let all = bench.backend.activities();
    let count = |a: &Activity| (a.operations, a.bytes, a.failed, a.invalid);
    assert_eq!(count(&all.reads), (2, 1024, 0, 0));
    assert_eq!(count(&all.writes), (1, 512, 0, 0));
    assert_eq!(count(&all.discards), (1, 512, 0, 0));
    assert_eq!(count(&all.flushes), (0, 0, 1, 0));
    let least = time.as_nanos() as u64;
    assert!(all.reads.nanoseconds >= 2 * least);
    assert!(all.reads.latencies.quantile(10).unwrap() > least);
    assert!(all.writes.nanoseconds < least, "{all:?}");
    assert!(all.idle.is_some());
}

#[test]
fn the_time_that_an_operation_was_kept_is_time_that_it_took() {
    let once = FaultRule {
        count: Some(1),
        ..failing(FaultOn::Read, ERRNO_EIO)
    };
    let bench = Bench::new(STOP, vec![once]);
    let started = bench.start(vec![What::Read(1)]);
    started.nothing_ends();
    bench.backend.resume();
    assert_eq!(started.next(), (0, Ok(())));
    let reads = bench.backend.activities().reads;
    assert_eq!((reads.operations, reads.failed), (1, 0));
    assert!(reads.nanoseconds >= SOON.as_nanos() as u64);
}

#[test]
fn a_histogram_counts_from_when_it_is_set_and_no_longer_than_it_is() {
    let time = Duration::from_millis(5);
    let bench = Bench::new(STOP, vec![slow(FaultOn::Read, time)]);
    assert_eq!(bench.end_of(What::Read(1)), Ok(()));
    let reads = Histogram::new(vec![1_000_000, 60_000_000_000]).map(Arc::new);
    bench.backend.set_histograms(Histograms {
        reads: reads.clone(),
        ..Histograms::default()
    });
    for what in [What::Read(1), What::Read(2), What::Write(1)] {
        assert_eq!(bench.end_of(what), Ok(()));
    }
    bench.backend.set_histograms(Histograms::default());
    assert_eq!(bench.end_of(What::Read(1)), Ok(()));
    assert_eq!(reads.unwrap().bins(), [0, 2, 0]);
}

#[test]
fn a_write_behind_the_threshold_is_told_of_once() {
    let bench = Bench::new(STOP, Vec::new());
    let (send, told) = std::sync::mpsc::channel();
    let threshold = Arc::clone(bench.backend.write_threshold().unwrap());
    threshold.set(4 * 512, move |exceeded, threshold| {
        send.send((exceeded, threshold)).unwrap();
    });
    for what in [What::Write(3), What::Read(9), What::Discard(9)] {
        assert_eq!(bench.end_of(what), Ok(()));
        assert_eq!(threshold.get(), Some(4 * 512));
    }
    assert_eq!(bench.end_of(What::Write(5)), Ok(()));
    assert_eq!(told.recv().unwrap(), (2 * 512, 4 * 512));
    assert_eq!(threshold.get(), None);
    assert_eq!(bench.end_of(What::WriteZeroes(9)), Ok(()));
    assert!(told.recv().is_err(), "once, and then nobody is told");
    assert_eq!(bench.image().stats().highest, 10 * 512);
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
                Deed::Resume => { bench.backend.resume(); }
                Deed::Stop => bench.backend.stop(),
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
        let operator = Operator::of(&bench.backend);
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
