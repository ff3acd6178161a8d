//! `cargo xtask test`: everything that a change must pass.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::guest_image::GuestImage;
use crate::guest_tests::{self, Lab, Tally};
use crate::process::{step, tied};
use crate::storage::{Server, build_lunar};
use crate::{apt, boot_disk, check, howto, instructions, process, qmp, target_directory};

#[derive(Args)]
pub struct Options {
    /// Do only this part (repeatable)
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Run only the guest tests whose names contain this
    #[arg(default_value = "", hide_default_value = true, value_name = "NAME")]
    filter: String,
    /// Let disks come and go hundreds of times, which takes many minutes
    #[arg(long)]
    thorough: bool,
    #[arg(long, value_enum, default_value = "lunar", hide = true)]
    storage: Server,
}

/// The parts of the whole, in their order.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Formatting, lints, documentation, licences
    Check,
    /// Tests of the crates
    Crates,
    /// A session of QMP's own client with a server
    Qmp,
    /// The commands of docs/howto.md
    Howto,
    /// Instructions for each command, under callgrind
    Instructions,
    /// Tests in a real Linux guest
    Guest,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let wanted = |part| {
        (options.only.is_empty() && options.filter.is_empty()) || options.only.contains(&part)
    };
    let guest = wanted(Part::Guest) || !options.filter.is_empty();
    let mut tally = Tally::default();
    if wanted(Part::Check) {
        tally += check::all();
    }
    if wanted(Part::Crates) {
        tally += crate_tests()?;
    }
    if wanted(Part::Qmp) {
        tally += qmp::test()?;
    }
    if wanted(Part::Howto) {
        tally += howto::test()?;
    }
    if wanted(Part::Instructions) {
        tally += instructions::test()?;
    }
    if guest {
        tally += in_guests(options)?;
    }
    println!("\n{} tests ran", tally.passed + tally.failed);
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn in_guests(options: &Options) -> Result<Tally> {
    let lab = Lab {
        thorough: options.thorough,
        ..lab(options.storage)?
    };
    step("Testing in a real Linux guest", || {
        guest_tests::run(&lab, &options.filter)
    })
}

/// Everything that tests in a guest work with.
pub fn lab(server: Server) -> Result<Lab> {
    apt::ensure_installed(apt::HOST_PACKAGES)?;
    apt::ensure_installed(boot_disk::HOST_PACKAGES)?;
    let target = target_directory()?;
    let image = GuestImage::prepare(&target.join("guest"))?;
    let lunar = match server {
        Server::Lunar => step("Building lunar", || build_lunar(&target))?,
        Server::Qemu => PathBuf::new(),
    };
    Ok(Lab {
        image,
        lunar,
        server,
        thorough: false,
    })
}

/// Runs the crates' tests, and counts them by what each test program says at its end.
fn crate_tests() -> Result<Tally> {
    step("Testing the crates", || {
        let output = process::tee(tied("cargo").args(["test", "--workspace", "--no-fail-fast"]))?;
        let mut tally = Tally::default();
        for line in output.text.lines() {
            let Some(result) = line.strip_prefix("test result: ") else {
                continue;
            };
            tally.passed += count(result, "passed");
            tally.failed += count(result, "failed");
        }
        // A program that does not compile, or dies before it can count.
        if !output.status.success() && tally.failed == 0 {
            tally.failed += 1;
        }
        Ok(tally)
    })
}

/// The number before a word, as in `ok. 12 passed; 0 failed;`.
fn count(result: &str, word: &str) -> usize {
    let words: Vec<&str> = result
        .split([' ', ';'])
        .filter(|word| !word.is_empty())
        .collect();
    words
        .windows(2)
        .find_map(|pair| match pair {
            [number, name] if *name == word => number.parse().ok(),
            _ => None,
        })
        .unwrap_or(0)
}
