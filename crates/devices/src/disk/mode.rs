//! The disk's mode pages: error recovery, caching (WCE), control (D_SENSE, SWP, and the rules of task sets), thresholds,
//! informational exceptions.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use lunar_block::Op;
use lunar_scsi::mode::{
    BlockDescriptor, Exceptions, ModePage, ModePages, Preamble, Reporting, TaskRules,
    disk_parameter,
};
use lunar_scsi::{AdditionalSense, Sense, SenseKey};
use lunar_target::{Command, Outcome, UnitAttention, Who, spc};

use super::medium::Medium;
use super::transfer::task;
use super::{Unit, self_test, settings, thresholds};

/// D_SENSE in byte 2 of the control page.
const D_SENSE: (usize, u8) = (2, 0x04);
/// SWP in byte 4 of the control page.
const SWP: (usize, u8) = (4, 0x08);

/// The pages with their default values.
pub(super) fn pages(write_cache: bool, thresholds: bool, savable: bool) -> ModePages {
    let control = ModePage::control()
        .with_changeable(D_SENSE.0, D_SENSE.1)
        .with_changeable(SWP.0, SWP.1);
    let mut pages = vec![
        ModePage::caching(write_cache),
        TaskRules::CHANGEABLE
            .into_iter()
            .fold(control, |page, (byte, bits)| {
                page.with_changeable(byte, bits)
            }),
        ModePage::control_extension(),
        ModePage::power_condition(),
        ModePage::informational_exceptions(),
    ];
    if thresholds {
        pages.push(ModePage::read_write_error_recovery_with_thresholds());
        pages.push(ModePage::logical_block_provisioning());
    } else {
        pages.push(ModePage::read_write_error_recovery());
    }
    let pages = ModePages::new(pages);
    if savable { pages.with_saving() } else { pages }
}

impl Unit {
    /// How long an extended self-test takes.
    pub(super) fn self_test_seconds(&self) -> u64 {
        self_test::extended_seconds(self.capacity() << self.limits.block_shift)
    }

    /// Describes the disk as it is now in its mode pages.
    pub(super) fn describe_in_mode_pages(&self) {
        let mut mode = self.mode.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = u16::try_from(self.self_test_seconds()).unwrap_or(u16::MAX);
        mode.set_extended_self_test_time(seconds);
    }

    pub(super) fn mode_preamble(&self) -> Preamble {
        Preamble {
            medium_type: 0,
            device_specific: disk_parameter(self.write_protected(), self.config.dpofua),
            blocks: Some(BlockDescriptor {
                blocks: self.capacity(),
                block_length: self.limits.block_size(),
            }),
        }
    }

    /// After LOGICAL UNIT RESET. WCE stays what it is, as if it had been saved: Linux does not read it again after a
    /// reset, and an initiator that believes the cache off does not flush it.
    pub(super) fn reset_mode_pages(&self) {
        let mut mode = self.mode.lock().unwrap_or_else(PoisonError::into_inner);
        let enabled = self.write_cache();
        mode.reset();
        mode.set_write_cache(enabled);
        self.state.follow(&mode);
        self.exception_told.store(false, Ordering::Relaxed);
    }

    /// The informational exceptions that initiators want to hear of. The only one that there can be is the one that they
    /// ask for (TEST).
    pub(super) fn exceptions(&self) -> Exceptions {
        let mode = self.mode.lock().unwrap_or_else(PoisonError::into_inner);
        mode.exceptions()
    }

    /// What REQUEST SENSE says when there is nothing else to say: what keeps the disk from being ready, or an exception,
    /// or its power condition.
    pub(super) fn condition(&self) -> Sense {
        let condition = self.power.condition();
        let exceptions = self.exceptions();
        let requested = exceptions.test && exceptions.reporting == Reporting::OnRequest;
        if requested && condition.key == SenseKey::NoSense {
            let exception = AdditionalSense::FAILURE_PREDICTION_FALSE;
            return Sense::new(SenseKey::NoSense, exception);
        }
        condition
    }
}

/// Makes changed pages effective, and saves them if the command says so. Switching the write cache off writes it back.
pub(super) fn changed(
    unit: &Arc<Unit>,
    pages: &ModePages,
    command: &Command<'_>,
    transferred: usize,
) -> Result<Outcome, Sense> {
    // It looks when the pages are not locked any more.
    if pages.thresholds().next().is_some() {
        thresholds::watch(unit);
    }
    let exceptions = pages.exceptions();
    let tell = exceptions.test && exceptions.reporting == Reporting::UnitAttention;
    let was_told = unit.exception_told.swap(tell, Ordering::Relaxed);
    if tell && !was_told {
        let attention = UnitAttention::FailurePredictionTest;
        unit.state.raise(Who::All, attention);
    }
    let enabled = pages.write_cache_enabled();
    let was_enabled = unit.write_cache.swap(enabled, Ordering::Relaxed);
    let flush = was_enabled && !enabled;
    let kept = spc::save(command).then(|| settings::keep(unit, pages));
    if !flush && kept.is_none() {
        return Ok(Outcome::good(transferred));
    }
    let medium = Medium::of(unit, command)?;
    Ok(task(async move {
        if flush {
            medium.run(Op::flush()).await?;
        }
        if let Some(kept) = kept {
            kept.await?;
        }
        Ok(transferred)
    }))
}
