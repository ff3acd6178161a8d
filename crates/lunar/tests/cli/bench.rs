//! `lunar bench` against `lunar serve`, and against QEMU's server of block devices.

use std::io::{Seek, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::{PATIENCE, Place, Server, finish, stderr, stdout};

/// Two disks in memory, two queues.
fn served(place: &Place) -> Server {
    place.serve(
        &[
            "--socket-path",
            "s",
            "--queues",
            "2",
            "--blockdev",
            "memory,node-name=m,size=4M",
            "--device",
            "scsi-hd,drive=m,scsi-id=1,lun=2",
            "--blockdev",
            "memory,node-name=n,size=8M",
            "--device",
            "scsi-hd,drive=n,scsi-id=3",
        ],
        &["s"],
    )
}

fn measured(place: &Place, arguments: &[&str]) -> Value {
    let output = place.run(&[&["bench", "--json"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn every_access_does_what_it_says() {
    let place = Place::new();
    let _server = served(&place);
    for (rw, reads, writes) in [
        ("randread", true, false),
        ("randwrite", false, true),
        ("randrw", true, true),
        ("read", true, false),
        ("write", false, true),
        ("verify", true, true),
    ] {
        for how in [
            &[][..],
            &["--busy-poll"],
            &["--packed"],
            &["--packed", "--busy-poll"],
        ] {
            let arguments = [&["s", "--rw", rw, "--count", "1000", "--queues", "2"], how];
            let json = measured(&place, &arguments.concat());
            assert_eq!(json["rw"], rw);
            assert_eq!(json["packed"], how.contains(&"--packed"));
            assert_eq!(json["total"]["requests"], 1000, "{json}");
            assert_eq!(number(&json["reads"]["requests"]) > 0, reads, "{json}");
            assert_eq!(number(&json["writes"]["requests"]) > 0, writes, "{json}");
            assert_eq!(json["failed"], 0);
            assert_eq!(json["verified"]["wrong"], 0);
            assert_eq!(number(&json["verified"]["blocks"]) > 0, rw == "verify");
        }
    }
}

#[test]
fn packed_rings_that_are_not_offered_are_an_error() {
    let place = Place::new();
    let _server = place.serve(
        &[
            "--device",
            "virtio-scsi-pci,id=vm1,socket=s,packed=off",
            "--blockdev",
            "memory,node-name=m,size=1M",
            "--device",
            "scsi-hd,drive=m",
        ],
        &["s"],
    );
    let ended = place.run(&["bench", "--packed", "--count", "1", "s"]);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let said = stderr(&ended);
    assert!(said.contains("does not offer packed rings"), "{said}");
    assert!(place.run(&["bench", "--count", "1", "s"]).status.success());
}

/// Names of all members, with those of their members.
fn members(prefix: &str, value: &Value, names: &mut Vec<String>) {
    for (name, value) in value.as_object().unwrap() {
        names.push(format!("{prefix}{name}"));
        if value.is_object() {
            members(&format!("{prefix}{name}/"), value, names);
        }
    }
}

#[test]
fn members_of_the_json_keep_their_names() {
    let place = Place::new();
    let server = served(&place);
    let json = measured(
        &place,
        &[
            "s",
            "--luns",
            "3:0,1:2",
            "--runtime",
            "300ms",
            "--ramp",
            "50ms",
            "--bs",
            "8k",
        ],
    );
    let mut names = Vec::new();
    members("", &json, &mut names);
    let side = ["bytes-per-second", "iops", "latency-us", "requests"];
    let latency = ["max", "mean", "p50", "p99", "p99.9"];
    let mut expected: Vec<String> = [
        "block-size",
        "busy-poll",
        "device",
        "disks",
        "failed",
        "failures",
        "interrupts-per-request",
        "iodepth",
        "kicks-per-request",
        "packed",
        "queues",
        "reads",
        "rw",
        "seconds",
        "server",
        "server/cpu-seconds",
        "server/cpu-us-per-request",
        "server/process",
        "total",
        "verified",
        "verified/blocks",
        "verified/first",
        "verified/wrong",
        "writes",
    ]
    .map(str::to_owned)
    .to_vec();
    for direction in ["reads", "total", "writes"] {
        expected.extend(side.map(|name| format!("{direction}/{name}")));
        expected.extend(latency.map(|name| format!("{direction}/latency-us/{name}")));
    }
    expected.sort_unstable();
    names.sort_unstable();
    assert_eq!(names, expected);

    assert_eq!(json["device"], "scsi");
    let disks = serde_json::json!([{"target": 1, "lun": 2}, {"target": 3, "lun": 0}]);
    assert_eq!(json["disks"], disks);
    assert_eq!(json["block-size"], 8192);
    assert_eq!(json["server"]["process"], server.process());
    let figure = |path: &str| json.pointer(path).and_then(Value::as_f64).unwrap();
    assert!(figure("/server/cpu-seconds") >= 0.0);
    let seconds = figure("/seconds");
    assert!((0.29..10.0).contains(&seconds), "{seconds}");
    let iops = figure("/total/requests") / seconds;
    assert!((figure("/total/iops") / iops - 1.0).abs() < 0.01);
    assert!((figure("/total/bytes-per-second") / (iops * 8192.0) - 1.0).abs() < 0.01);
    let latencies = ["p50", "p99", "p99.9", "max"];
    let latencies = latencies.map(|name| json["total"]["latency-us"][name].as_f64().unwrap());
    assert!(latencies.is_sorted() && latencies[0] > 0.0, "{latencies:?}");
    for signals in ["/kicks-per-request", "/interrupts-per-request"] {
        assert!(figure(signals) > 0.0 && figure(signals) < 1.1, "{json}");
    }
}

#[test]
fn people_get_a_few_lines() {
    let place = Place::new();
    let server = served(&place);
    let output = place.run(&[
        "bench",
        "s",
        "--rw",
        "randrw",
        "--runtime",
        "0.2",
        "--luns",
        "all",
    ]);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    let text = stdout(&output);
    assert!(
        text.starts_with("randrw, 4 KiB, depth 32, 1 queue, interrupts: 2 logical units, 0.2 s\n"),
        "{text}"
    );
    let process = format!("(process {})\n", server.process());
    for part in [
        "total ", "reads ", "writes ", " IOPS, ", "p99.9 ", " kicks, ", &process,
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn requests_that_fail_are_counted_with_their_sense() {
    let place = Place::new();
    let _server = place.serve(
        &[
            "--socket-path",
            "s",
            "--blockdev",
            "null-co,node-name=n,read-only=on",
            "--device",
            "scsi-hd,drive=n",
        ],
        &["s"],
    );
    let output = place.run(&["bench", "s", "--rw", "write", "--count", "100"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "lunar: 100 requests failed\n");
    let text = stdout(&output);
    assert!(text.contains("100 with sense 7h 27h/00h\n"), "{text}");
}

#[test]
fn verifying_notices_that_a_disk_changed_behind_its_back() {
    let place = Place::new();
    let image = place.image("a.img", 1 << 20);
    let _server = place.serve(&["--socket-path", "s", "a.img"], &["s"]);
    let mut bench = place.command(&["bench", "s", "--rw", "verify", "--runtime", "3", "--json"]);
    let bench = bench.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut bench = bench.spawn().unwrap();
    // Everything has been written once long before the zeroes come for the last time.
    let mut file = std::fs::OpenOptions::new().write(true).open(image).unwrap();
    while bench.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(100));
        file.rewind().unwrap();
        file.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let output = bench.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        stderr(&output).ends_with(" not what had been written\n"),
        "{output:?}"
    );
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(number(&json["verified"]["wrong"]) > 0);
    assert_eq!(json["failed"], 0);
    let first = json["verified"]["first"].as_str().unwrap();
    assert!(first.starts_with("0:0 LBA "), "{first}");
    assert!(
        first.ends_with(": found what this run has not written"),
        "{first}"
    );
}

#[test]
fn what_cannot_be_measured_is_said() {
    let place = Place::new();
    let _server = served(&place);
    for (arguments, code, message) in [
        (
            &["s", "--queues", "3"][..],
            1,
            "lunar: s: 3 request queues are wanted, and the server has 2",
        ),
        (
            &["s", "--luns", "0:0"],
            1,
            "lunar: s: the server does not offer a logical unit with a capacity",
        ),
        (
            &["s", "--bs", "16M"],
            1,
            "requests of 16777216 bytes do not fit a disk of 8192 blocks of 512 bytes",
        ),
        (&["t"], 1, "lunar: t: cannot connect to t"),
        (&["s", "--luns", "5"], 2, "--luns: 5: must be TARGET:LUN"),
        (&["s", "--bs", "1000"], 2, "must be a multiple of 512 bytes"),
        (
            &["s", "--count", "1", "--runtime", "1"],
            2,
            "cannot be used with",
        ),
    ] {
        let output = place.run(&[&["bench"], arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let text = stderr(&output);
        assert!(text.contains(message), "{text}");
    }
}

/// A running `qemu-storage-daemon`, killed when the test gives it up.
struct StorageDaemon(Child);

impl StorageDaemon {
    fn start(place: &Place) -> StorageDaemon {
        place.image("b.img", 4 << 20);
        let export =
            "vhost-user-blk,id=e,node-name=f,writable=on,num-queues=2,addr.type=unix,addr.path=q";
        let daemon = Command::new("qemu-storage-daemon")
            .args([
                "--blockdev",
                "file,filename=b.img,node-name=f",
                "--export",
                export,
            ])
            .current_dir(place.path("."))
            .spawn()
            .expect("qemu-storage-daemon cannot be run: apt-get install qemu-system-common");
        let daemon = StorageDaemon(daemon);
        let deadline = Instant::now() + PATIENCE;
        while !place.path("q").exists() {
            assert!(Instant::now() < deadline, "no socket in time");
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon
    }
}

impl Drop for StorageDaemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_block_devices_of_qemus_storage_daemon_are_measured_by_the_same_client() {
    let place = Place::new();
    let daemon = StorageDaemon::start(&place);
    for rw in ["randread", "randwrite", "randrw", "read", "write", "verify"] {
        let arguments = ["q", "--rw", rw, "--count", "500", "--queues", "2"];
        let json = measured(&place, &arguments);
        assert_eq!(json["device"], "block");
        assert_eq!(json["server"]["process"], daemon.0.id());
        assert_eq!(json["total"]["requests"], 500, "{json}");
        assert_eq!(
            (&json["failed"], &json["verified"]["wrong"]),
            (&0.into(), &0.into())
        );
    }
    let luns = finish(place.command(&["bench", "q", "--luns", "0:0"]));
    assert_eq!(stderr(&luns), "lunar: q: a block device has no --luns\n");
}
