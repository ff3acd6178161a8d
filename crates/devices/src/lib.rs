//! SCSI logical units.
//!
//! [`Disk`] is a direct access block device (QEMU's `scsi-hd`) over an image. It runs the commands of SBC; those that
//! all kinds of units share come from [`lunar_target::spc`].
//!
//! # The central type
//! [`Disk`], made from a [`DiskConfig`] with QEMU's property names and an image.
//!
//! # Threading
//! A disk is shared by all reactors. READ and WRITE are one block operation each, made without a lock or an allocation;
//! commands of several steps are tasks on the reactor that serves them.
//!
//! # Errors
//! [`ConfigError`] when a disk cannot be as it is configured: the property, its value, what is wrong and what to do.
//! Everything later is sense data for the initiator; block errors become sense data in one place.

mod disk;
mod sidecar;

use std::fmt::Display;

pub use disk::{Disk, DiskConfig, TrayError};
pub use sidecar::{Sidecar, SidecarError};

/// A property that cannot have its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{property}={value} {problem}; {remedy}")]
pub struct ConfigError {
    /// The property's name, as on the command line.
    pub property: &'static str,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl ConfigError {
    fn new(
        property: &'static str,
        value: impl Display,
        problem: &str,
        remedy: &str,
    ) -> ConfigError {
        ConfigError {
            property,
            value: value.to_string(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

impl ConfigError {
    /// A record beside the image cannot be used: the message says what to do.
    fn sidecar(error: SidecarError) -> ConfigError {
        ConfigError::new(
            "drive",
            error.path().display(),
            error.problem(),
            "the disk cannot be used as it is",
        )
    }
}

/// A property that can be left to decide itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOffAuto {
    /// As the documentation of the property says.
    #[default]
    Auto,
    /// On.
    On,
    /// Off.
    Off,
}
