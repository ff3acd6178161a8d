//! A ring in memory: its three parts, found once. What is in them, each format says for itself.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::walk::DESCRIPTOR;
use crate::{Error, GuestMemory, RingLayout, RingPart};

/// The host addresses of a ring of `D`s and of what either side says beside it, and the memory that they are in.
#[derive(Debug)]
pub(crate) struct Ring<D> {
    memory: Arc<GuestMemory>,
    size: u16,
    pub(crate) desc: *mut u8,
    pub(crate) driver: *mut u8,
    pub(crate) device: *mut u8,
    format: PhantomData<D>,
}

// SAFETY: the addresses stay valid wherever the ring is, because it owns `memory`.
unsafe impl<D> Send for Ring<D> {}

/// A part, its bytes, and its alignment.
type Part = (RingPart, usize, usize);

impl<D> Ring<D> {
    /// Finds the descriptors, and these two.
    pub(crate) fn find(
        memory: &Arc<GuestMemory>,
        layout: &RingLayout,
        driver: Part,
        device: Part,
    ) -> Result<Ring<D>, Error> {
        let find = |(part, len, align): Part, addr: u64| {
            let host = memory.contiguous(layout.space, addr, len as u64);
            let host = host.ok_or(Error::RingUnmapped { part, addr })?;
            if host.addr() % align != 0 || !addr.is_multiple_of(align as u64) {
                return Err(Error::RingMisaligned { part, addr });
            }
            Ok(host)
        };
        let bytes = usize::from(layout.size) * DESCRIPTOR;
        Ok(Ring {
            desc: find((RingPart::Descriptors, bytes, 16), layout.desc)?,
            driver: find(driver, layout.avail)?,
            device: find(device, layout.used)?,
            size: layout.size,
            memory: Arc::clone(memory),
            format: PhantomData,
        })
    }

    #[inline]
    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    #[inline]
    pub(crate) fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }
}
