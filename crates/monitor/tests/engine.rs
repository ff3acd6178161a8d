//! The protocol over a toy: a counter that can be set, asked and broken.
#![cfg(test)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use lunar_monitor::schema::{Definition, Described, Empty, Kind, Member, Object, Type};
use lunar_monitor::{
    Command, Endpoint, Error, EventType, MAX_CLIENTS, Notice, Running, Server, Table, VersionInfo,
    VersionTriple,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Debug, Default)]
struct Counter(AtomicI64);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Set {
    value: i64,
    by: Option<String>,
    small: Option<u16>,
}

impl Described for Set {
    fn describe() -> Type {
        Type::Named(|| {
            let member = |name: &'static str, kind, optional| Member {
                name: name.into(),
                kind,
                optional,
            };
            Definition {
                name: "Set".into(),
                kind: Kind::Object(Object {
                    members: vec![
                        member("value", i64::describe(), false),
                        member("by", String::describe(), true),
                        member("small", u16::describe(), true),
                    ],
                    ..Object::default()
                }),
            }
        })
    }
}

fn table() -> Table<Counter> {
    Table::new(
        vec![
            Command::new("set", "sets it", |counter: &Counter, set: Set| {
                counter.0.store(set.value, Ordering::Relaxed);
                Ok(Empty {})
            }),
            Command::new("get", "what it is", |counter: &Counter, _: Empty| {
                Ok(counter.0.load(Ordering::Relaxed))
            }),
            Command::new("fail", "fails", |_: &Counter, _: Empty| {
                Err::<Empty, _>(Error::no_device("x"))
            }),
            Command::new("much", "a long answer", |_: &Counter, _: Empty| {
                Ok("x".repeat(300_000))
            }),
        ],
        vec![EventType {
            name: "TICK",
            data: Empty::describe(),
        }],
    )
}

struct Lab {
    path: PathBuf,
    running: Running,
    _directory: tempfile::TempDir,
}

fn lab() -> Lab {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let version = VersionInfo {
        qemu: VersionTriple {
            major: 1,
            minor: 2,
            micro: 3,
        },
        package: "Toy".into(),
    };
    let endpoint = Endpoint::bind(&path).unwrap();
    let server = Server::new(table(), Counter::default(), version, vec![endpoint]).unwrap();
    Lab {
        path,
        running: server.start().unwrap(),
        _directory: directory,
    }
}

struct Client(BufReader<UnixStream>);

impl Client {
    fn connect(lab: &Lab) -> Client {
        let stream = UnixStream::connect(&lab.path).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Client(BufReader::new(stream))
    }

    fn negotiated(lab: &Lab) -> Client {
        let mut client = Client::connect(lab);
        client.read();
        client.write("{\"execute\":\"qmp_capabilities\"}");
        assert_eq!(client.read(), json!({"return": {}}));
        client
    }

    fn write(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    fn read(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).expect(&line)
    }

    fn ask(&mut self, text: &str) -> Value {
        self.write(text);
        self.read()
    }

    fn is_cut_off(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 16]), Ok(0) | Err(_))
    }
}

fn error(class: &str, desc: &str) -> Value {
    json!({"error": {"class": class, "desc": desc}})
}

#[test]
fn a_session_begins_with_a_greeting_and_a_negotiation() {
    let lab = lab();
    let mut client = Client::connect(&lab);
    assert_eq!(
        client.read(),
        json!({"QMP": {
            "version": {"qemu": {"major": 1, "minor": 2, "micro": 3}, "package": "Toy"},
            "capabilities": []
        }})
    );
    let first = error(
        "CommandNotFound",
        "Expecting capabilities negotiation with 'qmp_capabilities'",
    );
    assert_eq!(client.ask("{\"execute\":\"get\"}"), first);
    assert_eq!(client.ask("{\"execute\":\"nonsense\"}"), first);
    assert_eq!(
        client.ask(r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#),
        error("GenericError", "Capability 'oob' is not available")
    );
    assert_eq!(
        client.ask(r#"{"execute":"qmp_capabilities","arguments":{"enable":[]}}"#),
        json!({"return": {}})
    );
    assert_eq!(
        client.ask("{\"execute\":\"qmp_capabilities\"}"),
        error(
            "CommandNotFound",
            "Capabilities negotiation is already complete, command ignored"
        )
    );
    assert_eq!(client.ask("{\"execute\":\"get\"}"), json!({"return": 0}));
}

#[test]
fn arguments_are_checked_in_the_words_of_qemu() {
    let lab = lab();
    let mut client = Client::negotiated(&lab);
    for (arguments, desc) in [
        (json!({}), "Parameter 'value' is missing"),
        (
            json!({"value": "1"}),
            "Invalid parameter type for 'value', expected: integer",
        ),
        (
            json!({"value": 1.5}),
            "Invalid parameter type for 'value', expected: integer",
        ),
        (
            json!({"value": u64::MAX}),
            "Parameter 'value' expects integer",
        ),
        (
            json!({"value": 1, "by": 1}),
            "Invalid parameter type for 'by', expected: string",
        ),
        (
            json!({"value": 1, "by": null}),
            "Invalid parameter type for 'by', expected: string",
        ),
        (
            json!({"value": 1, "small": 65536}),
            "Parameter 'small' expects uint16_t",
        ),
        (
            json!({"value": 1, "more": 1}),
            "Parameter 'more' is unexpected",
        ),
    ] {
        let request = json!({"execute": "set", "arguments": arguments, "id": [1, {"a": 2}]});
        let mut expected = error("GenericError", desc);
        expected["id"] = json!([1, {"a": 2}]);
        assert_eq!(client.ask(&request.to_string()), expected);
    }
    for (request, class, desc) in [
        (
            "{\"execute\":\"foo\"}",
            "CommandNotFound",
            "The command foo has not been found",
        ),
        (
            "{\"execute\":1}",
            "GenericError",
            "QMP input member 'execute' must be a string",
        ),
        (
            "{\"execute\":\"get\",\"arguments\":[]}",
            "GenericError",
            "QMP input member 'arguments' must be an object",
        ),
        (
            "{\"execute\":\"get\",\"control\":1}",
            "GenericError",
            "QMP input member 'control' is unexpected",
        ),
        (
            "{\"exec-oob\":\"get\"}",
            "GenericError",
            "QMP input member 'exec-oob' is unexpected",
        ),
        ("{}", "GenericError", "QMP input lacks member 'execute'"),
        ("[]", "GenericError", "QMP input must be a JSON object"),
        ("7 ", "GenericError", "QMP input must be a JSON object"),
        (
            "{\"execute\":\"fail\"}",
            "DeviceNotFound",
            "Device 'x' not found",
        ),
    ] {
        assert_eq!(client.ask(request), error(class, desc), "{request}");
    }
    assert_eq!(
        client.ask(r#"{"execute":"set","arguments":{"value":-7,"by":"me"},"id":1}"#),
        json!({"return": {}, "id": 1})
    );
    assert_eq!(
        client.ask("{'execute':'get','id':null}"),
        json!({"return": -7, "id": null})
    );
}

#[test]
fn lines_end_as_those_of_qemu_do() {
    let lab = lab();
    let mut client = Client::connect(&lab);
    assert!(client.line().ends_with("}\r\n"));
}

#[test]
fn commands_sent_together_are_answered_in_order_even_if_the_client_closes_its_side() {
    let lab = lab();
    let mut client = Client::negotiated(&lab);
    let mut all = String::new();
    for number in 0..200 {
        all += &format!("{{\"execute\":\"get\",\"id\":{number}}}");
    }
    client.write(&all);
    client
        .0
        .get_ref()
        .shutdown(std::net::Shutdown::Write)
        .unwrap();
    for number in 0..200 {
        assert_eq!(client.read()["id"], number);
    }
    assert!(client.is_cut_off());
}

#[test]
fn malformed_json_is_an_error_and_the_session_goes_on() {
    let lab = lab();
    let mut client = Client::negotiated(&lab);
    for text in ["{\"execute\" \"get\"}", "}", "{\"a\":\"\n", "{]", "\u{1}"] {
        let answer = client.ask(text);
        let desc = answer["error"]["desc"].as_str().unwrap();
        assert!(desc.starts_with("JSON parse error, "), "{answer}");
    }
    assert_eq!(client.ask("\n{\"execute\":\"get\"}"), json!({"return": 0}));
}

#[test]
fn a_line_of_a_hundred_megabytes_is_refused_without_keeping_it() {
    let lab = lab();
    let mut client = Client::negotiated(&lab);
    let before = resident();
    client.write("{\"execute\":\"");
    let piece = "x".repeat(1 << 20);
    let mut grown = 0;
    for _ in 0..100 {
        client.write(&piece);
        grown = grown.max(resident().saturating_sub(before));
    }
    client.write("\"}\n");
    assert_eq!(
        client.read(),
        error(
            "GenericError",
            "JSON message size limit exceeded: a message may have 1048576 bytes"
        )
    );
    assert_eq!(client.ask("{\"execute\":\"get\"}"), json!({"return": 0}));
    assert!(grown < 30 << 20, "{grown} bytes more");
}

/// The memory that this process has.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

#[test]
fn of_a_thousand_idle_connections_some_stay_and_newcomers_are_served() {
    let lab = lab();
    let mut old = Client::negotiated(&lab);
    let idle: Vec<_> = (0..1000)
        .map(|_| UnixStream::connect(&lab.path).unwrap())
        .collect();
    let mut new = Client::negotiated(&lab);
    assert_eq!(new.ask("{\"execute\":\"get\"}"), json!({"return": 0}));
    assert_eq!(
        old.ask("{\"execute\":\"get\"}"),
        json!({"return": 0}),
        "never idle"
    );
    let served = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(
        served < 1000 + 2 * MAX_CLIENTS + 100,
        "{served} descriptors"
    );
    drop(idle);
    assert_eq!(new.ask("{\"execute\":\"get\"}"), json!({"return": 0}));
}

#[test]
fn a_client_too_many_is_told_so() {
    let lab = lab();
    let mut clients: Vec<_> = (0..MAX_CLIENTS).map(|_| Client::negotiated(&lab)).collect();
    let mut late = Client::connect(&lab);
    assert_eq!(
        late.read(),
        error(
            "GenericError",
            "this monitor serves 64 clients, and all are there; try again later"
        )
    );
    assert!(late.is_cut_off());
    clients.pop();
    assert!(until(|| Client::connect(&lab).read().get("QMP").is_some()));
}

fn until(mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn tick(limited: Option<&str>, data: Value) -> Notice {
    Notice {
        name: "TICK",
        data: Some(data),
        at: SystemTime::now(),
        limited: limited.map(str::to_owned),
    }
}

#[test]
fn events_go_to_every_client_that_has_negotiated() {
    let lab = lab();
    let mut early = Client::connect(&lab);
    early.read();
    let mut clients = [Client::negotiated(&lab), Client::negotiated(&lab)];
    lab.running.notifier().notify(tick(None, json!({"n": 1})));
    for client in &mut clients {
        let event = client.read();
        assert_eq!(
            (&event["event"], &event["data"]),
            (&json!("TICK"), &json!({"n": 1}))
        );
        assert!(event["timestamp"]["seconds"].as_u64().unwrap() > 1_600_000_000);
        assert!(event["timestamp"]["microseconds"].as_u64().unwrap() < 1_000_000);
    }
    assert_eq!(
        early.ask("{\"execute\":\"qmp_capabilities\"}"),
        json!({"return": {}})
    );
}

#[test]
fn limited_events_come_once_in_a_second() {
    let lab = lab();
    let mut client = Client::negotiated(&lab);
    let start = Instant::now();
    for n in 0..50 {
        lab.running.notifier().notify(tick(Some("d"), json!(n)));
    }
    assert_eq!(client.read()["data"], 0);
    assert_eq!(client.read()["data"], 49);
    assert!(start.elapsed() > Duration::from_millis(900));
}

#[test]
fn a_client_that_reads_no_events_is_cut_off_and_others_are_not_held_up() {
    let lab = lab();
    let deaf = Client::negotiated(&lab);
    let mut other = Client::negotiated(&lab);
    let long = "x".repeat(10_000);
    for n in 0..300 {
        lab.running.notifier().notify(tick(None, json!([n, long])));
        assert_eq!(other.read()["data"][0], n);
    }
    let mut read = Vec::new();
    let mut deaf = deaf.0.into_inner();
    let _ = deaf.read_to_end(&mut read);
    assert!(read.len() < 2_500_000, "{}", read.len());
    assert_eq!(other.ask("{\"execute\":\"get\"}"), json!({"return": 0}));
}

#[test]
fn a_client_that_does_not_read_its_answers_is_not_served_further() {
    let lab = lab();
    let mut deaf = Client::negotiated(&lab);
    let before = resident();
    deaf.write(&"{\"execute\":\"much\"}".repeat(150));
    let mut other = Client::negotiated(&lab);
    assert_eq!(other.ask("{\"execute\":\"get\"}"), json!({"return": 0}));
    assert!(resident().saturating_sub(before) < 30 << 20);
    for _ in 0..150 {
        assert_eq!(deaf.read()["return"].as_str().map(str::len), Some(300_000));
    }
}

#[test]
fn what_was_said_last_arrives_although_the_server_stops() {
    let lab = lab();
    let mut client = Client::negotiated(&lab);
    lab.running.notifier().notify(tick(None, json!("bye")));
    lab.running.stop();
    assert_eq!(client.read()["data"], "bye");
    assert!(client.is_cut_off());
    assert!(!lab.path.exists());
}

#[test]
fn the_schema_names_every_type_that_it_uses() {
    let lab = lab();
    let mut client = Client::negotiated(&lab);
    let answer = client.ask("{\"execute\":\"query-qmp-schema\"}");
    let entries = answer["return"].as_array().unwrap();
    let names: Vec<&str> = entries
        .iter()
        .map(|e| e["name"].as_str().unwrap())
        .collect();
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                for (key, value) in members {
                    match (&**key, value) {
                        ("type" | "arg-type" | "ret-type" | "element-type", Value::String(s)) => {
                            found.push(s);
                        }
                        _ => references(value, found),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    entries
        .iter()
        .for_each(|entry| references(entry, &mut found));
    assert!(found.len() > 20);
    for name in found {
        assert_eq!(names.iter().filter(|n| **n == name).count(), 1, "{name}");
    }
    let table = table();
    table
        .returns("query-qmp-schema")
        .unwrap()
        .check("schema", &answer["return"])
        .unwrap();
    let commands = client.ask("{\"execute\":\"query-commands\"}");
    assert_eq!(
        commands["return"].as_array().unwrap().len(),
        table.commands().len()
    );
}
