//! The disk's log pages. Traffic is counted by the image, for each of its data handles apart, so that the data path
//! shares nothing; errors are counted where they become sense data. Starting anew is remembering what was counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use lunar_block::Stats;
use lunar_scsi::AdditionalSense;
use lunar_scsi::log::{NO_TEMPERATURE, Parameter, Values, code};

use super::Unit;

/// The pages, ascending.
const PAGES: &[(u8, u8)] = &[
    code::SUPPORTED_PAGES,
    code::SUPPORTED_SUBPAGES,
    code::WRITE_ERRORS,
    code::READ_ERRORS,
    code::VERIFY_ERRORS,
    code::TEMPERATURE,
    code::SELF_TEST_RESULTS,
    code::STATISTICS,
    code::INFORMATIONAL_EXCEPTIONS,
];

/// Those of a disk that knows how full its host is.
const PAGES_WITH_THRESHOLDS: &[(u8, u8)] = &[
    code::SUPPORTED_PAGES,
    code::SUPPORTED_SUBPAGES,
    code::WRITE_ERRORS,
    code::READ_ERRORS,
    code::VERIFY_ERRORS,
    code::LOGICAL_BLOCK_PROVISIONING,
    code::TEMPERATURE,
    code::SELF_TEST_RESULTS,
    code::STATISTICS,
    code::INFORMATIONAL_EXCEPTIONS,
];

/// TOTAL BYTES PROCESSED of an error counter page.
const BYTES: u16 = 0x0005;
/// TOTAL UNCORRECTED ERRORS.
const UNCORRECTED: u16 = 0x0006;

/// What the disk itself counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) read_errors: AtomicU64,
    pub(super) write_errors: AtomicU64,
    before: Mutex<Before>,
}

/// What had been counted when LOG SELECT set a page back.
#[derive(Debug, Default)]
struct Before {
    read_bytes: u64,
    written_bytes: u64,
    statistics: Stats,
}

impl Unit {
    pub(super) fn log_pages(&self) -> &'static [(u8, u8)] {
        if self.thresholds {
            PAGES_WITH_THRESHOLDS
        } else {
            PAGES
        }
    }

    /// The page, if it is not one that takes longer to find out ([`thresholds`](super::thresholds)).
    pub(super) fn log_page(&self, key: (u8, u8), values: Values) -> Vec<Parameter> {
        let counters = &self.counters;
        let before = counters
            .before
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = self.image.stats();
        match key {
            code::WRITE_ERRORS => {
                let bytes = now.written_bytes.wrapping_sub(before.written_bytes);
                error_counters(bytes, &counters.write_errors, values)
            }
            code::READ_ERRORS => {
                let bytes = now.read_bytes.wrapping_sub(before.read_bytes);
                error_counters(bytes, &counters.read_errors, values)
            }
            // VERIFY reads the medium like READ, and is counted there.
            code::VERIFY_ERRORS => error_counters(0, &AtomicU64::new(0), values),
            // The second is the reference: the temperature that the disk would stand.
            code::TEMPERATURE => (0..2)
                .map(|code| Parameter::list(code, [0, NO_TEMPERATURE]))
                .collect(),
            code::STATISTICS => {
                let shift = self.limits.block_shift;
                let statistics = &before.statistics;
                let counts = [
                    now.reads.wrapping_sub(statistics.reads),
                    now.writes.wrapping_sub(statistics.writes),
                    // Received and transmitted logical blocks.
                    now.written_bytes.wrapping_sub(statistics.written_bytes) >> shift,
                    now.read_bytes.wrapping_sub(statistics.read_bytes) >> shift,
                    // Nobody takes the time of commands.
                    0,
                    0,
                    0,
                    0,
                ];
                let counts = counts.map(|count| {
                    if values == Values::Cumulative {
                        count
                    } else {
                        0
                    }
                });
                vec![
                    Parameter::list(0x0001, counts.map(u64::to_be_bytes).concat()),
                    // Idle time, which nobody takes either, and the unit of time: a millisecond.
                    Parameter::list(0x0002, [0; 8]),
                    Parameter::list(0x0003, [0, 0, 0, 3, 0, 0, 0, 1]),
                ]
            }
            code::INFORMATIONAL_EXCEPTIONS => {
                let exception = if self.exceptions().test {
                    AdditionalSense::FAILURE_PREDICTION_FALSE
                } else {
                    AdditionalSense::NONE
                };
                let AdditionalSense { asc, ascq } = exception;
                // The last is the temperature that it would stand, by common practice.
                let temperatures = [NO_TEMPERATURE; 2];
                let value = [&[asc, ascq][..], &temperatures].concat();
                vec![Parameter::list(0x0000, value)]
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn reset_log(&self, key: (u8, u8)) {
        let counters = &self.counters;
        let now = self.image.stats();
        let mut before = counters
            .before
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let all = key == code::SUPPORTED_PAGES;
        if all || key == code::WRITE_ERRORS {
            before.written_bytes = now.written_bytes;
            counters.write_errors.store(0, Ordering::Relaxed);
        }
        if all || key == code::READ_ERRORS {
            before.read_bytes = now.read_bytes;
            counters.read_errors.store(0, Ordering::Relaxed);
        }
        if all || key == code::STATISTICS {
            before.statistics = now;
        }
    }
}

/// An error counter page: nothing below us tells of errors that it has corrected.
fn error_counters(bytes: u64, uncorrected: &AtomicU64, values: Values) -> Vec<Parameter> {
    (0..=UNCORRECTED)
        .map(|code| {
            let count = match code {
                BYTES => bytes,
                UNCORRECTED => uncorrected.load(Ordering::Relaxed),
                _ => 0,
            };
            Parameter::counter(code, count, values)
        })
        .collect()
}
