//! Threads, and how controllers use them.
#![cfg(test)]

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{Lab, lab};

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
fn how_long_an_iothread_looks_for_work_changes_while_it_runs() {
    let mut lab = lab();
    lab.ask("object-add", json!({"qom-type": "iothread", "id": "io"}));
    let set =
        |value: Value| json!({"path": "/objects/io", "property": "poll-max-ns", "value": value});
    lab.ask("qom-set", set(json!(7000)));
    let get = json!({"path": "/objects/io", "property": "poll-max-ns"});
    assert_eq!(lab.ask("qom-get", get.clone()), 7000);
    assert_eq!(
        lab.ask("query-iothreads", json!({}))[1]["poll-max-ns"],
        7000
    );
    assert!(lab.host.configuration().contains("poll-max-ns = 7000\n"));
    for (value, message) in [
        (
            json!(1_000_000_001),
            "poll-max-ns=1000000001: must be a number from 0 to 1000000000",
        ),
        (
            json!("9"),
            "Invalid parameter type for 'poll-max-ns', expected: int",
        ),
    ] {
        let (_, refused) = lab.refused("qom-set", set(value));
        assert_eq!(refused, message);
    }
    let (_, refused) = lab.refused(
        "qom-set",
        json!({"path": "/objects/io", "property": "cpus", "value": "0"}),
    );
    assert_eq!(refused, "Property 'cpus' of '/objects/io' cannot be set");
    assert_eq!(lab.ask("qom-get", get), 7000);
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
