use super::*;
use crate::keyval::{BLOCKDEV, DEVICE};
use crate::model::Model;
use proptest::prelude::*;

fn parse(text: &str) -> Result<File, String> {
    File::parse("vm1.toml", text.to_owned()).map_err(|error| error.to_string())
}

/// What loading the file says.
fn refusal(text: &str) -> String {
    let file = match parse(text) {
        Ok(file) => file,
        Err(error) => return error,
    };
    let mut model = Model::default();
    for one in file.blockdevs() {
        if let Err(error) = model.add_blockdev(one.options.clone(), &one.origin) {
            return file.refuse(one, &error).to_string();
        }
    }
    for one in file.drives() {
        if let Err(error) = model.add_drive(one.options.clone(), &one.origin) {
            return file.refuse(one, &error).to_string();
        }
    }
    for one in file.devices() {
        if let Err(error) = model.add_device(one.options.clone(), &one.origin) {
            return file.refuse(one, &error).to_string();
        }
    }
    panic!("accepted: {text}");
}

#[test]
fn tables_say_what_options_say() {
    let file = parse(
        r#"
        [[blockdev]]
        driver = "qcow2"
        node-name = "disk0"
        cache.direct = true
        file = { driver = "file", filename = "/a,b" }
        rule = [{ n = 1 }, { n = 0x10 }]

        [[device]]
        driver = "scsi-hd"
        drive = "disk0"
        lun = 3
        removable = false
        "#,
    )
    .unwrap();
    assert_eq!(
        file.blockdevs()[0].options,
        Options::parse(
            "qcow2,node-name=disk0,cache.direct=on,file.driver=file,file.filename=/a,,b,rule.0.n=1,rule.1.n=0x10",
            BLOCKDEV
        )
        .unwrap()
    );
    assert_eq!(
        file.devices()[0].options,
        Options::parse("scsi-hd,drive=disk0,lun=3,removable=off", DEVICE).unwrap()
    );
    assert_eq!(file.devices()[0].origin, "vm1.toml:9 [[device]]");
}

#[test]
fn settings_are_read_from_the_front() {
    let file = parse(
        "socket-path = '/s'\nimages = ['a', 'b']\nmonitor = 'stdio'\nqemu-monitor = '/q'\nqueues = 4\nworkers = 2\npoll-us = 0\nlog = 'info'\nlog-format = 'json'\nmetrics = '9000'",
    )
    .unwrap();
    assert_eq!(
        *file.settings(),
        Settings {
            socket_path: Some("/s".into()),
            images: vec!["a".into(), "b".into()],
            monitor: vec!["stdio".into()],
            qemu_monitor: Some("/q".into()),
            metrics: Some("9000".into()),
            queues: Some(4),
            workers: Some("2".parse().unwrap()),
            poll_us: Some(0),
            log: Some("info".into()),
            log_format: Some("json".into()),
        }
    );
}

#[test]
fn what_is_wrong_is_pointed_at() {
    assert_eq!(
        refusal(
            "[[drive]]\nid = 'a'\nfile = '/x'\n\n[[device]]\ndriver = \"scsi-hd\"\nseriall = \"x\"\n"
        ),
        "vm1.toml:7:1: scsi-hd has no property \"seriall\"; did you mean \"serial\"?\n  \
           |\n\
         7 | seriall = \"x\"\n  \
           | ^^^^^^^"
    );
    // Columns are characters, not bytes.
    assert_eq!(
        refusal("[[blockdev]]\ndriver = 'file'\nx = {'ä' = 1}\nfilename = 'ä' # ä\n"),
        "vm1.toml:3:6: file has no property \"x.ä\"\n  \
           |\n\
         3 | x = {'ä' = 1}\n  \
           |      ^^^"
    );
}

#[test]
fn every_kind_of_mistake_has_its_place() {
    for (text, place, message) in [
        (
            "workers = 2\nworker = 3",
            "2:1",
            "did you mean \"workers\"?",
        ),
        ("workers = 0", "1:11", "must be a number from 1 to 256"),
        (
            "workers = '2,cpus=1023'",
            "1:11",
            "CPU 1023 is not available",
        ),
        ("queues = 'many'", "1:10", "must be a number from 1 to 254"),
        ("[[drvie]]\nfile = 'x'", "1:3", "did you mean \"drive\"?"),
        ("[server]\nworkers = 2", "1:2", "no table \"server\""),
        ("[drive]\nfile = 'x'", "1:1", "write [[drive]]"),
        ("drive = [1]", "1:10", "must be a table: [[drive]]"),
        ("workers 2", "1:9", ""),
        ("[[drive]]\nfile = 'x\n", "2:10", "expected"),
        ("[[drive]]\nfile = 'x'\nfile = 'y'", "3:1", ""),
        ("[[drive]]\nid = 'a'", "1:1", "file=PATH is missing"),
        (
            "[[drive]]\nfile = 'x'\nsize = 1.5",
            "3:8",
            "a fraction cannot be",
        ),
        (
            "[[drive]]\nfile = 'x'\nsize = 2020-01-01",
            "3:8",
            "a date cannot be",
        ),
        ("[[drive]]\nfile = 'x'\nid = '1'", "3:6", "not a good name"),
        ("[[drive]]\nfile = 'x.iso'", "2:8", "CD/DVD drives"),
        (
            "[[drive]]\nfile = 'x.qcow2'\noffset = 512",
            "3:10",
            "raw images",
        ),
        (
            "[[drive]]\nid = 'a'\nfile = 'x'\n[[drive]]\nid = 'a'\nfile = 'y'",
            "5:6",
            "exists already",
        ),
        ("[[blockdev]]\ndriver = 'vdi'", "2:10", "no block driver"),
        (
            "[[blockdev]]\ndriver = 'raw'\nnode-name = 'a'\nfile = 'b'",
            "4:8",
            "no node",
        ),
        ("[[device]]\ndriver = 'scsi-hdd'", "2:10", "did you mean"),
        ("[[device]]\ndriver = 'scsi-cd'", "2:10", "not served yet"),
        (
            "[[device]]\ndriver = 'virtio-scsi-pci'\n[[device]]\ndrive = 'x'\ndriver = 'scsi-hd'",
            "4:9",
            "no drive or node",
        ),
        (
            "[[device]]\ndriver = 'scsi-hd'\ndrive = 'x'\nbus = 'scsi0.0'",
            "4:7",
            "no bus is called",
        ),
        (
            "[[blockdev]]\ndriver = 'null-co'\nnode-name = 'a'\n[[device]]\ndriver = 'virtio-scsi'\n\
             [[device]]\ndriver = 'scsi-hd'\ndrive = 'a'\n[[device]]\ndriver = 'scsi-hd'\ndrive = 'a'",
            "11:9",
            "in use by",
        ),
    ] {
        let refusal = refusal(text);
        let expected = format!("vm1.toml:{place}: ");
        assert!(refusal.starts_with(&expected), "{place}: {refusal}");
        assert!(refusal.contains(message), "{message}: {refusal}");
        assert_eq!(refusal.lines().count(), 4, "{refusal}");
        assert!(refusal.ends_with('^'), "{refusal}");
    }
}

#[test]
fn a_nested_mistake_is_not_looked_for_in_the_outer_table() {
    let text = "[[blockdev]]\ndriver = 'raw'\nnode-name = 'a'\nsize = 512\nfile = { driver = 'file', filename = 'x', size = 512 }";
    let refusal = refusal(text);
    assert!(
        refusal.starts_with("vm1.toml:5:43: file has no property"),
        "{refusal}"
    );
}

#[test]
fn long_lines_are_shown_in_part() {
    let refusal = refusal(&format!(
        "[[drive]]\nfile = '{}'\nid = 'ok'\n",
        "x".repeat(9) + "\n" + &"y".repeat(100_000)
    ));
    assert!(refusal.len() < 400, "{}", refusal.len());
}

#[test]
fn values_are_written_as_what_they_are() {
    let options = Options::parse(
        "scsi-hd,id=a,drive=b,serial=007,lun=0,wwn=0x5000,removable=on,noshare-rw,dpofua",
        DEVICE,
    )
    .unwrap();
    let drive = Options::parse(
        "file=/a \"b\",cache=none,cache.writeback=on,readonly=off,size=1G",
        crate::keyval::DRIVE,
    )
    .unwrap();
    let settings = Settings {
        workers: Some("2".parse().unwrap()),
        monitor: vec!["unix:/m".into()],
        ..Settings::default()
    };
    assert_eq!(
        write(&settings, [("drive", &drive), ("device", &options)]),
        r#"monitor = ["unix:/m"]
workers = 2

[[drive]]
file = '/a "b"'
cache = "none"
"cache.writeback" = true
readonly = false
size = "1G"

[[device]]
driver = "scsi-hd"
id = "a"
drive = "b"
serial = "007"
lun = 0
wwn = "0x5000"
removable = true
share-rw = false
dpofua = true
"#
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_written_is_read_back(
        pairs in prop::collection::btree_map("[a-z]{1,3}(\\.[a-z0-9\"= ]{1,3}){0,2}", "\\PC{0,8}|on|off|[0-9]{1,20}|[\u{0}-\u{20}]{0,3}", 0..6)
    ) {
        let options: Options = pairs.into_iter().collect();
        let settings = Settings::default();
        let text = write(&settings, [("device", &options)]);
        let file = File::parse("x", text.clone()).map_err(|e| TestCaseError::fail(format!("{text}\n{e}")))?;
        let mut read: Vec<_> = file.devices()[0].options.iter().collect();
        let mut written: Vec<_> = options.iter().collect();
        read.sort_by_key(|(key, _)| key.to_string());
        written.sort_by_key(|(key, _)| key.to_string());
        prop_assert_eq!(read, written, "{}", text);
    }

    #[test]
    fn any_text_is_read_or_refused_with_an_excerpt(text in "([\\[\\]a-z=\"'{}.0-9\n# ]|\\PC|[\u{0}-\u{7f}]){0,60}") {
        if let Err(error) = File::parse("x", text) {
            prop_assert!(error.to_string().lines().count() >= 4, "{}", error);
        }
    }
}
