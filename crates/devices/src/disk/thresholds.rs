//! How full the host is, and whom it concerns: log page 0Ch, and a unit attention (38/07) when a threshold of mode page
//! 1Ch/02h is reached (SBC-3 4.7.3.7).
//!
//! Nothing on the data path knows of this. While a disk has a threshold in force, one thread of the process looks once
//! per second how much space its image takes and how much there is; when no disk has any, the thread sleeps.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use lunar_block::{Space, space_of};
use lunar_scsi::Sense;
use lunar_scsi::be::Fields;
use lunar_scsi::log::{Parameter, code, parameters};
use lunar_scsi::mode::{Resource, Threshold};
use lunar_target::{Command, Outcome, UnitAttention, Who};

use super::transfer::task;
use super::{Unit, error};

/// A threshold set is 1 MiB, as a power of two: counts of 32 bits are enough for 4 PiB.
const SET: u32 = 20;
/// How often the thread looks.
const PERIOD: Duration = Duration::from_secs(1);
/// SCOPE of a resource: the logical unit's own.
const DEDICATED: u8 = 0b01;
/// SCOPE of a resource: others may use it, too.
const SHARED: u8 = 0b10;

/// The thresholds that were reached when somebody looked last: initiators know of them.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<Vec<Threshold>>);

/// THRESHOLD EXPONENT, for logical blocks of `1 << block_shift` bytes.
pub(super) fn exponent(block_shift: u32) -> u8 {
    u8::try_from(SET.saturating_sub(block_shift)).unwrap_or(0)
}

/// How many threshold sets there are for the image, and how many it takes. Neither promises too much.
fn counts(space: Space) -> (u32, u32) {
    let available = space.available >> SET;
    let used = space.used.div_ceil(1 << SET);
    let count = |sets| u32::try_from(sets).unwrap_or(u32::MAX);
    (count(available), count(used))
}

impl Unit {
    pub(super) fn thresholds_in_force(&self) -> Vec<Threshold> {
        let pages = self.mode.lock().unwrap_or_else(PoisonError::into_inner);
        pages.thresholds().collect()
    }

    /// Raises a unit attention if a threshold has been reached that had not been when somebody looked last.
    fn compare(&self, space: Space) {
        let (available, used) = counts(space);
        let mut reached = self.thresholds_in_force();
        reached.retain(|threshold| threshold.is_reached(available, used));
        // Who is not here cannot be told.
        if !self.state.has_nexus() {
            reached.clear();
        }
        let mut told = self.told.0.lock().unwrap_or_else(PoisonError::into_inner);
        let news = reached.iter().any(|threshold| !told.contains(threshold));
        *told = reached;
        drop(told);
        if news {
            let attention = UnitAttention::ProvisioningThreshold;
            self.state.raise(Who::All, attention);
        }
    }

    /// Looks how things are. Whether there is anything to look for.
    fn look(&self) -> bool {
        let watched = !self.thresholds_in_force().is_empty();
        if watched && let Some(space) = self.image.space() {
            self.compare(space);
        } else {
            self.told
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clear();
        }
        watched
    }
}

/// Looks after a unit, beginning now, as long as it has a threshold in force.
pub(super) fn watch(unit: &Arc<Unit>) {
    static THREAD: OnceLock<Sender<Weak<Unit>>> = OnceLock::new();

    let thread = THREAD.get_or_init(|| {
        let (sender, units) = channel();
        // Without the thread initiators still find the counts in the log page.
        let _ = std::thread::Builder::new()
            .name("lunar-space".into())
            .spawn(move || look_after(&units));
        sender
    });
    let _ = thread.send(Arc::downgrade(unit));
}

fn look_after(units: &Receiver<Weak<Unit>>) {
    let mut watched: Vec<Weak<Unit>> = Vec::new();
    loop {
        let new = if watched.is_empty() {
            units.recv().map_err(RecvTimeoutError::from)
        } else {
            units.recv_timeout(PERIOD)
        };
        match new {
            Ok(unit) if watched.iter().any(|known| known.ptr_eq(&unit)) => {}
            Ok(unit) => watched.push(unit),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        watched.retain(|unit| unit.upgrade().is_some_and(|unit| unit.look()));
    }
}

/// Whether a LOG SENSE is for the page that is built here.
pub(super) fn is_asked_for(unit: &Unit, command: &Command<'_>) -> bool {
    let [_, _, page, subpage, ..] = *command.cdb;
    unit.thresholds && (page & 0x3f, subpage) == code::LOGICAL_BLOCK_PROVISIONING
}

fn resources(space: Space) -> [Parameter; 2] {
    let (available, used) = counts(space);
    [
        (Resource::Available, available, SHARED),
        (Resource::Used, used, DEDICATED),
    ]
    .map(|(resource, count, scope)| {
        let value = [&count.to_be_bytes()[..], &[scope, 0, 0, 0]].concat();
        Parameter::list(resource as u16, value)
    })
}

/// LOG SENSE of page 0Ch: the host is asked, which may take a while.
pub(super) fn log_sense(unit: &Arc<Unit>, command: &Command<'_>) -> Result<Outcome, Sense> {
    let room = usize::try_from(command.fields().allocation_length()).unwrap_or(usize::MAX);
    let from = command.cdb.u16::<5>();
    let page = move |space| {
        let (mut page, key) = (Vec::new(), code::LOGICAL_BLOCK_PROVISIONING);
        parameters(&mut page, key, &resources(space), from)?;
        page.truncate(room);
        Ok(page)
    };
    let to = command.data_in;
    let any = Space {
        used: 0,
        available: 0,
    };
    if to.len() < page(any)?.len() {
        return Ok(Outcome::Overrun);
    }
    let unit = Arc::clone(unit);
    Ok(task(async move {
        let space = space_of(&unit.image).await;
        let space = space.ok_or_else(error::internal_failure)?;
        unit.compare(space);
        Ok(to.write_at(0, &page(space)?))
    }))
}
