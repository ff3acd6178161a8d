//! Logical units from declarations: one for each node, however many devices show it.
//!
//! Devices on different controllers that show the same node are the paths of one logical unit: it has one identity, one
//! set of reservations, and a target port for each of them. It lives from its first path to its last.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lunar_block::{Backend, Image, IoStatus, ThrottleGroup};
use lunar_devices::{Disk, DiskConfig, Sidecar};
use lunar_target::{LogicalUnit, TargetPort};

use crate::event::Events;
use crate::failure::{listener, rules};
use crate::model::{self, Model, NodeDriver};
use crate::throttling::{Groups, Throttling};
use crate::{Error, Event};

/// The logical units that there are, by the node that they show.
#[derive(Debug, Default)]
pub(crate) struct Units {
    made: BTreeMap<String, Made>,
    /// Those that are about to take the place of one, with another medium, by the node that it shows.
    successors: BTreeMap<String, Made>,
    /// Who keeps its reservations where.
    reservation_files: BTreeMap<PathBuf, String>,
    /// Limits that drives share.
    groups: Groups,
    /// Who hears of what the host has failed.
    events: Events,
}

#[derive(Debug)]
struct Made {
    unit: Arc<Disk>,
    /// What counts its operations, limits them, and deals with those that the host fails.
    backend: Arc<Backend>,
    /// The name of the group that it is in.
    group: Option<String>,
    /// The device that it was made for.
    first: model::Disk,
    reservations: Option<PathBuf>,
    paths: usize,
}

impl Units {
    pub fn new(events: Events, groups: Groups) -> Units {
        Units {
            events,
            groups,
            ..Units::default()
        }
    }

    /// What is beneath each unit.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.made.values().map(|made| &made.backend)
    }

    /// What is beneath the unit that shows a node.
    pub fn backend(&self, node: &str) -> Option<&Arc<Backend>> {
        self.made.get(node).map(|made| &made.backend)
    }

    /// How the unit that shows a node has fared since it last went on.
    pub fn io_status(&self, node: &str) -> IoStatus {
        let made = self.made.get(node);
        made.map_or_else(IoStatus::default, |made| made.backend.io_status())
    }

    /// The logical unit that `disk` shows, for one path more. The first path in a port group brings the group's access
    /// state.
    pub fn acquire(
        &mut self,
        model: &Model,
        disk: &model::Disk,
        image: Arc<dyn Image>,
    ) -> Result<Arc<Disk>, Error> {
        check_access_state(model, disk)?;
        let made = match self.made.get_mut(&disk.node) {
            Some(made) => {
                check_same(&made.first, disk)?;
                made
            }
            None => {
                let made = self.make(model, disk, image)?;
                self.made.entry(disk.node.clone()).or_insert(made)
            }
        };
        made.paths += 1;
        let state = made.unit.state();
        if !state.has_port_in(group(disk)) {
            state.set_access_state(group(disk), disk.options.access_state);
        }
        Ok(Arc::clone(&made.unit))
    }

    /// Makes the unit that shows `new` in the place of the one that shows `old`, if there is one.
    pub fn succeed(
        &mut self,
        model: &Model,
        old: &str,
        new: &str,
        image: Arc<dyn Image>,
    ) -> Result<Option<Arc<Disk>>, Error> {
        let Some(made) = self.made.get(old) else {
            return Ok(None);
        };
        let mut first = made.first.clone();
        new.clone_into(&mut first.node);
        let backend = self.make_backend(&first, image, made.backend.group());
        let beside = image_file(model, new).map(Path::to_owned);
        let unit = made.unit.with_medium(backend.clone(), beside);
        let unit = unit.map_err(|source| Error::Disk {
            origin: first.origin.clone(),
            source,
        })?;
        let successor = Made {
            unit: Arc::clone(&unit),
            backend,
            group: made.group.clone(),
            first,
            reservations: made.reservations.clone(),
            paths: made.paths,
        };
        self.successors.insert(old.to_owned(), successor);
        Ok(Some(unit))
    }

    /// The successor takes its place.
    pub fn replace(&mut self, old: &str, new: &str) {
        if let Some(mut successor) = self.successors.remove(old) {
            if let Some(made) = self.made.remove(old) {
                // It may have been given other limits meanwhile.
                successor.backend.set_group(made.backend.group());
                successor.group = made.group;
            }
            self.made.insert(new.to_owned(), successor);
        }
    }

    /// The successor is not needed.
    pub fn forget_successor(&mut self, old: &str) {
        self.successors.remove(old);
    }

    /// What is between a device and its image.
    fn make_backend(
        &self,
        disk: &model::Disk,
        image: Arc<dyn Image>,
        group: Option<Arc<ThrottleGroup>>,
    ) -> Arc<Backend> {
        let backend = Backend::new(image, rules(disk), listener(disk, &self.events));
        backend.set_group(group);
        backend
    }

    /// A path has gone.
    pub fn release(&mut self, node: &str) {
        let Some(made) = self.made.get_mut(node) else {
            return;
        };
        made.paths -= 1;
        if made.paths == 0 {
            if let Some(path) = &made.reservations {
                self.reservation_files.remove(path);
            }
            self.made.remove(node);
        }
    }

    /// The logical unit that shows a node.
    pub fn get(&self, node: &str) -> Option<&Arc<Disk>> {
        self.made.get(node).map(|made| &made.unit)
    }

    /// What limits the unit that shows a node.
    pub fn throttling(&self, node: &str) -> Option<Throttling> {
        let made = self.made.get(node)?;
        Some(Throttling {
            group: made.group.clone()?,
            limits: made.backend.group()?.limits(),
        })
    }

    /// Limits the unit that shows a node, if there is one, or no longer.
    pub fn set_group(&mut self, node: &str, group: Option<(String, Arc<ThrottleGroup>)>) {
        if let Some(made) = self.made.get_mut(node) {
            let (name, group) = group.unzip();
            made.group = name;
            made.backend.set_group(group);
        }
    }

    /// A device that is in this group.
    pub fn in_group(&self, name: &str) -> Option<String> {
        let mut made = self.made.values();
        let made = made.find(|made| made.group.as_deref() == Some(name))?;
        Some(format!("device {}", made.first.name))
    }

    /// The limits that a disk's drive has, if it has some, and the group's name. Those of a group are the last that a
    /// drive has given it.
    fn limits(
        &self,
        model: &Model,
        disk: &model::Disk,
    ) -> Result<Option<(String, Arc<ThrottleGroup>)>, Error> {
        let drive = disk.options.drive.as_deref();
        let Some(drive) = drive.and_then(|drive| model.drive(drive)) else {
            return Ok(None);
        };
        if drive.limits.is_unlimited() && drive.throttle_group.is_none() {
            return Ok(None);
        }
        let refuse = |source| Error::from(model::Error::Filter(source));
        let name = drive.throttle_group.as_ref().unwrap_or(&drive.id);
        let group = self.groups.get_or_make(name).map_err(refuse)?;
        if !drive.limits.is_unlimited() {
            group.set(drive.limits).map_err(refuse)?;
        }
        Ok(Some((name.clone(), group)))
    }

    fn make(
        &mut self,
        model: &Model,
        disk: &model::Disk,
        image: Arc<dyn Image>,
    ) -> Result<Made, Error> {
        let read_only = image.info().read_only;
        let file = image_file(model, &disk.node);
        let config = DiskConfig {
            beside: file.map(Path::to_owned),
            ..disk.options.config.clone()
        };
        let (name, group) = self.limits(model, disk)?.unzip();
        let backend = self.make_backend(disk, image, group);
        let unit = Disk::new(config, backend.clone()).map_err(|source| Error::Disk {
            origin: disk.origin.clone(),
            source,
        })?;
        unit.state().set_alua(disk.options.alua);
        self.announce_tray(disk, &unit);
        let given = disk.options.pr_file.as_ref().map(PathBuf::from);
        // A medium that is removed cannot take the disk's reservations with it.
        let beside = file.filter(|_| !read_only && !unit.is_removable());
        let reservations = given.or_else(|| Some(Sidecar::beside(beside?, "pr")));
        if let Some(path) = &reservations {
            if let Some(other) = self.reservation_files.get(path) {
                return Err(Error::ReservationFile {
                    origin: disk.origin.clone(),
                    other: other.clone(),
                    path: path.clone(),
                });
            }
            let kept = unit.keep_reservations(path.clone());
            kept.map_err(|source| Error::Reservations {
                origin: disk.origin.clone(),
                source,
            })?;
            self.reservation_files
                .insert(path.clone(), disk.origin.clone());
        }
        Ok(Made {
            unit,
            backend,
            group: name,
            first: disk.clone(),
            reservations,
            paths: 0,
        })
    }
}

impl Units {
    /// Tells everybody when the tray moves.
    fn announce_tray(&self, disk: &model::Disk, unit: &Disk) {
        let events = self.events.clone();
        let device = disk.options.drive.clone().unwrap_or_default();
        let id = disk.options.id.clone();
        let id = id.unwrap_or_else(|| disk.path.clone());
        unit.on_tray_moved(move |tray_open| {
            events.publish(Event::DeviceTrayMoved {
                device: device.clone(),
                id: id.clone(),
                tray_open,
            });
        });
    }
}

/// The port through which the device shows its unit, on the controller of this number.
pub(crate) fn port(disk: &model::Disk, controller: u16) -> TargetPort {
    let options = &disk.options;
    TargetPort {
        relative: options.port_index.unwrap_or(controller),
        group: group(disk),
        name: options.port_wwn,
    }
}

/// The target port group of the port through which the device shows its unit.
fn group(disk: &model::Disk) -> u16 {
    let default = lunar_target::Path::DEFAULT_GROUP;
    disk.options.port_group.unwrap_or(default)
}

/// The paths of one target port group must agree about its access state.
fn check_access_state(model: &Model, disk: &model::Disk) -> Result<(), Error> {
    let mut all = model.controllers().iter().flat_map(|c| c.disks.values());
    let contradicts = |other: &&model::Disk| {
        (&other.node, group(other)) == (&disk.node, group(disk))
            && other.options.access_state != disk.options.access_state
    };
    match all.find(contradicts) {
        Some(other) => Err(Error::AccessStatesDiffer {
            first: disk.origin.clone(),
            second: other.origin.clone(),
            group: group(disk),
        }),
        None => Ok(()),
    }
}

/// Two paths must not disagree about what is behind them.
fn check_same(first: &model::Disk, second: &model::Disk) -> Result<(), Error> {
    let (a, b) = (&first.options, &second.options);
    let alike = (&a.config, a.alua, &a.pr_file) == (&b.config, b.alua, &b.pr_file);
    if alike && rules(first) == rules(second) {
        return Ok(());
    }
    Err(Error::PathsDiffer {
        first: first.origin.clone(),
        second: second.origin.clone(),
    })
}

/// The regular file that holds all of a node, if there is one.
fn image_file<'a>(model: &'a Model, node: &str) -> Option<&'a Path> {
    match &model.node(node)?.driver {
        NodeDriver::File { filename } => Some(filename),
        NodeDriver::Qcow2 { file }
        | NodeDriver::Blkdebug { image: file, .. }
        | NodeDriver::Throttle { file, .. }
        | NodeDriver::Raw {
            file,
            offset: 0,
            size: None,
        } => image_file(model, file),
        _ => None,
    }
}
