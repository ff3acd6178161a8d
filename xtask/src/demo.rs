//! `cargo xtask demo`: a real Linux guest on our disks, with a shell or for one command.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::guest_image::GuestImage;
use crate::process::{quote, step};
use crate::qemu::{Accel, Firmware, Job, Machine, kvm_works};
use crate::scratch::Scratch;
use crate::storage::{Disks, Server, build_lunar, create};
use crate::{apt, boot_disk, target_directory};

#[derive(Args)]
pub struct Options {
    /// A disk for the guest: an image file, a size such as 1G for a new one, or a --drive value (repeatable)
    /// [default: a raw and a qcow2 image of 1 GiB]
    #[arg(long, value_name = "SPEC")]
    disk: Vec<String>,
    /// Another argument for `lunar serve` (repeatable)
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    serve_arg: Vec<String>,
    /// Another argument for QEMU (repeatable)
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    qemu_arg: Vec<String>,
    /// What finds the guest's kernel
    #[arg(long, value_enum, default_value = "none")]
    firmware: Firmware,
    /// The guest's processors
    #[arg(long, value_name = "N", default_value_t = 2)]
    smp: u32,
    /// The controller's request queues
    #[arg(long, value_name = "N", default_value_t = 2)]
    queues: u32,
    /// The guest's memory
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    mem: String,
    /// Who executes the guest's instructions [default: kvm if a short trial shows that it works]
    #[arg(long, value_enum)]
    accel: Option<Accel>,
    /// How long the command may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    timeout: u64,
    /// Keep the new disks, and say where they are
    #[arg(long)]
    keep: bool,
    #[arg(long, value_enum, default_value = "lunar", hide = true)]
    storage: Server,
    /// A command to run instead of the shell: one argument is a shell script, several are a program and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    apt::ensure_installed(apt::HOST_PACKAGES)?;
    let target = target_directory()?;
    let cache = target.join("guest");
    let image = GuestImage::prepare(&cache)?;
    let accel = match options.accel {
        Some(accel) => accel,
        None if kvm_works(&image, &cache)? => Accel::Kvm,
        None => Accel::Tcg,
    };
    let lunar = match options.storage {
        Server::Lunar => step("Building lunar", || build_lunar(&target))?,
        Server::Qemu => PathBuf::new(),
    };
    let job = match script(&options.command)? {
        Some(script) => Job::new(&script, Duration::from_secs(options.timeout)),
        None => Job::shell(TOUR)?,
    };
    let mut machine = Machine {
        accel,
        cpus: options.smp,
        memory: options.mem.clone(),
        firmware: options.firmware,
        extra: options.qemu_arg.clone(),
        ..Machine::new(&image, Vec::new())
    };
    let scratch = Scratch::new()?;
    let mut disks = Disks::default();
    if options.firmware != Firmware::None {
        apt::ensure_installed(boot_disk::HOST_PACKAGES)?;
        let path = scratch.join("boot.raw");
        machine.create_boot_disk(&path, &job)?;
        disks.boot_disk(&path, 0);
    }
    if options.disk.is_empty() {
        for format in ["raw", "qcow2"] {
            let path = scratch.join(&format!("demo.{format}"));
            create(format, &path, "1G")?;
            disks.image(&path, &scratch)?;
        }
    }
    for specification in &options.disk {
        disks.add(specification, &scratch)?;
    }
    let storage =
        options
            .storage
            .start(&lunar, &scratch, &disks, options.queues, &options.serve_arg)?;
    machine.storage.clone_from(&storage.attach);
    let ran = boot(&machine, &job);
    if let Some(daemon) = &storage.daemon {
        eprint!("{}", daemon.log());
    }
    let status = ran?;
    storage.stop()?;
    if options.keep {
        eprintln!("==> The disks are kept in {}", scratch.keep().display());
    }
    Ok(ExitCode::from(status))
}

/// Runs the job; its exit status is ours.
fn boot(machine: &Machine<'_>, job: &Job) -> Result<u8> {
    if job.is_interactive() {
        eprintln!("==> Booting the guest; `exit` powers it off");
        machine.interact(job)?;
        return Ok(0);
    }
    eprintln!("==> Booting the guest");
    let outcome = machine.start(job)?.pass_on()?;
    Ok(u8::try_from(outcome.status).unwrap_or(u8::MAX))
}

/// Shown first: what there is to play with.
const TOUR: &str = "for command in 'uname -sr' 'lsscsi --generic --size'; do echo \"# $command\"; $command; done\n";

/// The guest's job: the command, or what comes through a pipe; without either there is a terminal for a shell.
fn script(command: &[String]) -> Result<Option<String>> {
    Ok(match command {
        [script] => Some(script.clone()),
        [] if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() => None,
        [] => {
            let mut script = TOUR.to_owned();
            std::io::stdin().read_to_string(&mut script)?;
            Some(script)
        }
        words => Some(format!(
            "exec {}",
            words
                .iter()
                .map(|word| quote(word))
                .collect::<Vec<_>>()
                .join(" ")
        )),
    })
}
