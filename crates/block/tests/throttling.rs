//! Throttling: the limits hold, in the long run and in bursts, alone and shared.
#![cfg(test)]
#![allow(clippy::cast_possible_truncation, reason = "the counts are small")]

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use lunar_block::{
    Cancel, Canceller, Driver, Error, Image, Limit, Limits, NodeOptions, Op, OpKind, Throttle,
    ThrottleGroup, open_node, run,
};
use lunar_reactor::Handle;
use support::suite::conforms;
use support::{Memory, Reactor};

const SIZE: u64 = (2 << 20) + 3 * 512;

fn options() -> NodeOptions {
    NodeOptions {
        discard_unmap: true,
        ..NodeOptions::default()
    }
}

fn memory() -> Arc<dyn Image> {
    open_node(Driver::Memory { size: SIZE }, &options()).unwrap()
}

fn throttled(group: &Arc<ThrottleGroup>) -> Arc<Throttle> {
    Throttle::new(memory(), group.clone(), &options()).unwrap()
}

fn average(average: u64) -> Limit {
    Limit {
        average,
        ..Limit::default()
    }
}

fn iops(limit: u64) -> Limits {
    Limits {
        iops_total: average(limit),
        ..Limits::default()
    }
}

/// What a load does, again and again.
#[derive(Clone, Copy, Debug)]
enum Does {
    Reads(usize),
    Writes(usize),
    Both(usize),
}

/// Keeps `depth` operations in flight for a time; how many have ended.
async fn load(
    reactor: Handle,
    image: Arc<dyn Image>,
    depth: usize,
    does: Does,
    time: Duration,
) -> u64 {
    let io = image.open(&reactor).unwrap();
    let (ended, left) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(depth)));
    let over = Instant::now() + time;
    for lane in 0..depth {
        let (io, handle) = (Rc::clone(&io), reactor.clone());
        let (ended, left) = (ended.clone(), left.clone());
        reactor.spawn(async move {
            let (kind, len) = match does {
                Does::Reads(len) => (OpKind::Read, len),
                Does::Writes(len) => (OpKind::Write { fua: false }, len),
                Does::Both(len) if lane % 2 == 0 => (OpKind::Read, len),
                Does::Both(len) => (OpKind::Write { fua: false }, len),
            };
            let memory = Memory::new(&[len], 0);
            while Instant::now() < over {
                let op = Op::new(kind, 0, len as u64, memory.sgl());
                run(&handle, &io, op).await.unwrap();
                if Instant::now() < over {
                    ended.set(ended.get() + 1);
                }
                handle.yield_now().await;
            }
            left.set(left.get() - 1);
        });
    }
    while left.get() > 0 {
        reactor.sleep(Duration::from_millis(5)).await;
    }
    ended.get()
}

/// Runs loads at once, each on a reactor of its own; gives the rate of each, in operations per second.
fn rates(loads: Vec<(Arc<dyn Image>, usize, Does)>, seconds: f64) -> Vec<f64> {
    let running: Vec<_> = loads
        .into_iter()
        .map(|(image, depth, does)| {
            let reactor = Reactor::new();
            let time = Duration::from_secs_f64(seconds);
            let ended = reactor.start(move |r| load(r, image, depth, does, time));
            (reactor, ended)
        })
        .collect();
    running
        .into_iter()
        .map(|(_reactor, ended)| {
            ended.recv_timeout(Duration::from_secs(120)).unwrap() as f64 / seconds
        })
        .collect()
}

fn rate(image: Arc<dyn Image>, depth: usize, does: Does, seconds: f64) -> f64 {
    rates(vec![(image, depth, does)], seconds)[0]
}

/// Whether a limit was held: never more than it lets through, with the tenth of a second that it may be ahead; and not
/// next to nothing, though the machine may have had other things to do.
fn holds(rate: f64, limit: f64, seconds: f64) {
    let most = limit * (seconds + 0.1) / seconds * 1.05 + 4.0;
    assert!(rate <= most, "{rate:.1} is more than {most:.1}");
    assert!(rate >= limit * 0.1, "{rate:.1} is far less than {limit:.1}");
}

#[test]
fn a_throttled_image_conforms_whether_limits_are_met_or_not() {
    for limits in [
        Limits::default(),
        iops(1_000_000),
        Limits {
            iops_read: average(3000),
            bps_write: average(50 << 20),
            ..Limits::default()
        },
    ] {
        let group = ThrottleGroup::new(limits).unwrap();
        let image: Arc<dyn Image> = throttled(&group);
        conforms(&[Reactor::new(), Reactor::new()], &image, 3).unwrap();
        assert_eq!(group.waiting(), 0);
    }
}

#[test]
fn operations_per_second_are_limited_at_any_depth() {
    for depth in [1, 32] {
        let group = ThrottleGroup::new(iops(500)).unwrap();
        let rate = rate(throttled(&group), depth, Does::Both(4096), 1.0);
        holds(rate, 500.0, 1.0);
    }
}

#[test]
fn bytes_per_second_are_limited_at_any_depth() {
    for depth in [1, 32] {
        let limits = Limits {
            bps_write: average(4 << 20),
            ..Limits::default()
        };
        let group = ThrottleGroup::new(limits).unwrap();
        let image = throttled(&group);
        let rate = rate(image.clone(), depth, Does::Writes(16 << 10), 1.0);
        holds(rate, 256.0, 1.0);
        // Reads are not.
        assert!(self::rate(image, depth, Does::Reads(16 << 10), 0.1) > 1000.0);
    }
}

#[test]
fn large_operations_count_as_several() {
    let limits = Limits {
        iops_size: 4096,
        ..iops(400)
    };
    let group = ThrottleGroup::new(limits).unwrap();
    holds(
        rate(throttled(&group), 4, Does::Reads(16 << 10), 1.0),
        100.0,
        1.0,
    );
    holds(
        rate(throttled(&group), 4, Does::Reads(512), 1.0),
        400.0,
        1.0,
    );
}

#[test]
fn a_burst_goes_as_far_as_it_may() {
    let limits = Limits {
        iops_total: Limit {
            average: 100,
            burst: 1000,
            burst_seconds: 1,
        },
        ..Limits::default()
    };
    let group = ThrottleGroup::new(limits).unwrap();
    let begun = Instant::now();
    let burst = rate(throttled(&group), 8, Does::Reads(512), 0.5) * 0.5;
    let expected = 1000.0 + begun.elapsed().as_secs_f64() * 100.0;
    assert!(
        (500.0..=expected * 1.05).contains(&burst),
        "{burst} of {expected}"
    );
    holds(
        rate(throttled(&group), 8, Does::Reads(512), 1.0),
        100.0,
        1.0,
    );
}

#[test]
fn a_long_burst_has_its_own_rate() {
    let limits = Limits {
        iops_total: Limit {
            average: 50,
            burst: 400,
            burst_seconds: 10,
        },
        ..Limits::default()
    };
    let group = ThrottleGroup::new(limits).unwrap();
    holds(
        rate(throttled(&group), 8, Does::Reads(512), 1.0),
        400.0,
        1.0,
    );
}

#[test]
fn a_group_is_fair_to_its_images_whatever_their_depth_and_wherever_they_are() {
    let group = ThrottleGroup::new(iops(600)).unwrap();
    let loads = [
        (1, Does::Reads(512)),
        (32, Does::Reads(512)),
        (8, Does::Reads(512)),
    ];
    let loads = loads.map(|(depth, does)| (throttled(&group) as Arc<dyn Image>, depth, does));
    let rates = rates(loads.into(), 2.0);
    holds(rates.iter().sum(), 600.0, 2.0);
    for rate in &rates {
        // By depth, the first would get one in forty.
        assert!(*rate > 600.0 / 8.0, "{rates:?}");
    }
}

#[test]
fn reads_and_writes_share_what_is_limited_together() {
    let group = ThrottleGroup::new(iops(400)).unwrap();
    let loads = [Does::Reads(512), Does::Writes(512)];
    let loads = loads.map(|does| (throttled(&group) as Arc<dyn Image>, 8, does));
    let rates = rates(loads.into(), 1.0);
    holds(rates.iter().sum(), 400.0, 1.0);
    for rate in &rates {
        assert!(*rate > 400.0 / 4.0, "{rates:?}");
    }
}

#[test]
fn one_image_on_several_reactors_is_one_image() {
    let group = ThrottleGroup::new(iops(400)).unwrap();
    let image = throttled(&group);
    let loads = (0..3).map(|_| (image.clone() as Arc<dyn Image>, 4, Does::Reads(512)));
    let total: f64 = rates(loads.collect(), 1.0).iter().sum();
    holds(total, 400.0, 1.0);
}

/// Which read has ended, and how.
type Ended = (usize, Result<(), Error>);

/// Starts reads, one after the other, and gives the end of each.
fn reads(
    image: Arc<dyn Image>,
    count: usize,
) -> (Reactor, Receiver<Ended>, Sender<(usize, Cancel)>) {
    let reactor = Reactor::new();
    let (send, ended) = channel();
    let (cancel, cancels) = channel::<(usize, Cancel)>();
    reactor.start(move |reactor| async move {
        let io = image.open(&reactor).unwrap();
        let left = Rc::new(Cell::new(count));
        let cancellers: Vec<Canceller> = (0..count).map(|_| Canceller::default()).collect();
        for (number, canceller) in cancellers.iter().enumerate() {
            let (handle, send, left) = (reactor.clone(), send.clone(), left.clone());
            let io = canceller.guard(&io);
            reactor.spawn(async move {
                let memory = Memory::new(&[512], 0);
                let op = Op::read(0, memory.sgl());
                let _ = send.send((number, run(&handle, &io, op).await));
                left.set(left.get() - 1);
            });
        }
        while left.get() > 0 {
            for (number, why) in cancels.try_iter() {
                cancellers[number].cancel(why);
            }
            reactor.sleep(Duration::from_millis(1)).await;
        }
    });
    (reactor, ended, cancel)
}

const SOON: Duration = Duration::from_secs(10);

#[test]
fn what_waits_can_be_cancelled_and_hurried() {
    // One, and the next in an hour or so.
    let group = ThrottleGroup::new(Limits {
        iops_size: 512,
        ..iops(1)
    })
    .unwrap();
    let image = throttled(&group);
    assert_eq!(
        reads(image.clone(), 1).1.recv_timeout(SOON),
        Ok((0, Ok(())))
    );
    let big = Reactor::new();
    let handle: Arc<dyn Image> = image.clone();
    big.run(move |reactor| async move {
        let io = handle.open(&reactor).unwrap();
        let memory = Memory::new(&[1 << 20], 0);
        run(&reactor, &io, Op::read(0, memory.sgl())).await.unwrap();
    });
    let (_reactor, ended, cancel) = reads(image.clone(), 4);
    assert_eq!(
        ended.recv_timeout(Duration::from_millis(50)),
        Err(RecvTimeoutError::Timeout)
    );
    assert_eq!(group.waiting(), 4);
    cancel.send((2, Cancel::Abandoned)).unwrap();
    assert_eq!(ended.recv_timeout(SOON), Ok((2, Err(Error::Cancelled))));
    cancel.send((1, Cancel::Hurried)).unwrap();
    assert_eq!(ended.recv_timeout(SOON), Ok((1, Ok(()))));
    assert_eq!(group.waiting(), 2);
    // The device goes.
    image.end_waits();
    let mut rest = [
        ended.recv_timeout(SOON).unwrap(),
        ended.recv_timeout(SOON).unwrap(),
    ];
    rest.sort_by_key(|(number, _)| *number);
    assert_eq!(rest, [(0, Ok(())), (3, Ok(()))]);
    assert_eq!(group.waiting(), 0);
}

#[test]
fn new_limits_count_for_those_that_wait_already() {
    let group = ThrottleGroup::new(Limits {
        iops_size: 512,
        ..iops(1)
    })
    .unwrap();
    let image = throttled(&group);
    let (_reactor, ended, _cancel) = reads(image, 6);
    assert_eq!(ended.recv_timeout(SOON), Ok((0, Ok(()))));
    assert_eq!(
        ended.recv_timeout(Duration::from_millis(50)),
        Err(RecvTimeoutError::Timeout)
    );
    group.set(iops(1000)).unwrap();
    for number in 1..4 {
        assert_eq!(ended.recv_timeout(SOON), Ok((number, Ok(()))));
    }
    group.set(Limits::default()).unwrap();
    for number in 4..6 {
        assert_eq!(ended.recv_timeout(SOON), Ok((number, Ok(()))));
    }
}

#[test]
fn what_waits_goes_with_its_image_to_another_group() {
    let slow = || {
        ThrottleGroup::new(Limits {
            iops_size: 512,
            ..iops(1)
        })
        .unwrap()
    };
    let (first, second) = (slow(), slow());
    let image = throttled(&first);
    let (_reactor, ended, cancel) = reads(image.clone(), 6);
    assert_eq!(ended.recv_timeout(SOON), Ok((0, Ok(()))));
    let nothing_ends = || {
        assert_eq!(
            ended.recv_timeout(Duration::from_millis(50)),
            Err(RecvTimeoutError::Timeout)
        );
    };
    nothing_ends();
    assert_eq!(first.waiting(), 5);

    image.set_group(Some(second.clone()));
    // The first one finds the bucket of the new group empty.
    assert_eq!(ended.recv_timeout(SOON), Ok((1, Ok(()))));
    nothing_ends();
    assert_eq!((first.waiting(), second.waiting()), (0, 4));
    cancel.send((3, Cancel::Hurried)).unwrap();
    assert_eq!(ended.recv_timeout(SOON), Ok((3, Ok(()))));
    assert_eq!(second.waiting(), 3);

    image.set_group(None);
    for number in [2, 4, 5] {
        assert_eq!(ended.recv_timeout(SOON), Ok((number, Ok(()))));
    }
    assert_eq!(second.waiting(), 0);
    assert!(image.group().is_none());
}

#[test]
fn limits_that_contradict_each_other_are_refused_with_the_reason() {
    let burst = |average, burst, burst_seconds| Limit {
        average,
        burst,
        burst_seconds,
    };
    for (limits, words) in [
        (
            Limits {
                iops_read: average(5),
                ..iops(5)
            },
            "iops-total cannot be used together",
        ),
        (
            Limits {
                bps_total: average(5),
                bps_write: average(5),
                ..Limits::default()
            },
            "bps-total cannot",
        ),
        (
            Limits {
                iops_total: burst(0, 5, 1),
                ..Limits::default()
            },
            "iops-total-max needs iops-total",
        ),
        (
            Limits {
                iops_total: burst(9, 5, 1),
                ..Limits::default()
            },
            "cannot be lower",
        ),
        (
            Limits {
                bps_read: burst(9, 0, 5),
                ..Limits::default()
            },
            "bps-read-max-length needs bps-read-max",
        ),
        (
            Limits {
                bps_read: burst(9, 10, 0),
                ..Limits::default()
            },
            "at least 1 second",
        ),
        (
            Limits {
                bps_read: burst(9, 10, u64::MAX),
                ..Limits::default()
            },
            "too long",
        ),
        (
            Limits {
                bps_read: average(u64::MAX),
                ..Limits::default()
            },
            "at most",
        ),
        (
            Limits {
                iops_size: 5,
                ..Limits::default()
            },
            "iops-size needs",
        ),
    ] {
        let Err(Error::Open(message)) = ThrottleGroup::new(limits) else {
            panic!("{words}: taken");
        };
        assert!(message.contains(words), "{message}");
    }
}
