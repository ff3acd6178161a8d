//! Why something cannot be done.

use std::io;
use std::path::PathBuf;

use lunar_devices::ConfigError;
use lunar_target::reservation::RestoreError;

use crate::images::ImageError;
use crate::media::MediaError;
use crate::model;

/// Why a declaration cannot be made real, or an order not be carried out. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It does not fit what there is.
    #[error(transparent)]
    Refused(#[from] model::Error),
    /// A disk cannot have these properties.
    #[error("{origin}")]
    Disk {
        /// The device's declaration.
        origin: String,
        /// Which property, and why.
        source: ConfigError,
    },
    /// Two devices show one node differently.
    #[error(
        "{second}: this is a second path to the disk of {first}; give both the same properties \
         (those of the path may differ: port_index, port_wwn, port_group, access_state)"
    )]
    PathsDiffer {
        /// A declaration.
        first: String,
        /// The one that differs.
        second: String,
    },
    /// Two devices give one target port group of a node different states.
    #[error(
        "{second}: {first} gives target port group {group} of this disk another access_state; a group has one state, so \
         give both the same, or put one into a port_group of its own"
    )]
    AccessStatesDiffer {
        /// A declaration.
        first: String,
        /// The one that differs.
        second: String,
        /// The group.
        group: u16,
    },
    /// Two disks with one file.
    #[error(
        "{origin}: {other} keeps its reservations in {}, too; give each its own pr_file=PATH",
        .path.display()
    )]
    ReservationFile {
        /// The declaration.
        origin: String,
        /// The other.
        other: String,
        /// The file.
        path: PathBuf,
    },
    /// The reservations that were kept are of no use.
    #[error("{origin}: cannot restore persistent reservations")]
    Reservations {
        /// The device's declaration.
        origin: String,
        /// Why.
        source: RestoreError,
    },
    /// An image cannot be opened, changed or closed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A size that no image has.
    #[error("{node:?} cannot have {size} bytes; give a positive multiple of 512")]
    Size {
        /// The node.
        node: String,
        /// What was asked for.
        size: u64,
    },
    /// An image cannot be given a size, or its size not be found out.
    #[error("{node:?}")]
    Resize {
        /// The node.
        node: String,
        /// Why.
        source: lunar_block::Error,
    },
    /// An image would lose its end.
    #[error(
        "{node:?} has {from} bytes; what is behind the first {to} would be lost, so it takes force to shrink it"
    )]
    Shrink {
        /// The node.
        node: String,
        /// Its size.
        from: u64,
        /// What was asked for.
        to: u64,
    },
    /// A medium cannot be changed.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// It is being shrunk, or erased in the background, and cannot lose its end at the same time.
    #[error("{0:?} is being shrunk or erased; try again when that is over")]
    Shrinking(String),
    /// Guests have commands under way where an image was to be cut.
    #[error(
        "{node:?}: guests have commands under way behind the first {end} bytes that do not end; the disk stays as it is"
    )]
    StillUsedBeyond {
        /// The node.
        node: String,
        /// Where it was to end.
        end: u64,
    },
    /// A controller cannot be made, or a unit not be attached.
    #[error(transparent)]
    Controller(#[from] lunar_virtio_scsi::Error),
    /// A controller's socket cannot be served.
    #[error(transparent)]
    Socket(#[from] lunar_vhost_user::Error),
    /// A given descriptor is of no use.
    #[error("--fd {number}")]
    Descriptor {
        /// The descriptor.
        number: i32,
        /// The system's reason.
        source: io::Error,
    },
    /// The threads of the data path cannot be started.
    #[error("cannot start the workers")]
    Workers(#[source] io::Error),
    /// A thread that is an object cannot be started.
    #[error("iothread {id}")]
    IoThread {
        /// Its name.
        id: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The host has been stopped.
    #[error("the server is ending")]
    Stopped,
}

impl Error {
    /// Whether what was asked for is wrong in itself, whatever the state of files and of the system.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Error::Refused(_)
                | Error::Disk { .. }
                | Error::PathsDiffer { .. }
                | Error::AccessStatesDiffer { .. }
                | Error::ReservationFile { .. }
        )
    }

    /// Everything that there is to say, in one line.
    pub fn line(&self) -> String {
        let mut line = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            line.push_str(": ");
            line.push_str(&error.to_string());
            source = error.source();
        }
        line
    }
}
