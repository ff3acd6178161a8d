//! What is told, in Prometheus's text format: names, units and label values by its conventions.

use std::fmt::Write as _;

use lunar_host::{Activity, ControllerInfo, DeviceInfo, Host, RunState, WorkerThread};

/// A metric of a kind of things.
struct Metric<T> {
    name: &'static str,
    /// `counter` or `gauge`.
    kind: &'static str,
    help: &'static str,
    value: fn(&T) -> u64,
}

const fn counter<T>(name: &'static str, help: &'static str, value: fn(&T) -> u64) -> Metric<T> {
    Metric {
        name,
        kind: "counter",
        help,
        value,
    }
}

const fn gauge<T>(name: &'static str, help: &'static str, value: fn(&T) -> u64) -> Metric<T> {
    Metric {
        name,
        kind: "gauge",
        help,
        value,
    }
}

const CONTROLLERS: &[Metric<ControllerInfo>] = &[
    gauge(
        "lunar_controller_connected",
        "Whether a front end is connected to the controller.",
        |controller| controller.connected.into(),
    ),
    counter(
        "lunar_controller_connections_total",
        "Front ends that have connected to the controller.",
        |controller| controller.connections,
    ),
    gauge(
        "lunar_controller_queues",
        "Request queues of the controller.",
        |controller| controller.queues.into(),
    ),
    gauge(
        "lunar_controller_disks",
        "Disks on the controller.",
        |controller| controller.devices.try_into().unwrap_or(u64::MAX),
    ),
];

const DISKS: &[Metric<DeviceInfo>] = &[
    gauge("lunar_disk_size_bytes", "Size of the disk.", |disk| {
        disk.size
    }),
    gauge(
        "lunar_disk_read_only",
        "Whether the disk refuses writes.",
        |disk| disk.read_only.into(),
    ),
    counter(
        "lunar_disk_reads_total",
        "Read operations, through all paths to the disk's image.",
        |disk| disk.stats.reads,
    ),
    counter(
        "lunar_disk_read_bytes_total",
        "Bytes that reads asked for, through all paths to the disk's image.",
        |disk| disk.stats.read_bytes,
    ),
    counter(
        "lunar_disk_writes_total",
        "Write operations, through all paths to the disk's image.",
        |disk| disk.stats.writes,
    ),
    counter(
        "lunar_disk_written_bytes_total",
        "Bytes that writes carried, through all paths to the disk's image.",
        |disk| disk.stats.written_bytes,
    ),
    counter(
        "lunar_disk_flushes_total",
        "Flushes, through all paths to the disk's image.",
        |disk| disk.stats.flushes,
    ),
    counter(
        "lunar_disk_discards_total",
        "Discards and write-zeroes, through all paths to the disk's image.",
        |disk| disk.stats.discards,
    ),
    counter(
        "lunar_disk_errors_total",
        "Operations of any kind that failed, through all paths to the disk's image.",
        |disk| disk.stats.errors,
    ),
    counter(
        "lunar_disk_bounces_total",
        "Operations that had to be copied through a buffer, through all paths to the disk's image.",
        |disk| disk.stats.bounces,
    ),
    counter(
        "lunar_disk_inline_total",
        "Operations that were carried out in place, without io_uring, through all paths to the disk's image.",
        |disk| disk.stats.inline,
    ),
    counter(
        "lunar_disk_inline_misses_total",
        "Attempts to carry out a read in place that would have had to wait, through all paths to the disk's image.",
        |disk| disk.stats.inline_misses,
    ),
    counter(
        "lunar_disk_straight_total",
        "Operations on a qcow2 image that went to its file as they were, through all paths to the disk's image.",
        |disk| disk.stats.straight,
    ),
];

const WORKERS: &[Metric<WorkerThread>] = &[
    counter(
        "lunar_worker_requests_total",
        "Requests that the thread took.",
        |worker| worker.stats.requests,
    ),
    counter(
        "lunar_worker_rounds_total",
        "Turns of the thread's loop in which it found requests.",
        |worker| worker.stats.rounds,
    ),
    counter(
        "lunar_worker_interrupts_total",
        "Interrupts that the thread sent.",
        |worker| worker.stats.interrupts,
    ),
    counter(
        "lunar_worker_interrupts_held_total",
        "Times that an interrupt which was wanted had to wait because more was to come.",
        |worker| worker.stats.held,
    ),
    counter(
        "lunar_worker_kicks_total",
        "Wake-ups of the thread by drivers.",
        |worker| worker.stats.kicks,
    ),
    counter(
        "lunar_worker_sleeps_total",
        "Times that the thread went to sleep for want of work.",
        |worker| worker.stats.sleeps,
    ),
];

/// Everything about a host.
pub fn of(host: &Host) -> String {
    let mut text = String::new();
    metric(
        &mut text,
        &gauge("lunar_build_info", "Lunar's version, in a label.", |()| 1),
        [(labels(&[("version", env!("CARGO_PKG_VERSION"))]), &())],
    );
    let running = u64::from(host.status() == RunState::Running);
    metric(
        &mut text,
        &gauge(
            "lunar_running",
            "Whether requests are taken: not if somebody or an error has stopped them.",
            |running| *running,
        ),
        [(String::new(), &running)],
    );
    let workers = host.workers().threads();
    for row in WORKERS {
        let labelled = workers.iter().map(|worker| {
            let labels = labels(&[("worker", &worker.name)]);
            (labels, worker)
        });
        metric(&mut text, row, labelled);
    }
    let controllers = host.controllers();
    let controllers: Vec<_> = controllers
        .iter()
        .map(|controller| {
            let name = controller.id.as_deref().unwrap_or(&controller.bus);
            (labels(&[("controller", name)]), controller)
        })
        .collect();
    for row in CONTROLLERS {
        metric(&mut text, row, controllers.iter().cloned());
    }
    let disks = host.devices();
    let labelled: Vec<_> = disks
        .iter()
        .map(|disk| (of_disk(disk, &[]), disk))
        .collect();
    for row in DISKS {
        metric(&mut text, row, labelled.iter().cloned());
    }
    latencies(&mut text, &disks);
    text
}

/// Where the bounds of latencies are: powers of two, in nanoseconds, from 16 microseconds to 17 seconds.
const BOUNDS: std::ops::RangeInclusive<u32> = 14..=34;

/// How long operations took, as histograms.
fn latencies(text: &mut String, disks: &[DeviceInfo]) {
    const NAME: &str = "lunar_disk_latency_seconds";
    if disks.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "# HELP {NAME} How long operations took since the disk is there, through all paths to it.\n# TYPE {NAME} histogram"
    );
    for disk in disks {
        let all = &disk.activities;
        for (operation, activity) in [
            ("read", &all.reads),
            ("write", &all.writes),
            ("flush", &all.flushes),
            ("discard", &all.discards),
        ] {
            histogram(
                text,
                NAME,
                &of_disk(disk, &[("operation", operation)]),
                activity,
            );
        }
    }
}

fn histogram(text: &mut String, name: &str, labels: &str, activity: &Activity) {
    let classes = &activity.latencies.0;
    let within = |bound: u64| -> u64 {
        let within = classes.iter().filter(|(end, _)| *end <= bound);
        within.map(|(_, count)| count).sum()
    };
    let labels = labels.trim_end_matches('}');
    for power in BOUNDS {
        let bound = 1u64 << power;
        let (seconds, count) = (seconds(bound), within(bound));
        let _ = writeln!(text, "{name}_bucket{labels},le=\"{seconds}\"}} {count}");
    }
    let (sum, count) = (seconds(activity.nanoseconds), within(u64::MAX));
    let _ = writeln!(text, "{name}_bucket{labels},le=\"+Inf\"}} {count}");
    let _ = writeln!(text, "{name}_sum{labels}}} {sum}");
    let _ = writeln!(text, "{name}_count{labels}}} {count}");
}

/// Nanoseconds as seconds, exactly.
fn seconds(ns: u64) -> String {
    format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// The address makes it unique, the name is for people, and the node tells which of them are paths to one image.
fn of_disk(disk: &DeviceInfo, more: &[(&str, &str)]) -> String {
    let (target, lun) = (disk.target.to_string(), disk.lun.to_string());
    let own = [
        ("device", &*disk.name),
        ("bus", &disk.bus),
        ("target", &target),
        ("lun", &lun),
        ("node", &disk.node),
    ];
    labels(&[&own, more].concat())
}

/// Nothing is said of a kind of which there is none.
fn metric<'a, T: 'a>(
    text: &mut String,
    metric: &Metric<T>,
    samples: impl IntoIterator<Item = (String, &'a T)>,
) {
    let Metric {
        name,
        kind,
        help,
        value,
    } = metric;
    let mut samples = samples.into_iter().peekable();
    if samples.peek().is_some() {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }
    for (labels, sample) in samples {
        let _ = writeln!(text, "{name}{labels} {}", value(sample));
    }
}

fn labels(all: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in all {
        let value = value
            .replace('\\', r"\\")
            .replace('"', r#"\""#)
            .replace('\n', r"\n");
        let before = if text.is_empty() { '{' } else { ',' };
        let _ = write!(text, "{before}{name}=\"{value}\"");
    }
    text + "}"
}

#[cfg(test)]
mod tests {
    use lunar_host::Latencies;

    use super::*;

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(
            labels(&[("a", "b\\c\"d\ne"), ("f", "g")]),
            r#"{a="b\\c\"d\ne",f="g"}"#
        );
    }

    #[test]
    fn a_histogram_adds_up_and_ends_with_everything() {
        let mut text = String::new();
        let activity = Activity {
            nanoseconds: 1_500_000_000,
            latencies: Latencies(vec![(1 << 13, 3), (1 << 20, 4), (u64::MAX, 1)]),
            ..Activity::default()
        };
        histogram(&mut text, "x", "{a=\"b\"}", &activity);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines.first(),
            Some(&"x_bucket{a=\"b\",le=\"0.000016384\"} 3")
        );
        assert!(lines.contains(&"x_bucket{a=\"b\",le=\"0.001048576\"} 7"));
        assert!(text.ends_with(
            "x_bucket{a=\"b\",le=\"+Inf\"} 8\nx_sum{a=\"b\"} 1.500000000\nx_count{a=\"b\"} 8\n"
        ));
    }

    #[test]
    fn a_metric_has_its_help_and_type_once() {
        let mut text = String::new();
        let row = counter("lunar_x_total", "What.", |n: &u64| *n);
        metric(&mut text, &row, []);
        assert_eq!(text, "");
        metric(
            &mut text,
            &row,
            [("{a=\"1\"}".to_owned(), &7), (String::new(), &u64::MAX)],
        );
        assert_eq!(
            text,
            "# HELP lunar_x_total What.\n# TYPE lunar_x_total counter\n\
             lunar_x_total{a=\"1\"} 7\nlunar_x_total 18446744073709551615\n"
        );
    }
}
