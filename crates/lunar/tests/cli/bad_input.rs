//! Every mistake ends the program before it makes a socket, with one line that says what to do.

use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::program::{Place, finish, open_to_all, stderr};

const USAGE: i32 = 2;
const RUNTIME: i32 = 1;

/// Runs `lunar serve` with `--socket-path s`, and expects it to refuse.
fn refused(place: &Place, arguments: &[&str], code: i32, message: &str) {
    let mut all = vec!["serve", "--socket-path", "s"];
    all.extend(arguments);
    let output = place.run(&all);
    assert_eq!(
        stderr(&output),
        format!("lunar: {message}\n"),
        "{arguments:?}"
    );
    assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    assert!(!place.path("s").exists(), "{arguments:?}");
}

/// A qcow2 version 3 header (QEMU's docs/interop/qcow2.rst) of a 1 MiB image with 64 KiB clusters; the tables are empty.
fn qcow2(crypt_method: u32, backing: &str) -> Vec<u8> {
    let cluster = 65536_u64;
    let mut header = Vec::new();
    header.extend(b"QFI\xfb");
    header.extend(3_u32.to_be_bytes());
    let backing_offset = if backing.is_empty() { 0 } else { 128_u64 };
    header.extend(backing_offset.to_be_bytes());
    header.extend(u32::try_from(backing.len()).unwrap().to_be_bytes());
    header.extend(16_u32.to_be_bytes());
    header.extend((1_u64 << 20).to_be_bytes());
    header.extend(crypt_method.to_be_bytes());
    header.extend(1_u32.to_be_bytes()); // L1 entries
    header.extend((3 * cluster).to_be_bytes()); // L1 table
    header.extend(cluster.to_be_bytes()); // reference count table
    header.extend(1_u32.to_be_bytes()); // its clusters
    header.extend([0; 4 + 8]); // no snapshots
    header.extend([0; 24]); // no features
    header.extend(4_u32.to_be_bytes()); // 16-bit reference counts
    header.extend(104_u32.to_be_bytes()); // header length
    header.extend(0xE279_2ACA_u32.to_be_bytes()); // header extension: the backing file's format
    header.extend(3_u32.to_be_bytes());
    header.extend(b"raw\0\0\0\0\0");
    header.extend([0; 8]); // end of header extensions
    assert_eq!(header.len(), 128);
    header.extend(backing.as_bytes());
    let mut image = header;
    image.resize(usize::try_from(4 * cluster).unwrap(), 0);
    image[65536..65544].copy_from_slice(&(2 * cluster).to_be_bytes());
    for used in 0..4 {
        let at = 2 * 65536 + used * 2;
        image[at..at + 2].copy_from_slice(&1_u16.to_be_bytes());
    }
    image
}

#[test]
fn image_that_is_not_there() {
    let place = Place::new();
    let message =
        "no.img: no such file; correct the name, or create the image with qemu-img create";
    refused(&place, &["no.img"], RUNTIME, message);
    let message = format!("--drive file=no.img,format=raw: {message}");
    refused(
        &place,
        &["-drive", "file=no.img,format=raw"],
        RUNTIME,
        &message,
    );
}

#[test]
fn directory_or_pipe_instead_of_an_image() {
    let place = Place::new();
    std::fs::create_dir(place.path("d")).unwrap();
    refused(
        &place,
        &["d"],
        RUNTIME,
        "d: it is a directory, not an image; give the name of a file in it",
    );
    let made = Command::new("mkfifo")
        .arg(place.path("pipe"))
        .status()
        .unwrap();
    assert!(made.success());
    refused(
        &place,
        &["pipe"],
        RUNTIME,
        "pipe: it is a pipe or a socket, not an image; give a file or a block device",
    );
}

/// Permissions do not bind root: there the program runs as another user, from a copy that this user can get at.
fn as_somebody(place: &Place, arguments: &[&str]) -> std::process::Output {
    let mut command = place.command(arguments);
    if rustix::process::getuid().is_root() {
        let copy = place.path("lunar");
        // Not by ourselves: what another test starts meanwhile would keep the file open for writing, and so from running.
        let mut cp = Command::new("cp");
        let copied = cp.arg(env!("CARGO_BIN_EXE_lunar")).arg(&copy).status();
        assert!(copied.unwrap().success());
        open_to_all(&copy, 0o755);
        open_to_all(copy.parent().unwrap(), 0o777);
        command = Command::new(copy);
        command.args(arguments).current_dir(place.path("."));
        command.uid(65534).gid(65534);
    }
    finish(command)
}

#[test]
fn unreadable_image() {
    let place = Place::new();
    open_to_all(&place.image("secret.img", 4096), 0o000);
    let output = as_somebody(&place, &["serve", "--socket-path", "s", "secret.img"]);
    assert_eq!(
        stderr(&output),
        "lunar: secret.img: no permission to read and write it; change its owner or mode, or open it with read-only=on\n"
    );
    assert_eq!(output.status.code(), Some(RUNTIME));
}

#[test]
fn read_only_image_opened_writable() {
    let place = Place::new();
    open_to_all(&place.image("golden.img", 4096), 0o444);
    let drive = "--drive=file=golden.img,format=raw,id=golden";
    let output = as_somebody(&place, &["serve", "--socket-path", "s", drive]);
    assert_eq!(
        stderr(&output),
        "lunar: --drive file=golden.img,format=raw,id=golden: golden.img: no permission to read and write it; \
         change its owner or mode, or open it with read-only=on\n"
    );
    assert_eq!(output.status.code(), Some(RUNTIME));
}

#[test]
fn truncated_qcow2() {
    let place = Place::new();
    place.write("t.qcow2", &qcow2(0, "")[..50]);
    refused(
        &place,
        &["t.qcow2"],
        RUNTIME,
        "t.qcow2: it is truncated: its header ends at 72, the file at 50; \
         examine it with qemu-img check t.qcow2, or restore it from a backup",
    );
}

#[test]
fn encrypted_qcow2_is_left_as_it_is() {
    let place = Place::new();
    let image = qcow2(2, "");
    place.write("e.qcow2", &image);
    refused(
        &place,
        &["e.qcow2"],
        RUNTIME,
        "e.qcow2: it is encrypted (crypt_method 2), which is not supported; decrypt it with qemu-img convert",
    );
    assert_eq!(std::fs::read(place.path("e.qcow2")).unwrap(), image);
}

#[test]
fn qcow2_without_its_backing_file() {
    let place = Place::new();
    place.write("o.qcow2", &qcow2(0, "gone.img"));
    let output = place.run(&["serve", "--socket-path", "s", "o.qcow2"]);
    assert_eq!(output.status.code(), Some(RUNTIME));
    let message = stderr(&output);
    assert!(
        message.starts_with("lunar: o.qcow2: its backing file "),
        "{message}"
    );
    assert!(message.contains("gone.img: no such file"), "{message}");
    // The same header is good once the file is there.
    place.image("gone.img", 1 << 20);
    let server = place.serve(&["--socket-path", "s", "o.qcow2"], &["s"]);
    drop(server);
}

#[test]
fn image_that_is_served_already() {
    let place = Place::new();
    place.image("a.img", 4096);
    let _server = place.serve(&["--socket-path", "first", "a.img"], &["first"]);
    let output = place.run(&["serve", "--socket-path", "s", "a.img"]);
    let message = stderr(&output);
    assert!(
        message.starts_with("lunar: a.img: ") && message.contains("lock"),
        "{message}"
    );
    assert_eq!(output.status.code(), Some(RUNTIME));
}

#[test]
fn declarations_that_do_not_fit() {
    let place = Place::new();
    place.image("a.img", 4096);
    let drive = "--drive=file=a.img,format=raw,if=none,id=a";
    for (arguments, message) in [
        (
            &["-drive", "file=a.img,id=a", "-drive", "file=b.img,id=a"][..],
            "--drive file=b.img,id=a: the drive \"a\" exists already; choose another name",
        ),
        (
            &[drive, "-device", "scsi-hd,drive=a,scsi-id=256"],
            "--device scsi-hd,drive=a,scsi-id=256: scsi-id=256: must be a number from 0 to 255",
        ),
        (
            &[drive, "-device", "scsi-hd,drive=a,lun=16384"],
            "--device scsi-hd,drive=a,lun=16384: lun=16384: must be a number from 0 to 16383",
        ),
        (
            &["a.img", drive, "-device", "scsi-hd,drive=a,scsi-id=0,lun=0"],
            "--device scsi-hd,drive=a,scsi-id=0,lun=0: target 0 LUN 0 of bus scsi0.0 is taken by disk0; \
             choose another scsi-id or lun, or leave them out",
        ),
        (
            &[drive, "-device", "scsi-hd,drive=a,colour=red"],
            "--device scsi-hd,drive=a,colour=red: scsi-hd has no property \"colour\"",
        ),
        (
            &[drive, "-device", "scsi-floppy,drive=a"],
            "--device scsi-floppy,drive=a: no device is called \"scsi-floppy\"; --device help lists them",
        ),
        (
            &["--device", "scsi-hd,drive=dsk0"],
            "--device scsi-hd,drive=dsk0: no drive or node is called \"dsk0\" \
             (there are none; declare one with --drive or --blockdev)",
        ),
        (
            &[drive, "--device", "scsi-hd,drive=a,logical_block_size=1000"],
            "--device scsi-hd,drive=a,logical_block_size=1000: logical_block_size=1000 is not a block size that \
             guests can use; use 512 or 4096",
        ),
        (
            &["cd.iso"],
            "cd.iso: CD/DVD drives are not served yet; give format=raw and media=disk to serve the image as a disk",
        ),
        (
            &[
                "--device",
                "virtio-scsi-pci,id=a",
                "--device",
                "virtio-scsi-pci,id=b",
            ],
            "--socket-path is for one controller, but a and b have no socket of their own; \
             give socket=PATH in their --device",
        ),
        (
            &["--device", "virtio-scsi-pci,id=a,socket=t"],
            "--socket-path is not needed: every controller has its own socket=",
        ),
        (
            &[
                "--device",
                "virtio-scsi-pci,id=a",
                "--device",
                "virtio-scsi-pci,id=b,socket=./s",
            ],
            "controllers a and b have the same socket ./s; each needs its own",
        ),
    ] {
        refused(&place, arguments, USAGE, message);
    }
}

#[test]
fn no_socket_at_all() {
    let place = Place::new();
    place.image("a.img", 4096);
    let output = place.run(&["serve", "a.img"]);
    assert_eq!(output.status.code(), Some(USAGE));
    assert_eq!(
        stderr(&output),
        "lunar: controller scsi0 has no socket; give --socket-path PATH, or socket=PATH in its --device\n"
    );
}

#[test]
fn socket_that_cannot_be_made() {
    let place = Place::new();
    place.image("a.img", 4096);
    let _listening = UnixListener::bind(place.path("used")).unwrap();
    for (socket, message) in [
        (
            "none/s",
            "socket none/s: directory none does not exist; create it first (mkdir -p)",
        ),
        (
            "used",
            "socket used: in use by a running server; stop it, or choose another path",
        ),
        (
            "a.img",
            "socket a.img: the file exists and is not a socket; remove it, or choose another path",
        ),
    ] {
        let drive = "--blockdev=null-co,node-name=n";
        let output = place.run(&["serve", "--socket-path", socket, drive]);
        assert_eq!(stderr(&output), format!("lunar: {message}\n"));
        assert_eq!(output.status.code(), Some(RUNTIME));
    }
    assert_eq!(std::fs::metadata(place.path("a.img")).unwrap().len(), 4096);
}

#[test]
fn descriptor_that_is_not_open() {
    let place = Place::new();
    let output = place.run(&["serve", "--fd", "99"]);
    assert_eq!(
        stderr(&output),
        "lunar: --fd 99: Bad file descriptor (os error 9)\n"
    );
    assert_eq!(output.status.code(), Some(RUNTIME));
}

#[test]
fn unknown_option_is_a_usage_error() {
    let place = Place::new();
    let output = place.run(&["serve", "--socket-path", "s", "--colour"]);
    assert_eq!(output.status.code(), Some(USAGE));
    assert!(stderr(&output).contains("'--colour'"));
}

#[test]
fn paths_that_contradict_each_other_about_their_port_group_are_refused() {
    let place = Place::new();
    let disk = |bus: &str, path: &str| format!("scsi-hd,drive=d,bus={bus}.0,share-rw=on{path}");
    let (left, right) = (disk("a", ",access_state=standby"), disk("b", ""));
    let arguments = |right: &str| {
        [
            ["--device", "virtio-scsi-pci,id=a,socket=s"],
            ["--device", "virtio-scsi-pci,id=b,socket=t"],
            ["--blockdev", "memory,node-name=d,size=1M"],
            ["--device", &left],
            ["--device", right],
        ]
        .concat()
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
    };
    let output = place.run(
        &std::iter::once("serve")
            .chain(arguments(&right).iter().map(String::as_str))
            .collect::<Vec<_>>(),
    );
    assert_eq!(
        stderr(&output),
        format!(
            "lunar: --device {right}: --device {left} gives target port group 1 of this disk another access_state; a \
             group has one state, so give both the same, or put one into a port_group of its own\n"
        )
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(!place.path("s").exists() && !place.path("t").exists());
    // In a group of its own it may be as it likes.
    let apart = disk("b", ",port_group=2");
    let arguments = arguments(&apart);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    place.serve(&arguments, &["s", "t"]);
}

#[test]
fn workers_that_cannot_be_are_refused_with_the_value_and_what_would_be_right() {
    let place = Place::new();
    for (workers, message) in [
        ("0", "must be a number from 1 to 256, cpus=LIST, or both"),
        ("2,cpu=1", "such as 2,cpus=0-3"),
        (
            "2,cpus=0-",
            "\"0-\" is no list of CPUs; write their numbers",
        ),
        (
            "cpus=1023",
            "CPU 1023 is not available; this process may run on ",
        ),
        (
            "2,cpus=node999",
            "there is no NUMA node 999; this machine has ",
        ),
    ] {
        let output = place.run(&["serve", "--socket-path=s", "--workers", workers, "no.img"]);
        assert_eq!(output.status.code(), Some(USAGE));
        let said = stderr(&output);
        assert!(said.contains(&format!("'{workers}'")), "{said}");
        assert!(said.contains("'--workers <N[,cpus=LIST]>'"), "{said}");
        assert!(said.contains(message), "{said}");
    }
}
