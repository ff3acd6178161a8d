//! Samples, and what can be said of them.

use std::fmt::Write as _;

use lunar_initiator::Latencies;
use serde_json::{Value, json};

use super::case::Case;
use super::footprint::{self, Figure};
use super::page::Setting;
use crate::bench::{Measured, report};

/// What one turn has given.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub iops: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// The server's processor time for a request.
    pub cpu_us: Option<f64>,
    /// Messages for a request: to the server, and from it.
    pub kicks: Option<f64>,
    pub interrupts: Option<f64>,
}

impl Sample {
    /// What clients that were at work at the same time have got from one server; `None` of none.
    pub fn of(clients: &[Measured<'_>]) -> Option<Sample> {
        let first = clients.first()?;
        let mut latencies = Latencies::default();
        let (mut iops, mut kicks, mut interrupts) = (0.0, 0, 0);
        for Measured { report, .. } in clients {
            latencies.merge(&report.reads);
            latencies.merge(&report.writes);
            iops += report::rate(report.completed(), report.elapsed);
            kicks += report.kicks;
            interrupts += report.interrupts;
        }
        let us = |percent| latencies.percentile(percent).as_secs_f64() * 1e6;
        let per_request = |number| report::share(number, latencies.count());
        // The server's time is the same, whichever client has looked.
        let cpu_us = first.cpu.map(|cpu| {
            let share = cpu.as_secs_f64() / first.report.elapsed.as_secs_f64();
            share * 1e6 / iops
        });
        Some(Sample {
            iops,
            p50_us: us(50.0),
            p99_us: us(99.0),
            cpu_us,
            kicks: Some(per_request(kicks)),
            interrupts: Some(per_request(interrupts)),
        })
    }
}

impl Sample {
    /// Requests for a second of the server's processor time.
    pub fn per_cpu_second(&self) -> Option<f64> {
        let us = self.cpu_us.filter(|&us| us > 0.0)?;
        Some(1e6 / us)
    }
}

/// The middle of several figures, and how far they are apart.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    pub least: f64,
    pub median: f64,
    pub most: f64,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let (upper, lower) = (figures.get(middle), figures.get(middle.saturating_sub(1)));
        let median = match (figures.len() % 2, upper, lower) {
            (0, Some(upper), Some(lower)) => f64::midpoint(*upper, *lower),
            (_, Some(middle), _) => *middle,
            _ => return None,
        };
        Some(Spread {
            least: *figures.first()?,
            median,
            most: *figures.last()?,
        })
    }
}

/// What a contestant has achieved, or why it has not.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub name: String,
    pub samples: Vec<Sample>,
    pub failure: Option<String>,
}

impl Row {
    pub fn spread(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.samples.iter().filter_map(figure))
    }
}

/// The answers to one question.
pub struct Outcome<'a> {
    pub case: &'a Case,
    pub rows: Vec<Row>,
}

impl<'a> Outcome<'a> {
    pub fn new(case: &'a Case) -> Outcome<'a> {
        let rows = case.contestants.iter().map(|contestant| Row {
            name: contestant.name(),
            ..Row::default()
        });
        Outcome {
            case,
            rows: rows.collect(),
        }
    }

    pub fn add(&mut self, contestant: usize, sample: Sample) {
        if let Some(row) = self.rows.get_mut(contestant) {
            row.samples.push(sample);
        }
    }

    pub fn fail(&mut self, contestant: usize, why: &str) {
        if let Some(row) = self.rows.get_mut(contestant) {
            row.failure.get_or_insert_with(|| why.to_owned());
        }
    }

    pub fn is_complete(&self) -> bool {
        self.rows.iter().all(|row| row.failure.is_none())
    }

    /// How many times as much the first does as `row`, round by round.
    pub fn ratio(&self, row: &Row, figure: impl Fn(&Sample) -> Option<f64>) -> Option<Spread> {
        let first = self.rows.first()?;
        let pairs = first.samples.iter().zip(&row.samples);
        Spread::of(pairs.filter_map(|(own, other)| Some(figure(own)? / figure(other)?)))
    }

    /// In short.
    pub fn line(&self) -> String {
        let mut text = format!("{:<28}", self.case.name());
        for (i, row) in self.rows.iter().enumerate() {
            let Some(iops) = row.spread(|sample| Some(sample.iops)) else {
                let _ = write!(text, "  {}: failed", row.name);
                continue;
            };
            let ratio = self.ratio(row, |sample| Some(sample.iops));
            match ratio.filter(|_| i > 0) {
                Some(ratio) => {
                    let _ = write!(text, "  {}: {:.2}", row.name, ratio.median);
                    if let Some(ratio) = self.ratio(row, Sample::per_cpu_second) {
                        let _ = write!(text, " (CPU {:.2})", ratio.median);
                    }
                }
                None => {
                    let _ = write!(text, "  {} IOPS", report::grouped(iops.median));
                    if let Some(each) = row.spread(Sample::per_cpu_second) {
                        let _ = write!(text, " ({} per CPU-s)", report::grouped(each.median));
                    }
                    text.push(';');
                }
            }
        }
        text.push('\n');
        text
    }
}

/// Everything. Members may be added; those that are here keep their names, meanings and units.
pub fn json(setting: &Setting, outcomes: &[Outcome<'_>], memory: &[Figure]) -> Value {
    let sample = |sample: &Sample| {
        json!({
            "iops": sample.iops,
            "p50-us": sample.p50_us,
            "p99-us": sample.p99_us,
            "cpu-us-per-request": sample.cpu_us,
            "requests-per-cpu-second": sample.per_cpu_second(),
            "kicks-per-request": sample.kicks,
            "interrupts-per-request": sample.interrupts,
        })
    };
    let cases = outcomes.iter().map(|outcome| {
        let rows = outcome.rows.iter().map(|row| {
            let ratio = outcome.ratio(row, |sample| Some(sample.iops));
            let cpu = outcome.ratio(row, Sample::per_cpu_second);
            json!({
                "name": row.name,
                "samples": row.samples.iter().map(sample).collect::<Vec<_>>(),
                "first-to-this": ratio.map(|ratio| ratio.median),
                "first-to-this-per-cpu-second": cpu.map(|ratio| ratio.median),
                "failure": row.failure,
            })
        });
        json!({
            "name": outcome.case.name(),
            "rows": rows.collect::<Vec<_>>(),
        })
    });
    json!({
        "setting": setting.rows.iter().cloned().collect::<serde_json::Map<_, _>>(),
        "cases": cases.collect::<Vec<_>>(),
        "memory": footprint::json(memory),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        let median = |figures: &[f64]| Spread::of(figures.iter().copied()).map(|s| s.median);
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }
}
