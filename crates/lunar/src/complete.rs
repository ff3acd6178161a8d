//! What shells complete: commands and options, and the names of what running servers have.
//!
//! [`script`] tells a shell to call us, with [`VARIABLE`] set, whenever somebody presses the Tab key; [`answer`] is that
//! call. Whichever server is meant cannot be known while the line is still being written, so the names of all are offered.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{CompleteEnv, Shells};
use lunar_host::cpus::Cpus;
use lunar_monitor::{Client, ScsiController};

use crate::args::CommandLine;
use crate::{Failure, client, runtime, say};

/// Whose value is the shell that asks.
const VARIABLE: &str = "LUNAR_COMPLETE";

/// How long a server may take to answer: somebody waits at the keyboard.
const PATIENCE: Duration = Duration::from_millis(700);

/// Answers the shell and ends the process, if it is a shell that has called.
pub fn answer() {
    CompleteEnv::with_factory(CommandLine::command)
        .var(VARIABLE)
        .complete();
}

/// `lunar completions`.
pub fn script(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    let completer = Shells::builtins();
    let completer = completer.completer(&shell.to_string());
    completer
        .ok_or_else(|| std::io::Error::other("there is no script for this shell"))
        .and_then(|known| {
            known.write_registration(VARIABLE, "lunar", "lunar", "lunar", &mut script)
        })
        .map_err(Failure::runtime)?;
    say(&String::from_utf8_lossy(&script));
    Ok(())
}

/// The disks and controllers that can be named.
pub fn devices() -> Vec<CompletionCandidate> {
    candidates(|controller, names| {
        if let Some(id) = &controller.id {
            names.insert(id.clone(), "controller".to_owned());
        }
        for disk in &controller.disks {
            names.insert(disk.name.clone(), disk.file.clone());
        }
    })
}

/// The disks whose medium can be changed.
pub fn trays() -> Vec<CompletionCandidate> {
    candidates(|controller, names| {
        for disk in controller.disks.iter().filter(|disk| disk.removable) {
            names.insert(disk.name.clone(), disk.file.clone());
        }
    })
}

/// What has a size that can be changed: by the disk, its drive, or its node.
pub fn images() -> Vec<CompletionCandidate> {
    candidates(|controller, names| {
        for disk in &controller.disks {
            names.insert(disk.name.clone(), disk.file.clone());
            let drive = disk.drive.as_ref().unwrap_or(&disk.node_name);
            names.insert(drive.clone(), disk.file.clone());
        }
    })
}

/// The controllers on which a disk can be put.
pub fn buses() -> Vec<CompletionCandidate> {
    candidates(|controller, names| {
        let socket = controller.socket.clone().unwrap_or_default();
        let name = controller.id.as_ref().unwrap_or(&controller.bus);
        names.insert(name.clone(), socket);
    })
}

/// For `--workers`: numbers of threads, up to one for each processor, and where they can be.
pub fn workers(typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let count = typed.split(',').next();
    let count = count.filter(|count| count.parse::<u16>().is_ok());
    let before = count.map_or_else(String::new, |count| format!("{count},"));
    let choices = Cpus::choices();
    let most = choices.first().map_or(1, |(_, all)| all.len());
    let counts = (1..=most).map(|count| CompletionCandidate::new(count.to_string()));
    let lists = choices.into_iter().map(|(list, cpus)| {
        let help = format!("on CPUs {cpus}");
        CompletionCandidate::new(format!("{before}cpus={list}")).help(Some(help.into()))
    });
    let all = counts.chain(lists);
    all.filter(|one| one.get_value().to_string_lossy().starts_with(&*typed))
        .collect()
}

/// The monitors that can be found without being told.
pub fn monitors() -> Vec<CompletionCandidate> {
    let found = runtime::servers().into_iter();
    found.map(CompletionCandidate::new).collect()
}

/// Names with what is said of each.
fn candidates(
    collect: impl Fn(&ScsiController, &mut BTreeMap<String, String>),
) -> Vec<CompletionCandidate> {
    let mut names = BTreeMap::new();
    for controller in controllers() {
        collect(&controller, &mut names);
    }
    let named = names.into_iter();
    named
        .map(|(name, help)| CompletionCandidate::new(name).help(Some(help.into())))
        .collect()
}

/// Of all servers that answer in time.
fn controllers() -> Vec<ScsiController> {
    let (sender, answers) = mpsc::channel();
    let servers = runtime::servers();
    let asked = servers.len();
    for path in servers {
        let sender = sender.clone();
        thread::spawn(move || {
            let answer = Client::connect(&path, |_| {});
            let answer = answer.and_then(|mut session| client::tree(&mut session));
            // Nobody listens any more if it has taken too long.
            let _ = sender.send(answer.unwrap_or_default());
        });
    }
    let in_time = (0..asked).map_while(|_| answers.recv_timeout(PATIENCE).ok());
    in_time.flatten().collect()
}
