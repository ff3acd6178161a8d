//! Whether the disk runs and has its medium: START STOP UNIT and PREVENT ALLOW MEDIUM REMOVAL.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use lunar_scsi::{AdditionalSense, Sense};
use lunar_target::{Command, Outcome, UnitAttention, Who};

use super::Unit;
use super::medium::Medium;
use super::transfer::task;

const RUNNING: u8 = 0;
const STOPPED: u8 = 1;
const EJECTED: u8 = 2;

/// The state that START STOP UNIT moves between: running, stopped, and (removable) ejected.
#[derive(Debug, Default)]
pub(super) struct Power(AtomicU8);

impl Power {
    /// Whether the medium can be accessed.
    ///
    /// # Errors
    /// 2/04/02 when stopped, 2/3A/02 when ejected
    #[inline]
    pub(super) fn ready(&self) -> Result<(), Sense> {
        match self.0.load(Ordering::Relaxed) {
            RUNNING => Ok(()),
            state => Err(Self::not_ready(state)),
        }
    }

    #[cold]
    fn not_ready(state: u8) -> Sense {
        Sense::not_ready(if state == STOPPED {
            AdditionalSense::INITIALIZING_COMMAND_REQUIRED
        } else {
            AdditionalSense::MEDIUM_NOT_PRESENT_TRAY_OPEN
        })
    }

    /// As after power on: a guest that stopped or ejected its disk finds it again when it boots.
    pub(super) fn reset(&self) {
        self.set(RUNNING);
    }

    /// Returns the state before.
    fn set(&self, state: u8) -> u8 {
        self.0.swap(state, Ordering::Relaxed)
    }
}

/// START of START STOP UNIT's byte 4.
const START: u8 = 0x01;
/// LOEJ: load or eject. A bit that means something only for removable media: the command table knows.
const LOEJ: u8 = 0x02;
/// NO_FLUSH: what is cached may stay so.
const NO_FLUSH: u8 = 0x04;

/// IMMED makes no difference: starting takes no time, and the flush before a stop is waited for as in SYNCHRONIZE
/// CACHE.
pub(super) fn start_stop(unit: &Arc<Unit>, command: &Command<'_>) -> Result<Outcome, Sense> {
    let [_, _, _, _, flags, ..] = *command.cdb;
    if flags & START != 0 {
        return start(unit, flags & LOEJ != 0);
    }
    let state = if flags & LOEJ != 0 { EJECTED } else { STOPPED };
    if state == EJECTED && unit.state.removal_prevented() {
        let prevented = AdditionalSense::MEDIUM_REMOVAL_PREVENTED;
        return Err(Sense::illegal_request(prevented));
    }
    if unit.power.0.load(Ordering::Relaxed) == EJECTED {
        return Ok(Outcome::good(0));
    }
    if flags & NO_FLUSH != 0 {
        unit.power.set(state);
        return Ok(Outcome::good(0));
    }
    let medium = Medium::of(unit, command)?;
    Ok(task(async move {
        medium.flush_cache().await?;
        medium.unit().power.set(state);
        Ok(0)
    }))
}

fn start(unit: &Unit, load: bool) -> Result<Outcome, Sense> {
    if !load && unit.power.0.load(Ordering::Relaxed) == EJECTED {
        return Err(Power::not_ready(EJECTED));
    }
    if unit.power.set(RUNNING) == EJECTED {
        unit.state.raise(Who::All, UnitAttention::MediumChanged);
    }
    Ok(Outcome::good(0))
}

/// Each nexus locks the medium in for itself.
pub(super) fn prevent_allow(unit: &Unit, command: &Command<'_>) -> Result<Outcome, Sense> {
    let [_, _, _, _, flags, ..] = *command.cdb;
    if unit.state.prevent_removal(command.nexus, flags & 1 != 0) {
        Ok(Outcome::good(0))
    } else {
        Err(super::error::internal_failure())
    }
}
