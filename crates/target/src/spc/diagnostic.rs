//! SEND DIAGNOSTIC and RECEIVE DIAGNOSTIC RESULTS (SPC-4 6.42, 6.27): the unit is tested, and remembers how it went.
//!
//! The test itself is the unit's; here are the command's forms, and the results of the last tests, which log page 10h
//! shows.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use lunar_scsi::log::Parameter;
use lunar_scsi::{AdditionalSense, Sense};

use super::Primary;
use crate::{Command, Outcome};

/// Results that log page 10h has room for.
const REMEMBERED: u16 = 20;

/// A self-test that an initiator can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfTest {
    /// SELF-TEST CODE; 0 is the default self-test.
    pub code: u8,
    /// It takes the time that it takes.
    pub extended: bool,
    /// It goes on when the command is over.
    pub background: bool,
}

/// How a self-test ended (SELF-TEST RESULT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelfTestResult {
    /// Nothing was found.
    Passed,
    /// SEND DIAGNOSTIC has aborted it.
    Aborted,
    /// Something else has: a reset, or the end of the unit.
    Interrupted,
    /// What was found, and at which logical block, if it is one.
    Failed(Sense),
    /// It is running.
    InProgress,
}

impl SelfTestResult {
    fn code(self) -> u8 {
        match self {
            Self::Passed => 0x0,
            Self::Aborted => 0x1,
            Self::Interrupted => 0x2,
            Self::Failed(_) => 0x7,
            Self::InProgress => 0xf,
        }
    }
}

/// The last self-tests, the latest first.
#[derive(Debug)]
pub struct SelfTests {
    power_on: Instant,
    results: Mutex<VecDeque<Entry>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    code: u8,
    result: SelfTestResult,
    /// ACCUMULATED POWER ON HOURS.
    hours: u16,
}

impl Default for SelfTests {
    fn default() -> SelfTests {
        SelfTests {
            power_on: Instant::now(),
            results: Mutex::default(),
        }
    }
}

impl SelfTests {
    /// A test begins.
    pub fn begin(&self, test: SelfTest) {
        self.with(|results| {
            results.push_front(Entry {
                code: test.code,
                result: SelfTestResult::InProgress,
                hours: self.hours(),
            });
            results.truncate(REMEMBERED.into());
        });
    }

    /// The test that has begun last is over.
    pub fn end(&self, result: SelfTestResult) {
        self.with(|results| {
            let hours = self.hours();
            let running = results
                .iter_mut()
                .find(|entry| entry.result == SelfTestResult::InProgress);
            if let Some(entry) = running {
                (entry.result, entry.hours) = (result, hours);
            }
        });
    }

    /// Whether a test is running.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let mut running = false;
        self.with(|results| {
            running = results
                .iter()
                .any(|entry| entry.result == SelfTestResult::InProgress);
        });
        running
    }

    /// Log page 10h: always twenty parameters, those without a result all zeroes.
    pub(super) fn parameters(&self) -> Vec<Parameter> {
        let mut parameters = Vec::new();
        self.with(|results| {
            let entries = results
                .iter()
                .copied()
                .map(Some)
                .chain(std::iter::repeat(None));
            parameters = (1..=REMEMBERED)
                .zip(entries)
                .map(|(code, entry)| Parameter::list(code, entry.map_or([0; 16], Entry::to_bytes)))
                .collect();
        });
        parameters
    }

    fn hours(&self) -> u16 {
        u16::try_from(self.power_on.elapsed().as_secs() / 3600).unwrap_or(u16::MAX)
    }

    fn with(&self, act: impl FnOnce(&mut VecDeque<Entry>)) {
        act(&mut self.results.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Entry {
    fn to_bytes(self) -> [u8; 16] {
        let (sense, address) = match self.result {
            SelfTestResult::Failed(sense) => (sense, sense.information.unwrap_or(u64::MAX)),
            _ => (Sense::NONE, u64::MAX),
        };
        let [high, low] = self.hours.to_be_bytes();
        let [a, b, c, d, e, f, g, h] = address.to_be_bytes();
        let AdditionalSense { asc, ascq } = sense.additional;
        [
            self.code << 5 | self.result.code(),
            0,
            high,
            low,
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            sense.key as u8,
            asc,
            ascq,
            0,
        ]
    }
}

/// SELFTEST of SEND DIAGNOSTIC: the default self-test.
const SELFTEST: u8 = 0x04;
/// PF: the parameter list is made of pages.
const PF: u8 = 0x10;
/// SELF-TEST CODE 100b: abort the background self-test.
const ABORT: u8 = 4;

pub(super) fn send(lu: &dyn Primary, command: &Command<'_>) -> Result<Outcome, Sense> {
    let [_, flags, ..] = *command.cdb;
    let (code, default) = (flags >> 5, flags & SELFTEST != 0);
    let length = command.fields().parameter_list_length();
    if length != 0 {
        if code != 0 || default {
            return Err(Sense::invalid_field_in_cdb(3));
        }
        return send_page(command);
    }
    let test = |extended, background| SelfTest {
        code,
        extended,
        background,
    };
    let test = match code {
        _ if default && code != 0 => return Err(Sense::invalid_bits_in_cdb(1, 7)),
        0 if default => test(false, false),
        // Nothing is asked for.
        0 => return Ok(Outcome::good(0)),
        1 => test(false, true),
        2 => test(true, true),
        5 => test(false, false),
        6 => test(true, false),
        ABORT => {
            if !lu.abort_self_test() {
                return Err(Sense::invalid_bits_in_cdb(1, 7));
            }
            return Ok(Outcome::good(0));
        }
        _ => return Err(Sense::invalid_bits_in_cdb(1, 7)),
    };
    if lu.common().self_tests.is_running() {
        let running = AdditionalSense::SELF_TEST_IN_PROGRESS;
        return Err(Sense::not_ready(running));
    }
    lu.self_test(test, command)
}

/// The only page is the list of pages: asking for it changes nothing, as it is what is received anyway.
fn send_page(command: &Command<'_>) -> Result<Outcome, Sense> {
    let [_, flags, ..] = *command.cdb;
    if flags & PF == 0 {
        return Err(Sense::invalid_bits_in_cdb(1, 4));
    }
    let Some(list) = command.parameter_list() else {
        return Ok(Outcome::Overrun);
    };
    match *list {
        [0, _, 0, 0] => Ok(Outcome::good(list.len())),
        [0, _, ..] if list.len() >= 4 => Err(Sense::invalid_field_in_parameters(2)),
        [_, _, _, _, ..] => Err(Sense::invalid_field_in_parameters(0)),
        _ => Err(Sense::illegal_request(
            AdditionalSense::PARAMETER_LIST_LENGTH_ERROR,
        )),
    }
}

/// PCV of RECEIVE DIAGNOSTIC RESULTS: the page is named.
const PCV: u8 = 0x01;

pub(super) fn receive(command: &mut Command<'_>) -> Outcome {
    let [_, flags, page, ..] = *command.cdb;
    if page != 0 && flags & PCV != 0 {
        return Outcome::check(Sense::invalid_field_in_cdb(2));
    }
    // Supported Diagnostic Pages: this one.
    command.reply.extend([0x00, 0, 0, 1, 0x00]);
    command.replied()
}
