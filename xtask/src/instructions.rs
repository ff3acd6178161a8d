//! `cargo xtask instructions`: what a command costs from ring to ring, in instructions.
//!
//! The benchmarks are `crates/virtio-scsi/benches/commands.rs`. Under callgrind they cost the same at every run and on a
//! busy machine, so that a change of some percent shows. What they cost is kept in a file beside them: who makes one more
//! than 5 % dearer fails the test, or accepts the new figures and says in the commit why.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::apt;
use crate::guest_tests::Tally;
use crate::process::{read, step, tied};
use crate::scratch::Scratch;

#[derive(Args)]
pub struct Options {
    /// Take what is counted now as what is right
    #[arg(long)]
    accept: bool,
}

/// What is needed on this machine: package, and a file that proves it is there.
const HOST_PACKAGES: &[(&str, &str)] = &[
    ("valgrind", "/usr/bin/valgrind"),
    ("qemu-utils", "/usr/bin/qemu-img"),
];

/// What the benchmarks cost when somebody last accepted it.
const BASELINE: &str = "crates/virtio-scsi/benches/instructions.txt";

/// Rounds that are counted. All cost the same.
const ROUNDS: u32 = 64;

/// A change by less than this part is none.
const TOLERANCE: f64 = 0.05;

/// The function of the benchmarks that is counted, with all that it calls.
const COUNTED: &str = "--toggle-collect=commands::counted*";

/// The C library picks its copying functions by what the processor can do. With these two left out it is the same ones
/// everywhere.
const PLAIN_COPIES: &str = "glibc.cpu.hwcaps=-AVX2,-ERMS";

/// Instructions by benchmark, and the compiler that made them.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    compiler: String,
    counts: BTreeMap<String, f64>,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let tally = count(options.accept)?;
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Counts all benchmarks and compares; each is one test.
pub fn test() -> Result<Tally> {
    count(false)
}

fn count(accept: bool) -> Result<Tally> {
    apt::ensure_installed(HOST_PACKAGES)?;
    let program = step("Building the benchmarks", build)?;
    let now = step("Counting instructions", || measure(&program))?;
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(BASELINE);
    if accept {
        std::fs::write(&file, now.to_text())?;
        println!("    wrote {BASELINE}");
        return Ok(Tally::default());
    }
    let was = std::fs::read_to_string(&file).with_context(|| format!("cannot read {BASELINE}"))?;
    Ok(compare(&Counts::parse(&was)?, &now))
}

/// Builds the benchmarks; where the program is.
fn build() -> Result<PathBuf> {
    let messages = read(tied("cargo").args([
        "bench",
        "--quiet",
        "--package=lunar-virtio-scsi",
        "--bench=commands",
        "--no-run",
        "--message-format=json",
    ]))?;
    let built = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message.pointer("/target/name") == Some(&Value::from("commands")))
        .find_map(|message| Some(message.get("executable")?.as_str()?.into()));
    built.context("cargo has built no benchmarks")
}

fn measure(program: &Path) -> Result<Counts> {
    let scratch = Scratch::new()?;
    let mut counts = BTreeMap::new();
    for name in read(tied(program).arg("--list"))?.lines() {
        let output = scratch.join(name);
        let commands = read(
            tied("valgrind")
                .args([
                    "--quiet",
                    "--tool=callgrind",
                    "--collect-atstart=no",
                    COUNTED,
                ])
                .arg(format!("--callgrind-out-file={}", output.display()))
                .arg(program)
                .args([name, &ROUNDS.to_string()])
                .env("GLIBC_TUNABLES", PLAIN_COPIES),
        )?;
        let commands: f64 = commands.trim().parse().context("how many commands")?;
        let profile = std::fs::read_to_string(&output)?;
        let total: f64 = profile
            .lines()
            .find_map(|line| line.strip_prefix("totals: "))
            .context("callgrind has counted nothing")?
            .parse()?;
        if total == 0.0 {
            bail!("callgrind has not found the function that is to be counted");
        }
        counts.insert(name.to_owned(), total / commands);
    }
    Ok(Counts {
        compiler: read(tied("rustc").arg("--version"))?.trim().to_owned(),
        counts,
    })
}

/// How a count compares with what it was.
#[derive(Debug, PartialEq)]
enum Change {
    Same,
    Dearer,
    Cheaper,
}

impl Change {
    fn of(was: f64, now: f64) -> Change {
        match now / was - 1.0 {
            up if up > TOLERANCE => Change::Dearer,
            down if down < -TOLERANCE => Change::Cheaper,
            _ => Change::Same,
        }
    }
}

/// Prints every benchmark. Those that are dearer fail, and those that nobody knows, or that are gone.
fn compare(was: &Counts, now: &Counts) -> Tally {
    const ACCEPT: &str = "`cargo xtask instructions --accept`, and commit the file";
    let mut tally = Tally::default();
    let other_compiler = was.compiler != now.compiler;
    if other_compiler {
        println!(
            "    The figures are of {}, and this is {}: they are shown, and not judged.",
            was.compiler, now.compiler
        );
    }
    println!("    instructions for each command    accepted       now");
    for (name, now) in &now.counts {
        let Some(was) = was.counts.get(name) else {
            println!("    {name:<30} {:>10} {now:>9.1}  new: {ACCEPT}", "-");
            tally.failed += 1;
            continue;
        };
        let percent = (now / was - 1.0) * 100.0;
        print!("    {name:<30} {was:>10.1} {now:>9.1}  {percent:+.1} %");
        match Change::of(*was, *now) {
            Change::Dearer if !other_compiler => {
                println!("  too dear. If it has to be: {ACCEPT}");
                tally.failed += 1;
                continue;
            }
            Change::Cheaper => println!("  better. Keep it: {ACCEPT}"),
            _ => println!(),
        }
        tally.passed += 1;
    }
    for name in was.counts.keys().filter(|n| !now.counts.contains_key(*n)) {
        println!("    {name:<30} is gone: {ACCEPT}");
        tally.failed += 1;
    }
    tally
}

impl Counts {
    fn to_text(&self) -> String {
        let mut text = format!(
            "# Instructions for each command; written by `cargo xtask instructions --accept`.\n\
             compiler: {}\n",
            self.compiler
        );
        for (name, count) in &self.counts {
            let _ = writeln!(text, "{name}: {count:.1}");
        }
        text
    }

    fn parse(text: &str) -> Result<Counts> {
        let mut parsed = Counts::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line
                .split_once(": ")
                .with_context(|| format!("{BASELINE}: {line}"))?;
            if name == "compiler" {
                parsed.compiler = value.to_owned();
            } else {
                parsed.counts.insert(name.to_owned(), value.parse()?);
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: &[(&str, f64)]) -> Counts {
        Counts {
            compiler: "rustc 1.0".into(),
            counts: counts.iter().map(|(n, c)| ((*n).into(), *c)).collect(),
        }
    }

    #[test]
    fn what_was_accepted_is_read_as_it_was_written() {
        let some = counts(&[("null-read", 512.5), ("null-write", 600.0)]);
        assert_eq!(Counts::parse(&some.to_text()).unwrap(), some);
    }

    #[test]
    fn more_than_five_percent_more_fails_and_less_does_not() {
        let was = counts(&[("a", 1000.0), ("b", 1000.0), ("c", 1000.0)]);
        let now = counts(&[("a", 1051.0), ("b", 1049.0), ("c", 500.0)]);
        let tally = compare(&was, &now);
        assert_eq!((tally.passed, tally.failed), (2, 1));
    }

    #[test]
    fn another_compiler_is_not_judged() {
        let was = counts(&[("a", 1000.0)]);
        let now = Counts {
            compiler: "rustc 2.0".into(),
            ..counts(&[("a", 2000.0)])
        };
        assert_eq!(compare(&was, &now).failed, 0);
    }

    #[test]
    fn benchmarks_that_come_or_go_have_to_be_accepted() {
        let tally = compare(&counts(&[("old", 1.0)]), &counts(&[("new", 1.0)]));
        assert_eq!((tally.passed, tally.failed), (0, 2));
    }
}
