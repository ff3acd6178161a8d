//! What an initiator has set and wants to find again after a restart: saved mode pages and identifying information, in
//! one record beside the image.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use lunar_scsi::Sense;
use lunar_scsi::mode::ModePages;
use lunar_target::spc::{Common, Stored};

use super::{Unit, error};
use crate::{ConfigError, Sidecar};

/// The record of the unit with this NAA identifier beside its image.
pub(super) fn sidecar(image: &Path, naa: u64) -> Sidecar {
    Sidecar::new(Sidecar::beside(image, "settings"), &naa.to_be_bytes())
}

/// Takes over what was kept.
pub(super) fn restore(
    sidecar: &Sidecar,
    common: &Common,
    pages: &mut ModePages,
) -> Result<(), ConfigError> {
    if let Some(record) = sidecar.load().map_err(ConfigError::sidecar)? {
        pages.restore(common.restore(&record));
    }
    Ok(())
}

/// Stores what is to be kept now, the mode pages being these.
pub(super) fn keep(
    unit: &Arc<Unit>,
    pages: &ModePages,
) -> impl Future<Output = Result<(), Sense>> + 'static {
    let record = [unit.common.record(), pages.saved_record()].concat();
    let settings = unit.settings.clone();
    async move {
        let settings = settings.ok_or_else(error::internal_failure)?;
        let kept = settings.keep(record).await;
        kept.map_err(|_| error::internal_failure())
    }
}

/// The same for a command that changes no mode page.
pub(super) fn keep_with_pages(unit: &Arc<Unit>) -> Stored {
    let pages = unit.mode.lock().unwrap_or_else(PoisonError::into_inner);
    Box::pin(keep(unit, &pages))
}
