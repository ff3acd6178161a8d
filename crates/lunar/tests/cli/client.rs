//! The subcommands that talk to a running server.

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};

use lunar_host::WorkerThreads;
use lunar_host::cpus::Cpus;
use rustix::process::Signal;
use serde_json::Value;

use crate::program::{Place, Server, golden, stderr, stdout};

const CONTROLLER: &str = "virtio-scsi-pci,id=vm1,socket=s,num_queues=1";

/// A server with one disk of one mebibyte, and room for more.
fn served(place: &Place) -> Server {
    place.image("a.img", 1 << 20);
    place.serve(
        &[
            "--device",
            CONTROLLER,
            "--drive",
            "file=a.img,format=raw,if=none,id=a",
            "--device",
            "scsi-hd,drive=a,id=disk1",
        ],
        &["s"],
    )
}

/// What a subcommand prints that succeeds.
fn said(place: &Place, arguments: &[&str]) -> String {
    let output = place.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    assert_eq!(stderr(&output), "", "{arguments:?}");
    stdout(&output)
}

/// The reason of one that fails at run time.
fn refused(place: &Place, arguments: &[&str]) -> String {
    failed(&place.run(arguments), 1)
}

fn failed(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(stdout(output), "");
    stderr(output)
}

fn json(place: &Place, arguments: &[&str]) -> Value {
    serde_json::from_str(&said(place, arguments)).unwrap()
}

#[test]
fn the_only_server_is_found_and_nothing_of_it_is_left() {
    let place = Place::new();
    let nobody = "lunar: no server of this user is running; start one with lunar serve, or name its monitor with --monitor PATH\n";
    assert_eq!(refused(&place, &["ls"]), nobody);
    let server = served(&place);
    assert!(said(&place, &["ls"]).contains("disk1"));
    assert_eq!(server.stop(Signal::TERM).stderr, "");
    assert_eq!(refused(&place, &["ls"]), nobody);
    assert_eq!(std::fs::read_dir(place.path("run")).unwrap().count(), 0);
}

#[test]
fn what_a_killed_server_leaves_deceives_nobody_and_is_removed_by_the_next() {
    let place = Place::new();
    let serve = || place.serve(&["--device", CONTROLLER], &["s"]);
    serve().stop(Signal::KILL);
    assert_eq!(std::fs::read_dir(place.path("run")).unwrap().count(), 1);
    assert!(refused(&place, &["ls"]).contains("no server"));
    // Its return is what tells that the next is there.
    std::fs::remove_file(place.path("s")).unwrap();
    let _server = serve();
    assert_eq!(std::fs::read_dir(place.path("run")).unwrap().count(), 1);
    assert!(said(&place, &["ls"]).contains("vm1"));
}

#[test]
fn sockets_are_for_their_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let _server = served(&place);
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(place.path("run")), 0o700);
    let sockets = std::fs::read_dir(place.path("run")).unwrap();
    for socket in sockets {
        assert_eq!(mode(socket.unwrap().path()), 0o600);
    }
}

#[test]
fn of_several_servers_one_has_to_be_named() {
    let place = Place::new();
    let _one = served(&place);
    let _two = place.serve(
        &[
            "--device",
            "virtio-scsi-pci,id=vm2,socket=s2",
            "--monitor",
            "unix:m2",
        ],
        &["s2", "m2"],
    );
    let reason = refused(&place, &["ls"]);
    assert!(
        reason.starts_with("lunar: several servers are running; choose one with --monitor PATH:\n"),
        "{reason}"
    );
    assert!(
        reason.contains(".sock  vm1\n") && reason.contains(".sock  vm2\n"),
        "{reason}"
    );
    assert!(said(&place, &["ls", "--monitor", "m2"]).contains("vm2"));
    assert!(said(&place, &["ls", "-monitor", "unix:m2"]).contains("vm2"));
}

#[test]
fn a_server_without_a_monitor_cannot_be_found() {
    let place = Place::new();
    let _server = place.serve(&["--device", CONTROLLER, "--monitor", "none"], &["s"]);
    assert!(refused(&place, &["ls"]).contains("no server"));
    assert_eq!(
        refused(&place, &["ls", "--monitor", "nowhere"]),
        "lunar: nowhere: no server takes commands here: No such file or directory (os error 2)\n"
    );
}

#[test]
fn ls_is_a_tree_of_what_is_served() {
    let place = Place::new();
    place.image("a.img", 1 << 20);
    let _server = place.serve(
        &[
            "--device",
            CONTROLLER,
            "--drive",
            "file=a.img,format=raw,if=none,id=a",
            "--device",
            "scsi-hd,drive=a,id=disk1,scsi-id=2,lun=1",
            "--blockdev",
            "memory,node-name=ram,size=3G,read-only=on",
            "--device",
            "scsi-hd,drive=ram,scsi-id=0",
            "--device",
            "virtio-scsi-pci,id=vm2,socket=s2",
        ],
        &["s", "s2"],
    );
    golden("ls", &said(&place, &["ls"]));
    let tree = json(&place, &["ls", "--json"]);
    assert_eq!(tree[0]["id"], "vm1");
    assert_eq!(tree[0]["connected"], false);
    assert_eq!(tree[0]["disks"][0]["name"], "ram");
    assert_eq!(tree[0]["disks"][0]["size"], 3_u64 << 30);
    assert_eq!(tree[0]["disks"][1]["id"], "disk1");
    assert_eq!(tree[0]["disks"][1]["target"], 2);
    assert_eq!(tree[0]["disks"][1]["counters"]["reads"], 0);
    assert_eq!(tree[1]["disks"], serde_json::json!([]));
}

#[test]
fn a_disk_is_attached_and_detached_for_ever() {
    let place = Place::new();
    let _server = served(&place);
    place.image("data.img", 2 << 20);
    for _ in 0..3 {
        assert_eq!(
            said(&place, &["attach", "data.img"]),
            "data: vm1 target 1 LUN 0, 2 MiB\n"
        );
        assert_eq!(said(&place, &["detach", "data"]), "");
        assert_eq!(
            json(&place, &["ls", "--json"])[0]["disks"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
    }
}

#[test]
fn a_disk_is_attached_as_its_properties_say() {
    let place = Place::new();
    let _server = served(&place);
    place.image("da,ta.img", 2 << 20);
    let properties = "file=da,,ta.img,format=raw,readonly=on";
    let device = "serial=D4T4";
    let arguments = [
        "attach", properties, "--id", "x", "--bus", "vm1", "--target", "7", "--lun", "3",
        "--device", device,
    ];
    assert_eq!(said(&place, &arguments), "x: vm1 target 7 LUN 3, 2 MiB\n");
    let disk = &json(&place, &["ls", "--json"])[0]["disks"][1];
    assert_eq!(disk["read-only"], true);
    assert_eq!(disk["file"].as_str(), place.path("da,ta.img").to_str());
}

#[test]
fn an_attachment_that_fails_leaves_nothing_behind() {
    let place = Place::new();
    let _server = served(&place);
    place.image("data.img", 1 << 20);
    let before = said(&place, &["ls", "--json"]);
    for (arguments, reason) in [
        (&["attach", "none.img"][..], "no such file"),
        (
            &["attach", "file=data.img,nonsense=1"],
            "a drive has no property \"nonsense\"",
        ),
        (&["attach", "data.img", "--bus", "vm9"], "vm9"),
        (
            &["attach", "data.img", "--target", "0", "--lun", "0"],
            "disk1",
        ),
        (&["attach", "data.img", "--id", "disk1"], "disk1"),
        (
            &["attach", "data.img", "--device", "nonsense=1"],
            "nonsense",
        ),
        (&["attach", "a.img"], "drive a has it open"),
    ] {
        let said = refused(&place, arguments);
        assert!(said.contains(reason), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert_eq!(said(&place, &["ls", "--json"]), before);
    // Nor does a drive: it would hold the file.
    assert!(said(&place, &["attach", "data.img"]).starts_with("data: "));
}

#[test]
fn what_cannot_be_meant_is_a_wrong_command_line() {
    let place = Place::new();
    let _server = served(&place);
    for arguments in [
        &["attach"][..],
        &["attach", "a.img", "--target", "256"],
        &["attach", "a.img", "--device", "drive=b"],
        &["attach", "a.img", "--device", "serial"],
        &["resize", "disk1", "ten"],
        &["resize", "disk1"],
        &["stats", "--watch", "0"],
        &["stats", "--count", "2"],
        &["detach"],
    ] {
        failed(&place.run(arguments), 2);
    }
}

#[test]
fn a_disk_that_is_not_there_is_not_detached() {
    let place = Place::new();
    let _server = served(&place);
    assert_eq!(
        refused(&place, &["detach", "nope"]),
        "lunar: Device 'nope' not found\n"
    );
}

#[test]
fn a_medium_is_changed_and_taken_out() {
    let place = Place::new();
    place.image("a.img", 1 << 20);
    place.image("b.img", 2 << 20);
    let _server = place.serve(
        &[
            "--device",
            CONTROLLER,
            "--drive",
            "if=none,id=bay",
            "--device",
            "scsi-hd,drive=bay,id=stick,removable=on",
        ],
        &["s"],
    );
    assert_eq!(
        said(&place, &["insert", "stick", "a.img"]),
        "stick: 1 MiB\n"
    );
    let insert = ["insert", "bay", "b.img", "--read-only", "--format", "raw"];
    assert_eq!(said(&place, &insert), "bay: 2 MiB\n");
    let dump = said(&place, &["config", "dump"]);
    assert!(
        dump.contains("/b.img\"") && !dump.contains("a.img"),
        "{dump}"
    );
    assert!(refused(&place, &["insert", "stick", "none.img"]).contains("no such file"));
    assert_eq!(said(&place, &["eject", "stick"]), "");
    let dump = said(&place, &["config", "dump"]);
    assert!(!dump.contains(".img") && dump.contains("\"bay\""), "{dump}");
    assert_eq!(
        refused(&place, &["eject", "nope"]),
        "lunar: Device 'nope' not found\n"
    );
}

#[test]
fn a_controller_is_detached_with_its_disks() {
    let place = Place::new();
    let _server = served(&place);
    assert_eq!(said(&place, &["detach", "vm1"]), "");
    assert_eq!(json(&place, &["ls", "--json"]), serde_json::json!([]));
    assert!(!place.path("s").exists());
}

#[test]
fn images_grow_and_shrink_only_by_force() {
    let place = Place::new();
    let _server = served(&place);
    let size = || std::fs::metadata(place.path("a.img")).unwrap().len();
    // By the id of the device, and by the name of the drive.
    assert_eq!(
        said(&place, &["resize", "disk1", "+1M"]),
        "disk1: 2 MiB, was 1 MiB\n"
    );
    assert_eq!(
        said(&place, &["resize", "a", "3M"]),
        "a: 3 MiB, was 2 MiB\n"
    );
    assert_eq!(size(), 3 << 20);
    assert_eq!(
        refused(&place, &["resize", "a", "1M"]),
        "lunar: a has 3 MiB; what is behind the first 1 MiB would be lost, so it takes --force\n"
    );
    assert_eq!(size(), 3 << 20);
    assert_eq!(
        said(&place, &["resize", "a", "1M", "--force"]),
        "a: 1 MiB, was 3 MiB\n"
    );
    assert_eq!(size(), 1 << 20);
    assert_eq!(
        refused(&place, &["resize", "nope", "1M"]),
        "lunar: there is no disk, drive or node \"nope\"\n"
    );
    assert!(refused(&place, &["resize", "a", "1000", "--force"]).contains("multiple of 512"));
}

#[test]
fn requests_wait_between_pause_and_cont() {
    let place = Place::new();
    let _server = served(&place);
    let state = || json(&place, &["ls", "--json"])[0]["disks"][0]["state"].clone();
    for (pause, cont) in [("pause", "cont"), ("stop", "resume")] {
        assert_eq!(said(&place, &[pause]), "");
        assert_eq!(state(), "paused");
        assert_eq!(said(&place, &[cont]), "");
        assert_eq!(state(), "running");
    }
}

#[test]
fn statistics_count_what_a_guest_does() {
    let place = Place::new();
    let _server = served(&place);
    let mut guest = crate::serve::connect(&place, "s");
    crate::serve::write(&mut guest, crate::serve::address(0, 0), 1);
    let disk = &json(&place, &["stats", "--json"])[0];
    assert_eq!(
        (&disk["name"], &disk["controller"]),
        (&"disk1".into(), &"vm1".into())
    );
    assert_eq!(disk["counters"]["writes"], 1);
    assert_eq!(disk["counters"]["written-bytes"], 512);
    let text = said(&place, &["stats"]);
    let fields: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(
        (fields[0], fields[4], fields[6], fields[7]),
        ("disk1", "-", "1", "512"),
        "{text}"
    );
    assert!(disk["latency"]["writes"]["p99-ns"].as_u64().unwrap() > 0);
    assert_eq!(disk["latency"]["reads"]["p50-ns"], Value::Null);
    let watched = said(
        &place,
        &["stats", "--watch", "0.05", "--count", "2", "--json"],
    );
    let lines: Vec<Value> = watched
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    for line in lines {
        assert!(line["seconds"].as_f64().unwrap() >= 0.05);
        assert_eq!(line["disks"][0]["writes"], 0.0);
        // Nothing has ended in the interval.
        assert_eq!(line["disks"][0]["latency"]["writes"]["p50-ns"], Value::Null);
    }
    assert_eq!(
        said(&place, &["stats", "--watch=0.05", "--count=2"])
            .matches("DISK")
            .count(),
        2
    );
}

#[test]
fn statistics_tell_what_threads_do() {
    let place = Place::new();
    let _server = served(&place);
    let mut guest = crate::serve::connect(&place, "s");
    let worker = || json(&place, &["stats", "--workers", "--json"])[0].clone();
    let before = worker();
    assert_eq!(before["id"], "lunar-worker0");
    for _ in 0..10 {
        crate::serve::write(&mut guest, crate::serve::address(0, 0), 1);
    }
    let after = worker();
    let more = |counter: &str| {
        let number = |value: &Value| value[counter].as_u64().unwrap();
        number(&after) - number(&before)
    };
    // A unit attention is taken by the first.
    assert!((10..=11).contains(&more("requests")), "{after}");
    // One at a time, each is a round of its own.
    assert_eq!(more("rounds"), more("requests"));
    assert!(more("interrupts") <= more("requests"), "{after}");
    assert_eq!(more("interrupts-held"), 0);
    let text = said(&place, &["stats", "--workers"]);
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[0],
        [
            "WORKER",
            "REQUESTS",
            "ROUNDS",
            "INTERRUPTS",
            "HELD",
            "KICKS",
            "SLEEPS"
        ]
    );
    assert_eq!(lines[1][0], "lunar-worker0");
    assert_eq!(lines[1][1], after["requests"].to_string());
    let watched = said(
        &place,
        &["stats", "--workers", "--watch=0.05", "--count=1", "--json"],
    );
    let watched: Value = serde_json::from_str(&watched).unwrap();
    assert!(watched["seconds"].as_f64().unwrap() >= 0.05);
    assert_eq!(watched["workers"][0]["id"], "lunar-worker0");
    assert_eq!(watched["workers"][0]["requests"], 0.0);
    let watched = said(&place, &["stats", "--workers", "--watch=0.05", "--count=2"]);
    assert_eq!(watched.matches("REQUESTS/s").count(), 2, "{watched}");
}

#[test]
fn a_disk_is_limited_and_set_free() {
    let place = Place::new();
    let _server = served(&place);
    assert_eq!(said(&place, &["throttle", "disk1"]), "disk1: no limits\n");
    let limited = "disk1: 500 IOPS (bursts of 2000 IOPS for 5 s), 10 MiB/s for writes, group a\n";
    let order = ["--iops", "500:2000:5", "--write-bps", "10M"];
    assert_eq!(
        said(&place, &[&["throttle", "disk1"], &order[..]].concat()),
        limited
    );
    assert_eq!(said(&place, &["throttle", "disk1"]), limited);
    // By its drive, shared, and as the protocol has it; what is not said is limited no longer.
    let shared = json(
        &place,
        &[
            "throttle",
            "a",
            "--read-iops",
            "7",
            "--group",
            "g",
            "--json",
        ],
    );
    assert_eq!(shared, serde_json::json!({"iops_rd": 7, "group": "g"}));
    assert_eq!(
        said(&place, &["throttle", "disk1", "--off"]),
        "disk1: no limits\n"
    );
    assert_eq!(
        refused(&place, &["throttle", "nope", "--iops", "1"]),
        "lunar: there is no disk or drive \"nope\"\n"
    );
    let contradiction = refused(
        &place,
        &["throttle", "a", "--iops", "1", "--read-iops", "1"],
    );
    assert!(
        contradiction.contains("cannot be used together"),
        "{contradiction}"
    );
    for wrong in [
        &["--iops", "0"][..],
        &["--iops", "1", "--off"],
        &["--bps", "1:2:3:4"],
    ] {
        failed(&place.run(&[&["throttle", "disk1"], wrong].concat()), 2);
    }
}

#[test]
fn a_write_behind_the_threshold_is_an_event() {
    let place = Place::new();
    let _server = served(&place);
    let socket = std::fs::read_dir(place.path("run"))
        .unwrap()
        .next()
        .unwrap();
    let (send, events) = std::sync::mpsc::channel();
    let told = move |event: Value| drop(send.send(event));
    let mut client = lunar_monitor::Client::connect(&socket.unwrap().path(), told).unwrap();
    let mut ask =
        |command: &str, arguments: Value| -> Value { client.execute(command, arguments).unwrap() };
    let nodes = ask("query-named-block-nodes", serde_json::json!({}));
    let node = nodes[0]["node-name"].clone();
    ask(
        "block-set-write-threshold",
        serde_json::json!({"node-name": node, "write-threshold": 256}),
    );
    let mut guest = crate::serve::connect(&place, "s");
    for _ in 0..2 {
        crate::serve::write(&mut guest, crate::serve::address(0, 0), 0);
    }
    let event = events
        .recv_timeout(std::time::Duration::from_secs(20))
        .unwrap();
    assert_eq!(event["event"], "BLOCK_WRITE_THRESHOLD");
    assert_eq!(
        event["data"],
        serde_json::json!({"node-name": node, "amount-exceeded": 1792, "write-threshold": 256})
    );
    assert_eq!(
        ask("query-named-block-nodes", serde_json::json!({}))[0]["write_threshold"],
        0
    );
    assert!(events.try_recv().is_err(), "it is told of once");
    let stats = &ask("query-blockstats", serde_json::json!({}))[0]["stats"];
    assert_eq!(
        (&stats["wr_operations"], &stats["wr_highest_offset"]),
        (&2.into(), &2048.into())
    );
    assert!(stats["wr_total_time_ns"].as_u64().unwrap() > 0);
    assert!(stats["idle_time_ns"].is_u64());
}

#[test]
fn events_are_printed_as_they_come_until_the_end() {
    let place = Place::new();
    let server = served(&place);
    let listen = |arguments: &[&str]| {
        let mut command = place.command(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        (BufReader::new(child.stdout.take().unwrap()).lines(), child)
    };
    let (mut lines, mut words) = listen(&["events"]);
    let (mut objects, mut json) = listen(&["events", "--json"]);
    // A listener has begun when it has printed something.
    let mut begun = (false, false);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| lines.next().unwrap().unwrap());
        let other = scope.spawn(|| objects.next().unwrap().unwrap());
        while !first.is_finished() || !other.is_finished() {
            said(&place, &["pause"]);
            said(&place, &["cont"]);
        }
        let line = first.join().unwrap();
        begun.0 = line.ends_with("Z STOP") || line.ends_with("Z RESUME");
        let object: Value = serde_json::from_str(&other.join().unwrap()).unwrap();
        begun.1 = object["event"].is_string() && object["timestamp"]["seconds"].is_i64();
    });
    assert_eq!(begun, (true, true));
    said(&place, &["detach", "disk1"]);
    assert_eq!(server.stop(Signal::TERM).code, Some(0));
    let lines: Vec<_> = lines.map(Result::unwrap).collect();
    let deleted = "DEVICE_DELETED device=disk1 path=/machine/peripheral/disk1";
    assert!(
        lines.iter().any(|line| line.ends_with(deleted)),
        "{lines:?}"
    );
    let last = lines.last().unwrap();
    assert!(
        last.ends_with("SHUTDOWN guest=false reason=host-signal"),
        "{last}"
    );
    let last: Value = serde_json::from_str(&objects.last().unwrap().unwrap()).unwrap();
    assert_eq!(last["event"], "SHUTDOWN");
    assert!(words.wait().unwrap().success());
    assert!(json.wait().unwrap().success());
}

#[test]
fn the_monitor_reads_lines_from_a_script() {
    use std::io::Write;
    let place = Place::new();
    let _server = served(&place);
    let mut command = place.command(&["monitor"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input
        .write_all(b"info status\n{\"execute\":\"query-status\"}\nnonsense\n")
        .unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = stdout(&output);
    assert!(text.starts_with("VM status: running\n{\n"), "{text}");
    assert!(text.ends_with("unknown command: 'nonsense'\n"), "{text}");
}

#[test]
fn a_monitor_can_be_standard_input_and_output() {
    use std::io::Write;
    let place = Place::new();
    let mut command = place.command(&["serve", "--device", CONTROLLER, "--monitor", "stdio"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&output.next().unwrap().unwrap()).unwrap();
    assert!(next()["QMP"].is_object());
    input
        .write_all(b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"query-status\"}")
        .unwrap();
    assert_eq!(next()["return"], serde_json::json!({}));
    assert_eq!(next()["return"]["running"], true);
    input.write_all(b"{\"execute\":\"quit\"}").unwrap();
    assert_eq!(next()["return"], serde_json::json!({}));
    assert_eq!(next()["event"], "SHUTDOWN");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(stderr(&output).contains("Add to QEMU"), "{output:?}");
}

/// What bash offers where the last of `words` is being typed.
fn completed(place: &Place, words: &[&str]) -> Vec<String> {
    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_lunar"));
    let path = format!("{}:/usr/bin:/bin", bin.parent().unwrap().display());
    let script = r#"
        source <(lunar completions bash)
        completer=$(complete -p lunar | sed 's/.*-F \([^ ]*\) .*/\1/')
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9
        $completer lunar "${!#}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut bash = std::process::Command::new("bash");
    bash.args(["--norc", "-c", script, "bash"]).args(words);
    bash.env("PATH", path)
        .env("LUNAR_RUNTIME_DIR", place.path("run"));
    let output = crate::program::finish(bash);
    assert!(output.status.success(), "{output:?}");
    let offered = stdout(&output);
    offered.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_what_servers_have() {
    let place = Place::new();
    assert_eq!(completed(&place, &["lunar", "det"]), ["detach"]);
    assert_eq!(
        completed(&place, &["lunar", "detach", "--ti"]),
        ["--timeout"]
    );
    assert_eq!(completed(&place, &["lunar", "detach", "d"]), [""]);

    let server = served(&place);
    assert_eq!(completed(&place, &["lunar", "detach", "d"]), ["disk1"]);
    assert_eq!(completed(&place, &["lunar", "detach", "vm"]), ["vm1"]);
    assert_eq!(completed(&place, &["lunar", "resize", "a"]), ["a"]);
    assert_eq!(
        completed(&place, &["lunar", "attach", "--bus", "v"]),
        ["vm1"]
    );
    let [monitor] = completed(&place, &["lunar", "ls", "--monitor", "/"])
        .try_into()
        .unwrap();
    assert!(said(&place, &["ls", "--monitor", &monitor]).contains("disk1"));
    server.stop(Signal::TERM);
}

#[test]
fn bash_completes_threads_and_the_processors_that_they_can_stay_on() {
    let place = Place::new();
    let offered = |typed| completed(&place, &["lunar", "serve", "--workers", typed]);
    let lists = |before: &str| -> Vec<String> {
        let lists = Cpus::choices().into_iter();
        lists
            .map(|(list, _)| format!("{before}cpus={list}"))
            .collect()
    };
    assert_eq!(offered("c"), lists(""));
    assert_eq!(offered("3,"), lists("3,"));
    assert_eq!(offered("x"), [""]);
    for (typed, lists) in [("", lists("")), ("1", lists("1,"))] {
        let all = offered(typed);
        assert_eq!(all[0], "1");
        assert!(all.ends_with(&lists), "{typed}: {all:?}");
        for one in all {
            assert!(one.parse::<WorkerThreads>().is_ok(), "{one}");
        }
    }
}
