//! Controllers, their disks, and where on the bus a disk goes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::error::Error;
use super::record::Record;
use crate::catalog::{self, ControllerOptions, DiskOptions};

/// Where a controller meets its front end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    /// Bound by us.
    Path(PathBuf),
    /// Opened by whoever started us.
    Fd(i32),
}

/// A host adapter.
#[derive(Clone, Debug)]
pub struct Controller {
    /// The name of its bus.
    pub bus: String,
    /// Its place in QEMU's object tree, by which it can be named, too.
    pub path: String,
    /// Its number among the controllers that there are at a time, from 1: the target port of its disks.
    pub number: u16,
    /// Where it is served; `None` as long as nobody has said so.
    pub socket: Option<Socket>,
    /// Its properties.
    pub options: ControllerOptions,
    /// Its disks, by address.
    pub disks: BTreeMap<Address, Disk>,
    pub(super) record: Record,
}

/// Where a logical unit is on its bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// 0 to 255.
    pub target: u8,
    /// 0 to 16383.
    pub lun: u16,
}

/// A disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// How it was declared.
    pub origin: String,
    /// For people: its id, or else its drive's.
    pub name: String,
    /// Its place in QEMU's object tree, by which it can be named, too.
    pub path: String,
    /// The node that it shows.
    pub node: String,
    /// Its properties.
    pub options: DiskOptions,
    pub(super) record: Record,
}

impl Controller {
    /// For people: its id, or else its bus.
    pub fn name(&self) -> &str {
        self.options.id.as_deref().unwrap_or(&self.bus)
    }

    /// The address that a disk gets, chosen as QEMU does: without a target, the first whose LUN 0 (or the given LUN)
    /// is free; without a LUN, the first free one of the target.
    pub(super) fn choose(&self, target: Option<u16>, lun: Option<u16>) -> Result<Address, Error> {
        let narrow = |target: u16| u8::try_from(target).map_err(|_| Error::NoFreeTarget);
        let Some(target) = target else {
            let lun = lun.unwrap_or(0);
            let mut addresses = (0..=u8::MAX).map(|target| Address { target, lun });
            let free = addresses.find(|address| !self.disks.contains_key(address));
            return free.ok_or(Error::NoFreeTarget);
        };
        let target = narrow(target)?;
        let Some(lun) = lun else {
            let taken = self.disks.range(Address { target, lun: 0 }..);
            let taken = taken.take_while(|(address, _)| address.target == target);
            // Ascending and distinct: the first that differs from its rank has a gap before it.
            let luns = taken.map(|(address, _)| address.lun);
            let free = (0..)
                .zip(luns)
                .take_while(|(rank, lun)| rank == lun)
                .count();
            return match u16::try_from(free) {
                Ok(lun) if lun <= catalog::MAX_LUN => Ok(Address { target, lun }),
                _ => Err(Error::NoFreeLun { target }),
            };
        };
        let address = Address { target, lun };
        match self.disks.get(&address) {
            Some(disk) => Err(Error::AddressTaken {
                bus: self.bus.clone(),
                address,
                by: disk.name.clone(),
            }),
            None => Ok(address),
        }
    }
}
