//! `lunar ls`: what is served, from the host's side.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use lunar_monitor::{Client, ScsiController, ScsiDisk, ScsiState};
use serde_json::Value;

use super::{connect, name, table, tell, tree};
use crate::Failure;
use crate::args::Ls;
use crate::bench::{grouped, rate};
use crate::qemu::size;

/// For how long operations are counted to say how many there are in a second.
const SAMPLE: Duration = Duration::from_millis(200);

/// Operations per second of each disk, by its place in the object tree; of none while nobody can have sent any.
type Rates = BTreeMap<String, f64>;

/// Asks and prints.
pub fn run(options: &Ls) -> Result<(), Failure> {
    list(options).map_err(Failure::Runtime)
}

fn list(options: &Ls) -> anyhow::Result<()> {
    let mut client = connect(&options.at)?;
    let controllers = tree(&mut client)?;
    let rates = rates(&mut client, &controllers)?;
    let text = match options.json {
        true => serde_json::to_string_pretty(&with_rates(&controllers, &rates)?)? + "\n",
        false => show(&controllers, &rates),
    };
    tell(&text).map(drop)
}

/// Looks a second time, a moment later.
fn rates(client: &mut Client, before: &[ScsiController]) -> anyhow::Result<Rates> {
    if !before.iter().any(|controller| controller.connected) {
        return Ok(Rates::new());
    }
    let start = Instant::now();
    thread::sleep(SAMPLE);
    let after = tree(client)?;
    let elapsed = start.elapsed();
    let before: BTreeMap<&str, u64> = disks(before).collect();
    let rates = disks(&after).filter_map(|(path, done)| {
        let more = done.saturating_sub(*before.get(path)?);
        Some((path.to_owned(), rate(more, elapsed)))
    });
    Ok(rates.collect())
}

/// Each disk, and how many operations it has done.
fn disks(controllers: &[ScsiController]) -> impl Iterator<Item = (&str, u64)> {
    let disks = controllers.iter().flat_map(|controller| &controller.disks);
    disks.map(|disk| {
        let counters = &disk.counters;
        let done = counters.reads + counters.writes + counters.flushes + counters.discards;
        (disk.path.as_str(), done)
    })
}

/// What the server says of its disks, and the rates.
fn with_rates(controllers: &[ScsiController], rates: &Rates) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(controllers)?;
    let controllers = value.as_array_mut().into_iter().flatten();
    for disk in controllers.flat_map(|controller| {
        let disks = controller.get_mut("disks").and_then(Value::as_array_mut);
        disks.into_iter().flatten()
    }) {
        let path = disk.get("path").and_then(Value::as_str);
        let rate = path.and_then(|path| rates.get(path)).copied();
        if let Some(disk) = disk.as_object_mut() {
            disk.insert("iops".to_owned(), rate.into());
        }
    }
    Ok(value)
}

const HEADINGS: [&str; 8] = [
    "NAME", "ADDRESS", "DRIVE", "SIZE", "MODE", "STATE", "IOPS", "IMAGE",
];
const RIGHT: [bool; 8] = [false, false, false, true, false, false, true, false];

fn show(controllers: &[ScsiController], rates: &Rates) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    for controller in controllers {
        rows.push(of_controller(controller));
        let last = controller.disks.len().saturating_sub(1);
        for (i, disk) in controller.disks.iter().enumerate() {
            let branch = if i == last { "└─" } else { "├─" };
            rows.push(of_disk(branch, disk, rates));
        }
    }
    table::render(&rows, RIGHT)
}

fn of_controller(controller: &ScsiController) -> [String; 8] {
    let state = match controller.state {
        ScsiState::Leaving => "leaving",
        _ if controller.connected => "connected",
        _ => "waiting",
    };
    let mut row = <[String; 8]>::default();
    let [first, .., at_state, _, image] = &mut row;
    *first = name(controller).to_owned();
    *at_state = state.to_owned();
    *image = controller.socket.clone().unwrap_or_default();
    row
}

fn of_disk(branch: &str, disk: &ScsiDisk, rates: &Rates) -> [String; 8] {
    let rate = rates.get(&disk.path);
    [
        format!("{branch}{}", disk.name),
        format!("{}:{}", disk.target, disk.lun),
        disk.drive.as_ref().unwrap_or(&disk.node_name).clone(),
        size(disk.size.into()),
        if disk.read_only { "ro" } else { "rw" }.to_owned(),
        state(disk.state).to_owned(),
        rate.map_or_else(|| "-".to_owned(), |rate| grouped(*rate)),
        match &*disk.format {
            "file" | "host_device" | "raw" => disk.file.clone(),
            format if disk.file == format => disk.file.clone(),
            format => format!("{} ({format})", disk.file),
        },
    ]
}

fn state(state: ScsiState) -> &'static str {
    match state {
        ScsiState::Running => "running",
        ScsiState::Paused => "paused",
        ScsiState::Stopped => "stopped",
        ScsiState::NoSpace => "no space",
        ScsiState::Leaving => "leaving",
    }
}
