//! What has to be declared to have the same objects again.
//!
//! Objects keep the options that they were declared with. What the model chose for them (an address, a name, the number
//! of a port) is added, so that the same comes out whatever else has come and gone since, and paths become absolute, so
//! that it comes out wherever it is read.

#[cfg(test)]
mod tests;

use std::path::Path;

use lunar_block::Limits;

use super::{Controller, Drive, IoThread, Model, Node, Socket, ThrottleGroup, absolute};
use crate::keyval::Options;
use crate::throttling::limit_values;

/// A declaration as it was made.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    /// How many there were before.
    order: usize,
    options: Options,
}

/// A kind of declarations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `--object`.
    Object,
    /// `--blockdev`.
    Blockdev,
    /// `--drive`.
    Drive,
    /// `--device`.
    Device,
}

impl Kind {
    /// What tables of a configuration file are called.
    pub fn table(self) -> &'static str {
        match self {
            Kind::Object => "object",
            Kind::Blockdev => "blockdev",
            Kind::Drive => "drive",
            Kind::Device => "device",
        }
    }
}

/// What has to be declared, and the name of the node that it is about, if it is about one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// The option for it.
    pub kind: Kind,
    /// Its argument.
    pub options: Options,
    /// The node.
    pub node: Option<String>,
}

impl Record {
    /// `driver` is what the device is called, if that has been taken out of the options.
    pub fn device(model: &mut Model, driver: &str, mut options: Options) -> Record {
        options.set("driver", driver);
        Record::new(model, options)
    }

    pub fn new(model: &mut Model, options: Options) -> Record {
        model.declarations += 1;
        Record {
            order: model.declarations,
            options,
        }
    }
}

impl Model {
    /// What has to be declared, in this order, to have the same objects. The socket of a controller is missing if it was
    /// given as a descriptor: nobody else has that.
    pub fn declarations(&self) -> Vec<Declaration> {
        let nodes = self.nodes.values().filter(|node| self.is_declared(node));
        let nodes = nodes.map(|node| (Kind::Blockdev, node.record.order, of_node(node)));
        let drives = self.drives.values();
        let drives = drives.map(|drive| (Kind::Drive, drive.record.order, of_drive(drive)));
        let groups = self.groups.values();
        let groups = groups.map(|group| (Kind::Object, 0, of_group(group)));
        let threads = self.threads.values();
        let threads = threads.map(|thread| (Kind::Object, thread.record.order, of_thread(thread)));
        let objects = groups.chain(threads);
        let mut all: Vec<_> = objects.chain(nodes).chain(drives).collect();
        let mut unnamed = 0;
        for (number, controller) in (1..).zip(&self.controllers) {
            // The name and the number that it will have.
            let bus = match controller.options.id {
                Some(_) => controller.bus.clone(),
                None => {
                    unnamed += 1;
                    format!("scsi.{}", unnamed - 1)
                }
            };
            let made = (
                Kind::Device,
                controller.record.order,
                of_controller(controller, &bus),
            );
            all.push(made);
            for (address, disk) in &controller.disks {
                let mut options = disk.record.options.clone();
                options.set("bus", &bus);
                options.set("scsi-id", &address.target.to_string());
                options.set("lun", &address.lun.to_string());
                if disk.options.port_index.is_none() && controller.number != number {
                    options.set("port_index", &controller.number.to_string());
                }
                make_absolute(&mut options, "pr_file");
                let made = Declaration {
                    kind: Kind::Device,
                    options,
                    node: None,
                };
                all.push((Kind::Device, disk.record.order, made));
            }
        }
        // A disk comes after its controller by itself: it was declared later. Only the name of its bus is new.
        all.sort_by_key(|(kind, order, _)| (*kind, *order));
        let declarations = all.into_iter().map(|(_, _, mut declaration)| {
            declaration.options.put_first("id");
            declaration.options.put_first("node-name");
            declaration.options.put_first("driver");
            declaration.options.put_first("qom-type");
            declaration
        });
        declarations.collect()
    }

    /// Whether a node has a declaration of its own: not if it is written in a drive's, or another node's.
    fn is_declared(&self, node: &Node) -> bool {
        let contains = |other: &Node| {
            let named = ["file", "image"].map(|key| other.record.options.get(key));
            other.driver.file() == Some(node.name.as_str()) && named == [None, None]
        };
        let drive = self.drives.values().any(|drive| drive.node == node.name);
        !node.record.options.is_empty()
            && (!node.inline || !drive && !self.nodes.values().any(contains))
    }
}

fn of_group(group: &ThrottleGroup) -> Declaration {
    let mut options = Options::default();
    options.set("qom-type", "throttle-group");
    options.set("id", &group.id);
    set_limits(&mut options, "limits", group.limits);
    Declaration {
        kind: Kind::Object,
        options,
        node: None,
    }
}

fn of_thread(thread: &IoThread) -> Declaration {
    Declaration {
        kind: Kind::Object,
        options: thread.record.options.clone(),
        node: None,
    }
}

/// Declares these limits in place of others.
pub(super) fn set_limits(options: &mut Options, prefix: &str, limits: Limits) {
    options.take_nested(prefix);
    for (name, value) in limit_values(&limits) {
        if value > 0 {
            options.set(&format!("{prefix}.{name}"), &value.to_string());
        }
    }
}

impl Record {
    /// Changes what was declared.
    pub(super) fn options(&mut self) -> &mut Options {
        &mut self.options
    }
}

fn of_node(node: &Node) -> Declaration {
    let mut options = node.record.options.clone();
    let keys: Vec<String> = options.iter().map(|(key, _)| key.to_owned()).collect();
    for key in keys {
        if key == "filename" || key.ends_with(".filename") {
            make_absolute(&mut options, &key);
        }
    }
    Declaration {
        kind: Kind::Blockdev,
        options,
        node: Some(node.name.clone()),
    }
}

fn of_drive(drive: &Drive) -> Declaration {
    let mut options = drive.record.options.clone();
    options.set("id", &drive.id);
    // Its device is declared by itself.
    options.set("if", "none");
    if drive.identity != drive.id {
        options.set("identity", &drive.identity);
    }
    make_absolute(&mut options, "file");
    Declaration {
        kind: Kind::Drive,
        options,
        node: Some(drive.node.clone()),
    }
}

fn of_controller(controller: &Controller, bus: &str) -> Declaration {
    let mut options = controller.record.options.clone();
    if let Some(Socket::Path(path)) = &controller.socket {
        options.set("socket", &absolute(path).to_string_lossy());
    }
    // Reservations are kept by this name.
    if controller.options.initiator.is_none() && controller.bus != bus {
        options.set("initiator", &controller.bus);
    }
    Declaration {
        kind: Kind::Device,
        options,
        node: None,
    }
}

fn make_absolute(options: &mut Options, key: &str) {
    if let Some(path) = options.get(key).map(|path| absolute(Path::new(path))) {
        options.set(key, &path.to_string_lossy());
    }
}
