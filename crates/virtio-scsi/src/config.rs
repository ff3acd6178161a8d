//! The configuration space (VS-002..VS-007).

use crate::{Coalescing, Error, WorkerId};

/// Bytes in the configuration space.
pub(crate) const CONFIG_SIZE: usize = 36;
/// The two fields the driver may write, `sense_size` and `cdb_size`.
const WRITABLE: std::ops::Range<usize> = 20..28;
/// Both are limited as QEMU limits them (VS-006).
const SENSE_SIZE_LIMIT: u32 = 65536;
const CDB_SIZE_LIMIT: u32 = 256;

/// Bytes in an event, and so in `event_info_size`.
const EVENT_INFO_SIZE: u32 = 16;
const MAX_CHANNEL: u16 = 0;
const MAX_TARGET: u16 = 255;
const MAX_LUN: u32 = 16383;

/// How a controller presents itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerConfig {
    /// Its name, for logs.
    pub id: String,
    /// The name of its initiator port, by which reservations know the guest; the same at every start. `None` takes `id`.
    pub initiator: Option<String>,
    /// The worker of all its queues. `None` spreads them over those that serve all controllers.
    pub worker: Option<WorkerId>,
    /// Request queues (the control and event queues come on top).
    pub request_queues: u16,
    /// Largest transfer in units of 512 bytes, a hint to the driver.
    pub max_sectors: u32,
    /// Commands the driver may have outstanding on one logical unit.
    pub cmd_per_lun: u32,
    /// Segments the driver may use per direction. Longer requests are served all the same.
    pub seg_max: u32,
    /// Offer to report arrival and removal of logical units.
    pub hotplug: bool,
    /// Offer to report changed parameters of logical units.
    pub param_change: bool,
    /// Offer rings of the packed format.
    pub packed: bool,
    /// How far interrupts of the request queues are held back, to begin with.
    pub coalescing: Coalescing,
    /// Register the guest's memory with the kernel, as fixed buffers of operations that go past the page cache. All of it is
    /// held in place then: not for guests from which memory is taken away (balloon, memory hot-unplug).
    pub fixed_buffers: bool,
}

impl Default for ControllerConfig {
    /// One request queue, and the numbers drivers know from QEMU.
    fn default() -> Self {
        ControllerConfig {
            id: "scsi0".into(),
            initiator: None,
            worker: None,
            request_queues: 1,
            max_sectors: 0xFFFF,
            cmd_per_lun: 128,
            seg_max: 126,
            hotplug: true,
            param_change: true,
            packed: true,
            coalescing: Coalescing::default(),
            fixed_buffers: false,
        }
    }
}

/// What the driver has chosen: the size of two fields of every request. Both are at their defaults after reset (VS-003).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub sense: u16,
    pub cdb: u8,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes { sense: 96, cdb: 32 }
    }
}

/// The whole space as the driver sees it.
fn layout(config: &ControllerConfig, sizes: Sizes) -> [u8; CONFIG_SIZE] {
    let words = [
        u32::from(config.request_queues),
        config.seg_max,
        config.max_sectors,
        config.cmd_per_lun,
        EVENT_INFO_SIZE,
        u32::from(sizes.sense),
        u32::from(sizes.cdb),
    ];
    let mut bytes = [0; CONFIG_SIZE];
    let halves = [MAX_CHANNEL.to_le_bytes(), MAX_TARGET.to_le_bytes()];
    let all = words
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .chain(halves.into_iter().flatten())
        .chain(MAX_LUN.to_le_bytes());
    for (to, from) in bytes.iter_mut().zip(all) {
        *to = from;
    }
    bytes
}

/// Reads `to.len()` bytes at `offset`.
pub(crate) fn read(
    config: &ControllerConfig,
    sizes: Sizes,
    offset: usize,
    to: &mut [u8],
) -> Result<(), Error> {
    let bytes = layout(config, sizes);
    let part = offset
        .checked_add(to.len())
        .and_then(|end| bytes.get(offset..end))
        .ok_or(Error::ConfigRange {
            offset,
            len: to.len(),
        })?;
    to.copy_from_slice(part);
    Ok(())
}

/// Writes at `offset`; returns the sizes that hold from now on. Bytes outside the two writable fields are dropped
/// (VS-003), in whatever portions the driver writes.
pub(crate) fn write(
    config: &ControllerConfig,
    sizes: Sizes,
    offset: usize,
    from: &[u8],
) -> Result<Sizes, Error> {
    let mut bytes = layout(config, sizes);
    if offset
        .checked_add(from.len())
        .is_none_or(|end| end > CONFIG_SIZE)
    {
        return Err(Error::ConfigRange {
            offset,
            len: from.len(),
        });
    }
    for (at, (to, from)) in bytes.iter_mut().skip(offset).zip(from).enumerate() {
        if WRITABLE.contains(&(offset + at)) {
            *to = *from;
        }
    }
    let word = |at: usize| {
        bytes
            .iter()
            .skip(at)
            .take(4)
            .rev()
            .fold(0u32, |word, &byte| word << 8 | u32::from(byte))
    };
    let (sense, cdb) = (word(20), word(24));
    match (u16::try_from(sense), u8::try_from(cdb)) {
        (Ok(sense), Ok(cdb)) => Ok(Sizes { sense, cdb }),
        (Err(_), _) => Err(Error::ConfigValue {
            field: "sense_size",
            value: sense,
            limit: SENSE_SIZE_LIMIT,
        }),
        (_, Err(_)) => Err(Error::ConfigValue {
            field: "cdb_size",
            value: cdb,
            limit: CDB_SIZE_LIMIT,
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn every_field_is_where_the_specification_puts_it() {
        let config = ControllerConfig {
            request_queues: 4,
            ..ControllerConfig::default()
        };
        let mut bytes = [0; CONFIG_SIZE];
        read(&config, Sizes::default(), 0, &mut bytes).unwrap();
        let words: Vec<u32> = (0..7).map(|i| word(&bytes, 4 * i)).collect();
        assert_eq!(words, [4, 126, 0xFFFF, 128, 16, 96, 32]);
        assert_eq!(bytes[28..32], [0, 0, 255, 0]);
        assert_eq!(word(&bytes, 32), 16383);
    }

    #[test]
    fn only_sense_size_and_cdb_size_can_be_written_and_only_below_their_limits() {
        let config = ControllerConfig::default();
        let mut image = [0xFFu8; CONFIG_SIZE];
        image[20..24].copy_from_slice(&252u32.to_le_bytes());
        image[24..28].copy_from_slice(&0u32.to_le_bytes());
        let sizes = write(&config, Sizes::default(), 0, &image).unwrap();
        assert_eq!(sizes, Sizes { sense: 252, cdb: 0 });
        let refuse = |offset, value: u32| {
            let result = write(&config, Sizes::default(), offset, &value.to_le_bytes());
            assert!(matches!(result, Err(Error::ConfigValue { value: v, .. }) if v == value));
        };
        refuse(20, 65536);
        refuse(24, 256);
        assert_eq!(
            write(&config, Sizes::default(), 20, &65535u32.to_le_bytes()).unwrap(),
            Sizes {
                sense: 65535,
                cdb: 32
            }
        );
    }

    proptest! {
        #[test]
        fn no_access_reaches_outside_the_space(offset in prop_oneof![0usize..64, any::<usize>()], len in 0usize..64) {
            let config = ControllerConfig::default();
            let inside = offset.checked_add(len).is_some_and(|end| end <= CONFIG_SIZE);
            prop_assert_eq!(read(&config, Sizes::default(), offset, &mut vec![0; len]).is_ok(), inside);
            let written = write(&config, Sizes::default(), offset, &vec![0; len]);
            prop_assert_eq!(written.is_ok(), inside);
        }
    }
}
