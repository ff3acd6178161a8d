//! The QEMU options that attach our controllers, and the table of what they serve.

use std::fmt::Write as _;
use std::path::Path;

use lunar_host::keyval::escape;
use lunar_host::model::{Controller, Socket};

/// What `lunar serve` tells about one disk.
#[derive(Debug)]
pub struct Row {
    /// Its target.
    pub target: u8,
    /// Its LUN there.
    pub lun: u16,
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Refuses writes.
    pub read_only: bool,
    /// What it is made of.
    pub image: String,
}

/// A controller as it is served.
#[derive(Debug)]
pub struct Served<'a> {
    /// As declared.
    pub controller: &'a Controller,
    /// Its request queues.
    pub queues: u16,
    /// Its disks.
    pub disks: Vec<Row>,
}

/// The table for people.
pub fn table(all: &[Served<'_>]) -> String {
    let mut text = String::new();
    for served in all {
        let _ = writeln!(
            text,
            "{}: {}, {}",
            served.controller.bus,
            match &served.controller.socket {
                Some(Socket::Path(path)) => format!("socket {}", path.display()),
                Some(Socket::Fd(fd)) => format!("socket descriptor {fd}"),
                None => "no socket".to_owned(),
            },
            count(served.queues.into(), "request queue"),
        );
        if served.disks.is_empty() {
            text.push_str("  no disks\n");
        }
        let width = served
            .disks
            .iter()
            .map(|row| row.name.chars().count())
            .max()
            .unwrap_or(0);
        for row in &served.disks {
            let _ = writeln!(
                text,
                "  target {:>3} LUN {:<5} {:width$}  {:>10}  {}  {}",
                row.target,
                row.lun,
                row.name,
                size(row.size.into()),
                if row.read_only { "ro" } else { "rw" },
                row.image,
            );
        }
    }
    text
}

/// What has to be added to QEMU's command line, ready to be pasted into a shell.
pub fn options(all: &[Served<'_>]) -> String {
    let mut text = String::from(
        "Add to QEMU (with your own memory size, twice the same):\n\
         \x20 -m 4G -object memory-backend-memfd,id=mem,size=4G,share=on -machine q35,memory-backend=mem",
    );
    for served in all {
        let name = served.controller.name().replace('.', "-");
        let path = match &served.controller.socket {
            Some(Socket::Path(path)) => absolute(path),
            _ => "SOCKET".to_owned(),
        };
        let chardev = format!("socket,id=char-{name},path={}", escape(&path));
        let _ = write!(text, " \\\n  -chardev {}", quote(&chardev));
        let device = device(served, &name);
        let _ = write!(text, " \\\n  -device {}", quote(&device));
    }
    text.push('\n');
    if all
        .iter()
        .any(|served| matches!(served.controller.socket, Some(Socket::Fd(_))))
    {
        text.push_str("where SOCKET is the path of the socket that was passed with --fd.\n");
    }
    text
}

/// Disks whose `bootindex` firmware cannot follow: a vhost-user controller boots from LUN 0 of one target.
pub fn boot_warnings(controller: &Controller) -> Vec<String> {
    let chosen = boot(controller);
    let asking = controller.disks.iter().filter_map(|(address, disk)| {
        let index = disk.options.bootindex?;
        (Some((index, address.target)) != chosen || address.lun != 0).then(|| match address.lun {
            0 => format!(
                "{}: bootindex={index} has no effect: QEMU boots one target of a vhost-user controller, \
                 that of the lowest bootindex; put the disk on a controller of its own",
                disk.name
            ),
            lun => format!(
                "{}: bootindex={index} has no effect: QEMU boots LUN 0 of a vhost-user controller, not LUN {lun}; \
                 put the disk on LUN 0",
                disk.name
            ),
        })
    });
    asking.collect()
}

fn device(served: &Served<'_>, name: &str) -> String {
    let Served {
        controller, queues, ..
    } = served;
    let options = &controller.options;
    let mut text = format!("vhost-user-scsi-pci,id={name},chardev=char-{name},num_queues={queues}");
    // QEMU makes the configuration space itself: what differs from its defaults must be said there too.
    let mut other = |differs: bool, property: String| {
        if differs {
            let _ = write!(text, ",{property}");
        }
    };
    other(
        options.max_sectors != 0xffff,
        format!("max_sectors={}", options.max_sectors),
    );
    other(
        options.cmd_per_lun != 128,
        format!("cmd_per_lun={}", options.cmd_per_lun),
    );
    other(!options.hotplug, "hotplug=off".to_owned());
    other(!options.param_change, "param_change=off".to_owned());
    // Off is QEMU's default.
    other(options.packed == Some(true), "packed=on".to_owned());
    for (property, value) in &options.pci {
        other(true, format!("{property}={}", escape(value)));
    }
    if let Some((index, target)) = boot(controller) {
        other(true, format!("bootindex={index},boot_tpgt={target}"));
    }
    text
}

/// The lowest boot index at a LUN 0, and its target.
fn boot(controller: &Controller) -> Option<(u16, u8)> {
    let disks = controller
        .disks
        .iter()
        .filter(|(address, _)| address.lun == 0);
    disks
        .filter_map(|(address, disk)| Some((disk.options.bootindex?, address.target)))
        .min()
}

fn absolute(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    path.display().to_string()
}

/// For a POSIX shell.
fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || ",=._-/:+@%".contains(c);
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// `1 disk`, `2 disks`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// With the unit that keeps one to four digits before the point.
pub fn size(bytes: u128) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (shift, unit) = (1..)
        .map(|step| step * 10)
        .zip(units)
        .take_while(|(shift, _)| bytes >> shift > 0)
        .last()
        .unwrap_or((0, "B"));
    if shift == 0 {
        return format!("{bytes} B");
    }
    let tenths = bytes.saturating_mul(10) >> shift;
    match tenths % 10 {
        0 => format!("{} {unit}", tenths / 10),
        tenth => format!("{}.{tenth} {unit}", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_fitting_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (10 << 30, "10 GiB"),
            (u64::MAX.into(), "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for text in [
            "socket,id=a,path=/run/x.sock",
            "path=/tmp/a b,,c",
            "it's $HOME `x`",
        ] {
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quote(text))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }
}
