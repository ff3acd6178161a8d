//! The file of a listening socket: made, replaced if its server has crashed, and removed.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::Error;

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// As the process's umask has it.
    Umask,
    /// This user alone, from the first moment on.
    Owner,
}

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 128;

/// The file of a listening socket, removed on drop if it is still the one that was made.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Held open, so that its inode's number cannot be given to another's file.
    inode: Option<OwnedFd>,
}

impl SocketFile {
    /// Listens at `path`.
    ///
    /// A socket file that a crashed server has left is replaced; one that is in use is an error.
    pub fn bind(path: &Path, access: Access) -> Result<(UnixListener, SocketFile), Error> {
        let listener = match listen(path, access) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path)?;
                listen(path, access)
            }
            other => other,
        }
        .map_err(|source| Error::bind(path, source))?;
        let file = SocketFile {
            path: path.to_path_buf(),
            inode: hold(path).ok(),
        };
        Ok((listener, file))
    }
}

impl SocketFile {
    fn is_at_its_path(&self) -> Result<bool, Errno> {
        let inode = self.inode.as_ref().ok_or(Errno::NOENT)?;
        let (ours, there) = (rustix::fs::fstat(inode)?, rustix::fs::lstat(&self.path)?);
        Ok((ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_at_its_path() == Ok(true) {
            // Nobody is left to be told.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn listen(path: &Path, access: Access) -> io::Result<UnixListener> {
    if access == Access::Umask {
        return UnixListener::bind(path);
    }
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // The file gets the mode of the socket: it is private before it has a name.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// The file itself, whatever becomes of its name.
fn hold(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Removes a socket file on which nobody listens any more.
fn remove_stale(path: &Path) -> Result<(), Error> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if !is_socket {
        return Err(Error::NotASocket(path.to_path_buf()));
    }
    match try_connect(path) {
        Err(Errno::CONNREFUSED) => {
            tracing::info!(path = %path.display(), "replacing the socket of a server that has ended");
            std::fs::remove_file(path).map_err(|source| Error::bind(path, source))
        }
        // Gone in the meantime.
        Err(Errno::NOENT) => Ok(()),
        // A full backlog is a sign of life, too.
        _ => Err(Error::InUse(path.to_path_buf())),
    }
}

/// Connects without waiting.
fn try_connect(path: &Path) -> Result<(), Errno> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn private_socket_is_for_its_owner_alone_and_goes_with_its_server() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let (listener, file) = SocketFile::bind(&path, Access::Owner).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = SocketFile::bind(&path, Access::Owner);
        assert!(matches!(again, Err(Error::InUse(_))), "{again:?}");
        drop(listener);
        let (listener, other) = SocketFile::bind(&path, Access::Owner).unwrap();
        drop(file);
        assert!(path.exists(), "it belongs to another server now");
        drop((listener, other));
        assert!(!path.exists());
    }
}
