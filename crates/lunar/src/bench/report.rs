//! The figures, for people and for programs.

use std::fmt::Write as _;
use std::time::Duration;

use lunar_initiator::{Kind, Latencies, Mismatch};
use serde_json::{Value, json};

use super::Measured;
use super::args::Rw;
use crate::qemu::{count, size};

/// Per second.
pub fn rate(number: u64, elapsed: Duration) -> f64 {
    per(number, elapsed.as_secs_f64())
}

/// So many of `number` for each of `whole`.
#[expect(clippy::cast_precision_loss, reason = "a rounded figure for people")]
pub fn share(number: u64, whole: u64) -> f64 {
    per(number, whole as f64)
}

/// 0 where nothing can be said.
#[expect(clippy::cast_precision_loss, reason = "a rounded figure for people")]
fn per(number: u64, whole: f64) -> f64 {
    match whole > 0.0 {
        true => number as f64 / whole,
        false => 0.0,
    }
}

/// `1,234,567`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rounded figure for people, never negative"
)]
pub fn grouped(number: f64) -> String {
    let digits = (number.round() as u64).to_string();
    let mut text = String::new();
    for (left, digit) in (0..digits.len()).rev().zip(digits.chars()) {
        text.push(digit);
        if left > 0 && left % 3 == 0 {
            text.push(',');
        }
    }
    text
}

impl Measured<'_> {
    fn per_request(&self, number: u64) -> f64 {
        share(number, self.report.completed())
    }

    #[expect(clippy::cast_precision_loss, reason = "a rounded figure for people")]
    fn cpu_us_per_request(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() * 1e6 / (self.report.completed().max(1) as f64)
    }

    /// Of one processor.
    fn cpu_percent(&self, cpu: Duration) -> f64 {
        let elapsed = self.report.elapsed.as_secs_f64();
        100.0 * cpu.as_secs_f64() / elapsed.max(1e-9)
    }

    /// What is told of each direction: both if there are both, and their sum first.
    fn directions(&self) -> Vec<(&'static str, Latencies)> {
        let report = &self.report;
        let mut total = report.reads.clone();
        total.merge(&report.writes);
        let mut all = vec![("total", total)];
        if report.reads.count() > 0 && report.writes.count() > 0 {
            all.push(("reads", report.reads.clone()));
            all.push(("writes", report.writes.clone()));
        }
        all
    }

    fn where_it_differs(&self, mismatch: &Mismatch) -> String {
        let disk = self
            .disks
            .get(mismatch.disk)
            .map_or(String::new(), |place| {
                format!("{}:{} ", place.target, place.lun.number())
            });
        let found = match mismatch.found {
            Some((lba, generation)) if lba == mismatch.lba && generation == mismatch.generation => {
                "the block is torn".to_owned()
            }
            Some((lba, generation)) if lba == mismatch.lba => {
                format!("found generation {generation}, which is older")
            }
            Some((lba, generation)) => {
                format!("found what was written to LBA {lba} as generation {generation}")
            }
            None => "found what this run has not written".to_owned(),
        };
        format!(
            "{disk}LBA {}, byte {}, generation {}: {found}",
            mismatch.lba, mismatch.offset, mismatch.generation
        )
    }
}

/// The name of an access, as it is written.
pub fn name(rw: Rw) -> &'static str {
    match rw {
        Rw::Randread => "randread",
        Rw::Randwrite => "randwrite",
        Rw::Randrw => "randrw",
        Rw::Read => "read",
        Rw::Write => "write",
        Rw::Verify => "verify",
    }
}

/// For people.
pub fn text(measured: &Measured<'_>) -> String {
    let Measured { bench, report, .. } = measured;
    let mut text = format!(
        "{}, {}, depth {}, {}, {}: {}",
        name(bench.rw),
        size(bench.bs.into()),
        bench.iodepth,
        count(bench.queues.into(), "queue"),
        if bench.busy_poll {
            "busy-polling"
        } else {
            "interrupts"
        },
        match measured.kind {
            Kind::Scsi => count(measured.disks.len(), "logical unit"),
            Kind::Block => "a block device".to_owned(),
        },
    );
    if bench.packed {
        text.push_str(", packed rings");
    }
    let _ = writeln!(text, ", {:.1} s", report.elapsed.as_secs_f64());
    for (direction, latencies) in measured.directions() {
        let iops = rate(latencies.count(), report.elapsed);
        let bandwidth = iops * f64::from(bench.bs) / f64::from(1 << 20);
        let _ = writeln!(
            text,
            "  {direction:<11} {} IOPS, {} MiB/s",
            grouped(iops),
            grouped(bandwidth)
        );
        let us = |latency: Duration| format!("{:.1}", latency.as_secs_f64() * 1e6);
        let _ = writeln!(
            text,
            "  latency     p50 {} us, p99 {} us, p99.9 {} us, max {} us",
            us(latencies.percentile(50.0)),
            us(latencies.percentile(99.0)),
            us(latencies.percentile(99.9)),
            us(latencies.max()),
        );
    }
    let _ = writeln!(
        text,
        "  per request {:.3} kicks, {:.3} interrupts",
        measured.per_request(report.kicks),
        measured.per_request(report.interrupts)
    );
    if let (Some(cpu), Some(process)) = (measured.cpu, measured.server) {
        let _ = writeln!(
            text,
            "  server CPU  {:.2} us per request, {:.0} % of one processor (process {process})",
            measured.cpu_us_per_request(cpu),
            measured.cpu_percent(cpu),
        );
    }
    for (failure, number) in &report.failures {
        let _ = writeln!(text, "  failed      {number} with {failure}");
    }
    if bench.rw == Rw::Verify {
        let _ = writeln!(
            text,
            "  verified    {} blocks read back, {} wrong",
            report.checked, report.mismatches
        );
    }
    if let Some(mismatch) = &report.mismatch {
        let _ = writeln!(
            text,
            "  first       {}",
            measured.where_it_differs(mismatch)
        );
    }
    text
}

/// For programs. Members may be added; those that are here keep their names, meanings and units.
pub fn json(measured: &Measured<'_>) -> String {
    let Measured { bench, report, .. } = measured;
    let mut total = report.reads.clone();
    total.merge(&report.writes);
    let side = |latencies: &Latencies| -> Value {
        let us = |latency: Duration| latency.as_secs_f64() * 1e6;
        let iops = rate(latencies.count(), report.elapsed);
        json!({
            "requests": latencies.count(),
            "iops": iops,
            "bytes-per-second": iops * f64::from(bench.bs),
            "latency-us": {
                "mean": us(latencies.mean()),
                "p50": us(latencies.percentile(50.0)),
                "p99": us(latencies.percentile(99.0)),
                "p99.9": us(latencies.percentile(99.9)),
                "max": us(latencies.max()),
            },
        })
    };
    let disks = measured.disks.iter().map(|place| {
        json!({
            "target": place.target,
            "lun": place.lun.number(),
        })
    });
    let failures = report.failures.iter().map(|(failure, number)| {
        json!({
            "what": failure.to_string(),
            "requests": number,
        })
    });
    let value = json!({
        "device": match measured.kind {
            Kind::Scsi => "scsi",
            Kind::Block => "block",
        },
        "disks": disks.collect::<Vec<_>>(),
        "rw": name(bench.rw),
        "block-size": bench.bs,
        "iodepth": bench.iodepth,
        "queues": bench.queues,
        "busy-poll": bench.busy_poll,
        "packed": bench.packed,
        "seconds": report.elapsed.as_secs_f64(),
        "total": side(&total),
        "reads": side(&report.reads),
        "writes": side(&report.writes),
        "kicks-per-request": measured.per_request(report.kicks),
        "interrupts-per-request": measured.per_request(report.interrupts),
        "server": {
            "process": measured.server,
            "cpu-seconds": measured.cpu.map(|cpu| cpu.as_secs_f64()),
            "cpu-us-per-request": measured.cpu.map(|cpu| measured.cpu_us_per_request(cpu)),
        },
        "failed": report.failed(),
        "failures": failures.collect::<Vec<_>>(),
        "verified": {
            "blocks": report.checked,
            "wrong": report.mismatches,
            "first": report.mismatch.as_ref().map(|mismatch| measured.where_it_differs(mismatch)),
        },
    });
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_grouped() {
        for (number, text) in [
            (0.0, "0"),
            (999.4, "999"),
            (999.5, "1,000"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn nothing_in_no_time_is_no_rate() {
        assert!(rate(0, Duration::ZERO) < 1.0);
    }
}
