//! `lunar detach`: a device goes, and the drive with it that only it has used.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::{Value, json};

use super::{listen, tree};
use crate::Failure;
use crate::args::Detach;

/// Returns when id and address are free again.
pub fn run(options: &Detach) -> Result<(), Failure> {
    detach(options).map_err(Failure::Runtime)
}

fn detach(options: &Detach) -> anyhow::Result<()> {
    let (sender, events) = channel();
    let mut client = listen(&options.at, move |event| {
        // Nobody may listen any more.
        let _ = sender.send(event);
    })?;
    // A disk without an id has its path, and people know it by its drive.
    let controllers = tree(&mut client)?;
    let disks = || controllers.iter().flat_map(|it| &it.disks);
    let known = disks().any(|disk| disk.id.as_deref() == Some(&options.id));
    let mut unnamed = disks().filter(|disk| disk.id.is_none() && disk.name == options.id);
    let id = match unnamed.next() {
        Some(disk) if !known => disk.path.clone(),
        _ => options.id.clone(),
    };
    client.execute::<Value>("device_del", json!({"id": id}))?;
    let end = Instant::now() + Duration::from_secs(options.timeout.into());
    loop {
        match events.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(event) if is_about(&event, &id) => return Ok(()),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => bail!(
                "{}: after {} s it still has commands in flight; it goes when they have ended",
                options.id,
                options.timeout
            ),
            Err(RecvTimeoutError::Disconnected) => bail!("the server has closed the connection"),
        }
    }
}

fn is_about(event: &Value, id: &str) -> bool {
    let names = |pointer| event.pointer(pointer).and_then(Value::as_str) == Some(id);
    event.get("event").and_then(Value::as_str) == Some("DEVICE_DELETED")
        && (names("/data/device") || names("/data/path"))
}
