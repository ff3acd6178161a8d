//! Opening images: what is refused, how it is explained, and who excludes whom.
#![cfg(test)]
#![allow(clippy::cast_possible_truncation, reason = "patterns are cut to bytes")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use lunar_block::{CacheMode, Driver, Error, Image, Locking, NodeOptions, Op, open_node, run};
use support::{
    Memory, Reactor, disk_dir, open_file, open_qcow2, qcow2_file, raw_file, read_only, refusal, sh,
    sh_fails, str,
};

const MIB: u64 = 1 << 20;

/// Asserts that `message` is one line that names `path`, the problem and the remedy.
fn explains(message: &str, path: &Path, problem: &str, remedy: &str) {
    assert!(!message.contains('\n'), "{message}");
    for part in [str(path), problem, remedy] {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let path = disk_dir().path().join("absent.raw");
    let options = NodeOptions::default();
    explains(
        &refusal(open_file(&path, &options)),
        &path,
        "no such file",
        "qemu-img create",
    );
    explains(
        &refusal(open_qcow2(&path, &options)),
        &path,
        "no such file",
        "qemu-img create",
    );
}

#[test]
fn what_is_not_a_file_is_refused_for_what_it_is() {
    let dir = disk_dir();
    let options = NodeOptions::default();
    explains(
        &refusal(open_file(dir.path(), &options)),
        dir.path(),
        "directory",
        "name of a file",
    );
    explains(
        &refusal(open_qcow2(dir.path(), &options)),
        dir.path(),
        "directory",
        "name of a file",
    );

    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    explains(
        &refusal(open_file(&socket, &options)),
        &socket,
        "socket",
        "give a file",
    );

    let null = Path::new("/dev/null");
    explains(
        &refusal(open_file(null, &options)),
        null,
        "character device",
        "give a file",
    );

    let file = raw_file(dir.path(), "disk.raw", MIB);
    let device = Driver::HostDevice {
        filename: file.clone(),
    };
    explains(
        &refusal(open_node(device, &options)),
        &file,
        "regular file",
        "driver=file",
    );
}

#[test]
fn missing_permissions_say_which_and_what_to_do() {
    use std::os::unix::fs::PermissionsExt;
    let set = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    set(dir.path(), 0o755);
    let unreadable = raw_file(dir.path(), "unreadable.raw", MIB);
    let unwritable = raw_file(dir.path(), "unwritable.raw", MIB);
    set(&unreadable, 0o000);
    set(&unwritable, 0o444);
    let test = || {
        let problem = "no permission to read and write";
        for path in [&unreadable, &unwritable] {
            explains(
                &refusal(open_file(path, &NodeOptions::default())),
                path,
                problem,
                "read-only=on",
            );
        }
        let message = refusal(open_file(&unreadable, &read_only()));
        explains(
            &message,
            &unreadable,
            "no permission to read it",
            "owner or mode",
        );
        open_file(&unwritable, &read_only()).unwrap();
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                // To root everything is permitted; this thread becomes nobody.
                let nobody = rustix::process::Uid::from_raw(65534);
                rustix::thread::set_thread_uid(nobody).unwrap();
            }
            test();
        });
    });
}

#[test]
fn direct_on_a_file_system_without_it_is_explained() {
    let path = Path::new("/proc/version");
    let options = NodeOptions {
        direct: true,
        ..read_only()
    };
    explains(
        &refusal(open_file(path, &options)),
        path,
        "O_DIRECT",
        "cache.direct=off",
    );
}

#[test]
fn a_damaged_qcow2_is_refused_and_not_touched() {
    let dir = disk_dir();
    let path = qcow2_file(dir.path(), "disk.qcow2", 64 * MIB, &[]);
    let sound = std::fs::read(&path).unwrap();
    type Damage = fn(&std::fs::File);
    let cases: [(Damage, &str, &str); 6] = [
        (|f| f.set_len(1000).unwrap(), "truncated", "backup"),
        (
            |f| f.set_len(0x30000).unwrap(),
            "truncated",
            "qemu-img check",
        ),
        (
            |f| f.write_all_at(&1u32.to_be_bytes(), 32).unwrap(),
            "encrypted",
            "qemu-img convert",
        ),
        (
            |f| f.write_all_at(&[0, 0, 1, 0, 0, 0, 0, 0], 72).unwrap(),
            "not known here",
            "convert",
        ),
        (
            |f| f.write_all_at(&[2], 79).unwrap(),
            "corrupt",
            "qemu-img check -r all",
        ),
        (
            |f| f.write_all_at(&[1], 79).unwrap(),
            "dirty",
            "qemu-img check -r all",
        ),
    ];
    for (damage, problem, remedy) in cases {
        std::fs::write(&path, &sound).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        damage(&file);
        // An auto-clear bit that nobody knows: opening for writing would clear it.
        if file.metadata().unwrap().len() > 96 {
            file.write_all_at(&[0x80], 95).unwrap();
        }
        let before = std::fs::read(&path).unwrap();
        for options in [NodeOptions::default(), read_only()] {
            explains(
                &refusal(open_qcow2(&path, &options)),
                &path,
                problem,
                remedy,
            );
        }
        assert!(
            std::fs::read(&path).unwrap() == before,
            "{problem}: the file was changed"
        );
    }
}

#[test]
fn qcow2_images_made_with_unsupported_features_are_refused() {
    let dir = disk_dir();
    let data_file = format!("data_file={}", str(&dir.path().join("data.raw")));
    for (option, problem) in [
        ("extended_l2=on,cluster_size=64k", "extended L2"),
        (data_file.as_str(), "external data file"),
        (
            "encrypt.format=luks,encrypt.key-secret=s",
            "encrypted (crypt_method 2)",
        ),
    ] {
        let secret = "secret,id=s,data=x";
        let path = dir.path().join("disk.qcow2");
        sh(
            "qemu-img",
            &[
                "create",
                "-q",
                "--object",
                secret,
                "-f",
                "qcow2",
                "-o",
                option,
                str(&path),
                "1M",
            ],
        );
        let before = std::fs::read(&path).unwrap();
        explains(
            &refusal(open_qcow2(&path, &NodeOptions::default())),
            &path,
            problem,
            "qemu-img",
        );
        assert!(std::fs::read(&path).unwrap() == before);
    }
}

#[test]
fn a_raw_file_opened_as_qcow2_points_to_format_raw() {
    let dir = disk_dir();
    let path = raw_file(dir.path(), "disk.raw", MIB);
    let message = refusal(open_qcow2(&path, &NodeOptions::default()));
    explains(&message, &path, "not a qcow2 image", "format=raw");
}

#[test]
fn a_missing_backing_file_is_named_along_with_its_user() {
    let dir = disk_dir();
    let base = raw_file(dir.path(), "base.raw", MIB);
    let path = qcow2_file(
        dir.path(),
        "disk.qcow2",
        MIB,
        &["-b", "base.raw", "-F", "raw"],
    );
    std::fs::remove_file(&base).unwrap();
    let message = refusal(open_qcow2(&path, &NodeOptions::default()));
    explains(&message, &path, "backing file base.raw", "no such file");
    explains(&message, &base, "", "");
}

#[test]
fn a_backing_chain_that_bites_its_tail_is_refused() {
    let dir = disk_dir();
    let path = qcow2_file(dir.path(), "disk.qcow2", MIB, &[]);
    sh(
        "qemu-img",
        &[
            "rebase",
            "-u",
            "-F",
            "qcow2",
            "-b",
            "disk.qcow2",
            str(&path),
        ],
    );
    let message = refusal(open_qcow2(&path, &read_only()));
    assert!(
        message.contains("the chain has more than 64 images"),
        "{message}"
    );
}

#[test]
fn a_backing_file_of_a_protocol_is_refused() {
    let dir = disk_dir();
    let path = qcow2_file(dir.path(), "disk.qcow2", MIB, &[]);
    sh(
        "qemu-img",
        &[
            "rebase",
            "-u",
            "-F",
            "raw",
            "-b",
            "nbd://host/x",
            str(&path),
        ],
    );
    let message = refusal(open_qcow2(&path, &NodeOptions::default()));
    explains(&message, &path, "nbd://host/x", "copy it to a file");
}

#[test]
fn a_raw_part_must_lie_inside_its_file() {
    let dir = disk_dir();
    let path = raw_file(dir.path(), "disk.raw", MIB);
    let open = |offset, size| {
        let file = open_file(&path, &read_only()).unwrap();
        open_node(Driver::Raw { file, offset, size }, &read_only())
    };
    explains(
        &refusal(open(2 * MIB, None)),
        &path,
        "past its end",
        "smaller",
    );
    explains(
        &refusal(open(512, Some(MIB))),
        &path,
        "more than it holds",
        "smaller",
    );
    explains(
        &refusal(open(1, None)),
        &path,
        "offset=",
        "multiples of 512",
    );
    assert_eq!(open(512, None).unwrap().info().size, MIB - 512);
}

#[test]
fn a_raw_node_on_a_read_only_file_must_be_read_only_too() {
    let dir = disk_dir();
    let path = raw_file(dir.path(), "disk.raw", MIB);
    let raw = Driver::Raw {
        file: open_file(&path, &read_only()).unwrap(),
        offset: 0,
        size: None,
    };
    explains(
        &refusal(open_node(raw, &NodeOptions::default())),
        &path,
        "read-only",
        "read-only=on",
    );
}

/// One operation on an image, on a reactor of its own.
fn once(
    image: &Arc<dyn Image>,
    op: impl FnOnce(&Memory) -> Op + Send + 'static,
) -> (Result<(), Error>, Vec<u8>) {
    let image = Arc::clone(image);
    Reactor::new().run(move |reactor| async move {
        let io = image.open(&reactor).unwrap();
        let memory = Memory::with(&[512], 0, &[0x5A; 512]);
        let done = run(&reactor, &io, op(&memory)).await;
        (done, memory.content())
    })
}

#[test]
fn a_read_only_image_reads_and_refuses_everything_that_modifies() {
    let dir = disk_dir();
    let raw = raw_file(dir.path(), "disk.raw", MIB);
    let qcow2 = qcow2_file(dir.path(), "disk.qcow2", MIB, &[]);
    let before = (std::fs::read(&raw).unwrap(), std::fs::read(&qcow2).unwrap());
    for image in [
        open_file(&raw, &read_only()).unwrap(),
        open_qcow2(&qcow2, &read_only()).unwrap(),
        open_node(Driver::Memory { size: MIB }, &read_only()).unwrap(),
    ] {
        assert!(image.info().read_only);
        assert_eq!(
            once(&image, |m| Op::read(0, m.sgl())),
            (Ok(()), vec![0; 512])
        );
        assert_eq!(once(&image, |_| Op::flush()).0, Ok(()));
        for modify in [
            |m: &Memory| Op::write(0, m.sgl(), false),
            |_: &Memory| Op::discard(0, 512),
            |_: &Memory| Op::write_zeroes(0, 512, true, true),
        ] {
            assert_eq!(once(&image, modify).0, Err(Error::ReadOnly));
        }
        assert_eq!(image.stats().errors, 3);
        image.close().unwrap();
    }
    assert!(before == (std::fs::read(&raw).unwrap(), std::fs::read(&qcow2).unwrap()));
}

#[test]
fn a_file_of_odd_length_is_rounded_up_and_reads_zeroes_behind_its_end() {
    let dir = disk_dir();
    let path = dir.path().join("odd.raw");
    for direct in [false, true] {
        std::fs::write(&path, [7u8; 700]).unwrap();
        let options = NodeOptions {
            direct,
            ..NodeOptions::default()
        };
        let image = open_file(&path, &options).unwrap();
        assert_eq!(image.info().size, 1024);
        let (done, got) = once(&image, |m| Op::read(512, m.sgl()));
        assert_eq!(
            (done, &got[..188], &got[188..]),
            (Ok(()), &[7u8; 188][..], &[0u8; 324][..])
        );
        assert_eq!(once(&image, |m| Op::write(512, m.sgl(), true)).0, Ok(()));
        image.close().unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[512..], [0x5A; 512]);
    }
}

#[test]
fn null_keeps_nothing_and_takes_its_time() {
    let null = |read_zeroes, latency_ns| {
        let driver = Driver::Null {
            size: MIB,
            read_zeroes,
            latency_ns,
        };
        open_node(driver, &NodeOptions::default()).unwrap()
    };
    assert_eq!(
        once(&null(true, 0), |m| Op::read(0, m.sgl())),
        (Ok(()), vec![0; 512])
    );
    assert_eq!(
        once(&null(false, 0), |m| Op::read(0, m.sgl())),
        (Ok(()), vec![0x5A; 512])
    );
    let start = std::time::Instant::now();
    assert_eq!(
        once(&null(true, 20_000_000), |m| Op::write(0, m.sgl(), true)).0,
        Ok(())
    );
    assert!(start.elapsed() >= std::time::Duration::from_millis(20));
}

#[test]
fn an_operation_past_the_end_of_memory_is_an_error() {
    let image = open_node(Driver::Memory { size: MIB }, &NodeOptions::default()).unwrap();
    for offset in [MIB, MIB - 511, u64::MAX, u64::MAX - 511] {
        let op = move |m: &Memory| Op::read(offset, m.sgl());
        assert_eq!(once(&image, op), (Err(Error::OutOfRange), vec![0x5A; 512]));
        let op = move |_: &Memory| Op::write_zeroes(offset, 512, true, false);
        assert_eq!(once(&image, op).0, Err(Error::OutOfRange));
    }
}

#[test]
fn cache_modes_mean_what_they_mean_to_qemu() {
    let modes = CacheMode::NAMES.map(|name| {
        let mode = CacheMode::parse(name).unwrap();
        (name, mode.direct, mode.no_flush, mode.write_cache)
    });
    assert_eq!(
        modes,
        [
            ("none", true, false, true),
            ("writethrough", false, false, false),
            ("writeback", false, false, true),
            ("directsync", true, false, false),
            ("unsafe", false, true, true),
        ]
    );
    assert_eq!(CacheMode::parse("fast"), None);
}

#[test]
fn two_writers_in_one_process_exclude_each_other() {
    let dir = disk_dir();
    let raw = raw_file(dir.path(), "disk.raw", MIB);
    let qcow2 = qcow2_file(dir.path(), "disk.qcow2", MIB, &[]);
    let options = NodeOptions::default();
    let first = (
        open_file(&raw, &options).unwrap(),
        open_qcow2(&qcow2, &options).unwrap(),
    );
    for options in [&options, &read_only()] {
        let problem = "another process is using the image";
        explains(
            &refusal(open_file(&raw, options)),
            &raw,
            problem,
            "force-share=on",
        );
        explains(
            &refusal(open_qcow2(&qcow2, options)),
            &qcow2,
            problem,
            "force-share=on",
        );
    }
    let force = NodeOptions {
        force_share: true,
        ..read_only()
    };
    open_file(&raw, &force).unwrap();
    first.0.close().unwrap();
    first.1.close().unwrap();
    open_file(&raw, &options).unwrap();
    open_qcow2(&qcow2, &options).unwrap();
}

#[test]
fn sharing_and_switched_off_locks_let_a_second_writer_in() {
    let dir = disk_dir();
    let path = raw_file(dir.path(), "disk.raw", MIB);
    let share = NodeOptions {
        share_rw: true,
        ..NodeOptions::default()
    };
    let both = (
        open_file(&path, &share).unwrap(),
        open_file(&path, &share).unwrap(),
    );
    refusal(open_file(&path, &NodeOptions::default()));
    let unlocked = NodeOptions {
        locking: Locking::Off,
        ..NodeOptions::default()
    };
    open_file(&path, &unlocked).unwrap();
    drop(both);
}

#[test]
fn readers_share_an_image_and_its_backing_file() {
    let dir = disk_dir();
    raw_file(dir.path(), "base.raw", MIB);
    let overlay = |name| qcow2_file(dir.path(), name, MIB, &["-b", "base.raw", "-F", "raw"]);
    let (one, two) = (overlay("one.qcow2"), overlay("two.qcow2"));
    let options = NodeOptions::default();
    let images = [
        open_qcow2(&one, &options).unwrap(),
        open_qcow2(&two, &options).unwrap(),
        open_file(&dir.path().join("base.raw"), &read_only()).unwrap(),
    ];
    let base = dir.path().join("base.raw");
    explains(
        &refusal(open_file(&base, &options)),
        &base,
        "another process",
        "force-share=on",
    );
    drop(images);
}

#[test]
fn qemu_img_respects_our_locks() {
    let dir = disk_dir();
    let raw = raw_file(dir.path(), "disk.raw", MIB);
    let qcow2 = qcow2_file(dir.path(), "disk.qcow2", MIB, &[]);
    let options = NodeOptions::default();
    let images = [
        open_file(&raw, &options).unwrap(),
        open_qcow2(&qcow2, &options).unwrap(),
    ];
    // On raw images the tool itself allows others to write while it reads, so there it is asked to write.
    for said in [
        sh_fails("qemu-img", &["info", str(&qcow2)]),
        sh_fails("qemu-img", &["check", str(&qcow2)]),
        sh_fails("qemu-img", &["resize", "-f", "qcow2", str(&qcow2), "2M"]),
        sh_fails("qemu-io", &["-f", "raw", "-c", "write 0 512", str(&raw)]),
    ] {
        assert!(said.contains("lock"), "{said}");
    }
    sh("qemu-img", &["info", "-U", str(&qcow2)]);
    for image in &images {
        image.close().unwrap();
    }
    for path in [str(&raw), str(&qcow2)] {
        sh("qemu-img", &["info", path]);
    }

    let reader = open_file(&raw, &read_only()).unwrap();
    sh("qemu-img", &["info", str(&raw)]);
    sh_fails("qemu-io", &["-f", "raw", "-c", "write 0 512", str(&raw)]);
    drop(reader);
    sh("qemu-io", &["-f", "raw", "-c", "write 0 512", str(&raw)]);
}

/// `qemu-io` with the image open; ends when its input does.
struct QemuIo(Child);

impl QemuIo {
    fn open(format: &str, path: &Path, more: &[&str]) -> QemuIo {
        let mut child = Command::new("qemu-io")
            .args(["-f", format])
            .args(more)
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It prints a prompt without a line end; a command's output tells that the image is open.
        child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(b"length\n")
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.contains("MiB"), "{line}");
        QemuIo(child)
    }
}

impl Drop for QemuIo {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

#[test]
fn we_respect_qemus_locks() {
    let dir = disk_dir();
    let raw = raw_file(dir.path(), "disk.raw", MIB);
    let qcow2 = qcow2_file(dir.path(), "disk.qcow2", MIB, &[]);
    let options = NodeOptions::default();

    let writers = (
        QemuIo::open("raw", &raw, &[]),
        QemuIo::open("qcow2", &qcow2, &[]),
    );
    for options in [&options, &read_only()] {
        let problem = "another process is using the image";
        explains(
            &refusal(open_file(&raw, options)),
            &raw,
            problem,
            "force-share=on",
        );
        explains(
            &refusal(open_qcow2(&qcow2, options)),
            &qcow2,
            problem,
            "force-share=on",
        );
    }
    drop(writers);

    // A reader of a raw image lets others write to it; one of a qcow2 image does not.
    let reader = QemuIo::open("qcow2", &qcow2, &["-r"]);
    let message = refusal(open_qcow2(&qcow2, &options));
    explains(&message, &qcow2, "another process", "force-share=on");
    open_qcow2(&qcow2, &read_only()).unwrap();
    drop(reader);
    open_file(&raw, &options).unwrap();
    open_qcow2(&qcow2, &options).unwrap();
}
