//! Whether the disk can be used: its power condition, whether it has its medium, and whether that is being formatted or
//! sanitized. START STOP UNIT and PREVENT ALLOW MEDIUM REMOVAL.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use lunar_scsi::{AdditionalSense, Sense, SenseKey};
use lunar_target::{Command, NexusId, Outcome};

use super::Unit;
use super::medium::Medium;
use super::transfer::task;

/// What a disk is in. The data path asks one question, "is it running?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// Active.
    Running,
    IdleA,
    IdleB,
    IdleC,
    StandbyZ,
    StandbyY,
    Stopped,
    /// The tray is closed, and nothing is in it.
    Empty,
    /// The tray is open.
    Ejected,
    /// From here on the medium is not to be touched by anybody but the operation that has it.
    Formatting,
    Sanitizing,
    FormatFailed,
    SanitizeFailed,
}

const STATES: [State; 13] = [
    State::Running,
    State::IdleA,
    State::IdleB,
    State::IdleC,
    State::StandbyZ,
    State::StandbyY,
    State::Stopped,
    State::Empty,
    State::Ejected,
    State::Formatting,
    State::Sanitizing,
    State::FormatFailed,
    State::SanitizeFailed,
];

/// The present [`State`], and the progress of what goes on in it.
#[derive(Debug)]
pub(super) struct Power {
    state: AtomicU8,
    /// What it is in when nobody has said anything: running, or empty.
    rest: State,
    progress: AtomicU16,
}

impl Power {
    pub(super) fn new(state: State, rest: State) -> Power {
        Power {
            state: AtomicU8::new(state as u8),
            rest,
            progress: AtomicU16::new(0),
        }
    }

    pub(super) fn state(&self) -> State {
        let state = self.state.load(Ordering::Relaxed);
        STATES
            .get(usize::from(state))
            .copied()
            .unwrap_or(State::Running)
    }

    /// Whether an operation has the medium, or has left it unusable: few commands are run then.
    #[inline]
    pub(super) fn is_restricted(&self) -> bool {
        self.state.load(Ordering::Relaxed) >= State::Formatting as u8
    }

    /// The medium is about to be accessed. A disk that is idle or in standby becomes active for it.
    ///
    /// # Errors
    /// 2/04/02 when stopped, 2/3A/01 without medium, 2/3A/02 when the tray is open, 2/04/04 or 2/04/1B while it is formatted or sanitized, 3/31/xx when
    /// that has failed
    #[inline]
    pub(super) fn ready(&self) -> Result<(), Sense> {
        if self.state.load(Ordering::Relaxed) == State::Running as u8 {
            return Ok(());
        }
        self.wake()
    }

    #[cold]
    fn wake(&self) -> Result<(), Sense> {
        let state = self.state();
        self.check(state)?;
        // Whoever changes the state at this moment comes after us.
        let _: Result<_, _> = self.exchange(state, State::Running);
        Ok(())
    }

    /// Whether the medium could be accessed: what TEST UNIT READY asks.
    ///
    /// # Errors
    /// As [`ready`](Power::ready).
    pub(super) fn test(&self) -> Result<(), Sense> {
        self.check(self.state())
    }

    fn check(&self, state: State) -> Result<(), Sense> {
        let progress = || self.progress.load(Ordering::Relaxed);
        Err(match state {
            State::Running
            | State::IdleA
            | State::IdleB
            | State::IdleC
            | State::StandbyZ
            | State::StandbyY => return Ok(()),
            State::Stopped => Sense::not_ready(AdditionalSense::INITIALIZING_COMMAND_REQUIRED),
            State::Empty => Sense::not_ready(AdditionalSense::MEDIUM_NOT_PRESENT_TRAY_CLOSED),
            State::Ejected => Sense::not_ready(AdditionalSense::MEDIUM_NOT_PRESENT_TRAY_OPEN),
            State::Formatting => {
                Sense::not_ready(AdditionalSense::FORMAT_IN_PROGRESS).with_progress(progress())
            }
            State::Sanitizing => {
                Sense::not_ready(AdditionalSense::SANITIZE_IN_PROGRESS).with_progress(progress())
            }
            State::FormatFailed => {
                Sense::new(SenseKey::MediumError, AdditionalSense::FORMAT_FAILED)
            }
            State::SanitizeFailed => {
                Sense::new(SenseKey::MediumError, AdditionalSense::SANITIZE_FAILED)
            }
        })
    }

    /// What REQUEST SENSE says about it.
    pub(super) fn condition(&self) -> Sense {
        let state = self.state();
        if let Err(sense) = self.check(state) {
            return sense;
        }
        let condition = match state {
            State::IdleA => AdditionalSense::IDLE_BY_COMMAND,
            State::IdleB => AdditionalSense::IDLE_B_BY_COMMAND,
            State::IdleC => AdditionalSense::IDLE_C_BY_COMMAND,
            State::StandbyZ => AdditionalSense::STANDBY_BY_COMMAND,
            State::StandbyY => AdditionalSense::STANDBY_Y_BY_COMMAND,
            _ => AdditionalSense::NONE,
        };
        Sense::new(SenseKey::NoSense, condition)
    }

    /// How far the operation is that has the medium, in 65536ths.
    pub(super) fn set_progress(&self, progress: u16) {
        self.progress.store(progress, Ordering::Relaxed);
    }

    /// As after power on: a guest that stopped or ejected its disk finds it again when it boots. What has the medium
    /// keeps it.
    pub(super) fn reset(&self) {
        let state = self.state();
        if state < State::Formatting {
            let _: Result<_, _> = self.exchange(state, self.rest);
        }
    }

    /// Changes the state if it is still `from`; the error is what it is instead.
    pub(super) fn exchange(&self, from: State, to: State) -> Result<(), State> {
        self.state
            .compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
            .map_err(|_| self.state())
    }

    /// For the operation that has the medium.
    pub(super) fn set(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }
}

impl PartialOrd for State {
    fn partial_cmp(&self, other: &State) -> Option<std::cmp::Ordering> {
        (*self as u8).partial_cmp(&(*other as u8))
    }
}

/// START of START STOP UNIT's byte 4.
const START: u8 = 0x01;
/// LOEJ: load or eject. A bit that means something only for removable media: the command table knows.
const LOEJ: u8 = 0x02;
/// NO_FLUSH: what is cached may stay so.
const NO_FLUSH: u8 = 0x04;

/// What START STOP UNIT asks for with POWER CONDITION and its modifier (SBC-3 5.25): another state, or none in
/// particular.
///
/// # Errors
/// 5/24/00 for what is reserved
fn condition(unit: &Unit, condition: u8, modifier: u8) -> Result<Option<State>, Sense> {
    let state = match (condition, modifier) {
        (0x1, 0) => Some(State::Running),
        (0x2 | 0xA, 0) => Some(State::IdleA),
        (0x2, 1) => Some(State::IdleB),
        (0x2, 2) => Some(State::IdleC),
        (0x3 | 0xB, 0) => Some(State::StandbyZ),
        (0x3, 1) => Some(State::StandbyY),
        // LU_CONTROL: the timers decide, and none runs.
        (0x7, 0) => None,
        // Removable media of old had other conditions (5h was sleep): initiators try them all.
        (_, 0) if unit.config.removable => None,
        (0x1..=0x3 | 0x7 | 0xA | 0xB, _) => return Err(Sense::invalid_bits_in_cdb(3, 3)),
        _ => return Err(Sense::invalid_bits_in_cdb(4, 7)),
    };
    Ok(state)
}

/// IMMED makes no difference: starting takes no time, and the flush before a stop is waited for as in SYNCHRONIZE
/// CACHE.
pub(super) fn start_stop(unit: &Arc<Unit>, command: &Command<'_>) -> Result<Outcome, Sense> {
    let [_, _, _, modifier, flags, ..] = *command.cdb;
    let from = unit.power.state();
    if flags >> 4 != 0 {
        // START and LOEJ mean nothing then.
        return match condition(unit, flags >> 4, modifier)? {
            None => Ok(Outcome::good(0)),
            Some(_) if matches!(from, State::Empty | State::Ejected) => Err(unit.power.condition()),
            Some(State::Running) => change(unit, from, State::Running),
            Some(to) => settle(unit, command, from, to, flags & NO_FLUSH == 0),
        };
    }
    if modifier != 0 {
        return Err(Sense::invalid_bits_in_cdb(3, 3));
    }
    if flags & START != 0 {
        return start(unit, command.nexus, from, flags & LOEJ != 0);
    }
    let to = match (flags & LOEJ != 0, unit.config.removable) {
        (true, _) => State::Ejected,
        (false, false) => State::Stopped,
        // A removable medium spins up when it is wanted.
        (false, true) => State::StandbyZ,
    };
    if to == State::Ejected {
        movable(unit)?;
    }
    match (from, to) {
        (State::Ejected, _) | (State::Empty, State::StandbyZ) => Ok(Outcome::good(0)),
        (State::Empty, _) => change(unit, from, to),
        _ => settle(unit, command, from, to, flags & NO_FLUSH == 0),
    }
}

fn start(unit: &Unit, nexus: NexusId, from: State, load: bool) -> Result<Outcome, Sense> {
    match from {
        State::Empty | State::Ejected if !load => Err(unit.power.condition()),
        State::Ejected => {
            movable(unit)?;
            match unit.close_tray(Some(nexus)) {
                true => Ok(Outcome::good(0)),
                false => Err(unit.power.condition()),
            }
        }
        State::Empty => Ok(Outcome::good(0)),
        _ => change(unit, from, State::Running),
    }
}

/// Whoever prevents removal holds the mechanism, in both directions.
fn movable(unit: &Unit) -> Result<(), Sense> {
    if unit.state.removal_prevented() {
        let prevented = AdditionalSense::MEDIUM_REMOVAL_PREVENTED;
        return Err(Sense::illegal_request(prevented));
    }
    Ok(())
}

/// Goes over to a state in which less is powered: what is cached is written before.
fn settle(
    unit: &Arc<Unit>,
    command: &Command<'_>,
    from: State,
    to: State,
    flush: bool,
) -> Result<Outcome, Sense> {
    if !flush {
        return change(unit, from, to);
    }
    let medium = Medium::of(unit, command)?;
    Ok(task(async move {
        medium.flush_cache().await?;
        let unit = medium.unit();
        // Awake again meanwhile, or asleep: the last one to be done is the one that counts. An operation on the whole
        // medium that has begun keeps it.
        let mut from = from;
        while let Err(now) = exchange(unit, from, to) {
            if now >= State::Formatting {
                return Err(unit.power.condition());
            }
            if now == State::Ejected {
                // Somebody has opened the tray, where nothing turns.
                break;
            }
            from = now;
        }
        Ok(0)
    }))
}

/// Changes the state if it is still `from`; the error is what it is instead.
fn exchange(unit: &Unit, from: State, to: State) -> Result<(), State> {
    match to {
        State::Ejected => unit.open_tray(from),
        _ => unit.power.exchange(from, to),
    }
}

fn change(unit: &Unit, from: State, to: State) -> Result<Outcome, Sense> {
    match exchange(unit, from, to) {
        Err(now) if now >= State::Formatting => Err(unit.power.condition()),
        _ => Ok(Outcome::good(0)),
    }
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
