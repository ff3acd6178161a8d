//! A monitor as programs use it: a session of `qemu.qmp`, the client that QEMU's project publishes, with a server.
//!
//! The session itself is `qmp_session.py`. It holds every answer and event against the schema that the server gives.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::guest_tests::Tally;
use crate::process::{read, step, tied};
use crate::scratch::Scratch;
use crate::storage::{Daemon, build_lunar, create};
use crate::target_directory;

/// The client, as pip knows it.
const CLIENT: &str = "qemu.qmp==0.0.6";

/// Runs the session.
pub fn test() -> Result<Tally> {
    let target = target_directory()?;
    let lunar = step("Building lunar", || build_lunar(&target))?;
    let mut tally = Tally::default();
    match step("Talking to a monitor with qemu.qmp", || {
        session(&lunar, &target)
    }) {
        Ok(()) => tally.passed += 1,
        Err(error) => {
            println!("{error:#}");
            tally.failed += 1;
        }
    }
    Ok(tally)
}

fn session(lunar: &Path, target: &Path) -> Result<()> {
    let python = client(&target.join("qemu-qmp"))?;
    let scratch = Scratch::new()?;
    let (front_end, monitor) = (scratch.join("vm.sock"), scratch.join("vm.qmp"));
    let (raw, qcow2) = (scratch.join("disk.img"), scratch.join("disk.qcow2"));
    create("raw", &raw, "64M")?;
    create("qcow2", &qcow2, "64M")?;
    let arguments = [
        format!("--socket-path={}", front_end.display()),
        format!("--monitor=unix:{},server=on,wait=off", monitor.display()),
        "--device=virtio-scsi-pci,id=scsi0".to_owned(),
        format!(
            "--drive=file={},id=system,if=none,format=raw",
            raw.display()
        ),
        "--device=scsi-hd,drive=system,id=disk0".to_owned(),
    ];
    let daemon = Daemon::start(lunar, &scratch, &arguments, &[&front_end])?;
    let script = scratch.join("session.py");
    std::fs::write(&script, include_str!("qmp_session.py"))?;
    let mut command = tied(python);
    command
        .arg(&script)
        .args([&monitor, &qcow2])
        .arg(scratch.join("vm2.sock"));
    let said = read(&mut command).with_context(|| format!("lunar said:\n{}", daemon.log()))?;
    let transcript = target.join("qmp-session.txt");
    std::fs::write(&transcript, said)?;
    println!("    transcript: {}", transcript.display());
    // The session has ended it.
    drop(daemon);
    Ok(())
}

/// A Python that has the client, in an environment of its own.
fn client(directory: &Path) -> Result<PathBuf> {
    let python = directory.join("bin/python");
    let has_it = || read(tied(&python).args(["-c", "import qemu.qmp"])).is_ok();
    if has_it() {
        return Ok(python);
    }
    read(
        tied("python3")
            .args(["-m", "venv", "--clear"])
            .arg(directory),
    )
    .context(
        "cannot make an environment for Python; please run: \
         sudo apt-get install -y --no-install-recommends python3 python3-venv",
    )?;
    read(tied(&python).args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        CLIENT,
    ]))
    .with_context(|| {
        format!(
            "cannot install QMP's client; please run: {} -m pip install {CLIENT}",
            python.display()
        )
    })?;
    Ok(python)
}
