//! `cargo xtask conformance`: libiscsi's SCSI test suites, run by a Linux guest against disks of every kind.
//!
//! The tool is Debian's `iscsi-test-cu`. On a local device it sends its commands through the kernel, as any program
//! in the guest can. Each suite runs in a process of its own, so that the tool's death costs no other suite its
//! results; a test without a result counts as failed. A test that the tool skips "passes", and says so in its log
//! alone: [`log`] tells the two apart, and [`expectations`] which may be skipped.

pub mod disk;
mod expectations;
pub mod log;
mod page;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::guest_tests::Lab;
use crate::process::step;
use crate::qemu::{Job, Machine};
use crate::scratch::Scratch;
use crate::storage::Server;
use crate::{target_directory, test};
use disk::Disk;
use expectations::LEFT_OUT;
use log::{Finding, Verdict};

#[derive(Args)]
pub struct Options {
    /// Only these suites, such as `Write*` (repeatable)
    #[arg(long, value_name = "PATTERN")]
    suite: Vec<String>,
    /// Only disks whose names contain one of these words
    #[arg(value_name = "DISK")]
    disks: Vec<String>,
    /// Do not run disks again of which there is a log: read it
    #[arg(long)]
    resume: bool,
    #[arg(long, value_enum, default_value = "lunar", hide = true)]
    storage: Server,
}

/// How many guests run at a time.
const WORKERS: usize = 2;
/// How long one disk may take.
const TIME_LIMIT: Duration = Duration::from_secs(600);

/// What one disk did.
pub struct Report {
    pub disk: Disk,
    pub findings: Vec<Finding>,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let lab = test::lab(options.storage)?;
    let logs = target_directory()?.join("conformance");
    std::fs::create_dir_all(&logs)?;
    let wanted = |disk: &Disk| {
        let name = disk.to_string();
        options.disks.is_empty()
            || options
                .disks
                .iter()
                .any(|word| name.contains(word.as_str()))
    };
    let disks: Vec<Disk> = disk::all().into_iter().filter(wanted).collect();
    ensure!(!disks.is_empty(), "no disk is called like that");
    let suites: Vec<&str> = match options.suite.as_slice() {
        [] => vec!["*"],
        some => some.iter().map(String::as_str).collect(),
    };
    let reports = step("Testing in a real Linux guest", || {
        all(&lab, &disks, &suites, &logs, options.resume)
    })?;
    let failed = summarize(&reports);
    let complete =
        options.disks.is_empty() && options.suite.is_empty() && options.storage == Server::Lunar;
    if complete {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .with_file_name("docs")
            .join("conformance.md");
        std::fs::write(&path, page::render(&reports))?;
        println!("written: {}", path.display());
    }
    println!("what the tool said: {}", logs.display());
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the suites on every disk; the reports come in the disks' order.
fn all(
    lab: &Lab,
    disks: &[Disk],
    suites: &[&str],
    logs: &Path,
    resume: bool,
) -> Result<Vec<Report>> {
    let queue: Mutex<VecDeque<(usize, Disk)>> =
        Mutex::new(disks.iter().copied().enumerate().collect());
    let reports = Mutex::new(Vec::new());
    let next = || queue.lock().ok()?.pop_front();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(disks.len()) {
            scope.spawn(|| {
                while let Some((place, disk)) = next() {
                    let start = Instant::now();
                    let log = logs.join(format!("{disk}.log"));
                    let result = if resume && log.exists() {
                        std::fs::read_to_string(log)
                            .map_err(Into::into)
                            .and_then(|log| log::read(disk, &log))
                    } else {
                        on(lab, disk, suites, Some(log))
                    };
                    match &result {
                        Ok(findings) => println!(
                            "{disk}: {} ({:.0} s)",
                            count(findings),
                            start.elapsed().as_secs_f64()
                        ),
                        Err(error) => println!("{disk}: {error:#}"),
                    }
                    if let Ok(mut reports) = reports.lock() {
                        reports.push((place, result.map(|findings| Report { disk, findings })));
                    }
                }
            });
        }
    });
    let mut reports = reports.into_inner().ok().context("a worker panicked")?;
    reports.sort_by_key(|(place, _)| *place);
    reports.into_iter().map(|(_, report)| report).collect()
}

/// Runs the suites that match the patterns on one disk.
pub fn on(
    lab: &Lab,
    disk: Disk,
    suites: &[&str],
    keep_log: Option<PathBuf>,
) -> Result<Vec<Finding>> {
    let scratch = Scratch::new()?;
    let storage = disk.serve(lab, &scratch)?;
    let machine = Machine {
        targets: Some("0".to_owned()),
        ..Machine::new(&lab.image, storage.attach.clone())
    };
    let outcome = machine
        .start(&Job::new(&script(disk, suites), TIME_LIMIT))?
        .finish()?;
    ensure!(
        outcome.status == 0,
        "the guest's job failed with status {}\n{}",
        outcome.status,
        outcome.stderr
    );
    storage.stop()?;
    if let Some(path) = keep_log {
        std::fs::write(path, &outcome.stdout)?;
    }
    log::read(disk, &outcome.stdout)
}

/// The guest's job: what there is to run, then the log of each suite.
fn script(disk: Disk, suites: &[&str]) -> String {
    let left_out: String = LEFT_OUT
        .iter()
        .enumerate()
        .filter(|(_, rule)| (rule.on)(disk))
        .map(|(place, rule)| {
            let patterns = rule.tests.join(" | ");
            format!("\t{patterns}) echo \"{}{place} $name\" ;;\n", log::LEFT)
        })
        .collect();
    let suites: Vec<String> = suites.iter().map(|suite| format!("{suite}.*")).collect();
    let suites = suites.join(" | ");
    format!(
        r#"
# The sg driver is to make the largest segments that a request may have.
echo 65536 >/sys/module/sg/parameters/scatter_elem_sz
devices=$(echo {devices})
block=$(cat /sys/class/scsi_device/0:0:0:0/device/block/*/queue/logical_block_size)
tests=$(iscsi-test-cu --list | sed -n 's/^SCSI\.\(.*\..*\)$/\1/p') || exit
for name in $tests; do
	case $name in
	{suites}) ;;
	*) continue ;;
	esac
	case $name in
{left_out}	*) echo "{listed}$name" ;;
	esac
done | tee /tmp/tests
for suite in $(sed -n 's/^{listed}\(.*\)\..*$/\1/p' /tmp/tests | uniq); do
	# One by one if some are not to run.
	tests=$suite
	grep -q "^{left}[0-9]* $suite\." /tmp/tests && tests=$(sed -n "s/^{listed}\($suite\..*\)/\1/p" /tmp/tests)
	for test in $tests; do
		# Only the first device's unit attentions are the tool's business; and its MultipathIO.CompareAndWrite compares
		# one block more than it has cleared.
		for device in $devices; do
			until sg_turs $device; do sleep 0.1; done >/dev/null 2>&1
		done
		[ $suite = MultipathIO ] && sg_dd if=/dev/zero of=/dev/sg0 bs=$block seek=256 count=1 2>/dev/null
		echo "{suite}$suite"
		iscsi-test-cu --dataloss --allow-sanitize --verbose --Verbose-scsi --test="SCSI.$test" $devices 2>&1
		echo
	done
done >/tmp/log
# In one piece: the port is slow for small ones.
cat /tmp/log
"#,
        devices = disk.devices(),
        listed = log::LISTED,
        left = log::LEFT,
        suite = log::SUITE,
    )
}

/// How many tests passed, failed and were skipped.
#[derive(Default, Clone, Copy)]
struct Count {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Count {
    fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Passed => self.passed += 1,
            Verdict::Failed(_) => self.failed += 1,
            Verdict::Skipped(_) => self.skipped += 1,
        }
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

fn count(findings: &[Finding]) -> Count {
    let mut count = Count::default();
    for finding in findings {
        count.add(&finding.verdict);
    }
    count
}

/// Prints every failure; returns how many there are.
fn summarize(reports: &[Report]) -> usize {
    let mut failed = 0;
    for Report { disk, findings } in reports {
        for finding in findings {
            if let Verdict::Failed(why) = &finding.verdict {
                failed += 1;
                println!("FAILED {disk}: {}: {why}", finding.name);
            }
        }
    }
    failed
}
