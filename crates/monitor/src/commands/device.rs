//! Devices: controllers and disks.

use std::sync::Arc;

use lunar_host::Host;
use lunar_host::catalog::{self, DeviceKind};
use lunar_host::keyval::Options;
use lunar_host::model;
use lunar_host::property::{Kind, Property};
use serde_json::{Map, Value};

use crate::Error;
use crate::bridge::with_patience;
use crate::schema::{Empty, qapi};

qapi! {
    /// A device by its id or path.
    struct DeviceId {
        id: String,
    }

    /// A kind of device.
    struct TypeName {
        typename: String,
    }

    /// A property of an object or of a kind of device.
    struct ObjectPropertyInfo {
        name: String,
        kind = "type": String,
        description: Option<String>,
        default_value = "default-value": Option<Value>,
    }

    /// A device is gone.
    struct DeviceDeleted {
        device: Option<String>,
        path: String,
    }

    /// A tray was opened or closed.
    struct DeviceTrayMoved {
        device: String,
        id: String,
        tray_open = "tray-open": bool,
    }
}

/// `device_add`.
pub fn add(host: &Arc<Host>, arguments: Value) -> Result<Empty, Error> {
    add_options(host, object_options(arguments)?)
}

/// The same, from options however they were written.
pub fn add_options(host: &Arc<Host>, options: Options) -> Result<Empty, Error> {
    let driver = options.get("driver").unwrap_or("device");
    let origin = match options.get("id") {
        Some(id) => format!("device {id}"),
        None => format!("device {driver}"),
    };
    host.add_device(options, &origin)?;
    Ok(Empty {})
}

/// Arguments as options.
pub fn object_options(arguments: Value) -> Result<Options, Error> {
    let object: Map<String, Value> = match arguments {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    Options::from_object(&object).map_err(|error| Error::generic(error.to_string()))
}

/// `device_del`.
pub fn remove(host: &Arc<Host>, arguments: DeviceId) -> Result<Empty, Error> {
    remove_named(host, &arguments.id)
}

/// The same, by name alone.
pub fn remove_named(host: &Arc<Host>, id: &str) -> Result<Empty, Error> {
    let host = Arc::clone(host);
    let id = id.to_owned();
    // What the host refuses, it refuses at once; the waiting is for commands in flight.
    with_patience("device_del", move || Ok(host.remove_device(&id)?))?;
    Ok(Empty {})
}

/// `device-list-properties`.
pub fn list_properties(
    _: &Arc<Host>,
    arguments: TypeName,
) -> Result<Vec<ObjectPropertyInfo>, Error> {
    let device =
        model::device(&arguments.typename).map_err(|_| Error::no_device(&arguments.typename))?;
    Ok(match device.kind {
        DeviceKind::Controller => catalog::CONTROLLER
            .iter()
            .copied()
            .flatten()
            .map(info)
            .collect(),
        DeviceKind::Disk => catalog::DISK.iter().map(info).collect(),
    })
}

fn info<T>(row: &Property<T>) -> ObjectPropertyInfo {
    let text = row.default;
    let default = match &row.kind {
        _ if text.is_empty() => None,
        Kind::Bool(_) => Some(Value::Bool(text == "on")),
        Kind::Size(..) | Kind::U16(..) | Kind::U32(..) | Kind::U64(..) | Kind::Choose(..) => {
            text.parse::<i64>().ok().map(Value::from)
        }
        _ => Some(Value::from(text)),
    };
    // A default that is no value of the type is a remark.
    let remark = match (&default, text) {
        (None, text) if !text.is_empty() => format!("{} (default: {text})", row.description),
        _ => row.description.to_owned(),
    };
    ObjectPropertyInfo {
        name: row.name.to_owned(),
        kind: row.kind.to_string(),
        description: Some(remark),
        default_value: default,
    }
}
