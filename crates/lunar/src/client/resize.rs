//! `lunar resize`: an image grows or shrinks under its guest.

use anyhow::{Context, bail};
use lunar_host::property;
use lunar_monitor::Client;
use serde_json::{Value, json};

use super::{connect, disk, tell, tree};
use crate::Failure;
use crate::args::Resize;
use crate::qemu::size;

/// A size, or how much more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// This many bytes.
    To(u64),
    /// This many bytes more than now.
    By(u64),
}

/// Reads `10G` or `+10G`.
pub fn parse(text: &str) -> Result<Size, String> {
    let (more, number) = match text.strip_prefix('+') {
        Some(number) => (true, number),
        None => (false, text),
    };
    let bytes = property::size(number);
    let bytes = bytes.ok_or("must be a number of bytes, or with a unit as in 10G, or +10G")?;
    Ok(if more {
        Size::By(bytes)
    } else {
        Size::To(bytes)
    })
}

/// Has it done.
pub fn run(options: &Resize) -> Result<(), Failure> {
    resize(options).map_err(Failure::Runtime)
}

fn resize(options: &Resize) -> anyhow::Result<()> {
    let mut client = connect(&options.at)?;
    let (node, from) = find(&mut client, &options.name)?;
    let to = match options.size {
        Size::To(bytes) => bytes,
        Size::By(bytes) => from
            .checked_add(bytes)
            .with_context(|| format!("{}: no image is so large", options.name))?,
    };
    if to < from && !options.force {
        bail!(
            "{} has {}; what is behind the first {} would be lost, so it takes --force",
            options.name,
            size(from.into()),
            size(to.into())
        );
    }
    let arguments = json!({"node-name": node, "size": to, "force": options.force});
    client.execute::<Value>("block_resize", arguments)?;
    let (name, from, to) = (&options.name, size(from.into()), size(to.into()));
    tell(&format!("{name}: {to}, was {from}\n")).map(drop)
}

/// The node behind the name of a disk, a drive or a node, and its size.
fn find(client: &mut Client, wanted: &str) -> anyhow::Result<(String, u64)> {
    let controllers = tree(client)?;
    if let Some(disk) = disk(&controllers, wanted) {
        return Ok((disk.node_name.clone(), disk.size));
    }
    let drives: Vec<Value> = client.execute("query-block", json!({}))?;
    let drive = drives
        .iter()
        .find(|drive| drive.get("device").and_then(Value::as_str) == Some(wanted))
        .and_then(|drive| drive.get("inserted"));
    let nodes: Vec<Value> = client.execute("query-named-block-nodes", json!({}))?;
    let node = nodes
        .iter()
        .find(|node| node.get("node-name").and_then(Value::as_str) == Some(wanted));
    let found = drive.or(node).and_then(|found| {
        let name = found.get("node-name")?.as_str()?;
        let size = found.pointer("/image/virtual-size")?.as_u64()?;
        Some((name.to_owned(), size))
    });
    found.with_context(|| format!("there is no disk, drive or node {wanted:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_absolute_or_more() {
        assert_eq!(parse("512"), Ok(Size::To(512)));
        assert_eq!(parse("1.5G"), Ok(Size::To(3 << 29)));
        assert_eq!(parse("+10G"), Ok(Size::By(10 << 30)));
        for wrong in ["", "+", "++1G", "-1G", "ten", "1X"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
