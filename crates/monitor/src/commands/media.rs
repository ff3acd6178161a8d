//! Trays, and what is in them.

use std::sync::Arc;

use lunar_host::catalog::Format;
use lunar_host::model::Bay;
use lunar_host::{Host, MediaError, ReadOnlyMode};

use crate::Error;
use crate::bridge::with_patience;
use crate::schema::{Empty, qapi};

qapi! {
    /// A drive (`device`) or a device (`id`).
    struct Eject {
        device: Option<String>,
        id: Option<String>,
        force: Option<bool>,
    }

    /// A drive (`device`) or a device (`id`).
    struct BlockdevOpenTray {
        device: Option<String>,
        id: Option<String>,
        force: Option<bool>,
    }

    /// A drive (`device`) or a device (`id`).
    struct BlockdevTray {
        device: Option<String>,
        id: Option<String>,
    }

    /// A device, and the node that is to be in it.
    struct BlockdevInsertMedium {
        id: String,
        node_name = "node-name": String,
    }

    /// A device.
    struct BlockdevRemoveMedium {
        id: String,
    }

    /// Whether a medium refuses writes.
    enum BlockdevChangeReadOnlyMode {
        /// As the one before.
        Retain = "retain",
        /// It does.
        ReadOnly = "read-only",
        /// It does not.
        ReadWrite = "read-write",
    }

    /// A drive (`device`) or a device (`id`), and the file that is to be in it.
    struct BlockdevChangeMedium {
        device: Option<String>,
        id: Option<String>,
        filename: String,
        format: Option<String>,
        force: Option<bool>,
        read_only_mode = "read-only-mode": Option<BlockdevChangeReadOnlyMode>,
    }
}

/// A drive that is meant, for the time after the answer.
#[derive(Clone)]
enum Named {
    Drive(String),
    Device(String),
}

impl Named {
    fn new(device: Option<String>, id: Option<String>) -> Result<Named, Error> {
        match (device, id) {
            (Some(drive), None) => Ok(Named::Drive(drive)),
            (None, Some(device)) => Ok(Named::Device(device)),
            _ => Err(Error::generic("Need exactly one of 'device' and 'id'")),
        }
    }

    /// As people say it: a drive before a device.
    fn known(host: &Host, name: &str) -> Named {
        match host.model().drive(name) {
            Some(_) => Named::Drive(name.to_owned()),
            None => Named::Device(name.to_owned()),
        }
    }

    fn bay(&self) -> Bay<'_> {
        match self {
            Named::Drive(name) => Bay::Drive(name),
            Named::Device(name) => Bay::Device(name),
        }
    }

    /// Does what may have to wait for commands in flight.
    fn on(
        self,
        host: &Arc<Host>,
        command: &'static str,
        order: impl FnOnce(&Host, Bay<'_>) -> Result<(), lunar_host::Error> + Send + 'static,
    ) -> Result<Empty, Error> {
        host.model().bay(self.bay()).map_err(|_| self.unknown())?;
        let host = Arc::clone(host);
        with_patience(command, move || Ok(order(&host, self.bay())?))?;
        Ok(Empty {})
    }

    fn unknown(&self) -> Error {
        Error::no_device(self.bay().name())
    }
}

/// `eject`.
pub fn eject(host: &Arc<Host>, arguments: Eject) -> Result<Empty, Error> {
    let Eject { device, id, force } = arguments;
    let force = force.unwrap_or(false);
    let named = Named::new(device, id)?;
    named.on(host, "eject", move |host, bay| host.eject(bay, force))
}

/// The same, by name alone.
pub fn eject_named(host: &Arc<Host>, name: &str, force: bool) -> Result<Empty, Error> {
    let named = Named::known(host, name);
    named.on(host, "eject", move |host, bay| host.eject(bay, force))
}

/// `blockdev-open-tray`. That the guest has been asked is no error, as in QEMU.
pub fn open_tray(host: &Arc<Host>, arguments: BlockdevOpenTray) -> Result<Empty, Error> {
    let BlockdevOpenTray { device, id, force } = arguments;
    let force = force.unwrap_or(false);
    let open = move |host: &Host, bay: Bay<'_>| match host.open_tray(bay, force) {
        Err(lunar_host::Error::Media(MediaError::Locked(_))) => Ok(()),
        other => other,
    };
    Named::new(device, id)?.on(host, "blockdev-open-tray", open)
}

/// `blockdev-close-tray`.
pub fn close_tray(host: &Arc<Host>, arguments: BlockdevTray) -> Result<Empty, Error> {
    let named = Named::new(arguments.device, arguments.id)?;
    named.on(host, "blockdev-close-tray", |host, bay| {
        host.close_tray(bay)
    })
}

/// `blockdev-insert-medium`.
pub fn insert(host: &Arc<Host>, arguments: BlockdevInsertMedium) -> Result<Empty, Error> {
    let BlockdevInsertMedium { id, node_name } = arguments;
    if host.model().node(&node_name).is_none() {
        return Err(Error::generic(format!(
            "Cannot find device='' nor node-name='{node_name}'"
        )));
    }
    let insert = move |host: &Host, bay: Bay<'_>| host.insert_medium(bay, &node_name);
    Named::Device(id).on(host, "blockdev-insert-medium", insert)
}

/// `blockdev-remove-medium`.
pub fn remove(host: &Arc<Host>, arguments: BlockdevRemoveMedium) -> Result<Empty, Error> {
    let named = Named::Device(arguments.id);
    named.on(host, "blockdev-remove-medium", |host, bay| {
        host.remove_medium(bay)
    })
}

/// `blockdev-change-medium`.
pub fn change(host: &Arc<Host>, arguments: BlockdevChangeMedium) -> Result<Empty, Error> {
    let BlockdevChangeMedium {
        device,
        id,
        filename,
        format,
        force,
        read_only_mode,
    } = arguments;
    let mode = match read_only_mode {
        None | Some(BlockdevChangeReadOnlyMode::Retain) => ReadOnlyMode::Retain,
        Some(BlockdevChangeReadOnlyMode::ReadOnly) => ReadOnlyMode::ReadOnly,
        Some(BlockdevChangeReadOnlyMode::ReadWrite) => ReadOnlyMode::ReadWrite,
    };
    let named = Named::new(device, id)?;
    change_to(
        host,
        named,
        filename,
        format.as_deref(),
        mode,
        force.unwrap_or(false),
    )
}

/// The same, by words.
pub fn change_named(
    host: &Arc<Host>,
    name: &str,
    filename: &str,
    format: Option<&str>,
    mode: Option<&str>,
    force: bool,
) -> Result<Empty, Error> {
    let mode = match mode {
        None | Some("retain") => ReadOnlyMode::Retain,
        Some("read-only") => ReadOnlyMode::ReadOnly,
        Some("read-write") => ReadOnlyMode::ReadWrite,
        Some(other) => {
            return Err(Error::generic(format!(
                "invalid read-only-mode '{other}' (there are: retain, read-only, read-write)"
            )));
        }
    };
    change_to(
        host,
        Named::known(host, name),
        filename.to_owned(),
        format,
        mode,
        force,
    )
}

fn change_to(
    host: &Arc<Host>,
    named: Named,
    filename: String,
    format: Option<&str>,
    mode: ReadOnlyMode,
    force: bool,
) -> Result<Empty, Error> {
    let format = match format {
        None => None,
        Some("raw") => Some(Format::Raw),
        Some("qcow2") => Some(Format::Qcow2),
        Some(other) => return Err(Error::generic(format!("Unknown driver '{other}'"))),
    };
    named.on(host, "blockdev-change-medium", move |host, bay| {
        host.change_medium(bay, &filename, format, mode, force)
    })
}
