//! The report: one file, with its charts in it.

use std::process::Command;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use super::Suite;
use super::contestant::Program;
use super::figures::{Outcome, Row, Sample, Spread};
use super::footprint::{self, Figure};
use super::pinning::Processors;
use crate::bench::report::grouped;

const STYLE: &str = "
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #1b1f24 }
h1 { font-size: 1.6em } h2 { font-size: 1.1em; margin: 2.2em 0 .4em } code { font-size: .95em }
table { border-collapse: collapse; width: 100% } td, th { padding: .15em .6em; text-align: right; border-bottom: 1px solid #d8dee4 }
td:first-child, th:first-child { text-align: left } th { font-weight: 600; color: #57606a }
.setting td { text-align: left } .failed { color: #b35900 } svg { width: 100%; height: auto; margin: .4em 0 }
text { font: 12px system-ui, sans-serif; fill: currentColor } .own { fill: #2f6fdb } .other { fill: #a9b4c0 } .whisker { stroke: #1b1f24; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) { body { background: #14171a; color: #dfe3e8 } td, th { border-color: #333b44 } th { color: #9aa4af } .whisker { stroke: #dfe3e8 } .other { fill: #55606c } }
";

/// Where and how it was measured.
pub struct Setting {
    pub rows: Vec<(String, Value)>,
}

impl Setting {
    pub fn find(options: &Suite, processors: &Processors) -> Setting {
        let mut rows = Vec::new();
        let mut add = |name: &str, value: String| rows.push((name.to_owned(), value.into()));
        add("Lunar", env!("CARGO_PKG_VERSION").to_owned());
        if cfg!(debug_assertions) {
            add("Build", "debug: these figures say nothing".to_owned());
        }
        for program in Program::found() {
            add(program.name(), version(program.name()));
        }
        let of_file = |path| std::fs::read_to_string(path).unwrap_or_default();
        add(
            "Kernel",
            of_file("/proc/sys/kernel/osrelease").trim().to_owned(),
        );
        let processor = of_file("/proc/cpuinfo");
        let model = processor
            .lines()
            .find(|line| line.starts_with("model name"));
        let model = model.and_then(|line| line.split_once(": "));
        add(
            "Processor",
            model.map_or("unknown", |(_, name)| name).to_owned(),
        );
        add(
            "Server, client on processors",
            format!("{}, {}", processors.server, processors.client),
        );
        add("Rounds", options.rounds.to_string());
        add("A turn", format!("{:?}", options.runtime));
        add("Images", format!("{} MiB", options.size));
        add("In memory", options.memory.display().to_string());
        add("On a disk", options.disk.display().to_string());
        Setting { rows }
    }
}

/// The first line that a program says of itself.
fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let said = said.unwrap_or_default();
    said.lines().next().unwrap_or_default().to_owned()
}

/// The page.
pub fn render(setting: &Setting, outcomes: &[Outcome<'_>], memory: &[Figure]) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { "Lunar and its peers" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Lunar and its peers" }
                p {
                    "Everyone is asked by the same client, in turns. Bars are medians, lines go from the least to the most. "
                    "A ratio is how many times as much the first does as this one: the median of the ratios of each round. "
                    "Clients poll, or sleep until an interrupt, as the name of the case says; fio has no client."
                }
                p {
                    "IO per CPU-s are the requests for a second of processor time of the whole server: all its threads, those "
                    "that the kernel makes for its io_uring included, in user and kernel mode. "
                    "Images on a disk are written back and taken out of the page cache before each turn. "
                    "vhost-device-scsi cannot bypass that cache: what it reads once more comes from memory, and what it writes "
                    "has not reached the disk."
                }
                table.setting {
                    @for (name, value) in &setting.rows {
                        tr { td { (name) } td { (value.as_str().unwrap_or_default()) } }
                    }
                }
                @for outcome in outcomes { (section(outcome)) }
                @if !memory.is_empty() { (memory_of_the_server(memory)) }
            }
        }
    };
    page.into_string()
}

fn memory_of_the_server(memory: &[Figure]) -> Markup {
    html! {
        h2 { (footprint::NAME) }
        p { "What one more takes while all are in use: of the process's own memory, without the guest's." }
        table {
            tr { th { "" } th { "compared: one with" } th { "bytes for each" } }
            @for figure in memory {
                tr { td { (figure.what) } td { (figure.number) } td { (footprint::rounded(figure)) } }
            }
        }
    }
}

fn section(outcome: &Outcome<'_>) -> Markup {
    html! {
        h2 { (outcome.case.name()) }
        (chart(outcome))
        table {
            tr {
                th { "" } th { "IOPS" } th { "least – most" } th { "ratio" } th { "p50 µs" } th { "p99 µs" }
                th { "IO per CPU-s" } th { "ratio" } th { "CPU µs/IO" } th { "kicks/IO" } th { "interrupts/IO" }
            }
            @for row in &outcome.rows { (line(outcome, row)) }
        }
        @for row in &outcome.rows {
            @if let Some(why) = &row.failure { p.failed { (row.name) ": " (why) } }
        }
    }
}

fn line(outcome: &Outcome<'_>, row: &Row) -> Markup {
    let median = |figure: fn(&Sample) -> Option<f64>, digits: usize| {
        let spread = row.spread(figure);
        spread.map_or_else(
            || "–".to_owned(),
            |spread| format!("{:.digits$}", spread.median),
        )
    };
    let ratio = |figure: fn(&Sample) -> Option<f64>| {
        let spread = outcome.ratio(row, figure);
        spread.map_or_else(|| "–".to_owned(), |spread| format!("{:.2}", spread.median))
    };
    let iops = row.spread(|sample| Some(sample.iops)).unwrap_or_default();
    html! {
        tr {
            td { (row.name) }
            td { (grouped(iops.median)) }
            td { (grouped(iops.least)) " – " (grouped(iops.most)) }
            td { (ratio(|sample| Some(sample.iops))) }
            td { (median(|sample| Some(sample.p50_us), 1)) }
            td { (median(|sample| Some(sample.p99_us), 1)) }
            td { (row.spread(Sample::per_cpu_second).map_or("–".to_owned(), |each| grouped(each.median))) }
            td { (ratio(Sample::per_cpu_second)) }
            td { (median(|sample| sample.cpu_us, 2)) }
            td { (median(|sample| sample.kicks, 3)) }
            td { (median(|sample| sample.interrupts, 3)) }
        }
    }
}

/// Where bars begin, how long the longest is, and how high a row.
const LEFT: f64 = 190.0;
const LENGTH: f64 = 520.0;
const HEIGHT: f64 = 22.0;

fn chart(outcome: &Outcome<'_>) -> Markup {
    let spreads: Vec<(&Row, Spread)> = (outcome.rows.iter())
        .filter_map(|row| Some((row, row.spread(|sample| Some(sample.iops))?)))
        .collect();
    let most = spreads.iter().map(|(_, spread)| spread.most);
    let scale = LENGTH / most.fold(1.0, f64::max);
    let rows = spreads
        .iter()
        .zip(std::iter::successors(Some(0.0), |y| Some(y + HEIGHT)));
    let height = spreads.iter().fold(0.0, |height, _| height + HEIGHT);
    html! {
        svg viewBox=(format!("0 0 800 {height}")) role="img" aria-label="IOPS" {
            @for (i, ((row, spread), y)) in rows.enumerate() {
                @let middle = y + HEIGHT / 2.0;
                @let end = LEFT + spread.median * scale;
                @let most = LEFT + spread.most * scale;
                text x=(LEFT - 8.0) y=(middle + 4.0) text-anchor="end" { (row.name) }
                rect class=(if i == 0 { "own" } else { "other" }) x=(LEFT) y=(y + 3.0)
                    width=(end - LEFT) height=(HEIGHT - 6.0) rx="2" {}
                line.whisker x1=(LEFT + spread.least * scale) x2=(most) y1=(middle) y2=(middle) {}
                text x=(most + 6.0) y=(middle + 4.0) { (grouped(spread.median)) }
            }
        }
    }
}
