//! The packed ring (VIRTIO 1.3 §2.8, VS-074): one ring of descriptors, in which the driver makes chains available and the
//! device returns them. Whose a descriptor is, its own flags say, compared with a wrap counter that each side keeps for
//! each direction and turns over whenever it passes the ring's end.
//!
//! Chains are returned in any order, but always at the next place in the ring: one descriptor for each, which names the
//! chain by its buffer ID; the places that the chain had taken beyond that one are skipped.

mod device;
mod driver;
mod events;
mod position;
mod ring;

pub(crate) use device::PackedDevice;
pub(crate) use driver::PackedDriver;
pub use position::PACKED_BASE;
pub use ring::PackedDescriptor;
