//! Throttle groups by name, and which limits are whose.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lunar_block::{Error as BlockError, Limits, ThrottleGroup};
use serde::{Serialize, Serializer};

use crate::live::Live;
use crate::model::{self, Place, Taken};

/// The groups that there are. Those that are objects stay; others are there as long as they limit something.
#[derive(Clone, Debug, Default)]
pub(crate) struct Groups(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    objects: BTreeMap<String, Arc<ThrottleGroup>>,
    others: BTreeMap<String, Weak<ThrottleGroup>>,
}

impl Groups {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A group that is there.
    pub fn get(&self, name: &str) -> Option<Arc<ThrottleGroup>> {
        let known = self.known();
        let object = known.objects.get(name).cloned();
        object.or_else(|| known.others.get(name)?.upgrade())
    }

    /// A group that is there, or a new one without limits.
    pub fn get_or_make(&self, name: &str) -> Result<Arc<ThrottleGroup>, BlockError> {
        if let Some(group) = self.get(name) {
            return Ok(group);
        }
        let group = ThrottleGroup::new(Limits::default())?;
        let mut known = self.known();
        known.others.retain(|_, group| group.strong_count() > 0);
        known.others.insert(name.to_owned(), Arc::downgrade(&group));
        Ok(group)
    }

    /// Makes a group an object.
    fn declare(&self, name: &str, limits: Limits) -> Result<(), model::Error> {
        if self.get(name).is_some() {
            return Err(model::Error::DuplicateId {
                id: name.to_owned(),
                taken: Taken::Object,
            });
        }
        let group = ThrottleGroup::new(limits).map_err(model::Error::Filter)?;
        self.known().objects.insert(name.to_owned(), group);
        Ok(())
    }

    /// Whether anything is in a group.
    fn is_used(&self, name: &str) -> bool {
        let known = self.known();
        let object = known.objects.get(name);
        object.is_some_and(|group| Arc::strong_count(group) > 1)
    }
}

/// A throttle group, or what somebody is limited to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Throttling {
    /// The group's name; a drive that shares its limits with nobody has one of its own name.
    pub group: String,
    /// The limits.
    #[serde(serialize_with = "by_name")]
    pub limits: Limits,
}

/// Those that are set, as QEMU names them.
fn by_name<S: Serializer>(limits: &Limits, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(
        limit_values(limits)
            .into_iter()
            .filter(|(_, value)| *value > 0),
    )
}

/// Every value of limits with QEMU's name for it; one that is not set is 0.
pub fn limit_values(limits: &Limits) -> Vec<(String, u64)> {
    let mut values = Vec::new();
    for (name, limit) in limits.named() {
        values.push((name.to_owned(), limit.average));
        values.push((format!("{name}-max"), limit.burst));
        let length = if limit.burst > 0 {
            limit.burst_seconds
        } else {
            0
        };
        values.push((format!("{name}-max-length"), length));
    }
    values.push(("iops-size".to_owned(), limits.iops_size));
    values
}

/// Whose limits.
#[derive(Clone, Copy, Debug)]
pub enum Limited<'a> {
    /// A drive, by its name.
    Drive(&'a str),
    /// A disk, by its id or its place in the object tree.
    Device(&'a str),
}

impl Live {
    /// Makes the groups that are declared.
    pub fn make_groups(&self) -> Result<(), model::Error> {
        let mut declared = self.model.throttle_groups();
        declared.try_for_each(|group| self.groups.declare(&group.id, group.limits))
    }

    pub fn make_group(&self, id: &str) -> Result<(), model::Error> {
        let mut declared = self.model.throttle_groups();
        match declared.find(|group| group.id == id) {
            Some(group) => self.groups.declare(id, group.limits),
            None => Ok(()),
        }
    }

    pub fn remove_group(&mut self, id: &str) -> Result<(), model::Error> {
        self.model.check_unused_object(id)?;
        if let Some(by) = self.units.in_group(id).filter(|_| self.groups.is_used(id)) {
            let name = id.to_owned();
            return Err(model::Error::StillUsed { name, by });
        }
        self.model.remove_object(id)?;
        self.groups.known().objects.remove(id);
        Ok(())
    }

    pub fn set_group_limits(&mut self, id: &str, limits: Limits) -> Result<(), model::Error> {
        self.model.set_group_limits(id, limits)?;
        match self.groups.get(id) {
            Some(group) => group.set(limits).map_err(model::Error::Filter),
            None => Ok(()),
        }
    }

    /// Limits a drive, or a device: in this group, or the one that it is in, or one of its own. Without limits it leaves
    /// its group.
    pub fn set_limits(
        &mut self,
        whose: Limited<'_>,
        limits: Limits,
        group: Option<&str>,
    ) -> Result<(), model::Error> {
        limits.check().map_err(model::Error::Filter)?;
        let absent = |what, name: &str| model::Error::Absent {
            what,
            name: name.to_owned(),
        };
        let (own, drive, node) = match whose {
            Limited::Drive(name) => {
                let drive = self.model.drive(name);
                let drive = drive.ok_or_else(|| absent(Taken::Drive, name))?;
                (name, Some(name.to_owned()), drive.node.clone())
            }
            Limited::Device(name) => {
                let Place::Disk { bus, address } = self.model.device(name)? else {
                    return Err(absent(Taken::Device, name));
                };
                let disk = self.model.disk(bus, *address);
                let disk = disk.ok_or_else(|| absent(Taken::Device, name))?;
                let drive = disk.options.drive.clone();
                let drive = drive.filter(|drive| self.model.drive(drive).is_some());
                (name, drive, disk.node.clone())
            }
        };
        let current = match (&drive, self.units.throttling(&node)) {
            (_, Some(throttling)) => Some(throttling.group),
            (Some(drive), None) => self
                .model
                .drive(drive)
                .and_then(|d| d.throttle_group.clone()),
            (None, None) => None,
        };
        let name = (!limits.is_unlimited()).then(|| {
            let own = drive.as_deref().unwrap_or(own);
            group
                .map(str::to_owned)
                .or(current)
                .unwrap_or_else(|| own.to_owned())
        });
        let refuse = model::Error::Filter;
        let group = match &name {
            Some(name) => {
                let group = self.groups.get_or_make(name).map_err(refuse)?;
                group.set(limits).map_err(refuse)?;
                if self.model.throttle_groups().any(|group| group.id == *name) {
                    self.model.set_group_limits(name, limits)?;
                }
                Some(group)
            }
            None => None,
        };
        let drive = match &name {
            // Limits are declared with a drive.
            Some(_) => drive.or_else(|| self.model.give_drive(&node)),
            None => drive,
        };
        if let Some(drive) = drive {
            let shared = name.clone().filter(|name| *name != drive);
            self.model.set_drive_limits(&drive, limits, shared);
        }
        self.units.set_group(&node, name.zip(group));
        Ok(())
    }

    /// What limits a node: its device, its drive's declaration, or itself.
    pub fn throttling(&self, node: &model::Node) -> Option<Throttling> {
        if let Some(name) = node.driver.throttle_group() {
            return Some(Throttling {
                group: name.to_owned(),
                limits: self.groups.get(name)?.limits(),
            });
        }
        if let Some(limited) = self.units.throttling(&node.name) {
            return Some(limited);
        }
        if self.units.get(&node.name).is_some() {
            return None;
        }
        let drive = self.model.drives().find(|drive| drive.node == node.name)?;
        let limited = !drive.limits.is_unlimited();
        limited.then(|| Throttling {
            group: drive
                .throttle_group
                .clone()
                .unwrap_or_else(|| drive.id.clone()),
            limits: drive.limits,
        })
    }

    pub fn group_infos(&self) -> Vec<Throttling> {
        let declared = self.model.throttle_groups();
        let info = |group: &model::ThrottleGroup| Throttling {
            group: group.id.clone(),
            limits: self
                .groups
                .get(&group.id)
                .map_or(group.limits, |group| group.limits()),
        };
        declared.map(info).collect()
    }
}
