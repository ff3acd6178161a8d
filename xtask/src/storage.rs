//! Where the guest's disks come from: `lunar serve`, or QEMU's own emulation to compare with.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::monitor::Monitor;
use crate::process::{line, read, run, spawn, stop, ticks, tied};
use crate::qemu::path_value;
use crate::scratch::Scratch;

/// Who serves the disks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Server {
    Lunar,
    Qemu,
}

impl Server {
    /// Brings up a controller with these disks.
    pub fn start(
        self,
        lunar: &Path,
        scratch: &Scratch,
        disks: &Disks,
        queues: u32,
        more: &[String],
    ) -> Result<Storage> {
        match self {
            Self::Qemu => {
                let mut attach = vec![
                    "-device".to_owned(),
                    format!("virtio-scsi-pci,id=scsi0,num_queues={queues}"),
                ];
                attach.extend_from_slice(disks.options());
                Ok(Storage {
                    attach,
                    daemon: None,
                })
            }
            Self::Lunar => {
                let socket = scratch.join("lunar.sock");
                let mut arguments = vec!["--socket-path".to_owned(), socket.display().to_string()];
                arguments.extend(["--queues".to_owned(), queues.to_string()]);
                arguments.extend_from_slice(disks.options());
                arguments.extend_from_slice(more);
                let daemon = Daemon::start(lunar, scratch, &arguments, &[&socket])?;
                Ok(Storage {
                    attach: daemon.qemu_options()?,
                    daemon: Some(daemon),
                })
            }
        }
    }
}

/// Serves one disk with `lunar` over two controllers of one guest.
pub fn over_two_controllers(
    lunar: &Path,
    scratch: &Scratch,
    drive: &str,
    device: &str,
) -> Result<Storage> {
    let mut disks = Disks::default();
    disks.drive(drive);
    let names = ["one", "two"];
    let sockets = names.map(|name| scratch.join(&format!("{name}.sock")));
    for (name, socket) in names.iter().zip(&sockets) {
        disks.device(&format!(
            "virtio-scsi-pci,id={name},num_queues=1,socket={}",
            path_value(socket)
        ));
    }
    for name in names {
        disks.device(&format!("{device},bus={name}.0"));
    }
    let sockets = sockets.each_ref().map(PathBuf::as_path);
    let daemon = Daemon::start(lunar, scratch, disks.options(), &sockets)?;
    Ok(Storage {
        attach: daemon.qemu_options()?,
        daemon: Some(daemon),
    })
}

/// A controller with its disks.
pub struct Storage {
    /// The options that attach it to a QEMU.
    pub attach: Vec<String>,
    /// The process behind it, unless that is QEMU.
    pub daemon: Option<Daemon>,
}

impl Storage {
    /// Ends the server, which must have had nothing to complain about.
    pub fn stop(self) -> Result<()> {
        self.daemon.map_or(Ok(()), Daemon::stop)
    }
}

/// Disks and their addresses, in the words that QEMU and Lunar share.
#[derive(Default)]
pub struct Disks {
    options: Vec<String>,
    count: u32,
}

impl Disks {
    /// A disk of 1 MiB at every address, in a sparse file `TARGET-LUN.raw`.
    pub fn sparse(addresses: &[(u32, u32)], scratch: &Scratch) -> Result<Self> {
        let mut disks = Self::default();
        for (target, lun) in addresses {
            let path = scratch.join(&format!("{target}-{lun}.raw"));
            File::create(&path)?.set_len(1 << 20)?;
            disks.place(&path, *target, *lun);
        }
        Ok(disks)
    }

    /// Adds a disk from its specification on the command line, at the next target.
    pub fn add(&mut self, specification: &str, scratch: &Scratch) -> Result<()> {
        let number = self.count;
        let drive = if let Some(size) = size(specification) {
            let path = scratch.join(&format!("disk{number}.raw"));
            create("raw", &path, size)?;
            format!("file={},format=raw", path_value(&path))
        } else if specification
            .split(',')
            .next()
            .is_some_and(|first| first.contains('='))
        {
            specification.to_owned()
        } else {
            image(Path::new(specification))?
        };
        let device = if drive.contains("media=cdrom") {
            "scsi-cd"
        } else {
            "scsi-hd"
        };
        self.count += 1;
        self.drive(&format!("{drive},if=none,id=drive{number}"));
        self.device(&format!(
            "{device},drive=drive{number},id=disk{number},scsi-id={number},lun=0"
        ));
        Ok(())
    }

    /// Adds an image at the next target.
    pub fn image(&mut self, path: &Path, scratch: &Scratch) -> Result<()> {
        self.add(&path.to_string_lossy(), scratch)
    }

    /// Adds a raw image at an address.
    pub fn place(&mut self, path: &Path, target: u32, lun: u32) {
        let id = format!("{target}-{lun}");
        self.drive(&format!(
            "file={},format=raw,if=none,id=drive{id}",
            path_value(path)
        ));
        self.device(&format!(
            "scsi-hd,drive=drive{id},id=disk{id},scsi-id={target},lun={lun}"
        ));
    }

    /// Adds the disk that the firmware is to boot from, at a target's LUN 0; disks without an address follow.
    pub fn boot_disk(&mut self, path: &Path, target: u32) {
        self.count = target + 1;
        self.drive(&format!(
            "file={},format=raw,if=none,id=boot",
            path_value(path)
        ));
        self.device(&format!(
            "scsi-hd,drive=boot,id=bootdisk,scsi-id={target},lun=0,bootindex=1"
        ));
    }

    /// Adds a `-drive`.
    pub fn drive(&mut self, value: &str) {
        self.options
            .extend(["--drive".to_owned(), value.to_owned()]);
    }

    /// Adds a `-blockdev`.
    pub fn node(&mut self, value: &str) {
        self.options
            .extend(["--blockdev".to_owned(), value.to_owned()]);
    }

    /// Adds a `-device`.
    pub fn device(&mut self, value: &str) {
        self.options
            .extend(["--device".to_owned(), value.to_owned()]);
    }

    /// The options.
    pub fn options(&self) -> &[String] {
        &self.options
    }
}

/// Creates an empty image.
pub fn create(format: &str, path: &Path, size: &str) -> Result<()> {
    read(
        tied("qemu-img")
            .args(["create", "-q", "-f", format])
            .arg(path)
            .arg(size),
    )
    .map(drop)
}

/// A number with a unit: the size of a disk to be made.
fn size(specification: &str) -> Option<&str> {
    let digits = specification.strip_suffix(['K', 'M', 'G', 'T'])?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then_some(specification)
}

/// The drive for an image file; its name tells the format.
fn image(path: &Path) -> Result<String> {
    let path = path
        .canonicalize()
        .with_context(|| format!("--disk {}", path.display()))?;
    let extension = path
        .extension()
        .map(|extension| extension.to_string_lossy().into_owned());
    Ok(match extension.as_deref() {
        Some("iso") => format!(
            "file={},format=raw,media=cdrom,readonly=on",
            path_value(&path)
        ),
        Some("qcow2") => format!("file={},format=qcow2", path_value(&path)),
        _ => format!("file={},format=raw", path_value(&path)),
    })
}

/// Builds the `lunar` binary, and says where it is.
pub fn build_lunar(target_directory: &Path) -> Result<PathBuf> {
    run(tied("cargo").args(["build", "--quiet", "--package", "lunar"]))?;
    Ok(target_directory.join("debug/lunar"))
}

/// A `lunar serve` of ours.
pub struct Daemon {
    child: Child,
    command: String,
    log: PathBuf,
    said: PathBuf,
    monitor: PathBuf,
}

impl Daemon {
    /// Starts it, and waits until all its sockets are there and it has said how to attach them.
    pub fn start(
        lunar: &Path,
        scratch: &Scratch,
        arguments: &[String],
        sockets: &[&Path],
    ) -> Result<Self> {
        let (said, log) = (scratch.join("serve.stdout"), scratch.join("serve.stderr"));
        let mut command = tied(lunar);
        let monitor = scratch.join("lunar.qmp");
        command.arg("serve").args(arguments).stdin(Stdio::null());
        command.args(["--monitor", &format!("unix:{}", path_value(&monitor))]);
        // Not among the servers that somebody finds who works on this machine.
        command.env("LUNAR_RUNTIME_DIR", scratch.join("run"));
        command
            .stdout(File::create(&said)?)
            .stderr(File::create(&log)?);
        let child = spawn(&mut command)?;
        let mut daemon = Self {
            child,
            command: line(&command),
            log,
            said,
            monitor,
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        // Two options with a value each for every socket.
        while daemon.qemu_options()?.len() < 4 * sockets.len()
            || !sockets.iter().all(|socket| socket.exists())
            || !daemon.monitor.exists()
        {
            if let Some(status) = daemon.child.try_wait()? {
                bail!(
                    "{} ended at once: {status}\n{}",
                    daemon.command,
                    daemon.log().trim_end()
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "{} did not get ready in time\n{}",
                    daemon.command,
                    daemon.log().trim_end()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(daemon)
    }

    /// A connection to its monitor.
    pub fn monitor(&self) -> Result<Monitor> {
        Monitor::connect(&self.monitor)
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The QEMU options that attach its controllers, as it prints them at start: two for each, with a value each.
    /// Those for the machine's memory are left to the machine.
    pub fn qemu_options(&self) -> Result<Vec<String>> {
        let said = std::fs::read_to_string(&self.said)?;
        let mut options = Vec::new();
        for line in said.lines() {
            let line = line.trim().trim_end_matches('\\').trim_end();
            if let Some((option @ ("-chardev" | "-device"), value)) = line.split_once(' ') {
                options.extend([option.to_owned(), unquote(value)]);
            }
        }
        Ok(options)
    }

    /// The memory of its own that it occupies, in KiB: without what it has touched of the guest's.
    pub fn resident(&self) -> Result<u64> {
        self.status("RssAnon:")
    }

    /// The memory that the kernel holds in place for it, in KiB.
    pub fn pinned(&self) -> Result<u64> {
        self.status("VmPin:")
    }

    /// What it holds now.
    pub fn holdings(&self) -> Result<Holdings> {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))?;
        Ok(Holdings {
            descriptors: descriptors.count(),
            threads: self.threads()?,
            resident: self.resident()?,
        })
    }

    /// The names of its threads, without those that the kernel gives io_uring, and takes when it likes.
    fn threads(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // It may have ended by now.
            if let Ok(name) = std::fs::read_to_string(task?.path().join("comm")) {
                names.push(name.trim_end().to_owned());
            }
        }
        names.retain(|name| !name.starts_with("iou-"));
        names.sort_unstable();
        Ok(names)
    }

    fn status(&self, name: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.with_context(|| format!("no {name} in the process's status"))
    }

    /// The processor time that it has used, in clock ticks.
    pub fn processor_ticks(&self) -> Result<u64> {
        ticks(Path::new(&format!("/proc/{}", self.child.id())))
    }

    /// `kill -9`: it vanishes in the middle of whatever it does.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends it as a service manager would: SIGTERM, and everything is to be flushed and closed soon.
    pub fn stop(mut self) -> Result<()> {
        let status = stop(&mut self.child, Duration::from_secs(5))?;
        if !status.success() {
            bail!(
                "{} failed: {status}\n{}",
                self.command,
                self.log().trim_end()
            );
        }
        Ok(())
    }
}

/// What a process can leak.
pub struct Holdings {
    pub descriptors: usize,
    pub threads: Vec<String>,
    /// In KiB.
    pub resident: u64,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = stop(&mut self.child, Duration::from_secs(5));
    }
}

/// A word as it was before a shell's single quotes.
fn unquote(word: &str) -> String {
    match word
        .strip_prefix('\'')
        .and_then(|word| word.strip_suffix('\''))
    {
        Some(inside) => inside.replace(r"'\''", "'"),
        None => word.to_owned(),
    }
}
