//! What a disk and a queue take of the server's memory.
//!
//! A server with one of everything is compared with one that has many, both while a client has them in use: what is
//! kept for each guest is there by then. What counts is memory that is the process's own (`RssAnon`), without the guest's
//! and without the program's text.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use lunar_initiator::{Access, Address, Device, Kind, Limit, Load, Options, Waiting};
use lunar_scsi::Lun;
use serde_json::{Value, json};

use super::Suite;
use super::pinning::{Processors, stay_on};
use super::server::Server;
use crate::bench::report;

/// What this is called among the cases.
pub const NAME: &str = "memory-of-the-server";

const DISKS: u16 = 4096;
const QUEUES: u16 = 64;
/// Requests in flight on each queue.
const DEPTH: u16 = 32;
const BLOCK: u32 = 4096;
/// Bytes of each disk.
const SIZE: u64 = 1 << 30;

/// What one of many takes.
pub struct Figure {
    pub what: &'static str,
    /// How many there were.
    pub number: u16,
    pub bytes: f64,
}

/// Starts the servers, and compares.
pub fn measure(options: &Suite, processors: &Processors) -> anyhow::Result<Vec<Figure>> {
    let files = tempfile::tempdir_in(&options.memory).context("a directory for images")?;
    for disk in 0..DISKS {
        File::create(image(files.path(), disk))?.set_len(SIZE)?;
    }
    let null = in_use(1, 1, None, processors)?;
    let raw = in_use(1, 1, Some(files.path()), processors)?;
    let figure = |what, number: u16, one: u64, many: u64| Figure {
        what,
        number,
        bytes: report::share(many.saturating_sub(one), u64::from(number) - 1),
    };
    Ok(vec![
        figure(
            "disk, null-co",
            DISKS,
            null,
            in_use(DISKS, 1, None, processors)?,
        ),
        figure(
            "disk, raw file",
            DISKS,
            raw,
            in_use(DISKS, 1, Some(files.path()), processors)?,
        ),
        figure("queue", QUEUES, null, in_use(1, QUEUES, None, processors)?),
    ])
}

fn image(directory: &Path, disk: u16) -> PathBuf {
    directory.join(format!("{disk}.raw"))
}

/// The memory of a server whose disks and queues have all had something to do.
fn in_use(
    disks: u16,
    queues: u16,
    files: Option<&Path>,
    processors: &Processors,
) -> anyhow::Result<u64> {
    let directory = tempfile::tempdir().context("a directory for the socket")?;
    let socket = directory.path().join("s");
    let mut command = Command::new(std::env::current_exe().context("this program")?);
    command.args(["serve", "--monitor=none", "--workers=1"]);
    command.arg(format!("--socket-path={}", socket.display()));
    command.arg(format!("--queues={queues}"));
    for disk in 0..disks {
        let node = match files.map(|files| image(files, disk)) {
            Some(path) => format!("file,filename={}", path.display()),
            None => format!("null-co,size={SIZE}"),
        };
        command.arg(format!("--blockdev={node},node-name=n{disk}"));
        command.arg(format!(
            "--device=scsi-hd,drive=n{disk},scsi-id=0,lun={disk}"
        ));
    }
    let sockets = std::slice::from_ref(&socket);
    let server = Server::start(command, sockets, directory.path(), processors)?;
    stay_on(processors.client)?;
    put_to_use(disks, queues, &socket, &server).map_err(|error| server.explain(error))
}

fn put_to_use(disks: u16, queues: u16, socket: &Path, server: &Server) -> anyhow::Result<u64> {
    let options = Options {
        queues,
        depth: DEPTH,
        max_data: BLOCK,
        ..Options::default()
    };
    let mut device = Device::connect(socket, Some(Kind::Scsi), options)?;
    let load = Load {
        disks: (0..disks)
            .filter_map(Lun::new)
            .map(|lun| Address::new(0, lun))
            .collect(),
        access: Access::RandomRead,
        block_size: BLOCK,
        depth: DEPTH,
        queues,
        limit: Limit::Count(u64::from(disks.max(queues)) * u64::from(DEPTH)),
        ramp: Duration::ZERO,
        waiting: Waiting::Sleep,
        seed: 1,
    };
    device.load(&load, &mut |_| {})?;
    let process = server.process().context("the server's process")?;
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    anonymous(&status).context("the system does not say what memory the server has")
}

/// The bytes of the line `RssAnon` (proc(5)).
fn anonymous(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// In short.
pub fn line(figures: &[Figure]) -> String {
    let each = |figure: &Figure| format!("{} B for each {}", rounded(figure), figure.what);
    let all: Vec<_> = figures.iter().map(each).collect();
    format!("{NAME:<28}  {}\n", all.join("; "))
}

/// The bytes of one.
pub fn rounded(figure: &Figure) -> String {
    report::grouped(figure.bytes)
}

/// Members may be added; those that are here keep their names, meanings and units.
pub fn json(figures: &[Figure]) -> Value {
    let each = |figure: &Figure| {
        json!({
            "what": figure.what,
            "number": figure.number,
            "bytes-each": figure.bytes,
        })
    };
    figures.iter().map(each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_process_alone_is_found() {
        let status = "VmRSS:\t  9000 kB\nRssAnon:\t    1234 kB\nRssFile:\t 1 kB\n";
        assert_eq!(anonymous(status), Some(1234 << 10));
        assert_eq!(anonymous("VmRSS:\t  9000 kB\n"), None);
    }
}
