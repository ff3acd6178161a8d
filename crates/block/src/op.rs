//! One operation on an image.

use lunar_sgl::Sgl;

use crate::Error;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// Data from the image into the buffer.
    Read,
    /// Data from the buffer into the image.
    Write {
        /// On stable storage before it completes.
        fua: bool,
    },
    /// Everything completed before is on stable storage when it completes.
    Flush,
    /// The range need not be kept: with [`Info::can_discard`](crate::Info::can_discard) its space is given back and it
    /// reads as [`Info::discard_zeroes`](crate::Info::discard_zeroes) says, without, nothing happens.
    Discard,
    /// The range reads as zeroes afterwards.
    WriteZeroes {
        /// Its space may be given back; without, it stays provisioned where the medium knows such a thing.
        unmap: bool,
        /// On stable storage before it completes.
        fua: bool,
    },
}

impl OpKind {
    /// Whether it changes what the image holds.
    #[inline]
    pub(crate) fn writes(self) -> bool {
        !matches!(self, OpKind::Read | OpKind::Flush)
    }

    /// Whether it changes a range as a whole, whose length no buffer bounds.
    #[inline]
    pub(crate) fn sweeps(self) -> bool {
        matches!(self, OpKind::Discard | OpKind::WriteZeroes { .. })
    }
}

/// One operation on an image. Offsets and lengths are in bytes; the crate documentation says who checks what.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    /// What to do.
    pub kind: OpKind,
    /// Where, a multiple of 512.
    pub offset: u64,
    /// How much, a multiple of 512.
    pub len: u64,
    /// The buffer of a read or a write; empty for the others.
    pub data: Sgl,
    /// The data handle's own note between `start` and `resume`.
    pub(crate) step: Step,
    /// When the device began it ([`Handle::now`](lunar_reactor::Handle::now)).
    pub(crate) begun: u64,
    /// The epoch of its [`Backend`](crate::Backend) when it was last begun.
    pub(crate) epoch: u64,
    /// As it was made: data handles rewrite the above.
    asked: Asked,
}

/// What an operation was made to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What to do.
    pub kind: OpKind,
    /// Where.
    pub offset: u64,
    /// How much.
    pub len: u64,
}

/// What the completion that an operation waits for will mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The operation itself was given to the kernel.
    Whole,
    /// The operation is done but for the flush that makes it durable.
    Sync,
    /// A task serves the operation: its result is the operation's.
    Task,
    /// The same, but the task is a format's, not its file's.
    Detour,
}

impl Op {
    /// An operation that has not been started.
    pub fn new(kind: OpKind, offset: u64, len: u64, data: Sgl) -> Op {
        Op {
            kind,
            offset,
            len,
            data,
            step: Step::Whole,
            begun: 0,
            epoch: 0,
            asked: Asked { kind, offset, len },
        }
    }

    /// What it was made to do, whatever a data handle has made of it since.
    #[inline]
    #[must_use]
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Makes it new again, to be started once more.
    pub fn rewind(&mut self) {
        let Asked { kind, offset, len } = self.asked;
        *self = Op {
            begun: self.begun,
            ..Op::new(kind, offset, len, self.data)
        };
    }

    /// Fills `data` from `offset` on.
    pub fn read(offset: u64, data: Sgl) -> Op {
        Op::new(OpKind::Read, offset, data.len() as u64, data)
    }

    /// Writes `data` from `offset` on.
    pub fn write(offset: u64, data: Sgl, fua: bool) -> Op {
        Op::new(OpKind::Write { fua }, offset, data.len() as u64, data)
    }

    /// Makes everything that was completed before durable.
    pub fn flush() -> Op {
        Op::new(OpKind::Flush, 0, 0, Sgl::EMPTY)
    }

    /// Gives the space of a range back.
    pub fn discard(offset: u64, len: u64) -> Op {
        Op::new(OpKind::Discard, offset, len, Sgl::EMPTY)
    }

    /// Makes a range read as zeroes.
    pub fn write_zeroes(offset: u64, len: u64, unmap: bool, fua: bool) -> Op {
        Op::new(OpKind::WriteZeroes { unmap, fua }, offset, len, Sgl::EMPTY)
    }
}

/// Whether an operation is over.
#[derive(Debug)]
#[must_use]
pub enum Progress {
    /// It is, with this result.
    Done(Result<(), Error>),
    /// The application will get the token in [`lunar_reactor::App::complete`] and must then call
    /// [`DataHandle::resume`](crate::DataHandle::resume).
    Pending,
}
