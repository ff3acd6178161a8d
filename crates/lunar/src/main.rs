//! The `lunar` program: the command line around the crates.
//!
//! `lunar serve` reads declarations in QEMU's words ([`declare`]), has them served ([`serve`]; the objects and what they
//! do are the `lunar-host` crate's), and prints what to add to QEMU ([`qemu`]).
//! Commands come to a running server through its monitors ([`monitors`]; [`runtime`] is about the one that every server
//! has), from programs, from `lunar monitor` ([`console`]), or from `lunar ls` and its like ([`client`]).
//! Both come from a configuration file, too, which `lunar check-config` looks at ([`config`]).
//! A running server tells what it does to Prometheus ([`metrics`]), to its log ([`log`]) and to the service manager
//! ([`service`]).
//! Shells learn what can be typed from [`complete`], people from `--help` and from manual pages ([`manual`]).
//! `lunar probe` looks at such a socket from the guest's side ([`probe`]), `lunar bench` puts a load on it ([`mod@bench`]).
//!
//! Standard output is for results, standard error for messages and logs. The exit status is 2 when the command line is
//! wrong, 1 when something failed at run time, 0 otherwise.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the program: its output is for people and scripts"
)]

mod args;
mod bench;
mod client;
mod complete;
mod config;
mod console;
mod declare;
mod log;
mod machines;
mod manual;
mod metrics;
mod monitors;
mod probe;
mod qemu;
mod runtime;
mod serve;
mod service;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use args::{Command, CommandLine};

/// Why the program ends without having done what it was asked.
enum Failure {
    /// The command line is wrong.
    Usage(anyhow::Error),
    /// It was right, but something failed.
    Runtime(anyhow::Error),
}

impl Failure {
    fn usage(error: impl Into<anyhow::Error>) -> Failure {
        Failure::Usage(error.into())
    }

    fn runtime(error: impl Into<anyhow::Error>) -> Failure {
        Failure::Runtime(error.into())
    }
}

fn main() -> ExitCode {
    complete::answer();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if args::asks_for_capabilities(&arguments) {
        say("{\"type\":\"scsi\",\"features\":[]}\n");
        return ExitCode::SUCCESS;
    }
    let outcome = match CommandLine::parse_from(args::translate(arguments)).command {
        Command::Serve(serve) => serve::run(&serve),
        Command::Ls(options) => client::ls::run(&options),
        Command::Attach(options) => client::attach::run(&options),
        Command::Insert(options) => client::media::insert(&options),
        Command::Eject(options) => client::media::eject(&options),
        Command::Detach(options) => client::detach::run(&options),
        Command::Resize(options) => client::resize::run(&options),
        Command::Throttle(options) => client::throttle::run(&options),
        Command::Stats(options) => client::stats::run(&options),
        Command::Events(options) => client::events::run(&options),
        Command::Pause(at) => client::pause(&at),
        Command::Cont(at) => client::cont(&at),
        Command::Monitor(options) => console::run(options),
        Command::CheckConfig(options) => config::check(&options),
        Command::Config(options) => config::config(&options),
        Command::Probe(options) => probe::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Completions { shell } => complete::script(shell),
        Command::Man(options) => manual::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(error)) => {
            service::failed(&format!("{error:#}"));
            eprintln!("lunar: {error:#}");
            ExitCode::from(2)
        }
        Err(Failure::Runtime(error)) => {
            service::failed(&format!("{error:#}"));
            eprintln!("lunar: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Writes to standard output. A reader that has gone is no reason to stop serving.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The same where standard output is taken.
fn say_aside(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Tells the user of something that looks wrong and works.
fn warn(text: &str) {
    eprintln!("lunar: warning: {text}");
}
