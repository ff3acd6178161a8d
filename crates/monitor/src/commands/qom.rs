//! The object tree: where QEMU keeps its devices, and what can be read of ours.

use std::sync::Arc;

use lunar_host::{ControllerInfo, DeviceInfo, Host, IoThreadInfo, Throttling, limit_values};
use serde_json::{Value, json};

use super::device::ObjectPropertyInfo;
use crate::Error;
use crate::schema::qapi;

qapi! {
    /// An object.
    struct Path {
        path: String,
    }

    /// A property of an object.
    struct PathProperty {
        path: String,
        property: String,
    }
}

/// A property that can be read: name, type, value.
type Row<T> = (&'static str, &'static str, fn(&T) -> Value);

const DISK: &[Row<DeviceInfo>] = &[
    ("type", "string", |disk| json!(disk.driver)),
    ("realized", "bool", |_| json!(true)),
    ("hotpluggable", "bool", |_| json!(true)),
    ("parent_bus", "link<bus>", |disk| json!(disk.bus)),
    ("channel", "uint32", |_| json!(0)),
    ("scsi-id", "uint32", |disk| json!(disk.target)),
    ("lun", "uint32", |disk| json!(disk.lun)),
    ("drive", "str", |disk| {
        json!(disk.drive.as_ref().unwrap_or(&disk.node))
    }),
    ("removable", "bool", |disk| json!(disk.removable)),
];

const CONTROLLER: &[Row<ControllerInfo>] = &[
    ("type", "string", |_| json!("virtio-scsi-pci")),
    ("realized", "bool", |_| json!(true)),
    ("hotpluggable", "bool", |_| json!(true)),
    ("num_queues", "uint32", |controller| {
        json!(controller.queues)
    }),
    ("iothread", "link<iothread>", |controller| {
        let path = controller
            .iothread
            .as_ref()
            .map(|id| format!("{OBJECTS}/{id}"));
        json!(path.unwrap_or_default())
    }),
    ("coalesce-us", "uint32", |controller| {
        json!(controller.coalesce_us)
    }),
    ("coalesce-max", "uint32", |controller| {
        json!(controller.coalesce_max)
    }),
    ("socket", "str", |controller| {
        json!(
            controller
                .socket
                .as_deref()
                .unwrap_or(std::path::Path::new(""))
        )
    }),
];

const THROTTLE_GROUP: &[Row<Throttling>] = &[
    ("type", "string", |_| json!("throttle-group")),
    ("limits", "ThrottleLimits", |group| {
        let values = limit_values(&group.limits).into_iter();
        Value::Object(values.map(|(name, value)| (name, json!(value))).collect())
    }),
];

const IOTHREAD: &[Row<IoThreadInfo>] = &[
    ("type", "string", |_| json!("iothread")),
    ("poll-max-ns", "int", |thread| {
        json!(u64::try_from(thread.poll.as_nanos()).unwrap_or(u64::MAX))
    }),
    ("cpus", "str", |thread| json!(thread.cpus.to_string())),
];

/// The directories of the tree, each with its place in the one above.
const ROOT: &str = "/";
const MACHINE: &str = "/machine";
const NAMED: &str = "/machine/peripheral";
const UNNAMED: &str = "/machine/peripheral-anon";
const OBJECTS: &str = "/objects";

enum Object {
    /// Name and type of each child.
    Container(Vec<(String, String)>),
    Disk(Box<DeviceInfo>),
    Controller(Box<ControllerInfo>),
    ThrottleGroup(Throttling),
    IoThread(IoThreadInfo),
}

/// `qom-list`.
pub fn list(host: &Arc<Host>, arguments: Path) -> Result<Vec<ObjectPropertyInfo>, Error> {
    let property = |name: &str, kind: &str| ObjectPropertyInfo {
        name: name.to_owned(),
        kind: kind.to_owned(),
        description: None,
        default_value: None,
    };
    Ok(match find(host, &arguments.path)? {
        Object::Container(children) => std::iter::once(property("type", "string"))
            .chain(
                children
                    .iter()
                    .map(|(name, kind)| property(name, &format!("child<{kind}>"))),
            )
            .collect(),
        Object::Disk(_) => DISK
            .iter()
            .map(|(name, kind, _)| property(name, kind))
            .collect(),
        Object::Controller(_) => CONTROLLER
            .iter()
            .map(|(name, kind, _)| property(name, kind))
            .collect(),
        Object::ThrottleGroup(_) => THROTTLE_GROUP
            .iter()
            .map(|(name, kind, _)| property(name, kind))
            .collect(),
        Object::IoThread(_) => IOTHREAD
            .iter()
            .map(|(name, kind, _)| property(name, kind))
            .collect(),
    })
}

/// Refuses a path where there is nothing.
pub fn check(host: &Arc<Host>, path: &str) -> Result<(), Error> {
    find(host, path).map(drop)
}

/// `qom-get`.
pub fn get(host: &Arc<Host>, arguments: PathProperty) -> Result<Value, Error> {
    let PathProperty { path, property } = arguments;
    let (owner, value) = match find(host, &path)? {
        Object::Container(children) => {
            let child = children.iter().find(|(name, _)| *name == property);
            let value = child.map(|(name, _)| {
                let path = path.trim_end_matches('/');
                json!(format!("{path}/{name}"))
            });
            let kind = (property == "type").then(|| json!("container"));
            ("container", kind.or(value))
        }
        Object::Disk(disk) => (disk.driver, read(DISK, &*disk, &property)),
        Object::Controller(controller) => {
            ("virtio-scsi-pci", read(CONTROLLER, &*controller, &property))
        }
        Object::ThrottleGroup(group) => ("throttle-group", read(THROTTLE_GROUP, &group, &property)),
        Object::IoThread(thread) => ("iothread", read(IOTHREAD, &thread, &property)),
    };
    value.ok_or_else(|| Error::generic(format!("Property '{owner}.{property}' not found")))
}

fn read<T>(rows: &[Row<T>], object: &T, property: &str) -> Option<Value> {
    let row = rows.iter().find(|(name, _, _)| *name == property);
    row.map(|(_, _, value)| value(object))
}

/// The object at a path, or the device with this id, as QEMU finds it by the unambiguous end of a path.
fn find(host: &Arc<Host>, path: &str) -> Result<Object, Error> {
    let container = |children: &[(&str, &str)]| {
        let owned = |(name, kind): &(&str, &str)| ((*name).to_owned(), (*kind).to_owned());
        Ok(Object::Container(children.iter().map(owned).collect()))
    };
    match path {
        ROOT => return container(&[("machine", "container"), ("objects", "container")]),
        MACHINE => {
            return container(&[
                ("peripheral", "container"),
                ("peripheral-anon", "container"),
            ]);
        }
        OBJECTS => {
            let groups = host.throttle_groups().into_iter();
            let named = groups.map(|group| (group.group, "throttle-group".to_owned()));
            let threads = host.iothreads().into_iter();
            let threads = threads.map(|thread| (thread.id, "iothread".to_owned()));
            return Ok(Object::Container(named.chain(threads).collect()));
        }
        NAMED | UNNAMED => {
            let disks = host.devices().into_iter();
            let controllers = host.controllers().into_iter();
            let all = disks
                .map(|disk| (disk.path, disk.driver))
                .chain(controllers.map(|controller| (controller.path, "virtio-scsi-pci")));
            let inside = all.filter_map(|(place, kind)| {
                let name = place.strip_prefix(path)?.strip_prefix('/')?;
                Some((name.to_owned(), kind.to_owned()))
            });
            return Ok(Object::Container(inside.collect()));
        }
        _ => {}
    }
    if let Some(name) = path
        .strip_prefix(OBJECTS)
        .and_then(|name| name.strip_prefix('/'))
    {
        let mut groups = host.throttle_groups().into_iter();
        let group = groups.find(|group| group.group == name);
        let mut threads = host.iothreads().into_iter();
        let mut thread = || threads.find(|thread| thread.id == name);
        return group
            .map(Object::ThrottleGroup)
            .or_else(|| thread().map(Object::IoThread))
            .ok_or_else(|| Error::no_device(path));
    }
    match host.device(path) {
        Ok(Some(disk)) => Ok(Object::Disk(Box::new(disk))),
        Ok(None) => {
            let controllers = host.controllers().into_iter();
            let mut found =
                controllers.filter(|found| found.path == path || found.id.as_deref() == Some(path));
            found
                .next()
                .map(|found| Object::Controller(Box::new(found)))
                .ok_or_else(|| Error::no_device(path))
        }
        Err(_) => Err(Error::no_device(path)),
    }
}
