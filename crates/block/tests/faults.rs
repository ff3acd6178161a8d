//! Faults on purpose: each does what its rule says, and nothing else.
#![cfg(test)]
#![allow(clippy::cast_possible_truncation, reason = "patterns are cut to bytes")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use lunar_block::{
    Cancel, DetectZeroes, Error, FaultInjection, FaultOn, FaultRule, Faults, Image, NodeOptions,
    OnError, Op, run,
};
use support::steps::*;
use support::suite::conforms;
use support::{Memory, Reactor};

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
