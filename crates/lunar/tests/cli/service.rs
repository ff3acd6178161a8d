//! What a service manager, a monitoring system and an administrator see of a server.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use lunar_initiator::{Address, Command, Data, Initiator, Options};
use lunar_scsi::Lun;
use rustix::process::Signal;
use serde_json::Value;

use crate::program::{PATIENCE, Place, finish, stdout};

/// What a notification says.
fn notification(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let n = socket.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..n].to_vec()).unwrap()
}

#[test]
fn readiness_is_told_when_a_front_end_can_connect() {
    let place = Place::new();
    place.image("a.img", 1 << 20);
    let socket = UnixDatagram::bind(place.path("notify")).unwrap();
    let mut command = place.command(&["serve", "--socket-path=vm.sock", "a.img"]);
    command.env("NOTIFY_SOCKET", place.path("notify"));
    let server = place.start(command);
    assert_eq!(
        notification(&socket),
        "READY=1\nSTATUS=serving 1 disk on 1 controller\n"
    );
    UnixStream::connect(place.path("vm.sock")).unwrap();
    server.signal(Signal::TERM);
    assert_eq!(
        notification(&socket),
        "STOPPING=1\nSTATUS=finishing requests and flushing images\n"
    );
    let ended = server.ended();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_failure_is_told_to_the_service_manager() {
    let place = Place::new();
    let socket = UnixDatagram::bind(place.path("notify")).unwrap();
    let mut command = place.command(&["serve", "--socket-path=vm.sock", "absent.img"]);
    command.env("NOTIFY_SOCKET", place.path("notify"));
    let output = finish(command);
    assert_eq!(output.status.code(), Some(1));
    let status = notification(&socket);
    assert!(
        status.starts_with("STATUS=") && status.contains("absent.img"),
        "{status}"
    );
    assert_eq!(status.lines().count(), 1, "{status}");
}

/// A file that is delivered beside the program.
fn contrib(path: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib");
    std::fs::read_to_string(directory.join(path)).unwrap()
}

#[test]
fn the_discovery_file_says_what_the_program_says() {
    let file: Value = serde_json::from_str(&contrib("vhost-user/50-lunar.json")).unwrap();
    let said = stdout(&Place::new().run(&["--print-capabilities"]));
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(file["type"], said["type"]);
    assert_eq!(file["features"], said["features"]);
    // The members of VHostUserBackend.
    assert!(file["description"].is_string() && file["tags"].is_array());
    assert!(file["binary"].as_str().unwrap().starts_with('/'));
    assert_eq!(file.as_object().unwrap().len(), 5);
}

#[test]
fn the_unit_starts_the_program_with_options_that_it_has() {
    let unit = contrib("systemd/lunar@.service");
    let start = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let mut words = start.unwrap().split(' ');
    assert_eq!(words.next(), Some("/usr/bin/lunar"));
    let place = Place::new();
    std::fs::create_dir(place.path("lunar")).unwrap();
    place.write("lunar/vm1.toml", b"workers = 0");
    let arguments: Vec<String> = words
        .map(|word| word.replace("/etc/lunar/%i", "lunar/vm1"))
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = place.run(&arguments);
    // It got as far as the file, and a wrong file is not tried again.
    assert!(String::from_utf8_lossy(&output.stderr).contains("lunar/vm1.toml:1:11: "));
    assert_eq!(output.status.code(), Some(2));
    assert!(unit.contains("RestartPreventExitStatus=2\n"));
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// What the server answers: head and body.
fn ask(port: u16, request: &[u8]) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn metrics(port: u16) -> String {
    let (head, body) = ask(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let length = format!("Content-Length: {}\r\n", body.len());
    assert!(head.contains(&length), "{head}");
    body
}

/// The value of a sample.
fn sample(text: &str, name: &str) -> u64 {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value
        .unwrap_or_else(|| panic!("no {name} in {text}"))
        .parse()
        .unwrap()
}

/// Every sample has been introduced, is named by the conventions, and is there once.
fn check_format(text: &str) {
    let mut introduced = String::new();
    let mut seen = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(seen.insert(name.to_owned()), "{name} comes twice");
            assert!(help.ends_with('.'), "{line}");
            name.clone_into(&mut introduced);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, introduced);
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let part = name.strip_prefix(&*introduced);
            let parts = ["", "_bucket", "_sum", "_count"];
            assert!(part.is_some_and(|part| parts.contains(&part)), "{line}");
            assert!(seen.insert(series.to_owned() + " "), "{series} comes twice");
            match part {
                Some("_sum") => assert!(value.parse::<f64>().unwrap() >= 0.0),
                _ => assert!(value.parse::<u64>().is_ok(), "{line}"),
            }
        }
    }
    assert!(seen.len() > 20, "{text}");
    assert!(text.ends_with('\n'));
}

#[test]
fn metrics_count_what_guests_do() {
    let place = Place::new();
    place.image("a.img", 1 << 20);
    let port = free_port();
    let server = place.serve(
        &[
            "--device=virtio-scsi-pci,id=scsi0,socket=vm.sock",
            &format!("--metrics={port}"),
            "--drive=file=a.img,id=a,format=raw,if=none",
            "--device=scsi-hd,drive=a,id=disk1,lun=3",
        ],
        &["vm.sock"],
    );
    let labels = r#"{device="disk1",bus="scsi0.0",target="0",lun="3",node="#;
    let of = |text: &str, name: &str| {
        let start = format!("{name}{labels}");
        let mut lines = text.lines();
        let line = lines.find(|line| line.starts_with(&start)).unwrap();
        line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()
    };
    let before = wait_for(|| {
        TcpStream::connect(("127.0.0.1", port))
            .ok()
            .map(|_| metrics(port))
    });
    check_format(&before);
    assert_eq!(
        sample(&before, r#"lunar_controller_connected{controller="scsi0"}"#),
        0
    );
    assert_eq!(of(&before, "lunar_disk_read_bytes_total"), 0);
    assert_eq!(of(&before, "lunar_disk_size_bytes"), 1 << 20);

    let mut initiator = Initiator::connect(place.path("vm.sock"), Options::default()).unwrap();
    let address = Address::new(0, Lun::new(3).unwrap());
    let read = [0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0];
    let read = Command::new(address, &read, Data::In(4096));
    let answer = initiator.command_after_attentions(&read).unwrap();
    assert_eq!(answer.data.len(), 4096);
    let after = metrics(port);
    check_format(&after);
    assert_eq!(of(&after, "lunar_disk_read_bytes_total"), 4096);
    assert_eq!(of(&after, "lunar_disk_reads_total"), 1);
    assert_eq!(
        sample(&after, r#"lunar_controller_connected{controller="scsi0"}"#),
        1
    );
    assert_eq!(
        sample(
            &after,
            r#"lunar_controller_connections_total{controller="scsi0"}"#
        ),
        1
    );
    assert_eq!(sample(&after, "lunar_running"), 1);
    let requests = r#"lunar_worker_requests_total{worker="lunar-worker0"}"#;
    assert!(sample(&after, requests) > sample(&before, requests));
    drop(initiator);
    let ended = server.stop(Signal::TERM);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let url = format!("Metrics are at http://127.0.0.1:{port}/metrics\n");
    assert!(ended.stdout.ends_with(&url), "{}", ended.stdout);
}

fn wait_for<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn readers_that_misbehave_do_not_keep_others_from_metrics() {
    let place = Place::new();
    let port = free_port();
    let server = place.serve(
        &[
            "--socket-path=vm.sock",
            &format!("--metrics=127.0.0.1:{port}"),
            "--queues=1",
        ],
        &["vm.sock"],
    );
    let connect = || TcpStream::connect(("127.0.0.1", port)).ok();
    drop(wait_for(connect));
    // More than there are places for, and some of them begin a request that never ends.
    let mut silent: Vec<TcpStream> = (0..20).map(|_| connect().unwrap()).collect();
    for stream in silent.iter_mut().step_by(2) {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ").unwrap();
    }
    let started = Instant::now();
    assert!(metrics(port).contains("lunar_build_info"));
    assert!(
        started.elapsed() > Duration::from_secs(1),
        "there were places left"
    );
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "{:?}",
        started.elapsed()
    );
    drop(silent);
    let (head, _) = ask(port, b"BREW /pot HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
    let (head, _) = ask(port, &[b'x'; 9000]);
    assert!(head.starts_with("HTTP/1.1 431 "), "{head}");
    assert_eq!(server.stop(Signal::TERM).code, Some(0));
}

#[test]
fn a_port_that_is_taken_is_a_failure_of_the_start() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let output = place.run(&[
        "serve",
        "--socket-path=vm.sock",
        &format!("--metrics={port}"),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        format!("lunar: --metrics 127.0.0.1:{port}: Address already in use (os error 98)\n")
    );
}

/// A front end asks for the features (GET_FEATURES), and goes. One that comes before the last has been seen to leave is
/// turned away.
fn visit(place: &Place) -> Option<()> {
    let mut stream = UnixStream::connect(place.path("vm.sock")).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream
        .write_all(&[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
        .ok()?;
    stream.read_exact(&mut [0; 20]).ok()
}

#[test]
fn a_front_end_that_comes_and_goes_does_not_flood_the_log() {
    let place = Place::new();
    let server = place.serve(&["--socket-path=vm.sock", "--log=info"], &["vm.sock"]);
    let connections = 400;
    for _ in 0..connections {
        wait_for(|| visit(&place));
    }
    // The next one that is let through tells what was left out.
    std::thread::sleep(Duration::from_millis(600));
    wait_for(|| visit(&place));
    let log = server.stop(Signal::TERM).stderr;
    let told = log.matches("front end connected").count();
    assert!((50..connections / 2).contains(&told), "{told}: {log}");
    assert!(log.contains("left_out="), "{log}");
    assert!(!log.contains('\x1b'), "colours are for terminals: {log}");
}

#[test]
fn a_log_can_be_lines_of_json() {
    let place = Place::new();
    let arguments = ["--socket-path=vm.sock", "--log=info", "--log-format=json"];
    let server = place.serve(&arguments, &["vm.sock"]);
    wait_for(|| visit(&place));
    let log = server.stop(Signal::TERM).stderr;
    let lines: Vec<Value> = (log.lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let connected = |line: &Value| line["message"] == "front end connected";
    assert!(lines.iter().any(connected), "{log}");
}
