//! Opening an image: drivers, the options that all of them share, and QEMU's cache modes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::host::Expect;
use crate::{
    Error, FaultInjection, Faults, Image, Throttle, ThrottleGroup, file, memory, null, qcow2, raw,
};

/// How an image is opened (drive options and block nodes both end here); see [`open_node`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOptions {
    /// `read-only=on`.
    pub read_only: bool,
    /// `cache.direct=on`: bypass the host's page cache.
    pub direct: bool,
    /// `cache.no-flush=on`: flush and FUA do nothing.
    pub no_flush: bool,
    /// `discard=unmap`; otherwise discards do nothing and nothing is deallocated.
    pub discard_unmap: bool,
    /// `detect-zeroes=`.
    pub detect_zeroes: DetectZeroes,
    /// `force-share=on`: open although somebody else may write (only read-only images).
    pub force_share: bool,
    /// The device's `share-rw=on`: let other processes write too.
    pub share_rw: bool,
    /// `locking=`.
    pub locking: Locking,
}

impl Default for NodeOptions {
    /// QEMU's defaults for a block node.
    fn default() -> NodeOptions {
        NodeOptions {
            read_only: false,
            direct: false,
            no_flush: false,
            discard_unmap: false,
            detect_zeroes: DetectZeroes::Off,
            force_share: false,
            share_rw: false,
            locking: Locking::Auto,
        }
    }
}

/// What becomes of writes that carry nothing but zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectZeroes {
    /// They are written.
    Off,
    /// They become write-zeroes.
    On,
    /// They become write-zeroes that may deallocate (with `discard=unmap`).
    Unmap,
}

/// Whether an image file is locked against other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locking {
    /// It is, or it is not opened.
    On,
    /// It is not.
    Off,
    /// It is where the file system can.
    Auto,
}

/// QEMU's `cache=` modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheMode {
    /// `cache.direct`.
    pub direct: bool,
    /// `cache.no-flush`.
    pub no_flush: bool,
    /// The device's initial `write-cache`.
    pub write_cache: bool,
}

impl CacheMode {
    /// The names that [`CacheMode::parse`] knows, for messages.
    pub const NAMES: [&'static str; 5] =
        ["none", "writethrough", "writeback", "directsync", "unsafe"];

    /// What `cache=name` means; `None` for a name that QEMU does not know either.
    pub fn parse(name: &str) -> Option<CacheMode> {
        let (direct, no_flush, write_cache) = match name {
            "none" | "off" => (true, false, true),
            "writethrough" => (false, false, false),
            "writeback" => (false, false, true),
            "directsync" => (true, false, false),
            "unsafe" => (false, true, true),
            _ => return None,
        };
        Some(CacheMode {
            direct,
            no_flush,
            write_cache,
        })
    }
}

/// A driver and its own options.
#[derive(Clone, Debug)]
pub enum Driver {
    /// A regular file.
    File {
        /// Its path.
        filename: PathBuf,
    },
    /// A host block device.
    HostDevice {
        /// Its path.
        filename: PathBuf,
    },
    /// A part of another image, or all of it.
    Raw {
        /// The image.
        file: Arc<dyn Image>,
        /// Where the part begins, in bytes.
        offset: u64,
        /// How long it is; to the end if absent.
        size: Option<u64>,
    },
    /// A qcow2 file and its backing chain.
    Qcow2 {
        /// Its path.
        file: PathBuf,
    },
    /// `null-co`.
    Null {
        /// Bytes.
        size: u64,
        /// Reads give zeroes instead of leaving the buffer as it is.
        read_zeroes: bool,
        /// Every operation takes so long.
        latency_ns: u64,
    },
    /// `blkdebug`: another image, with faults. [`FaultInjection::new`] does the same, and leaves a handle on the faults.
    Blkdebug {
        /// The image.
        image: Arc<dyn Image>,
        /// What goes wrong.
        faults: Faults,
    },
    /// `throttle`: another image, with the limits of a group.
    Throttle {
        /// The image.
        file: Arc<dyn Image>,
        /// The limits, and who shares them.
        group: Arc<ThrottleGroup>,
    },
    /// A RAM disk.
    Memory {
        /// Bytes.
        size: u64,
    },
}

/// Opens a node. Blocking: for the control thread.
///
/// # Errors
/// [`Error::Open`] with one line for the user.
pub fn open_node(driver: Driver, options: &NodeOptions) -> Result<Arc<dyn Image>, Error> {
    match driver {
        Driver::Null {
            size,
            read_zeroes,
            latency_ns,
        } => {
            let latency = Duration::from_nanos(latency_ns);
            Ok(null::open(size, read_zeroes, latency, options))
        }
        Driver::Blkdebug { image, faults } => Ok(FaultInjection::new(image, faults, options)?),
        Driver::Throttle { file, group } => Ok(Throttle::new(file, group, options)?),
        Driver::Memory { size } => memory::open(size, options),
        Driver::File { filename } => file::open(&filename, Expect::File, options),
        Driver::HostDevice { filename } => file::open(&filename, Expect::Device, options),
        Driver::Raw { file, offset, size } => raw::open(file, offset, size, options),
        Driver::Qcow2 { file } => qcow2::open(&file, options),
    }
}
