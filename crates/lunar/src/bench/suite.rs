//! `lunar bench suite`: this Lunar and its peers on the same files, measured by the same client, in turns.
//!
//! A [`Case`] is one question ("random reads of a file in memory, 32 at a time"), put to several [`Contestant`]s one after
//! the other, in rounds: A B C, A B C. A machine whose speed drifts is then the same for all in each round, and what is
//! compared are the ratios of each round, not figures minutes apart. The server has one processor and the client another.
//!
//! What comes out is a page that needs nothing else ([`page`]), and the same as JSON.

mod case;
mod contestant;
mod figures;
mod files;
mod fio;
mod footprint;
mod page;
mod pinning;
mod server;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::wanted::span;
use crate::{Failure, say};
use case::Case;
use contestant::Contestant;
use figures::Outcome;
use files::Files;
use pinning::Processors;

/// `lunar bench suite`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Suite {
    /// Only the cases whose names contain one of these words
    #[arg(value_name = "CASE")]
    pub only: Vec<String>,

    /// List the cases, and who takes part in each
    #[arg(long)]
    pub list: bool,

    /// Where to write the page
    #[arg(long, value_name = "FILE", default_value = "lunar-bench.html")]
    pub output: PathBuf,

    /// Where to write the figures as JSON, too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// How often everyone has a turn
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,

    /// How long a turn is measured
    #[arg(long, value_name = "TIME", default_value = "2", value_parser = span)]
    pub runtime: Duration,

    /// A directory in memory
    #[arg(long, value_name = "DIRECTORY", default_value = "/dev/shm")]
    pub memory: PathBuf,

    /// A directory on a disk, whose cache is bypassed
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    pub disk: PathBuf,

    /// Size of the images, in MiB
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub size: u32,

    /// The microseconds for which our server looks for work before it sleeps, where the client polls
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub poll_us: u32,
}

const EXAMPLES: &str = "\
Peers take part if they are installed: qemu-storage-daemon (vhost-user-blk, with each way of I/O that
it has), fio (on the file itself: what can be reached at all), and vhost-device-scsi. The images are
made in the two directories, and removed at the end.

Examples:
  lunar bench suite
  lunar bench suite --rounds 5 --disk /srv/images --json figures.json
  lunar bench suite null tmpfs-randread --runtime 1 --output quick.html";

/// Measures, and writes what was found.
pub fn run(options: &Suite) -> Result<(), Failure> {
    let cases: Vec<Case> = (case::all(options).into_iter())
        .filter(|case| case::is_wanted(&case.name(), &options.only))
        .collect();
    let footprint = case::is_wanted(footprint::NAME, &options.only);
    if cases.is_empty() && !footprint {
        let wanted = options.only.join(" ");
        let message = format!("no case is called {wanted}; --list shows all");
        return Err(Failure::Usage(anyhow::Error::msg(message)));
    }
    if options.list {
        for case in &cases {
            let names: Vec<_> = case.contestants.iter().map(Contestant::name).collect();
            say(&format!("{:<28} {}\n", case.name(), names.join(", ")));
        }
        if footprint {
            say(&format!("{:<28} lunar\n", footprint::NAME));
        }
        return Ok(());
    }
    measure(options, &cases, footprint).map_err(Failure::Runtime)
}

fn measure(options: &Suite, cases: &[Case], footprint: bool) -> anyhow::Result<()> {
    let processors = Processors::choose()?;
    let mut files = Files::new(options)?;
    let mut outcomes = Vec::new();
    let progress = Progress {
        turns: cases
            .iter()
            .map(|case| case.contestants.len())
            .sum::<usize>(),
        rounds: options.rounds,
        terminal: std::io::stderr().is_terminal(),
    };
    let mut turn = 0;
    for case in cases {
        let image = files.image(case.image)?;
        let mut outcome = Outcome::new(case);
        for round in 0..options.rounds {
            for (i, contestant) in case.contestants.iter().enumerate() {
                progress.show(turn + i, round, case, contestant);
                if let Some(image) = image.as_deref().filter(|_| case.image.is_direct()) {
                    files::cool(image).with_context(|| image.display().to_string())?;
                }
                let sample = contestant.measure(case, image.as_deref(), options, &processors);
                match sample {
                    Ok(sample) => outcome.add(i, sample),
                    Err(error) if i == 0 => {
                        return Err(error.context(format!(
                            "{}: {}",
                            case.name(),
                            contestant.name()
                        )));
                    }
                    // A peer that cannot do it is told of in the report.
                    Err(error) => outcome.fail(i, &format!("{error:#}")),
                }
            }
        }
        turn += case.contestants.len();
        progress.clear();
        say(&outcome.line());
        outcomes.push(outcome);
    }
    let memory = match footprint {
        true => footprint::measure(options, &processors).context(footprint::NAME)?,
        false => Vec::new(),
    };
    if footprint {
        say(&footprint::line(&memory));
    }
    let setting = page::Setting::find(options, &processors);
    let write = |path: &PathBuf, text: String| {
        std::fs::write(path, text).with_context(|| path.display().to_string())
    };
    write(&options.output, page::render(&setting, &outcomes, &memory))?;
    if let Some(path) = &options.json {
        write(
            path,
            format!("{:#}\n", figures::json(&setting, &outcomes, &memory)),
        )?;
    }
    say(&format!("The report is {}\n", options.output.display()));
    let failed = outcomes.iter().filter(|outcome| !outcome.is_complete());
    let failed: Vec<_> = failed.map(|outcome| outcome.case.name()).collect();
    match failed.as_slice() {
        [] => Ok(()),
        _ => bail!(
            "not everyone finished {}; the report says why",
            failed.join(", ")
        ),
    }
}

/// How far it is, on a terminal.
struct Progress {
    turns: usize,
    rounds: u32,
    terminal: bool,
}

impl Progress {
    fn show(&self, turn: usize, round: u32, case: &Case, contestant: &Contestant) {
        let (turns, rounds) = (self.turns, self.rounds);
        let (name, who) = (case.name(), contestant.name());
        self.line(&format!(
            "{} of {turns}, round {} of {rounds}: {name}: {who}",
            turn + 1,
            round + 1
        ));
    }

    fn clear(&self) {
        self.line("");
    }

    fn line(&self, text: &str) {
        if self.terminal {
            let mut err = std::io::stderr().lock();
            // A terminal that has gone is no reason to stop.
            let _ = write!(err, "\r\x1b[K{text}").and_then(|()| err.flush());
        }
    }
}
