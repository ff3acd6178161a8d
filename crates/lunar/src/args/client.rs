//! The options of the subcommands that talk to a running server.

use std::path::PathBuf;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use crate::client::resize::{Size, parse};
use crate::client::throttle::{Rate, parse as rate};
use crate::complete::{buses, devices, images, monitors, trays};

/// Which server is meant.
#[derive(Debug, Args)]
pub struct At {
    /// The server's monitor [default: that of the only running server]
    #[arg(long, value_name = "PATH", value_parser = socket, add = ArgValueCandidates::new(monitors))]
    pub monitor: Option<PathBuf>,
}

/// A path, with or without what `lunar serve --monitor` has in front of it.
pub fn socket(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("unix:").unwrap_or(text) {
        "" => Err("the path is missing".to_owned()),
        path => Ok(path.into()),
    }
}

/// `lunar ls`.
#[derive(Debug, Args)]
#[command(after_help = LS_EXAMPLES)]
pub struct Ls {
    #[command(flatten)]
    pub at: At,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

const LS_EXAMPLES: &str = "\
An address is TARGET:LUN. A controller is connected when a guest's front end is there, and waiting when not.
IOPS are the operations per second at the moment; lunar stats counts from the beginning.
A disk is running, paused (by lunar pause), stopped (by an error, until lunar cont), or leaving.

Example:
  lunar ls --json | jq -r '.[].disks[] | select(.state == \"stopped\").name'";

/// `lunar attach`.
#[derive(Debug, Args)]
#[command(after_help = ATTACH_EXAMPLES)]
pub struct Attach {
    /// An image (*.qcow2 is qcow2, all else is raw), or the properties of a drive: file=PATH,format=…
    #[arg(value_name = "IMAGE|PROPERTIES", value_hint = clap::ValueHint::FilePath)]
    pub image: String,

    /// What the disk is called [default: made of the image's name]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,

    /// The controller, or its bus [default: the server's first with a free address]
    #[arg(long, value_name = "ID", add = ArgValueCandidates::new(buses))]
    pub bus: Option<String>,

    /// The target [default: a free one]
    #[arg(long, value_name = "N")]
    pub target: Option<u8>,

    /// The LUN [default: 0, or a free one of the given target]
    #[arg(long, value_name = "N")]
    pub lun: Option<u16>,

    /// Further properties of the disk; lunar serve --device scsi-hd,help lists them
    #[arg(long, value_name = "PROPERTIES")]
    pub device: Option<String>,

    #[command(flatten)]
    pub at: At,
}

const ATTACH_EXAMPLES: &str = "\
The disk is there for the guest at once, and its id, address and size are printed. If it cannot be attached, nothing
has changed. lunar serve --drive help lists the properties of a drive.

Examples:
  lunar attach data.qcow2
  lunar attach --id scratch --bus vm2 --target 3 --device serial=D4T4 /dev/vg0/scratch
  lunar attach file=backup.img,format=raw,readonly=on";

/// `lunar detach`.
#[derive(Debug, Args)]
#[command(after_help = DETACH_EXAMPLES)]
pub struct Detach {
    /// The disk or the controller
    #[arg(value_name = "ID", add = ArgValueCandidates::new(devices))]
    pub id: String,

    /// Seconds to wait for commands that are in flight
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u32,

    #[command(flatten)]
    pub at: At,
}

const DETACH_EXAMPLES: &str = "\
The guest is told. Commands in flight are finished; then id and address are free, and a drive that no other disk
shows is flushed and closed. A controller takes its disks with it.

Example:
  lunar detach data";

/// `lunar insert`.
#[derive(Debug, Args)]
#[command(after_help = INSERT_EXAMPLES)]
pub struct Insert {
    /// The id of a removable disk, or the name of its drive
    #[arg(value_name = "NAME", add = ArgValueCandidates::new(trays))]
    pub name: String,

    /// The image
    #[arg(value_name = "IMAGE", value_hint = clap::ValueHint::FilePath)]
    pub image: PathBuf,

    /// What the image is [default: qcow2 for *.qcow2, else raw]
    #[arg(long, value_name = "FORMAT", value_parser = ["raw", "qcow2"])]
    pub format: Option<String>,

    /// Refuse writes
    #[arg(long)]
    pub read_only: bool,

    /// Take the present medium out even if the guest has locked the tray
    #[arg(long)]
    pub force: bool,

    #[command(flatten)]
    pub at: At,
}

const INSERT_EXAMPLES: &str = "\
The tray opens, what is in it is flushed and taken out, and the tray closes over the new image, of which the guest
hears. A guest that uses the medium has locked the tray. If the image cannot be opened, the tray stays open, with what
was in it.

Examples:
  lunar insert stick photos.img
  lunar insert stick --read-only drivers.qcow2";

/// `lunar eject`.
#[derive(Debug, Args)]
#[command(after_help = EJECT_EXAMPLES)]
pub struct Eject {
    /// The id of a removable disk, or the name of its drive
    #[arg(value_name = "NAME", add = ArgValueCandidates::new(trays))]
    pub name: String,

    /// Even if the guest has locked the tray
    #[arg(long)]
    pub force: bool,

    #[command(flatten)]
    pub at: At,
}

const EJECT_EXAMPLES: &str = "\
Commands in flight are finished, and what was written is flushed. The tray stays open, and the drive empty.

Example:
  lunar eject stick";

/// `lunar resize`.
#[derive(Debug, Args)]
#[command(after_help = RESIZE_EXAMPLES)]
pub struct Resize {
    /// The id of a disk, or the name of a drive or node
    #[arg(value_name = "NAME", add = ArgValueCandidates::new(images))]
    pub name: String,

    /// The new size, or with + how much more: bytes, or with a unit K, M, G, T
    #[arg(value_name = "SIZE", value_parser = parse)]
    pub size: Size,

    /// Cut off what is behind the new end
    #[arg(long)]
    pub force: bool,

    #[command(flatten)]
    pub at: At,
}

const RESIZE_EXAMPLES: &str = "\
The guest is told: its disk grows without a rescan.

Examples:
  lunar resize data 20G
  lunar resize data +512M
  lunar resize data 10G --force";

/// `lunar throttle`.
#[derive(Debug, Args)]
#[command(after_help = THROTTLE_EXAMPLES)]
pub struct Throttle {
    /// The disk, or its drive
    #[arg(value_name = "NAME", add = ArgValueCandidates::new(devices))]
    pub name: String,

    /// Operations per second
    #[arg(long, value_name = "LIMIT[:BURST[:SECONDS]]", value_parser = rate, conflicts_with = "off")]
    pub iops: Option<Rate>,

    /// Reads per second
    #[arg(long, value_name = "LIMIT[:BURST[:SECONDS]]", value_parser = rate, conflicts_with = "off")]
    pub read_iops: Option<Rate>,

    /// Everything but reads and flushes, per second
    #[arg(long, value_name = "LIMIT[:BURST[:SECONDS]]", value_parser = rate, conflicts_with = "off")]
    pub write_iops: Option<Rate>,

    /// Bytes per second, with units K, M, G
    #[arg(long, value_name = "LIMIT[:BURST[:SECONDS]]", value_parser = rate, conflicts_with = "off")]
    pub bps: Option<Rate>,

    /// Bytes per second of reads
    #[arg(long, value_name = "LIMIT[:BURST[:SECONDS]]", value_parser = rate, conflicts_with = "off")]
    pub read_bps: Option<Rate>,

    /// Bytes per second of writes
    #[arg(long, value_name = "LIMIT[:BURST[:SECONDS]]", value_parser = rate, conflicts_with = "off")]
    pub write_bps: Option<Rate>,

    /// Larger operations count as several of this size
    #[arg(long, value_name = "SIZE", value_parser = bytes, conflicts_with = "off")]
    pub iops_size: Option<u64>,

    /// Share the limits with all disks of this group
    #[arg(long, value_name = "NAME", conflicts_with = "off")]
    pub group: Option<String>,

    /// Take all limits away
    #[arg(long)]
    pub off: bool,

    /// Print what is limited now as JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub at: At,
}

fn bytes(text: &str) -> Result<u64, String> {
    lunar_host::property::size(text)
        .ok_or_else(|| "must be a number of bytes, or with a unit as in 64K".to_owned())
}

const THROTTLE_EXAMPLES: &str = "\
Says what the disk is limited to, after setting it if limits are given; those that are not given are none.
It counts at once, for operations that wait already, too. A burst goes on until what was saved is used up.

Examples:
  lunar throttle data
  lunar throttle data --iops 500 --bps 10M
  lunar throttle data --read-iops 1000:5000:10 --write-bps 20M
  lunar throttle data --iops 2000 --group vm1
  lunar throttle data --off";

/// `lunar stats`.
#[derive(Debug, Args)]
#[command(after_help = STATS_EXAMPLES)]
pub struct Stats {
    /// Print rates, again and again [default: every second]
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "1",
        value_parser = seconds
    )]
    pub watch: Option<f64>,

    /// How often, with --watch [default: until interrupted]
    #[arg(long, value_name = "N", requires = "watch", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Of the threads that serve the queues, not of the disks
    #[arg(long)]
    pub workers: bool,

    /// Print JSON; with --watch an object in each line
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub at: At,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok();
    seconds
        .filter(|seconds| (0.01..=86_400.0).contains(seconds))
        .ok_or_else(|| "must be seconds, from 0.01 to 86400".to_owned())
}

const STATS_EXAMPLES: &str = "\
Totals count from when an image was opened, times from when the disk was attached.
P50 and P99 are what half of the operations and 99 of a hundred took at most, as the guest sees it; with
--watch those of the last interval.

Of a worker, ROUNDS are turns of its loop in which it found requests, HELD is how often an interrupt waited
because more was to come (see coalesce-us), and KICKS are wake-ups by guests.

Examples:
  lunar stats
  lunar stats --workers --watch
  lunar stats --watch 5 --json | jq -c '.disks[] | select(.reads > 1000) | .name'";

/// `lunar events`.
#[derive(Debug, Args)]
#[command(after_help = EVENTS_EXAMPLES)]
pub struct Events {
    /// Print events as the protocol has them: a JSON object in each line
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub at: At,
}

const EVENTS_EXAMPLES: &str = "\
Ends when the server ends.

Example:
  lunar events --json | jq --unbuffered -r 'select(.event == \"BLOCK_IO_ERROR\").data.reason'";

pub const PAUSE_HELP: &str = "\
Requests of guests wait until lunar cont; those in flight are finished. Guests see a delay.

Example:
  lunar pause";

pub const CONT_HELP: &str = "\
After lunar pause, or after an error has stopped a disk (werror=stop, ENOSPC): what has failed is tried again.

Example:
  lunar cont";
