//! A virtual machine with our Linux guest in it, which runs one job and reports the result.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};

use crate::boot_disk;
use crate::cpio::Archive;
use crate::guest_image::GuestImage;
use crate::monitor::Monitor;
use crate::process::{line, spawn, tied};
use crate::scratch::Scratch;

/// Who executes the guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Accel {
    /// The processor's own virtualization
    Kvm,
    /// QEMU's emulation: slower, but the same everywhere
    Tcg,
}

impl Accel {
    fn arguments(self, cpus: u32) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg if cpus > 1 => ["-accel", "tcg,thread=multi", "-cpu", "max"],
            Self::Tcg => ["-accel", "tcg", "-cpu", "max"],
        }
    }
}

/// What finds the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Firmware {
    /// QEMU itself: quickest
    None,
    /// A boot loader that SeaBIOS reads from one of the disks
    Seabios,
    /// A boot loader that OVMF (UEFI) reads from one of the disks
    Ovmf,
}

/// A virtual machine to start.
pub struct Machine<'a> {
    pub image: &'a GuestImage,
    pub accel: Accel,
    pub cpus: u32,
    /// In QEMU's notation, such as `512M`.
    pub memory: String,
    pub firmware: Firmware,
    /// Whether the guest has the programs that few guests need; only with firmware `None`.
    pub extras: bool,
    /// The targets that the guest looks at; all of them if there is no list.
    pub targets: Option<String>,
    /// The options that attach the disks.
    pub storage: Vec<String>,
    /// More options, last.
    pub extra: Vec<String>,
    /// Whether a reset of the guest ends the machine.
    pub reset_ends: bool,
}

impl<'a> Machine<'a> {
    /// A machine as most tests want it.
    pub fn new(image: &'a GuestImage, storage: Vec<String>) -> Self {
        Self {
            image,
            accel: Accel::Tcg,
            cpus: 1,
            memory: "512M".to_owned(),
            firmware: Firmware::None,
            extras: false,
            targets: None,
            storage,
            extra: Vec::new(),
            reset_ends: true,
        }
    }

    /// Makes a disk from which the machine's firmware boots the guest, to run this job.
    pub fn create_boot_disk(&self, path: &Path, job: &Job) -> Result<()> {
        boot_disk::create(path, self.image, &self.kernel_arguments(), &job.archive()?)
    }

    /// Boots and runs a job; its results come back in files.
    pub fn start(&self, job: &Job) -> Result<Running> {
        let scratch = Scratch::new()?;
        let mut command = self.command(job, &scratch)?;
        command
            .arg("-serial")
            .arg(format!("file:{}", scratch.join("console").display()))
            .args(["-device", "virtio-serial-pci,id=results"])
            .arg("-qmp")
            .arg(format!(
                "unix:{},server=on,wait=off",
                scratch.join("qemu.qmp").display()
            ));
        for port in ["stdout", "stderr", "status"] {
            let path = scratch.join(port);
            File::create(&path)?;
            command
                .arg("-chardev")
                .arg(format!("file,id={port},path={}", path.display()))
                .arg("-device")
                .arg(format!(
                    "virtserialport,bus=results.0,chardev={port},name={port}"
                ));
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(scratch.join("qemu"))?);
        let child = spawn(&mut command)?;
        // The guest's own limit comes first: it can tell what it was waiting for.
        let deadline = Instant::now() + job.time_limit + Duration::from_secs(30);
        Ok(Running {
            child,
            scratch,
            command: line(&command),
            started: Instant::now(),
            deadline,
        })
    }

    /// Boots and leaves the terminal to the guest, until its shell ends.
    pub fn interact(&self, job: &Job) -> Result<ExitStatus> {
        let scratch = Scratch::new()?;
        let mut command = self.command(job, &scratch)?;
        command
            .args([
                "-chardev",
                "stdio,id=console,mux=on,signal=off",
                "-serial",
                "chardev:console",
            ])
            .args(["-mon", "chardev=console"]);
        let status = spawn(&mut command)?.wait()?;
        // QEMU restores the terminal itself, unless it was killed.
        let _ = tied("stty").arg("sane").status();
        Ok(status)
    }

    fn command(&self, job: &Job, scratch: &Scratch) -> Result<std::process::Command> {
        let mut command = tied("qemu-system-x86_64");
        command
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-machine",
                "q35,memory-backend=mem",
                "-object",
            ])
            // A vhost-user server maps the guest's memory: it must be shareable.
            .arg(format!(
                "memory-backend-memfd,id=mem,size={},share=on",
                self.memory
            ))
            .args(self.accel.arguments(self.cpus))
            .args(["-smp", &self.cpus.to_string(), "-m", &self.memory]);
        if self.reset_ends {
            command.arg("-no-reboot");
        }
        match self.firmware {
            Firmware::None => {
                let initramfs = scratch.join("initramfs");
                let mut file = File::create(&initramfs)?;
                std::io::copy(&mut File::open(&self.image.initramfs)?, &mut file)?;
                if self.extras {
                    std::io::copy(&mut File::open(&self.image.extras)?, &mut file)?;
                }
                file.write_all(&job.archive()?)?;
                command
                    .arg("-kernel")
                    .arg(&self.image.kernel)
                    .arg("-initrd")
                    .arg(&initramfs);
                command.arg("-append").arg(self.kernel_arguments());
            }
            Firmware::Seabios => {}
            Firmware::Ovmf => {
                command.args(["-bios", "/usr/share/ovmf/OVMF.fd"]);
            }
        }
        command.args(&self.storage).args(&self.extra);
        Ok(command)
    }

    fn kernel_arguments(&self) -> String {
        // Expedited grace periods: the scan of 256 targets waits for two of them at each empty one.
        // No check of the timer: on a busy machine it may fail, and the guest would then sleep for ever.
        let mut arguments =
            "console=ttyS0 quiet panic=-1 no_timer_check rcupdate.rcu_expedited=1 scsi_mod.scan="
                .to_owned();
        match &self.targets {
            Some(targets) => {
                arguments.push_str("manual lunar.targets=");
                arguments.push_str(targets);
            }
            None => arguments.push_str("sync"),
        }
        arguments
    }
}

/// What the guest is to do; `guest/init` explains the files.
pub struct Job {
    script: String,
    /// The terminal's size, if there is to be a shell.
    interactive: Option<String>,
    time_limit: Duration,
}

impl Job {
    /// A script that reports through files.
    pub fn new(script: &str, time_limit: Duration) -> Self {
        Self {
            script: script.to_owned(),
            interactive: None,
            time_limit,
        }
    }

    /// A script, and then a shell on our terminal.
    pub fn shell(script: &str) -> Result<Self> {
        let size = tied("stty")
            .arg("size")
            .stdin(Stdio::inherit())
            .output()?
            .stdout;
        let size = String::from_utf8_lossy(&size).into_owned();
        Ok(Self {
            script: script.to_owned(),
            interactive: Some(size),
            time_limit: Duration::MAX,
        })
    }

    /// Whether it wants our terminal.
    pub fn is_interactive(&self) -> bool {
        self.interactive.is_some()
    }

    fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        archive.file("job/run", 0o755, self.script.as_bytes())?;
        if let Some(size) = &self.interactive {
            archive.file("job/interactive", 0o644, size.as_bytes())?;
        } else {
            archive.file(
                "job/limit",
                0o644,
                format!("{}\n", self.time_limit.as_secs()).as_bytes(),
            )?;
        }
        archive.finish()
    }
}

/// A virtual machine that is running its job. Dropping it pulls the plug.
pub struct Running {
    child: Child,
    scratch: Scratch,
    command: String,
    started: Instant,
    deadline: Instant,
}

/// What became of a job.
pub struct Outcome {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
    pub console: String,
    pub took: Duration,
}

impl Running {
    /// Waits for the end of the job, and returns what it said.
    pub fn finish(mut self) -> Result<Outcome> {
        while self.is_running()? {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.outcome()
    }

    /// Waits for the end of the job, and meanwhile passes on what it says.
    pub fn pass_on(mut self) -> Result<Outcome> {
        let mut stdout = File::open(self.scratch.join("stdout"))?;
        let mut stderr = File::open(self.scratch.join("stderr"))?;
        loop {
            let running = self.is_running()?;
            pass(&mut stdout, &mut std::io::stdout().lock())?;
            pass(&mut stderr, &mut std::io::stderr().lock())?;
            if !running {
                return self.outcome();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the job has said `words`.
    pub fn wait_for(&mut self, words: &str) -> Result<()> {
        while !self.has_said(words) {
            if !self.is_running()? {
                bail!(
                    "the guest ended without saying \"{words}\"{}",
                    self.epitaph()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// A connection to QEMU's own monitor.
    pub fn monitor(&self) -> Result<Monitor> {
        Monitor::connect(&self.scratch.join("qemu.qmp"))
    }

    /// What the job has said on the line that begins so.
    pub fn line(&self, beginning: &str) -> Result<String> {
        let said = self.said("stdout");
        let line = said.lines().find_map(|line| line.strip_prefix(beginning));
        Ok(line
            .with_context(|| format!("the guest did not say \"{beginning}\""))?
            .to_owned())
    }

    /// QEMU's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the job has said `words` by now.
    pub fn has_said(&self, words: &str) -> bool {
        self.said("stdout").contains(words)
    }

    /// `kill -9`: the machine vanishes in the middle of whatever it does.
    pub fn kill(&mut self) -> Result<()> {
        if !self.is_running()? {
            bail!(
                "the guest ended before it could be killed{}",
                self.epitaph()
            );
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// The machine stands still, and does not know.
    pub fn freeze(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::STOP)?)
    }

    /// The machine goes on.
    pub fn thaw(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::CONT)?)
    }

    fn is_running(&mut self) -> Result<bool> {
        if let Some(status) = self.child.try_wait()? {
            if !status.success() {
                bail!("QEMU failed: {status}{}", self.epitaph());
            }
            return Ok(false);
        }
        if Instant::now() > self.deadline {
            bail!("the guest did not end in time{}", self.epitaph());
        }
        Ok(true)
    }

    fn outcome(&self) -> Result<Outcome> {
        let status = self.said("status");
        let status = status
            .trim()
            .parse()
            .with_context(|| format!("the guest reported no exit status{}", self.epitaph()))?;
        Ok(Outcome {
            status,
            stdout: self.said("stdout"),
            stderr: self.said("stderr"),
            console: self.said("console"),
            took: self.started.elapsed(),
        })
    }

    fn said(&self, port: &str) -> String {
        std::fs::read(self.scratch.join(port))
            .map(|said| String::from_utf8_lossy(&said).into_owned())
            .unwrap_or_default()
    }

    /// All that is known about a machine that did not do its job.
    fn epitaph(&self) -> String {
        let mut text = format!("\n{}", self.command);
        for port in ["qemu", "stdout", "stderr", "console"] {
            let said = self.said(port);
            let tail: Vec<&str> = said.lines().rev().take(40).collect();
            if !tail.is_empty() {
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                text.push_str(&format!("\n--- {port}:\n{}", tail.join("\n")));
            }
        }
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies what has been added to a file since the last call.
fn pass(from: &mut File, to: &mut impl Write) -> Result<()> {
    let mut new = Vec::new();
    from.read_to_end(&mut new)?;
    to.write_all(&new)?;
    to.flush()?;
    Ok(())
}

/// QEMU's option value for a path: a comma is written twice.
pub fn path_value(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Whether KVM really runs our guest: some machines have the device, and a guest under it never gets going.
pub fn kvm_works(image: &GuestImage, cache: &Path) -> Result<bool> {
    if File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(false);
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let verdict: PathBuf = cache.join("kvm-works");
    if let Ok(known) = std::fs::read_to_string(&verdict)
        && let Some(known) = known.strip_prefix(&release)
    {
        return Ok(known == "yes");
    }
    let machine = Machine {
        accel: Accel::Kvm,
        targets: Some(String::new()),
        ..Machine::new(image, Vec::new())
    };
    let mut running = machine.start(&Job::new("true", Duration::from_secs(5)))?;
    running.deadline = Instant::now() + Duration::from_secs(6);
    let works = running.finish().is_ok();
    std::fs::write(
        verdict,
        format!("{release}{}", if works { "yes" } else { "no" }),
    )?;
    Ok(works)
}
