//! The disk's mode pages: error recovery, caching (WCE), control (D_SENSE, SWP, and the rules of task sets), thresholds.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use lunar_block::Op;
use lunar_scsi::Sense;
use lunar_scsi::mode::{BlockDescriptor, ModePage, ModePages, Preamble, TaskRules, disk_parameter};
use lunar_target::{Command, Outcome, spc};

use super::medium::Medium;
use super::transfer::task;
use super::{Unit, settings, thresholds};

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
