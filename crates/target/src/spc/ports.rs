//! What a unit says about its target ports: in INQUIRY, and in REPORT and SET TARGET PORT GROUPS.

use lunar_scsi::Sense;
use lunar_scsi::alua;
use lunar_scsi::inquiry::Peripheral;
use lunar_scsi::vpd::{Designator, Identifier, ScsiPort, append_designators, scsi_ports};

use super::Primary;
use crate::access::Ports;
use crate::path::TargetPort;
use crate::{Command, Outcome};

/// PARAMETER DATA FORMAT of REPORT TARGET PORT GROUPS.
const EXTENDED: u8 = 1;
/// SET TARGET PORT GROUPS has as many descriptors as there can be groups, and a header.
const MAX_LIST: u32 = 4 + 4 * 0x1_0000;

pub(super) fn report(lu: &dyn Primary, command: &mut Command<'_>) -> Outcome {
    let format = command.fields().byte1() >> 5;
    if format > EXTENDED {
        return Outcome::check(Sense::invalid_bits_in_cdb(1, 7));
    }
    let groups = lu.state().target_port_groups();
    alua::report(command.reply, format == EXTENDED, &groups);
    command.replied()
}

pub(super) fn set(lu: &dyn Primary, command: &Command<'_>) -> Result<Outcome, Sense> {
    if command.fields().parameter_list_length() > MAX_LIST {
        return Err(Sense::invalid_field_in_cdb(6));
    }
    let Some(list) = command.parameter_list() else {
        return Ok(Outcome::Overrun);
    };
    let wanted = alua::parse_set(&list)?;
    lu.state().set_target_port_groups(command.nexus, &wanted)?;
    Ok(Outcome::good(list.len()))
}

/// TPGS and MULTIP in standard INQUIRY data.
pub(super) fn complete_inquiry(data: &mut [u8], ports: &Ports) {
    if let [_, _, _, _, _, tpgs, multip, ..] = data {
        *tpgs |= ports.tpgs << 4;
        *multip |= u8::from(ports.all.len() > 1) << 4;
    }
}

/// The port's designators at the end of page 83h.
pub(super) fn complete_designators(page: &mut Vec<u8>, ports: &Ports) {
    if let Some(port) = &ports.own {
        designators(port, |designators| append_designators(page, designators));
    }
}

/// Page 88h.
pub(super) fn scsi_ports_page(out: &mut Vec<u8>, peripheral: Peripheral, ports: &Ports) {
    scsi_ports(out, peripheral, |page| {
        for port in &ports.all {
            designators(port, |designators| {
                page.push(&ScsiPort {
                    relative: port.relative,
                    designators,
                });
            });
        }
    });
}

fn designators(port: &TargetPort, then: impl FnOnce(&[Designator<'_>])) {
    let name = port.name.map(u64::to_be_bytes);
    let name = name.as_ref().map(|name| Identifier::Naa(name));
    let numbers = [
        Identifier::RelativeTargetPort(port.relative),
        Identifier::TargetPortGroup(port.group),
    ];
    let all: Vec<_> = name
        .into_iter()
        .chain(numbers)
        .map(Designator::port)
        .collect();
    then(&all);
}
