//! What is in a drive, and how it changes.
//!
//! A drive without a medium has a node of its own that holds nothing, so that every device shows a node. A change has two
//! steps, because what the guest has begun ends in between: from [`Model::begin_change`] on, the devices use both nodes;
//! [`Model::finish_change`] lets go of the old one, or [`Model::cancel_change`] of the new.

use lunar_block::NodeOptions;

use super::node::{Draft, inherited, protocol};
use super::record::Record;
use super::{Drive, Error, Model, Node, NodeDriver, Place, Taken, has_extension};
use crate::catalog::Format;
use crate::keyval::Options;

/// Which drive.
#[derive(Clone, Copy, Debug)]
pub enum Bay<'a> {
    /// By its own name.
    Drive(&'a str),
    /// That of the device with this id or place in the object tree.
    Device(&'a str),
}

impl Bay<'_> {
    /// The name.
    pub fn name(&self) -> &str {
        match self {
            Bay::Drive(name) | Bay::Device(name) => name,
        }
    }
}

/// What is to be in a drive.
#[derive(Clone, Debug)]
pub enum Medium {
    /// Nothing.
    None,
    /// A node that is there.
    Node(String),
    /// A file, opened for it.
    File {
        /// Its path.
        filename: String,
        /// Its format; by the file's name if absent.
        format: Option<Format>,
        /// Whether it refuses writes.
        read_only: bool,
    },
}

/// A change that has begun.
#[derive(Clone, Debug)]
pub struct Change {
    /// The node that the devices show.
    pub old: String,
    /// The one that they will show.
    pub new: String,
    drive: Option<String>,
    medium: Medium,
}

impl Model {
    /// The node in a drive, and the drive's name, if it has one.
    ///
    /// # Errors
    /// There is no such drive or device.
    pub fn bay(&self, bay: Bay<'_>) -> Result<(&Node, Option<&Drive>), Error> {
        let absent = |what| Error::Absent {
            what,
            name: bay.name().to_owned(),
        };
        let (node, drive) = match bay {
            Bay::Drive(id) => {
                let drive = self.drive(id).ok_or_else(|| absent(Taken::Drive))?;
                (&drive.node, Some(drive))
            }
            Bay::Device(name) => {
                let Place::Disk { bus, address } = self.device(name)? else {
                    return Err(absent(Taken::Device));
                };
                let disk = self.disk(bus, *address);
                let disk = disk.ok_or_else(|| absent(Taken::Device))?;
                let drive = disk.options.drive.as_deref();
                (&disk.node, drive.and_then(|drive| self.drive(drive)))
            }
        };
        let node = self.node(node).ok_or_else(|| absent(Taken::Node))?;
        Ok((node, drive))
    }

    /// Begins to change what is in a drive. The devices that show it use the new node, too.
    ///
    /// # Errors
    /// The new medium does not fit, or is in use.
    pub fn begin_change(&mut self, bay: Bay<'_>, medium: Medium) -> Result<Change, Error> {
        let (node, drive) = self.bay(bay)?;
        let old = node.name.clone();
        let drive = drive.map(|drive| drive.id.clone());
        let mut options = NodeOptions {
            share_rw: false,
            ..node.options.clone()
        };
        let new = match &medium {
            Medium::Node(name) => {
                self.check_medium(name)?;
                name.clone()
            }
            Medium::None => self.declare(&old, |draft, origin| {
                draft.push(None, origin, NodeDriver::Empty, options)
            }),
            Medium::File {
                filename,
                format,
                read_only,
            } => {
                options.read_only = *read_only;
                let format = *format;
                let qcow2 = has_extension(filename, "qcow2");
                let format = format.unwrap_or(if qcow2 { Format::Qcow2 } else { Format::Raw });
                self.declare(filename, |draft, origin| match format {
                    Format::Raw => draft.push(None, origin, protocol(filename), options),
                    Format::Qcow2 => {
                        let below = inherited(&options);
                        let file = draft.push(None, origin, protocol(filename), below);
                        draft.push(None, origin, NodeDriver::Qcow2 { file }, options)
                    }
                })
            }
        };
        let change = Change {
            old,
            new,
            drive,
            medium,
        };
        let users = self.showing(&change.old);
        for (at, (name, share)) in users.iter().enumerate() {
            if let Err(error) = self.use_node(&change.new, &change.new, name, *share) {
                for (name, _) in users.iter().take(at) {
                    self.dismiss(&change.new, name);
                }
                self.drop_idle(&change.new);
                return Err(error);
            }
        }
        Ok(change)
    }

    /// Everything is as it was before; returns the nodes that were made for nothing.
    pub fn cancel_change(&mut self, change: &Change) -> Vec<Node> {
        for (name, _) in self.showing(&change.old) {
            self.dismiss(&change.new, &name);
        }
        self.drop_idle(&change.new)
    }

    /// The devices show the new node; returns the nodes that went with the old medium, those on top first.
    pub fn finish_change(&mut self, change: Change) -> Vec<Node> {
        let Change {
            old,
            new,
            drive,
            medium,
        } = change;
        for (name, _) in self.showing(&old) {
            self.dismiss(&old, &name);
        }
        // Something has to keep what the device is known by, when the node that it was named after has gone.
        let drive = drive.unwrap_or_else(|| self.make_drive(&old));
        self.put_in_drive(&old, &drive, &new);
        if let Some(drive) = self.drives.get_mut(&drive) {
            drive.node = new;
            drive.presumed_raw = None;
            let declared = drive.record.options();
            for key in ["file", "format", "offset", "size", "medium"] {
                declared.take(key);
            }
            match medium {
                Medium::None => {}
                Medium::Node(name) => declared.set("medium", &name),
                Medium::File {
                    filename,
                    format,
                    read_only,
                } => {
                    declared.set("file", &filename);
                    declared.take("read-only");
                    declared.set("readonly", if read_only { "on" } else { "off" });
                    match format {
                        Some(Format::Raw) => declared.set("format", "raw"),
                        Some(Format::Qcow2) => declared.set("format", "qcow2"),
                        None => {}
                    }
                }
            }
        }
        self.drop_idle(&old)
    }

    /// Whether a node can be the medium of a drive: it is not yet that of another one.
    pub(super) fn check_medium(&self, name: &str) -> Result<(), Error> {
        let found = self.nodes.get(name).filter(|node| !node.inline);
        let node = found.ok_or_else(|| Error::NoSuchNode(name.to_owned()))?;
        if let Some(user) = node.users.first() {
            return Err(Error::InUse {
                drive: name.to_owned(),
                by: user.name.clone(),
            });
        }
        if let Some(drive) = self.drives.values().find(|drive| drive.node == name) {
            return Err(Error::OfDrive {
                node: name.to_owned(),
                drive: drive.id.clone(),
            });
        }
        Ok(())
    }

    /// The names of the devices that show a node, and whether they share it.
    fn showing(&self, node: &str) -> Vec<(String, bool)> {
        let disks = self.disks().filter(|(_, _, disk)| disk.node == node);
        disks
            .map(|(_, _, disk)| (disk.name.clone(), disk.options.share_rw))
            .collect()
    }

    /// The devices that show `node` have this drive now, and show what is in it.
    fn put_in_drive(&mut self, node: &str, drive: &str, new: &str) {
        let disks = self.controllers.iter_mut();
        for disk in disks.flat_map(|c| c.disks.values_mut()) {
            if disk.node == node {
                new.clone_into(&mut disk.node);
                disk.options.drive = Some(drive.to_owned());
                disk.record.options().set("drive", drive);
            }
        }
    }

    /// A drive for the devices that have named this node, to keep what can be said of drives alone. A node that is a
    /// part of another cannot be in one.
    pub(crate) fn give_drive(&mut self, node: &str) -> Option<String> {
        self.nodes.get(node).filter(|node| !node.inline)?;
        let id = self.make_drive(node);
        self.put_in_drive(node, &id, node);
        if let Some(drive) = self.drives.get_mut(&id) {
            drive.record.options().set("medium", node);
        }
        Some(id)
    }

    /// A drive for a device that has named a node.
    fn make_drive(&mut self, node: &str) -> String {
        let id = self.generate_drive_id();
        let identity = self
            .disks()
            .find(|(_, _, disk)| disk.node == node)
            .map(|(_, _, disk)| disk.options.config.identity.clone());
        let mut declared = Options::default();
        if let Some(node) = self.nodes.get(node) {
            // What the next medium will have, too.
            let options = &node.options;
            for (key, on) in [
                ("cache.direct", options.direct),
                ("cache.no-flush", options.no_flush),
            ] {
                declared.set(key, if on { "on" } else { "off" });
            }
            if options.discard_unmap {
                declared.set("discard", "unmap");
            }
        }
        let drive = Drive {
            id: id.clone(),
            node: node.to_owned(),
            origin: id.clone(),
            presumed_raw: None,
            limits: lunar_block::Limits::default(),
            throttle_group: None,
            write_cache: true,
            rerror: None,
            werror: None,
            automatic: false,
            identity: identity.unwrap_or_else(|| id.clone()),
            record: Record::new(self, declared),
        };
        self.drives.insert(id.clone(), drive);
        id
    }

    fn declare(
        &mut self,
        origin: &str,
        declare: impl FnOnce(&mut Draft<'_>, &str) -> String,
    ) -> String {
        let mut draft = Draft {
            model: self,
            nodes: Vec::new(),
        };
        let name = declare(&mut draft, origin);
        let nodes = draft.nodes;
        self.commit(nodes);
        name
    }

    /// Drops a node that goes with its last user, if that has gone.
    fn drop_idle(&mut self, node: &str) -> Vec<Node> {
        let mut nodes = Vec::new();
        let idle = |node: &Node| node.inline && node.users.is_empty();
        if self.nodes.get(node).is_some_and(idle) {
            self.drop_node(node, &mut nodes);
        }
        nodes
    }
}
