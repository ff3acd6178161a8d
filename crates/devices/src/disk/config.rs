//! What can be configured about a disk, in QEMU's words and with QEMU's meanings.

use std::path::PathBuf;

use super::identity::Identity;
use crate::{ConfigError, OnOffAuto};

/// The properties of `scsi-hd`. [`DiskConfig::default`] has the documented defaults; [`Disk::new`](super::Disk::new)
/// checks the values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// What makes this disk recognisable when it has no `serial`: the id of its drive or node, or else its address.
    /// Identification pages are derived from it, so it must be the same at every start.
    pub identity: String,
    /// Bytes in a logical block: 512 (default), 1024, 2048 or 4096.
    pub logical_block_size: u32,
    /// Bytes in a physical block, a power of two from the logical block's size (or 512, default) to 2 MiB.
    pub physical_block_size: Option<u32>,
    /// Bytes, a multiple of the logical block size: VPD B0's optimal transfer length granularity; 0 (default) says
    /// nothing.
    pub min_io_size: u32,
    /// Bytes, a multiple of the logical block size: VPD B0's optimal transfer length; 0 (default) says nothing.
    pub opt_io_size: u32,
    /// Bytes, a multiple of the logical block size: VPD B0's optimal unmap granularity. 0 switches unmapping off; `None`
    /// (default; -1 in QEMU) takes the image's own granularity, 4 KiB at least.
    pub discard_granularity: Option<u32>,
    /// The unit serial number (VPD 80), up to 36 printable ASCII characters; default: derived from `identity`.
    pub serial: Option<String>,
    /// The NAA identifier (VPD 83); default: a locally assigned one, derived from `serial` or else `identity`.
    pub wwn: Option<u64>,
    /// T10 vendor identification, up to 8 printable ASCII characters; default `LUNAR`.
    pub vendor: Option<String>,
    /// Product identification, up to 16 printable ASCII characters; default `LUNAR HARDDISK`.
    pub product: Option<String>,
    /// Product revision level, up to 4 printable ASCII characters; default: Lunar's version.
    pub ver: Option<String>,
    /// The vendor specific designator of VPD 83, up to 128 printable ASCII characters; default: `serial`, or else
    /// `identity` where it fits.
    pub device_id: Option<String>,
    /// Rotations per minute (VPD B1): 0 (default) not reported, 1 not rotating (an SSD), 1025 to 65534.
    pub rotation_rate: u16,
    /// The medium can be removed and changed: START STOP UNIT ejects and loads it. Mode pages cannot be saved then.
    /// Default off.
    pub removable: bool,
    /// DPO and FUA are supported. Default on.
    pub dpofua: bool,
    /// WRITE ATOMIC is offered (default off; always offered by an image that a power failure loses as a whole). It is
    /// atomic against other commands; initiators take it as a promise that a write is not torn by the host's power
    /// failure either, and only who knows the storage below can give that.
    pub atomic_writes: bool,
    /// Bytes that one UNMAP command may cover; default 512 MiB: with the smallest blocks as many as common practice allows (2^20).
    pub max_unmap_size: u64,
    /// Bytes that one READ, WRITE, VERIFY or WRITE SAME command may cover; default 2 GiB - 1, rounded down to blocks.
    pub max_io_size: u64,
    /// Whether the write cache is on at first (WCE of the caching page). `auto` (default) is on; whoever knows the
    /// drive's `cache=` mode passes what follows from it.
    pub write_cache: OnOffAuto,
    /// The image's file, if it has one: what must outlive a restart (saved mode pages, an unfinished SANITIZE) is kept in
    /// files beside it. Without it (default) nothing can be saved.
    pub beside: Option<PathBuf>,
    /// The VERSION of INQUIRY: 3 (SPC) to 7 (SPC-5); default 5 (SPC-3).
    pub scsi_version: u8,
}

impl Default for DiskConfig {
    fn default() -> DiskConfig {
        DiskConfig {
            identity: String::new(),
            logical_block_size: 512,
            physical_block_size: None,
            min_io_size: 0,
            opt_io_size: 0,
            discard_granularity: None,
            serial: None,
            wwn: None,
            vendor: None,
            product: None,
            ver: None,
            device_id: None,
            rotation_rate: 0,
            removable: false,
            dpofua: true,
            atomic_writes: false,
            max_unmap_size: 1 << 29,
            max_io_size: (1 << 31) - 1,
            write_cache: OnOffAuto::Auto,
            beside: None,
            scsi_version: 5,
        }
    }
}

/// The numbers of a disk, checked: lengths in logical blocks unless they say otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes in a logical block, as a power of two.
    pub(super) block_shift: u32,
    /// Logical blocks in a physical one, as a power of two (LBPPBE).
    pub(super) physical_exponent: u8,
    /// OPTIMAL TRANSFER LENGTH GRANULARITY.
    pub(super) min_io: u16,
    /// OPTIMAL TRANSFER LENGTH.
    pub(super) opt_io: u32,
    /// MAXIMUM TRANSFER LENGTH, and that of WRITE SAME.
    pub(super) max_io: u32,
    /// MAXIMUM COMPARE AND WRITE LENGTH.
    pub(super) max_compare_and_write: u8,
    /// MAXIMUM ATOMIC TRANSFER LENGTH; 0 if there is no WRITE ATOMIC.
    pub(super) max_atomic: u32,
    /// Whether UNMAP and WRITE SAME with UNMAP exist.
    pub(super) unmap: bool,
    /// Unmapped blocks read as zeroes.
    pub(super) unmapped_reads_zero: bool,
    /// OPTIMAL UNMAP GRANULARITY.
    pub(super) unmap_granularity: u32,
    /// MAXIMUM UNMAP LBA COUNT.
    pub(super) max_unmap: u32,
}

/// The largest block size and granularity that QEMU's properties take.
const MAX_BLOCK: u32 = 2 << 20;

impl DiskConfig {
    /// Checks what does not depend on the image.
    ///
    /// # Errors
    /// The first property that is not possible on any image.
    pub fn check(&self) -> Result<(), ConfigError> {
        let any = lunar_block::Info {
            size: 1 << 40,
            read_only: false,
            request_align: 1,
            discard_granularity: 0,
            can_discard: true,
            discard_zeroes: true,
            flushes: true,
            volatile: true,
            name: String::new(),
        };
        Limits::check(self, Some(&any))?;
        Identity::check(self)?;
        Ok(())
    }
}

/// The bytes that every backend writes in one piece.
const MAX_ATOMIC: u32 = 1 << 20;

impl Limits {
    /// Without a medium there is only what is configured.
    pub(super) fn check(
        config: &DiskConfig,
        image: Option<&lunar_block::Info>,
    ) -> Result<Limits, ConfigError> {
        let logical = config.logical_block_size;
        if ![512, 1024, 2048, 4096].contains(&logical) {
            return Err(ConfigError::new(
                "logical_block_size",
                logical,
                "is not a block size that guests can use",
                "use 512 or 4096",
            ));
        }
        let physical = config.physical_block_size.unwrap_or(logical);
        if !physical.is_power_of_two() || !(512..=MAX_BLOCK).contains(&physical) {
            return Err(ConfigError::new(
                "physical_block_size",
                physical,
                "is not a power of two from 512 to 2097152",
                "use 512 or 4096",
            ));
        }
        if physical < logical {
            return Err(ConfigError::new(
                "physical_block_size",
                physical,
                &format!("is smaller than logical_block_size={logical}"),
                "make it at least as large, or leave it out",
            ));
        }
        let blocks_of = |property, bytes: u32| {
            if bytes.is_multiple_of(logical) {
                return Ok(bytes / logical);
            }
            Err(ConfigError::new(
                property,
                bytes,
                &format!("is not a multiple of logical_block_size={logical}"),
                "round it to a multiple",
            ))
        };
        let min_io = blocks_of("min_io_size", config.min_io_size)?;
        let min_io = u16::try_from(min_io).map_err(|_| {
            ConfigError::new(
                "min_io_size",
                config.min_io_size,
                "is more than 65535 logical blocks",
                "choose a smaller size",
            )
        })?;
        let opt_io = blocks_of("opt_io_size", config.opt_io_size)?;

        let granularity = config.discard_granularity.unwrap_or_else(|| {
            let own = image.map_or(0, |image| image.discard_granularity);
            own.max(4096).next_multiple_of(logical)
        });
        let unmap_granularity = blocks_of("discard_granularity", granularity)?;

        let block_shift = logical.trailing_zeros();
        let count = |property, bytes: u64| match bytes >> block_shift {
            0 => Err(ConfigError::new(
                property,
                bytes,
                &format!("is less than logical_block_size={logical}"),
                "choose a larger size",
            )),
            blocks => Ok(u32::try_from(blocks).unwrap_or(u32::MAX)),
        };
        let max_io = count("max_io_size", config.max_io_size)?;
        let max_unmap = count("max_unmap_size", config.max_unmap_size)?;

        if !matches!(config.rotation_rate, 0 | 1 | 0x0401..=0xFFFE) {
            return Err(ConfigError::new(
                "rotation_rate",
                config.rotation_rate,
                "is reserved",
                "use 1 for an SSD, 0 for no statement, or 1025 to 65534 rotations per minute",
            ));
        }
        if !(3..=7).contains(&config.scsi_version) {
            return Err(ConfigError::new(
                "scsi_version",
                config.scsi_version,
                "names no supported version of SPC",
                "use 3 (SPC) to 7 (SPC-5)",
            ));
        }
        if let Some(image) = image.filter(|image| image.size >> block_shift == 0) {
            return Err(ConfigError::new(
                "drive",
                &image.name,
                &format!(
                    "has {} bytes, less than logical_block_size={logical}",
                    image.size
                ),
                "use a larger image",
            ));
        }
        let unmap = image.is_some_and(|image| image.can_discard) && unmap_granularity != 0;
        Ok(Limits {
            block_shift,
            physical_exponent: u8::try_from(physical.trailing_zeros() - block_shift).unwrap_or(0),
            min_io,
            opt_io,
            max_io,
            max_compare_and_write: u8::try_from(max_io).unwrap_or(u8::MAX),
            max_atomic: if config.atomic_writes || image.is_some_and(|image| image.volatile) {
                max_io.min(MAX_ATOMIC >> block_shift)
            } else {
                0
            },
            unmap,
            unmapped_reads_zero: unmap && image.is_some_and(|image| image.discard_zeroes),
            unmap_granularity,
            max_unmap,
        })
    }

    /// Bytes in a logical block.
    pub(super) fn block_size(&self) -> u32 {
        1 << self.block_shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(size: u64) -> lunar_block::Info {
        lunar_block::Info {
            size,
            read_only: false,
            request_align: 1,
            discard_granularity: 65536,
            can_discard: true,
            discard_zeroes: true,
            flushes: true,
            volatile: false,
            name: "disk.img".into(),
        }
    }

    #[test]
    fn the_defaults_are_those_of_qemu_but_for_the_longest_unmap() {
        let limits = Limits::check(&DiskConfig::default(), Some(&image(1 << 30))).unwrap();
        assert_eq!(limits.block_size(), 512);
        assert_eq!(limits.physical_exponent, 0);
        assert_eq!((limits.min_io, limits.opt_io), (0, 0));
        assert_eq!(limits.max_io, (1 << 22) - 1);
        assert_eq!(limits.max_unmap, 1 << 20, "conformance suites refuse more");
        assert_eq!(limits.unmap_granularity, 128, "the image's own");
        assert!(limits.unmap && limits.unmapped_reads_zero);
    }

    #[test]
    fn unmapping_needs_the_image_and_the_property() {
        let check = |granularity, can_discard| {
            let config = DiskConfig {
                discard_granularity: granularity,
                ..DiskConfig::default()
            };
            let image = lunar_block::Info {
                can_discard,
                ..image(1 << 30)
            };
            Limits::check(&config, Some(&image)).unwrap().unmap
        };
        assert!(check(None, true));
        assert!(!check(Some(0), true));
        assert!(!check(Some(512), false));
    }

    #[test]
    fn a_property_that_cannot_be_is_named_with_its_value_and_a_remedy() {
        let default = DiskConfig::default;
        for (config, message) in [
            (
                DiskConfig {
                    logical_block_size: 520,
                    ..default()
                },
                "logical_block_size=520 is not a block size that guests can use; use 512 or 4096",
            ),
            (
                DiskConfig {
                    physical_block_size: Some(1000),
                    ..default()
                },
                "physical_block_size=1000 is not a power of two from 512 to 2097152; use 512 or 4096",
            ),
            (
                DiskConfig {
                    logical_block_size: 4096,
                    physical_block_size: Some(512),
                    ..default()
                },
                "physical_block_size=512 is smaller than logical_block_size=4096; make it at least as large, or leave it out",
            ),
            (
                DiskConfig {
                    min_io_size: 700,
                    ..default()
                },
                "min_io_size=700 is not a multiple of logical_block_size=512; round it to a multiple",
            ),
            (
                DiskConfig {
                    min_io_size: 65536 * 512,
                    ..default()
                },
                "min_io_size=33554432 is more than 65535 logical blocks; choose a smaller size",
            ),
            (
                DiskConfig {
                    discard_granularity: Some(100),
                    ..default()
                },
                "discard_granularity=100 is not a multiple of logical_block_size=512; round it to a multiple",
            ),
            (
                DiskConfig {
                    max_io_size: 511,
                    ..default()
                },
                "max_io_size=511 is less than logical_block_size=512; choose a larger size",
            ),
            (
                DiskConfig {
                    rotation_rate: 2,
                    ..default()
                },
                "rotation_rate=2 is reserved; use 1 for an SSD, 0 for no statement, or 1025 to 65534 rotations per minute",
            ),
            (
                DiskConfig {
                    scsi_version: 9,
                    ..default()
                },
                "scsi_version=9 names no supported version of SPC; use 3 (SPC) to 7 (SPC-5)",
            ),
        ] {
            let error = Limits::check(&config, Some(&image(1 << 30))).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let error = Limits::check(&default(), Some(&image(511))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "drive=disk.img has 511 bytes, less than logical_block_size=512; use a larger image"
        );
    }
}
