//! Objects that are neither devices nor nodes: throttle groups and threads.

use std::time::Duration;

use lunar_block::Limits;

use super::record::{self, Record};
use super::{Error, Model, NodeDriver, Taken, name};
use crate::catalog::{self, ControllerOptions, IoThreadOptions, ObjectKind, ThrottleGroupOptions};
use crate::cpus::Cpus;
use crate::keyval::Options;
use crate::property;

/// Limits with a name, for whoever wants to share them.
#[derive(Clone, Debug)]
pub struct ThrottleGroup {
    /// Its name.
    pub id: String,
    /// What it is limited to.
    pub limits: Limits,
}

/// A thread for the controllers that name it.
#[derive(Clone, Debug)]
pub struct IoThread {
    /// Its name.
    pub id: String,
    /// How long it looks for work before it sleeps, if that is said.
    pub poll: Option<Duration>,
    /// The processors that it stays on; none are any.
    pub cpus: Cpus,
    pub(super) record: Record,
}

impl Model {
    /// The throttle groups, by name.
    pub fn throttle_groups(&self) -> impl Iterator<Item = &ThrottleGroup> {
        self.groups.values()
    }

    /// The threads that are objects, by name.
    pub fn iothreads(&self) -> impl Iterator<Item = &IoThread> {
        self.threads.values()
    }

    /// A thread by its name.
    pub fn iothread(&self, id: &str) -> Option<&IoThread> {
        self.threads.get(id)
    }

    /// `--object`: declares a throttle group or a thread. Returns its name.
    pub fn add_object(&mut self, mut options: Options) -> Result<String, Error> {
        let kind = options.take("qom-type");
        let kind = kind.ok_or(Error::Missing("the object's type"))?;
        match object(&kind)?.kind {
            ObjectKind::ThrottleGroup => {
                let mut group = ThrottleGroupOptions::default();
                property::apply(&mut group, &kind, &options, catalog::THROTTLE_GROUP)?;
                let ThrottleGroupOptions { id, limits } = group;
                let id = self.new_object(id)?;
                limits.check().map_err(Error::Filter)?;
                let group = ThrottleGroup {
                    id: id.clone(),
                    limits,
                };
                self.groups.insert(id.clone(), group);
                Ok(id)
            }
            ObjectKind::IoThread => {
                let mut thread = IoThreadOptions::default();
                property::apply(&mut thread, &kind, &options, &[catalog::IOTHREAD])?;
                let id = self.new_object(thread.id)?;
                let cpus = thread.cpus.as_deref().map(str::parse).transpose()?;
                options.set("qom-type", &kind);
                let thread = IoThread {
                    id: id.clone(),
                    poll: thread.poll,
                    cpus: cpus.unwrap_or_default(),
                    record: Record::new(self, options),
                };
                self.threads.insert(id.clone(), thread);
                Ok(id)
            }
        }
    }

    /// A name for an object that no other has.
    fn new_object(&self, id: Option<String>) -> Result<String, Error> {
        let id = id.ok_or(Error::Missing("id=NAME"))?;
        name::check(&id)?;
        if self.has_object(&id) {
            let taken = Taken::Object;
            return Err(Error::DuplicateId { id, taken });
        }
        Ok(id)
    }

    fn has_object(&self, id: &str) -> bool {
        self.groups.contains_key(id) || self.threads.contains_key(id)
    }

    /// Takes an object away that nothing uses.
    ///
    /// # Errors
    /// It is not there or in use.
    pub fn remove_object(&mut self, id: &str) -> Result<(), Error> {
        self.check_unused_object(id)?;
        self.groups.remove(id);
        self.threads.remove(id);
        Ok(())
    }

    pub(crate) fn check_unused_object(&self, id: &str) -> Result<(), Error> {
        if !self.has_object(id) {
            return Err(Error::Absent {
                what: Taken::Object,
                name: id.to_owned(),
            });
        }
        if let Some(by) = self.user_of_group(id).or_else(|| self.user_of_thread(id)) {
            let name = id.to_owned();
            return Err(Error::StillUsed { name, by });
        }
        Ok(())
    }

    /// A controller whose queues are on this thread.
    fn user_of_thread(&self, id: &str) -> Option<String> {
        let mut controllers = self.controllers().iter();
        let user = controllers.find(|found| found.options.iothread.as_deref() == Some(id));
        user.map(|controller| format!("controller {}", controller.name()))
    }

    /// A node or drive that is limited by this group.
    fn user_of_group(&self, id: &str) -> Option<String> {
        let mut nodes = self.nodes();
        let node = nodes.find(|node| node.driver.throttle_group() == Some(id));
        let mut drives = self.drives();
        let mut drive = || drives.find(|drive| drive.throttle_group.as_deref() == Some(id));
        node.map(|node| format!("node {}", node.name))
            .or_else(|| drive().map(|drive| format!("drive {}", drive.id)))
    }

    /// Gives a throttle group other limits.
    pub(crate) fn set_group_limits(&mut self, id: &str, limits: Limits) -> Result<(), Error> {
        limits.check().map_err(Error::Filter)?;
        let group = self.groups.get_mut(id).ok_or_else(|| Error::Absent {
            what: Taken::Object,
            name: id.to_owned(),
        })?;
        group.limits = limits;
        Ok(())
    }

    /// Gives a drive other limits, to share with a group or not.
    pub(crate) fn set_drive_limits(&mut self, id: &str, limits: Limits, group: Option<String>) {
        if let Some(drive) = self.drives.get_mut(id) {
            let declared = drive.record.options();
            record::set_limits(declared, "throttling", limits);
            if let Some(group) = &group {
                declared.set("throttling.group", group);
            }
            drive.limits = limits;
            drive.throttle_group = group;
        }
    }

    /// Changes a property of a controller that can be changed while it is in use; what its properties are then.
    pub(crate) fn set_controller(
        &mut self,
        bus: &str,
        property: &str,
        value: &str,
    ) -> Result<&ControllerOptions, Error> {
        let mut controllers = self.controllers.iter_mut();
        let controller = controllers.find(|controller| controller.bus == bus);
        let controller = controller.ok_or(Error::NoController)?;
        let change = [(property.to_owned(), value.to_owned())]
            .into_iter()
            .collect();
        let tables = &[catalog::COALESCING];
        property::apply(&mut controller.options, "virtio-scsi-pci", &change, tables)?;
        controller.record.options().set(property, value);
        Ok(&controller.options)
    }

    /// Says how long a thread looks for work before it sleeps.
    pub(crate) fn set_poll(&mut self, id: &str, poll: Duration) -> Result<(), Error> {
        let thread = self.threads.get_mut(id);
        let thread = thread.ok_or_else(|| Error::NoSuchThread(id.to_owned()))?;
        thread.poll = Some(poll);
        let declared = thread.record.options();
        declared.set("poll-max-ns", &poll.as_nanos().to_string());
        Ok(())
    }

    /// Says which thread serves a controller's queues.
    pub(crate) fn set_thread(&mut self, bus: &str, thread: Option<String>) {
        let mut controllers = self.controllers.iter_mut();
        if let Some(controller) = controllers.find(|controller| controller.bus == bus) {
            let declared = controller.record.options();
            match &thread {
                Some(id) => declared.set("iothread", id),
                None => drop(declared.take("iothread")),
            }
            controller.options.iothread = thread;
        }
    }

    pub(crate) fn check_thread(&self, id: &str) -> Result<(), Error> {
        match self.threads.contains_key(id) {
            true => Ok(()),
            false => Err(Error::NoSuchThread(id.to_owned())),
        }
    }

    pub(super) fn check_group(&self, id: &str) -> Result<(), Error> {
        match self.groups.contains_key(id) {
            true => Ok(()),
            false => Err(Error::NoSuchGroup(id.to_owned())),
        }
    }
}

impl NodeDriver {
    /// The group that limits a throttle node.
    pub fn throttle_group(&self) -> Option<&str> {
        match self {
            NodeDriver::Throttle { group, .. } => Some(group),
            _ => None,
        }
    }
}

/// The kind of object that is called so.
pub fn object(name: &str) -> Result<&'static catalog::Object, Error> {
    let found = catalog::OBJECTS.iter().find(|object| object.name == name);
    let mut others = catalog::NOT_MADE.iter();
    found.ok_or_else(|| match others.find(|(other, _)| *other == name) {
        Some((name, instead)) => Error::NotMade { name, instead },
        None => Error::NoSuchObject {
            name: name.to_owned(),
            names: catalog::OBJECTS.iter().map(|object| object.name).collect(),
        },
    })
}
