//! What the disk says about itself in INQUIRY: its standard data and its vital product data pages.

use lunar_scsi::inquiry::{Peripheral, StandardInquiry, version};
use lunar_scsi::vpd::{
    BlockDeviceCharacteristics, BlockLimits, Designator, ExtendedInquiry, Identifier,
    LogicalBlockProvisioning, ProvisioningType, code, device_identification,
    management_network_addresses, mode_page_policy, power_condition, third_party_copy,
    unit_serial_number,
};
use lunar_scsi::{DeviceType, Features};

use super::{Unit, copy, thresholds, unmap};

const PERIPHERAL: Peripheral = Peripheral::connected(DeviceType::Disk);

/// VERSION of INQUIRY for SPC-4.
const SPC_4: u8 = 6;

/// The pages besides 00h.
pub(super) const PAGES: &[u8] = &[
    code::UNIT_SERIAL_NUMBER,
    code::DEVICE_IDENTIFICATION,
    code::MANAGEMENT_NETWORK_ADDRESSES,
    code::EXTENDED_INQUIRY,
    code::MODE_PAGE_POLICY,
    code::POWER_CONDITION,
    code::THIRD_PARTY_COPY,
    code::BLOCK_LIMITS,
    code::BLOCK_DEVICE_CHARACTERISTICS,
    code::LOGICAL_BLOCK_PROVISIONING,
];

impl Unit {
    pub(super) fn standard_inquiry(&self, data: &mut Vec<u8>) {
        let inquiry = StandardInquiry {
            peripheral: PERIPHERAL,
            removable: self.config.removable,
            third_party_copy: true,
            version: self.config.scsi_version,
            vendor: &self.identity.vendor,
            product: &self.identity.product,
            revision: &self.identity.revision,
            // What VERSION says, and nothing that contradicts it.
            standards: if self.config.scsi_version >= SPC_4 {
                &[version::SAM_5, version::SPC_4, version::SBC_3]
            } else {
                &[version::SBC_3]
            },
        };
        data.extend(inquiry.to_bytes());
    }

    pub(super) fn vpd_page(&self, page: u8, data: &mut Vec<u8>) {
        match page {
            code::UNIT_SERIAL_NUMBER => unit_serial_number(data, PERIPHERAL, &self.identity.serial),
            code::DEVICE_IDENTIFICATION => self.device_identification(data),
            code::MANAGEMENT_NETWORK_ADDRESSES => {
                data.extend(management_network_addresses(PERIPHERAL));
            }
            code::EXTENDED_INQUIRY => {
                let page = ExtendedInquiry {
                    volatile_cache: true,
                    extended_self_test_minutes: u16::try_from(
                        self.self_test_seconds().div_ceil(60),
                    )
                    .unwrap_or(u16::MAX),
                    max_sense: 0,
                };
                data.extend(page.to_bytes(PERIPHERAL));
            }
            code::MODE_PAGE_POLICY => data.extend(mode_page_policy(PERIPHERAL)),
            code::POWER_CONDITION => data.extend(power_condition(PERIPHERAL)),
            code::THIRD_PARTY_COPY => {
                third_party_copy(
                    data,
                    PERIPHERAL,
                    copy::LIMITS,
                    &[(0x83, &[0x00]), (0x84, &[0x00, 0x03])],
                );
            }
            code::BLOCK_LIMITS => data.extend(self.block_limits().to_bytes(PERIPHERAL)),
            code::BLOCK_DEVICE_CHARACTERISTICS => {
                let page = BlockDeviceCharacteristics {
                    rotation_rate: self.config.rotation_rate,
                    readable_after_block_erase: self
                        .profile
                        .features
                        .contains(Features::BLOCK_ERASE),
                    fuab: true,
                };
                data.extend(page.to_bytes(PERIPHERAL));
            }
            code::LOGICAL_BLOCK_PROVISIONING => {
                data.extend(self.provisioning().to_bytes(PERIPHERAL));
            }
            _ => {}
        }
    }

    fn device_identification(&self, data: &mut Vec<u8>) {
        let identity = &self.identity;
        let naa = identity.naa.to_be_bytes();
        let device_id = identity.device_id.as_deref().map(str::as_bytes);
        let designators: Vec<_> = [
            device_id.map(|id| Designator::unit(Identifier::VendorSpecific(id))),
            Some(Designator::unit(Identifier::Naa(&naa))),
        ]
        .into_iter()
        .flatten()
        .collect();
        device_identification(data, PERIPHERAL, &designators);
    }

    fn block_limits(&self) -> BlockLimits {
        let limits = &self.limits;
        let atomic_blocks = if limits.max_atomic == 0 {
            0
        } else {
            1 << limits.physical_exponent
        };
        BlockLimits {
            write_same_nonzero: true,
            optimal_granularity: limits.min_io,
            max_transfer: limits.max_io,
            optimal_transfer: limits.opt_io,
            max_unmap_blocks: if limits.unmap { limits.max_unmap } else { 0 },
            max_unmap_descriptors: if limits.unmap {
                unmap::MAX_DESCRIPTORS
            } else {
                0
            },
            unmap_granularity: if limits.unmap {
                limits.unmap_granularity
            } else {
                0
            },
            max_write_same: limits.max_io.into(),
            max_compare_and_write: limits.max_compare_and_write,
            max_atomic: limits.max_atomic,
            atomic_alignment: atomic_blocks,
            atomic_granularity: atomic_blocks,
            ..BlockLimits::default()
        }
    }

    fn provisioning(&self) -> LogicalBlockProvisioning {
        let unmap = self.limits.unmap;
        LogicalBlockProvisioning {
            unmap,
            write_same_16: unmap,
            write_same_10: unmap,
            reads_zeroes: self.limits.unmapped_reads_zero,
            provisioning: if unmap {
                ProvisioningType::Thin
            } else {
                ProvisioningType::Full
            },
            threshold_exponent: if self.thresholds {
                thresholds::exponent(self.limits.block_shift)
            } else {
                0
            },
        }
    }
}
