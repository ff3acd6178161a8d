//! No descriptor is kept that nobody needs. Alone in its process, because it counts them.
#![cfg(test)]

mod common;

use std::time::{Duration, Instant};

use common::*;
use lunar_vhost_user::{Options, Server};
use tempfile::TempDir;
use vhost::vhost_user::message::FrontendReq as R;

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn every_descriptor_is_closed_however_a_connection_ends() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("s");
    let device = FakeDevice::new();
    let server = Server::bind(&path, device, Options { config: true })
        .unwrap()
        .start()
        .unwrap();
    let before = open_descriptors();

    for round in 0..8 {
        let mut client = Client::connect(&path);
        client.negotiate(BACKEND_REQ | CONFIG | CONFIGURE_MEM_SLOTS);
        client.send(R::SET_BACKEND_REQ_FD, &[], &[descriptor()]);
        client.send(R::SET_BACKEND_REQ_FD, &[], &[descriptor()]);
        let table = memory_table(&[[0, 0x1000, 0, 0], [0x1000, 0x1000, 0x1000, 0]]);
        client.send(
            R::SET_MEM_TABLE,
            &table,
            &[memory_file(0x1000), memory_file(0x1000)],
        );
        let region = [0x2000, 0x1000, 0x2000, 0];
        client.send(
            R::ADD_MEM_REG,
            &memory_region(region),
            &[memory_file(0x1000)],
        );
        client.send(
            R::REM_MEM_REG,
            &memory_region(region),
            &[memory_file(0x1000)],
        );
        for index in 0..6 {
            client.send(R::SET_VRING_NUM, &words32(&[index, 128]), &[]);
            client.send(R::SET_VRING_ADDR, &ring_addresses(index, 0, 0x10000), &[]);
            for request in [
                R::SET_VRING_CALL,
                R::SET_VRING_ERR,
                R::SET_VRING_KICK,
                R::SET_VRING_CALL,
            ] {
                client.send(request, &words64(&[index.into()]), &[descriptor()]);
            }
        }
        // Refused aloud: the connection goes on.
        let refused = client.tell(R::SET_OWNER, &[], &[descriptor(), descriptor()]);
        assert_eq!(refused, Some(1));
        let refused = client.tell(R::SET_VRING_KICK, &words64(&[200]), &[descriptor()]);
        assert_eq!(refused, Some(1));
        match round % 4 {
            0 => {}
            1 => client.send_raw(
                &frame(R::SET_MEM_TABLE.into(), 1, &table)[..20],
                &[memory_file(1)],
            ),
            2 => client.send(R::SET_LOG_BASE, &words64(&[0, 0]), &[descriptor()]),
            _ => client.send_raw(&[0xff; 12], &[descriptor(), descriptor()]),
        }
        if round % 4 >= 2 {
            assert_eq!(client.reply(), None);
        }
    }

    let begin = Instant::now();
    while open_descriptors() != before || server.is_connected() {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "{before} descriptors before, {} after",
            open_descriptors()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(server.connections(), 8);
    server.stop();
    assert!(
        open_descriptors() < before,
        "the server's own are closed, too"
    );
}
