//! `qom-set`: what can be changed of objects while they are in use.

use std::sync::Arc;

use lunar_host::catalog::{self, IoThreadOptions, PlainLimits};
use lunar_host::{Host, Throttling, property};
use serde_json::Value;

use super::device::object_options;
use crate::Error;
use crate::bridge::with_patience;
use crate::schema::{Empty, qapi};

qapi! {
    /// A property of an object, and the value that it is to have.
    struct QomSet {
        path: String,
        property: String,
        value: Value,
    }
}

/// `qom-set`: the limits of a throttle group, and of a controller its thread and how far its interrupts are held back, and how
/// long a thread looks for work.
pub fn set(host: &Arc<Host>, arguments: QomSet) -> Result<Empty, Error> {
    let QomSet {
        path,
        property,
        value,
    } = arguments;
    let mut controllers = host.controllers().into_iter();
    let controller = controllers.find(|c| c.path == path || c.id.as_ref() == Some(&path));
    if let Some(controller) = controller {
        if property == "iothread" {
            return set_thread(host, controller.path, &value);
        }
        if catalog::COALESCING.iter().any(|row| row.name == property) {
            return set_coalescing(host, controller.path, property, &value);
        }
    }
    let name = path.strip_prefix("/objects/").unwrap_or(&path);
    let mut groups = host.throttle_groups().into_iter();
    if let Some(group) = groups.find(|group| group.group == name) {
        return set_limits(host, group, &property, value);
    }
    if property == "poll-max-ns" && host.iothreads().iter().any(|thread| thread.id == name) {
        return set_poll(host, name, &value);
    }
    // There is no such object, or nothing of it can be set.
    super::qom::check(host, &path)?;
    Err(Error::generic(format!(
        "Property '{property}' of '{path}' cannot be set"
    )))
}

fn set_limits(
    host: &Arc<Host>,
    group: Throttling,
    property: &str,
    value: Value,
) -> Result<Empty, Error> {
    if property != "limits" {
        return Err(Error::generic(format!(
            "Property 'throttle-group.{property}' cannot be set; limits can"
        )));
    }
    if !value.is_object() {
        return Err(Error::generic(
            "Invalid parameter type for 'limits', expected: object",
        ));
    }
    // What is not said stays, as in QEMU.
    let mut limits = PlainLimits(group.limits);
    let options = object_options(value)?;
    property::apply(
        &mut limits,
        "throttle-group",
        &options,
        &[catalog::PLAIN_LIMITS],
    )
    .map_err(|error| Error::generic(error.to_string()))?;
    host.set_group_limits(&group.group, limits.0)?;
    Ok(Empty {})
}

/// Moves a controller's queues to a thread, by its id or path; an empty one stands for those that serve all controllers.
fn set_thread(host: &Arc<Host>, controller: String, value: &Value) -> Result<Empty, Error> {
    let Some(thread) = value.as_str() else {
        return Err(Error::generic(
            "Invalid parameter type for 'iothread', expected: string",
        ));
    };
    let thread = thread.strip_prefix("/objects/").unwrap_or(thread);
    let thread = (!thread.is_empty()).then(|| thread.to_owned());
    let host = Arc::clone(host);
    // What the host refuses, it refuses at once; the waiting is for commands in flight.
    with_patience("qom-set", move || {
        Ok(host.move_queues(&controller, thread.as_deref())?)
    })?;
    Ok(Empty {})
}

/// Says how long a thread looks for work before it sleeps.
fn set_poll(host: &Arc<Host>, thread: &str, value: &Value) -> Result<Empty, Error> {
    let Some(value) = value.as_u64() else {
        return Err(Error::generic(
            "Invalid parameter type for 'poll-max-ns', expected: int",
        ));
    };
    let mut options = IoThreadOptions::default();
    let change = [("poll-max-ns".to_owned(), value.to_string())];
    let change = change.into_iter().collect();
    property::apply(&mut options, "iothread", &change, &[catalog::IOTHREAD])
        .map_err(|error| Error::generic(error.to_string()))?;
    host.set_poll(thread, options.poll.unwrap_or_default())?;
    Ok(Empty {})
}

/// Says how far a controller's interrupts are held back.
fn set_coalescing(
    host: &Arc<Host>,
    controller: String,
    property: String,
    value: &Value,
) -> Result<Empty, Error> {
    let Some(value) = value.as_u64() else {
        return Err(Error::generic(format!(
            "Invalid parameter type for '{property}', expected: uint32"
        )));
    };
    let host = Arc::clone(host);
    // Whoever stops or moves the controller's queues may be waiting for commands in flight.
    with_patience("qom-set", move || {
        Ok(host.change_controller(&controller, &property, &value.to_string())?)
    })?;
    Ok(Empty {})
}
