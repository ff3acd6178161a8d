//! `memory`: a RAM disk, shared by all reactors and gone with the process.
//!
//! The bytes live in one anonymous mapping that the kernel fills page by page, so a disk costs what was written to it.
//! All operations are copies. Two reactors may touch the same bytes together: they then race as two queues of a real disk
//! do, each byte being old or new.
//!
//! What a small disk holds is in the processor's caches, and operations complete at once. On a large one everything is far
//! away, so operations of one turn of the loop are begun before the first ends: reads have asked for what they will copy,
//! and writes, which go past the caches ([`lunar_sgl::stream`]), wait together until their bytes are there.
#![allow(
    unsafe_code,
    reason = "the disk is one mapping that all reactors copy from and to without a lock"
)]

use std::cell::Cell;
use std::ffi::c_void;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use lunar_reactor::{Handle, Token};
use lunar_sgl::prefetch::{self, Lines};
use lunar_sgl::{Sgl, stream};
use rustix::mm;

use crate::filter::{Gate, Ledger, Policy};
use crate::{
    Allocation, AllocationQuery, DataHandle, Error, Image, Info, NodeOptions, Op, OpKind, Progress,
    Space, Stats, WriteThreshold,
};

/// The image.
#[derive(Debug)]
pub(crate) struct Memory {
    pages: Arc<Pages>,
    policy: Policy,
    ledger: Ledger,
}

/// Opens a RAM disk of `size` bytes.
pub(crate) fn open(size: u64, options: &NodeOptions) -> Result<Arc<dyn Image>, Error> {
    Ok(Arc::new(Memory {
        pages: Arc::new(Pages::new(size)?),
        policy: Policy::new(options, true),
        ledger: Ledger::default(),
    }))
}

impl Image for Memory {
    fn info(&self) -> Info {
        Info {
            size: self.pages.len as u64,
            read_only: self.policy.read_only,
            request_align: 1,
            discard_granularity: u32::try_from(self.pages.page).unwrap_or(4096),
            can_discard: self.policy.unmap,
            discard_zeroes: self.policy.unmap,
            flushes: !self.policy.no_flush,
            volatile: true,
            name: "memory".into(),
        }
    }

    fn open(&self, reactor: &Handle) -> Result<Rc<dyn DataHandle>, Error> {
        Ok(Rc::new(MemoryHandle {
            pages: Arc::clone(&self.pages),
            reactor: reactor.clone(),
            streaming: Cell::new(false),
            ahead: Ahead::default(),
            gate: self.ledger.gate(self.policy),
        }))
    }

    fn stats(&self) -> Stats {
        self.ledger.total()
    }

    fn write_threshold(&self) -> Option<&Arc<WriteThreshold>> {
        Some(self.ledger.threshold())
    }

    fn space(&self) -> Option<Space> {
        // The memory is the host's, and nobody has set any of it aside.
        None
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

struct MemoryHandle {
    pages: Arc<Pages>,
    reactor: Handle,
    /// Bytes have been written that other processors may not see yet.
    streaming: Cell<bool>,
    ahead: Ahead,
    gate: Gate,
}

impl MemoryHandle {
    /// Begins a read or a write on a large disk; it ends when others of this turn have begun.
    fn begin(&self, op: &Op, token: Token) -> Result<(), Error> {
        if op.kind == OpKind::Read {
            let (from, len) = (self.pages.at(op.offset, op.data.len())?, op.data.len());
            expect(from, 0..len.min(FIRST));
            self.ahead.begins(from, len);
        } else {
            self.pages.stream(op.offset, op.data)?;
            self.streaming.set(true);
        }
        self.reactor.deliver(token, 0);
        Ok(())
    }

    /// Before anybody hears that a write is over: they may look for its bytes from another processor, and the store that
    /// tells them is in no order with these without a fence. The first of several that have begun waits for those of all.
    #[inline]
    fn settle(&self) {
        if self.streaming.take() {
            stream::fence();
        }
    }
}

impl DataHandle for MemoryHandle {
    fn start(&self, op: &mut Op, token: Token) -> Progress {
        if let Some(over) = self.gate.admit(op) {
            return over;
        }
        if self.pages.is_large() && matches!(op.kind, OpKind::Read | OpKind::Write { .. }) {
            return match self.begin(op, token) {
                Ok(()) => Progress::Pending,
                Err(error) => self.gate.done(Err(error)),
            };
        }
        self.settle();
        self.gate.done(match op.kind {
            OpKind::Read => self.pages.read(op.offset, op.data),
            OpKind::Write { .. } => self.pages.write(op.offset, op.data),
            OpKind::Flush => Ok(()),
            // A page that reads as zeroes has no better form than none at all, so `unmap` makes no difference here.
            OpKind::Discard | OpKind::WriteZeroes { .. } => self.pages.zero(op.offset, op.len),
        })
    }

    fn resume(&self, op: &mut Op, _token: Token, _result: i32) -> Progress {
        self.settle();
        self.gate.done(match op.kind {
            OpKind::Read => {
                if let Some(from) = self.ahead.next() {
                    expect(from, FIRST..SECOND);
                }
                self.pages.read(op.offset, op.data)
            }
            // It is there.
            _ => Ok(()),
        })
    }

    fn lines(&self, lines: &mut Lines) {
        lines.add(self);
        self.gate.lines(lines);
    }

    fn allocation(&self, offset: u64, len: u64) -> AllocationQuery {
        Box::pin(std::future::ready(self.pages.allocation(offset, len)))
    }
}

/// What a read asks for when it begins.
const FIRST: usize = 512;
/// What it has asked for when the one before has been carried out. The processor itself asks for the rest. All of it at
/// once would only keep the processor from whatever else it is to do meanwhile.
const SECOND: usize = 2048;
/// Bytes that come together.
const LINE: usize = 64;

/// Asks for a part of what begins at `from`.
fn expect(from: *const u8, part: Range<usize>) {
    for line in part.step_by(LINE) {
        prefetch::to_read(from.wrapping_add(line));
    }
}

/// From where the next reads will copy, in the order in which they will. With more of them than there is room for, it is
/// wrong, and useless; it is for hints only.
#[derive(Default)]
struct Ahead {
    places: [Cell<usize>; 8],
    begun: Cell<usize>,
    ended: Cell<usize>,
}

impl Ahead {
    fn place(&self, number: usize) -> Option<&Cell<usize>> {
        self.places.get(number % self.places.len())
    }

    /// A read of `len` bytes at `from` begins.
    fn begins(&self, from: *const u8, len: usize) {
        if let Some(place) = self.place(self.begun.get()) {
            // Of a short one, all is on its way already.
            place.set(if len < SECOND { 0 } else { from.addr() });
        }
        self.begun.set(self.begun.get().wrapping_add(1));
    }

    /// The first has its turn; from where the one behind it will copy.
    fn next(&self) -> Option<*const u8> {
        let ended = self.ended.get().wrapping_add(1);
        self.ended.set(ended);
        let place = self.place(ended).filter(|_| ended != self.begun.get())?;
        let from = Some(place.get()).filter(|&from| from != 0);
        from.map(std::ptr::without_provenance)
    }
}

/// The mapping. All access is by copying through raw pointers; no reference to the bytes ever exists.
#[derive(Debug)]
struct Pages {
    base: NonNull<u8>,
    len: usize,
    page: usize,
    /// What the kernel says about each page of the process, where it says so.
    map: Option<File>,
}

/// Bytes of a disk up to which it is taken to be in the caches.
const LARGE: usize = 32 << 20;
/// An entry of the page map: the page is in memory, or swapped out.
const EXISTS: u64 = 3 << 62;
/// Pages that one look at the map covers.
const LOOK: usize = 4096;

// SAFETY: the mapping belongs to the process, not to a thread, and is accessed by raw copies only.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    fn new(size: u64) -> Result<Pages, Error> {
        let fail = |what: &str| {
            Error::Open(format!(
                "memory: a disk of {size} bytes {what}; choose a smaller size="
            ))
        };
        let len = usize::try_from(size).map_err(|_| fail("does not fit the address space"))?;
        if len == 0 || len % 512 != 0 {
            return Err(Error::Open(format!(
                "memory: size={size} is not a positive multiple of 512"
            )));
        }
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let base = unsafe {
            mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                mm::ProtFlags::READ | mm::ProtFlags::WRITE,
                mm::MapFlags::PRIVATE | mm::MapFlags::NORESERVE,
            )
        }
        .map_err(|e| fail(&format!("cannot be mapped: {e}")))?;
        Ok(Pages {
            base: NonNull::new(base.cast()).ok_or_else(|| fail("was mapped at address 0"))?,
            len,
            page: rustix::param::page_size(),
            map: File::open("/proc/self/pagemap").ok(),
        })
    }

    /// The address of `offset..offset + len`, when that is inside.
    fn at(&self, offset: u64, len: usize) -> Result<*mut u8, Error> {
        let start = usize::try_from(offset).map_err(|_| Error::OutOfRange)?;
        match start.checked_add(len) {
            Some(end) if end <= self.len => Ok(self.base.as_ptr().wrapping_add(start)),
            _ => Err(Error::OutOfRange),
        }
    }

    fn read(&self, offset: u64, data: Sgl) -> Result<(), Error> {
        let mut from = self.at(offset, data.len())?;
        for s in data.segments() {
            // SAFETY: the segments sum to `data.len()`, which `at` has found inside the mapping; the list's creator
            // promises that each segment is writable. `copy`, because a guest's memory and ours never are but might
            // be made to overlap by a caller.
            unsafe { std::ptr::copy(from, s.iov_base.cast(), s.iov_len) };
            from = from.wrapping_add(s.iov_len);
        }
        Ok(())
    }

    /// Whether it is more than a processor's caches hold for long.
    #[inline]
    fn is_large(&self) -> bool {
        self.len > LARGE
    }

    /// Writes past the caches: `stream::fence` has to follow.
    fn stream(&self, offset: u64, data: Sgl) -> Result<(), Error> {
        let to = self.at(offset, data.len())?;
        // SAFETY: `at` has found the bytes inside the mapping, to which there are no references.
        unsafe { data.stream_to(to) };
        Ok(())
    }

    fn write(&self, offset: u64, data: Sgl) -> Result<(), Error> {
        let mut to = self.at(offset, data.len())?;
        for s in data.segments() {
            // SAFETY: as in `read`, the other way round.
            unsafe { std::ptr::copy(s.iov_base.cast_const().cast(), to, s.iov_len) };
            to = to.wrapping_add(s.iov_len);
        }
        Ok(())
    }

    /// A page that has never been touched, or was given back, does not exist. (One that was only read does: the kernel
    /// has then put its page of zeroes there.)
    fn allocation(&self, offset: u64, len: u64) -> Result<Allocation, Error> {
        let Some(map) = &self.map else {
            return Ok(Allocation::data(len));
        };
        let bytes = usize::try_from(len).map_err(|_| Error::OutOfRange)?;
        let start = self.at(offset, bytes)?.addr();
        let first = start / self.page;
        let pages = (start + bytes).div_ceil(self.page) - first;
        let mut entries = vec![0; 8 * pages.min(LOOK)];
        map.read_exact_at(&mut entries, 8 * first as u64)?;
        let entries = entries.as_chunks().0;
        let exists = |entry: &[u8; 8]| u64::from_ne_bytes(*entry) & EXISTS != 0;
        let allocated = entries.first().is_none_or(exists);
        let alike = entries
            .iter()
            .take_while(|e| exists(e) == allocated)
            .count();
        let end = (first + alike) * self.page;
        Ok(Allocation {
            allocated,
            len: len.min((end - start) as u64),
        })
    }

    /// Whole pages go back to the kernel, which gives zeroes for them; the ends of the range are overwritten.
    fn zero(&self, offset: u64, len: u64) -> Result<(), Error> {
        let len = usize::try_from(len).map_err(|_| Error::OutOfRange)?;
        let start = self.at(offset, len)?;
        let head = start.align_offset(self.page).min(len);
        let whole = (len - head) / self.page * self.page;
        let middle = start.wrapping_add(head);
        let tail = middle.wrapping_add(whole);
        // SAFETY: head, middle and tail make up `offset..offset + len`, which `at` has found inside the mapping.
        unsafe {
            std::ptr::write_bytes(start, 0, head);
            std::ptr::write_bytes(tail, 0, len - head - whole);
            if whole > 0 {
                mm::madvise(middle.cast::<c_void>(), whole, mm::Advice::LinuxDontNeed)?;
            }
        }
        Ok(())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: nobody is left who could use the mapping. A failure would leak address space, no more.
        let _ = unsafe { mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_know_where_the_one_behind_them_will_copy_from() {
        let ahead = Ahead::default();
        let bytes = [0_u8; 4];
        let place = |number| &raw const bytes[number];
        ahead.begins(place(0), 4096);
        ahead.begins(place(1), 512);
        ahead.begins(place(2), 4096);
        assert_eq!(ahead.next(), None, "a short one needs no more");
        assert_eq!(ahead.next(), Some(place(2)));
        ahead.begins(place(3), 4096);
        assert_eq!(ahead.next(), Some(place(3)));
        assert_eq!(ahead.next(), None, "there is none behind it");
    }

    #[test]
    fn more_reads_than_there_is_room_for_end_as_many() {
        let ahead = Ahead::default();
        let byte = 0_u8;
        for _ in 0..100 {
            ahead.begins(&raw const byte, 4096);
        }
        let hints = (0..100).filter(|_| ahead.next().is_some()).count();
        assert_eq!(hints, 99);
    }
}
