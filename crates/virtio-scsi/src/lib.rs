//! The virtio-scsi device: control, event and request queues.
//!
//! [`Workers`] are the process's reactors; a [`Controller`] is one virtio-scsi device, whose queues are spread over
//! them. Transports (vhost-user now, vfio-user later) drive a controller through this interface alone.
#![allow(
    clippy::unimplemented,
    missing_docs,
    unused_variables,
    dead_code,
    reason = "SKELETON: replace"
)]

use std::os::fd::OwnedFd;
use std::sync::Arc;

use lunar_target::{LogicalUnit, NexusId};

/// Process-wide data-path threads.
#[derive(Debug)]
pub struct Workers {}
#[derive(Clone, Debug)]
pub struct WorkersConfig {
    pub count: usize,
    pub spin: std::time::Duration,
    pub cpus: Vec<usize>,
}
impl Workers {
    pub fn start(config: WorkersConfig) -> std::io::Result<Arc<Workers>> {
        unimplemented!()
    }
    /// Drains and joins.
    pub fn stop(&self) {
        unimplemented!()
    }
}

#[derive(Clone, Debug)]
pub struct ControllerConfig {
    pub id: String,
    pub request_queues: u16,
    pub max_sectors: u32,
    pub cmd_per_lun: u32,
    pub seg_max: u32,
    pub hotplug: bool,
    pub param_change: bool,
}

/// One virtio-scsi device. Every method that changes the data path is a barrier: when it returns, it is so.
#[derive(Debug)]
pub struct Controller {}

/// A ring as the driver set it up. Addresses are those of the transport (front-end user addresses for vhost-user).
#[derive(Debug)]
pub struct RingSetup {
    pub size: u16,
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    pub next_avail: u16,
    pub kick: Option<OwnedFd>,
    pub call: Option<OwnedFd>,
    pub err: Option<OwnedFd>,
}

impl Controller {
    pub fn new(workers: &Arc<Workers>, config: ControllerConfig) -> Result<Arc<Controller>, Error> {
        unimplemented!()
    }
    pub fn nexus(&self) -> NexusId {
        unimplemented!()
    }
    /// Device and ring features offered (never transport bits).
    pub fn features(&self) -> u64 {
        unimplemented!()
    }
    pub fn set_features(&self, acked: u64) -> Result<(), Error> {
        unimplemented!()
    }
    /// Control + event + request queues.
    pub fn queue_count(&self) -> usize {
        unimplemented!()
    }
    pub fn read_config(&self, offset: usize, to: &mut [u8]) -> Result<(), Error> {
        unimplemented!()
    }
    pub fn write_config(&self, offset: usize, from: &[u8]) -> Result<(), Error> {
        unimplemented!()
    }
    /// Replaces the memory map. Running rings are quiesced, re-translated (their transport addresses stay) and go on; returns when nothing uses the old map.
    pub fn set_memory(&self, memory: Arc<GuestMemory>) -> Result<(), Error> {
        unimplemented!()
    }
    /// Starts a ring (still disabled unless `enabled`). On every start the ring is looked into once without waiting for a kick.
    pub fn start_queue(&self, index: usize, ring: RingSetup, enabled: bool) -> Result<(), Error> {
        unimplemented!()
    }
    pub fn enable_queue(&self, index: usize, enabled: bool) -> Result<(), Error> {
        unimplemented!()
    }
    pub fn set_kick(&self, index: usize, kick: Option<OwnedFd>) -> Result<(), Error> {
        unimplemented!()
    }
    pub fn set_call(&self, index: usize, call: Option<OwnedFd>) -> Result<(), Error> {
        unimplemented!()
    }
    pub fn set_err(&self, index: usize, err: Option<OwnedFd>) -> Result<(), Error> {
        unimplemented!()
    }
    /// Stops a ring after everything in flight has completed; returns the next avail index.
    pub fn stop_queue(&self, index: usize) -> Result<u16, Error> {
        unimplemented!()
    }
    /// Virtio device reset: outstanding commands are ended, rings stopped, configuration and subscriptions back to their initial state, nexus-loss handling.
    pub fn reset(&self) {
        unimplemented!()
    }
    /// The front end has gone away (socket closed): like reset, with the memory map dropped.
    pub fn disconnect(&self) {
        unimplemented!()
    }
    /// Puts a logical unit at an address. With a running guest: RESCAN event and 3F/0E.
    pub fn attach(&self, target: u8, lun: u16, unit: Arc<dyn LogicalUnit>) -> Result<(), Error> {
        unimplemented!()
    }
    /// Takes it away: commands in flight are finished, REMOVED event, then the address is free.
    pub fn detach(&self, target: u8, lun: u16) -> Result<(), Error> {
        unimplemented!()
    }
}
/// From lunar-virtqueue.
#[derive(Debug)]
pub struct GuestMemory;
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{0}")]
    Invalid(String),
}
