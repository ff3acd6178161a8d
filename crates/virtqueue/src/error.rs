//! What can be wrong with a memory map, a ring, or the other side's behaviour.

use rustix::io::Errno;

/// Why a region, a ring or a chain was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A memory region of no bytes.
    #[error("memory region of size 0")]
    RegionEmpty,
    /// A memory region that reaches beyond the end of an address space.
    #[error("memory region at {addr:#x} of {size:#x} bytes wraps around")]
    RegionWraps {
        /// Where it starts: guest address, user address or file offset.
        addr: u64,
        /// Its bytes.
        size: u64,
    },
    /// Two regions claim the same guest addresses.
    #[error("memory regions overlap at guest address {addr:#x}")]
    RegionOverlap {
        /// The first address claimed twice.
        addr: u64,
    },
    /// No region has this place and size.
    #[error("no memory region of {size:#x} bytes at guest address {addr:#x}")]
    RegionUnknown {
        /// The guest address asked for.
        addr: u64,
        /// The size asked for.
        size: u64,
    },
    /// The file behind a region ends before the region does; touching the rest would raise SIGBUS.
    #[error("memory region needs {needed:#x} bytes of a file that has {actual:#x}")]
    FileTooShort {
        /// Offset plus size.
        needed: u64,
        /// The file's size.
        actual: u64,
    },
    /// The system refused to create or map the memory.
    #[error("cannot map guest memory: {0}")]
    Map(Errno),

    /// A ring size that is 0, above 32768 or, of a split ring, not a power of two.
    #[error(
        "ring size {0} is not from 1 to 32768, or not a power of two as a split ring's has to be"
    )]
    RingSize(u16),
    /// A position to start at that no ring of this format and size has.
    #[error("a ring of this format and size has no position {0:#x}")]
    RingBase(u32),
    /// A part of a ring lies outside the memory map, or in two regions.
    #[error("{part} at {addr:#x} is not inside one memory region")]
    RingUnmapped {
        /// Which part.
        part: RingPart,
        /// Its address, as it was given.
        addr: u64,
    },
    /// A part of a ring is not aligned as its words require.
    #[error("{part} at {addr:#x} is misaligned")]
    RingMisaligned {
        /// Which part.
        part: RingPart,
        /// Its address, as it was given.
        addr: u64,
    },

    /// The available index is further ahead than the ring is long.
    #[error("available index {avail} is more than {size} ahead of {next}")]
    AvailIndex {
        /// What the driver published.
        avail: u16,
        /// The next entry that the device would take.
        next: u16,
        /// The ring's size.
        size: u16,
    },
    /// A descriptor index outside its table.
    #[error("descriptor index {index} in a table of {size}")]
    DescriptorIndex {
        /// The index.
        index: u16,
        /// Entries of the table.
        size: u16,
    },
    /// A chain was made available again before it was returned.
    #[error("chain {head} was made available twice")]
    HeadInFlight {
        /// Its head, in a packed ring its buffer ID.
        head: u16,
    },
    /// A packed ring's chain whose descriptors are not all available, or that has more than the device had returned.
    #[error("the chain at descriptor {at} has descriptors that are not available")]
    ChainIncomplete {
        /// Where it begins.
        at: u16,
    },
    /// A chain with more descriptors than its table has: a loop.
    #[error("chain {head} loops")]
    ChainLoops {
        /// Its head.
        head: u16,
    },
    /// A chain of more than 2^32 bytes.
    #[error("chain {head} holds more than 2^32 bytes")]
    ChainTooLong {
        /// Its head.
        head: u16,
    },
    /// A buffer for the device to read follows one for it to write.
    #[error("chain {head} has a readable buffer after a writable one")]
    ReadableAfterWritable {
        /// Its head.
        head: u16,
    },
    /// A buffer outside guest memory.
    #[error("buffer of {len:#x} bytes at guest address {addr:#x} is not in guest memory")]
    BufferUnmapped {
        /// Its guest address.
        addr: u64,
        /// Its bytes.
        len: u32,
    },
    /// An indirect descriptor where none may be: feature not negotiated, inside an indirect table, or with a successor.
    #[error("chain {head} has an indirect descriptor where none is allowed")]
    IndirectMisplaced {
        /// The chain's head.
        head: u16,
    },
    /// An indirect table that is empty, too long or no multiple of a descriptor.
    #[error("indirect table of {len} bytes")]
    IndirectLength {
        /// Its bytes.
        len: u32,
    },

    /// The device returned something that the driver had not made available.
    #[error("the device returned a chain {id} that it does not have")]
    UsedUnknown {
        /// What the used ring says.
        id: u32,
    },
    /// The used index is further ahead than chains are outstanding.
    #[error("used index {used} with {outstanding} chains outstanding since {next}")]
    UsedIndex {
        /// What the device published.
        used: u16,
        /// The next entry that the driver would take.
        next: u16,
        /// Chains that the device has.
        outstanding: u16,
    },
    /// The driver's side has not enough free descriptors, or a chain is empty or longer than its table.
    #[error("no room for a chain of {needed} descriptors")]
    NoRoom {
        /// Descriptors needed.
        needed: usize,
    },
}

/// The three parts of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingPart {
    /// The descriptor table, or the descriptor ring.
    Descriptors,
    /// The driver's ring.
    Available,
    /// The device's ring.
    Used,
    /// The driver's event suppression structure, of a packed ring.
    DriverEvents,
    /// The device's.
    DeviceEvents,
}

impl std::fmt::Display for RingPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            RingPart::Descriptors => "descriptor table",
            RingPart::Available => "available ring",
            RingPart::Used => "used ring",
            RingPart::DriverEvents => "driver event suppression",
            RingPart::DeviceEvents => "device event suppression",
        })
    }
}
