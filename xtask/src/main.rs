//! The developer's commands: `cargo xtask demo`, `test`, `conformance`, `instructions` and `compare`.
//!
//! All start from a machine that has Rust and Debian's package tools, say what else they need, install
//! it, and build what is left to build: the workspace, and a small Linux guest out of Debian packages
//! ([`guest_image`]). A guest is a [`qemu::Machine`] whose disks come from `lunar serve` ([`storage`]); it runs one
//! job and reports the job's output and exit status. [`demo`] runs the job that the user typed,
//! [`guest_tests`] runs the project's, [`conformance`] a public suite, [`check`] looks at everything that needs no guest, [`qmp`] is
//! a session of QMP's own client with a server, [`instructions`] counts what commands cost, and [`compare`] measures a
//! guest's disks against QEMU's own.
//!
//! Nothing outlives the command, however it ends: every child process is tied to its parent's life
//! ([`process`]), and every temporary directory to a janitor that waits for the command's end ([`scratch`]).
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command's output is its product"
)]

mod apt;
mod boot_disk;
mod check;
mod compare;
mod conformance;
mod cpio;
mod demo;
mod guest_image;
mod guest_tests;
mod howto;
mod instructions;
mod kernel;
mod monitor;
mod picture;
mod process;
mod qemu;
mod qmp;
mod scratch;
mod storage;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "The developer's commands"
)]
struct Cli {
    /// Print the commands that are run
    #[arg(short, long, global = true)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot a real Linux guest whose disks come from `lunar serve`; run a command in it, or a shell
    Demo(demo::Options),
    /// Run everything that a change must pass: formatting, lints, documentation, licences, tests, guest tests
    Test(test::Options),
    /// Run libiscsi's SCSI suites on disks of every kind, and write docs/conformance.md
    Conformance(conformance::Options),
    /// Count the instructions that a READ or a WRITE costs, and compare them with what was accepted
    Instructions(instructions::Options),
    /// Run fio in a guest on Lunar's disks and on QEMU's own, in turns
    Compare(compare::Options),
    /// Draw the terminal text on standard input as an SVG image
    #[command(hide = true)]
    Picture,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    process::set_verbose(cli.verbose);
    let result = match &cli.command {
        Command::Demo(options) => demo::run(options),
        Command::Test(options) => test::run(options),
        Command::Conformance(options) => conformance::run(options),
        Command::Instructions(options) => instructions::run(options),
        Command::Compare(options) => compare::run(options),
        Command::Picture => picture::run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

/// Where cargo puts what it builds, and we what we fetch.
fn target_directory() -> Result<PathBuf> {
    let metadata = process::read(process::tied("cargo").args([
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
    ]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let directory = metadata
        .get("target_directory")
        .and_then(|directory| directory.as_str());
    Ok(PathBuf::from(
        directory.context("cargo metadata names no target directory")?,
    ))
}
