//! `lunar attach`: an image becomes a disk of a running guest.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use lunar_host::keyval::{DEVICE, DRIVE, Options, Value, escape};
use lunar_monitor::Client;
use serde_json::{Map, Value as Json, json};

use super::{connect, name, tell, tree};
use crate::Failure;
use crate::args::Attach;
use crate::qemu::size;

/// The longest name that is made up from a file's.
const MAX_NAME: usize = 24;

/// Adds the drive and the device, or neither.
pub fn run(options: &Attach) -> Result<(), Failure> {
    let image = Image::read(&options.image).map_err(Failure::Usage)?;
    let device = properties(options).map_err(Failure::Usage)?;
    attach(options, &image, device).map_err(Failure::Runtime)
}

/// What to attach, in the words of `--drive`, without a name.
struct Image {
    properties: String,
    /// The name that it asks for.
    id: Option<String>,
    /// What to make a name of.
    stem: String,
}

impl Image {
    /// A file that is there is an image, whatever its name; else `=` makes it properties. The server has another working
    /// directory: it gets absolute paths.
    fn read(text: &str) -> anyhow::Result<Image> {
        let mut options = match Path::new(text).exists() || !text.contains('=') {
            true => Options::parse(&format!("file={}", escape(text)), DRIVE)?,
            false => Options::parse(text, DRIVE).with_context(|| text.to_owned())?,
        };
        if options.wants_help() {
            bail!("lunar serve --drive help lists the properties");
        }
        let id = options.take("id");
        let file = options.take("file");
        let _ = options.take("if");
        let mut properties = String::from("if=none");
        let mut stem = "disk".to_owned();
        if let Some(file) = file {
            let path = std::path::absolute(&file).with_context(|| file.clone())?;
            if let Some(found) = path.file_stem() {
                stem = found.to_string_lossy().into_owned();
            }
            let path = path.to_str().context("the path is not UTF-8")?;
            properties.push_str(&format!(",file={}", escape(path)));
        }
        for (key, value) in options.iter() {
            match value {
                Value::Text(text) => properties.push_str(&format!(",{key}={}", escape(text))),
                Value::Bare => properties.push_str(&format!(",{key}")),
            }
        }
        Ok(Image {
            properties,
            id,
            stem,
        })
    }
}

/// The properties of the device, without id and drive.
fn properties(options: &Attach) -> anyhow::Result<Map<String, Json>> {
    let mut all = Map::new();
    if let Some(text) = &options.device {
        let given = Options::parse(&format!("scsi-hd,{text}"), DEVICE)
            .with_context(|| format!("--device {text}"))?;
        for (key, value) in given.iter() {
            match (key, value) {
                ("drive", _) => bail!("--device {text}: the drive is the image"),
                ("id", _) => bail!("--device {text}: give --id"),
                (key, Value::Text(text)) => drop(all.insert(key.to_owned(), json!(text))),
                (key, Value::Bare) => bail!("--device {text}: {key} needs a value"),
            }
        }
    }
    all.insert("driver".to_owned(), json!("scsi-hd"));
    if let Some(bus) = &options.bus {
        all.insert("bus".to_owned(), json!(bus));
    }
    if let Some(target) = options.target {
        all.insert("scsi-id".to_owned(), json!(target));
    }
    if let Some(lun) = options.lun {
        all.insert("lun".to_owned(), json!(lun));
    }
    Ok(all)
}

fn attach(options: &Attach, image: &Image, mut device: Map<String, Json>) -> anyhow::Result<()> {
    let mut client = connect(&options.at)?;
    let id = match options.id.as_ref().or(image.id.as_ref()) {
        Some(id) => id.clone(),
        None => free_name(&mut client, &image.stem)?,
    };
    // The whole bus is meant when only its controller is named.
    if let Some(Json::String(bus)) = device.get_mut("bus")
        && let Some(found) = tree(&mut client)?.iter().find(|found| name(found) == bus)
    {
        *bus = found.bus.clone();
    }
    let drive = image.id.as_ref().unwrap_or(&id);
    let answer = client.line(&format!(
        "drive_add 0 {},id={}",
        image.properties,
        escape(drive)
    ))?;
    let answer = answer.trim_end();
    if !answer.starts_with("OK") {
        return Err(anyhow!(
            answer.strip_prefix("Error: ").unwrap_or(answer).to_owned()
        ));
    }
    device.insert("id".to_owned(), json!(id));
    device.insert("drive".to_owned(), json!(drive));
    if let Err(error) = client.execute::<Json>("device_add", Json::Object(device)) {
        let undone = client.line(&format!("drive_del {drive}"))?;
        return Err(match undone.trim_end() {
            "" => anyhow!(error),
            left => anyhow!("{error}; and the drive {drive:?} stays: {left}"),
        });
    }
    let controllers = tree(&mut client)?;
    let disks = controllers
        .iter()
        .flat_map(|controller| controller.disks.iter().map(move |disk| (controller, disk)));
    let mut found = disks.filter(|(_, disk)| disk.id.as_deref() == Some(&id));
    let text = match found.next() {
        Some((controller, disk)) => format!(
            "{id}: {} target {} LUN {}, {}\n",
            name(controller),
            disk.target,
            disk.lun,
            size(disk.size.into()),
        ),
        None => format!("{id}: attached, and gone again\n"),
    };
    tell(&text).map(drop)
}

/// A name that neither a device nor a drive nor a node has, made of a file's.
fn free_name(client: &mut Client, stem: &str) -> anyhow::Result<String> {
    let mut taken = BTreeSet::new();
    for controller in tree(client)? {
        let ids = controller.disks.into_iter().filter_map(|disk| disk.id);
        taken.extend(ids.chain(controller.id));
    }
    for (command, member) in [
        ("query-block", "device"),
        ("query-named-block-nodes", "node-name"),
    ] {
        let all: Vec<Json> = client.execute(command, json!({}))?;
        let names = all.iter().filter_map(|it| it.get(member)?.as_str());
        taken.extend(names.map(str::to_owned));
    }
    Ok(choose(stem, &taken))
}

fn choose(stem: &str, taken: &BTreeSet<String>) -> String {
    let mut base: String = stem
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' | '_' => c,
            _ => '-',
        })
        .take(MAX_NAME)
        .collect();
    if !base.starts_with(|c: char| c.is_ascii_alphabetic()) {
        base.insert_str(0, "disk-");
    }
    let numbered = (2_u32..).map(|number| format!("{base}-{number}"));
    std::iter::once(base.clone())
        .chain(numbered)
        .find(|name| !taken.contains(name))
        .unwrap_or(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ids_and_free() {
        let taken = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(choose("data", &taken(&[])), "data");
        assert_eq!(choose("data", &taken(&["data", "data-2"])), "data-3");
        assert_eq!(choose("my disk", &taken(&[])), "my-disk");
        assert_eq!(choose("2024", &taken(&[])), "disk-2024");
        assert_eq!(choose("", &taken(&[])), "disk-");
    }
}
