//! Limits of rate, and what can be changed of nodes that are open.
#![cfg(test)]

mod support;

use serde_json::{Value, json};
use support::{Lab, lab};

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
