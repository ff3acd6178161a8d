//! A host without a guest, and a session with its monitor.

#![allow(dead_code, reason = "not every test needs all of it")]

use std::sync::Arc;

use lunar_host::keyval::{DEVICE, DRIVE, Options};
use lunar_host::model::Model;
use lunar_host::{Config, Host};
use lunar_monitor::{Session, Table, table};
use serde_json::{Value, json};

pub struct Lab {
    pub table: Table<Arc<Host>>,
    pub host: Arc<Host>,
    session: Session,
    pub directory: tempfile::TempDir,
}

/// A controller with one disk of 1 MiB.
pub fn lab() -> Lab {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("a.img");
    std::fs::File::create(&image)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let mut model = Model::default();
    let socket = directory.path().join("vm");
    let device = |text: &str| Options::parse(text, DEVICE).unwrap();
    let controller = format!(
        "virtio-scsi-pci,id=s,num_queues=1,socket={}",
        socket.display()
    );
    model.add_device(device(&controller), "s").unwrap();
    let drive = format!("file={},id=d,if=none,format=raw", image.display());
    model
        .add_drive(Options::parse(&drive, DRIVE).unwrap(), "d")
        .unwrap();
    model
        .add_device(device("scsi-hd,drive=d,id=disk"), "disk")
        .unwrap();
    let config = Config {
        workers: Default::default(),
        queues: None,
        settings: lunar_host::file::Settings::default(),
    };
    let host = Host::start(config, model).unwrap();
    let mut lab = Lab {
        table: table(),
        host,
        session: Session::default(),
        directory,
    };
    lab.ask("qmp_capabilities", json!({}));
    lab
}

impl Lab {
    pub fn execute(&mut self, command: &str, arguments: Value) -> Value {
        let text = json!({"execute": command, "arguments": arguments}).to_string();
        let mut input = text.as_bytes();
        let answer = self.session.next(&mut input, &self.table, &self.host);
        serde_json::from_slice(&answer.unwrap()).unwrap()
    }

    /// A command that succeeds, with an answer that its description fits.
    pub fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let mut answer = self.execute(command, arguments);
        let answer = answer["return"].take();
        assert!(!answer.is_null(), "{command}");
        self.table
            .returns(command)
            .unwrap()
            .check(command, &answer)
            .unwrap();
        answer
    }

    /// A command that is refused: class and message.
    pub fn refused(&mut self, command: &str, arguments: Value) -> (String, String) {
        let before = self.everything();
        let answer = self.execute(command, arguments);
        let text = |member: &str| answer["error"][member].as_str().expect(command).to_owned();
        assert_eq!(self.everything(), before, "{command}");
        (text("class"), text("desc"))
    }

    pub fn everything(&mut self) -> [Value; 3] {
        [
            self.ask("query-block", json!({})),
            self.ask("query-named-block-nodes", json!({})),
            self.ask("qom-list", json!({"path": "/machine/peripheral"})),
        ]
    }
}
