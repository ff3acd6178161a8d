//! From descriptors to checked lists of host addresses: what both formats of a ring have in common.

use crate::chain::Segments;
use crate::memory::Window;
use crate::{Chain, Error, GuestMemory};

/// Descriptors of the longest indirect table that is accepted. Drivers exceed both the ring's size and the announced
/// `seg_max` (Windows does), so neither is the limit; this one is what 1024 data segments, as many as one system call
/// takes, and generously split headers need.
pub const MAX_INDIRECT: u16 = 1024 + 32;

/// Bytes of a descriptor, in either format.
pub(crate) const DESCRIPTOR: usize = 16;

/// Where a walk along a chain is.
pub(crate) struct Walk {
    /// What errors call the chain.
    pub(crate) head: u16,
    /// Entries of the table that it is in.
    pub(crate) table: u16,
    /// Whether a writable buffer has been seen.
    writing: bool,
}

impl Walk {
    #[inline]
    pub(crate) fn new(head: u16, table: u16) -> Walk {
        Walk {
            head,
            table,
            writing: false,
        }
    }

    /// `index`, if it is inside the table.
    #[inline]
    pub(crate) fn check(&self, index: u16) -> Result<u16, Error> {
        if index < self.table {
            Ok(index)
        } else {
            Err(Error::DescriptorIndex {
                index,
                size: self.table,
            })
        }
    }

    /// Goes on in an indirect table of `len` bytes.
    pub(crate) fn enter_table(&mut self, len: u32) -> Result<(), Error> {
        let bad_length = Error::IndirectLength { len };
        let bytes = len as usize;
        self.table = u16::try_from(bytes / DESCRIPTOR).map_err(|_| bad_length)?;
        if self.table == 0 || self.table > MAX_INDIRECT || !bytes.is_multiple_of(DESCRIPTOR) {
            return Err(bad_length);
        }
        Ok(())
    }

    /// Adds a buffer to its side of the chain. `window` is the region that held the last one: it mostly holds this one
    /// as well.
    #[inline]
    pub(crate) fn append(
        &mut self,
        memory: &GuestMemory,
        window: &mut Window,
        (addr, len, writable): (u64, u32, bool),
        chain: &mut Chain,
    ) -> Result<(), Error> {
        let head = self.head;
        if self.writing && !writable {
            return Err(Error::ReadableAfterWritable { head });
        }
        self.writing = writable;
        let bytes = len as usize;
        if chain.readable.len() + chain.writable.len() + bytes > 1 << 32 {
            return Err(Error::ChainTooLong { head });
        }
        let side = if writable {
            &mut chain.writable
        } else {
            &mut chain.readable
        };
        if len == 0 {
            return Ok(());
        }
        match window.translate(addr, u64::from(len)) {
            Some(host) => {
                side.append(host, bytes);
                Ok(())
            }
            None => append_elsewhere(memory, window, (addr, len), side),
        }
    }
}

/// Adds a buffer that is not in the region of the last one, or in several.
#[inline(never)]
fn append_elsewhere(
    memory: &GuestMemory,
    window: &mut Window,
    (addr, len): (u64, u32),
    side: &mut Segments,
) -> Result<(), Error> {
    if let Some(host) = translate(memory, window, addr, len) {
        side.append(host, len as usize);
        return Ok(());
    }
    for piece in memory.pieces(addr, len as usize) {
        let (host, len) = piece?;
        side.append(host, len);
    }
    Ok(())
}

/// The host address of a buffer (of at least 1 byte) that lies in one region.
#[inline]
pub(crate) fn translate(
    memory: &GuestMemory,
    window: &mut Window,
    gpa: u64,
    len: u32,
) -> Option<*mut u8> {
    if let Some(host) = window.translate(gpa, u64::from(len)) {
        return Some(host);
    }
    *window = memory.window(gpa)?;
    window.translate(gpa, u64::from(len))
}

/// An indirect table, wherever it lies.
pub(crate) struct Table {
    addr: u64,
    len: u32,
    /// Where it is if it is in one region.
    contiguous: Option<*mut u8>,
}

impl Table {
    pub(crate) fn new(memory: &GuestMemory, window: &mut Window, addr: u64, len: u32) -> Table {
        Table {
            addr,
            len,
            contiguous: translate(memory, window, addr, len),
        }
    }

    /// Reads the entry at `index`, once. The caller keeps `memory`, with which the table was made.
    ///
    /// # Safety
    /// `index` must be less than the table's entries, and `memory` the map that [`Table::new`] was given.
    #[inline]
    pub(crate) unsafe fn load(&self, memory: &GuestMemory, index: u16) -> Result<[u64; 2], Error> {
        let offset = usize::from(index) * DESCRIPTOR;
        if let Some(host) = self.contiguous {
            // SAFETY: the whole table is mapped by `memory`, and the entry is inside it (the caller's promise).
            return Ok(unsafe { load(host.wrapping_add(offset)) });
        }
        self.load_in_pieces(memory, offset)
    }

    /// Reads the entry at `offset` of a table that lies in several regions.
    #[cold]
    fn load_in_pieces(&self, memory: &GuestMemory, offset: usize) -> Result<[u64; 2], Error> {
        let unmapped = Error::BufferUnmapped {
            addr: self.addr,
            len: self.len,
        };
        let addr = self.addr.checked_add(offset as u64).ok_or(unmapped)?;
        let mut bytes = [0; DESCRIPTOR];
        memory.read(addr, &mut bytes)?;
        let word = u128::from_le_bytes(bytes);
        #[expect(clippy::cast_possible_truncation, reason = "its two halves")]
        Ok([word as u64, (word >> 64) as u64])
    }
}

/// Reads a descriptor's two words once, so that what is judged is what is used.
///
/// # Safety
/// `from` must point to 16 mapped bytes.
#[inline]
pub(crate) unsafe fn load(from: *const u8) -> [u64; 2] {
    /// A word at any address.
    #[repr(C, packed)]
    struct Word(u64);
    // Volatile, so that the compiler cannot fetch a field a second time from memory that the guest has changed since.
    // SAFETY: mapped by the caller's promise, and `Word` has no alignment.
    let low = unsafe { std::ptr::read_volatile(from.cast::<Word>()) }.0;
    // SAFETY: as above.
    let high = unsafe { std::ptr::read_volatile(from.wrapping_add(8).cast::<Word>()) }.0;
    [low, high]
}
