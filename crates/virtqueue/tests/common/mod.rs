//! A guest's memory with a ring in it.
#![allow(
    dead_code,
    missing_docs,
    unsafe_code,
    reason = "each test program uses a part; lists of a chain's segments are made by unsafe calls"
)]

use std::os::fd::OwnedFd;
use std::sync::Arc;

use lunar_virtqueue::{
    AddressSpace, Buffer, Chain, Error, GuestMemory, Queue, Region, RingLayout, Segments,
};

/// Where the rings are.
pub const RINGS: u64 = 0x1_0000;
/// Where the data are, in three adjacent regions.
pub const DATA: u64 = 0x10_0000;
/// Bytes of each of the three.
pub const PIECE: u64 = 0x4000;

/// Guest memory and the files behind it.
pub struct Guest {
    pub memory: Arc<GuestMemory>,
    pub files: Vec<(u64, u64, OwnedFd)>,
}

impl Guest {
    pub fn new() -> Guest {
        let wanted = [
            (RINGS, 0x2_0000),
            (DATA, PIECE),
            (DATA + PIECE, PIECE),
            (DATA + 2 * PIECE, PIECE),
        ];
        let mut files = Vec::new();
        let regions = wanted.map(|(gpa, size)| {
            let (region, fd) = Region::allocate(gpa, size).unwrap();
            files.push((gpa, size, fd));
            Arc::new(region)
        });
        Guest {
            memory: Arc::new(GuestMemory::new(regions).unwrap()),
            files,
        }
    }

    /// Writes a table of descriptors, in either format.
    pub fn write_table(&self, at: u64, table: impl IntoIterator<Item = [u8; 16]>) {
        let bytes: Vec<u8> = table.into_iter().flatten().collect();
        self.memory.write(at, &bytes).unwrap();
    }

    pub fn bytes(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(gpa, &mut bytes).unwrap();
        bytes
    }

    /// The guest addresses of a chain's segments, adjacent ones joined.
    pub fn addresses(&self, segments: &Segments) -> Vec<(u64, u64)> {
        // SAFETY: the list is dropped before the segments are touched again.
        let sgl = unsafe { segments.sgl() };
        let mut joined: Vec<(u64, u64)> = Vec::new();
        for s in sgl.segments() {
            let host = s.iov_base as u64;
            let len = s.iov_len as u64;
            let region = self
                .memory
                .regions()
                .iter()
                .find(|r| host.wrapping_sub(r.user_addr()) < r.size())
                .expect("a segment outside guest memory");
            assert!(host - region.user_addr() + len <= region.size());
            let gpa = region.gpa() + (host - region.user_addr());
            match joined.last_mut() {
                Some((start, n)) if *start + *n == gpa => *n += len,
                _ => joined.push((gpa, len)),
            }
        }
        joined
    }
}

/// A ring of `size` entries at [`RINGS`].
pub fn layout(size: u16) -> RingLayout {
    let n = u64::from(size);
    let avail = RINGS + 16 * n;
    RingLayout {
        size,
        desc: RINGS,
        avail,
        used: (avail + 6 + 2 * n).next_multiple_of(4),
        space: AddressSpace::Guest,
    }
}

/// The error that the next chain makes that is none, after which the queue must be silent.
pub fn refusal(queue: &mut Queue) -> Error {
    let mut chain = Chain::new();
    let error = loop {
        match queue.pop(&mut chain) {
            Ok(popped) => assert!(popped, "nothing refused"),
            Err(error) => break error,
        }
    };
    assert!(queue.is_broken());
    assert_eq!(
        queue.pop(&mut chain),
        Ok(false),
        "reported once, then silent"
    );
    assert!(!queue.enable_notifications());
    assert!(chain.readable.is_empty() && chain.writable.is_empty());
    error
}

/// Joins adjacent buffers, as [`Guest::addresses`] does.
pub fn joined(buffers: &[Buffer]) -> Vec<(u64, u64)> {
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for b in buffers.iter().filter(|b| b.len > 0) {
        match joined.last_mut() {
            Some((start, n)) if *start + *n == b.addr => *n += u64::from(b.len),
            _ => joined.push((b.addr, u64::from(b.len))),
        }
    }
    joined
}

/// Reads all of a side of a chain.
pub fn content(segments: &Segments) -> Vec<u8> {
    let mut bytes = vec![0; segments.len()];
    // SAFETY: the list is dropped at once.
    let sgl = unsafe { segments.sgl() };
    assert_eq!(sgl.read_at(0, &mut bytes), bytes.len());
    bytes
}

pub fn both(guest: &Guest, chain: &Chain) -> [Vec<(u64, u64)>; 2] {
    [
        guest.addresses(&chain.readable),
        guest.addresses(&chain.writable),
    ]
}
