//! The tray: how media get into a removable disk and out of it.
//!
//! A [`Disk`] has one medium, or none, for life. An operator who changes the medium makes another disk with the same
//! [`LuState`](lunar_target::LuState), which takes the place of the old one at its address ([`Disk::with_medium`]): so
//! a command that has begun ends on the medium that it began with, and nothing on the data path asks which one there is.
//! The tray is what both have in common. Initiators move it with START STOP UNIT, operators with [`Disk::open_tray`] and
//! [`Disk::close_tray`]; while an operator has a hand in it ([`Disk::hold_tray`]), it does not move.
//!
//! Reservations and registrations are the logical unit's, not the medium's (SPC-4 5.13): they stay.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use lunar_block::Image;
use lunar_target::{NexusId, UnitAttention, Who};

use super::power::State;
use super::{Disk, DiskConfig, Unit};
use crate::ConfigError;

/// Why a tray stays closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrayError {
    /// An initiator prevents removal. It does not hear that an operator wants the medium: a unit attention that would say
    /// so (5A/01) makes Linux fail what it has mounted from a removable disk.
    #[error("the tray is locked by the guest")]
    Locked,
    /// The medium is being formatted or sanitized, or that has failed.
    #[error("the medium is being erased")]
    Erasing,
}

/// Told of each move, and whether the tray is open then.
type Listener = Box<dyn Fn(bool) + Send + Sync>;

/// What a disk has in common with those that take its place.
#[derive(Default)]
pub(super) struct Tray {
    /// An operator has a hand in it. The tray moves under this lock.
    held: Mutex<bool>,
    listener: OnceLock<Listener>,
}

impl std::fmt::Debug for Tray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tray").field("held", &self.held).finish()
    }
}

impl Tray {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_moved(&self, open: bool) {
        if let Some(listener) = self.listener.get() {
            listener(open);
        }
    }
}

impl Unit {
    /// Opens the tray, if it is in this state; otherwise says in which it is instead.
    pub(super) fn open_tray(&self, from: State) -> Result<(), State> {
        let held = self.tray.lock();
        self.power.exchange(from, State::Ejected)?;
        drop(held);
        if from != State::Ejected {
            self.tray.has_moved(true);
        }
        Ok(())
    }

    /// Closes the tray; if there is a medium, everybody else hears of it, and `loader`, too, if it is another medium
    /// than before. Whether the tray is closed now.
    pub(super) fn close_tray(&self, loader: Option<NexusId>) -> bool {
        let held = self.tray.lock();
        if *held {
            return false;
        }
        let to = match self.image.has_medium() {
            true => self.eraser.state(),
            false => State::Empty,
        };
        if self.power.exchange(State::Ejected, to).is_err() {
            return true;
        }
        if to != State::Empty {
            let same = !self.fresh.swap(false, Ordering::Relaxed);
            let who = match loader.filter(|_| same) {
                Some(nexus) => Who::AllBut(nexus),
                None => Who::All,
            };
            self.state.raise(who, UnitAttention::MediumChanged);
        }
        drop(held);
        self.tray.has_moved(false);
        true
    }

    /// As after power on: closed, and running if there is a medium.
    pub(super) fn reset_power(&self) {
        let held = self.tray.lock();
        let was_open = self.power.state() == State::Ejected;
        if was_open && *held {
            return;
        }
        self.power.reset();
        drop(held);
        if was_open {
            self.fresh.store(false, Ordering::Relaxed);
            self.tray.has_moved(false);
        }
    }
}

impl Disk {
    /// Whether its medium can be changed.
    pub fn is_removable(&self) -> bool {
        self.unit.config.removable
    }

    /// Whether there is a medium, be the tray open or closed.
    pub fn has_medium(&self) -> bool {
        self.unit.image.has_medium()
    }

    /// Whether the tray is open.
    pub fn is_tray_open(&self) -> bool {
        self.unit.power.state() == State::Ejected
    }

    /// Whether an initiator prevents removal.
    pub fn is_locked(&self) -> bool {
        self.unit.state.removal_prevented()
    }

    /// `listener` is told of each move of the tray, whoever moves it, on any thread, and must not wait. The first one
    /// stays, with the disks that take this one's place.
    pub fn on_tray_moved(&self, listener: impl Fn(bool) + Send + Sync + 'static) {
        let _: Result<_, _> = self.unit.tray.listener.set(Box::new(listener));
    }

    /// Opens the tray. `force` takes the medium from those who prevent its removal.
    ///
    /// # Errors
    /// It stays closed.
    pub fn open_tray(&self, force: bool) -> Result<(), TrayError> {
        let unit = &self.unit;
        let mut from = unit.power.state();
        if from == State::Ejected {
            return Ok(());
        }
        if unit.state.removal_prevented() {
            if !force {
                return Err(TrayError::Locked);
            }
            unit.state.allow_removal();
        }
        loop {
            if from >= State::Formatting {
                return Err(TrayError::Erasing);
            }
            match unit.open_tray(from) {
                Ok(()) => return Ok(()),
                Err(now) => from = now,
            }
        }
    }

    /// Closes the tray. Initiators hear that the medium may have changed, if there is one.
    pub fn close_tray(&self) {
        self.unit.close_tray(None);
    }

    /// Keeps an open tray open until [`Disk::release_tray`]: nobody loads what is being changed. Whether it is open.
    pub fn hold_tray(&self) -> bool {
        let mut held = self.unit.tray.lock();
        *held = self.is_tray_open();
        *held
    }

    /// Lets everybody move the tray again, this disk's and that of those made from it.
    pub fn release_tray(&self) {
        *self.unit.tray.lock() = false;
    }

    /// The same logical unit with another medium, or none, in its tray, which is open: to initiators the one that they
    /// know. The caller puts it in this one's place. `beside` is the image's file, as in [`DiskConfig`].
    ///
    /// # Errors
    /// What is configured is not possible with this medium.
    pub fn with_medium(
        &self,
        image: Arc<dyn Image>,
        beside: Option<PathBuf>,
    ) -> Result<Arc<Disk>, ConfigError> {
        let config = DiskConfig {
            beside,
            ..self.unit.config.clone()
        };
        Disk::make(config, image, Some(&self.unit))
    }

    /// Another disk has taken this one's place: what goes on in the background stops. Not on a reactor.
    pub fn retire(&self) {
        self.unit.image.end_waits();
        self.unit.background.stop();
    }
}
