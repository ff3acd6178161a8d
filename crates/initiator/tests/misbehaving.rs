//! Servers that do not do what they should: every one ends in an error, in time.
#![cfg(test)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use lunar_initiator::{Address, Command, Data, Error, Initiator, Options, Request, feature};

const TIMEOUT: Duration = Duration::from_millis(200);

/// What connecting to a server gives that runs `serve` on its end, and then a command.
fn connect(serve: impl FnOnce(UnixStream) + Send) -> Error {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let options = Options {
        timeout: TIMEOUT,
        ..Options::default()
    };
    std::thread::scope(|scope| {
        let server = scope.spawn(|| serve(theirs));
        let start = Instant::now();
        let ready = Command::new(Address([1, 0, 0, 0, 0, 0, 0, 0]), &[0; 6], Data::None);
        let attached = Initiator::attach(ours, options);
        let error = attached.and_then(|mut i| i.command(&ready)).unwrap_err();
        assert!(start.elapsed() < 10 * TIMEOUT, "{error} came late");
        server.join().unwrap();
        error
    })
}

/// Reads a message; its code.
fn receive(socket: &mut UnixStream) -> u32 {
    let mut header = [0; 12];
    if socket.read_exact(&mut header).is_err() {
        return 0;
    }
    let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
    let mut payload = vec![0; word(8).try_into().unwrap()];
    socket.read_exact(&mut payload).unwrap();
    word(0)
}

fn send(socket: &mut UnixStream, code: u32, flags: u32, payload: &[u8]) {
    let size = u32::try_from(payload.len()).unwrap();
    let mut bytes: Vec<u8> = [code, flags, size]
        .iter()
        .flat_map(|w| w.to_ne_bytes())
        .collect();
    bytes.extend_from_slice(payload);
    socket.write_all(&bytes).unwrap();
}

const REPLY: u32 = 1 | 1 << 2;

#[test]
fn silence_is_a_time_out() {
    let error = connect(|mut socket| {
        // Reads until the initiator gives up.
        while receive(&mut socket) != 0 {}
    });
    assert!(matches!(error, Error::Timeout(_)), "{error}");
}

#[test]
fn a_closed_connection_is_reported_at_once_wherever_it_breaks() {
    let features = (feature::VERSION_1 | feature::EVENT_IDX).to_ne_bytes();
    for answers in 0..4 {
        let error = connect(|mut socket| {
            for _ in 0..answers {
                // Without protocol features only this message has an answer.
                if receive(&mut socket) == Request::GetFeatures as u32 {
                    send(&mut socket, Request::GetFeatures as u32, REPLY, &features);
                }
            }
        });
        assert!(
            matches!(error, Error::Disconnected),
            "after {answers}: {error}"
        );
    }
}

#[test]
fn answers_that_are_none_are_errors() {
    let get = Request::GetFeatures as u32;
    let word = feature::VERSION_1.to_ne_bytes();
    for (code, flags, payload) in [
        (get + 1, REPLY, &word[..]),
        (get, 1, &word),
        (get, REPLY & !1, &word),
        (get, REPLY, &word[..4]),
        (get, REPLY, &[]),
        (get, REPLY, &[1; 5000]),
    ] {
        let error = connect(|mut socket| {
            receive(&mut socket);
            send(&mut socket, code, flags, payload);
            while receive(&mut socket) != 0 {}
        });
        assert!(
            matches!(error, Error::Answer { .. }),
            "{code} {flags}: {error}"
        );
    }
}

#[test]
fn an_announced_length_without_bytes_is_a_time_out_and_no_memory_is_taken_for_it() {
    let error = connect(|mut socket| {
        receive(&mut socket);
        let header = [Request::GetFeatures as u32, REPLY, u32::MAX];
        let bytes: Vec<u8> = header.iter().flat_map(|w| w.to_ne_bytes()).collect();
        socket.write_all(&bytes).unwrap();
        while receive(&mut socket) != 0 {}
    });
    assert!(matches!(error, Error::Timeout(_)), "{error}");
}

#[test]
fn a_legacy_server_is_refused() {
    let error = connect(|mut socket| {
        receive(&mut socket);
        send(
            &mut socket,
            Request::GetFeatures as u32,
            REPLY,
            &0u64.to_ne_bytes(),
        );
        while receive(&mut socket) != 0 {}
    });
    assert!(matches!(error, Error::Missing(_)), "{error}");
}

#[test]
fn a_socket_that_is_not_there_is_named() {
    let error = Initiator::connect("/nonexistent/lunar.sock", Options::default()).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/lunar.sock"));
}
