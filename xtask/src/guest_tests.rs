//! What a real Linux guest must be able to do with our disks.
//!
//! A test is a function that gets a [`Lab`], boots what it needs and returns figures worth reporting. Its name
//! states the behaviour it proves. To add one, write it into the fitting module below and its name into [`ALL`].

mod boot;
mod cluster;
mod conformance;
mod data;
mod endurance;
mod errors;
mod hotplug;
mod media;
mod multipath;
mod paths;
mod resize;
mod sessions;
mod shared;
mod tools;

use std::collections::VecDeque;
use std::ops::AddAssign;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::guest_image::GuestImage;
use crate::qemu::{Job, Machine, Outcome};
use crate::scratch::Scratch;
use crate::storage::{Disks, Server, Storage};

/// A test's name and function.
type Test = (&'static str, fn(&Lab) -> Result<Figures>);

/// What a test measured, for people.
type Figures = Vec<String>;

/// Names each function once, so that name and function cannot part.
macro_rules! tests {
    ($($module:ident::$name:ident,)*) => { &[$((concat!(stringify!($module), "::", stringify!($name)), $module::$name)),*] };
}

/// All tests, the longest first, so that two workers end at about the same time.
const ALL: &[Test] = tests![
    cluster::two_guests_fence_each_other_and_the_fence_outlives_the_server,
    multipath::io_moves_to_the_path_that_is_left,
    hotplug::a_disk_comes_and_goes_hundreds_of_times_beside_busy_ones,
    hotplug::a_running_guest_gets_a_thousand_disks_one_by_one,
    hotplug::a_controller_comes_and_goes_beside_busy_ones,
    hotplug::more_events_than_buffers_lose_nothing,
    hotplug::a_disk_comes_and_goes_without_a_scan,
    hotplug::rescan_scsi_bus_finds_what_came_and_removes_what_went,
    data::file_systems_keep_their_files_over_a_power_cycle,
    endurance::a_controller_carries_300_luns_on_256_targets,
    boot::ovmf_boots_from_a_disk_that_is_not_the_first,
    paths::two_initiators_reserve_preempt_and_clear_as_the_standards_say,
    multipath::mpathpersist_registers_and_reserves_through_both_paths,
    endurance::a_reset_guest_comes_back_every_time,
    tools::sg3_utils_and_sdparm_do_what_they_say_on_raw_and_qcow2,
    errors::a_full_file_system_delays_writes_until_there_is_room,
    errors::faults_of_the_host_delay_reads_and_writes_until_they_are_taken_away,
    errors::a_machine_is_paused_and_resumed_with_its_disk,
    resize::a_mounted_file_system_grows_with_its_disk,
    boot::seabios_boots_from_a_disk_that_is_not_the_first,
    endurance::a_killed_guest_leaves_its_socket_usable,
    conformance::the_quick_suites_pass,
    endurance::two_guests_on_one_server_see_only_their_own_disks,
    sessions::a_reset_or_a_lost_initiator_ends_what_it_must_and_no_more,
    sessions::two_initiators_share_a_disk_as_reservations_and_comparisons_say,
    data::a_qcow2_written_like_its_raw_twin_compares_equal,
    endurance::four_processors_use_four_queues,
    endurance::packed_rings_carry_what_split_ones_do,
    data::with_fixed_buffers_a_guest_reads_what_it_has_written,
    endurance::an_idle_guest_costs_no_processor_time,
    endurance::a_reloaded_driver_finds_its_disks_again,
    media::a_guest_ejects_a_medium_gets_another_and_locks_it_by_mounting,
    paths::two_paths_lead_to_the_same_disk,
];

/// How many guests run at a time.
const WORKERS: usize = 2;
/// How long a job may take; generous, because the machine may be busy.
const TIME_LIMIT: Duration = Duration::from_secs(150);
/// What every job starts with.
const PRELUDE: &str = concat!(
    "set -eEu -o pipefail\n",
    ". /etc/functions.sh\n",
    "trap 'echo \"failed: $BASH_COMMAND\" >&2' ERR\n",
);
/// What tools must say and how they must end. The exit statuses of sg3-utils tell the kinds of sense data apart.
const EXPECTATIONS: &str = r#"
checks=0
good=0 not_ready=2 illegal=5 attention=6 protected=7 miscompare=14 conflict=24
try() {
	status=0
	"$@" >/tmp/said 2>&1 || status=$?
}
wrong() {
	echo "$1"
	cat /tmp/said
	exit 1
}
# STATUS COMMAND...
expect() {
	local want=$1
	shift
	try "$@"
	checks=$((checks + 1))
	[ $status = $want ] || wrong "exit status $status instead of $want: $*"
}
refused() {
	try "$@"
	[ $status != 0 ] || wrong "not refused: $*"
}
# WORDS COMMAND...
says() {
	local words=$1
	shift
	expect $good "$@"
	grep -q "$words" /tmp/said || wrong "not \"$words\": $*"
}
# What else the last one has said.
has() {
	local words
	for words; do grep -q -- "$words" /tmp/said || wrong "not \"$words\""; done
}
hasnt() {
	local words
	for words; do ! grep -q -- "$words" /tmp/said || wrong "\"$words\""; done
}
# Collects all unit attentions.
ready() {
	local device
	for device; do
		until sg_turs $device; do sleep 0.05; done >/dev/null 2>&1
	done
}
"#;

/// What tests work with.
pub struct Lab {
    pub image: GuestImage,
    pub lunar: PathBuf,
    pub server: Server,
    /// Whether to do everything as often as it takes to be sure, however long that is.
    pub thorough: bool,
}

/// How many tests passed and failed.
#[derive(Default, Clone, Copy)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Runs the tests whose names contain `filter`.
pub fn run(lab: &Lab, filter: &str) -> Result<Tally> {
    let chosen: VecDeque<&Test> = ALL
        .iter()
        .filter(|(name, _)| name.contains(filter))
        .collect();
    ensure!(!chosen.is_empty(), "no guest test is called like {filter}");
    let queue = Mutex::new(chosen);
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some((name, test)) = next(&queue) {
                    let start = Instant::now();
                    let result = test(lab);
                    let took = start.elapsed().as_secs_f64();
                    report(name, took, &result);
                    if let Ok(mut tally) = tally.lock() {
                        match result {
                            Ok(_) => tally.passed += 1,
                            Err(_) => tally.failed += 1,
                        }
                    }
                }
            });
        }
    });
    tally.into_inner().ok().context("a guest test panicked")
}

fn next<'t>(queue: &Mutex<VecDeque<&'t Test>>) -> Option<&'t Test> {
    queue.lock().ok()?.pop_front()
}

fn report(name: &str, took: f64, result: &Result<Figures>) {
    let mut text = match result {
        Ok(_) => format!("test guest::{name} ... ok ({took:.1} s)\n"),
        Err(error) => format!("test guest::{name} ... FAILED ({took:.1} s)\n{error:#}\n"),
    };
    for figure in result.iter().flatten() {
        text.push_str("    ");
        text.push_str(figure);
        text.push('\n');
    }
    print!("{text}");
}

impl Lab {
    /// Serves disks over one controller with two queues.
    fn serve(&self, scratch: &Scratch, disks: &Disks) -> Result<Storage> {
        self.server.start(&self.lunar, scratch, disks, 2, &[])
    }

    /// A machine with one controller.
    fn machine(&self, storage: &Storage) -> Machine<'_> {
        Machine::new(&self.image, storage.attach.clone())
    }

    /// Boots a machine as most tests want it for one job, which must succeed.
    fn guest(&self, storage: &Storage, script: &str) -> Result<Outcome> {
        self.machine(storage)
            .start(&job(script))?
            .finish()?
            .success()
    }
}

/// A test's job.
fn job(script: &str) -> Job {
    Job::new(&format!("{PRELUDE}{script}"), TIME_LIMIT)
}

impl Outcome {
    /// Insists that the job succeeded.
    fn success(self) -> Result<Self> {
        if self.status != 0 {
            bail!(
                "the guest's job failed with status {}\n--- stdout:\n{}--- stderr:\n{}--- console:\n{}",
                self.status,
                self.stdout,
                self.stderr,
                self.console
            );
        }
        Ok(self)
    }

    /// The number that the job printed as `NAME=NUMBER`.
    fn number(&self, name: &str) -> Result<u64> {
        let line = self
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.and_then(|number| number.trim().parse().ok())
            .with_context(|| format!("the guest did not print {name}=NUMBER\n{}", self.stdout))
    }
}
