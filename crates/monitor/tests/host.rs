//! The commands over a real host, with no guest: what they answer is what the schema says, and what they refuse
//! changes nothing.
#![cfg(test)]

mod support;

use std::path::Path;
use std::time::Duration;

use lunar_host::{Event, IoErrorAction, IoOperation, ShutdownReason};
use lunar_monitor::notice;
use serde_json::json;
use support::{Lab, lab};

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
