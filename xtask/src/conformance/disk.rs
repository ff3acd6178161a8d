//! The disks that the suites run on: every combination of what makes a difference to them.

use std::fmt;

use anyhow::Result;

use crate::scratch::Scratch;
use crate::storage::{Disks, Server, create};

/// One disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Disk {
    pub format: Format,
    pub block: Block,
    pub provisioning: Provisioning,
    pub access: Access,
}

/// The image's format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Raw,
    Qcow2,
}

/// The logical block size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Block {
    B512,
    B4096,
}

/// Whether blocks can be given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Provisioning {
    Thin,
    Full,
}

/// What can be done with the medium.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Writable,
    ReadOnly,
    Removable,
}

pub const FORMATS: &[Format] = &[Format::Raw, Format::Qcow2];
pub const BLOCKS: &[Block] = &[Block::B512, Block::B4096];
pub const PROVISIONINGS: &[Provisioning] = &[Provisioning::Thin, Provisioning::Full];
pub const ACCESSES: &[Access] = &[Access::Writable, Access::ReadOnly, Access::Removable];

/// Fewer than 65536 blocks: with more, some tests send so many with one command, and QEMU's vhost-user-scsi device tells
/// the guest that a request has at most 126 segments, which Linux fills with 64 KiB at most.
const SIZE: &str = "24M";

/// Every combination.
pub fn all() -> Vec<Disk> {
    let mut disks = Vec::new();
    for &access in ACCESSES {
        for &provisioning in PROVISIONINGS {
            for &block in BLOCKS {
                for &format in FORMATS {
                    disks.push(Disk {
                        format,
                        block,
                        provisioning,
                        access,
                    });
                }
            }
        }
    }
    disks
}

impl Disk {
    /// Makes the image, and declares the disk at target 0, LUN 0, with all that the server can offer.
    pub fn create(self, scratch: &Scratch, server: Server) -> Result<Disks> {
        let (format, path) = match self.format {
            Format::Raw => ("raw", scratch.join("disk.raw")),
            Format::Qcow2 => ("qcow2", scratch.join("disk.qcow2")),
        };
        create(format, &path, SIZE)?;
        let mut drive = format!("file={},format={format},if=none,id=drive0", path.display());
        let mut device = "scsi-hd,drive=drive0,id=disk0,scsi-id=0,lun=0".to_owned();
        if server == Server::Lunar {
            device.push_str(",atomic-writes=on");
        }
        // Physical blocks of several logical ones: some tests are about those.
        device.push_str(match self.block {
            Block::B512 => ",logical_block_size=512,physical_block_size=4096",
            Block::B4096 => ",logical_block_size=4096,physical_block_size=16384",
        });
        match self.provisioning {
            Provisioning::Thin => drive.push_str(",discard=unmap"),
            Provisioning::Full => device.push_str(",discard_granularity=0"),
        }
        match self.access {
            Access::Writable => {}
            Access::ReadOnly => drive.push_str(",readonly=on"),
            Access::Removable => device.push_str(",removable=on"),
        }
        let mut disks = Disks::default();
        disks.drive(&drive);
        disks.device(&device);
        Ok(disks)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::B512 => "512",
            Self::B4096 => "4096",
        })
    }
}

impl fmt::Display for Provisioning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Thin => "thin",
            Self::Full => "full",
        })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Writable => "writable",
            Self::ReadOnly => "read-only",
            Self::Removable => "removable",
        })
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}-{}-{}-{}",
            self.format, self.block, self.provisioning, self.access
        )
    }
}
