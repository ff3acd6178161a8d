//! `cargo xtask compare`: what a guest gets from Lunar, and what from QEMU's own virtio-scsi with an iothread.
//!
//! One machine has both controllers, with a disk of each kind on each, and `fio` runs in it on one disk after the other, in
//! turns: kernel, driver, memory and the machine's speed are then the same for both. What is counted are the
//! requests that the guest's kernel has completed, and the processor time of QEMU and of Lunar meanwhile. The time of the
//! virtual processor is told apart: it is mostly the guest itself, and under emulation by far the most.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::guest_image::GuestImage;
use crate::process::{run as execute, step, ticks, tied};
use crate::qemu::{Accel, Job, Machine, Running, path_value};
use crate::scratch::Scratch;
use crate::storage::{Daemon, Disks, Server, Storage};
use crate::{apt, target_directory};
use rustix::param::clock_ticks_per_second;

#[derive(Args)]
pub struct Options {
    /// How often each disk has a turn
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long a turn is measured, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    runtime: u32,
    /// Who executes the guest's instructions
    #[arg(long, value_enum, default_value = "tcg")]
    accel: Accel,
}

/// Where the bytes are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Image {
    /// Nowhere.
    Null,
    /// In a file in memory, which both have open.
    Tmpfs,
}

const IMAGES: [Image; 2] = [Image::Null, Image::Tmpfs];
const DEPTHS: [u32; 2] = [1, 32];
const SIZE: u32 = 256 << 20;

impl Image {
    fn name(self) -> &'static str {
        match self {
            Image::Null => "null",
            Image::Tmpfs => "tmpfs",
        }
    }

    /// The node, in the words that both have.
    fn node(self, name: &str, file: &Path) -> String {
        match self {
            Image::Null => format!("null-co,node-name={name},size={SIZE}"),
            // Linux's asynchronous I/O is QEMU's fastest way, and wants O_DIRECT. Two readers may have it open.
            Image::Tmpfs => format!(
                "file,node-name={name},filename={},cache.direct=on,aio=native,read-only=on",
                path_value(file)
            ),
        }
    }
}

/// Who serves a disk. Its name is the serial number by which the guest finds it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Lunar,
    Qemu,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Who::Lunar => "lunar",
            Who::Qemu => "qemu",
        }
    }
}

/// What one turn has given.
#[derive(Clone, Copy)]
struct Sample {
    iops: f64,
    /// Microseconds of the virtual processor's time for a request.
    guest: f64,
    /// And of all the rest.
    host: f64,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    apt::ensure_installed(apt::HOST_PACKAGES)?;
    let target = target_directory()?;
    let guest = GuestImage::prepare(&target.join("guest"))?;
    let lunar = step("Building lunar", || {
        execute(tied("cargo").args(["build", "--quiet", "--release", "--package", "lunar"]))?;
        Ok(target.join("release/lunar"))
    })?;
    let scratch = Scratch::in_memory()?;
    let file = scratch.join("disk.raw");
    execute(
        tied("dd")
            .args(["if=/dev/urandom", "bs=1M", "status=none"])
            .args([
                format!("of={}", file.display()),
                format!("count={}", SIZE >> 20),
            ]),
    )?;
    let storage = serve(&lunar, &scratch, &file)?;
    let daemon = storage.daemon.as_ref().context("lunar has a process")?;
    let mut machine = Machine {
        accel: options.accel,
        extras: true,
        targets: Some("0,1".to_owned()),
        ..Machine::new(&guest, storage.attach.clone())
    };
    machine.extra = own_controller(&file);
    // The names of QEMU's threads tell the virtual processor from the others.
    machine
        .extra
        .extend(["-name", "debug-threads=on"].map(str::to_owned));
    let turns = turns(options.rounds);
    let turn = Duration::from_secs(options.runtime.into()) + AROUND * 2;
    let patience = Duration::from_secs(120) + turn * u32::try_from(turns.len())?;
    let mut running = machine.start(&Job::new(&script(options, &turns), patience))?;
    let samples = step("Measuring in the guest", || {
        let sample = |number| measure(&mut running, daemon, number);
        (0..turns.len())
            .map(sample)
            .collect::<Result<Vec<Sample>>>()
    })?;
    let outcome = running.finish()?;
    if outcome.status != 0 {
        bail!(
            "the guest's job failed:\n{}{}",
            outcome.stdout,
            outcome.stderr
        );
    }
    storage.stop()?;
    print!("{}", report(&turns, &samples));
    Ok(ExitCode::SUCCESS)
}

/// Lunar's controller, with a disk on every image.
fn serve(lunar: &Path, scratch: &Scratch, file: &Path) -> Result<Storage> {
    let mut disks = Disks::default();
    for (target, image) in IMAGES.iter().enumerate() {
        let name = format!("lunar-{}", image.name());
        disks.node(&image.node(&name, file));
        disks.device(&format!(
            "scsi-hd,drive={name},serial={name},scsi-id={target}"
        ));
    }
    Server::Lunar.start(lunar, scratch, &disks, 1, &[])
}

/// QEMU's controller, with the same.
fn own_controller(file: &Path) -> Vec<String> {
    let mut options = vec![
        "-object".to_owned(),
        "iothread,id=io".to_owned(),
        "-device".to_owned(),
        "virtio-scsi-pci,id=own,iothread=io,num_queues=1".to_owned(),
    ];
    for (target, image) in IMAGES.iter().enumerate() {
        let name = format!("qemu-{}", image.name());
        options.extend(["-blockdev".to_owned(), image.node(&name, file)]);
        options.extend([
            "-device".to_owned(),
            format!("scsi-hd,bus=own.0,drive={name},serial={name},scsi-id={target}"),
        ]);
    }
    options
}

/// A turn of one disk.
#[derive(Clone, Copy)]
struct Turn {
    image: Image,
    depth: u32,
    who: Who,
}

/// In every round each has one; who begins changes.
fn turns(rounds: u32) -> Vec<Turn> {
    let mut turns = Vec::new();
    for image in IMAGES {
        for depth in DEPTHS {
            for round in 0..rounds {
                let order = match round % 2 {
                    0 => [Who::Lunar, Who::Qemu],
                    _ => [Who::Qemu, Who::Lunar],
                };
                turns.extend(order.map(|who| Turn { image, depth, who }));
            }
        }
    }
    turns
}

/// Before a turn is measured, and after.
const AROUND: Duration = Duration::from_secs(4);

/// The guest's job: turn after turn, each with a word to us when it begins and when it ends.
fn script(options: &Options, turns: &[Turn]) -> String {
    let mut script = format!(
        "set -eEu -o pipefail\n. /etc/functions.sh\nruntime={}\naround={}\n{TURN}",
        options.runtime,
        AROUND.as_secs()
    );
    for (number, turn) in turns.iter().enumerate() {
        let (who, image) = (turn.who.name(), turn.image.name());
        let _ = writeln!(script, "turn {number} {who}-{image} {}", turn.depth);
    }
    script
}

const TURN: &str = r#"
# NUMBER SERIAL DEPTH. However long the machine is held up, fio is there until it is killed.
turn() {
	local disk reads start
	disk=$(basename $(dirname $(dirname $(grep -l $2 /sys/block/sd*/device/vpd_pg80))))
	echo none >/sys/block/$disk/queue/scheduler
	fio --name=load --filename=/dev/$disk --readonly --rw=randread --bs=4k --direct=1 --ioengine=libaio \
		--iodepth=$3 --norandommap --time_based --runtime=1d >/tmp/fio 2>&1 &
	sleep $around
	start=$(now)
	reads=$(awk '{ print $1 }' /sys/block/$disk/stat)
	echo "turn $1 begins"
	sleep $runtime
	reads=$(($(awk '{ print $1 }' /sys/block/$disk/stat) - reads))
	echo "turn $1 had $reads reads in $(($(now) - start)) ms"
	echo "turn $1 ends"
	kill $!
	wait $! || true
	[ $reads != 0 ] || { cat /tmp/fio; exit 1; }
}
"#;

/// Watches a turn.
fn measure(running: &mut Running, daemon: &Daemon, number: usize) -> Result<Sample> {
    running.wait_for(&format!("turn {number} begins\n"))?;
    let (from, before) = (Instant::now(), Used::now(running, daemon)?);
    running.wait_for(&format!("turn {number} ends\n"))?;
    let (to, after) = (Instant::now(), Used::now(running, daemon)?);
    let said = running.line(&format!("turn {number} had "))?;
    let mut numbers = said.split(' ').filter_map(|word| word.parse::<f64>().ok());
    let (reads, ms) = (numbers.next().zip(numbers.next())).context("what the guest says")?;
    let iops = reads * 1000.0 / ms;
    let each = |before: u64, after: u64| {
        let ticks = f64::from(u32::try_from(after.saturating_sub(before))?);
        let seconds = ticks / f64::from(u32::try_from(clock_ticks_per_second())?);
        anyhow::Ok(seconds / (to - from).as_secs_f64() * 1e6 / iops)
    };
    Ok(Sample {
        iops,
        guest: each(before.guest, after.guest)?,
        host: each(before.host, after.host)?,
    })
}

/// Processor time that was used by now, in clock ticks.
struct Used {
    /// By the virtual processor.
    guest: u64,
    /// By all the rest of QEMU, and by Lunar.
    host: u64,
}

impl Used {
    fn now(running: &Running, daemon: &Daemon) -> Result<Used> {
        let machine = PathBuf::from(format!("/proc/{}", running.id()));
        let mut guest = 0;
        for thread in std::fs::read_dir(machine.join("task"))? {
            let thread = thread?.path();
            // Those of its pool come and go.
            let name = std::fs::read_to_string(thread.join("comm")).unwrap_or_default();
            if name.starts_with("CPU ") {
                guest += ticks(&thread)?;
            }
        }
        let all = ticks(&machine)? + daemon.processor_ticks()?;
        Ok(Used {
            guest,
            host: all.saturating_sub(guest),
        })
    }
}

type Figure = fn(&Sample) -> f64;

/// Medians of both, and of their ratios round by round, with the least and the most.
fn report(turns: &[Turn], samples: &[Sample]) -> String {
    let mut text = format!(
        "{:<14} {:>8} {:>8} {:<18} {:>8} {:>8} {:<18} {:>8} {:>8} {:<18}\n",
        "", "IOPS", "QEMU", " ratio", "CPU us", "QEMU", " ratio", "I/O us", "QEMU", " ratio"
    );
    for image in IMAGES {
        for depth in DEPTHS {
            let of = |who: Who| -> Vec<Sample> {
                let all = turns.iter().zip(samples);
                let its = all
                    .filter(|(turn, _)| (turn.image, turn.depth, turn.who) == (image, depth, who));
                its.map(|(_, sample)| *sample).collect()
            };
            let (own, other) = (of(Who::Lunar), of(Who::Qemu));
            let _ = write!(text, "{:<14}", format!("{} depth {depth}", image.name()));
            let figures: [(Figure, usize); 3] = [
                (|sample| sample.iops, 0),
                (|sample| sample.guest + sample.host, 1),
                (|sample| sample.host, 1),
            ];
            for (figure, digits) in figures {
                let ratios = own.iter().zip(&other).map(|(a, b)| figure(a) / figure(b));
                let [_, own, _] = spread(own.iter().map(figure));
                let [_, other, _] = spread(other.iter().map(figure));
                let [least, ratio, most] = spread(ratios);
                let ratio = format!("{ratio:.2} ({least:.2}-{most:.2})");
                let _ = write!(text, " {own:>8.digits$} {other:>8.digits$}  {ratio:<17}");
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
    }
    text.push_str(
        "CPU us: processor time of QEMU and Lunar for a request, in microseconds. I/O us: without the virtual processor's.\n",
    );
    text
}

/// The least, the median and the most.
fn spread(figures: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let last = figures.len().saturating_sub(1);
    [0, figures.len() / 2, last].map(|at| figures.get(at).copied().unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_has_a_turn_in_every_round_and_begins_in_every_other() {
        let turns = turns(2);
        assert_eq!(turns.len(), IMAGES.len() * DEPTHS.len() * 2 * 2);
        let first: Vec<_> = turns.iter().take(4).map(|turn| turn.who.name()).collect();
        assert_eq!(first, ["lunar", "qemu", "qemu", "lunar"]);
    }

    #[test]
    fn the_report_has_ratios_of_pairs() {
        let turns = turns(1);
        let sample = |turn: &Turn| Sample {
            iops: if turn.who == Who::Lunar { 30.0 } else { 20.0 },
            guest: 5.0,
            host: if turn.who == Who::Lunar { 3.0 } else { 5.0 },
        };
        let samples: Vec<_> = turns.iter().map(sample).collect();
        let report = report(&turns, &samples);
        let line = report.lines().nth(1).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        let expected = "null depth 1 30 20 1.50 (1.50-1.50) 8.0 10.0 0.80 (0.80-0.80) 3.0 5.0 0.60 (0.60-0.60)";
        assert_eq!(words.join(" "), expected);
    }
}
