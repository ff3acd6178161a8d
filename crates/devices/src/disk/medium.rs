//! The medium as the tasks see it: one reactor's way to the image, with block errors already sense data.

use std::rc::Rc;
use std::sync::Arc;

use lunar_block::{Allocation, Buffer, DataHandle, Op, OpKind, run, run_list, run_owned};
use lunar_reactor::Handle;
use lunar_scsi::Sense;
use lunar_sgl::SglBuf;
use lunar_target::{Command, Ended};

use super::{Unit, error};

/// What a task that works through a range holds of it at a time: enough to keep the per-step cost small, and a bound
/// on what a guest can make us allocate with a queue full of such commands.
pub(super) const CHUNK: u32 = 256 << 10;

/// The medium of a unit, for the steps of one command.
pub(super) struct Medium {
    unit: Arc<Unit>,
    reactor: Handle,
    io: Rc<dyn DataHandle>,
    ended: Ended,
}

impl Medium {
    /// # Errors
    /// 4/44/00 when the transport has not opened the image.
    pub(super) fn of(unit: &Arc<Unit>, command: &Command<'_>) -> Result<Medium, Sense> {
        let io = command.io.ok_or_else(error::internal_failure)?;
        Ok(Medium::new(unit, io, command))
    }

    /// The medium of any unit that the command works on.
    pub(super) fn new(unit: &Arc<Unit>, io: &Rc<dyn DataHandle>, command: &Command<'_>) -> Medium {
        Medium {
            unit: Arc::clone(unit),
            reactor: command.reactor.clone(),
            io: Rc::clone(io),
            ended: command.ended.clone(),
        }
    }

    /// The same for what outlives the command: task management does not end it.
    pub(super) fn in_background(self) -> Medium {
        Medium {
            ended: Ended::default(),
            ..self
        }
    }

    pub(super) fn unit(&self) -> &Arc<Unit> {
        &self.unit
    }

    pub(super) fn reactor(&self) -> &Handle {
        &self.reactor
    }

    /// Runs one operation.
    pub(super) async fn run(&self, op: Op) -> Result<(), Sense> {
        let (kind, offset) = (op.kind, op.offset);
        run(&self.reactor, &self.ended.guard(&self.io), op)
            .await
            .map_err(|e| self.unit.sense(&e, kind, offset))
    }

    /// Runs a read or a write on a part of the initiator's buffer.
    pub(super) async fn run_list(
        &self,
        kind: OpKind,
        offset: u64,
        list: SglBuf,
    ) -> Result<(), Sense> {
        run_list(
            &self.reactor,
            &self.ended.guard(&self.io),
            kind,
            offset,
            list,
        )
        .await
        .map_err(|e| self.unit.sense(&e, kind, offset))
    }

    /// Reads into or writes from the first `len` bytes of our own memory.
    pub(super) async fn run_owned(
        &self,
        kind: OpKind,
        offset: u64,
        len: usize,
        buffer: Buffer,
    ) -> Result<Buffer, Sense> {
        let io = self.ended.guard(&self.io);
        let (result, buffer) = run_owned(&self.reactor, &io, kind, offset, len, buffer).await;
        result
            .map(|()| buffer)
            .map_err(|e| self.unit.sense(&e, kind, offset))
    }

    /// How some bytes from `offset` on are stored, of which `len` are of interest.
    pub(super) async fn allocation(&self, offset: u64, len: u64) -> Result<Allocation, Sense> {
        let answer = self.io.allocation(offset, len).await;
        answer.map_err(|e| self.unit.sense(&e, OpKind::Read, offset))
    }

    /// Makes completed writes durable, if they may not be already.
    pub(super) async fn flush_cache(&self) -> Result<(), Sense> {
        if self.unit.write_cache() {
            self.run(Op::flush()).await?;
        }
        Ok(())
    }

    /// Lets others run between two steps that may both have completed at once.
    ///
    /// # Errors
    /// Task management has ended the command: there is no use in the next step.
    pub(super) async fn pause(&self) -> Result<(), Sense> {
        self.reactor.yield_now().await;
        self.go_on()
    }

    /// # Errors
    /// Task management has ended the command.
    pub(super) fn go_on(&self) -> Result<(), Sense> {
        if self.ended.is_set() {
            return Err(error::ended());
        }
        Ok(())
    }
}

/// The pieces of at most [`CHUNK`] bytes of a range: offset in the image, length.
pub(super) fn chunks(offset: u64, len: u64) -> impl Iterator<Item = (u64, u32)> {
    (0..len).step_by(CHUNK as usize).map(move |at| {
        (
            offset + at,
            u32::try_from(len - at).unwrap_or(CHUNK).min(CHUNK),
        )
    })
}
