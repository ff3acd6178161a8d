//! The driver's side of a ring, whatever its format.

use std::sync::Arc;

use crate::packed::PackedDriver;
use crate::split::SplitDriver;
use crate::{Error, GuestMemory, RingFeatures, RingLayout};

/// A buffer in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Its guest-physical address.
    pub addr: u64,
    /// Its bytes.
    pub len: u32,
}

/// A chain that the device has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// What [`DriverQueue::add`] called the chain.
    pub head: u16,
    /// Bytes that the device says it has written.
    pub written: u32,
}

/// The driver's side of a ring, split or packed, for the initiator and for tests.
#[derive(Debug)]
pub struct DriverQueue(Format);

#[derive(Debug)]
enum Format {
    Split(SplitDriver),
    Packed(PackedDriver),
}

impl DriverQueue {
    /// Sets up a new ring at `layout`, empty, with both sides at its beginning.
    pub fn new(
        memory: &Arc<GuestMemory>,
        layout: RingLayout,
        features: RingFeatures,
    ) -> Result<DriverQueue, Error> {
        Ok(DriverQueue(match features.packed {
            false => Format::Split(SplitDriver::new(memory, layout, features)?),
            true => Format::Packed(PackedDriver::new(memory, &layout, features)?),
        }))
    }

    /// The memory map in use.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        match &self.0 {
            Format::Split(driver) => driver.memory(),
            Format::Packed(driver) => driver.memory(),
        }
    }

    /// Descriptors that are free.
    pub fn free(&self) -> u16 {
        match &self.0 {
            Format::Split(driver) => driver.free(),
            Format::Packed(driver) => driver.free(),
        }
    }

    /// Chains that the device has, staged ones included.
    pub fn outstanding(&self) -> u16 {
        match &self.0 {
            Format::Split(driver) => driver.outstanding(),
            Format::Packed(driver) => driver.outstanding(),
        }
    }

    /// Where a device goes on that knows only what its predecessor has returned, in the encoding of
    /// [`Queue::new`](crate::Queue::new). In a packed ring, returned chains lie where others were made available; what
    /// the predecessor had taken and not returned is found again only if it returned chains in their order.
    pub fn base_at_used(&self) -> u32 {
        match &self.0 {
            Format::Split(driver) => driver.base_at_used(),
            Format::Packed(driver) => driver.base_at_used(),
        }
    }

    /// Stages a chain of direct descriptors for [`DriverQueue::publish`]; gives the name by which it will come back, below
    /// the ring's size.
    pub fn add(&mut self, readable: &[Buffer], writable: &[Buffer]) -> Result<u16, Error> {
        match &mut self.0 {
            Format::Split(driver) => driver.add(readable, writable),
            Format::Packed(driver) => driver.add(readable, writable),
        }
    }

    /// The bytes of an indirect table for a chain of these buffers, in the ring's format.
    pub fn indirect_table(&self, readable: &[Buffer], writable: &[Buffer]) -> Vec<u8> {
        match &self.0 {
            Format::Split(_) => SplitDriver::indirect_table(readable, writable),
            Format::Packed(_) => PackedDriver::indirect_table(readable, writable),
        }
    }

    /// Stages a chain of the direct descriptors `readable`, followed by an indirect table that is there already. The
    /// table continues the chain.
    pub fn add_indirect(&mut self, readable: &[Buffer], table: Buffer) -> Result<u16, Error> {
        match &mut self.0 {
            Format::Split(driver) => driver.add_indirect(readable, table),
            Format::Packed(driver) => driver.add_indirect(readable, table),
        }
    }

    /// Makes the staged chains visible to the device; whether it wants a kick for them.
    #[must_use = "the device may be waiting for a kick"]
    pub fn publish(&mut self) -> bool {
        match &mut self.0 {
            Format::Split(driver) => driver.publish(),
            Format::Packed(driver) => driver.publish(),
        }
    }

    /// Takes back the next chain that the device has returned, if any.
    pub fn reap(&mut self) -> Result<Option<Used>, Error> {
        match &mut self.0 {
            Format::Split(driver) => driver.reap(),
            Format::Packed(driver) => driver.reap(),
        }
    }

    /// Asks the device not to interrupt. A hint: interrupts may still come.
    pub fn disable_interrupts(&self) {
        match &self.0 {
            Format::Split(driver) => driver.disable_interrupts(),
            Format::Packed(driver) => driver.disable_interrupts(),
        }
    }

    /// Asks the device to interrupt when it returns the next chain; to be called before going to sleep. True if it has
    /// returned one already, so that the caller must not sleep.
    #[must_use = "what came in between causes no interrupt"]
    pub fn enable_interrupts(&self) -> bool {
        match &self.0 {
            Format::Split(driver) => driver.enable_interrupts(),
            Format::Packed(driver) => driver.enable_interrupts(),
        }
    }
}
