//! The subcommands that give one command to a running server, or ask it something.
//!
//! Each is a session with the server's monitor, as any program may have it: nothing here can do what QMP cannot.

pub mod attach;
pub mod detach;
pub mod events;
pub mod ls;
pub mod media;
pub mod resize;
pub mod stats;
mod table;
pub mod throttle;

use std::io::Write;
use std::path::Path;

use anyhow::{anyhow, bail};
use lunar_monitor::{Client, ClientError, ScsiController, ScsiDisk};
use serde_json::{Value, json};

use crate::args::At;
use crate::{Failure, runtime};

/// A session with the server that is meant.
pub fn connect(at: &At) -> anyhow::Result<Client> {
    listen(at, |_| {})
}

/// The same, for one who wants events, too.
pub fn listen(at: &At, event: impl FnMut(Value) + Send + 'static) -> anyhow::Result<Client> {
    match &at.monitor {
        Some(path) => Ok(Client::connect(path, event)?),
        None => only(event),
    }
}

/// A session with the only server that runs.
fn only(event: impl FnMut(Value) + Send + 'static) -> anyhow::Result<Client> {
    let mut servers = runtime::servers();
    servers.retain(|path| std::os::unix::net::UnixStream::connect(path).is_ok());
    match servers.as_slice() {
        [] => bail!(
            "no server of this user is running; start one with lunar serve, or name its monitor with --monitor PATH"
        ),
        [path] => Ok(Client::connect(path, event)?),
        several => {
            let mut text =
                String::from("several servers are running; choose one with --monitor PATH:");
            for path in several {
                text.push_str(&format!("\n  {}  {}", path.display(), served(path)));
            }
            bail!(text)
        }
    }
}

/// How people know the server at `path`: by its controllers.
fn served(path: &Path) -> String {
    let controllers = Client::connect(path, |_| {}).and_then(|mut client| tree(&mut client));
    match controllers {
        Ok(controllers) if controllers.is_empty() => "no controllers".to_owned(),
        Ok(controllers) => {
            let names: Vec<_> = controllers.iter().map(name).collect();
            names.join(", ")
        }
        Err(error) => error.to_string(),
    }
}

/// The controllers of a server, with their disks.
pub fn tree(client: &mut Client) -> Result<Vec<ScsiController>, ClientError> {
    client.execute("x-lunar-scsi", json!({}))
}

/// The disk that goes by a name or is at a place in the object tree.
fn disk<'a>(controllers: &'a [ScsiController], wanted: &str) -> Option<&'a ScsiDisk> {
    let disks = controllers.iter().flat_map(|it| &it.disks);
    let named = disks.filter(|disk| disk.name == wanted || disk.path == wanted);
    // An id counts more than what is only shown as a name.
    named.min_by_key(|disk| disk.id.is_none())
}

/// What people call a controller.
fn name(controller: &ScsiController) -> &str {
    controller.id.as_deref().unwrap_or(&controller.bus)
}

/// `lunar cont`.
pub fn cont(at: &At) -> Result<(), Failure> {
    order(at, "cont")
}

/// `lunar pause`.
pub fn pause(at: &At) -> Result<(), Failure> {
    order(at, "stop")
}

fn order(at: &At, command: &str) -> Result<(), Failure> {
    let done = connect(at).and_then(|mut client| Ok(client.execute::<Value>(command, json!({}))?));
    done.map(drop).map_err(Failure::Runtime)
}

/// Writes to standard output; `false` if nobody reads there any more.
fn tell(text: &str) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(anyhow!(error).context("standard output")),
    }
}
