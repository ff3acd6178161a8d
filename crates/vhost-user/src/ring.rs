//! One ring as the front end describes it, piece by piece, and its life (VU-040).
//!
//! A ring is *stopped* until it has a size, addresses and a kick message; then it starts, and runs until
//! GET_VRING_BASE or a reset. Each ring lives alone: firmware sets up three of them and leaves the rest, and the
//! front end still enables those it never starts.

use std::error::Error;
use std::os::fd::OwnedFd;

use lunar_virtio_scsi::RingSetup;

use crate::device::Device;
use crate::session::{Refusal, with_sources};

/// Entries that a ring may have at most (VIRTIO 1.3 §2.7).
const MAX_SIZE: u32 = 32768;

/// Where the parts of a ring are, in the front end's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) desc: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
}

/// A kick message: with a descriptor, or saying that there is none.
#[derive(Debug)]
struct Kick(Option<OwnedFd>);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    size: Option<u16>,
    addresses: Option<Addresses>,
    /// Where to go on, in the encoding of the ring's format (VU-015); the device knows it.
    base: u32,
    /// Waits here until the ring starts.
    kick: Option<Kick>,
    /// Kept beside the device's own copy: a front end may set it once and restart the ring many times.
    call: Option<OwnedFd>,
    /// Likewise.
    err: Option<OwnedFd>,
    enabled: bool,
    running: bool,
}

/// A ring at its place in a device, for as long as one message is handled.
#[derive(Debug)]
pub(crate) struct RingAt<'a> {
    pub(crate) ring: &'a mut Ring,
    pub(crate) index: usize,
    pub(crate) device: &'a dyn Device,
    /// Bit 30 is not negotiated, so rings are enabled from the start (VU-002).
    pub(crate) always_enabled: bool,
}

impl Ring {
    pub(crate) fn is_running(&self) -> bool {
        self.running
    }

    /// What a device reset leaves: the descriptors by which the ring reports. The front end does not send those again.
    pub(crate) fn reset(&mut self) {
        *self = Ring {
            call: self.call.take(),
            err: self.err.take(),
            ..Ring::default()
        };
    }
}

impl RingAt<'_> {
    pub(crate) fn set_size(mut self, size: u32) -> Result<(), Refusal> {
        let size = u16::try_from(size)
            .ok()
            .filter(|&size| size > 0 && u32::from(size) <= MAX_SIZE)
            .ok_or_else(|| Refusal::request(format!("ring {} of size {size}", self.index)))?;
        if self.ring.size != Some(size) {
            self.must_be_stopped()?;
        }
        self.ring.size = Some(size);
        self.start_if_complete()
    }

    pub(crate) fn set_addresses(mut self, addresses: Addresses) -> Result<(), Refusal> {
        if self.ring.addresses != Some(addresses) {
            self.must_be_stopped()?;
        }
        self.ring.addresses = Some(addresses);
        self.start_if_complete()
    }

    pub(crate) fn set_base(self, base: u32) -> Result<(), Refusal> {
        self.must_be_stopped()?;
        self.ring.base = base;
        Ok(())
    }

    pub(crate) fn set_kick(mut self, kick: Option<OwnedFd>) -> Result<(), Refusal> {
        if self.ring.running {
            return self
                .device
                .set_kick(self.index, kick)
                .map_err(self.broken());
        }
        self.ring.kick = Some(Kick(kick));
        self.start_if_complete()
    }

    pub(crate) fn set_call(self, call: Option<OwnedFd>) -> Result<(), Refusal> {
        if self.ring.running {
            let copy = duplicate(call.as_ref())?;
            self.device
                .set_call(self.index, copy)
                .map_err(self.broken())?;
        }
        self.ring.call = call;
        Ok(())
    }

    pub(crate) fn set_err(self, err: Option<OwnedFd>) -> Result<(), Refusal> {
        if self.ring.running {
            let copy = duplicate(err.as_ref())?;
            self.device
                .set_err(self.index, copy)
                .map_err(self.broken())?;
        }
        self.ring.err = err;
        Ok(())
    }

    pub(crate) fn enable(self, enabled: bool) -> Result<(), Refusal> {
        self.ring.enabled = enabled;
        if self.ring.running {
            self.device
                .enable_queue(self.index, enabled)
                .map_err(self.broken())?;
        }
        Ok(())
    }

    /// Stops the ring if it runs, when everything in flight has completed; returns where to go on.
    pub(crate) fn stop(self) -> Result<u32, Refusal> {
        self.ring.kick = None;
        if self.ring.running {
            self.ring.running = false;
            self.ring.base = self.device.stop_queue(self.index).map_err(self.broken())?;
        }
        Ok(self.ring.base)
    }

    fn must_be_stopped(&self) -> Result<(), Refusal> {
        if self.ring.running {
            return Err(Refusal::request(format!(
                "ring {} set up anew while it runs",
                self.index
            )));
        }
        Ok(())
    }

    fn start_if_complete(&mut self) -> Result<(), Refusal> {
        let (Some(size), Some(addresses), false) =
            (self.ring.size, self.ring.addresses, self.ring.running)
        else {
            return Ok(());
        };
        let Some(Kick(kick)) = self.ring.kick.take() else {
            return Ok(());
        };
        let setup = RingSetup {
            size,
            desc: addresses.desc,
            avail: addresses.avail,
            used: addresses.used,
            base: self.ring.base,
            kick,
            call: duplicate(self.ring.call.as_ref())?,
            err: duplicate(self.ring.err.as_ref())?,
        };
        let enabled = self.ring.enabled || self.always_enabled;
        if let Err(e) = self.device.start_queue(self.index, setup, enabled) {
            self.signal_error();
            return Err(self.broken()(e));
        }
        self.ring.running = true;
        Ok(())
    }

    /// Tells the front end that the guest's ring cannot be used (VU-043).
    fn signal_error(&self) {
        if let Some(err) = &self.ring.err {
            // A full counter has been signalled already, and any other failure is the front end's own descriptor.
            let _ = rustix::io::write(err, &1u64.to_ne_bytes());
        }
    }

    fn broken(&self) -> impl FnOnce(Box<dyn Error + Send + Sync>) -> Refusal + use<> {
        let index = self.index;
        move |reason| Refusal::Ring(format!("ring {index}: {}", with_sources(&*reason)))
    }
}

fn duplicate(descriptor: Option<&OwnedFd>) -> Result<Option<OwnedFd>, Refusal> {
    descriptor
        .map(OwnedFd::try_clone)
        .transpose()
        .map_err(|e| Refusal::request(format!("no descriptor left for a ring: {e}")))
}
