//! The commands over a real host, with no guest: what they answer is what the schema says, and what they refuse
//! changes nothing.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::expect_used,
    reason = "a failed expectation is a test's verdict"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lunar_host::keyval::{DEVICE, DRIVE, Options};
use lunar_host::model::Model;
use lunar_host::{Config, Event, Host, IoErrorAction, IoOperation, ShutdownReason};
use lunar_monitor::{Session, Table, notice, table};
use serde_json::{Value, json};

struct Lab {
    table: Table<Arc<Host>>,
    host: Arc<Host>,
    session: Session,
    directory: tempfile::TempDir,
}

/// A controller with one disk of 1 MiB.
fn lab() -> Lab {
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
    fn execute(&mut self, command: &str, arguments: Value) -> Value {
        let text = json!({"execute": command, "arguments": arguments}).to_string();
        let mut input = text.as_bytes();
        let answer = self.session.next(&mut input, &self.table, &self.host);
        serde_json::from_slice(&answer.unwrap()).unwrap()
    }

    /// A command that succeeds, with an answer that its description fits.
    fn ask(&mut self, command: &str, arguments: Value) -> Value {
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
    fn refused(&mut self, command: &str, arguments: Value) -> (String, String) {
        let before = self.everything();
        let answer = self.execute(command, arguments);
        let text = |member: &str| answer["error"][member].as_str().expect(command).to_owned();
        assert_eq!(self.everything(), before, "{command}");
        (text("class"), text("desc"))
    }

    fn everything(&mut self) -> [Value; 3] {
        [
            self.ask("query-block", json!({})),
            self.ask("query-named-block-nodes", json!({})),
            self.ask("qom-list", json!({"path": "/machine/peripheral"})),
        ]
    }
}

#[test]
fn every_query_answers_as_it_is_described() {
    let mut lab = lab();
    let commands = lab.ask("query-commands", json!({}));
    let mut asked = 0;
    for command in commands.as_array().unwrap() {
        let name = command["name"].as_str().unwrap();
        if name.starts_with("query-") {
            lab.ask(name, json!({}));
            asked += 1;
        }
    }
    assert!(asked >= 7);
    lab.ask("query-blockstats", json!({"query-nodes": true}));
    for kind in ["scsi-hd", "virtio-scsi-pci"] {
        lab.ask("device-list-properties", json!({"typename": kind}));
    }
    let mut paths = vec!["/".to_owned()];
    let mut properties = 0;
    while let Some(path) = paths.pop() {
        for row in lab
            .ask("qom-list", json!({"path": path}))
            .as_array()
            .unwrap()
        {
            let name = row["name"].as_str().unwrap();
            lab.ask("qom-get", json!({"path": path, "property": name}));
            properties += 1;
            if row["type"].as_str().unwrap().starts_with("child<") {
                paths.push(format!("{}/{name}", path.trim_end_matches('/')));
            }
        }
    }
    assert!(properties > 15, "{properties}");
}

#[test]
fn what_is_refused_is_refused_precisely_and_changes_nothing() {
    let mut lab = lab();
    lab.ask(
        "blockdev-add",
        json!({"driver": "null-co", "node-name": "n"}),
    );
    let image = lab.directory.path().join("a.img");
    let generic = |text: &str| ("GenericError".to_owned(), text.to_owned());
    for (command, arguments, expected) in [
        (
            "device_add",
            json!({"driver": "scsi-hd", "drive": "n", "scsi-id": 0, "lun": 0}),
            "target 0 LUN 0 of bus s.0 is taken by disk; choose another scsi-id or lun, or leave them out",
        ),
        (
            "device_add",
            json!({"driver": "scsi-hd", "drive": "n", "id": "disk"}),
            "the device \"disk\" exists already; choose another name",
        ),
        (
            "device_add",
            json!({"driver": "scsi-hd", "drive": "n", "lun": [1]}),
            "scsi-hd has no property \"lun.0\"",
        ),
        (
            "blockdev-del",
            json!({"node-name": "zz"}),
            "Failed to find node with node-name='zz'",
        ),
        (
            "blockdev-add",
            json!({"driver": "raw", "node-name": "r", "file": {"driver": "nope"}}),
            "Parameter 'file.driver' does not accept value 'nope' (there are: ",
        ),
        (
            "blockdev-add",
            json!({"driver": "raw", "node-name": "r", "file": 7}),
            "Invalid parameter type for 'file', expected: BlockdevRef",
        ),
        (
            "blockdev-add",
            json!({"driver": "raw", "node-name": "r"}),
            "Parameter 'file' is missing",
        ),
        (
            "blockdev-add",
            json!({"driver": "null-co", "node-name": "m", "cache": {"direct": 1}}),
            "Invalid parameter type for 'cache.direct', expected: boolean",
        ),
        (
            "qom-get",
            json!({"path": "disk", "property": "nope"}),
            "Property 'scsi-hd.nope' not found",
        ),
    ] {
        let (class, desc) = lab.refused(command, arguments);
        assert_eq!(class, generic("").0, "{desc}");
        assert!(desc.starts_with(expected), "{desc}");
    }
    let again = json!({"driver": "file", "node-name": "m", "filename": image});
    let (_, desc) = lab.refused("blockdev-add", again);
    assert!(desc.contains("a.img"), "{desc}");
    let (_, desc) = lab.refused("device_add", json!({"driver": "scsi-hd", "drive": "d"}));
    assert!(desc.contains("in use by disk"), "{desc}");
    assert_eq!(
        lab.refused("device_del", json!({"id": "zz"})),
        ("DeviceNotFound".into(), "Device 'zz' not found".into())
    );
}

#[test]
fn a_device_comes_and_goes_under_the_same_id() {
    let mut lab = lab();
    let events = lab.host.events();
    lab.ask(
        "blockdev-add",
        json!({"driver": "null-co", "node-name": "n"}),
    );
    for _ in 0..20 {
        lab.ask(
            "device_add",
            json!({"driver": "scsi-hd", "drive": "n", "id": "x", "lun": 3}),
        );
        let (_, desc) = lab.refused("blockdev-del", json!({"node-name": "n"}));
        assert_eq!(desc, "\"n\" is in use by x; remove that first");
        lab.ask("device_del", json!({"id": "x"}));
        let occurrence = events
            .next_within(Duration::from_secs(10))
            .unwrap()
            .unwrap();
        let notice = notice(&occurrence).unwrap();
        assert_eq!(notice.name, "DEVICE_DELETED");
        assert_eq!(
            notice.data,
            Some(json!({"device": "x", "path": "/machine/peripheral/x"}))
        );
    }
    lab.ask("blockdev-del", json!({"node-name": "n"}));
}

#[test]
fn every_event_is_sent_as_it_is_described() {
    let lab = lab();
    let events = lab.host.events();
    let io_error = |action| Event::BlockIoError {
        qom_path: "/machine/peripheral/disk".into(),
        device: "d".into(),
        node_name: "#block0".into(),
        operation: IoOperation::Write,
        action,
        nospace: true,
        reason: "No space left on device".into(),
    };
    lab.host.publish([
        Event::DeviceDeleted {
            device: None,
            path: "/x".into(),
        },
        Event::DeviceTrayMoved {
            device: String::new(),
            id: "cd".into(),
            tray_open: true,
        },
        io_error(IoErrorAction::Stop),
        io_error(IoErrorAction::Report),
        Event::BlockWriteThreshold {
            node_name: "n".into(),
            amount_exceeded: 1,
            write_threshold: 2,
        },
        Event::Stop,
        Event::Resume,
        Event::Shutdown {
            guest: false,
            reason: ShutdownReason::HostQmpQuit,
        },
    ]);
    let mut limited = 0;
    for _ in 0..8 {
        let occurrence = events
            .next_within(Duration::from_secs(10))
            .unwrap()
            .unwrap();
        let notice = notice(&occurrence).expect("an event without description");
        let described = lab
            .table
            .events()
            .iter()
            .find(|event| event.name == notice.name);
        let data = notice.data.unwrap_or_else(|| json!({}));
        described.unwrap().data.check(notice.name, &data).unwrap();
        limited += usize::from(notice.limited.is_some());
    }
    let why = "errors of which the guest is told, and trays, which it moves";
    assert_eq!(limited, 2, "{why}");
}

#[test]
fn a_node_is_resized_and_its_end_is_not_lost_by_accident() {
    let mut lab = lab();
    lab.ask("block_resize", json!({"device": "d", "size": 2 << 20}));
    let size = |lab: &mut Lab| {
        lab.ask("query-block", json!({}))[0]["inserted"]["image"]["virtual-size"].clone()
    };
    assert_eq!(size(&mut lab), 2 << 20);
    let (_, desc) = lab.refused("block_resize", json!({"device": "d", "size": 1 << 20}));
    assert!(desc.contains("force"), "{desc}");
    let (_, desc) = lab.refused("block_resize", json!({"node-name": "zz", "size": 1 << 20}));
    assert_eq!(desc, "Cannot find device='' nor node-name='zz'");
    lab.ask(
        "block_resize",
        json!({"device": "d", "size": 1 << 20, "force": true}),
    );
    assert_eq!(size(&mut lab), 1 << 20);
}

#[test]
fn requests_are_stopped_and_go_on() {
    let mut lab = lab();
    let events = lab.host.events();
    for (command, event, running) in [("stop", Event::Stop, false), ("cont", Event::Resume, true)] {
        lab.ask(command, json!({}));
        assert_eq!(events.next().unwrap().event, event);
        assert_eq!(lab.ask("query-status", json!({}))["running"], running);
    }
}

#[test]
fn people_type_the_same_commands() {
    let mut lab = lab();
    let mut type_in = |line: &str| {
        lab.ask("human-monitor-command", json!({"command-line": line}))
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(type_in("help").contains("device_add driver[,prop=value][,...] -- "));
    assert_eq!(type_in("blockdev_add null-co,node-name=n,size=4M"), "");
    assert_eq!(type_in("device_add scsi-hd,drive=n,id=x"), "");
    assert!(type_in(" info   block ").contains("n: null-co (null-co)\n    Attached to:      x\n"));
    assert!(type_in("info qtree").contains("dev: scsi-hd, id \"x\", scsi-id "));
    assert_eq!(
        type_in("blockdev_del n"),
        "Error: \"n\" is in use by x; remove that first\n"
    );
    assert_eq!(type_in("device_del x"), "");
    assert_eq!(type_in("blockdev_del n"), "");
    assert_eq!(type_in("info status"), "VM status: running\n");
    assert_eq!(type_in("device_del"), "usage: device_del device\n");
    assert_eq!(type_in("make coffee"), "unknown command: 'make coffee'\n");
    assert_eq!(type_in("info"), "unknown command: 'info'\n");
    assert_eq!(type_in("  "), "");
    let missing = Path::new("/nowhere/x");
    let line = type_in(&format!("drive_add 0 file={},id=y", missing.display()));
    assert!(
        line.starts_with("Error: ") && line.contains("/nowhere"),
        "{line}"
    );
}

#[test]
fn limits_are_set_shown_shared_and_taken_away() {
    let mut lab = lab();
    let shown = |lab: &mut Lab| lab.ask("query-block", json!({}))[0]["inserted"].clone();
    let mut order = json!({"device": "d", "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 500, "iops_rd": 0, "iops_wr": 0,
        "iops_max": 1000, "iops_max_length": 3});
    assert_eq!(shown(&mut lab)["group"], Value::Null);
    lab.ask("block_set_io_throttle", order.clone());
    let inserted = shown(&mut lab);
    assert_eq!(
        (&inserted["iops"], &inserted["iops_max"]),
        (&json!(500), &json!(1000))
    );
    assert_eq!(
        (&inserted["iops_max_length"], &inserted["group"]),
        (&json!(3), &json!("d"))
    );
    let nodes = lab.ask("query-named-block-nodes", json!({}));
    assert!(nodes.as_array().unwrap().contains(&inserted));

    let (_, contradiction) = {
        let mut wrong = order.clone();
        wrong["iops_rd"] = json!(5);
        lab.refused("block_set_io_throttle", wrong)
    };
    assert!(
        contradiction.contains("iops-total cannot be used together"),
        "{contradiction}"
    );
    let mut nobody = order.clone();
    nobody["device"] = json!("nobody");
    assert_eq!(
        lab.refused("block_set_io_throttle", nobody),
        (
            "DeviceNotFound".to_owned(),
            "Device 'nobody' not found".to_owned()
        )
    );
    let mut both = order.clone();
    both["id"] = json!("disk");
    assert_eq!(
        lab.refused("block_set_io_throttle", both).1,
        "Need exactly one of 'device' and 'id'"
    );

    // By the device's id, into a group that is an object.
    lab.ask(
        "object-add",
        json!({"qom-type": "throttle-group", "id": "tg", "limits": {"bps-total": 4096}}),
    );
    order["device"].take();
    let object = order.as_object_mut().unwrap();
    object.remove("device");
    object.insert("id".into(), json!("disk"));
    object.insert("group".into(), json!("tg"));
    lab.ask("block_set_io_throttle", order.clone());
    assert_eq!(shown(&mut lab)["group"], "tg");
    let limits = |lab: &mut Lab| {
        lab.ask(
            "qom-get",
            json!({"path": "/objects/tg", "property": "limits"}),
        )
    };
    assert_eq!(
        (
            &limits(&mut lab)["iops-total"],
            &limits(&mut lab)["bps-total"]
        ),
        (&json!(500), &json!(0))
    );
    lab.ask(
        "qom-set",
        json!({"path": "/objects/tg", "property": "limits", "value": {"iops-total": 700, "iops-size": 4096}}),
    );
    let inserted = shown(&mut lab);
    assert_eq!(
        (
            &inserted["iops"],
            &inserted["iops_max"],
            &inserted["iops_size"]
        ),
        (&json!(700), &json!(1000), &json!(4096))
    );
    assert_eq!(
        lab.refused("object-del", json!({"id": "tg"})).1,
        "\"tg\" is in use by drive d; remove that first"
    );

    for limit in ["iops", "iops_max"] {
        order[limit] = json!(0);
    }
    order["iops_max_length"] = json!(1);
    order.as_object_mut().unwrap().remove("group");
    lab.ask("block_set_io_throttle", order);
    let inserted = shown(&mut lab);
    assert_eq!(
        (&inserted["iops"], &inserted["group"]),
        (&json!(0), &Value::Null)
    );
    lab.ask("object-del", json!({"id": "tg"}));
    assert_eq!(
        lab.refused("object-del", json!({"id": "tg"})).1,
        "object 'tg' not found"
    );
}

#[test]
fn latency_histograms_are_set_shown_and_taken_away() {
    let mut lab = lab();
    let stats = |lab: &mut Lab| lab.ask("query-blockstats", json!({}))[0]["stats"].clone();
    assert!(stats(&mut lab).get("rd_latency_histogram").is_none());
    let set = |lab: &mut Lab, arguments| lab.ask("block-latency-histogram-set", arguments);
    set(
        &mut lab,
        json!({"id": "disk", "boundaries": [10, 100], "boundaries-flush": [5]}),
    );
    let all = stats(&mut lab);
    assert_eq!(
        all["rd_latency_histogram"],
        json!({"boundaries": [10, 100], "bins": [0, 0, 0]})
    );
    assert_eq!(all["wr_latency_histogram"], all["rd_latency_histogram"]);
    assert_eq!(
        all["zone_append_latency_histogram"],
        all["rd_latency_histogram"]
    );
    assert_eq!(
        all["flush_latency_histogram"],
        json!({"boundaries": [5], "bins": [0, 0]})
    );
    set(&mut lab, json!({"id": "disk", "boundaries-write": [7]}));
    let changed = stats(&mut lab);
    assert_eq!(changed["wr_latency_histogram"]["boundaries"], json!([7]));
    assert_eq!(changed["rd_latency_histogram"], all["rd_latency_histogram"]);
    for wrong in [json!([]), json!([0]), json!([2, 1])] {
        let (_, refusal) = lab.refused(
            "block-latency-histogram-set",
            json!({"id": "disk", "boundaries-read": wrong}),
        );
        assert!(refusal.contains("set read boundaries fail"), "{refusal}");
    }
    assert_eq!(stats(&mut lab), changed);
    let nobody = json!({"id": "nobody", "boundaries": [1]});
    assert_eq!(
        lab.refused("block-latency-histogram-set", nobody).1,
        "Device 'nobody' not found"
    );
    set(&mut lab, json!({"id": "disk"}));
    assert!(stats(&mut lab).get("rd_latency_histogram").is_none());
}

#[test]
fn a_write_threshold_is_set_shown_and_taken_away() {
    let mut lab = lab();
    lab.ask(
        "blockdev-add",
        json!({"driver": "memory", "node-name": "m", "size": 65536}),
    );
    let shown = |lab: &mut Lab| {
        let nodes = lab.ask("query-named-block-nodes", json!({}));
        let mut nodes = nodes.as_array().unwrap().iter();
        nodes.find(|node| node["node-name"] == "m").unwrap()["write_threshold"].clone()
    };
    for threshold in [4096, 512, 0] {
        lab.ask(
            "block-set-write-threshold",
            json!({"node-name": "m", "write-threshold": threshold}),
        );
        assert_eq!(shown(&mut lab), threshold);
    }
    let nobody = json!({"node-name": "nobody", "write-threshold": 1});
    assert_eq!(
        lab.refused("block-set-write-threshold", nobody).1,
        "Device 'nobody' not found"
    );
}

#[test]
fn throttle_nodes_are_in_a_group_that_can_be_changed_while_they_are_open() {
    let mut lab = lab();
    for (id, limit) in [("slow", 100), ("fast", 10_000)] {
        lab.ask(
            "object-add",
            json!({"qom-type": "throttle-group", "id": id, "x-iops-total": limit}),
        );
    }
    let node = |group: &str| {
        json!({"driver": "throttle", "node-name": "t", "throttle-group": group,
            "file": {"driver": "null-co", "node-name": "n"}})
    };
    assert!(
        lab.refused("blockdev-add", node("none"))
            .1
            .contains("throttle group \"none\" does not exist")
    );
    lab.ask("blockdev-add", node("slow"));
    let limit = |lab: &mut Lab| {
        let nodes = lab.ask("query-named-block-nodes", json!({}));
        let mut nodes = nodes.as_array().unwrap().iter();
        nodes.find(|node| node["node-name"] == "t").unwrap()["iops"].clone()
    };
    assert_eq!(limit(&mut lab), 100);
    assert_eq!(
        lab.refused("object-del", json!({"id": "slow"})).1,
        "\"slow\" is in use by node t; remove that first"
    );
    let reopened = |group: &str| {
        json!({"options": [
            {"driver": "throttle", "node-name": "t", "throttle-group": group, "file": "n"}]})
    };
    lab.ask("blockdev-reopen", reopened("fast"));
    assert_eq!(limit(&mut lab), 10_000);
    lab.ask("object-del", json!({"id": "slow"}));
    assert!(
        lab.refused("blockdev-reopen", reopened("slow"))
            .1
            .contains("does not exist")
    );
    lab.ask("blockdev-del", json!({"node-name": "t"}));
    lab.ask("object-del", json!({"id": "fast"}));
}

#[test]
fn what_cannot_be_reopened_is_refused_with_the_reason_and_nothing_of_the_order_is_done() {
    let mut lab = lab();
    lab.ask(
        "blockdev-add",
        json!({"driver": "memory", "node-name": "m", "size": 65536}),
    );
    let debug = |rules: Value| {
        json!({"driver": "blkdebug", "node-name": "b", "image": "m",
            "inject-error": rules})
    };
    lab.ask(
        "blockdev-add",
        debug(json!([{"iotype": "write", "errno": 28, "once": true}, {"iotype": "read", "sector": 7}])),
    );
    lab.ask("blockdev-reopen", json!({"options": [debug(json!([]))]}));
    for (order, expected) in [
        (
            json!({"driver": "memory", "node-name": "m", "size": 131_072}),
            "only the faults of a blkdebug node and the group of a throttle node can be changed while it is open",
        ),
        (
            json!({"driver": "memory", "node-name": "b", "size": 65536}),
            "its driver is blkdebug, and stays",
        ),
        (
            json!({"driver": "blkdebug", "node-name": "b", "image": "other"}),
            "the node below stays",
        ),
        (
            json!({"driver": "blkdebug", "node-name": "b", "image": "m", "read-only": true}),
            "what every node has",
        ),
        (
            json!({"driver": "blkdebug", "node-name": "x", "image": "m"}),
            "there is no node \"x\"",
        ),
        (
            json!({"driver": "blkdebug", "node-name": "b", "image": "m", "inject-error": [{"errno": 0}]}),
            "an error, a latency, or both",
        ),
    ] {
        let faults = |lab: &Lab| format!("{:?}", lab.host.model().node("b").unwrap().driver);
        let before = faults(&lab);
        let first = debug(json!([{"iotype": "flush"}]));
        let (_, refused) = lab.refused("blockdev-reopen", json!({"options": [first, order]}));
        assert!(refused.contains(expected), "{refused}");
        assert_eq!(
            faults(&lab),
            before,
            "the first of them is not changed either"
        );
    }
    assert!(
        lab.refused(
            "blockdev-add",
            json!({"driver": "blkdebug", "node-name": "c", "image": "m", "inject-error": [{"errno": "x"}]})
        )
        .1
        .contains("errno")
    );
}

#[test]
fn workers_are_threads_that_serve() {
    let mut lab = lab();
    let threads = lab.ask("query-iothreads", json!({}));
    let threads = threads.as_array().unwrap();
    assert_eq!(threads.len(), 1);
    let id = threads[0]["thread-id"].as_i64().unwrap();
    let name = std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).unwrap();
    assert_eq!(name.trim(), threads[0]["id"]);
    assert_eq!(threads[0]["poll-max-ns"], 50_000);
    let (_, refused) = lab.refused("object-add", json!({"qom-type": "secret", "id": "s"}));
    assert!(
        refused.contains("there are: iothread, throttle-group"),
        "{refused}"
    );
}

#[test]
fn an_iothread_comes_serves_a_controller_and_goes_with_nobody_on_it() {
    let mut lab = lab();
    let cpu = first_cpu();
    lab.ask(
        "object-add",
        json!({"qom-type": "iothread", "id": "io", "poll-max-ns": 7000, "cpus": cpu}),
    );
    lab.ask("object-add", json!({"qom-type": "iothread", "id": "idle"}));
    let threads = lab.ask("query-iothreads", json!({}));
    let threads = threads.as_array().unwrap();
    assert_eq!(threads.len(), 3);
    assert_eq!(threads[1]["id"], "io");
    assert_eq!(threads[1]["poll-max-ns"], 7000);
    // It does as the others do if it does not say.
    assert_eq!(threads[2]["poll-max-ns"], 50_000);
    let id = threads[1]["thread-id"].as_i64().unwrap();
    let status = std::fs::read_to_string(format!("/proc/self/task/{id}/status")).unwrap();
    assert!(status.starts_with("Name:\tio\n"), "{status}");
    assert!(
        status.contains(&format!("Cpus_allowed_list:\t{cpu}\n")),
        "{status}"
    );

    let listed = lab.ask("qom-list", json!({"path": "/objects"}));
    let named = |name: &str| json!({"name": name, "type": "child<iothread>"});
    let listed = listed.as_array().unwrap();
    assert!(listed.contains(&named("io")) && listed.contains(&named("idle")));
    let get = |lab: &mut Lab, path: &str, property: &str| {
        lab.ask("qom-get", json!({"path": path, "property": property}))
    };
    assert_eq!(get(&mut lab, "/objects/io", "type"), "iothread");
    assert_eq!(get(&mut lab, "/objects/io", "poll-max-ns"), 7000);
    assert_eq!(get(&mut lab, "/objects/io", "cpus"), cpu);

    let socket = lab.directory.path().join("vm2");
    let mut device =
        json!({"driver": "virtio-scsi-pci", "id": "t", "socket": socket, "iothread": "none"});
    let (_, refused) = lab.refused("device_add", device.clone());
    assert!(
        refused.contains("iothread \"none\" does not exist"),
        "{refused}"
    );
    device["iothread"] = json!("io");
    lab.ask("device_add", device);
    assert_eq!(
        get(&mut lab, "/machine/peripheral/t", "iothread"),
        "/objects/io"
    );
    assert_eq!(get(&mut lab, "/machine/peripheral/s", "iothread"), "");
    let (_, refused) = lab.refused("object-del", json!({"id": "io"}));
    assert_eq!(
        refused,
        "\"io\" is in use by controller t; remove that first"
    );
    // Its queues move to another thread, and to those that serve all controllers.
    let set = |value: Value| json!({"path": "/machine/peripheral/t", "property": "iothread", "value": value});
    let (_, refused) = lab.refused("qom-set", set(json!("none")));
    assert!(
        refused.contains("iothread \"none\" does not exist"),
        "{refused}"
    );
    let (_, refused) = lab.refused("qom-set", set(json!(1)));
    assert!(refused.contains("expected: string"), "{refused}");
    for (value, now) in [
        ("/objects/idle", "/objects/idle"),
        ("", ""),
        ("io", "/objects/io"),
    ] {
        lab.ask("qom-set", set(json!(value)));
        assert_eq!(get(&mut lab, "/machine/peripheral/t", "iothread"), now);
    }
    assert!(lab.host.configuration().contains("iothread = \"io\""));
    lab.ask("device_del", json!({"id": "t"}));
    lab.ask("object-del", json!({"id": "io"}));
    assert!(!Path::new(&format!("/proc/self/task/{id}")).exists());
    let (_, refused) = lab.refused("object-del", json!({"id": "io"}));
    assert_eq!(refused, "object 'io' not found");
    // Its place among the workers is taken again.
    lab.ask("object-add", json!({"qom-type": "iothread", "id": "again"}));
    let threads = lab.ask("query-iothreads", json!({}));
    assert_eq!(
        (&threads[1]["id"], &threads[2]["id"]),
        (&json!("again"), &json!("idle"))
    );
}

#[test]
fn how_far_interrupts_are_held_back_changes_while_a_controller_is_in_use() {
    let mut lab = lab();
    let path = "/machine/peripheral/s";
    let get = |lab: &mut Lab, property: &str| {
        lab.ask("qom-get", json!({"path": path, "property": property}))
    };
    let set =
        |property: &str, value: Value| json!({"path": path, "property": property, "value": value});
    assert_eq!(get(&mut lab, "coalesce-us"), 0);
    assert_eq!(get(&mut lab, "coalesce-max"), 16);
    lab.ask("qom-set", set("coalesce-us", json!(80)));
    lab.ask("qom-set", set("coalesce-max", json!(4)));
    assert_eq!(get(&mut lab, "coalesce-us"), 80);
    assert_eq!(get(&mut lab, "coalesce-max"), 4);
    let dump = lab.host.configuration();
    assert!(
        dump.contains("coalesce-us = 80\ncoalesce-max = 4\n"),
        "{dump}"
    );
    for (property, value, message) in [
        (
            "coalesce-us",
            json!(10_001),
            "coalesce-us=10001: must be a number from 0 to 10000",
        ),
        (
            "coalesce-max",
            json!(0),
            "coalesce-max=0: must be a number from 1 to 65535",
        ),
        (
            "coalesce-max",
            json!("8"),
            "Invalid parameter type for 'coalesce-max', expected: uint32",
        ),
        (
            "num_queues",
            json!(2),
            "Property 'num_queues' of '/machine/peripheral/s' cannot be set",
        ),
    ] {
        let (_, refused) = lab.refused("qom-set", set(property, value));
        assert_eq!(refused, message);
    }
    assert_eq!(get(&mut lab, "coalesce-us"), 80);
    // Another has it from the start.
    let socket = lab.directory.path().join("vm2");
    lab.ask(
        "device_add",
        json!({"driver": "virtio-scsi-pci", "id": "t", "socket": socket, "coalesce-us": 9}),
    );
    let other = json!({"path": "t", "property": "coalesce-us"});
    assert_eq!(lab.ask("qom-get", other), 9);
}

/// The number of a CPU that this process may use.
fn first_cpu() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap()
        .trim()
        .split(['-', ','])
        .next()
        .unwrap()
        .to_owned()
}

#[test]
fn an_iothread_that_cannot_be_is_refused_and_leaves_nothing() {
    let mut lab = lab();
    lab.ask(
        "object-add",
        json!({"qom-type": "throttle-group", "id": "taken"}),
    );
    for (member, value, why) in [
        ("id", json!("taken"), "the object \"taken\" exists already"),
        (
            "id",
            json!("lunar-worker0"),
            "the object \"lunar-worker0\" exists already",
        ),
        ("id", json!("0"), "is not a good name"),
        (
            "cpus",
            json!("1-"),
            "cpus: \"1-\" is no list of CPUs; write their numbers, such as 0-3,8, or node0 for those of a NUMA node",
        ),
        (
            "cpus",
            json!("1023"),
            "cpus: CPU 1023 is not available; this process may run on ",
        ),
        (
            "poll-max-ns",
            json!(1_000_000_001),
            "must be a number from 0 to 1000000000",
        ),
        (
            "poll-grow",
            json!(2),
            "iothread has no property \"poll-grow\"",
        ),
    ] {
        let mut object = json!({"qom-type": "iothread", "id": "io"});
        object[member] = value;
        let (_, refused) = lab.refused("object-add", object);
        assert!(refused.contains(why), "{refused}");
        assert_eq!(
            lab.ask("query-iothreads", json!({}))
                .as_array()
                .unwrap()
                .len(),
            1
        );
        let objects = lab.ask("qom-list", json!({"path": "/objects"}));
        assert_eq!(objects.as_array().unwrap().len(), 2, "{objects}");
    }
}
