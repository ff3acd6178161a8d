//! Whole controllers with disks, driven over their sockets as guests drive them.
#![cfg(test)]

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lunar_block::{Driver, NodeOptions, open_node};
use lunar_devices::{Disk, DiskConfig};
use lunar_initiator::{Address, Command, Cut, Data, Error, Framing, Initiator, Options, Start};
use lunar_initiator::{feature, protocol, response};
use lunar_scsi::Lun;
use lunar_vhost_user::{Running, Server};
use lunar_virtio_scsi::{Controller, ControllerConfig, Workers, WorkersConfig};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const QUEUES: u16 = 4;

/// A process with controllers, each of which has an empty disk at target 3, LUN 300.
struct Host {
    workers: Arc<Workers>,
    directory: TempDir,
    controllers: Vec<(Arc<Controller>, Running)>,
}

impl Host {
    fn start(controllers: usize) -> Host {
        Host::start_with(controllers, || Driver::Memory { size: 16 * MIB })
    }

    fn start_with(controllers: usize, image: impl Fn() -> Driver) -> Host {
        let workers = Workers::start(WorkersConfig {
            count: 2,
            ..WorkersConfig::default()
        })
        .unwrap();
        let directory = TempDir::new().unwrap();
        let mut host = Host {
            workers,
            directory,
            controllers: Vec::new(),
        };
        for number in 0..controllers {
            let config = ControllerConfig {
                id: format!("scsi{number}"),
                request_queues: QUEUES,
                ..ControllerConfig::default()
            };
            let controller = Controller::new(&host.workers, config).unwrap();
            let disk = DiskConfig {
                identity: format!("disk{number}"),
                ..DiskConfig::default()
            };
            let image = open_node(image(), &NodeOptions::default()).unwrap();
            controller
                .attach(3, 300, Disk::new(disk, image).unwrap())
                .unwrap();
            let options = lunar_vhost_user::Options { config: true };
            let server = Server::bind(&host.path(number), controller.clone(), options).unwrap();
            host.controllers.push((controller, server.start().unwrap()));
        }
        host
    }

    fn path(&self, controller: usize) -> PathBuf {
        self.directory.path().join(format!("s{controller}"))
    }

    fn guest(&self, options: Options) -> Guest {
        self.guest_of(0, options)
    }

    fn guest_of(&self, controller: usize, options: Options) -> Guest {
        Guest(Initiator::connect(self.path(controller), options).unwrap())
    }

    /// A new guest can use the disk.
    fn is_well(&self) {
        let mut guest = self.guest(Options::default());
        guest.write(100, 0x5a);
        assert_eq!(guest.read(100), 0x5a);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.controllers.clear();
        self.workers.stop();
    }
}

fn disk() -> Address {
    Address::new(3, Lun::new(300).unwrap())
}

/// READ(10) or WRITE(10) of 8 blocks.
fn transfer(opcode: u8, lba: u32) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    [opcode, 0, a, b, c, d, 0, 0, 8, 0]
}
const READ: u8 = 0x28;
const WRITE: u8 = 0x2a;
const BYTES: usize = 4096;

struct Guest(Initiator);

impl Guest {
    /// Fills eight blocks with a byte.
    fn write(&mut self, lba: u32, byte: u8) {
        let data = [byte; BYTES];
        let cdb = transfer(WRITE, lba);
        let command = Command::new(disk(), &cdb, Data::Out(&data));
        let response = self.0.command_after_attentions(&command).unwrap();
        assert!(response.is_good(), "{:?}", response.sense_key());
    }

    /// The byte that eight blocks are filled with.
    fn read(&mut self, lba: u32) -> u8 {
        let cdb = transfer(READ, lba);
        let command = Command::new(disk(), &cdb, Data::In(BYTES));
        let response = self.0.command_after_attentions(&command).unwrap();
        assert!(response.is_good(), "{:?}", response.sense_key());
        assert_eq!(response.data.len(), BYTES);
        assert!(response.data.iter().all(|&b| b == response.data[0]));
        response.data[0]
    }

    /// Puts reads in flight on every queue and returns how many there are.
    fn submit_reads(&mut self, each: u32) -> usize {
        for (queue, number) in self.0.queues().iter_mut().zip(0u32..) {
            for i in 0..each {
                let cdb = transfer(READ, (number * each + i) * 8);
                queue
                    .submit(&Command::new(disk(), &cdb, Data::In(BYTES)))
                    .unwrap();
            }
            queue.send().unwrap();
        }
        self.in_flight()
    }

    fn in_flight(&mut self) -> usize {
        self.0.queues().iter().map(|q| q.in_flight()).sum()
    }

    /// Waits for everything in flight, which must succeed.
    fn finish(&mut self) {
        for queue in self.0.queues() {
            while queue.in_flight() > 0 {
                let done = queue.wait().unwrap();
                assert!(done.response.is_good(), "{:?}", done.response.sense_key());
            }
        }
    }
}

fn four_queues() -> Options {
    Options {
        queues: QUEUES,
        max_data: 64 << 10,
        ..Options::default()
    }
}

/// A disk whose every operation takes so long.
fn slow(ms: u64) -> impl Fn() -> Driver {
    move || Driver::Null {
        size: 16 * MIB,
        read_zeroes: true,
        latency_ns: ms * 1_000_000,
    }
}

#[test]
fn a_disk_is_found_and_keeps_its_data_whatever_the_driver_negotiates_and_however_it_lays_out_requests()
 {
    let host = Host::start(1);
    let all = Options::default();
    let mut byte = 0;
    for features in [0, feature::EVENT_IDX, feature::INDIRECT_DESC, all.features] {
        for cut in [Cut::Headers, Cut::Pages, Cut::Every(333)] {
            let framing = Framing {
                cut,
                indirect: features & feature::INDIRECT_DESC != 0,
            };
            let mut guest = host.guest(Options {
                features,
                framing,
                regions: 2,
                ..all.clone()
            });
            byte += 1;
            guest.write(u32::from(byte) * 8, byte);
            assert_eq!(guest.read(u32::from(byte) * 8), byte);
        }
    }
    let mut guest = host.guest(all);
    for byte in 1..=12 {
        assert_eq!(
            guest.read(u32::from(byte) * 8),
            byte,
            "as the guest before left it"
        );
    }
}

#[test]
fn an_address_without_logical_unit_is_a_bad_target() {
    let host = Host::start(1);
    let mut guest = host.guest(Options::default());
    let address = Address::new(7, Lun::new(0).unwrap());
    let response = guest
        .0
        .command(&Command::new(address, &[0; 6], Data::None))
        .unwrap();
    assert_eq!(response.response, response::BAD_TARGET);
}

#[test]
fn front_ends_without_protocol_features_and_rings_without_descriptors_are_served() {
    let host = Host::start(1);
    for protocol_features in [0, protocol::MQ, Options::default().protocol_features] {
        for (kick, call) in [(true, true), (false, true), (true, false), (false, false)] {
            let start = Start {
                kick,
                call,
                ..Start::default()
            };
            let mut guest = host.guest(Options {
                protocol_features,
                start,
                ..Options::default()
            });
            guest.write(0, 1);
            assert_eq!(guest.read(0), 1);
        }
    }
}

#[test]
fn a_driver_that_uses_one_queue_of_many_is_served_and_followed_by_one_that_uses_all() {
    let host = Host::start(1);
    for _ in 0..3 {
        let mut firmware = host.guest(Options {
            event_buffers: 0,
            ..Options::default()
        });
        firmware.write(0, 9);
        firmware.0.stop().unwrap();
        drop(firmware);
        let mut system = host.guest(four_queues());
        assert_eq!(system.read(0), 9);
        system.submit_reads(16);
        system.finish();
    }
}

#[test]
fn rings_are_stopped_and_set_up_anew_from_index_0_as_at_a_reboot() {
    let host = Host::start(1);
    let mut guest = host.guest(four_queues());
    for round in 1..=5 {
        guest.write(64, round);
        guest.0.stop().unwrap();
        match round % 3 {
            0 => guest.0.session().reset_device().unwrap(),
            1 => guest.0.session().set_status(0).unwrap(),
            _ => {}
        }
        if round % 3 != 2 {
            let features = guest.0.session().features();
            guest.0.session().set_features(features).unwrap();
        }
        guest.0.restart().unwrap();
        assert_eq!(guest.read(64), round);
    }
}

#[test]
fn stopping_a_ring_waits_for_what_is_in_flight_and_tells_where_to_go_on() {
    let host = Host::start_with(1, slow(30));
    let mut guest = host.guest(four_queues());
    guest.read(0);
    let commands = guest.submit_reads(32);
    assert_eq!(commands, 128);
    guest.0.stop().unwrap();
    for queue in guest.0.queues() {
        while queue.in_flight() > 0 {
            let done = queue.reap().unwrap();
            // A ring may be stopped before its last requests are taken; they are found when it goes on.
            if done.is_none() {
                break;
            }
        }
    }
    for index in 0..guest.0.ring_count() {
        guest.0.start_ring(index, Start::default()).unwrap();
    }
    guest.finish();
}

#[test]
fn a_disabled_ring_is_left_alone_and_served_when_it_is_enabled() {
    let host = Host::start(1);
    let mut guest = host.guest(Options::default());
    guest.read(0);
    guest.0.session().enable_ring(2, false).unwrap();
    guest.submit_reads(4);
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(guest.0.queue(0).unwrap().reap().unwrap(), None);
    guest.0.session().enable_ring(2, true).unwrap();
    guest.finish();
}

#[test]
fn memory_is_plugged_unplugged_and_announced_anew_while_commands_are_in_flight() {
    let host = Host::start_with(1, slow(2));
    let mut guest = host.guest(four_queues());
    guest.read(0);
    for round in 0..6 {
        guest.submit_reads(16);
        let gpa = guest.0.plug_memory(MIB).unwrap();
        guest.finish();
        guest.submit_reads(16);
        if round % 2 == 0 {
            guest.0.unplug_memory(gpa).unwrap();
        }
        guest.finish();
    }
    let mut guest = {
        drop(guest);
        host.guest(Options {
            protocol_features: protocol::MQ | protocol::REPLY_ACK,
            ..four_queues()
        })
    };
    guest.read(0);
    for _ in 0..6 {
        guest.submit_reads(16);
        guest.0.resend_memory_table().unwrap();
        guest.finish();
    }
}

#[test]
fn a_front_end_that_vanishes_with_commands_in_flight_is_followed_by_the_next() {
    let host = Host::start_with(1, slow(3));
    for _ in 0..20 {
        let mut guest = host.guest(four_queues());
        assert_eq!(guest.submit_reads(32), 128);
    }
    let mut guest = host.guest(four_queues());
    guest.read(0);
    guest.submit_reads(32);
    guest.finish();
}

#[test]
fn a_front_end_that_comes_back_goes_on_with_its_memory_and_rings() {
    let host = Host::start(1);
    let mut guest = host.guest(four_queues());
    guest.write(8, 77);
    for _ in 0..3 {
        guest.0.session().channel().close();
        let begin = Instant::now();
        loop {
            let stream = UnixStream::connect(host.path(0)).unwrap();
            match guest.0.reattach(stream) {
                Ok(()) => break,
                // Turned away: the server has not seen the end of the first connection yet.
                Err(Error::Disconnected | Error::System(..)) => {}
                Err(error) => panic!("{error}"),
            }
            assert!(begin.elapsed() < Duration::from_secs(20));
        }
        assert_eq!(guest.read(8), 77);
    }
}

#[test]
fn a_server_stops_with_commands_in_flight() {
    let host = Host::start_with(1, slow(20));
    let mut guest = host.guest(four_queues());
    guest.submit_reads(32);
    let begin = Instant::now();
    drop(host);
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn two_controllers_in_one_process_serve_their_own_guests_and_disks() {
    let host = Host::start(2);
    let mut guests = [
        host.guest_of(0, four_queues()),
        host.guest_of(1, four_queues()),
    ];
    for (guest, byte) in guests.iter_mut().zip(1..) {
        guest.write(0, byte);
    }
    for (guest, byte) in guests.iter_mut().zip(1..) {
        assert_eq!(guest.read(0), byte);
        guest.submit_reads(32);
    }
    let [first, mut second] = guests;
    drop(first);
    second.finish();
    second.0.stop().unwrap();
    second.0.restart().unwrap();
    assert_eq!(second.read(0), 2);
    host.is_well();
}

#[test]
fn a_guest_that_breaks_its_ring_harms_nobody_and_can_start_it_again() {
    let host = Host::start(2);
    let mut neighbour = host.guest_of(1, four_queues());
    neighbour.read(0);
    let mut guest = host.guest(Options::default());
    guest.read(0);
    guest.0.stop().unwrap();
    // A descriptor table that starts in the guest's memory and does not end there.
    let ring = guest.0.queue(0).unwrap().ring().layout();
    let session = guest.0.session();
    session.set_ring_size(2, 128).unwrap();
    let nowhere = lunar_initiator::RingAddresses {
        desc: 0x10,
        avail: 0x20,
        used: 0x40,
    };
    session.set_ring_addresses(2, nowhere).unwrap();
    assert!(
        session
            .set_ring_fd(lunar_initiator::Request::SetVringKick, 2, None)
            .is_err()
    );
    session.set_ring_size(2, ring.size).unwrap();
    neighbour.submit_reads(32);
    guest.0.restart().unwrap();
    guest.read(0);
    neighbour.finish();
}
