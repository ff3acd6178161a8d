//! Trays, and changing what is in a drive while guests run.
//!
//! The guest sees the medium go when the tray opens, and the new one when it closes. In between another unit takes the
//! place of the one that it knows (see [`lunar_devices::Disk::with_medium`]); what it has begun on the old medium ends
//! there, for which nobody waits who holds the host's lock.

use std::sync::Arc;

use lunar_devices::{Disk, TrayError};
use lunar_virtio_scsi::Controller;

use crate::catalog::Format;
use crate::live::Live;
use crate::model::{self, Address, Bay, Change, Medium, NodeDriver};
use crate::{Error, Host};

/// Why a medium stays where it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MediaError {
    /// It is not removable.
    #[error("Device '{0}' is not removable")]
    NotRemovable(String),
    /// The guest has locked the tray.
    #[error(
        "Device '{0}' is locked and force was not specified, wait for tray to open and try again"
    )]
    Locked(String),
    /// The tray is closed.
    #[error("Tray of device '{0}' is not open")]
    Closed(String),
    /// There is a medium already.
    #[error("There already is a medium in device '{0}'")]
    Occupied(String),
    /// The medium is being erased.
    #[error("Device '{0}' erases its medium, or has failed to; that has to be ended first")]
    Erasing(String),
}

/// Whether a medium refuses writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadOnlyMode {
    /// As the one before.
    #[default]
    Retain,
    /// It does.
    ReadOnly,
    /// It does not.
    ReadWrite,
}

/// A change that is under way: the unit that is to be shown, and where.
struct Swap {
    change: Change,
    old: Option<Arc<Disk>>,
    new: Option<Arc<Disk>>,
    places: Vec<(Arc<Controller>, Address)>,
}

impl Host {
    /// Opens the tray of a removable disk.
    ///
    /// # Errors
    /// There is no such disk, or it is not removable, or the guest has locked it and there is no force.
    pub fn open_tray(&self, bay: Bay<'_>, force: bool) -> Result<(), Error> {
        let name = bay.name().to_owned();
        let Some(disk) = self.lock()?.removable(bay)? else {
            return Ok(());
        };
        disk.open_tray(force).map_err(|error| match error {
            TrayError::Locked => MediaError::Locked(name).into(),
            TrayError::Erasing => MediaError::Erasing(name).into(),
        })
    }

    /// Closes the tray. The guest hears of a medium, if there is one.
    ///
    /// # Errors
    /// There is no such disk, or it is not removable.
    pub fn close_tray(&self, bay: Bay<'_>) -> Result<(), Error> {
        if let Some(disk) = self.lock()?.removable(bay)? {
            disk.close_tray();
        }
        Ok(())
    }

    /// Takes the medium out of an open tray, if there is one. What the guest has written is durable then.
    ///
    /// # Errors
    /// There is no such disk, or its tray is closed, or something that was written may not be durable; then it is out
    /// all the same.
    pub fn remove_medium(&self, bay: Bay<'_>) -> Result<(), Error> {
        self.swap(bay, Medium::None)
    }

    /// Puts a node into an open tray.
    ///
    /// # Errors
    /// There is no such disk or node, the tray is closed or has a medium, or the medium does not fit the disk.
    pub fn insert_medium(&self, bay: Bay<'_>, node: &str) -> Result<(), Error> {
        self.swap(bay, Medium::Node(node.to_owned()))
    }

    /// Opens the tray and takes the medium out.
    ///
    /// # Errors
    /// As [`Host::open_tray`] and [`Host::remove_medium`].
    pub fn eject(&self, bay: Bay<'_>, force: bool) -> Result<(), Error> {
        self.open_tray(bay, force)?;
        self.remove_medium(bay)
    }

    /// Opens the tray, puts a file in the place of what is there, and closes the tray.
    ///
    /// # Errors
    /// As for the single steps. If the file cannot be opened, the tray stays open, with what was in it.
    pub fn change_medium(
        &self,
        bay: Bay<'_>,
        filename: &str,
        format: Option<Format>,
        mode: ReadOnlyMode,
        force: bool,
    ) -> Result<(), Error> {
        let read_only = match mode {
            ReadOnlyMode::Retain => self.lock()?.model.bay(bay)?.0.options.read_only,
            ReadOnlyMode::ReadOnly => true,
            ReadOnlyMode::ReadWrite => false,
        };
        let medium = Medium::File {
            filename: filename.to_owned(),
            format,
            read_only,
        };
        self.open_tray(bay, force)?;
        self.swap(bay, medium)?;
        self.close_tray(bay)
    }

    /// Puts something else into an open tray.
    fn swap(&self, bay: Bay<'_>, medium: Medium) -> Result<(), Error> {
        let swap = self.lock()?.begin_swap(bay, medium)?;
        let Some(swap) = swap else {
            return Ok(());
        };
        let replaced = swap.replace();
        let mut live = self.lock_anyway();
        match replaced {
            Ok(()) => live.finish_swap(swap),
            Err(error) => {
                live.cancel_swap(swap);
                Err(error)
            }
        }
    }
}

impl Swap {
    /// The guest's commands to the old unit end; from then on it has the new one.
    fn replace(&self) -> Result<(), Error> {
        let (Some(old), Some(new)) = (&self.old, &self.new) else {
            return Ok(());
        };
        for (done, (controller, Address { target, lun })) in self.places.iter().enumerate() {
            if let Err(error) = controller.replace(*target, *lun, new.clone()) {
                for (controller, Address { target, lun }) in self.places.iter().take(done) {
                    // It was there a moment ago.
                    let _: Result<_, _> = controller.replace(*target, *lun, old.clone());
                }
                return Err(error.into());
            }
        }
        old.retire();
        Ok(())
    }
}

impl Live {
    /// The disk that shows what is in a drive; `None` if no device does.
    fn removable(&self, bay: Bay<'_>) -> Result<Option<Arc<Disk>>, Error> {
        let (node, _) = self.model.bay(bay)?;
        let disk = self.units.get(&node.name);
        if disk.is_some_and(|disk| !disk.is_removable()) {
            return Err(MediaError::NotRemovable(bay.name().to_owned()).into());
        }
        Ok(disk.cloned())
    }

    /// `None` if there is nothing to be done.
    fn begin_swap(&mut self, bay: Bay<'_>, medium: Medium) -> Result<Option<Swap>, Error> {
        let name = || bay.name().to_owned();
        let disk = self.removable(bay)?;
        let (node, _) = self.model.bay(bay)?;
        if self.changing.contains(&node.name) {
            return Err(model::Error::Changing(name()).into());
        }
        if disk.as_ref().is_some_and(|disk| !disk.is_tray_open()) {
            return Err(MediaError::Closed(name()).into());
        }
        match (&medium, node.driver == NodeDriver::Empty) {
            (Medium::None, true) => return Ok(None),
            (Medium::Node(_), false) => return Err(MediaError::Occupied(name()).into()),
            _ => {}
        }
        let change = self.model.begin_change(bay, medium)?;
        let new = match self.prepare(&change) {
            Ok(new) => new,
            Err(error) => {
                self.take_back(&change);
                return Err(error);
            }
        };
        // Nobody loads it from here on.
        if disk.as_ref().is_some_and(|disk| !disk.hold_tray()) {
            self.units.forget_successor(&change.old);
            self.take_back(&change);
            return Err(MediaError::Closed(name()).into());
        }
        let disks = self.model.disks();
        let shown = disks.filter(|(_, _, disk)| disk.node == change.old);
        let places = shown.filter_map(|(controller, address, _)| {
            let adapter = self.adapters.get(&controller.bus)?;
            Some((Arc::clone(&adapter.controller), address))
        });
        let places = places.collect();
        self.changing.insert(change.old.clone());
        Ok(Some(Swap {
            change,
            old: disk,
            new,
            places,
        }))
    }

    /// Opens the new medium, and makes the unit that shows it.
    fn prepare(&mut self, change: &Change) -> Result<Option<Arc<Disk>>, Error> {
        let image = self.images.open(&self.model, &change.new)?;
        self.units
            .succeed(&self.model, &change.old, &change.new, image)
    }

    fn take_back(&mut self, change: &Change) {
        let dropped = self.model.cancel_change(change);
        if let Err(error) = self.images.close(&dropped) {
            tracing::warn!(%error, "an image that was not used");
        }
        self.reopen_idle();
    }

    fn finish_swap(&mut self, swap: Swap) -> Result<(), Error> {
        let Change { old, new, .. } = &swap.change;
        self.changing.remove(old);
        self.units.replace(old, new);
        let old = old.clone();
        let dropped = self.model.finish_change(swap.change);
        if let Some(disk) = &swap.new {
            disk.release_tray();
        }
        drop((swap.old, swap.new));
        let closed = match self.model.node(&old) {
            // It stays, and what was written to it is made durable by closing it.
            Some(node) if node.users().next().is_none() => {
                self.images.close_chain(&self.model, node)
            }
            Some(_) => Ok(()),
            None => self.images.close(&dropped),
        };
        self.reopen_idle();
        Ok(closed?)
    }

    fn cancel_swap(&mut self, swap: Swap) {
        self.changing.remove(&swap.change.old);
        self.units.forget_successor(&swap.change.old);
        if let Some(disk) = &swap.old {
            disk.release_tray();
        }
        drop(swap.new);
        self.take_back(&swap.change);
    }
}
