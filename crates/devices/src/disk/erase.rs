//! FORMAT UNIT and SANITIZE: one value for all blocks.
//!
//! Either is a [`Work`] that has the medium for itself: the disk's [`State`] says so, and commands that would touch it are
//! refused with the progress. It is not stopped by task management or resets. If the disk has a place for a record, the
//! work is noted there before the first block is changed, and struck out when the last is durable; a disk that finds such
//! a note when it is made goes on with it (from the start: that is safe) as soon as a command arrives.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lunar_block::{Buffer, Op, OpKind};
use lunar_scsi::be::{u8_at, u16_at, u32_at};
use lunar_scsi::{AdditionalSense, Sense};
use lunar_target::{Command, Completion, Outcome, Then};

use super::background::Running;
use super::medium::{CHUNK, Medium, chunks};
use super::power::State;
use super::transfer::{complete, task};
use super::{Unit, error};
use crate::{ConfigError, Sidecar};

/// Something that is to be done to all blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Work {
    kind: Kind,
    /// What is written to every block, again and again until it is full; without it, blocks are given back, and read as
    /// zeroes.
    pattern: Option<Vec<u8>>,
    /// How often it is written.
    passes: u8,
    /// Every other time inverted, the last time not.
    invert: bool,
    /// AUSE: if it fails, EXIT FAILURE MODE makes the disk usable again.
    exit_allowed: bool,
    failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Format = 0,
    Sanitize = 1,
}

impl Work {
    fn state(&self) -> State {
        match (self.kind, self.failed) {
            (Kind::Format, false) => State::Formatting,
            (Kind::Format, true) => State::FormatFailed,
            (Kind::Sanitize, false) => State::Sanitizing,
            (Kind::Sanitize, true) => State::SanitizeFailed,
        }
    }

    /// Kind, passes, flags; then the pattern.
    fn to_record(&self) -> Vec<u8> {
        let flags = [
            self.invert,
            self.exit_allowed,
            self.failed,
            self.pattern.is_some(),
        ];
        let flags = (0..).zip(flags).map(|(bit, flag)| u8::from(flag) << bit);
        let mut record = vec![self.kind as u8, self.passes, flags.sum()];
        record.extend(self.pattern.iter().flatten());
        record
    }

    /// `None` for what [`to_record`](Work::to_record) never makes.
    fn from_record(record: &[u8]) -> Option<Work> {
        let [kind, passes, flags, pattern @ ..] = record else {
            return None;
        };
        let flag = |bit: u8| flags >> bit & 1 == 1;
        let work = Work {
            kind: match kind {
                0 => Kind::Format,
                1 => Kind::Sanitize,
                _ => return None,
            },
            passes: *passes,
            invert: flag(0),
            exit_allowed: flag(1),
            failed: flag(2),
            pattern: flag(3).then(|| pattern.to_vec()),
        };
        let makes_sense = work.passes != 0 && work.pattern.as_ref().is_none_or(|p| !p.is_empty());
        (makes_sense && work.to_record() == record).then_some(work)
    }
}

/// The work that has the medium, and where it is noted.
#[derive(Debug, Default)]
pub(super) struct Eraser {
    note: Option<Sidecar>,
    work: Mutex<Option<Work>>,
}

impl Eraser {
    /// Looks for unfinished work beside the image. The note is the image's, whatever unit shows it.
    pub(super) fn find(image: Option<&Path>) -> Result<Eraser, ConfigError> {
        let note = image.map(|image| Sidecar::new(Sidecar::beside(image, "sanitize"), b""));
        let mut work = None;
        if let Some(note) = &note
            && let Some(record) = note.load().map_err(ConfigError::sidecar)?
        {
            // Whatever it was meant to say, the medium may be half erased.
            let unknown = || ConfigError::sidecar(note.senseless());
            work = Some(Work::from_record(&record).ok_or_else(unknown)?);
        }
        Ok(Eraser {
            note,
            work: Mutex::new(work),
        })
    }

    /// What the disk is in because of it.
    pub(super) fn state(&self) -> State {
        self.work().map_or(State::Running, |work| work.state())
    }

    fn work(&self) -> Option<Work> {
        self.work
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, work: Option<Work>) {
        *self.work.lock().unwrap_or_else(PoisonError::into_inner) = work;
    }

    async fn note(&self, work: &Work) -> Result<(), Sense> {
        if let Some(note) = &self.note {
            let kept = note.keep(work.to_record()).await;
            kept.map_err(|_| error::internal_failure())?;
        }
        Ok(())
    }

    async fn strike_out(&self) -> Result<(), Sense> {
        if let Some(note) = &self.note {
            note.forget().await.map_err(|_| error::internal_failure())?;
        }
        Ok(())
    }
}

/// FMTPINFO of FORMAT UNIT: there is no protection information.
const FMTPINFO: u8 = 0xc0;
/// LONGLIST: the parameter list header is 8 bytes long.
const LONGLIST: u8 = 0x20;
/// FMTDATA: there is a parameter list.
const FMTDATA: u8 = 0x10;

pub(super) fn format(unit: &Arc<Unit>, command: &Command<'_>) -> Result<Outcome, Sense> {
    unit.writable()?;
    let flags = command.fields().byte1();
    let mut immediate = false;
    let mut pattern = None;
    let mut sent = 0;
    if flags & FMTDATA == 0 {
        if flags & !FMTPINFO != 0 {
            // CMPLST, LONGLIST and DEFECT LIST FORMAT are about the list.
            return Err(Sense::invalid_bits_in_cdb(1, 5));
        }
    } else {
        let mut list = vec![0; command.data_out.len().min(MAX_FORMAT_LIST)];
        command.data_out.read_at(0, &mut list);
        let parsed = match FormatList::parse(&list, flags & LONGLIST != 0, unit.limits.block_size())
        {
            None => return Ok(Outcome::Overrun),
            Some(parsed) => parsed?,
        };
        (immediate, pattern, sent) = (parsed.immediate, parsed.pattern, parsed.len);
    }
    let work = Work {
        kind: Kind::Format,
        pattern,
        passes: 1,
        invert: false,
        exit_allowed: true,
        failed: false,
    };
    start(unit, command, work, immediate, sent)
}

/// Header, initialization pattern descriptor with a block of pattern, and nothing more: there are no defects.
const MAX_FORMAT_LIST: usize = 8 + 4 + 4096;

/// What FORMAT UNIT's parameter list asks for (SBC-3 5.4).
struct FormatList {
    immediate: bool,
    pattern: Option<Vec<u8>>,
    len: usize,
}

impl FormatList {
    /// `None` if the list ends in the middle of something: its length is only in the list itself.
    fn parse(list: &[u8], long: bool, block: u32) -> Option<Result<FormatList, Sense>> {
        let header = if long { 8 } else { 4 };
        let invalid = |at| Some(Err(Sense::invalid_field_in_parameters(at)));
        let bits = |at, bit| Some(Err(Sense::invalid_bits_in_parameters(at, bit)));
        let flags = u8_at(list, 1)?;
        let (defects, defects_at) = if long {
            (u32_at(list, 4)?, 4)
        } else {
            (u16_at(list, 2)?.into(), 2)
        };
        if u8_at(list, 0)? != 0 {
            return bits(0, 2); // PROTECTION FIELDS USAGE
        }
        let (valid, options, pattern) = (flags & 0x80 != 0, flags & 0x70 != 0, flags & 0x08 != 0);
        if !valid && (options || pattern) {
            return bits(1, 7); // FOV
        }
        if flags & 0x04 != 0 {
            return bits(1, 2);
        }
        if long && (u8_at(list, 2)?, u8_at(list, 3)?) != (0, 0) {
            return invalid(if u8_at(list, 2)? != 0 { 2 } else { 3 });
        }
        if defects != 0 {
            // There is nothing that could be wrong with a block for good.
            return invalid(defects_at);
        }
        let mut parsed = FormatList {
            immediate: flags & 0x02 != 0,
            pattern: None,
            len: header,
        };
        if pattern {
            let at = u16::try_from(header).unwrap_or(0);
            // IP MODIFIER; SI: overwriting what is there is what is done anyway.
            if u8_at(list, header)? & 0xdf != 0 {
                return bits(at, 7);
            }
            let length = u16_at(list, header + 2)?;
            let bytes = list.get(header + 4..)?.get(..length.into())?;
            match u8_at(list, header + 1)? {
                0x00 if length == 0 => {}
                0x01 if length != 0 && u32::from(length) <= block => {
                    parsed.pattern = Some(bytes.to_vec());
                }
                0x00 | 0x01 => return invalid(at + 2),
                _ => return invalid(at + 1),
            }
            parsed.len += 4 + usize::from(length);
        }
        Some(Ok(parsed))
    }
}

/// SERVICE ACTION 01h.
const OVERWRITE: u16 = 0x01;
/// SERVICE ACTION 02h.
const BLOCK_ERASE: u16 = 0x02;
/// IMMED.
const IMMED: u8 = 0x80;
/// AUSE: the disk may be made usable again after a failure.
const AUSE: u8 = 0x20;

pub(super) fn sanitize(unit: &Arc<Unit>, command: &Command<'_>) -> Result<Outcome, Sense> {
    let cdb = command.fields();
    let (action, flags) = (cdb.service_action(), cdb.byte1());
    let length = usize::try_from(cdb.parameter_list_length()).unwrap_or(usize::MAX);
    let block = unit.limits.block_size() as usize;
    if action == OVERWRITE {
        if !(5..=block + 4).contains(&length) {
            return Err(Sense::invalid_field_in_cdb(7));
        }
    } else if length != 0 {
        return Err(Sense::invalid_field_in_cdb(7));
    }
    if action != OVERWRITE && action != BLOCK_ERASE {
        return exit_failure_mode(unit);
    }
    unit.writable()?;
    let mut work = Work {
        kind: Kind::Sanitize,
        pattern: None,
        passes: 1,
        invert: false,
        exit_allowed: flags & AUSE != 0,
        failed: false,
    };
    if action == OVERWRITE {
        let Some(list) = command.parameter_list() else {
            return Ok(Outcome::Overrun);
        };
        let how = u8_at(&list, 0).unwrap_or_default();
        let pattern = list.get(4..).unwrap_or_default();
        if how & 0x60 != 0 {
            return Err(Sense::invalid_bits_in_parameters(0, 6)); // TEST
        }
        if how & 0x1f == 0 {
            return Err(Sense::invalid_bits_in_parameters(0, 4)); // OVERWRITE COUNT
        }
        if u8_at(&list, 1) != Some(0) {
            return Err(Sense::invalid_field_in_parameters(1));
        }
        if u16_at(&list, 2).map(usize::from) != Some(pattern.len()) {
            return Err(Sense::invalid_field_in_parameters(2));
        }
        work.pattern = Some(pattern.to_vec());
        work.passes = how & 0x1f;
        work.invert = how & 0x80 != 0;
    }
    start(unit, command, work, flags & IMMED != 0, length)
}

/// Only a SANITIZE with AUSE that has failed can be left like this.
fn exit_failure_mode(unit: &Arc<Unit>) -> Result<Outcome, Sense> {
    let Some(work) = unit.eraser.work().filter(|work| work.failed) else {
        return unit.power.test().map(|()| Outcome::good(0));
    };
    if !work.exit_allowed {
        return Err(Sense::invalid_bits_in_cdb(1, 4));
    }
    let unit = Arc::clone(unit);
    Ok(task(async move {
        unit.eraser.strike_out().await?;
        unit.eraser.set(None);
        unit.power.set(State::Running);
        Ok(0)
    }))
}

/// Takes the medium, notes the work, and begins it. Whatever was being read or written is over by then: nothing that
/// began before lands on an erased block. What waits in line meanwhile finds that the medium is taken.
fn start(
    unit: &Arc<Unit>,
    command: &Command<'_>,
    work: Work,
    immediate: bool,
    sent: usize,
) -> Result<Outcome, Sense> {
    possible(unit, &work)?;
    let medium = Medium::of(unit, command)?;
    let busy = || Sense::not_ready(AdditionalSense::OPERATION_IN_PROGRESS);
    let running = Running::begin(unit).ok_or_else(busy)?;
    let (unit, ended) = (Arc::clone(unit), command.ended.clone());
    let begin = async move {
        // The line may have been long.
        possible(&unit, &work)?;
        let before = unit.eraser.work();
        unit.power.set_progress(0);
        unit.power.set(work.state());
        unit.eraser.set(Some(work.clone()));
        if let Err(sense) = unit.eraser.note(&work).await {
            // Nothing has been changed yet.
            unit.eraser.set(before);
            unit.power.set(unit.eraser.state());
            return Err(sense);
        }
        let reactor = medium.reactor().clone();
        let working = Arc::clone(&unit);
        let medium = medium.in_background();
        reactor.spawn(carry_out(working, medium, work, running));
        // Others need not wait to hear that the disk is not ready.
        ended.stand_aside();
        Ok(complete(async move {
            // It goes on if this is ended.
            while !immediate && unit.background.is_running() && !ended.is_set() {
                reactor.sleep(Duration::from_millis(2)).await;
            }
            match unit.power.state() {
                State::FormatFailed | State::SanitizeFailed if !immediate => {
                    unit.power.test().map(|()| sent)
                }
                _ => Ok(sent),
            }
        }))
    };
    Ok(Outcome::exclusive_first(None, async {
        match begin.await {
            Ok(rest) => Then::Rest(Box::pin(rest)),
            Err(sense) => Then::Done(Completion::check(sense)),
        }
    }))
}

/// Whether the medium can be taken: after a failure the same kind of work may be tried again.
///
/// # Errors
/// Why not.
fn possible(unit: &Unit, work: &Work) -> Result<(), Sense> {
    unit.writable()?;
    if unit.power.state() == work_again(work) {
        return Ok(());
    }
    unit.power.ready()
}

fn work_again(work: &Work) -> State {
    let failed = true;
    Work {
        failed,
        ..work.clone()
    }
    .state()
}

/// A command has arrived at a disk with unfinished work: goes on with it if nobody does.
pub(super) fn resume(unit: &Arc<Unit>, command: &Command<'_>) {
    let Some(work) = unit.eraser.work().filter(|work| !work.failed) else {
        return;
    };
    let Ok(medium) = Medium::of(unit, command) else {
        return;
    };
    if let Some(running) = Running::begin(unit) {
        let unit = Arc::clone(unit);
        command
            .reactor
            .spawn(carry_out(unit, medium.in_background(), work, running));
    }
}

/// The work itself, and what becomes of the disk. If it was stopped, it goes on some other time.
async fn carry_out(unit: Arc<Unit>, medium: Medium, mut work: Work, running: Running) {
    let done = match fill(&medium, &work, &running).await {
        Ok(true) => unit.eraser.strike_out().await,
        Ok(false) => return,
        Err(sense) => Err(sense),
    };
    if done.is_ok() {
        unit.eraser.set(None);
        unit.power.set(State::Running);
        return;
    }
    work.failed = true;
    // Should this fail as well, the note still says that there is work to do.
    let _: Result<(), Sense> = unit.eraser.note(&work).await;
    unit.power.set(work.state());
    unit.eraser.set(Some(work));
    drop(running);
}

/// Writes every block as often as it is to be written; whether it came to its end.
async fn fill(medium: &Medium, work: &Work, running: &Running) -> Result<bool, Sense> {
    let unit = medium.unit();
    let block = unit.limits.block_size() as usize;
    let size = unit.capacity() << unit.limits.block_shift;
    let steps = chunks(0, size).count() * usize::from(work.passes);
    let mut step = 0;
    let mut buffer = Buffer::new(if work.pattern.is_some() {
        CHUNK as usize
    } else {
        0
    });
    for pass in 0..work.passes {
        // Counted from the end, so that the last pass leaves the pattern itself.
        let inverted = work.invert && (work.passes - 1 - pass) % 2 == 1;
        let mask = if inverted { 0xff } else { 0x00 };
        if let Some(pattern) = &work.pattern {
            for block in buffer.chunks_mut(block) {
                for (to, from) in block.iter_mut().zip(pattern.iter().cycle()) {
                    *to = from ^ mask;
                }
            }
        }
        for (offset, len) in chunks(0, size) {
            if running.is_stopped() {
                return Ok(false);
            }
            if work.pattern.is_some() {
                let kind = OpKind::Write { fua: false };
                buffer = medium.run_owned(kind, offset, len as usize, buffer).await?;
            } else {
                medium
                    .run(Op::write_zeroes(offset, len.into(), true, false))
                    .await?;
            }
            step += 1;
            let progress = (step << 16) / steps.max(1);
            unit.power
                .set_progress(u16::try_from(progress).unwrap_or(u16::MAX));
            medium.pause().await?;
        }
        medium.run(Op::flush()).await?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn work() -> impl Strategy<Value = Work> {
        let pattern = prop::option::of(prop::collection::vec(any::<u8>(), 1..9));
        let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
        (flags, pattern, 1u8..32).prop_map(
            |((format, invert, exit_allowed, failed), pattern, passes)| Work {
                kind: if format { Kind::Format } else { Kind::Sanitize },
                pattern,
                passes,
                invert,
                exit_allowed,
                failed,
            },
        )
    }

    proptest! {
        #[test]
        fn work_is_read_as_it_was_noted(work in work()) {
            prop_assert_eq!(Work::from_record(&work.to_record()), Some(work));
        }

        #[test]
        fn what_is_no_note_of_work_is_not_taken_for_one(record in prop::collection::vec(any::<u8>(), 0..9)) {
            if let Some(work) = Work::from_record(&record) {
                prop_assert_eq!(work.to_record(), record);
                prop_assert!(work.passes != 0);
            }
        }
    }
}
