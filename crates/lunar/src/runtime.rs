//! The monitor that a server has without being asked, and how clients find it.
//!
//! A server listens at `PID.sock` in a directory that only its user can open: `$XDG_RUNTIME_DIR/lunar`, or `/run/lunar`
//! if it is root's and there is no such variable. `LUNAR_RUNTIME_DIR` is used instead of either. The file goes when
//! the server ends; what crashed servers have left is removed by the next one, and means nothing to clients.

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use lunar_monitor::Endpoint;

/// Names the directory, whatever else is there.
const OVERRIDE: &str = "LUNAR_RUNTIME_DIR";

/// Where a server of root is.
const SYSTEM: &str = "/run/lunar";

/// What sockets are called after the process's number.
const EXTENSION: &str = "sock";

/// Where this user's server puts its socket; `None` if there is no place for such things.
fn directory() -> Option<PathBuf> {
    directories().into_iter().next()
}

/// Where servers may be that this user can talk to.
fn directories() -> Vec<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(directory) = variable(OVERRIDE) {
        return vec![directory.into()];
    }
    let users = variable("XDG_RUNTIME_DIR").map(|base| PathBuf::from(base).join("lunar"));
    let system = rustix::process::geteuid().is_root().then(|| SYSTEM.into());
    users.into_iter().chain(system).collect()
}

/// Listens where clients will look, if there is a place for that.
pub fn bind() -> anyhow::Result<Option<Endpoint>> {
    let Some(directory) = directory() else {
        return Ok(None);
    };
    prepare(&directory).with_context(|| directory.display().to_string())?;
    for path in sockets(&directory) {
        if is_abandoned(&path) {
            // Another server may have been quicker.
            let _ = std::fs::remove_file(&path);
        }
    }
    let name = format!("{}.{EXTENSION}", std::process::id());
    Ok(Some(Endpoint::bind(&directory.join(name))?))
}

/// Makes the directory, or makes sure that it is ours.
fn prepare(directory: &Path) -> anyhow::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let found = std::fs::symlink_metadata(directory)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        bail!("this is not a directory of this user");
    }
    Ok(())
}

/// The sockets of servers that are or were, in the order of their processes' numbers.
pub fn servers() -> Vec<PathBuf> {
    directories().iter().flat_map(|at| sockets(at)).collect()
}

fn sockets(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .map(|entry| entry.path())
        .filter_map(|path| Some((process(&path)?, path)))
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

fn process(path: &Path) -> Option<u32> {
    let named = path.extension().is_some_and(|it| it == EXTENSION);
    named.then(|| path.file_stem()?.to_str()?.parse().ok())?
}

/// Nobody listens, and nobody is about to.
fn is_abandoned(path: &Path) -> bool {
    let refused =
        UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
    let gone = process(path).is_some_and(|number| !Path::new(&format!("/proc/{number}")).exists());
    refused && gone
}
