//! Lines as people type them in QEMU's monitor, carried out by the same functions as the commands of programs.

use std::sync::Arc;

use lunar_host::keyval::{BLOCKDEV, DEVICE, DRIVE, Options, Syntax};
use lunar_host::{DeviceState, Host};

use crate::Error;
use crate::commands;
use crate::schema::Empty;

/// A line's first word, or its first two.
#[derive(Debug)]
pub struct Row {
    /// What is typed.
    pub name: &'static str,
    /// What follows, as help shows it.
    pub parameters: &'static str,
    /// One line for people.
    pub description: &'static str,
    /// What the last word is, for completion.
    pub completes: Completes,
    run: fn(&Arc<Host>, &str) -> Result<String, Error>,
}

/// What may be typed after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completes {
    /// Anything.
    Nothing,
    /// The name of a kind of device.
    DeviceType,
    /// The id of a device.
    Device,
    /// The name of a drive.
    Drive,
    /// The name of a node.
    Node,
}

/// All of them.
pub static ROWS: &[Row] = &[
    Row {
        name: "blockdev_add",
        parameters: "driver,node-name=name[,...]",
        description: "open an image as a block node",
        completes: Completes::Nothing,
        run: |host, text| {
            let options = parse(text, BLOCKDEV)?;
            let origin = format!(
                "node {}",
                options.get("node-name").unwrap_or("without name")
            );
            host.add_blockdev(options, &origin)?;
            Ok(String::new())
        },
    },
    Row {
        name: "blockdev_del",
        parameters: "node",
        description: "close a block node that nothing uses",
        completes: Completes::Node,
        run: |host, text| {
            commands::remove_node(
                host,
                commands::BlockDel {
                    node_name: text.to_owned(),
                },
            )?;
            Ok(String::new())
        },
    },
    Row {
        name: "change",
        parameters: "[-f] device file [format [read-only-mode]]",
        description: "change the medium of a drive or device; -f: even if the guest has locked its tray",
        completes: Completes::Drive,
        run: change,
    },
    Row {
        name: "cont",
        parameters: "",
        description: "take requests again",
        completes: Completes::Nothing,
        run: |host, _| commands::cont(host, Empty {}).map(|_| String::new()),
    },
    Row {
        name: "device_add",
        parameters: "driver[,prop=value][,...]",
        description: "add a device, like -device on the command line",
        completes: Completes::DeviceType,
        run: |host, text| {
            commands::add_device(host, parse(text, DEVICE)?)?;
            Ok(String::new())
        },
    },
    Row {
        name: "device_del",
        parameters: "device",
        description: "remove a device",
        completes: Completes::Device,
        run: |host, text| {
            commands::remove_device(host, text)?;
            Ok(String::new())
        },
    },
    Row {
        name: "drive_add",
        parameters: "0 file=file[,format=raw|qcow2][,id=name][,...]",
        description: "open an image as a drive, like -drive on the command line",
        completes: Completes::Nothing,
        run: drive_add,
    },
    Row {
        name: "drive_del",
        parameters: "drive",
        description: "close a drive that no device uses",
        completes: Completes::Drive,
        run: |host, text| {
            host.remove_drive(text)?;
            Ok(String::new())
        },
    },
    Row {
        name: "eject",
        parameters: "[-f] device",
        description: "open the tray of a drive or device and take its medium out; -f: even if the guest has locked it",
        completes: Completes::Drive,
        run: eject,
    },
    Row {
        name: "help",
        parameters: "[command]",
        description: "show the help",
        completes: Completes::Nothing,
        run: |_, text| Ok(help(text)),
    },
    Row {
        name: "info block",
        parameters: "",
        description: "show drives and their images",
        completes: Completes::Nothing,
        run: info_block,
    },
    Row {
        name: "info blockstats",
        parameters: "",
        description: "show what was done with drives",
        completes: Completes::Nothing,
        run: info_blockstats,
    },
    Row {
        name: "info qtree",
        parameters: "",
        description: "show controllers and their disks",
        completes: Completes::Nothing,
        run: info_qtree,
    },
    Row {
        name: "info status",
        parameters: "",
        description: "show whether requests are taken",
        completes: Completes::Nothing,
        run: |host, _| {
            let status = commands::status(host, Empty {})?;
            let word = if status.running { "running" } else { "paused" };
            Ok(format!("VM status: {word}\n"))
        },
    },
    Row {
        name: "info version",
        parameters: "",
        description: "show the version",
        completes: Completes::Nothing,
        run: |_, _| Ok(format!("{}\n", commands::version_info().package)),
    },
    Row {
        name: "quit",
        parameters: "",
        description: "end the server",
        completes: Completes::Nothing,
        run: |host, _| {
            host.quit();
            Ok(String::new())
        },
    },
    Row {
        name: "stop",
        parameters: "",
        description: "take no more requests: they wait",
        completes: Completes::Nothing,
        run: |host, _| commands::stop(host, Empty {}).map(|_| String::new()),
    },
];

/// Carries out a line; what there is to say, or what is wrong.
pub fn run(host: &Arc<Host>, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    if words.is_empty() {
        return String::new();
    }
    let found = ROWS.iter().find(|row| {
        let name: Vec<&str> = row.name.split(' ').collect();
        words.starts_with(&name)
    });
    let Some(row) = found else {
        return format!("unknown command: '{}'\n", line.trim());
    };
    let rest = row
        .name
        .split(' ')
        .fold(line, |rest, word| {
            rest.trim_start().strip_prefix(word).unwrap_or(rest)
        })
        .trim();
    let required = row
        .parameters
        .split(' ')
        .find(|word| !word.is_empty() && !word.starts_with('['));
    match (required, rest) {
        (Some(_), "") => format!("usage: {} {}\n", row.name, row.parameters),
        _ if row.parameters.is_empty() && !rest.is_empty() => {
            format!("{}: extraneous characters at the end of line\n", row.name)
        }
        _ => (row.run)(host, rest).unwrap_or_else(|error| format!("Error: {error}\n")),
    }
}

fn help(command: &str) -> String {
    let wanted = |row: &&Row| {
        command.is_empty() || row.name == command || row.name.starts_with(&format!("{command} "))
    };
    let text: String = ROWS
        .iter()
        .filter(wanted)
        .map(|row| {
            let space = if row.parameters.is_empty() { "" } else { " " };
            format!(
                "{}{space}{} -- {}\n",
                row.name, row.parameters, row.description
            )
        })
        .collect();
    match text.is_empty() {
        true => format!("unknown command: '{command}'\n"),
        false => text,
    }
}

fn parse(text: &str, syntax: Syntax) -> Result<Options, Error> {
    Options::parse(text, syntax).map_err(|error| Error::generic(error.to_string()))
}

/// QEMU's line has the PCI address of a controller in front, for drives that want a device at once; ours takes it, as
/// people type it, and makes no device.
fn drive_add(host: &Arc<Host>, text: &str) -> Result<String, Error> {
    let options = match text.split_once(char::is_whitespace) {
        Some((address, options)) if !address.contains('=') => options.trim_start(),
        _ => text,
    };
    let options = parse(options, DRIVE)?;
    let origin = format!("drive {}", options.get("id").unwrap_or("without name"));
    let id = host.add_drive(options, &origin)?;
    Ok(format!("OK: drive {id}\n"))
}

/// What follows after `-f`, if that is there, and whether it is.
fn forced(text: &str) -> (bool, &str) {
    match text.strip_prefix("-f ") {
        Some(rest) => (true, rest.trim_start()),
        None => (false, text),
    }
}

fn eject(host: &Arc<Host>, text: &str) -> Result<String, Error> {
    let (force, name) = forced(text);
    commands::eject_named(host, name, force)?;
    Ok(String::new())
}

fn change(host: &Arc<Host>, text: &str) -> Result<String, Error> {
    let (force, rest) = forced(text);
    let words: Vec<&str> = rest.split_whitespace().collect();
    let (name, file, format, mode) = match *words.as_slice() {
        [name, file] => (name, file, None, None),
        [name, file, format] => (name, file, Some(format), None),
        [name, file, format, mode] => (name, file, Some(format), Some(mode)),
        _ => {
            return Err(Error::generic(
                "expected: device file [format [read-only-mode]]",
            ));
        }
    };
    commands::change_named(host, name, file, format, mode, force)?;
    Ok(String::new())
}

fn info_block(host: &Arc<Host>, _: &str) -> Result<String, Error> {
    let mut text = String::new();
    for info in commands::query_block(host, Empty {})? {
        let node = info
            .inserted
            .as_ref()
            .and_then(|node| node.node_name.clone());
        let name = match info.device.is_empty() {
            true => node.clone().unwrap_or_default(),
            false => info.device.clone(),
        };
        match &info.inserted {
            None => text.push_str(&format!("{name}: [not inserted]\n")),
            Some(image) => {
                let node = node
                    .filter(|node| *node != name)
                    .map_or_else(String::new, |node| format!(" ({node})"));
                let read_only = if image.ro { ", read-only" } else { "" };
                text.push_str(&format!(
                    "{name}{node}: {} ({}{read_only})\n",
                    image.file, image.drv
                ));
            }
        }
        if let Some(qdev) = &info.qdev {
            text.push_str(&format!("    Attached to:      {qdev}\n"));
        }
        if info.removable {
            let locked = if info.locked { "locked" } else { "not locked" };
            let tray = match info.tray_open {
                Some(true) => ", tray open",
                Some(false) => ", tray closed",
                None => "",
            };
            text.push_str(&format!("    Removable device: {locked}{tray}\n"));
        }
        if let Some(image) = &info.inserted {
            let size = image.image.virtual_size;
            let direct = if image.cache.direct { ", direct" } else { "" };
            let unsafely = if image.cache.no_flush {
                ", ignore flushes"
            } else {
                ""
            };
            text.push_str(&format!("    Size:             {size} bytes\n"));
            text.push_str(&format!(
                "    Cache mode:       writeback{direct}{unsafely}\n"
            ));
        }
    }
    Ok(text)
}

fn info_blockstats(host: &Arc<Host>, _: &str) -> Result<String, Error> {
    let all = commands::query_stats(host, commands::QueryStats { query_nodes: None })?;
    let line = |stats: &commands::BlockStats| {
        let name = stats.device.as_ref().filter(|name| !name.is_empty());
        let name = name.or(stats.node_name.as_ref()).map_or("", |name| name);
        let counted = &stats.stats;
        format!(
            "{name}: rd_bytes={} wr_bytes={} rd_operations={} wr_operations={} flush_operations={} unmap_operations={} rd_total_time_ns={} wr_total_time_ns={} flush_total_time_ns={} rd_merged={} wr_merged={} idle_time_ns={}\n",
            counted.rd_bytes,
            counted.wr_bytes,
            counted.rd_operations,
            counted.wr_operations,
            counted.flush_operations,
            counted.unmap_operations,
            counted.rd_total_time_ns,
            counted.wr_total_time_ns,
            counted.flush_total_time_ns,
            counted.rd_merged,
            counted.wr_merged,
            counted.idle_time_ns.unwrap_or(0),
        )
    };
    Ok(all.iter().map(line).collect())
}

fn info_qtree(host: &Arc<Host>, _: &str) -> Result<String, Error> {
    let devices = host.devices();
    let mut text = String::new();
    for controller in host.controllers() {
        let id = controller.id.as_deref().unwrap_or("");
        let connected = if controller.connected {
            "connected"
        } else {
            "no front end"
        };
        let queues = controller.queues;
        text.push_str(&format!(
            "dev: virtio-scsi-pci, id \"{id}\" ({connected}, {queues} queues)\n  bus: {}\n",
            controller.bus
        ));
        for disk in devices.iter().filter(|disk| disk.bus == controller.bus) {
            let leaving = match disk.state {
                DeviceState::Running => "",
                DeviceState::Leaving => ", leaving",
            };
            text.push_str(&format!(
                "    dev: {}, id \"{}\", scsi-id {}, lun {}, drive \"{}\"{leaving}\n",
                disk.driver,
                disk.id.as_deref().unwrap_or(""),
                disk.target,
                disk.lun,
                disk.drive.as_ref().unwrap_or(&disk.node),
            ));
        }
    }
    Ok(text)
}
