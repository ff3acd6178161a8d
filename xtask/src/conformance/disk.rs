//! The disks that the suites run on: every combination of what makes a difference to them.

use std::fmt;

use anyhow::Result;

use crate::guest_tests::Lab;
use crate::qemu::path_value;
use crate::scratch::Scratch;
use crate::storage::{Disks, Server, Storage, create, over_two_controllers};

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
    /// Makes the image, and serves the disk at target 0, LUN 0, with all that the server can offer: Lunar over two
    /// controllers, QEMU over one.
    pub fn serve(self, lab: &Lab, scratch: &Scratch) -> Result<Storage> {
        let (format, path) = match self.format {
            Format::Raw => ("raw", scratch.join("disk.raw")),
            Format::Qcow2 => ("qcow2", scratch.join("disk.qcow2")),
        };
        create(format, &path, self.size())?;
        let mut drive = format!(
            "file={},format={format},if=none,id=drive0",
            path_value(&path)
        );
        let mut device = format!(
            "scsi-hd,drive=drive0,scsi-id=0,lun=0,logical_block_size={},physical_block_size={}",
            self.logical_block(),
            self.physical_block()
        );
        match self.provisioning {
            Provisioning::Thin => drive.push_str(",discard=unmap"),
            Provisioning::Full => device.push_str(",discard_granularity=0"),
        }
        match self.access {
            Access::Writable => {}
            Access::ReadOnly => drive.push_str(",readonly=on"),
            Access::Removable => device.push_str(",removable=on"),
        }
        if lab.server == Server::Lunar {
            device.push_str(",atomic-writes=on,share-rw=on");
            return over_two_controllers(&lab.lunar, scratch, &drive, &device);
        }
        let mut disks = Disks::default();
        disks.drive(&drive);
        disks.device(&device);
        lab.server.start(&lab.lunar, scratch, &disks, 1, &[])
    }

    pub fn logical_block(self) -> u32 {
        match self.block {
            Block::B512 => 512,
            Block::B4096 => 4096,
        }
    }

    /// Some tests are about physical blocks of several logical ones; one cannot pass there.
    pub fn physical_block(self) -> u32 {
        match (self.format, self.block) {
            (Format::Raw, _) => self.logical_block(),
            (Format::Qcow2, Block::B512) => 4096,
            (Format::Qcow2, Block::B4096) => 16384,
        }
    }

    /// Some tests transfer half the disk with one command, if that is not more than 2048 blocks. With QEMU's
    /// vhost-user-scsi device a request has at most 126 segments, which Linux fills with 64 KiB at most.
    fn size(self) -> &'static str {
        match self.block {
            Block::B512 => "24M",
            Block::B4096 => "12M",
        }
    }

    /// The guest's names for the disk, one for each path. Block devices, where that works: Linux opens a write-protected
    /// one for reading only, which is not enough for the tool; it locks a removable medium in while its block device is
    /// open; and through a block device each page is a segment, of which the tool needs 256 where blocks are as large.
    pub fn devices(self) -> &'static str {
        match (self.block, self.access) {
            (Block::B512, Access::Writable) => "/dev/lun/*",
            _ => "/dev/sg*",
        }
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
