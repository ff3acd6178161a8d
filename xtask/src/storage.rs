//! Where the guest's disks come from: `lunar serve`, or QEMU's own emulation to compare with.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::process::{line, read, run, spawn, stop, tied};
use crate::qemu::path_value;
use crate::scratch::Scratch;

/// Who serves the disks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Server {
    Lunar,
    Qemu,
}

/// Disks and their addresses, in the words that QEMU and Lunar share.
#[derive(Default)]
pub struct Disks {
    options: Vec<String>,
    count: u32,
}

impl Disks {
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

    /// Adds a `-drive`.
    pub fn drive(&mut self, value: &str) {
        self.options
            .extend(["--drive".to_owned(), value.to_owned()]);
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

/// The disks' controller on QEMU's command line when QEMU serves them itself.
pub fn by_qemu(disks: &Disks, queues: u32) -> Vec<String> {
    let mut options = vec![
        "-device".to_owned(),
        format!("virtio-scsi-pci,id=scsi0,num_queues={queues}"),
    ];
    options.extend_from_slice(disks.options());
    options
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
}

impl Daemon {
    /// Starts it, and waits until all its sockets are there.
    pub fn start(
        lunar: &Path,
        scratch: &Scratch,
        arguments: &[String],
        sockets: &[&Path],
    ) -> Result<Self> {
        let (said, log) = (scratch.join("serve.stdout"), scratch.join("serve.stderr"));
        let mut command = tied(lunar);
        command.arg("serve").args(arguments).stdin(Stdio::null());
        command
            .stdout(File::create(&said)?)
            .stderr(File::create(&log)?);
        let child = spawn(&mut command)?;
        let mut daemon = Self {
            child,
            command: line(&command),
            log,
            said,
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !sockets.iter().all(|socket| socket.exists()) {
            if let Some(status) = daemon.child.try_wait()? {
                bail!(
                    "{} ended at once: {status}\n{}",
                    daemon.command,
                    daemon.log().trim_end()
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "{} did not make its socket in time\n{}",
                    daemon.command,
                    daemon.log().trim_end()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(daemon)
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it has written to standard output: the QEMU options that attach its controllers.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap_or_default()
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

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = stop(&mut self.child, Duration::from_secs(5));
    }
}

/// The options that attach a controller at `socket` to a QEMU with `memory`.
pub fn by_lunar(socket: &Path, number: u32, queues: u32) -> Vec<String> {
    [
        "-chardev".to_owned(),
        format!("socket,id=lunar{number},path={}", path_value(socket)),
        "-device".to_owned(),
        format!("vhost-user-scsi-pci,id=scsi{number},chardev=lunar{number},num_queues={queues}"),
    ]
    .into()
}
