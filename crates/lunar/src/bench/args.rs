//! The options of `lunar bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::suite::Suite;
use super::wanted::{bytes, span};

/// `lunar bench`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Benches {
    #[command(subcommand)]
    pub suite: Option<Which>,

    #[command(flatten)]
    pub bench: Option<Bench>,
}

/// More than one measurement.
#[derive(Debug, Subcommand)]
pub enum Which {
    /// Measure Lunar and its peers on the same files, and write a report
    Suite(Box<Suite>),
}

/// One measurement.
#[derive(Debug, Args)]
pub struct Bench {
    /// The socket, which must have no other front end at the moment
    #[arg(value_name = "SOCKET")]
    pub socket: PathBuf,

    /// What to do. All but read and randread DESTROY what is on the disks
    #[arg(long, value_name = "ACCESS", value_enum, default_value_t = Rw::Randread)]
    pub rw: Rw,

    /// How much of randrw is reads, in percent
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub rwmixread: u8,

    /// Size of each request
    #[arg(long, value_name = "SIZE", default_value = "4k", value_parser = bytes)]
    pub bs: u32,

    /// Requests in flight on each queue
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub iodepth: u16,

    /// Request queues, each with a thread here
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub queues: u16,

    /// Logical units: TARGET:LUN,… with ranges, as in 0:0-15,3:0, or all [default: the first disk]
    #[arg(long, value_name = "LIST")]
    pub luns: Option<String>,

    /// How long to measure: seconds, or such as 500ms or 2m
    #[arg(long, value_name = "TIME", default_value = "10", value_parser = span)]
    pub runtime: Duration,

    /// End after so many requests rather than after a time
    #[arg(long, value_name = "N", conflicts_with = "runtime", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// How long to warm up before
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = span)]
    pub ramp: Duration,

    /// Look for completions all the time, rather than to sleep until an interrupt
    #[arg(long)]
    pub busy_poll: bool,

    /// Use rings of the packed format, which the server must offer
    #[arg(long)]
    pub packed: bool,

    /// The process whose processor time is the server's [default: the one that listens]
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Option<i32>,

    /// What the socket leads to
    #[arg(long, value_name = "KIND", value_enum, default_value_t = DeviceKind::Auto)]
    pub device: DeviceKind,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What is done to the disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rw {
    /// Read anywhere
    Randread,
    /// Write anywhere
    Randwrite,
    /// Both
    Randrw,
    /// Read from the beginning to the end
    Read,
    /// Write from the beginning to the end
    Write,
    /// Write and read anywhere, check what is read; at the end read and check all that was written
    Verify,
}

/// What a socket can lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceKind {
    /// Whichever the server's features show
    Auto,
    /// A SCSI controller
    Scsi,
    /// A block device, such as qemu-storage-daemon's
    Block,
}

const EXAMPLES: &str = "\
Examples:
  How fast are random reads of 4 KiB, 32 at a time? (A guest sees this much at most.)
    lunar bench /run/vm1.sock

  How fast is the server itself? The client never sleeps, and the first second does not count:
    lunar bench --busy-poll --ramp 1 /run/vm1.sock

  How long does one write take, alone?
    lunar bench --rw randwrite --iodepth 1 /run/vm1.sock

  Sequential reads over two queues, from sixteen disks at once:
    lunar bench --rw read --bs 128k --queues 2 --luns 0-15:0 /run/vm1.sock

  Does the disk give back what was written?
    lunar bench --rw verify --runtime 1m /run/vm1.sock

  The same client against QEMU's server:
    qemu-storage-daemon --blockdev null-co,node-name=n,size=1073741824 \\
      --export vhost-user-blk,id=e,node-name=n,writable=on,addr.type=unix,addr.path=/tmp/q.sock
    lunar bench --busy-poll --json /tmp/q.sock

A request's latency is from its being placed in the ring to its completion being seen. Kicks are the
client's messages to the server, interrupts the server's to the client. The server's processor time
is that of its whole process; it comes in steps of 10 ms.

The exit status is 1 if requests failed or blocks were not what had been written.";
