//! Logical units from declarations: one for each drive, however many devices show it.
//!
//! Devices on different controllers that show the same drive are the paths of one logical unit: it has one identity, one
//! set of reservations, and a target port for each of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use lunar_devices::{Disk, DiskConfig, Sidecar};
use lunar_target::{LogicalUnit, TargetPort};

use crate::Failure;
use crate::images::Images;
use crate::model::{self, Model, NodeDriver};

/// The logical units made so far, by the node that they show.
#[derive(Debug)]
pub struct Units<'a> {
    model: &'a Model,
    made: BTreeMap<&'a str, (&'a model::Disk, Arc<Disk>)>,
    /// Who keeps its reservations where.
    reservation_files: BTreeMap<PathBuf, &'a str>,
}

impl<'a> Units<'a> {
    /// None yet.
    pub fn new(model: &'a Model) -> Units<'a> {
        Units {
            model,
            made: BTreeMap::new(),
            reservation_files: BTreeMap::new(),
        }
    }

    /// The logical unit that `disk` shows; an access state that the device gives its port group is set.
    pub fn unit(
        &mut self,
        disk: &'a model::Disk,
        images: &mut Images<'_>,
    ) -> Result<Arc<Disk>, Failure> {
        let unit = match self.made.get(disk.node.as_str()) {
            Some((first, unit)) => {
                check_same(first, disk)?;
                Arc::clone(unit)
            }
            None => {
                let unit = self.make(disk, images)?;
                self.made.insert(&disk.node, (disk, Arc::clone(&unit)));
                unit
            }
        };
        let group = port(disk, 1).group;
        unit.state()
            .set_access_state(group, disk.options.access_state);
        Ok(unit)
    }

    fn make(
        &mut self,
        disk: &'a model::Disk,
        images: &mut Images<'_>,
    ) -> Result<Arc<Disk>, Failure> {
        let node = self
            .model
            .node(&disk.node)
            .ok_or_else(|| Failure::usage(model::Error::NoSuchNode(disk.node.clone())))?;
        let image = images.open(node).map_err(Failure::runtime)?;
        let read_only = image.info().read_only;
        let config = DiskConfig {
            beside: image_file(self.model, &disk.node).map(Path::to_owned),
            ..disk.options.config.clone()
        };
        let unit = Disk::new(config, image)
            .with_context(|| disk.origin.clone())
            .map_err(Failure::Usage)?;
        unit.state().set_alua(disk.options.alua);
        let given = disk.options.pr_file.as_ref().map(PathBuf::from);
        let beside = || image_file(self.model, &disk.node).filter(|_| !read_only);
        if let Some(path) = given.or_else(|| Some(Sidecar::beside(beside()?, "pr"))) {
            if let Some(other) = self.reservation_files.insert(path.clone(), &disk.origin) {
                return Err(Failure::Usage(anyhow!(
                    "{}: {other} keeps its reservations in {}, too; give each its own pr_file=PATH",
                    disk.origin,
                    path.display(),
                )));
            }
            unit.keep_reservations(path)
                .with_context(|| format!("{}: cannot restore persistent reservations", disk.origin))
                .map_err(Failure::Runtime)?;
        }
        Ok(unit)
    }
}

/// The port through which the device shows its unit, on the controller of this number.
pub fn port(disk: &model::Disk, controller: u16) -> TargetPort {
    let options = &disk.options;
    TargetPort {
        relative: options.port_index.unwrap_or(controller),
        group: options
            .port_group
            .unwrap_or(lunar_target::Path::DEFAULT_GROUP),
        name: options.port_wwn,
    }
}

/// Two paths must not disagree about what is behind them.
fn check_same(first: &model::Disk, second: &model::Disk) -> Result<(), Failure> {
    let (a, b) = (&first.options, &second.options);
    if (&a.config, a.alua, &a.pr_file) == (&b.config, b.alua, &b.pr_file) {
        return Ok(());
    }
    Err(Failure::Usage(anyhow!(
        "{}: this is a second path to the disk of {}; give both the same properties \
         (those of the path may differ: port_index, port_wwn, port_group, access_state)",
        second.origin,
        first.origin,
    )))
}

/// The regular file that holds all of a node, if there is one.
fn image_file<'a>(model: &'a Model, node: &str) -> Option<&'a Path> {
    match &model.node(node)?.driver {
        NodeDriver::File { filename } => Some(filename),
        NodeDriver::Qcow2 { file }
        | NodeDriver::Raw {
            file,
            offset: 0,
            size: None,
        } => image_file(model, file),
        _ => None,
    }
}
