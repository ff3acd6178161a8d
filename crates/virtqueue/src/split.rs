//! The split ring (VIRTIO 1.3 §2.7): its layout in shared memory, and the two sides that work on it.

mod device;
mod driver;
mod ring;

pub(crate) use device::SplitDevice;
pub(crate) use driver::SplitDriver;
pub use ring::Descriptor;
