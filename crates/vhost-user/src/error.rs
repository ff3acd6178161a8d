//! Why a server cannot be.

use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

/// Bytes that a socket's path may have (`sun_path` without its terminator).
const MAX_PATH: usize = 107;

/// Why a server cannot be set up. What goes wrong with a front end is logged; it is no error of the server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process listens there.
    #[error("socket {}: in use by a running server; stop it, or choose another path", .0.display())]
    InUse(PathBuf),
    /// Something that is not a socket has the name.
    #[error("socket {}: the file exists and is not a socket; remove it, or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The directory is not there.
    #[error("socket {}: directory {} does not exist; create it first (mkdir -p)", .path.display(), .directory.display())]
    NoDirectory {
        /// The socket's path.
        path: PathBuf,
        /// Its directory.
        directory: PathBuf,
    },
    /// Longer than the system allows.
    #[error("socket {}: the path is longer than {MAX_PATH} bytes; choose a shorter one", .0.display())]
    PathTooLong(PathBuf),
    /// Any other reason not to be able to listen.
    #[error("socket {}: cannot listen", path.display())]
    Bind {
        /// The socket's path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The descriptor is not a UNIX stream socket.
    #[error("descriptor {number} is not a UNIX stream socket")]
    Descriptor {
        /// The descriptor.
        number: RawFd,
        /// The system's reason.
        source: io::Error,
    },
    /// A thread or descriptor that the server needs cannot be had.
    #[error("cannot start a vhost-user server")]
    Start(#[source] io::Error),
}

impl Error {
    pub(crate) fn bind(path: &Path, source: io::Error) -> Error {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::NotFound if !directory.exists() => Error::NoDirectory {
                path,
                directory: directory.to_path_buf(),
            },
            _ if path.as_os_str().len() > MAX_PATH => Error::PathTooLong(path),
            _ => Error::Bind { path, source },
        }
    }
}
