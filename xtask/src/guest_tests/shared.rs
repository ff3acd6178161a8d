//! One disk that two controllers of one server show: to one guest as two paths, or to two guests.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Lab;
use crate::qemu::{Machine, path_value};
use crate::scratch::Scratch;
use crate::storage::{Daemon, Server};

/// The controllers' names.
const SIDES: [&str; 2] = ["left", "right"];

/// A server with one disk behind two controllers.
pub struct Shared {
    daemon: Daemon,
    /// The disk as each side's device.
    paths: [String; 2],
    /// What attaches each controller.
    attach: [Vec<String>; 2],
}

impl Shared {
    /// Serves a raw image as LUN 0 of target 0 of both controllers, each with two queues; `paths` are properties of the
    /// disk on one side alone.
    pub fn serve(lab: &Lab, scratch: &Scratch, image: &Path, paths: [&str; 2]) -> Result<Self> {
        ensure!(
            lab.server == Server::Lunar,
            "QEMU shares no disk between machines"
        );
        let sockets = SIDES.map(|side| scratch.join(&format!("{side}.sock")));
        let [left, right] = paths;
        let paths = [disk(SIDES[0], left), disk(SIDES[1], right)];
        let mut arguments = Vec::new();
        let mut option = |name: &str, value: String| {
            arguments.extend([name.to_owned(), value]);
        };
        option(
            "--drive",
            format!(
                "file={},format=raw,if=none,id=shared,discard=unmap",
                path_value(image)
            ),
        );
        for ((side, socket), path) in SIDES.iter().zip(&sockets).zip(&paths) {
            option(
                "--device",
                format!(
                    "virtio-scsi-pci,id={side},num_queues=2,socket={}",
                    path_value(socket)
                ),
            );
            option("--device", path.clone());
        }
        let [left, right] = &sockets;
        let daemon = Daemon::start(&lab.lunar, scratch, &arguments, &[left, right])?;
        let options = daemon.qemu_options()?;
        let (left, right) = options
            .split_at_checked(4)
            .context("the server printed too few QEMU options")?;
        Ok(Self {
            attach: [left.to_vec(), right.to_vec()],
            daemon,
            paths,
        })
    }

    /// Takes the disk away from one side, while guests use it.
    pub fn detach(&self, side: usize) -> Result<()> {
        let name = SIDES.get(side).context("there are two sides")?;
        self.daemon.monitor()?.device_del(&format!("{name}-disk"))
    }

    /// Gives the disk back to that side, as it was.
    pub fn attach_again(&self, side: usize) -> Result<()> {
        let path = self.paths.get(side).context("there are two sides")?;
        self.daemon.monitor()?.device_add(path)
    }

    /// A machine with one path.
    pub fn machine<'l>(&self, lab: &'l Lab, side: usize) -> Machine<'l> {
        let attach = self.attach.get(side).cloned().unwrap_or_default();
        quick(Machine::new(&lab.image, attach))
    }

    /// A machine with both paths.
    pub fn machine_with_both<'l>(&self, lab: &'l Lab) -> Machine<'l> {
        quick(Machine::new(&lab.image, self.attach.concat()))
    }

    /// `kill -9`, as if the power had failed.
    pub fn kill(self) -> Result<()> {
        self.daemon.kill()
    }

    /// Ends the server, which must have had nothing to complain about.
    pub fn stop(self) -> Result<()> {
        self.daemon.stop()
    }
}

/// The shared disk as one side's device.
fn disk(side: &str, properties: &str) -> String {
    format!(
        "scsi-hd,id={side}-disk,bus={side}.0,drive=shared,scsi-id=0,lun=0,share-rw=on,serial=SHARED{properties}"
    )
}

/// It looks only where the disk is.
fn quick(machine: Machine<'_>) -> Machine<'_> {
    Machine {
        targets: Some("0".to_owned()),
        ..machine
    }
}
