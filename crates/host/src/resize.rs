//! Other sizes: by order, and found.
//!
//! What an image loses must not be in use: a write that is under way beyond the new end would make the file longer again,
//! or land in what a format has given to something else. So a shrink has three steps. The capacity drops, and commands
//! beyond it are refused from then on. Those that were under way are waited for, without the lock that orders take. Then
//! the image is cut. If it comes to that: a guest that has commands there for too long keeps its disk as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lunar_block::Image;
use lunar_devices::Disk;
use lunar_target::{LogicalUnit, Place};

use crate::live::Live;
use crate::model::{self, NodeDriver};
use crate::{Error, Host};

/// How long commands beyond the new end may take. Storage that hangs, or a disk that an error has stopped, must not
/// hold up the monitor.
const PATIENCE: Duration = Duration::from_secs(2);

impl Host {
    /// Gives a node, or a drive's, another size, in bytes; guests that see it are told. To cut something off takes force.
    ///
    /// # Errors
    /// There is no such node, it cannot have that size, something would be cut off, or guests have commands under way
    /// there that do not end.
    pub fn resize(&self, name: &str, size: u64, force: bool) -> Result<(), Error> {
        let shrink = {
            let mut live = self.lock()?;
            let node = live.model.node_of(name)?.name.clone();
            let image = live.image(&node)?;
            let from = image.info().size;
            if !size.is_multiple_of(512) || size == 0 {
                return Err(Error::Size { node, size });
            }
            if live.shrinking.contains(&node) {
                return Err(Error::Shrinking(node));
            }
            if size >= from {
                return live.set_size(&node, size);
            }
            if !force {
                let to = size;
                return Err(Error::Shrink { node, from, to });
            }
            if !live.can_shrink(&node, &*image) {
                // It will say why.
                return live.set_size(&node, size);
            }
            live.begin_shrink(node, image, size)?
        };
        let alone = shrink.wait(self);
        let mut live = self.lock_anyway();
        live.end_shrink(&shrink, alone)
    }

    /// Looks whether a node, or a drive's, has grown without our doing; guests that see it are told.
    ///
    /// # Errors
    /// There is no such node, or it cannot be looked at.
    pub fn refresh(&self, name: &str) -> Result<(), Error> {
        let mut live = self.lock()?;
        let node = live.model.node_of(name)?.name.clone();
        if live.shrinking.contains(&node) {
            // Its size will be looked at when that is over.
            return Ok(());
        }
        let refreshed = live.image(&node)?.refresh();
        live.sizes_may_have_changed(&node);
        refreshed.map_err(|source| Error::Resize { node, source })
    }
}

/// An image on its way to a smaller size.
struct Shrink {
    node: String,
    image: Arc<dyn Image>,
    size: u64,
    /// The node and those that have to do with it.
    family: BTreeSet<String>,
    /// The units that show any of them, and where they end then.
    units: Vec<(Arc<Disk>, u64)>,
}

impl Shrink {
    /// Waits for what is under way beyond the new ends. Nothing more is begun there while the places are kept; `None` if
    /// it does not end.
    fn wait(&self, host: &Host) -> Option<Vec<Place>> {
        let units = self.units.iter();
        units
            .map(|(unit, end)| {
                let unit: Arc<dyn LogicalUnit> = unit.clone();
                host.workers().keep_off(&unit, *end..u64::MAX, PATIENCE)
            })
            .collect()
    }
}

impl Live {
    fn set_size(&mut self, node: &str, size: u64) -> Result<(), Error> {
        let resized = self.image(node)?.resize(size);
        // Also if it failed: it may have happened in part.
        self.sizes_may_have_changed(node);
        let node = node.to_owned();
        resized.map_err(|source| Error::Resize { node, source })
    }

    /// Lets the capacity drop.
    fn begin_shrink(
        &mut self,
        node: String,
        image: Arc<dyn Image>,
        size: u64,
    ) -> Result<Shrink, Error> {
        let ends = self.ends(&node, size)?;
        let family = self.family(&node);
        let units = self.units_of(&family).into_iter();
        let units: Vec<_> = units
            .filter_map(|(name, unit)| Some((unit, *ends.get(&name)?)))
            .collect();
        if units.iter().any(|(unit, _)| unit.is_in_background()) {
            return Err(Error::Shrinking(node));
        }
        for (unit, end) in &units {
            unit.limit_capacity(*end);
        }
        self.tell_sizes(&family);
        self.shrinking.extend(family.iter().cloned());
        Ok(Shrink {
            node,
            image,
            size,
            family,
            units,
        })
    }

    /// Cuts the image, if nothing is in the way.
    fn end_shrink(&mut self, shrink: &Shrink, alone: Option<Vec<Place>>) -> Result<(), Error> {
        self.shrinking.retain(|node| !shrink.family.contains(node));
        let node = &shrink.node;
        // Devices may have come and gone meanwhile.
        let units = self.units_of(&shrink.family);
        let is_same = units.len() == shrink.units.len()
            && units
                .iter()
                .all(|(_, unit)| shrink.units.iter().any(|(own, _)| Arc::ptr_eq(own, unit)));
        let image = self.image(node);
        let done = match (image, alone) {
            (Ok(image), Some(_)) if is_same && Arc::ptr_eq(&image, &shrink.image) => {
                image.resize(shrink.size).map_err(|source| Error::Resize {
                    node: node.clone(),
                    source,
                })
            }
            (Err(error), _) => Err(error),
            _ => Err(Error::StillUsedBeyond {
                node: node.clone(),
                end: shrink.size,
            }),
        };
        // If it was not cut, the units have their old capacity again.
        self.sizes_may_have_changed(node);
        done
    }

    fn units_of(&self, family: &BTreeSet<String>) -> Vec<(String, Arc<Disk>)> {
        let units = family
            .iter()
            .map(|name| Some((name.clone(), Arc::clone(self.units.get(name)?))));
        units.flatten().collect()
    }

    /// Where the nodes of a node's family end, when it has this size.
    fn ends(&self, node: &str, size: u64) -> Result<BTreeMap<String, u64>, Error> {
        let mut ends = BTreeMap::from([(node.to_owned(), size)]);
        let (mut at, mut end) = (self.model.node(node), size);
        while let Some(node) = at {
            if let NodeDriver::Raw { offset, .. } = node.driver {
                end = end.saturating_add(offset);
            }
            at = node.driver.file().and_then(|file| self.model.node(file));
            if let Some(below) = at {
                ends.insert(below.name.clone(), end);
            }
        }
        // From below to above, however they were declared.
        loop {
            let known = ends.len();
            for node in self.model.nodes() {
                let below = node.driver.file().and_then(|file| ends.get(file));
                let (Some(&below), false) = (below, ends.contains_key(&node.name)) else {
                    continue;
                };
                let end = match &node.driver {
                    NodeDriver::Raw {
                        offset,
                        size: Some(size),
                        ..
                    } => {
                        if offset.saturating_add(*size) > below {
                            let name = node.name.clone();
                            return Err(model::Error::StillUsed {
                                name: node.driver.file().unwrap_or_default().to_owned(),
                                by: format!("node {name:?}, which is a part of it and needs all of its size="),
                            }
                            .into());
                        }
                        *size
                    }
                    NodeDriver::Raw { offset, .. } => below.saturating_sub(*offset),
                    _ => below,
                };
                ends.insert(node.name.clone(), end);
            }
            if ends.len() == known {
                return Ok(ends);
            }
        }
    }

    /// Whether the image can be cut at all: what cannot must not disturb guests.
    fn can_shrink(&self, node: &str, image: &dyn Image) -> bool {
        let mut at = self.model.node(node);
        while let Some(node) = at {
            match &node.driver {
                NodeDriver::Raw { size: None, .. }
                | NodeDriver::Throttle { .. }
                | NodeDriver::Blkdebug { .. } => {
                    at = node.driver.file().and_then(|file| self.model.node(file));
                }
                NodeDriver::File { .. } | NodeDriver::Null { .. } | NodeDriver::Qcow2 { .. } => {
                    return !image.info().read_only;
                }
                _ => return false,
            }
        }
        false
    }
}
