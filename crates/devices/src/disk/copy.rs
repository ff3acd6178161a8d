//! The copy manager: EXTENDED COPY (LID1) between any disks that the initiator reaches, and RECEIVE COPY RESULTS.

use std::any::Any;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lunar_block::{Buffer, OpKind};
use lunar_scsi::copy::{
    Amount, CopyState, Cscd, Limits, ListId, Segment, operating_parameters, parse, status,
};
use lunar_scsi::reservation::Effect;
use lunar_scsi::vpd::code;
use lunar_scsi::{AdditionalSense, DeviceType, Sense, SenseKey};
use lunar_target::{Command, NexusId, Outcome, Visit};

use super::medium::{CHUNK, Medium, chunks};
use super::transfer::{Extent, task};
use super::{Disk, Unit};

pub(super) const LIMITS: Limits = Limits {
    cscds: 16,
    segments: 64,
    segment_bytes: 16 << 20,
    concurrent: u8::MAX,
    granularity: 9,
};

/// The VERSION of INQUIRY from which on (SPC-4) a CSCD descriptor has no LU ID TYPE and no NUL bit any more.
const SPC_4: u8 = 6;

/// A copy source or destination, which stays attached as long as the copy needs it.
struct End {
    medium: Medium,
    nexus: NexusId,
    _attached: Rc<dyn Any>,
}

impl End {
    fn unit(&self) -> &Unit {
        self.medium.unit()
    }

    /// Whether the unit lets the nexus do this now, as if it had sent a command with this effect to it. What was so
    /// when the copy began may have changed.
    ///
    /// # Errors
    /// A/0D/01
    fn admit(&self, effect: Effect) -> Result<(), Sense> {
        let unit = self.unit();
        if !unit.state.admits(self.nexus, effect) {
            return Err(aborted(AdditionalSense::THIRD_PARTY_DEVICE_FAILURE));
        }
        unit.power.ready().map_err(third_party)?;
        match effect {
            Effect::Write => unit.writable().map_err(third_party),
            Effect::None | Effect::Read => Ok(()),
        }
    }

    /// Reads into or writes from the buffer. Nobody has these bytes for himself meanwhile, and what the unit lets the nexus
    /// do does not change unnoticed.
    ///
    /// # Errors
    /// A/0D/01; that the command was ended.
    async fn step(
        &self,
        kind: OpKind,
        offset: u64,
        len: usize,
        buffer: Buffer,
    ) -> Result<Buffer, Sense> {
        let visit = Visit::begin(&self.unit().state, offset..offset + len as u64).await;
        self.medium.go_on()?;
        self.admit(match kind {
            OpKind::Read => Effect::Read,
            _ => Effect::Write,
        })?;
        let done = self.medium.run_owned(kind, offset, len, buffer).await;
        drop(visit);
        done.map_err(third_party)
    }
}

pub(super) fn extended_copy(unit: &Arc<Unit>, command: &Command<'_>) -> Result<Outcome, Sense> {
    let Some(list) = command.parameter_list() else {
        return Ok(Outcome::Overrun);
    };
    let Some(copy) = parse(&list, LIMITS)? else {
        return Ok(Outcome::good(0));
    };
    let ends = copy
        .cscds
        .iter()
        .map(|cscd| find(unit, cscd, command))
        .collect::<Result<Vec<_>, Sense>>()?;
    let key = match copy.list_id {
        ListId::Held(id) => Some((command.nexus, id)),
        ListId::None => None,
    };
    unit.copies.begin(key)?;
    let (unit, segments, sent) = (Arc::clone(unit), copy.segments, list.len());
    Ok(task(async move {
        let mut progress = Progress::default();
        let result = run(&ends, &segments, &mut progress).await;
        unit.copies.end(key, progress, result.is_ok());
        result.map(|()| sent)
    }))
}

/// The disk that a descriptor names, if this nexus reaches it.
fn find(unit: &Unit, cscd: &Cscd<'_>, command: &Command<'_>) -> Result<Option<End>, Sense> {
    let before_spc_4 = unit.config.scsi_version < SPC_4;
    if before_spc_4 && cscd.lu_id_type != 0 {
        return Err(Sense::invalid_bits_in_parameters(cscd.at + 1, 7));
    }
    if cscd.initiator_port != 0 {
        return Err(Sense::invalid_field_in_parameters(cscd.at + 2));
    }
    if cscd.device_type != DeviceType::Disk as u8 {
        return Err(aborted(AdditionalSense::INCORRECT_COPY_TARGET_TYPE));
    }
    let mut found = None;
    if before_spc_4 && cscd.null {
        return Ok(found);
    }
    let mut page = Vec::new();
    command.around.units(&mut |reached| {
        let Some(disk) = (&**reached.unit as &dyn Any).downcast_ref::<Disk>() else {
            return;
        };
        page.clear();
        disk.unit.vpd_page(code::DEVICE_IDENTIFICATION, &mut page);
        if found.is_none() && names(&page, cscd) {
            found = Some(End {
                medium: Medium::new(&disk.unit, reached.io, command),
                nexus: command.nexus,
                _attached: reached.attached,
            });
        }
    });
    match &found {
        Some(end) if end.unit().limits.block_size() != cscd.block_length => {
            Err(Sense::invalid_field_in_parameters(cscd.at + 29))
        }
        _ => Ok(found),
    }
}

/// Whether one of the designators on the page is the descriptor's, and is the logical unit's.
fn names(page: &[u8], cscd: &Cscd<'_>) -> bool {
    const ASSOCIATION: u8 = 0x30;
    let mut rest = page.get(4..).unwrap_or_default();
    while let [code_set, kind, _, length, behind @ ..] = rest {
        let Some((designator, next)) = behind.split_at_checked(usize::from(*length)) else {
            return false;
        };
        let kind = [*code_set & 0x0F, *kind & 0x3F];
        if kind == cscd.kind && kind[1] & ASSOCIATION == 0 && designator == cscd.designator {
            return true;
        }
        rest = next;
    }
    false
}

#[derive(Clone, Copy, Default)]
struct Progress {
    segments: u16,
    bytes: u64,
}

async fn run(
    ends: &[Option<End>],
    segments: &[Segment],
    progress: &mut Progress,
) -> Result<(), Sense> {
    let mut buffer = Buffer::new(CHUNK as usize);
    for segment in segments {
        let (source, from, destination, to) = plan(ends, segment)?;
        let fua = !destination.unit().write_cache();
        for (at, len) in chunks(0, from.len) {
            let len = len as usize;
            buffer = source
                .step(OpKind::Read, from.offset + at, len, buffer)
                .await?;
            let write = OpKind::Write { fua };
            buffer = destination.step(write, to.offset + at, len, buffer).await?;
            progress.bytes += len as u64;
            source.medium.pause().await?;
        }
        progress.segments += 1;
    }
    Ok(())
}

/// From where to where a segment goes.
fn plan<'a>(
    ends: &'a [Option<End>],
    segment: &Segment,
) -> Result<(&'a End, Extent, &'a End, Extent), Sense> {
    let end = |index: u16| match ends.get(usize::from(index)) {
        Some(Some(end)) => Ok(end),
        _ => Err(aborted(AdditionalSense::UNREACHABLE_COPY_TARGET)),
    };
    let (source, destination) = (end(segment.source)?, end(segment.destination)?);
    source.admit(Effect::Read)?;
    destination.admit(Effect::Write)?;

    let (from, to) = (
        source.unit().limits.block_shift,
        destination.unit().limits.block_shift,
    );
    let whole = |bytes: u64| bytes.trailing_zeros() >= from.max(to);
    let bytes = match segment.amount {
        Amount::SourceBlocks(blocks) => u64::from(blocks) << from,
        Amount::DestinationBlocks(blocks) => u64::from(blocks) << to,
        Amount::Bytes {
            count,
            source_offset: 0,
            destination_offset: 0,
        } if whole(count.into()) => count.into(),
        // Pieces of blocks are not copied: DATA SEGMENT GRANULARITY.
        Amount::Bytes { .. } => {
            return Err(aborted(AdditionalSense::COPY_SEGMENT_GRANULARITY_VIOLATION));
        }
    };
    if bytes > u64::from(LIMITS.segment_bytes) {
        return Err(Sense::invalid_field_in_parameters(segment.at + 8));
    }
    if !whole(bytes) {
        return Err(aborted(AdditionalSense::UNEXPECTED_INEXACT_SEGMENT));
    }
    // What is not there cannot be reached.
    let unreachable = |_| aborted(AdditionalSense::COPY_TARGET_NOT_REACHABLE);
    let from = source.unit().extent(segment.source_lba, bytes >> from);
    let to = destination
        .unit()
        .extent(segment.destination_lba, bytes >> to);
    Ok((
        source,
        from.map_err(unreachable)?,
        destination,
        to.map_err(unreachable)?,
    ))
}

fn aborted(why: AdditionalSense) -> Sense {
    Sense::new(SenseKey::CopyAborted, why)
}

/// One of the two units has refused or failed.
fn third_party(_: Sense) -> Sense {
    aborted(AdditionalSense::THIRD_PARTY_DEVICE_FAILURE)
}

/// RECEIVE COPY RESULTS with service action COPY STATUS.
pub(super) fn receive_copy_status(
    unit: &Unit,
    command: &mut Command<'_>,
) -> Result<Outcome, Sense> {
    let [_, _, list_id, ..] = *command.cdb;
    let data = unit
        .copies
        .status(command.nexus, list_id)
        .ok_or(Sense::invalid_field_in_cdb(2))?;
    command.reply.extend(data);
    Ok(command.replied())
}

/// RECEIVE COPY RESULTS with service action OPERATING PARAMETERS.
pub(super) fn receive_copy_parameters(command: &mut Command<'_>) -> Outcome {
    command.reply.extend(operating_parameters(LIMITS));
    command.replied()
}

/// What has become of the copies of each nexus.
#[derive(Debug, Default)]
pub(super) struct Copies(Mutex<Vec<Held>>);

#[derive(Debug)]
struct Held {
    nexus: NexusId,
    list_id: u8,
    /// What RECEIVE COPY RESULTS says, and since when it cannot change any more.
    data: [u8; 12],
    ended: Option<Instant>,
}

/// How long the result of a copy is kept. For each nexus there are as many as there are list identifiers at most.
const KEPT: Duration = Duration::from_secs(5);

impl Copies {
    fn lock(&self) -> MutexGuard<'_, Vec<Held>> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|copy| copy.ended.is_none_or(|ended| ended.elapsed() < KEPT));
        held
    }

    /// # Errors
    /// 5/00/16 when a copy with this number is under way.
    fn begin(&self, key: Option<(NexusId, u8)>) -> Result<(), Sense> {
        let Some((nexus, list_id)) = key else {
            return Ok(());
        };
        let mut held = self.lock();
        if let Some(at) = held
            .iter()
            .position(|c| (c.nexus, c.list_id) == (nexus, list_id))
        {
            if held.get(at).is_some_and(|copy| copy.ended.is_none()) {
                return Err(Sense::illegal_request(AdditionalSense::COPY_IN_PROGRESS));
            }
            held.swap_remove(at);
        }
        held.push(Held {
            nexus,
            list_id,
            data: status(CopyState::InProgress, 0, 0),
            ended: None,
        });
        Ok(())
    }

    fn end(&self, key: Option<(NexusId, u8)>, progress: Progress, good: bool) {
        let state = if good {
            CopyState::Done
        } else {
            CopyState::Failed
        };
        let mut held = self.lock();
        let same =
            |copy: &&mut Held| Some((copy.nexus, copy.list_id)) == key && copy.ended.is_none();
        if let Some(copy) = held.iter_mut().find(same) {
            copy.data = status(state, progress.segments, progress.bytes);
            copy.ended = Some(Instant::now());
        }
    }

    fn status(&self, nexus: NexusId, list_id: u8) -> Option<[u8; 12]> {
        let held = self.lock();
        let copy = held
            .iter()
            .find(|c| (c.nexus, c.list_id) == (nexus, list_id))?;
        Some(copy.data)
    }

    /// Results are forgotten with a reset, or with their nexus. What is under way goes on.
    pub(super) fn forget(&self, nexus: Option<NexusId>) {
        self.lock()
            .retain(|copy| copy.ended.is_none() || nexus.is_some_and(|nexus| nexus != copy.nexus));
    }
}
