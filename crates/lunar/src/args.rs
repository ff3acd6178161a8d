//! The command line: its grammar, its help, and the spellings that QEMU users have in their fingers.

mod client;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use crate::complete::workers;

pub use client::{At, Attach, Detach, Eject, Events, Insert, Ls, Resize, Stats, Throttle};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "lunar",
    version,
    about = "SCSI disks for virtual machines, over vhost-user",
    after_help = EXAMPLES,
    max_term_width = 100
)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve disks to virtual machines
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<Serve>),
    /// List the controllers and disks of a running server
    Ls(Ls),
    /// Give a running server's guest another disk
    Attach(Attach),
    /// Take a disk or a controller away
    Detach(Detach),
    /// Change the medium of a removable disk
    Insert(Insert),
    /// Take the medium out of a removable disk
    Eject(Eject),
    /// Give a disk another size
    Resize(Resize),
    /// Limit the operations and bytes per second of a disk
    Throttle(Box<Throttle>),
    /// Show what is done with the disks
    Stats(Stats),
    /// Print what happens, as it happens
    Events(Events),
    /// Let requests wait
    #[command(visible_alias = "stop", after_help = client::PAUSE_HELP)]
    Pause(At),
    /// Let requests and stopped disks go on
    #[command(visible_alias = "resume", after_help = client::CONT_HELP)]
    Cont(At),
    /// Talk to a running server in the words of QEMU's monitor
    Monitor(Monitor),
    /// Say whether a configuration file is right, and if not, where it is wrong
    CheckConfig(CheckConfig),
    /// Ask a running server for its configuration
    #[command(subcommand)]
    Config(Config),
    /// List what is behind a vhost-user SCSI socket, as a guest would find it
    Probe(Probe),
    /// Measure how fast what is behind a vhost-user SCSI or block socket is, or verify it
    Bench(Box<crate::bench::Benches>),
    /// Print what makes a shell complete lunar's commands, options, disks and drives
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print a manual page, or write all of them
    Man(Man),
}

/// `lunar serve`.
#[derive(Debug, Default, Args)]
pub struct Serve {
    /// Images: disks at targets 0, 1, …, LUN 0 (*.qcow2 is qcow2, all else is raw)
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,

    /// Declare what this file declares, in TOML; other options add to it, or go before it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Listen here for a front end (of the controller that has no socket of its own)
    #[arg(long, value_name = "PATH", conflicts_with = "fd")]
    pub socket_path: Option<PathBuf>,

    /// Use this open socket: one that listens, or a connection with a front end
    #[arg(long, value_name = "N")]
    pub fd: Option<i32>,

    /// Declare an image: file=PATH,id=NAME,if=none,format=raw|qcow2,… (help lists all)
    #[arg(long, value_name = "PROPERTIES")]
    pub drive: Vec<String>,

    /// Declare an object that others refer to: iothread,id=NAME,… or JSON (help lists all)
    #[arg(long, value_name = "PROPERTIES")]
    pub object: Vec<String>,

    /// Declare a block node: DRIVER,node-name=NAME,… or JSON (help lists all)
    #[arg(long, value_name = "PROPERTIES")]
    pub blockdev: Vec<String>,

    /// Declare a controller or a disk: scsi-hd,drive=NAME,… or JSON (help lists all)
    #[arg(long, value_name = "PROPERTIES")]
    pub device: Vec<String>,

    /// Take commands here, too: unix:PATH or stdio, in QMP (repeatable); none: not even where lunar ls looks for servers
    #[arg(long, visible_alias = "qmp", value_name = "PLACE", value_parser = crate::monitors::place)]
    pub monitor: Vec<crate::monitors::Place>,

    /// While an error stops a disk, pause its machine, through QEMU's own QMP socket (of controllers that have none of
    /// their own)
    #[arg(long, value_name = "PATH")]
    pub qemu_monitor: Option<PathBuf>,

    /// Tell Prometheus what is going on, at http://127.0.0.1:PORT/metrics or another ADDRESS:PORT
    #[arg(long, value_name = "PORT")]
    pub metrics: Option<crate::metrics::Address>,

    /// Request queues of a controller [default: one for each CPU of the host]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(lunar_host::catalog::MAX_QUEUES)))]
    pub queues: Option<u16>,

    /// Threads that serve the queues, and the CPUs that they stay on: a list (cpus=2-3,8), or those of a NUMA node
    /// (cpus=node0); cpus=LIST alone is a thread on each CPU [default: 1]
    #[arg(long, value_name = "N[,cpus=LIST]", add = ArgValueCompleter::new(workers))]
    pub workers: Option<lunar_host::WorkerThreads>,

    /// Microseconds for which a thread looks for work before it sleeps [default: 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(lunar_host::file::MAX_POLL_US)))]
    pub poll_us: Option<u32>,

    /// What to log to standard error: error, warn, info, debug or trace, or filters such as lunar_block=debug [default:
    /// warn]
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,

    /// How: text, for people, or json, an object in each line [default: text]
    #[arg(long, value_name = "FORMAT", value_enum, hide_possible_values = true)]
    pub log_format: Option<crate::log::Format>,

    /// Print what this program can do as JSON, and exit
    #[arg(long)]
    pub print_capabilities: bool,
}

/// `lunar monitor`.
#[derive(Debug, Args)]
#[command(after_help = MONITOR_EXAMPLES)]
pub struct Monitor {
    /// The server's monitor, as with --monitor
    #[arg(value_name = "SOCKET", conflicts_with = "monitor", value_parser = client::socket)]
    pub socket: Option<PathBuf>,

    #[command(flatten)]
    pub at: At,
}

/// `lunar check-config`.
#[derive(Debug, Args)]
pub struct CheckConfig {
    /// The file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Open the images, too, as a server would, and close them again
    #[arg(long)]
    pub open: bool,
}

/// `lunar config`.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Print what there is now as a file for --config
    Dump {
        /// The server's monitor, as with --monitor
        #[arg(value_name = "SOCKET", conflicts_with = "monitor", value_parser = client::socket)]
        socket: Option<PathBuf>,

        #[command(flatten)]
        at: At,
    },
}

/// `lunar man`.
#[derive(Debug, Args)]
#[command(after_help = MAN_EXAMPLES)]
pub struct Man {
    /// The command whose page is meant [default: lunar itself]
    #[arg(value_name = "COMMAND")]
    pub command: Vec<String>,

    /// Write the pages of all commands here
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "command", value_hint = clap::ValueHint::DirPath)]
    pub output: Option<PathBuf>,
}

/// `lunar probe`.
#[derive(Debug, Args)]
pub struct Probe {
    /// The socket, which must have no other front end at the moment
    #[arg(value_name = "SOCKET")]
    pub socket: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
Examples:
  lunar serve --socket-path /run/vm1.sock disk.qcow2     serve an image; prints QEMU's side of it
  lunar serve --device help                              list the devices
  lunar serve --device scsi-hd,help                      list the properties of a device
  lunar ls                                               list what the running server serves
  lunar attach data.qcow2                                give its guest another disk
  lunar probe /run/vm1.sock                              list what a guest would find there
  lunar bench --busy-poll /run/vm1.sock                  measure how fast it is";

const COMPLETIONS_EXAMPLES: &str = "\
The shell asks lunar whenever the Tab key is pressed, so the disks and drives of running servers are completed, too.

Examples:
  echo 'source <(lunar completions bash)' >>~/.bashrc
  echo 'source <(lunar completions zsh)' >>~/.zshrc
  lunar completions fish >~/.config/fish/completions/lunar.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  lunar man attach | man -l -
  lunar man --output /usr/local/share/man/man1";

const MONITOR_EXAMPLES: &str = "\
Type help for the commands. A line that begins with { is sent as it is, in QMP. Examples:
  info block
  drive_add 0 file=data.qcow2,format=qcow2,if=none,id=data
  device_add scsi-hd,drive=data,id=disk1
  device_del disk1
  {\"execute\":\"query-status\"}";

const SERVE_EXAMPLES: &str = "\
Examples:
  Two images, at targets 0 and 1:
    lunar serve --socket-path /run/vm1.sock system.qcow2 data.img

  The storage options of a QEMU command line, as they are:
    lunar serve --socket-path /run/vm1.sock \\
      -device virtio-scsi-pci,id=scsi0 \\
      -drive file=system.qcow2,format=qcow2,if=none,id=system,cache=none,discard=unmap \\
      -device scsi-hd,bus=scsi0.0,scsi-id=0,lun=0,drive=system,bootindex=1 \\
      -drive file=/dev/vg0/data,format=raw,if=none,id=data,cache=none \\
      -device scsi-hd,bus=scsi0.0,scsi-id=0,lun=1,drive=data,serial=D4T4

  Two controllers, for two virtual machines:
    lunar serve \\
      --device virtio-scsi-pci,id=vm1,socket=/run/vm1.sock \\
      --device virtio-scsi-pci,id=vm2,socket=/run/vm2.sock \\
      --drive file=one.img,format=raw,if=none,id=one --device scsi-hd,bus=vm1.0,drive=one \\
      --drive file=two.img,format=raw,if=none,id=two --device scsi-hd,bus=vm2.0,drive=two

Standard output has the QEMU options that attach each controller. SIGTERM and SIGINT end the
server after everything is flushed.";

/// The options that QEMU spells with one dash.
const SINGLE_DASH: &[&str] = &[
    "-blockdev",
    "-device",
    "-drive",
    "-monitor",
    "-object",
    "-qmp",
];

/// The arguments with QEMU's spellings turned into ours, and `serve` put in front of the options of the vhost-user
/// back-end conventions when a program that only knows these starts us (VU-060).
pub fn translate(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut translated: Vec<OsString> = Vec::new();
    let mut options = true;
    for (i, argument) in arguments.into_iter().enumerate() {
        if i == 1 && is_convention(&argument) {
            translated.push("serve".into());
        }
        options = options && argument != "--";
        if options && SINGLE_DASH.iter().any(|spelling| argument == *spelling) {
            let mut longer = OsString::from("-");
            longer.push(argument);
            translated.push(longer);
        } else {
            translated.push(argument);
        }
    }
    translated
}

fn is_convention(argument: &OsStr) -> bool {
    let argument = argument.to_string_lossy();
    let name = argument.split('=').next();
    matches!(name, Some("--socket-path" | "--fd"))
}

/// Whether a program asks for our capabilities, which goes before everything else on the command line (VU-061).
pub fn asks_for_capabilities(arguments: &[OsString]) -> bool {
    let mut arguments = arguments
        .iter()
        .skip(1)
        .take_while(|argument| *argument != "--");
    let serves = arguments
        .clone()
        .next()
        .is_some_and(|first| first == "serve" || first.to_string_lossy().starts_with('-'));
    serves && arguments.any(|argument| argument == "--print-capabilities")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(arguments: &[&str]) -> Vec<OsString> {
        arguments.iter().map(OsString::from).collect()
    }

    #[test]
    fn grammar_is_consistent() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
    }

    #[test]
    fn options_with_one_dash_are_those_with_two() {
        let typed = os(&[
            "lunar",
            "serve",
            "-drive",
            "file=x",
            "-device",
            "?",
            "-blockdev",
            "a",
            "--",
            "-drive",
        ]);
        let meant = os(&[
            "lunar",
            "serve",
            "--drive",
            "file=x",
            "--device",
            "?",
            "--blockdev",
            "a",
            "--",
            "-drive",
        ]);
        assert_eq!(translate(typed), meant);
    }

    #[test]
    fn back_end_conventions_work_without_a_subcommand() {
        let started = translate(os(&["lunar", "--socket-path=/s", "x.img"]));
        assert_eq!(
            started,
            os(&["lunar", "serve", "--socket-path=/s", "x.img"])
        );
        assert_eq!(
            translate(os(&["lunar", "--version"])),
            os(&["lunar", "--version"])
        );
    }

    #[test]
    fn capabilities_are_asked_for_whatever_else_is_written() {
        assert!(asks_for_capabilities(&os(&[
            "lunar",
            "--print-capabilities"
        ])));
        assert!(asks_for_capabilities(&os(&[
            "lunar",
            "serve",
            "--nonsense",
            "--print-capabilities",
            "--fd"
        ])));
        assert!(asks_for_capabilities(&os(&[
            "lunar",
            "--fd=3",
            "--print-capabilities"
        ])));
        assert!(!asks_for_capabilities(&os(&[
            "lunar",
            "serve",
            "--",
            "--print-capabilities"
        ])));
        assert!(!asks_for_capabilities(&os(&[
            "lunar",
            "probe",
            "--print-capabilities"
        ])));
        assert!(!asks_for_capabilities(&os(&["lunar"])));
    }
}
