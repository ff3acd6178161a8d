//! Debian packages: on this machine, and as raw material for the guest.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use rustix::process::geteuid;

use crate::process::{read, tied};

/// What the demo and the guest tests need on this machine: package, and a file that proves it is there.
pub const HOST_PACKAGES: &[(&str, &str)] = &[
    ("binutils", "/usr/bin/readelf"),
    ("kmod", "/sbin/depmod"),
    ("ovmf", "/usr/share/OVMF/OVMF_CODE.fd"),
    ("qemu-system-common", "/usr/bin/qemu-storage-daemon"),
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
    ("qemu-utils", "/usr/bin/qemu-img"),
    ("xz-utils", "/usr/bin/xz"),
];

/// Installs what is missing on this machine, after saying so.
pub fn ensure_installed(packages: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .filter(|(_, proof)| !Path::new(proof).exists())
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!(
        "==> Installing Debian packages on this machine: {}",
        missing.join(" ")
    );
    let by_hand = format!(
        "sudo apt-get install -y --no-install-recommends {}",
        missing.join(" ")
    );
    let mut install = vec!["apt-get", "-qq", "-y", "--no-install-recommends", "install"];
    install.extend(&missing);
    update()
        .and_then(|()| as_root(&install))
        .with_context(|| format!("cannot install what is missing; please run: {by_hand}"))?;
    for (name, proof) in packages {
        if !Path::new(proof).exists() {
            bail!("the package {name} is installed, but {proof} is not there");
        }
    }
    Ok(())
}

/// Downloads packages with everything that they depend on, without installing anything; returns the archives.
pub fn download(packages: &[&str], directory: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(directory.join("partial"))?;
    // Against an empty status file nothing counts as installed, so that the whole closure comes.
    let status = directory.join("status");
    std::fs::write(&status, "")?;
    let option = |name: &str, value: &Path| format!("-o{name}={}", value.display());
    let mut command = tied("apt-get");
    command
        .args([
            "-qq",
            "-y",
            "--no-install-recommends",
            "--download-only",
            "-oDebug::NoLocking=1",
        ])
        .args(["-oAPT::Sandbox::User="])
        .arg(option("Dir::State::status", &status))
        .arg(option("Dir::Cache::archives", directory))
        .arg("install")
        .args(packages);
    with_fresh_lists(|| read(&mut command))?;
    archives(directory)
}

/// Downloads one package alone.
pub fn download_alone(package: &str, directory: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(directory)?;
    let mut command = tied("apt-get");
    command
        .args(["-qq", "-oAPT::Sandbox::User=", "download", package])
        .current_dir(directory);
    with_fresh_lists(|| read(&mut command))?;
    let prefix = format!("{package}_");
    archives(directory)?
        .into_iter()
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
        })
        .with_context(|| format!("apt-get download {package} left no package"))
}

/// The package that a meta-package stands for today.
pub fn newest(meta: &str, prefix: &str) -> Result<String> {
    with_fresh_lists(|| {
        let text = read(tied("apt-cache").args(["depends", meta]))?;
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .with_context(|| format!("{meta} depends on nothing called {prefix}*"))
    })
}

/// Unpacks a package's files.
pub fn unpack(archive: &Path, directory: &Path) -> Result<()> {
    read(
        tied("dpkg-deb")
            .arg("--extract")
            .arg(archive)
            .arg(directory),
    )
    .map(drop)
}

fn archives(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut archives = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            archives.push(path);
        }
    }
    archives.sort();
    Ok(archives)
}

/// Tries with the package lists that are there, and once more with new ones.
fn with_fresh_lists<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    attempt().or_else(|_| {
        update()?;
        attempt()
    })
}

fn update() -> Result<()> {
    as_root(&["apt-get", "-qq", "update"])
}

fn as_root(arguments: &[&str]) -> Result<()> {
    let mut command = if geteuid().is_root() {
        tied("env")
    } else {
        let mut sudo = tied("sudo");
        sudo.args(["-n", "env"]);
        sudo
    };
    read(
        command
            .arg("DEBIAN_FRONTEND=noninteractive")
            .args(arguments),
    )
    .map(drop)
}
