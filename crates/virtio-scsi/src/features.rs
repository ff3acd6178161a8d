//! Feature bits: what is offered, and what is accepted.

use crate::{ControllerConfig, Error};

bitflags::bitflags! {
    /// The feature bits this device has an opinion on (VS-010..VS-014). Transport bits (vhost-user's bits 26 and 30)
    /// never come here.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Features: u64 {
        /// A request may carry data both ways.
        const INOUT = 1 << 0;
        /// Arrival and removal of logical units are reported.
        const HOTPLUG = 1 << 1;
        /// Changed parameters of logical units (capacity) are reported.
        const CHANGE = 1 << 2;
        /// Requests carry protection information.
        const T10_PI = 1 << 3;
        /// The device notifies when the available ring runs empty (legacy).
        const NOTIFY_ON_EMPTY = 1 << 24;
        /// The driver may frame messages as it likes (legacy; implied by VERSION_1).
        const ANY_LAYOUT = 1 << 27;
        /// Descriptor tables in memory of their own.
        const RING_INDIRECT_DESC = 1 << 28;
        /// `used_event` and `avail_event`.
        const RING_EVENT_IDX = 1 << 29;
        /// Not legacy.
        const VERSION_1 = 1 << 32;
        /// Rings of the packed format.
        const RING_PACKED = 1 << 34;
    }
}

impl Features {
    /// Bits that some front ends set although nobody offered them, and that ask nothing of this device: framing is
    /// free anyway, and a notification more than needed is allowed.
    const HARMLESS: Features = Features::CHANGE
        .union(Features::VERSION_1)
        .union(Features::ANY_LAYOUT)
        .union(Features::NOTIFY_ON_EMPTY);

    /// What a device offers.
    pub(crate) fn offered(config: &ControllerConfig) -> Features {
        let mut offered =
            Features::VERSION_1 | Features::RING_INDIRECT_DESC | Features::RING_EVENT_IDX;
        offered.set(Features::HOTPLUG, config.hotplug);
        offered.set(Features::CHANGE, config.param_change);
        offered.set(Features::RING_PACKED, config.packed);
        offered
    }

    /// What is in effect when the driver wants this set (VS-015): harmless bits that were not offered are not. A set
    /// accepted once is accepted again.
    pub(crate) fn negotiate(offered: Features, acked: u64) -> Result<Features, Error> {
        let refused = acked & !(offered | Features::HARMLESS).bits();
        if refused != 0 {
            return Err(Error::Features(refused));
        }
        Ok(Features::from_bits_truncate(acked) & offered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_done_is_neither_offered_nor_accepted() {
        let unpacked = ControllerConfig {
            packed: false,
            ..ControllerConfig::default()
        };
        let offered = Features::offered(&unpacked);
        for bit in [0u32, 3, 33, 34, 35, 40] {
            assert_eq!(offered.bits() & 1 << bit, 0, "bit {bit}");
            let error = Features::negotiate(offered, offered.bits() | 1 << bit).unwrap_err();
            assert!(matches!(error, Error::Features(bits) if bits == 1 << bit));
        }
    }

    #[test]
    fn bits_that_front_ends_set_on_their_own_are_accepted_and_have_no_effect() {
        let silent = ControllerConfig {
            param_change: false,
            ..ControllerConfig::default()
        };
        let offered = Features::offered(&silent);
        assert!(!offered.contains(Features::CHANGE));
        let acked = Features::CHANGE
            | Features::VERSION_1
            | Features::ANY_LAYOUT
            | Features::NOTIFY_ON_EMPTY;
        assert_eq!(
            Features::negotiate(offered, acked.bits()).unwrap(),
            Features::VERSION_1
        );
    }
}
