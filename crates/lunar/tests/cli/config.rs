//! Configuration files.

use rustix::process::Signal;

use crate::program::{Place, Server, stderr, stdout};

const FILE: &str = r#"
socket-path = "vm.sock"
workers = 2
queues = 3
poll-us = 0
log = "error"
monitor = "unix:vm.qmp"

[[blockdev]]
driver = "raw"
node-name = "part"
offset = 1048576
file = { driver = "file", filename = "disk.img" }

[[drive]]
id = "ram"
file = "other.img"
format = "raw"
if = "none"

[[device]]
driver = "scsi-hd"
drive = "part"
lun = 5
serial = "007"

[[device]]
driver = "virtio-scsi-pci"
id = "scsi0"
"#;

fn place(text: &str) -> Place {
    let place = Place::new();
    place.image("disk.img", 3 << 20);
    place.image("other.img", 1 << 20);
    place.write("vm.toml", text.as_bytes());
    place
}

#[test]
fn a_file_is_served_as_the_same_options_are() {
    let place = place(FILE);
    let from_file = place.serve(&["--config", "vm.toml"], &["vm.sock"]);
    let from_file = from_file.stop(Signal::TERM);
    let from_options = place.serve(
        &[
            "--socket-path=vm.sock",
            "--queues=3",
            "--blockdev=raw,node-name=part,offset=1M,file.driver=file,file.filename=disk.img",
            "--drive=id=ram,file=other.img,format=raw,if=none",
            "--device=virtio-scsi-pci,id=scsi0",
            "--device=scsi-hd,drive=part,lun=5,serial=007",
        ],
        &["vm.sock"],
    );
    let from_options = from_options.stop(Signal::TERM);
    assert_eq!(from_file.code, Some(0), "{from_file:?}");
    assert_eq!(from_file.stdout, from_options.stdout);
    assert!(from_file.stdout.contains("LUN 5"), "{from_file:?}");
    assert_eq!(
        from_file.stderr,
        "lunar: warning: vm.toml:15 [[drive]]: no device uses this drive\n"
    );
}

#[test]
fn options_add_objects_and_go_before_settings() {
    let place = place(FILE);
    let server = place.serve(
        &[
            "--config=vm.toml",
            "--socket-path=mine.sock",
            "--queues=1",
            "--device=scsi-hd,drive=ram,id=more",
        ],
        &["mine.sock"],
    );
    let ended = server.stop(Signal::TERM);
    assert_eq!(ended.stderr, "");
    let stdout = ended.stdout;
    assert!(
        stdout.contains("serves 2 disks on 1 controller"),
        "{stdout}"
    );
    assert!(stdout.contains("mine.sock, 1 request queue"), "{stdout}");
    assert!(stdout.contains("more"), "{stdout}");
    assert!(!place.path("vm.sock").exists());
}

#[test]
fn a_wrong_file_is_refused_before_anything_is_opened() {
    let place = place(
        &FILE
            .replace("disk.img", "absent.img")
            .replace("serial", "seriall"),
    );
    for arguments in [
        &["check-config", "vm.toml"][..],
        &["serve", "--config", "vm.toml"],
    ] {
        let output = place.run(arguments);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(
            stderr(&output),
            "lunar: vm.toml:25:1: scsi-hd has no property \"seriall\"; did you mean \"serial\"?\n   \
                |\n\
             25 | seriall = \"007\"\n   \
                | ^^^^^^^\n"
        );
    }
}

#[test]
fn a_right_file_is_found_right_without_its_images() {
    let place = Place::new();
    place.write("vm.toml", FILE.as_bytes());
    let output = place.run(&["check-config", "vm.toml"]);
    assert_eq!(stderr(&output), "");
    assert_eq!(stdout(&output), "vm.toml: 1 disk on 1 controller\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn what_a_disk_cannot_be_is_pointed_at() {
    let place = place(&FILE.replace("\"007\"", "\"a serial number that is by far too long\""));
    let output = place.run(&["check-config", "vm.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = stderr(&output);
    assert!(
        stderr.starts_with("lunar: vm.toml:25:10: serial="),
        "{stderr}"
    );
}

#[test]
fn where_a_monitor_cannot_be_is_pointed_at() {
    let place = place("monitor = ['none', 'tcp:1']\nsocket-path = 'vm.sock'");
    let output = place.run(&["check-config", "vm.toml"]);
    let stderr = stderr(&output);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr.contains("vm.toml:1:20: must be unix:PATH, stdio or none"),
        "{stderr}"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let output = Place::new().run(&["serve", "--config", "absent.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        stderr(&output),
        "lunar: absent.toml: No such file or directory (os error 2)\n"
    );
}

#[test]
fn what_a_server_says_of_itself_makes_the_same_server() {
    let place = place(FILE);
    place.image("plain.img", 1 << 20);
    let dump = |server: Server| {
        let output = place.run(&["config", "dump", "vm.qmp"]);
        assert_eq!(stderr(&output), "");
        (stdout(&output), server.stop(Signal::TERM).stdout)
    };
    let options = [
        "--config=vm.toml",
        "--device=scsi-hd,drive=ram",
        "plain.img",
    ];
    let (first, table) = dump(place.serve(&options, &["vm.sock", "vm.qmp"]));
    place.write("again.toml", first.as_bytes());
    let (second, same_table) = dump(place.serve(&["--config=again.toml"], &["vm.sock", "vm.qmp"]));
    assert_eq!(first, second);
    let table = table.replace(
        "socket vm.sock",
        &format!("socket {}", place.path("vm.sock").display()),
    );
    assert_eq!(
        table
            .replace("plain.img", &place.path("plain.img").display().to_string())
            .replace(
                " other.img",
                &format!(" {}", place.path("other.img").display())
            )
            .replace(
                " disk.img",
                &format!(" {}", place.path("disk.img").display())
            ),
        same_table
    );
    assert!(
        first.contains(
            "/vm.qmp\"]\nqueues = 3\nworkers = 2\npoll-us = 0\nlog = \"error\"\n\n[[blockdev]]\n"
        ),
        "{first}"
    );
    assert!(first.contains("identity = \"image-"), "{first}");
}

#[test]
fn the_file_in_the_documentation_is_right() {
    let documentation = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/serve.md");
    let documentation = std::fs::read_to_string(documentation).unwrap();
    let mut blocks = documentation.split("```toml\n").skip(1);
    let block = blocks.next().unwrap().split("```").next().unwrap();
    let place = Place::new();
    place.write("vm.toml", block.as_bytes());
    let output = place.run(&["check-config", "vm.toml"]);
    assert_eq!(stderr(&output), "");
    assert_eq!(stdout(&output), "vm.toml: 2 disks on 1 controller\n");
    assert!(blocks.next().is_none(), "a file that is not tested");
}

#[test]
fn a_check_opens_images_only_when_told_to() {
    let place = place(FILE);
    let check = |arguments: &[&str]| place.run(&[&["check-config", "vm.toml"], arguments].concat());
    assert!(check(&["--open"]).status.success());
    std::fs::remove_file(place.path("other.img")).unwrap();
    assert!(check(&[]).status.success());
    let refused = check(&["--open"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(stderr(&refused).contains("other.img"), "{refused:?}");
}
