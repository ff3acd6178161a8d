//! The server and its socket: whoever is at the other end, the server lives, answers the next one, and stops when told.
#![cfg(test)]

mod common;

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use lunar_vhost_user::{Error, Options, Running, Server};
use tempfile::TempDir;
use vhost::vhost_user::message::FrontendReq as R;

/// A server of a device that notes what it is told.
struct Test {
    directory: TempDir,
    device: Arc<FakeDevice>,
    server: Option<Running>,
}

impl Test {
    fn start(options: Options) -> Test {
        let directory = TempDir::new().unwrap();
        let device = FakeDevice::new();
        let path = directory.path().join("s");
        let server = Server::bind(&path, device.clone(), options)
            .unwrap()
            .start()
            .unwrap();
        Test {
            directory,
            device,
            server: Some(server),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    fn connect(&self) -> Client {
        Client::connect(&self.path())
    }

    fn server(&self) -> &Running {
        self.server.as_ref().unwrap()
    }

    /// The server is alive: a new front end is served.
    fn is_well(&self) {
        assert_eq!(self.connect().ask(R::GET_QUEUE_NUM), 6);
    }

    /// Stops the server, which must not take long whatever its front end does.
    fn stop(&mut self) {
        let begin = Instant::now();
        self.server.take().unwrap().stop();
        assert!(begin.elapsed() < Duration::from_secs(2));
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "not in time: {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn front_ends_are_served_one_after_the_other_and_each_end_disconnects_the_device() {
    let test = Test::start(Options::default());
    for round in 1..=3 {
        let mut client = test.connect();
        client.negotiate(MQ);
        assert!(test.server().is_connected());
        assert_eq!(test.server().connections(), round);
        drop(client);
        eventually("disconnect", || !test.server().is_connected());
        assert_eq!(test.device.take().last(), Some(&Told::Disconnect));
    }
}

#[test]
fn a_second_front_end_is_turned_away_and_the_first_is_not_disturbed() {
    let test = Test::start(Options::default());
    let mut first = test.connect();
    first.negotiate(MQ);
    for _ in 0..3 {
        let mut second = test.connect();
        second.send(R::GET_FEATURES, &[], &[]);
        assert_eq!(second.reply(), None);
        assert_eq!(first.ask(R::GET_QUEUE_NUM), 6);
    }
    drop(first);
    test.is_well();
}

#[test]
fn a_front_end_that_dies_is_replaced_by_the_next_without_a_gap() {
    let test = Test::start(Options::default());
    for _ in 0..500 {
        let mut client = test.connect();
        client.negotiate(MQ);
    }
    assert_eq!(test.server().connections(), 500);
}

#[test]
fn front_ends_that_break_off_anywhere_leave_the_server_well() {
    let test = Test::start(Options::default());
    let message = frame(R::SET_FEATURES.into(), 1, &words64(&[VERSION_1]));
    for length in 0..message.len() {
        let client = test.connect();
        client.send_raw(&message[..length], &[]);
    }
    test.is_well();
}

#[test]
fn streams_that_are_not_the_protocol_end_their_connection_only() {
    let test = Test::start(Options::default());
    let oversize = words32(&[1, 1, 4097]);
    let streams: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
        &[0; 64],
        &[0xff; 64],
        &oversize,
        &frame(1, 2, &[]),
        &frame(1, 5, &[]),
    ];
    for stream in streams {
        let mut client = test.connect();
        client.send_raw(stream, &[]);
        assert_eq!(client.reply(), None, "{stream:?}");
    }
    test.is_well();
}

#[test]
fn a_flood_of_descriptors_ends_the_connection() {
    let test = Test::start(Options::default());
    for flood in [9, 64] {
        let mut client = test.connect();
        let fds: Vec<_> = (0..flood).map(|_| descriptor()).collect();
        client.send_raw(&frame(R::SET_OWNER.into(), 9, &[]), &fds);
        assert_eq!(client.reply(), None);
    }
    let mut client = test.connect();
    let drop_by_drop = frame(R::SET_CONFIG.into(), 1, &[0; 64]);
    for byte in drop_by_drop {
        client.send_raw(&[byte], &[descriptor()]);
    }
    assert_eq!(client.reply(), None);
    test.is_well();
}

#[test]
fn a_front_end_that_stalls_within_a_message_holds_up_neither_another_controller_nor_the_stop() {
    let mut stalled = Test::start(Options::default());
    let other = Test::start(Options::default());
    let client = stalled.connect();
    client.send_raw(&frame(R::SET_FEATURES.into(), 1, &[0; 8])[..15], &[]);
    other.is_well();
    stalled.stop();
    drop(client);
}

#[test]
fn a_front_end_that_never_reads_its_replies_does_not_hold_up_the_stop() {
    let mut test = Test::start(Options::default());
    let client = test.connect();
    client.0.set_nonblocking(true).unwrap();
    let question = frame(R::GET_FEATURES.into(), 1, &[]);
    let mut quiet = Instant::now();
    while quiet.elapsed() < Duration::from_millis(100) {
        let sent = rustix::net::send(&client.0, &question, rustix::net::SendFlags::NOSIGNAL);
        if sent == Ok(question.len()) {
            quiet = Instant::now();
        }
    }
    test.stop();
}

#[test]
fn an_idle_connection_does_not_hold_up_the_stop_and_is_closed_by_it() {
    let mut test = Test::start(Options::default());
    let mut client = test.connect();
    client.negotiate(MQ);
    test.stop();
    assert_eq!(client.reply(), None);
    assert_eq!(test.device.take().last(), Some(&Told::Disconnect));
    assert!(!test.path().exists(), "the socket file is removed");
}

#[test]
fn a_stop_with_nobody_connected_is_prompt_and_a_dropped_server_is_stopped() {
    let mut test = Test::start(Options::default());
    test.stop();
    let test = Test::start(Options::default());
    let path = test.path();
    drop(test.server);
    assert!(!path.exists());
}

#[test]
fn a_socket_in_use_is_an_error_that_leaves_no_trace_with_its_owner() {
    let test = Test::start(Options::default());
    let other = FakeDevice::new();
    let error = Server::bind(&test.path(), other, Options::default()).unwrap_err();
    assert!(matches!(error, Error::InUse(_)), "{error}");
    assert!(error.to_string().contains("in use by a running server"));
    test.is_well();
    assert_eq!(test.server().connections(), 1);
}

#[test]
fn a_crashed_servers_socket_file_is_replaced() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = Server::bind(&path, FakeDevice::new(), Options::default())
        .unwrap()
        .start()
        .unwrap();
    assert_eq!(Client::connect(&path).ask(R::GET_QUEUE_NUM), 6);
    server.stop();
}

#[test]
fn a_socket_file_that_somebody_else_has_put_in_its_place_is_not_removed() {
    let mut test = Test::start(Options::default());
    std::fs::remove_file(test.path()).unwrap();
    let _successor = UnixListener::bind(test.path()).unwrap();
    test.stop();
    assert!(test.path().exists());
}

#[test]
fn paths_that_cannot_be_are_errors_that_name_the_remedy() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let cases = [
        (file.clone(), "is not a socket"),
        (directory.path().to_path_buf(), "is not a socket"),
        (directory.path().join("no/such/s"), "mkdir -p"),
        (
            directory.path().join("x".repeat(120)),
            "choose a shorter one",
        ),
        (file.join("s"), "cannot listen"),
    ];
    for (path, message) in cases {
        let error = Server::bind(&path, FakeDevice::new(), Options::default()).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[test]
fn a_given_listening_socket_is_served_like_an_own_one_and_its_file_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let server = Server::from_fd(listener.into(), FakeDevice::new(), Options::default()).unwrap();
    let server = server.start().unwrap();
    for _ in 0..2 {
        assert_eq!(Client::connect(&path).ask(R::GET_QUEUE_NUM), 6);
    }
    server.stop();
    assert!(path.exists());
}

#[test]
fn a_given_connection_is_served_to_its_end() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = Server::from_fd(theirs.into(), FakeDevice::new(), Options::default()).unwrap();
    let server = server.start().unwrap();
    let mut client = Client::new(ours);
    assert_eq!(client.ask(R::GET_QUEUE_NUM), 6);
    assert!(!server.is_finished());
    drop(client);
    eventually("end", || server.is_finished());
}

#[test]
fn a_descriptor_that_is_no_stream_socket_is_refused() {
    let file: OwnedFd = tempfile::tempfile().unwrap().into();
    let datagram: OwnedFd = std::os::unix::net::UnixDatagram::unbound().unwrap().into();
    let tcp: OwnedFd = std::net::TcpListener::bind("127.0.0.1:0").unwrap().into();
    for fd in [file, datagram, tcp] {
        let number = fd.as_raw_fd();
        let error = Server::from_fd(fd, FakeDevice::new(), Options::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("descriptor {number} is not a UNIX stream socket")
        );
    }
}

/// The next message on the back channel, or none in the given time.
fn back_message(channel: &UnixStream, wait: Duration) -> Option<Vec<u8>> {
    channel.set_read_timeout(Some(wait)).unwrap();
    let mut bytes = [0; 12];
    std::io::Read::read_exact(&mut &*channel, &mut bytes).ok()?;
    Some(bytes.to_vec())
}

#[test]
fn a_changed_configuration_is_told_once_while_rings_run_and_kept_until_they_do() {
    let test = Test::start(Options { config: true });
    let mut client = test.connect();
    client.negotiate(CONFIG | BACKEND_REQ);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let sent = [theirs.into()];
    assert_eq!(client.tell(R::SET_BACKEND_REQ_FD, &[], &sent), Some(0));
    test.server().config_changed();
    test.server().config_changed();
    assert_eq!(
        back_message(&ours, Duration::from_millis(50)),
        None,
        "suspended"
    );

    client.send(R::SET_VRING_NUM, &words32(&[0, 128]), &[]);
    client.send(R::SET_VRING_ADDR, &ring_addresses(0, 0, 0x10000), &[]);
    assert_eq!(
        client.tell(R::SET_VRING_KICK, &words64(&[0]), &[descriptor()]),
        Some(0)
    );
    let config_change = Some(words32(&[2, 1, 0]));
    assert_eq!(back_message(&ours, Duration::from_secs(20)), config_change);
    assert_eq!(
        back_message(&ours, Duration::from_millis(50)),
        None,
        "told once"
    );
    test.server().config_changed();
    assert_eq!(back_message(&ours, Duration::from_secs(20)), config_change);
}

#[test]
fn a_front_end_without_configuration_is_not_told_of_its_changes() {
    let test = Test::start(Options { config: true });
    let mut client = test.connect();
    client.negotiate(BACKEND_REQ);
    let (ours, theirs) = UnixStream::pair().unwrap();
    client.send(R::SET_BACKEND_REQ_FD, &[], &[theirs.into()]);
    client.send(R::SET_VRING_NUM, &words32(&[0, 128]), &[]);
    client.send(R::SET_VRING_ADDR, &ring_addresses(0, 0, 0x10000), &[]);
    assert_eq!(
        client.tell(R::SET_VRING_KICK, &words64(&[0]), &[descriptor()]),
        Some(0)
    );
    test.server().config_changed();
    assert_eq!(back_message(&ours, Duration::from_millis(50)), None);
}
