//! INQUIRY (SPC-4 6.6) and REQUEST SENSE (SPC-4 6.39): the two that answer whatever has happened.

use lunar_scsi::inquiry::{Peripheral, StandardInquiry};
use lunar_scsi::sense::Format;
use lunar_scsi::vpd::{code, supported_pages};
use lunar_scsi::{AdditionalSense, DeviceType, Sense};

use super::{Primary, ports};
use crate::{Command, Outcome};

/// EVPD of INQUIRY.
const EVPD: u8 = 0x01;
/// NORMACA in byte 3 of standard INQUIRY data: NACA may be set.
const NORMACA: u8 = 0x20;
/// DESC of REQUEST SENSE.
const DESC: u8 = 0x01;

/// INQUIRY of a unit: its standard data, or one of its pages. What concerns the way to it is filled in here.
pub(super) fn inquiry(lu: &dyn Primary, command: &mut Command<'_>) -> Outcome {
    let [_, flags, page, ..] = *command.cdb;
    let peripheral = Peripheral::connected(lu.profile().device);
    let pages = lu.vpd_pages();
    let known = lu.state().ports(command.nexus);
    let data = &mut *command.reply;
    match (flags & EVPD != 0, page) {
        (false, 0) => {
            lu.inquiry(data);
            ports::complete_inquiry(data, &known);
            if let Some(flags) = data.get_mut(3) {
                *flags |= NORMACA;
            }
        }
        (true, code::SUPPORTED_PAGES) => {
            let mut codes = vec![code::SUPPORTED_PAGES, code::SCSI_PORTS];
            codes.extend(pages);
            codes.sort_unstable();
            supported_pages(data, peripheral, &codes);
        }
        (true, code::SCSI_PORTS) => ports::scsi_ports_page(data, peripheral, &known),
        (true, page) if pages.contains(&page) => {
            lu.vpd(page, data);
            if page == code::DEVICE_IDENTIFICATION {
                ports::complete_designators(data, &known);
            }
        }
        _ => return Outcome::check(Sense::invalid_field_in_cdb(2)),
    }
    command.replied()
}

/// INQUIRY where there is no unit of a kind: an absent LUN, or the REPORT LUNS well-known logical unit.
pub(crate) fn inquiry_without_unit(device: DeviceType, command: &mut Command<'_>) -> Outcome {
    let peripheral = match device {
        DeviceType::Absent => Peripheral::ABSENT,
        device => Peripheral::connected(device),
    };
    let [_, flags, page, ..] = *command.cdb;
    match (flags & EVPD != 0, page) {
        (false, 0) => command.reply.extend(
            StandardInquiry {
                peripheral,
                removable: false,
                third_party_copy: false,
                version: 5,
                vendor: "LUNAR",
                product: "LUNAR TARGET",
                revision: concat!(
                    env!("CARGO_PKG_VERSION_MAJOR"),
                    ".",
                    env!("CARGO_PKG_VERSION_MINOR")
                ),
                standards: &[],
            }
            .to_bytes(),
        ),
        (true, code::SUPPORTED_PAGES) => {
            supported_pages(command.reply, peripheral, &[code::SUPPORTED_PAGES]);
        }
        _ => return Outcome::check(Sense::invalid_field_in_cdb(2)),
    }
    command.replied()
}

/// What REQUEST SENSE reports where there is no unit of a kind.
pub(crate) fn no_unit_sense(device: DeviceType) -> Sense {
    match device {
        DeviceType::Absent => Sense::illegal_request(AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED),
        _ => Sense::NONE,
    }
}

/// REQUEST SENSE returns `sense` as data, in the format that the CDB asks for (SC-032).
pub(crate) fn request_sense(sense: Sense, command: &mut Command<'_>) -> Outcome {
    let [_, flags, ..] = *command.cdb;
    let format = if flags & DESC != 0 {
        Format::Descriptor
    } else {
        Format::Fixed
    };
    command.reply.extend(sense.encode(format).as_slice());
    command.replied()
}
