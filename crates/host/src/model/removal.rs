//! Taking declared objects away again.
//!
//! What is in use stays. What was declared as a part of something goes with it: nodes with the node that they were
//! written in, and a drive with its last device, as in QEMU, so that the same drive can be added again.

use super::{Address, Controller, Disk, Error, Model, Node, Place, Taken};

/// A disk that was taken away.
#[derive(Debug)]
pub struct Removed {
    /// The disk.
    pub disk: Disk,
    /// Its drive's nodes, if the drive went with it; those on top first.
    pub nodes: Vec<Node>,
}

impl Model {
    /// Takes a disk off its bus.
    pub fn remove_disk(&mut self, bus: &str, address: Address) -> Option<Removed> {
        let disk = self.withdraw(bus, address)?;
        let mut nodes = Vec::new();
        let unused = |node: &Node| node.users.is_empty();
        if self.nodes.get(&disk.node).is_some_and(unused)
            && let Some(drive) = disk.options.drive.as_ref()
            && let Some(drive) = self.drives.remove(drive)
        {
            self.drop_own(&drive.node, &mut nodes);
        }
        Some(Removed { disk, nodes })
    }

    /// Takes a controller away. Its disks have been taken off before.
    pub fn remove_controller(&mut self, bus: &str) -> Option<Controller> {
        let mut controllers = self.controllers.iter();
        let at = controllers.position(|controller| controller.bus == bus)?;
        let controller = self.controllers.remove(at);
        self.devices.remove(&controller.path);
        debug_assert!(controller.disks.is_empty(), "they would be lost");
        Some(controller)
    }

    /// Takes a node away that `--blockdev` declares; returns all that go with it, those on top first.
    ///
    /// # Errors
    /// It is not there, in use, or a part of something else.
    pub fn remove_node(&mut self, name: &str) -> Result<Vec<Node>, Error> {
        let node = self.nodes.get(name).ok_or_else(|| Error::Absent {
            what: Taken::Node,
            name: name.to_owned(),
        })?;
        check_unused(name, node)?;
        if let Some(drive) = self.drives.values().find(|drive| drive.node == name) {
            return Err(Error::OfDrive {
                node: name.to_owned(),
                drive: drive.id.clone(),
            });
        }
        let mut nodes = Vec::new();
        self.drop_node(name, &mut nodes);
        Ok(nodes)
    }

    /// Takes a drive away that no device uses; returns its nodes, those on top first.
    ///
    /// # Errors
    /// It is not there or in use.
    pub fn remove_drive(&mut self, id: &str) -> Result<Vec<Node>, Error> {
        let drive = self.drives.get(id).ok_or_else(|| Error::Absent {
            what: Taken::Drive,
            name: id.to_owned(),
        })?;
        if let Some(node) = self.nodes.get(&drive.node) {
            check_unused(id, node)?;
        }
        let node = drive.node.clone();
        self.drives.remove(id);
        let mut nodes = Vec::new();
        self.drop_own(&node, &mut nodes);
        Ok(nodes)
    }

    /// Takes back what was declared last: nothing uses it yet.
    pub(crate) fn undo(&mut self, place: &Place) {
        match place {
            Place::Controller(bus) => {
                self.remove_controller(bus);
            }
            Place::Disk { bus, address } => {
                self.withdraw(bus, *address);
            }
        }
    }

    /// Takes a disk off its bus and leaves its drive.
    fn withdraw(&mut self, bus: &str, address: Address) -> Option<Disk> {
        let mut controllers = self.controllers.iter_mut();
        let controller = controllers.find(|controller| controller.bus == bus)?;
        let disk = controller.disks.remove(&address)?;
        self.devices.remove(&disk.path);
        self.dismiss(&disk.node, &disk.name);
        Some(disk)
    }

    /// Takes a user away from a node.
    pub(super) fn dismiss(&mut self, node: &str, user: &str) {
        let mut next = None;
        if let Some(node) = self.nodes.get_mut(node) {
            node.dismiss(user);
            next = node.users.is_empty().then(|| node.name.clone());
        }
        // Whether it is shared is for the next first user to say.
        while let Some(node) = next.and_then(|name| self.nodes.get_mut(&name)) {
            node.options.share_rw = false;
            let below = node.driver.file().filter(|_| node.users.len() <= 1);
            next = below.map(str::to_owned);
        }
    }

    /// Drops a drive's node, unless it has a declaration of its own.
    fn drop_own(&mut self, name: &str, dropped: &mut Vec<Node>) {
        if self.nodes.get(name).is_some_and(|node| node.inline) {
            self.drop_node(name, dropped);
        }
    }

    pub(super) fn drop_node(&mut self, name: &str, dropped: &mut Vec<Node>) {
        let Some(node) = self.nodes.remove(name) else {
            return;
        };
        let user = node.as_user();
        let below = node.driver.file().map(str::to_owned);
        dropped.push(node);
        if let Some(below) = below
            && let Some(node) = self.nodes.get_mut(&below)
        {
            node.dismiss(&user.name);
            if node.inline && node.users.is_empty() {
                self.drop_node(&below, dropped);
            }
        }
    }
}

fn check_unused(name: &str, node: &Node) -> Result<(), Error> {
    match node.users().next() {
        None => Ok(()),
        Some(by) => Err(Error::StillUsed {
            name: name.to_owned(),
            by: by.to_owned(),
        }),
    }
}
