//! `lunar ls`: what is served, from the host's side.

use lunar_monitor::{ScsiController, ScsiDisk, ScsiState};

use super::{connect, name, table, tell, tree};
use crate::Failure;
use crate::args::Ls;
use crate::qemu::size;

/// Asks and prints.
pub fn run(options: &Ls) -> Result<(), Failure> {
    list(options).map_err(Failure::Runtime)
}

fn list(options: &Ls) -> anyhow::Result<()> {
    let controllers = tree(&mut connect(&options.at)?)?;
    let text = match options.json {
        true => serde_json::to_string_pretty(&controllers)? + "\n",
        false => show(&controllers),
    };
    tell(&text).map(drop)
}

const HEADINGS: [&str; 9] = [
    "NAME", "ADDRESS", "DRIVE", "SIZE", "MODE", "STATE", "READ", "WRITTEN", "IMAGE",
];
const RIGHT: [bool; 9] = [false, false, false, true, false, false, true, true, false];

fn show(controllers: &[ScsiController]) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    for controller in controllers {
        rows.push(of_controller(controller));
        let last = controller.disks.len().saturating_sub(1);
        for (i, disk) in controller.disks.iter().enumerate() {
            let branch = if i == last { "└─" } else { "├─" };
            rows.push(of_disk(branch, disk));
        }
    }
    table::render(&rows, RIGHT)
}

fn of_controller(controller: &ScsiController) -> [String; 9] {
    let state = match controller.state {
        ScsiState::Leaving => "leaving",
        _ if controller.connected => "connected",
        _ => "waiting",
    };
    let mut row = <[String; 9]>::default();
    let [first, .., at_state, _, _, image] = &mut row;
    *first = name(controller).to_owned();
    *at_state = state.to_owned();
    *image = controller.socket.clone().unwrap_or_default();
    row
}

fn of_disk(branch: &str, disk: &ScsiDisk) -> [String; 9] {
    let counted = |operations: u64, bytes: u64| match operations {
        0 => "-".to_owned(),
        _ => format!("{operations} ({})", size(bytes.into())),
    };
    [
        format!("{branch}{}", disk.name),
        format!("{}:{}", disk.target, disk.lun),
        disk.drive.as_ref().unwrap_or(&disk.node_name).clone(),
        size(disk.size.into()),
        if disk.read_only { "ro" } else { "rw" }.to_owned(),
        state(disk.state).to_owned(),
        counted(disk.counters.reads, disk.counters.read_bytes),
        counted(disk.counters.writes, disk.counters.written_bytes),
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
