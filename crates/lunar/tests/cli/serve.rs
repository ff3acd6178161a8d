//! `lunar serve` at work, with a front end of our own.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use lunar_host::cpus::Cpus;
use lunar_initiator::{Address, Command, Data, Initiator, Options};
use lunar_scsi::Lun;
use rustix::process::Signal;

use crate::program::{Place, Server};

const BLOCK: usize = 512;

pub fn connect(place: &Place, socket: &str) -> Initiator {
    Initiator::connect(place.path(socket), Options::default()).unwrap()
}

pub fn address(target: u8, lun: u16) -> Address {
    Address::new(target, Lun::new(lun).unwrap())
}

/// One block to LBA 3 with WRITE(10).
pub fn write(initiator: &mut Initiator, address: Address, byte: u8) {
    let data = [byte; BLOCK];
    let command = Command::new(
        address,
        &[0x2A, 0, 0, 0, 0, 3, 0, 0, 1, 0],
        Data::Out(&data),
    );
    let response = initiator.command_after_attentions(&command).unwrap();
    assert!(response.is_good(), "{response:?}");
}

/// One block from LBA 3 with READ(10).
fn read(initiator: &mut Initiator, address: Address) -> Vec<u8> {
    let command = Command::new(address, &[0x28, 0, 0, 0, 0, 3, 0, 0, 1, 0], Data::In(BLOCK));
    let response = initiator.command_after_attentions(&command).unwrap();
    assert!(response.is_good(), "{response:?}");
    response.data
}

#[test]
fn what_a_guest_writes_is_in_the_image_after_sigterm() {
    let place = Place::new();
    place.image("a.img", 1 << 20);
    let server = place.serve(&["--socket-path", "s", "a.img"], &["s"]);
    let mut guest = connect(&place, "s");
    write(&mut guest, address(0, 0), 0xA5);
    assert_eq!(read(&mut guest, address(0, 0)), [0xA5; BLOCK]);
    let ended = server.stop(Signal::TERM);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stderr, "");
    assert!(!place.path("s").exists());
    let image = std::fs::read(place.path("a.img")).unwrap();
    assert_eq!(image[3 * BLOCK..4 * BLOCK], [0xA5; BLOCK]);
    assert!(image[4 * BLOCK..].iter().all(|byte| *byte == 0));
}

/// `timeout`, for one, signals the process and then its whole group.
#[test]
fn signals_in_quick_succession_end_it_as_properly_as_one() {
    let place = Place::new();
    place.image("a.img", 1 << 20);
    let server = place.serve(&["--socket-path", "s", "a.img"], &["s"]);
    let mut guest = connect(&place, "s");
    write(&mut guest, address(0, 0), 0x5A);
    for signal in [Signal::TERM, Signal::HUP, Signal::TERM] {
        server.signal(signal);
    }
    let ended = server.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!place.path("s").exists());
    let image = std::fs::read(place.path("a.img")).unwrap();
    assert_eq!(image[3 * BLOCK..4 * BLOCK], [0x5A; BLOCK]);
}

#[test]
fn qemu_options_are_served_as_they_were_typed() {
    let place = Place::new();
    place.image("a,b.img", 1 << 20);
    let server = place.serve(
        &[
            "--socket-path",
            "s",
            "--queues",
            "3",
            "-device",
            "virtio-scsi-pci,id=scsi0,bus=pcie.0,addr=0x5",
            "-drive",
            "file=a,,b.img,format=raw,if=none,id=d0,cache=none,aio=native,discard=unmap",
            "-device",
            "scsi-hd,bus=scsi0.0,channel=0,scsi-id=7,lun=0,drive=d0,id=disk,bootindex=1",
            "-blockdev",
            r#"{"driver":"memory","node-name":"ram","size":1048576}"#,
            "-device",
            r#"{"driver":"scsi-hd","drive":"ram","scsi-id":7,"lun":16383,"serial":"RAM"}"#,
        ],
        &["s"],
    );
    let mut guest = connect(&place, "s");
    write(&mut guest, address(7, 0), 1);
    write(&mut guest, address(7, 16383), 2);
    assert_eq!(read(&mut guest, address(7, 0)), [1; BLOCK]);
    assert_eq!(read(&mut guest, address(7, 16383)), [2; BLOCK]);

    let ended = server.stop(Signal::INT);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let socket = place.path("s");
    let expected = format!(
        "\
Lunar {} serves 2 disks on 1 controller.

scsi0.0: socket s, 3 request queues
  target   7 LUN 0     disk       1 MiB  rw  a,b.img
  target   7 LUN 16383 ram        1 MiB  rw  RAM (memory)

Add to QEMU (with your own memory size, twice the same):
  -m 4G -object memory-backend-memfd,id=mem,size=4G,share=on -machine q35,memory-backend=mem \\
  -chardev socket,id=char-scsi0,path={} \\
  -device vhost-user-scsi-pci,id=scsi0,chardev=char-scsi0,num_queues=3,bus=pcie.0,addr=0x5,bootindex=1,boot_tpgt=7
",
        env!("CARGO_PKG_VERSION"),
        socket.display(),
    );
    assert_eq!(ended.stdout, expected);
}

#[test]
fn controllers_have_sockets_and_disks_of_their_own() {
    let place = Place::new();
    let server = place.serve(
        &[
            "--device",
            "virtio-scsi-pci,id=vm1,socket=s1,num_queues=1,packed=on",
            "--device",
            "virtio-scsi-pci,id=vm2,socket=s2,num_queues=2,max_sectors=256,param_change=off",
            "--blockdev",
            "memory,node-name=m1,size=1M",
            "--blockdev",
            "memory,node-name=m2,size=1M",
            "--device",
            "scsi-hd,drive=m1,bus=vm1.0",
            "--device",
            "scsi-hd,drive=m2,bus=vm2.0",
        ],
        &["s1", "s2"],
    );
    let (mut one, mut two) = (connect(&place, "s1"), connect(&place, "s2"));
    write(&mut one, address(0, 0), 1);
    write(&mut two, address(0, 0), 2);
    assert_eq!(read(&mut one, address(0, 0)), [1; BLOCK]);
    assert_eq!(read(&mut two, address(0, 0)), [2; BLOCK]);
    let ended = server.stop(Signal::TERM);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let devices: Vec<_> = ended
        .stdout
        .lines()
        .filter(|line| line.contains("-device"))
        .collect();
    assert_eq!(
        devices,
        [
            "  -device vhost-user-scsi-pci,id=vm1,chardev=char-vm1,num_queues=1,packed=on \\",
            "  -device vhost-user-scsi-pci,id=vm2,chardev=char-vm2,num_queues=2,max_sectors=256,param_change=off",
        ]
    );
    assert!(!place.path("s1").exists() && !place.path("s2").exists());
}

#[test]
fn a_given_connection_is_served_and_its_end_ends_the_server() {
    let place = Place::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).unwrap();
    let fd = theirs.as_raw_fd().to_string();
    let server = place.serve(
        &[
            "--fd",
            &fd,
            "--blockdev",
            "memory,node-name=m,size=1M",
            "--device",
            "scsi-hd,drive=m",
        ],
        &[],
    );
    drop(theirs);
    let mut guest = Initiator::attach(ours, Options::default()).unwrap();
    write(&mut guest, address(0, 0), 7);
    assert_eq!(read(&mut guest, address(0, 0)), [7; BLOCK]);
    drop(guest);
    let ended = server.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn drives_that_nobody_uses_and_images_that_look_wrong_are_pointed_out() {
    let place = Place::new();
    place.write("q.img", &[b"QFI\xfb".as_slice(), &[0; 1020]].concat());
    place.image("spare.img", 4096);
    let server = place.serve(
        &[
            "--socket-path",
            "s",
            "q.img",
            "--drive",
            "file=spare.img,format=raw,if=none,id=spare",
        ],
        &["s"],
    );
    let ended = server.stop(Signal::TERM);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(
        ended.stderr,
        "lunar: warning: q.img: this looks like a qcow2 image and is served as raw; give format=qcow2, or format=raw if it is meant\n\
         lunar: warning: --drive file=spare.img,format=raw,if=none,id=spare: no device uses this drive\n"
    );
}

#[test]
fn boot_order_that_firmware_cannot_follow_is_pointed_out() {
    let place = Place::new();
    let server = place.serve(
        &[
            "--socket-path",
            "s",
            "--blockdev",
            "null-co,node-name=a",
            "--device",
            "scsi-hd,drive=a,scsi-id=3,bootindex=2",
            "--blockdev",
            "null-co,node-name=b",
            "--device",
            "scsi-hd,drive=b,scsi-id=2,bootindex=1,lun=0",
            "--blockdev",
            "null-co,node-name=c",
            "--device",
            "scsi-hd,drive=c,scsi-id=2,bootindex=0,lun=1",
        ],
        &["s"],
    );
    let ended = server.stop(Signal::TERM);
    assert!(
        ended.stdout.ends_with(",bootindex=1,boot_tpgt=2\n"),
        "{}",
        ended.stdout
    );
    let about: Vec<_> = ended.stderr.lines().map(|line| &line[..40]).collect();
    assert_eq!(
        about,
        [
            "lunar: warning: c: bootindex=0 has no ef",
            "lunar: warning: a: bootindex=2 has no ef",
        ]
    );
}

#[test]
fn an_idle_server_uses_no_cpu() {
    let place = Place::new();
    let server = place.serve(
        &[
            "--socket-path",
            "s",
            "--blockdev",
            "memory,node-name=m,size=1M",
            "--device",
            "scsi-hd,drive=m",
        ],
        &["s"],
    );
    let mut guest = connect(&place, "s");
    write(&mut guest, address(0, 0), 1);
    std::thread::sleep(Duration::from_millis(100));
    let before = server.cpu_ticks();
    std::thread::sleep(Duration::from_millis(1500));
    // One tick is 10 ms; spinning would be 150 of them.
    assert!(server.cpu_ticks() - before <= 1);
    assert_eq!(read(&mut guest, address(0, 0)), [1; BLOCK]);
}

/// What the system says of each thread: its name, and the processors that it may use.
fn affinities(server: &Server) -> Vec<(String, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.process())).unwrap();
    let mut threads: Vec<_> = tasks
        .map(|task| {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let field = |name: &str| {
                let found = status.lines().find_map(|line| line.strip_prefix(name));
                found.unwrap().trim().to_owned()
            };
            (field("Name:"), field("Cpus_allowed_list:"))
        })
        .filter(|(name, _)| name.starts_with("lunar-worker"))
        .collect();
    threads.sort();
    threads
}

/// The processors that this process may use, as the system writes them, and their numbers.
fn own_processors() -> (String, Vec<usize>) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap()
        .trim();
    let cpus: Cpus = list.parse().unwrap();
    (list.to_owned(), cpus.numbers())
}

#[test]
fn workers_stay_on_the_cpus_that_are_named() {
    let place = Place::new();
    let (all, numbers) = own_processors();
    let one = numbers[0].to_string();
    let serve = |workers: &str| {
        let disk = ["--blockdev=null-co,node-name=n", "--device=scsi-hd,drive=n"];
        let server = place.serve(
            &[&["--socket-path=s", "--workers", workers][..], &disk].concat(),
            &["s"],
        );
        let found = affinities(&server);
        assert_eq!(server.stop(Signal::TERM).code, Some(0));
        found
    };
    let named = |cpus: &[String]| -> Vec<(String, String)> {
        let numbered = cpus.iter().enumerate();
        numbered
            .map(|(number, cpus)| (format!("lunar-worker{number}"), cpus.clone()))
            .collect()
    };
    // One on each, if that many are named.
    let each: Vec<_> = numbers.iter().map(ToString::to_string).collect();
    assert_eq!(serve(&format!("cpus={all}")), named(&each));
    assert_eq!(serve(&format!("{},cpus={all}", each.len())), named(&each));
    // Otherwise on any of them.
    let more = each.len() + 1;
    assert_eq!(
        serve(&format!("{more},cpus={all}")),
        named(&vec![all.clone(); more])
    );
    assert_eq!(
        serve(&format!("3,cpus={one}")),
        named(&[one.clone(), one.clone(), one.clone()])
    );
    assert_eq!(serve("2"), named(&[all.clone(), all]));
}

#[test]
fn a_numa_node_stands_for_its_cpus() {
    let place = Place::new();
    let (all, numbers) = own_processors();
    let node = std::fs::read_to_string("/sys/devices/system/node/node0/cpulist").unwrap();
    let node: Cpus = node.trim().parse().unwrap();
    let mut usable = node.numbers();
    usable.retain(|cpu| numbers.contains(cpu));
    let server = place.serve(
        &[
            "--socket-path=s",
            "--workers=1,cpus=node0",
            "--monitor=unix:m",
            "--blockdev=null-co,node-name=n",
            "--device=scsi-hd,drive=n",
        ],
        &["s", "m"],
    );
    let [(_, cpus)] = &affinities(&server)[..] else {
        panic!("one worker was asked for");
    };
    assert_eq!(cpus.parse::<Cpus>().unwrap().numbers(), usable, "of {all}");
    // What makes the same server elsewhere is the node, not what it happened to consist of.
    let dump = place.run(&["config", "dump", "m"]);
    let dump = crate::program::stdout(&dump);
    assert!(dump.contains("workers = \"1,cpus=node0\"\n"), "{dump}");
}
