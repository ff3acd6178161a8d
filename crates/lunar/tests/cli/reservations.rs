//! Two guests share a disk over two controllers, and keep each other from it with persistent reservations.

use std::time::Duration;

use lunar_initiator::{Address, Command, Data, Initiator, Options, Response, TaskAttribute};
use lunar_initiator::{Tag, response};
use lunar_scsi::Lun;
use rustix::process::Signal;

use crate::program::{Place, Server, stderr};

const BLOCK: usize = 512;
/// How long an operation of the slow drive takes at least.
const SLOW: Duration = Duration::from_millis(600);

/// Service actions of PERSISTENT RESERVE OUT.
const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const REGISTER_AND_IGNORE: u8 = 6;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Good,
    Conflict,
    /// UNIT ATTENTION with these.
    Attention(u8, u8),
    /// Not by the logical unit.
    Aborted,
}
use Ended::{Aborted, Attention, Conflict, Good};

const RESERVATIONS_PREEMPTED: Ended = Attention(0x2A, 0x03);
const RESERVATIONS_RELEASED: Ended = Attention(0x2A, 0x04);
const REGISTRATIONS_PREEMPTED: Ended = Attention(0x2A, 0x05);
const COMMANDS_CLEARED: Ended = Attention(0x2F, 0x00);

impl Ended {
    fn of(answer: &Response) -> Ended {
        match (answer.response, answer.status, answer.sense_key()) {
            (response::ABORTED, ..) => Aborted,
            (response::OK, 0x00, _) => Good,
            (response::OK, 0x18, _) => Conflict,
            (response::OK, 0x02, Some((6, asc, ascq))) => Attention(asc, ascq),
            _ => panic!("{answer:?}"),
        }
    }
}

fn disk() -> Address {
    Address::new(0, Lun::new(0).unwrap())
}

/// PERSISTENT RESERVE OUT: CDB and parameter list.
fn reserve_out(action: u8, kind: u8, keys: (u64, u64), persist: bool) -> ([u8; 10], [u8; 24]) {
    let mut list = [0; 24];
    list[..8].copy_from_slice(&keys.0.to_be_bytes());
    list[8..16].copy_from_slice(&keys.1.to_be_bytes());
    list[20] = u8::from(persist);
    ([0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0], list)
}

/// One of the guests.
struct Guest(Initiator);

impl Guest {
    /// It has heard that it is new.
    fn connect(place: &Place, socket: &str) -> Guest {
        let mut guest = Guest(Initiator::connect(place.path(socket), Options::default()).unwrap());
        while guest.ready() != Good {}
        guest
    }

    fn run(&mut self, cdb: &[u8], data: Data<'_>) -> Ended {
        Ended::of(&self.0.command(&Command::new(disk(), cdb, data)).unwrap())
    }

    fn ready(&mut self) -> Ended {
        self.run(&[0; 6], Data::None)
    }

    /// Everything that it has to hear.
    fn hears(&mut self) -> Vec<Ended> {
        std::iter::from_fn(|| Some(self.ready()).filter(|&ended| ended != Good)).collect()
    }

    fn out(&mut self, action: u8, kind: u8, keys: (u64, u64)) -> Ended {
        let (cdb, list) = reserve_out(action, kind, keys, false);
        self.run(&cdb, Data::Out(&list))
    }

    fn out_persistent(&mut self, action: u8, kind: u8, keys: (u64, u64)) -> Ended {
        let (cdb, list) = reserve_out(action, kind, keys, true);
        self.run(&cdb, Data::Out(&list))
    }

    /// PERSISTENT RESERVE IN: its data behind the generation.
    fn reserve_in(&mut self, action: u8) -> Vec<u8> {
        let cdb = [0x5E, action, 0, 0, 0, 0, 0, 1, 0, 0];
        let command = Command::new(disk(), &cdb, Data::In(256));
        let answer = self.0.command(&command).unwrap();
        assert_eq!(Ended::of(&answer), Good);
        answer.data[4..].to_vec()
    }

    fn write(&mut self) -> Ended {
        self.run(&WRITE, Data::Out(&[7; BLOCK]))
    }

    fn read(&mut self) -> Ended {
        self.run(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], Data::In(BLOCK))
    }

    fn submit(&mut self, cdb: &[u8], data: Data<'_>, attribute: TaskAttribute) -> Tag {
        let command = Command {
            attribute,
            ..Command::new(disk(), cdb, data)
        };
        let queue = self.0.queue(0).unwrap();
        let tag = queue.submit(&command).unwrap();
        queue.send().unwrap();
        tag
    }

    fn submit_out(&mut self, action: u8, kind: u8, keys: (u64, u64)) -> Tag {
        let (cdb, list) = reserve_out(action, kind, keys, false);
        self.submit(&cdb, Data::Out(&list), TaskAttribute::Simple)
    }

    fn submit_writes(&mut self, count: usize) {
        for _ in 0..count {
            self.submit(&WRITE, Data::Out(&[7; BLOCK]), TaskAttribute::Simple);
        }
    }

    /// What was submitted before is in flight: the server takes commands in order, and answers INQUIRY at once.
    fn is_under_way(&mut self) {
        let cdb = [0x12, 0, 0, 0, 36, 0];
        let tag = self.submit(&cdb, Data::In(36), TaskAttribute::Simple);
        let first = self.0.queue(0).unwrap().wait().unwrap();
        assert_eq!(first.tag, tag, "nothing else is over yet");
    }

    fn in_flight(&mut self) -> usize {
        self.0.queue(0).unwrap().in_flight()
    }

    /// The next command that ends.
    fn wait(&mut self) -> (Tag, Ended) {
        let over = self.0.queue(0).unwrap().wait().unwrap();
        (over.tag, Ended::of(&over.response))
    }

    /// How one of the commands in flight ends, whatever ends before it.
    fn end_of(&mut self, wanted: Tag) -> Ended {
        loop {
            let (tag, ended) = self.wait();
            if tag == wanted {
                return ended;
            }
        }
    }

    /// The commands that are over already.
    fn over(&mut self) -> Vec<Ended> {
        let queue = self.0.queue(0).unwrap();
        let reap = || queue.reap().unwrap().map(|over| Ended::of(&over.response));
        std::iter::from_fn(reap).collect()
    }
}

const WRITE: [u8; 10] = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// A server that shows the node `d` on two controllers.
fn serve(place: &Place, node: &str) -> Server {
    for socket in ["sa", "sb"] {
        let _ = std::fs::remove_file(place.path(socket));
    }
    place.serve(
        &[
            "--device",
            "virtio-scsi-pci,id=a,socket=sa",
            "--device",
            "virtio-scsi-pci,id=b,socket=sb",
            "--blockdev",
            node,
            "--device",
            "scsi-hd,drive=d,bus=a.0,share-rw=on",
            "--device",
            "scsi-hd,drive=d,bus=b.0,share-rw=on",
        ],
        &["sa", "sb"],
    )
}

fn guests(place: &Place) -> (Guest, Guest) {
    (Guest::connect(place, "sa"), Guest::connect(place, "sb"))
}

#[test]
fn a_reservation_keeps_out_whom_its_type_says_until_it_is_released() {
    let place = Place::new();
    let _server = serve(&place, "memory,node-name=d,size=1M");
    let (mut a, mut b) = guests(&place);
    for kind in [1, 3, 5, 6, 7, 8] {
        let exclusive_access = matches!(kind, 3 | 6 | 8);
        let registrants = kind >= 5;
        let read = if exclusive_access { Conflict } else { Good };
        assert_eq!(a.out(RESERVE, kind, (1, 0)), Conflict, "not registered");
        assert_eq!(a.out(REGISTER, 0, (0, 1)), Good);
        assert_eq!(a.out(RESERVE, kind, (1, 0)), Good);
        assert_eq!((a.read(), a.write()), (Good, Good), "{kind}: the holder");
        assert_eq!(
            (b.read(), b.write()),
            (read, Conflict),
            "{kind}: a stranger"
        );
        assert_eq!(b.ready(), Good, "{kind}");

        assert_eq!(b.out(REGISTER, 0, (0, 2)), Good);
        let registered = if registrants {
            (Good, Good)
        } else {
            (read, Conflict)
        };
        assert_eq!((b.read(), b.write()), registered, "{kind}: registered");

        assert_eq!(a.out(RELEASE, kind, (1, 0)), Good);
        let told: &[_] = if registrants {
            &[RESERVATIONS_RELEASED]
        } else {
            &[]
        };
        assert_eq!(b.hears(), told, "{kind}: the other is told");
        assert_eq!(a.hears(), [], "{kind}: who has done it knows");
        assert_eq!((b.read(), b.write()), (Good, Good), "{kind}: released");

        assert_eq!(a.out(CLEAR, 0, (1, 0)), Good);
        assert_eq!(
            (a.hears(), b.hears()),
            (vec![], vec![RESERVATIONS_PREEMPTED])
        );
        assert_eq!(a.reserve_in(0), [0; 4], "no keys");
    }
}

/// Plays a scene with a disk whose operations take a while. It says whether it has caught commands on their way; if they
/// were over too soon, it is played again with a slower disk.
fn with_slow_disk(scene: impl Fn(Guest, Guest) -> bool) {
    let caught = [1, 10, 50].into_iter().any(|slower| {
        let place = Place::new();
        let node = format!(
            "null-co,node-name=d,latency-ns={}",
            (SLOW * slower).as_nanos()
        );
        let _server = serve(&place, &node);
        let (a, b) = guests(&place);
        scene(a, b)
    });
    assert!(caught, "commands are always over before they are aborted");
}

#[test]
fn preempt_and_abort_is_over_when_the_victims_commands_are() {
    with_slow_disk(|mut a, mut b| {
        assert_eq!(a.out(REGISTER, 0, (0, 1)), Good);
        assert_eq!(b.out(REGISTER, 0, (0, 2)), Good);
        assert_eq!(b.out(RESERVE, 1, (2, 0)), Good);
        b.submit_writes(12);
        b.is_under_way();
        assert_eq!(a.out(PREEMPT_AND_ABORT, 3, (1, 2)), Good);
        let over = b.over();
        if over.contains(&Good) {
            return false;
        }
        assert_eq!(over, [Aborted; 12], "before the answer");
        assert_eq!(b.write(), Conflict);
        let mut heard = b.hears();
        heard.sort_by_key(|attention| *attention == COMMANDS_CLEARED);
        assert_eq!(heard, [REGISTRATIONS_PREEMPTED, COMMANDS_CLEARED]);
        assert_eq!((b.read(), b.write()), (Conflict, Conflict));
        assert_eq!(b.out(RESERVE, 1, (2, 0)), Conflict, "no longer registered");
        assert_eq!((a.hears(), a.write()), (vec![], Good));
        true
    });
}

#[test]
fn preempt_and_abort_passes_and_ends_an_auto_contingent_allegiance_of_its_victim() {
    const CHECK_CONDITION: u8 = 0x02;
    const BUSY: u8 = 0x08;
    const ACA_ACTIVE: u8 = 0x30;
    let place = Place::new();
    let _server = serve(&place, "memory,node-name=d,size=1M");
    let (mut a, mut b) = guests(&place);
    assert_eq!(a.out(REGISTER, 0, (0, 1)), Good);
    assert_eq!(b.out(REGISTER, 0, (0, 2)), Good);
    assert_eq!(b.out(RESERVE, 3, (2, 0)), Good);
    let status = |guest: &mut Guest, cdb: &[u8]| {
        let command = Command::new(disk(), cdb, Data::None);
        guest.0.command(&command).unwrap().status
    };
    // There is no such command; NACA.
    assert_eq!(status(&mut b, &[0x07, 0, 0, 0, 0, 0x04]), CHECK_CONDITION);
    assert_eq!(status(&mut b, &[0; 6]), ACA_ACTIVE);
    assert_eq!(status(&mut a, &[0; 6]), BUSY);
    assert_eq!(a.out(PREEMPT_AND_ABORT, 3, (1, 2)), Good);
    assert_eq!((a.hears(), a.write()), (vec![], Good));
    assert_eq!(b.hears(), [REGISTRATIONS_PREEMPTED]);
    assert_eq!(b.write(), Conflict);
}

#[test]
fn preempt_and_abort_ends_those_who_wait_in_line() {
    with_slow_disk(|mut a, mut b| {
        assert_eq!(a.out(REGISTER, 0, (0, 1)), Good);
        assert_eq!(b.out(REGISTER, 0, (0, 2)), Good);
        assert_eq!(a.out(RESERVE, 5, (1, 0)), Good);
        b.submit_writes(2);
        let compare = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];
        let data = [0; 2 * BLOCK];
        b.submit(&compare, Data::Out(&data), TaskAttribute::Simple);
        b.submit_writes(2);
        b.is_under_way();
        // If it stood in line itself, they would be over as if nothing had happened.
        assert_eq!(a.out(PREEMPT_AND_ABORT, 5, (1, 2)), Good);
        let over = b.over();
        if over.contains(&Good) {
            return false;
        }
        assert_eq!(over, [Aborted; 5], "before the answer");
        assert_eq!(b.write(), Conflict);
        assert_eq!(a.write(), Good);
        true
    });
}

#[test]
fn two_who_preempt_and_abort_each_other_do_not_wait_for_each_other() {
    let place = Place::new();
    let node = format!("null-co,node-name=d,latency-ns={}", SLOW.as_nanos());
    let _server = serve(&place, &node);
    let (mut a, mut b) = guests(&place);
    assert_eq!(a.out(REGISTER, 0, (0, 1)), Good);
    assert_eq!(b.out(REGISTER, 0, (0, 2)), Good);
    a.submit_writes(3);
    a.is_under_way();
    b.submit_writes(3);
    b.is_under_way();
    let first = a.submit_out(PREEMPT_AND_ABORT, 1, (1, 2));
    a.is_under_way();
    // The one who was thrown out comes back, and does the same.
    let comes_back = |b: &mut Guest| {
        let tag = b.submit_out(REGISTER_AND_IGNORE, 0, (0, 3));
        b.end_of(tag)
    };
    while comes_back(&mut b) != Good {}
    let second = b.submit_out(PREEMPT_AND_ABORT, 1, (3, 1));
    assert_eq!(b.end_of(second), Good);
    assert_eq!(a.end_of(first), Good);
    assert!(a.hears().contains(&REGISTRATIONS_PREEMPTED));
    b.hears();
    assert_eq!(b.reserve_in(0)[4..], 3_u64.to_be_bytes());
}

#[test]
fn of_two_who_preempt_and_abort_each_other_at_once_one_is_left() {
    let place = Place::new();
    let _server = serve(&place, "memory,node-name=d,size=1M");
    let (mut a, mut b) = guests(&place);
    for _ in 0..20 {
        assert_eq!(a.out(REGISTER_AND_IGNORE, 0, (0, 1)), Good);
        assert_eq!(b.out(REGISTER_AND_IGNORE, 0, (0, 2)), Good);
        a.submit_writes(8);
        b.submit_writes(8);
        let tags = (
            a.submit_out(PREEMPT_AND_ABORT, 1, (1, 2)),
            b.submit_out(PREEMPT_AND_ABORT, 1, (2, 1)),
        );
        let all = |guest: &mut Guest, wanted| {
            let mut heard = Vec::new();
            let mut ended = None;
            while guest.in_flight() > 0 {
                let (tag, how) = guest.wait();
                heard.push(how);
                if tag == wanted {
                    ended = Some(how);
                }
            }
            heard.extend(guest.hears());
            (ended.unwrap(), heard)
        };
        let ended = (all(&mut a, tags.0), all(&mut b, tags.1));
        let (left, gone, key) = match &ended.0.0 {
            Good => (&mut a, ended.1, 1),
            _ => (&mut b, ended.0, 2),
        };
        // It is told on its way, or its registration is missed.
        assert_ne!(gone.0, Good);
        assert!(gone.1.contains(&REGISTRATIONS_PREEMPTED), "{gone:?}");
        assert_eq!(left.reserve_in(0)[4..], u64::to_be_bytes(key));
        assert_eq!(left.out(CLEAR, 0, (key, 0)), Good);
    }
}

#[test]
fn preempt_and_abort_and_those_who_fail_with_qerr_do_not_wait_for_each_other() {
    let place = Place::new();
    let _server = serve(&place, "memory,node-name=d,size=1M");
    let (mut a, mut b) = guests(&place);
    // QERR 01b: what fails takes the task set with it, and waits for it.
    let sense = [0x1A, 0x08, 0x0A, 0, 16, 0];
    let page = Command::new(disk(), &sense, Data::In(16));
    let mut control = a.0.command(&page).unwrap().data;
    control[..4].fill(0);
    control[7] |= 0x02;
    assert_eq!(a.run(&[0x15, 0x10, 0, 0, 16, 0], Data::Out(&control)), Good);
    for _ in 0..100 {
        let register = |guest: &mut Guest, key| {
            while guest.out(REGISTER_AND_IGNORE, 0, (0, key)) != Good {}
        };
        register(&mut a, 1);
        register(&mut b, 2);
        let queue = b.0.queue(0).unwrap();
        for _ in 0..16 {
            queue
                .submit(&Command::new(disk(), &[0xFF; 6], Data::None))
                .unwrap();
        }
        queue.send().unwrap();
        a.submit_out(PREEMPT_AND_ABORT, 1, (1, 2));
        for guest in [&mut a, &mut b] {
            let queue = guest.0.queue(0).unwrap();
            while queue.in_flight() > 0 {
                queue.wait().unwrap();
            }
        }
    }
}

#[test]
fn no_write_of_the_victim_lands_after_the_answer() {
    const SIZE: u64 = 64 << 20;
    let place = Place::new();
    let image = place.image("d.img", SIZE);
    let _server = serve(&place, "file,node-name=d,filename=d.img");
    let (mut a, mut b) = guests(&place);
    assert_eq!(a.out(REGISTER, 0, (0, 1)), Good);
    assert_eq!(b.out(REGISTER, 0, (0, 2)), Good);
    assert_eq!(a.out(RESERVE, 5, (1, 0)), Good);
    // WRITE SAME(16) of 16 MiB each, which is written in steps.
    for part in 0_u8..4 {
        let mut cdb = [0; 16];
        cdb[0] = 0x93;
        cdb[2..10].copy_from_slice(&(u64::from(part) * 0x8000).to_be_bytes());
        cdb[10..14].copy_from_slice(&0x8000_u32.to_be_bytes());
        b.submit(&cdb, Data::Out(&[0xBB; BLOCK]), TaskAttribute::Simple);
    }
    b.is_under_way();
    assert_eq!(a.out(PREEMPT_AND_ABORT, 1, (1, 2)), Good);
    let after = std::fs::read(&image).unwrap();
    let over = b.over();
    assert_eq!(over.len(), 4, "all are over");
    assert!(over.contains(&Aborted), "{over:?}");
    std::thread::sleep(Duration::from_millis(50));
    assert!(
        std::fs::read(&image).unwrap() == after,
        "written after the answer"
    );
    assert_eq!(b.write(), Conflict);
    assert_eq!(a.write(), Good);
}

#[test]
fn what_is_to_survive_a_loss_of_power_survives_sigkill() {
    let place = Place::new();
    place.image("d.img", 1 << 20);
    let node = "file,node-name=d,filename=d.img";
    let server = serve(&place, node);
    let (mut a, mut b) = guests(&place);
    assert_eq!(a.out_persistent(REGISTER, 0, (0, 1)), Good);
    assert_eq!(a.out(RESERVE, 1, (1, 0)), Good);
    assert_eq!(b.out_persistent(REGISTER, 0, (0, 2)), Good);
    let (keys, reservation) = (a.reserve_in(0), a.reserve_in(1));
    let expected = [[0; 7].as_slice(), &[1], &[0; 5], &[1, 0, 0]].concat();
    assert_eq!(reservation[4..][..16], expected);
    assert_eq!(server.stop(Signal::KILL).code, None);

    let server = serve(&place, node);
    let (mut a, mut b) = guests(&place);
    assert_eq!((b.reserve_in(0), b.reserve_in(1)), (keys, reservation));
    assert_eq!((a.write(), b.write()), (Good, Conflict));
    // What is not to survive does not.
    assert_eq!(b.out(REGISTER, 0, (2, 3)), Good);
    assert_eq!(server.stop(Signal::KILL).code, None);

    let _server = serve(&place, node);
    let (mut a, mut b) = guests(&place);
    assert_eq!((a.reserve_in(0), a.reserve_in(1)), (vec![0; 4], vec![0; 4]));
    assert_eq!(b.write(), Good);
}

/// Who does it, service action, type, key and service action key.
type Step = (usize, u8, u8, (u64, u64));

/// Two guests take the disk from each other, in every way there is.
const QUARREL: &[Step] = &[
    (0, REGISTER, 0, (0, 1)),
    (1, REGISTER, 0, (0, 2)),
    (0, RESERVE, 5, (1, 0)),
    (1, PREEMPT, 7, (2, 1)),
    (0, REGISTER_AND_IGNORE, 0, (0, 3)),
    (1, RELEASE, 7, (2, 0)),
    (0, RESERVE, 1, (3, 0)),
    (0, REGISTER, 0, (3, 4)),
    (1, PREEMPT_AND_ABORT, 5, (2, 4)),
    (0, REGISTER, 0, (0, 5)),
    (1, REGISTER, 0, (2, 0)),
    (0, RESERVE, 8, (5, 0)),
    (1, REGISTER_AND_IGNORE, 0, (0, 6)),
    (0, PREEMPT, 8, (5, 0)),
    (0, CLEAR, 0, (5, 0)),
];

/// Keys, reservation and full status, and who may write.
fn standing(guests: &mut [Guest; 2]) -> (Vec<Vec<u8>>, [Ended; 2]) {
    guests.iter_mut().for_each(|guest| drop(guest.hears()));
    let said = [0, 1, 3].map(|action| guests[0].reserve_in(action));
    (said.to_vec(), guests.each_mut().map(Guest::write))
}

#[test]
fn sigkill_between_any_two_steps_changes_nothing_for_anybody() {
    let node = "file,node-name=d,filename=d.img";
    let mut without_kill = Vec::new();
    // The first time, nobody is killed.
    for killed_after in std::iter::once(usize::MAX).chain(0..QUARREL.len()) {
        let place = Place::new();
        place.image("d.img", 1 << 20);
        let mut server = serve(&place, node);
        let mut both = <[Guest; 2]>::from(guests(&place));
        let mut seen = Vec::new();
        for (number, &(who, action, kind, keys)) in QUARREL.iter().enumerate() {
            let guest = &mut both[who];
            let ended = match action {
                REGISTER | REGISTER_AND_IGNORE => guest.out_persistent(action, kind, keys),
                _ => guest.out(action, kind, keys),
            };
            assert_eq!(ended, Good, "step {number}");
            if number == killed_after {
                assert_eq!(server.stop(Signal::KILL).code, None);
                server = serve(&place, node);
                both = guests(&place).into();
            }
            seen.push(standing(&mut both));
        }
        match without_kill.is_empty() {
            true => without_kill = seen,
            false => assert_eq!(seen, without_kill, "killed after step {killed_after}"),
        }
    }
    // All of it happened.
    let mut writers: Vec<_> = without_kill.iter().map(|(_, may)| *may).collect();
    writers.dedup();
    assert!(writers.contains(&[Good, Conflict]) && writers.contains(&[Conflict, Good]));
}

#[test]
fn kept_reservations_that_are_damaged_or_somebody_elses_are_refused() {
    let place = Place::new();
    place.image("d.img", 1 << 20);
    let node = "file,node-name=d,filename=d.img";
    let server = serve(&place, node);
    let (mut a, b) = guests(&place);
    assert_eq!(a.out_persistent(REGISTER, 0, (0, 1)), Good);
    drop((a, b));
    assert_eq!(server.stop(Signal::TERM).code, Some(0));

    let kept = std::fs::read(place.path("d.img.lunar-pr")).unwrap();
    let refused = |drive: &str, problem: &str| {
        let node = format!("file,node-name={drive},filename=d.img");
        let device = format!("scsi-hd,drive={drive}");
        let output = place.run(&[
            "serve",
            "--socket-path",
            "s",
            "--blockdev",
            &node,
            "--device",
            &device,
        ]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty() && !place.path("s").exists());
        let expected = format!(
            "lunar: --device {device}: cannot restore persistent reservations: d.img.lunar-pr: {problem}\n"
        );
        assert_eq!(stderr(&output), expected);
    };
    let damaged = "is damaged; restore it, or remove it if what it says can be lost";
    for len in [0, kept.len() / 2, kept.len() - 1] {
        place.write("d.img.lunar-pr", &kept[..len]);
        refused("d", damaged);
    }
    for at in [0, kept.len() / 2, kept.len() - 1] {
        let mut flipped = kept.clone();
        flipped[at] ^= 0x10;
        place.write("d.img.lunar-pr", &flipped);
        refused("d", damaged);
    }
    place.write("d.img.lunar-pr", &kept);
    refused(
        "other",
        "belongs to another logical unit; name another file, or remove it",
    );
    assert_eq!(
        std::fs::read(place.path("d.img.lunar-pr")).unwrap(),
        kept,
        "nothing was done to it"
    );
}
