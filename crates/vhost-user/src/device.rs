//! What the transport asks of a device.

use std::error::Error;
use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use lunar_virtio_scsi::{Controller, RingSetup};
use lunar_virtqueue::GuestMemory;

/// The outcome of a request to a device. The message is for the log: the protocol has no words for reasons.
pub type DeviceResult<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// A virtio device as the transport drives it: a [`Controller`], or a test's stand-in for one.
///
/// Every method that changes the data path is a barrier: when it returns, it is so. Queue indexes are below
/// [`queue_count`](Device::queue_count); `enable_queue`, `set_kick` and `stop_queue` come only for a started queue.
pub trait Device: Send + Sync + Debug {
    /// Device and ring features offered, transport bits excluded.
    fn features(&self) -> u64;
    /// The driver's choice, transport bits excluded. Bits that were not offered are refused unless they do no harm.
    fn set_features(&self, acked: u64) -> DeviceResult;
    /// Queues of all kinds.
    fn queue_count(&self) -> usize;
    /// Reads configuration space; an error when the range is not in it.
    fn read_config(&self, offset: usize, to: &mut [u8]) -> DeviceResult;
    /// Writes configuration space.
    fn write_config(&self, offset: usize, from: &[u8]) -> DeviceResult;
    /// Replaces the memory map, with rings running or not; returns when nothing uses the old map.
    fn set_memory(&self, memory: Arc<GuestMemory>) -> DeviceResult;
    /// Starts a queue, which then looks into its ring once without waiting for a kick.
    fn start_queue(&self, index: usize, ring: RingSetup, enabled: bool) -> DeviceResult;
    /// Lets a started queue process requests, or keeps it from it.
    fn enable_queue(&self, index: usize, enabled: bool) -> DeviceResult;
    /// Replaces a started queue's kick descriptor.
    fn set_kick(&self, index: usize, kick: Option<OwnedFd>) -> DeviceResult;
    /// Replaces a started queue's call descriptor.
    fn set_call(&self, index: usize, call: Option<OwnedFd>) -> DeviceResult;
    /// Replaces a started queue's error descriptor.
    fn set_err(&self, index: usize, err: Option<OwnedFd>) -> DeviceResult;
    /// Stops a queue after everything in flight has completed; returns the next avail index.
    fn stop_queue(&self, index: usize) -> DeviceResult<u32>;
    /// Virtio device reset: all queues stopped, all state initial. The memory map stays.
    fn reset(&self);
    /// The front end has gone: as reset, and the memory map is dropped.
    fn disconnect(&self);
}

impl Device for Controller {
    fn features(&self) -> u64 {
        self.features()
    }
    fn set_features(&self, acked: u64) -> DeviceResult {
        Ok(self.set_features(acked)?)
    }
    fn queue_count(&self) -> usize {
        self.queue_count()
    }
    fn read_config(&self, offset: usize, to: &mut [u8]) -> DeviceResult {
        Ok(self.read_config(offset, to)?)
    }
    fn write_config(&self, offset: usize, from: &[u8]) -> DeviceResult {
        Ok(self.write_config(offset, from)?)
    }
    fn set_memory(&self, memory: Arc<GuestMemory>) -> DeviceResult {
        Ok(self.set_memory(memory)?)
    }
    fn start_queue(&self, index: usize, ring: RingSetup, enabled: bool) -> DeviceResult {
        Ok(self.start_queue(index, ring, enabled)?)
    }
    fn enable_queue(&self, index: usize, enabled: bool) -> DeviceResult {
        Ok(self.enable_queue(index, enabled)?)
    }
    fn set_kick(&self, index: usize, kick: Option<OwnedFd>) -> DeviceResult {
        Ok(self.set_kick(index, kick)?)
    }
    fn set_call(&self, index: usize, call: Option<OwnedFd>) -> DeviceResult {
        Ok(self.set_call(index, call)?)
    }
    fn set_err(&self, index: usize, err: Option<OwnedFd>) -> DeviceResult {
        Ok(self.set_err(index, err)?)
    }
    fn stop_queue(&self, index: usize) -> DeviceResult<u32> {
        Ok(self.stop_queue(index)?)
    }
    fn reset(&self) {
        self.reset();
    }
    fn disconnect(&self) {
        self.disconnect();
    }
}
