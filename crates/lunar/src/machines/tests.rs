//! Machines whose QEMU is a script that speaks QMP, and fails in ways that a real one rarely does.
#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation is a test's verdict"
)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use tempfile::TempDir;

use super::*;

/// The machine that we run on may be busy.
const LONG: Duration = Duration::from_secs(60);

/// A QEMU's monitor. Whoever drops it ends the process it stands for.
struct Qemu {
    directory: TempDir,
    state: Arc<Mutex<Run>>,
    /// What it is told, but for `query-status`.
    orders: Receiver<String>,
    sender: Sender<String>,
}

#[derive(Default)]
struct Run {
    running: bool,
    /// Closes the connection instead of answering this.
    fails_at: Option<&'static str>,
    session: Option<UnixStream>,
}

impl Qemu {
    fn new(running: bool) -> Qemu {
        let (sender, orders) = channel();
        let run = Run {
            running,
            ..Run::default()
        };
        Qemu {
            directory: TempDir::new().unwrap(),
            state: Arc::new(Mutex::new(run)),
            orders,
            sender,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("qmp")
    }

    fn listen(&self) {
        let listener = UnixListener::bind(self.path()).unwrap();
        let (state, sender) = (Arc::clone(&self.state), self.sender.clone());
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                session(&stream, &state, &sender);
            }
        });
    }

    /// The next order that it gets.
    fn order(&self) -> String {
        self.orders.recv_timeout(LONG).unwrap()
    }

    fn gets_nothing(&self) {
        let order = self.orders.recv_timeout(Duration::from_millis(300));
        assert_eq!(order.ok(), None);
    }

    fn is_running(&self) -> bool {
        self.state.lock().unwrap().running
    }

    /// Somebody else does this.
    fn resume(&self) {
        let mut state = self.state.lock().unwrap();
        state.running = true;
        let mut session = state.session.as_ref().unwrap();
        writeln!(session, r#"{{"event":"RESUME"}}"#).unwrap();
    }
}

fn session(stream: &UnixStream, state: &Mutex<Run>, orders: &Sender<String>) {
    let mut out = stream.try_clone().unwrap();
    let greeting = json!({"QMP": {"version": {"package": "", "qemu": {}}, "capabilities": []}});
    let mut answer = |answer: Value| writeln!(out, "{answer}").is_ok();
    if !answer(greeting) {
        return;
    }
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let message: Value = serde_json::from_str(&line).unwrap();
        let command = message["execute"].as_str().unwrap().to_owned();
        let mut state = state.lock().unwrap();
        state.session = Some(stream.try_clone().unwrap());
        if !matches!(&*command, "qmp_capabilities" | "query-status") {
            orders.send(command.clone()).unwrap();
        }
        if state.fails_at.take_if(|at| *at == command).is_some() {
            stream.shutdown(std::net::Shutdown::Both).unwrap();
            return;
        }
        match &*command {
            "stop" => state.running = false,
            "cont" => state.running = true,
            _ => {}
        }
        if !answer(json!({"return": {"running": state.running}})) {
            return;
        }
    }
}

/// A machine with this QEMU, and what it asks for.
fn machine(qemu: &Qemu) -> (Machine, Receiver<()>) {
    let (retry, retries) = channel();
    let machine = Machine::start(qemu.path(), move || {
        let _ = retry.send(());
    });
    (machine, retries)
}

#[test]
fn a_machine_is_paused_and_resumed_with_its_disk() {
    let qemu = Qemu::new(true);
    qemu.listen();
    let (machine, retries) = machine(&qemu);
    for _ in 0..2 {
        machine.hold(true);
        assert_eq!(qemu.order(), "stop");
        qemu.gets_nothing();
        machine.hold(false);
        assert_eq!(qemu.order(), "cont");
    }
    assert!(retries.try_recv().is_err());
}

#[test]
fn a_machine_that_its_administrator_has_paused_stays_so() {
    let qemu = Qemu::new(false);
    qemu.listen();
    let (machine, _retries) = machine(&qemu);
    machine.hold(true);
    qemu.gets_nothing();
    machine.hold(false);
    qemu.gets_nothing();
    assert!(!qemu.is_running());
}

#[test]
fn a_held_machine_that_somebody_resumes_has_its_disk_tried_again() {
    let qemu = Qemu::new(true);
    qemu.listen();
    let (machine, retries) = machine(&qemu);
    machine.hold(true);
    assert_eq!(qemu.order(), "stop");
    qemu.resume();
    retries.recv_timeout(LONG).unwrap();
    // The disk fails again: it is still to be held.
    assert_eq!(qemu.order(), "stop");
    qemu.resume();
    retries.recv_timeout(LONG).unwrap();
    // Now it goes on, and so does the machine already.
    machine.hold(false);
    assert!(qemu.is_running());
    qemu.gets_nothing();
}

#[test]
fn a_qemu_that_is_not_there_yet_is_paused_when_it_comes() {
    let qemu = Qemu::new(true);
    let (machine, _retries) = machine(&qemu);
    let begun = Instant::now();
    machine.hold(true);
    assert!(begun.elapsed() < Duration::from_secs(1), "nobody waits");
    qemu.gets_nothing();
    qemu.listen();
    assert_eq!(qemu.order(), "stop");
    drop(machine);
    assert_eq!(qemu.order(), "cont", "it is let go of at the end");
}

#[test]
fn a_connection_that_breaks_is_made_anew() {
    let qemu = Qemu::new(true);
    qemu.listen();
    let (machine, retries) = machine(&qemu);
    for order in ["stop", "cont"] {
        qemu.state.lock().unwrap().fails_at = Some(order);
        machine.hold(order == "stop");
        assert_eq!(qemu.order(), order, "without an answer");
        if order == "stop" {
            // Whether it has been done is not known: that it runs looks as if somebody had resumed it.
            retries.recv_timeout(LONG).unwrap();
        }
        assert_eq!(qemu.order(), order);
    }
    assert!(qemu.is_running());
}

#[test]
fn a_qemu_that_has_gone_or_hangs_does_not_keep_the_server_from_ending() {
    let qemu = Qemu::new(true);
    qemu.listen();
    let (paused, _retries) = machine(&qemu);
    paused.hold(true);
    assert_eq!(qemu.order(), "stop");
    let session = qemu.state.lock().unwrap().session.take().unwrap();
    std::fs::remove_file(qemu.path()).unwrap();
    session.shutdown(std::net::Shutdown::Both).unwrap();
    drop(paused);

    // Accepts nobody, and has a full queue of those who want it to.
    let hanging = UnixListener::bind(qemu.path()).unwrap();
    let (machine, _retries) = machine(&qemu);
    machine.hold(true);
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    drop(machine);
    assert!(begun.elapsed() < SEARCH);
    drop(hanging);
}
