//! A host in a directory of its own, and guests for it.

#![allow(dead_code, reason = "not every test needs all of it")]

use std::path::PathBuf;
use std::process::Command as Process;
use std::sync::Arc;
use std::time::Duration;

use lunar_host::file::{File, Settings};
use lunar_host::keyval::{BLOCKDEV, DEVICE, DRIVE, OBJECT, Options};
use lunar_host::model::Model;
use lunar_host::{Config, Event, Host, NodeInfo, ShutdownReason};
use lunar_initiator::{Address, Command, Data, Error, Initiator, Response};
use lunar_scsi::Lun;
use lunar_virtio_scsi::WorkersConfig;
use tempfile::TempDir;

pub const CONTROLLER: &str = "device virtio-scsi-pci,id=scsi0,socket=@/s,num_queues=2,config=on";

pub struct Place {
    directory: TempDir,
    pub host: Arc<Host>,
}

impl Place {
    /// A host with what `lines` declare: an option and its value each, `@` in place of the directory.
    pub fn new(lines: &[&str]) -> Place {
        let directory = TempDir::new().unwrap();
        let mut model = Model::default();
        for line in lines {
            let (kind, options) = parse(&directory, line);
            match kind {
                "drive" => model.add_drive(options, line).map(drop).unwrap(),
                "blockdev" => model.add_blockdev(options, line).map(drop).unwrap(),
                "object" => model.add_object(options).map(drop).unwrap(),
                _ => model.add_device(options, line).map(drop).unwrap(),
            }
        }
        let host = start(model);
        Place { directory, host }
    }

    /// Another host instead, with what this one says of itself.
    pub fn restart(&mut self) {
        let file = File::parse("dump", self.host.configuration()).unwrap();
        self.host.shut_down(ShutdownReason::HostSignal).unwrap();
        let mut model = Model::default();
        for one in file.objects() {
            model.add_object(one.options.clone()).unwrap();
        }
        for one in file.blockdevs() {
            model.add_blockdev(one.options.clone(), "").unwrap();
        }
        for one in file.drives() {
            model.add_drive(one.options.clone(), "").unwrap();
        }
        for one in file.devices() {
            model.add_device(one.options.clone(), "").unwrap();
        }
        self.host = start(model);
    }

    /// Adds one thing more; the error is what a user would read.
    pub fn add(&self, line: &str) -> Result<String, String> {
        let (kind, options) = parse(&self.directory, line);
        let added = match kind {
            "drive" => self.host.add_drive(options, line),
            "blockdev" => self.host.add_blockdev(options, line),
            "object" => self.host.add_object(options),
            _ => self.host.add_device(options, line),
        };
        added.map_err(|error| error.line())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn file(&self, name: &str, size: u64) {
        let file = std::fs::File::create(self.path(name)).unwrap();
        file.set_len(size).unwrap();
    }

    /// Everything that there is.
    pub fn all(&self) -> String {
        let host = &self.host;
        format!("{:#?}", (host.controllers(), host.devices(), host.nodes()))
    }

    pub fn guest(&self, socket: &str) -> Guest {
        self.guest_with_timeout(socket, Duration::from_secs(20))
    }

    pub fn guest_with_timeout(&self, socket: &str, timeout: Duration) -> Guest {
        let options = lunar_initiator::Options {
            timeout,
            ..lunar_initiator::Options::default()
        };
        Guest(Initiator::connect(self.path(socket), options).unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A test may have done it.
        let _ = self.host.shut_down(ShutdownReason::HostSignal);
    }
}

fn start(model: Model) -> Arc<Host> {
    let config = Config {
        workers: WorkersConfig {
            count: 2,
            spin: Duration::ZERO,
            ..WorkersConfig::default()
        },
        queues: Some(1),
        settings: Settings::default(),
    };
    Host::start(config, model).unwrap()
}

fn parse<'a>(directory: &TempDir, line: &'a str) -> (&'a str, Options) {
    let (kind, text) = line.split_once(' ').unwrap();
    let text = text.replace('@', directory.path().to_str().unwrap());
    let syntax = match kind {
        "drive" => DRIVE,
        "blockdev" => BLOCKDEV,
        "object" => OBJECT,
        "device" => DEVICE,
        other => panic!("{other}"),
    };
    (kind, Options::parse(&text, syntax).unwrap())
}

pub struct Guest(pub Initiator);

impl Guest {
    pub fn try_run(&mut self, target: u8, lun: u16, cdb: &[u8]) -> Result<Response, Error> {
        let command = Command::new(address(target, lun), cdb, Data::None);
        self.0.command_after_attentions(&command)
    }

    pub fn run(&mut self, target: u8, lun: u16, cdb: &[u8]) -> Response {
        self.try_run(target, lun, cdb).unwrap()
    }

    pub fn run_in(&mut self, target: u8, lun: u16, cdb: &[u8], len: usize) -> Response {
        let command = Command::new(address(target, lun), cdb, Data::In(len));
        self.0.command_after_attentions(&command).unwrap()
    }

    pub fn read(&mut self, target: u8, lun: u16, block: u32) -> Vec<u8> {
        let read = self.run_in(target, lun, &cdb10(0x28, block), 512);
        assert!(read.is_good(), "{read:?}");
        read.data
    }

    pub fn write(&mut self, target: u8, lun: u16, block: u32, byte: u8) {
        let data = [byte; 512];
        let cdb = cdb10(0x2A, block);
        let command = Command::new(address(target, lun), &cdb, Data::Out(&data));
        let written = self.0.command_after_attentions(&command).unwrap();
        assert!(written.is_good(), "{written:?}");
    }

    /// READ CAPACITY(10), without unit attentions in the way.
    pub fn blocks(&mut self, target: u8, lun: u16) -> u64 {
        let command = Command::new(
            address(target, lun),
            &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            Data::In(8),
        );
        let answer = self.0.command(&command).unwrap();
        assert!(answer.is_good(), "{answer:?}");
        let last: [u8; 4] = answer.data[..4].try_into().unwrap();
        u64::from(u32::from_be_bytes(last)) + 1
    }

    pub fn blocks_after_attentions(&mut self, target: u8, lun: u16) -> u64 {
        self.attentions(target, lun);
        self.blocks(target, lun)
    }

    /// Takes all unit attentions; their codes.
    pub fn attentions(&mut self, target: u8, lun: u16) -> Vec<(u8, u8)> {
        let mut found = Vec::new();
        loop {
            let command = Command::new(address(target, lun), &[0; 6], Data::None);
            let answer = self.0.command(&command).unwrap();
            match answer.sense_key() {
                Some((6, asc, ascq)) if !answer.is_good() => found.push((asc, ascq)),
                _ => return found,
            }
        }
    }

    /// The next event: what, where, why.
    pub fn event(&mut self) -> (u32, [u8; 8], u32) {
        let event = self.0.events().next(Duration::from_secs(10)).unwrap();
        let event = event.expect("an event");
        assert!(!event.missed);
        (event.event, event.address.0, event.reason)
    }
}

fn cdb10(opcode: u8, block: u32) -> [u8; 10] {
    let [a, b, c, d] = block.to_be_bytes();
    [opcode, 0, a, b, c, d, 0, 0, 1, 0]
}

pub fn address(target: u8, lun: u16) -> Address {
    Address::new(target, Lun::new(lun).unwrap())
}

pub fn transport_reset(target: u8, lun: u8, reason: u32) -> (u32, [u8; 8], u32) {
    let at = [1, target, 0, lun, 0, 0, 0, 0];
    (lunar_initiator::Event::TRANSPORT_RESET, at, reason)
}

pub fn deleted(id: &str) -> Event {
    Event::DeviceDeleted {
        device: Some(id.to_owned()),
        path: format!("/machine/peripheral/{id}"),
    }
}

pub fn names(nodes: Vec<NodeInfo>) -> Vec<String> {
    nodes.into_iter().map(|node| node.name).collect()
}

/// Runs the test `name` with nothing beside it in its process.
pub fn alone(name: &str, test: impl FnOnce()) {
    const ALONE: &str = "LUNAR_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let mut process = Process::new(std::env::current_exe().unwrap());
    process
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "");
    assert!(process.status().unwrap().success());
}
