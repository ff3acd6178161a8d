//! `lunar stats --workers`: what the threads of the data path have done.

use lunar_monitor::{Client, WorkerInfo};
use serde_json::{Map, Value, json};

use super::{Counts, precise};
use crate::client::table;

/// The threads that serve all controllers, and those that are objects.
pub struct Workers(Vec<WorkerInfo>);

/// A number of a thread: its name in JSON, what people see above it, and itself.
type Column = (&'static str, &'static str, fn(&WorkerInfo) -> u64);

const COLUMNS: [Column; 6] = [
    ("requests", "REQUESTS", |worker| worker.requests),
    ("rounds", "ROUNDS", |worker| worker.rounds),
    ("interrupts", "INTERRUPTS", |worker| worker.interrupts),
    ("interrupts-held", "HELD", |worker| worker.interrupts_held),
    ("kicks", "KICKS", |worker| worker.kicks),
    ("sleeps", "SLEEPS", |worker| worker.sleeps),
];

/// All but the name are numbers.
const NUMBERS: [bool; 7] = [false, true, true, true, true, true, true];

impl Counts for Workers {
    fn take(client: &mut Client) -> anyhow::Result<Workers> {
        Ok(Workers(client.execute("x-lunar-workers", json!({}))?))
    }

    fn json(&self) -> Value {
        let workers = self.0.iter();
        workers
            .map(|worker| object(worker, COLUMNS.map(|(_, _, of)| json!(of(worker)))))
            .collect()
    }

    fn text(&self) -> String {
        let row = |worker: &WorkerInfo| {
            let numbers = COLUMNS.map(|(_, _, of)| of(worker).to_string());
            row(worker.id.clone(), numbers)
        };
        table("", self.0.iter().map(row))
    }

    fn rates(&self, before: &Workers, seconds: f64, json: bool) -> String {
        // A thread that has come in between counts from then on.
        let both = self.0.iter().filter_map(|worker| {
            let mut old = before.0.iter();
            Some((worker, old.find(|old| old.thread_id == worker.thread_id)?))
        });
        let rates = both.map(|(worker, old)| {
            let rate = |(_, _, of): Column| precise(of(worker).saturating_sub(of(old))) / seconds;
            (worker, COLUMNS.map(rate))
        });
        match json {
            true => {
                let workers: Value = rates
                    .map(|(worker, rates)| object(worker, rates.map(|rate| json!(rate))))
                    .collect();
                json!({"seconds": seconds, "workers": workers}).to_string()
            }
            false => table(
                "/s",
                rates.map(|(worker, rates)| {
                    row(worker.id.clone(), rates.map(|rate| format!("{rate:.1}")))
                }),
            ),
        }
    }
}

fn object(worker: &WorkerInfo, values: [Value; COLUMNS.len()]) -> Value {
    let named = COLUMNS.iter().map(|(name, _, _)| (*name).to_owned());
    let own = [
        ("id".to_owned(), json!(worker.id)),
        ("thread-id".to_owned(), json!(worker.thread_id)),
    ];
    Value::Object(
        own.into_iter()
            .chain(named.zip(values))
            .collect::<Map<_, _>>(),
    )
}

fn row(name: String, numbers: [String; COLUMNS.len()]) -> [String; NUMBERS.len()] {
    let [a, b, c, d, e, f] = numbers;
    [name, a, b, c, d, e, f]
}

fn table(unit: &str, rows: impl Iterator<Item = [String; NUMBERS.len()]>) -> String {
    let titles = COLUMNS.map(|(_, title, _)| format!("{title}{unit}"));
    let rows: Vec<_> = std::iter::once(row("WORKER".to_owned(), titles))
        .chain(rows)
        .collect();
    table::render(&rows, NUMBERS)
}
