//! `lunar probe`: what a guest would find behind a socket.

use anyhow::Context;
use lunar_initiator::{Initiator, Options, Unit};

use crate::args::Probe;
use crate::qemu::{count, size};
use crate::{Failure, say};

/// Connects, scans, prints.
pub fn run(probe: &Probe) -> Result<(), Failure> {
    let units = scan(probe).map_err(Failure::Runtime)?;
    say(&match probe.json {
        true => json(&units),
        false => list(&units),
    });
    Ok(())
}

fn scan(probe: &Probe) -> anyhow::Result<Vec<Unit>> {
    let socket = probe.socket.display();
    let mut initiator = Initiator::connect(&probe.socket, Options::default())
        .with_context(|| format!("{socket}: no server to probe; start one with lunar serve"))?;
    initiator.scan().with_context(|| socket.to_string())
}

/// One line for each logical unit, in the manner of `lsscsi`: address, type, vendor, product, revision, size, name.
fn list(units: &[Unit]) -> String {
    let rows: Vec<[String; 7]> = units
        .iter()
        .map(|unit| {
            [
                format!("[0:0:{}:{}]", unit.target, unit.lun.number()),
                device_type(unit.device_type).to_owned(),
                unit.vendor.clone(),
                unit.product.clone(),
                unit.revision.clone(),
                unit.capacity
                    .map_or_else(|| "-".to_owned(), |capacity| size(capacity.bytes())),
                name(unit).unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths);
        let line: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text + &count(units.len(), "logical unit") + "\n"
}

/// The designator that is best to tell units apart: NAA (3), EUI-64 (2), T10 (1), in this order.
fn name(unit: &Unit) -> Option<String> {
    let of_kind = |kind| {
        unit.designators
            .iter()
            .find(|designator| designator.kind == kind)
    };
    [3, 2, 1]
        .into_iter()
        .find_map(of_kind)
        .map(ToString::to_string)
}

/// As `lsscsi` abbreviates the peripheral device types of SPC.
fn device_type(code: u8) -> &'static str {
    match code {
        0x00 => "disk",
        0x01 => "tape",
        0x03 => "process",
        0x05 => "cd/dvd",
        0x07 => "optical",
        0x08 => "mediumx",
        0x0C => "storage",
        0x0D => "enclosu",
        0x0E => "disk",
        0x14 => "zbc",
        _ => "other",
    }
}

fn json(units: &[Unit]) -> String {
    let units: Vec<_> = units
        .iter()
        .map(|unit| {
            serde_json::json!({
                "target": unit.target,
                "lun": unit.lun.number(),
                "type": device_type(unit.device_type),
                "removable": unit.removable,
                "vendor": unit.vendor,
                "product": unit.product,
                "revision": unit.revision,
                "serial": unit.serial,
                "designators": unit.designators.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "blocks": unit.capacity.map(|capacity| capacity.blocks),
                "block-size": unit.capacity.map(|capacity| capacity.block_size),
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::Array(units))
}
