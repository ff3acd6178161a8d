//! `lunar stats`: what was done with the disks, or by the workers, in all or from moment to moment.

mod workers;

use std::time::{Duration, Instant};

use lunar_host::Latencies;
use lunar_monitor::{Client, ScsiController, ScsiDisk, ScsiLatencies, ScsiLatency};
use serde_json::{Value, json};

use super::{connect, name, table, tell, tree};
use crate::Failure;
use crate::args::Stats;
use crate::qemu::size;

/// Prints once, or again and again.
pub fn run(options: &Stats) -> Result<(), Failure> {
    print(options).map_err(Failure::Runtime)
}

fn print(options: &Stats) -> anyhow::Result<()> {
    match options.workers {
        false => show::<Disks>(options),
        true => show::<workers::Workers>(options),
    }
}

/// What a server has counted at a moment.
trait Counts: Sized {
    fn take(client: &mut Client) -> anyhow::Result<Self>;

    fn json(&self) -> Value;

    /// For people.
    fn text(&self) -> String;

    /// What was done in a second, on average since then: a line of JSON, or text for people.
    fn rates(&self, before: &Self, seconds: f64, json: bool) -> String;
}

fn show<C: Counts>(options: &Stats) -> anyhow::Result<()> {
    let mut client = connect(&options.at)?;
    let mut take = || C::take(&mut client).map(|counts| (Instant::now(), counts));
    let Some(seconds) = options.watch else {
        let (_, counts) = take()?;
        let text = match options.json {
            true => serde_json::to_string_pretty(&counts.json())?,
            false => counts.text().trim_end().to_owned(),
        };
        return tell(&(text + "\n")).map(drop);
    };
    let interval = Duration::from_secs_f64(seconds);
    let (mut at, mut before) = take()?;
    let mut left = options.count;
    loop {
        std::thread::sleep((at + interval).saturating_duration_since(Instant::now()));
        let (now, counts) = take()?;
        let seconds = now.duration_since(at).as_secs_f64().max(1e-6);
        if !tell(&(counts.rates(&before, seconds, options.json) + "\n"))? {
            return Ok(());
        }
        left = left.map(|left| left.saturating_sub(1));
        if left == Some(0) {
            return Ok(());
        }
        (at, before) = (now, counts);
    }
}

/// The disks of all controllers.
struct Disks(Vec<Counted>);

/// A disk, and which controller it is on.
struct Counted {
    controller: String,
    disk: ScsiDisk,
}

impl Counts for Disks {
    fn take(client: &mut Client) -> anyhow::Result<Disks> {
        let of_controller = |controller: ScsiController| {
            let name = name(&controller).to_owned();
            let disks = controller.disks.into_iter();
            disks.map(move |disk| Counted {
                controller: name.clone(),
                disk,
            })
        };
        let disks = tree(client)?.into_iter().flat_map(of_controller);
        Ok(Disks(disks.collect()))
    }

    fn json(&self) -> Value {
        self.0.iter().map(totals).collect()
    }

    fn text(&self) -> String {
        show_totals(&self.0)
    }

    fn rates(&self, before: &Disks, seconds: f64, json: bool) -> String {
        let rates = Rates::between(before, self, seconds);
        match json {
            true => rates.json().to_string(),
            false => rates.show(),
        }
    }
}

fn totals(counted: &Counted) -> Value {
    let Counted { controller, disk } = counted;
    json!({
        "controller": controller,
        "name": disk.name,
        "id": disk.id,
        "target": disk.target,
        "lun": disk.lun,
        "counters": disk.counters,
        "latency": Times::since(&disk.latencies, None).json(),
    })
}

fn show_totals(disks: &[Counted]) -> String {
    let mut rows = vec![
        [
            "DISK", "READS", "READ", "R-P50", "R-P99", "WRITES", "WRITTEN", "W-P50", "W-P99",
            "FLUSHES", "DISCARDS", "ERRORS",
        ]
        .map(str::to_owned),
    ];
    for Counted { disk, .. } in disks {
        let counters = &disk.counters;
        let times = Times::since(&disk.latencies, None);
        let [read_half, read_most] = times.reads.show();
        let [write_half, write_most] = times.writes.show();
        rows.push([
            disk.name.clone(),
            counters.reads.to_string(),
            size(counters.read_bytes.into()),
            read_half,
            read_most,
            counters.writes.to_string(),
            size(counters.written_bytes.into()),
            write_half,
            write_most,
            counters.flushes.to_string(),
            counters.discards.to_string(),
            counters.errors.to_string(),
        ]);
    }
    table::render(&rows, NUMBERS)
}

/// All but the name are numbers.
const NUMBERS: [bool; 12] = [
    false, true, true, true, true, true, true, true, true, true, true, true,
];

/// How long operations took.
struct Times {
    reads: Time,
    writes: Time,
    flushes: Time,
    discards: Time,
}

/// How long most of one kind took, in nanoseconds.
struct Time {
    /// Half of them, 99 of a hundred.
    quantiles: [Option<u64>; 2],
}

impl Times {
    /// Of those that have ended since.
    fn since(now: &ScsiLatencies, before: Option<&ScsiLatencies>) -> Times {
        let time = |of: fn(&ScsiLatencies) -> &Vec<ScsiLatency>| {
            let old = before.map(of).map_or(&[][..], Vec::as_slice);
            let more = of(now).iter().map(|class| {
                let old = old.iter().find(|old| old.below == class.below);
                let old = old.map_or(0, |old| old.count);
                (class.below, class.count.saturating_sub(old))
            });
            let ended = Latencies(more.filter(|(_, count)| *count > 0).collect());
            Time {
                quantiles: [500, 990].map(|of_thousand| ended.quantile(of_thousand)),
            }
        };
        Times {
            reads: time(|all| &all.reads),
            writes: time(|all| &all.writes),
            flushes: time(|all| &all.flushes),
            discards: time(|all| &all.discards),
        }
    }

    fn json(&self) -> Value {
        json!({
            "reads": self.reads.json(),
            "writes": self.writes.json(),
            "flushes": self.flushes.json(),
            "discards": self.discards.json(),
        })
    }
}

impl Time {
    fn json(&self) -> Value {
        let [half, most] = self.quantiles;
        json!({"p50-ns": half, "p99-ns": most})
    }

    fn show(&self) -> [String; 2] {
        self.quantiles.map(|time| match time {
            None => "-".to_owned(),
            Some(ns @ ..10_000) => format!("{:.1}us", precise(ns) / 1e3),
            Some(ns @ ..10_000_000) => format!("{}us", ns / 1000),
            Some(u64::MAX) => "long".to_owned(),
            Some(ns) => format!("{}ms", ns / 1_000_000),
        })
    }
}

/// What was done in a second, on average between two samples.
struct Rates {
    seconds: f64,
    disks: Vec<Rate>,
}

struct Rate {
    controller: String,
    name: String,
    reads: f64,
    read_bytes: f64,
    writes: f64,
    written_bytes: f64,
    flushes: f64,
    discards: f64,
    errors: u64,
    times: Times,
}

impl Rates {
    /// Disks that have come in between count from then on.
    fn between(before: &Disks, now: &Disks, seconds: f64) -> Rates {
        let disks = now.0.iter().filter_map(|counted| {
            let same = |old: &&Counted| old.disk.path == counted.disk.path;
            let old = &before.0.iter().find(same)?.disk;
            Some(Rate::between(counted, old, seconds))
        });
        Rates {
            seconds,
            disks: disks.collect(),
        }
    }

    fn json(&self) -> Value {
        let disks = self.disks.iter().map(|rate| {
            json!({
                "controller": rate.controller,
                "name": rate.name,
                "reads": rate.reads,
                "read-bytes": rate.read_bytes,
                "writes": rate.writes,
                "written-bytes": rate.written_bytes,
                "flushes": rate.flushes,
                "discards": rate.discards,
                "errors": rate.errors,
                "latency": rate.times.json(),
            })
        });
        json!({"seconds": self.seconds, "disks": disks.collect::<Vec<_>>()})
    }

    fn show(&self) -> String {
        let mut rows = vec![
            [
                "DISK",
                "READS/s",
                "READ/s",
                "R-P50",
                "R-P99",
                "WRITES/s",
                "WRITTEN/s",
                "W-P50",
                "W-P99",
                "FLUSHES/s",
                "DISCARDS/s",
                "ERRORS",
            ]
            .map(str::to_owned),
        ];
        for rate in &self.disks {
            let [read_half, read_most] = rate.times.reads.show();
            let [write_half, write_most] = rate.times.writes.show();
            rows.push([
                rate.name.clone(),
                format!("{:.1}", rate.reads),
                size_of(rate.read_bytes),
                read_half,
                read_most,
                format!("{:.1}", rate.writes),
                size_of(rate.written_bytes),
                write_half,
                write_most,
                format!("{:.1}", rate.flushes),
                format!("{:.1}", rate.discards),
                rate.errors.to_string(),
            ]);
        }
        table::render(&rows, NUMBERS)
    }
}

impl Rate {
    fn between(counted: &Counted, before: &ScsiDisk, seconds: f64) -> Rate {
        let (new, old) = (&counted.disk.counters, &before.counters);
        // A disk that was replaced under the same id begins at zero.
        let rate = |new: u64, old: u64| precise(new.saturating_sub(old)) / seconds;
        Rate {
            controller: counted.controller.clone(),
            name: counted.disk.name.clone(),
            reads: rate(new.reads, old.reads),
            read_bytes: rate(new.read_bytes, old.read_bytes),
            writes: rate(new.writes, old.writes),
            written_bytes: rate(new.written_bytes, old.written_bytes),
            flushes: rate(new.flushes, old.flushes),
            discards: rate(new.discards, old.discards),
            errors: new.errors.saturating_sub(old.errors),
            times: Times::since(&counted.disk.latencies, Some(&before.latencies)),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates are for people")]
fn precise(number: u64) -> f64 {
    number as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is not negative, and far from the largest number"
)]
fn size_of(bytes: f64) -> String {
    size(bytes as u128)
}
