//! `lunar eject` and `lunar insert`: the medium of a removable disk is taken out, or changed.

use anyhow::Context;
use lunar_monitor::Client;
use serde_json::{Map, Value, json};

use super::{connect, disk, tell, tree};
use crate::Failure;
use crate::args::{Eject, Insert};
use crate::qemu::size;

/// `lunar eject`.
pub fn eject(options: &Eject) -> Result<(), Failure> {
    take_out(options).map_err(Failure::Runtime)
}

/// `lunar insert`.
pub fn insert(options: &Insert) -> Result<(), Failure> {
    put_in(options).map_err(Failure::Runtime)
}

fn take_out(options: &Eject) -> anyhow::Result<()> {
    let mut client = connect(&options.at)?;
    let mut arguments = named(&mut client, &options.name)?;
    arguments.insert("force".to_owned(), json!(options.force));
    client.execute::<Value>("eject", arguments.into())?;
    Ok(())
}

fn put_in(options: &Insert) -> anyhow::Result<()> {
    // The server has another working directory.
    let image = &options.image;
    let path = std::path::absolute(image).with_context(|| image.display().to_string())?;
    let path = path.to_str().context("the path is not UTF-8")?;
    let mut client = connect(&options.at)?;
    let mut arguments = named(&mut client, &options.name)?;
    let mode = match options.read_only {
        true => "read-only",
        false => "read-write",
    };
    arguments.insert("filename".to_owned(), json!(path));
    arguments.insert("read-only-mode".to_owned(), json!(mode));
    arguments.insert("force".to_owned(), json!(options.force));
    if let Some(format) = &options.format {
        arguments.insert("format".to_owned(), json!(format));
    }
    let named = arguments.clone();
    client.execute::<Value>("blockdev-change-medium", arguments.into())?;
    let drives: Vec<Value> = client.execute("query-block", json!({}))?;
    let is_it = |drive: &&Value| {
        [("device", "device"), ("id", "qdev")]
            .iter()
            .any(|(by, member)| named.contains_key(*by) && named.get(*by) == drive.get(member))
    };
    let bytes = drives
        .iter()
        .find(is_it)
        .and_then(|drive| drive.pointer("/inserted/image/virtual-size")?.as_u64());
    let text = match bytes {
        Some(bytes) => format!("{}: {}\n", options.name, size(bytes.into())),
        None => format!("{}: inserted, and taken out again\n", options.name),
    };
    tell(&text).map(drop)
}

/// How the monitor is told which drive is meant: by a device, or else by the drive's own name.
fn named(client: &mut Client, wanted: &str) -> anyhow::Result<Map<String, Value>> {
    let controllers = tree(client)?;
    let (by, name) = match disk(&controllers, wanted) {
        Some(disk) => ("id", disk.id.as_ref().unwrap_or(&disk.path).as_str()),
        None => ("device", wanted),
    };
    Ok(Map::from_iter([(by.to_owned(), json!(name))]))
}
