//! What is told, in Prometheus's text format: names, units and label values by its conventions.

use std::fmt::Write as _;

use lunar_host::{ControllerInfo, DeviceInfo, Host, RunState};

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
    let disks: Vec<_> = disks.iter().map(|disk| (of_disk(disk), disk)).collect();
    for row in DISKS {
        metric(&mut text, row, disks.iter().cloned());
    }
    text
}

/// The address makes it unique, the name is for people, and the node tells which of them are paths to one image.
fn of_disk(disk: &DeviceInfo) -> String {
    labels(&[
        ("device", &disk.name),
        ("bus", &disk.bus),
        ("target", &disk.target.to_string()),
        ("lun", &disk.lun.to_string()),
        ("node", &disk.node),
    ])
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
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(
            labels(&[("a", "b\\c\"d\ne"), ("f", "g")]),
            r#"{a="b\\c\"d\ne",f="g"}"#
        );
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
