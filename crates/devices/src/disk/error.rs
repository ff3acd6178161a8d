//! The one place where block errors become sense data (SC-031, SC-038).

use std::sync::atomic::Ordering;

use lunar_block::{Error, OpKind};
use lunar_scsi::{AdditionalSense, Sense, SenseKey};

use super::Unit;

impl Unit {
    /// What the initiator is told about an operation that failed. `offset` is where in the image the operation began:
    /// which of its blocks failed first the host does not say, and the first of them is what keeps an initiator from
    /// believing any.
    pub(super) fn sense(&self, error: &Error, kind: OpKind, offset: u64) -> Sense {
        if *error == Error::Cancelled {
            return ended();
        }
        let lba = offset >> self.limits.block_shift;
        let counter = match kind {
            OpKind::Read => &self.counters.read_errors,
            _ => &self.counters.write_errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        match error {
            Error::NoSpace => Sense::new(
                SenseKey::DataProtect,
                AdditionalSense::SPACE_ALLOCATION_FAILED,
            ),
            Error::ReadOnly => write_protected(),
            Error::OutOfRange => out_of_range(),
            Error::Io(_, errno) if is_medium_error(*errno) => match kind {
                OpKind::Read => Sense::new(
                    SenseKey::MediumError,
                    AdditionalSense::UNRECOVERED_READ_ERROR,
                )
                .with_information(lba),
                // A flush has no block to blame.
                OpKind::Flush => Sense::new(SenseKey::MediumError, AdditionalSense::WRITE_ERROR),
                OpKind::Write { .. } | OpKind::Discard | OpKind::WriteZeroes { .. } => {
                    Sense::new(SenseKey::MediumError, AdditionalSense::WRITE_ERROR)
                        .with_information(lba)
                }
            },
            _ => internal_failure(),
        }
    }
}

/// What a host says when the storage below it has failed, as opposed to the way there or to Lunar itself.
fn is_medium_error(errno: i32) -> bool {
    matches!(
        errno,
        libc::EIO | libc::ENODATA | libc::EILSEQ | libc::EBADMSG
    )
}

/// 7/27/00
pub(super) fn write_protected() -> Sense {
    Sense::new(SenseKey::DataProtect, AdditionalSense::WRITE_PROTECTED)
}

/// B/00/00: initiators send the command again. One that task management has ended does not get to see it, the transport
/// answers that in its own words.
pub(super) fn ended() -> Sense {
    Sense::new(SenseKey::AbortedCommand, AdditionalSense::NONE)
}

/// 5/21/00
pub(super) fn out_of_range() -> Sense {
    Sense::illegal_request(AdditionalSense::LBA_OUT_OF_RANGE)
}

/// 4/44/00
pub(super) fn internal_failure() -> Sense {
    Sense::new(
        SenseKey::HardwareError,
        AdditionalSense::INTERNAL_TARGET_FAILURE,
    )
}
