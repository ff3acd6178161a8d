//! One request and its answer.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};

/// More of a request than this is not read.
const LONGEST: usize = 8 << 10;

/// A connection, on which one request is answered.
#[derive(Debug)]
pub struct Exchange {
    stream: TcpStream,
    request: Vec<u8>,
    /// What is still to be sent, when the request is there.
    response: Option<Vec<u8>>,
    sent: usize,
    /// It ends here, whatever has been reached.
    pub deadline: Instant,
}

impl Exchange {
    pub fn new(stream: TcpStream, deadline: Instant) -> std::io::Result<Exchange> {
        stream.set_nonblocking(true)?;
        Ok(Exchange {
            stream,
            request: Vec::new(),
            response: None,
            sent: 0,
            deadline,
        })
    }

    /// What it waits for.
    pub fn poll(&self) -> PollFd<'_> {
        let flags = match &self.response {
            Some(response) if self.sent < response.len() => PollFlags::OUT,
            _ => PollFlags::IN,
        };
        PollFd::new(&self.stream, flags)
    }

    /// Goes on as far as it can without waiting; `false` when it is over.
    pub fn go_on(&mut self, metrics: impl FnOnce() -> String) -> bool {
        let mut buffer = [0; 2048];
        if self.response.is_none() {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(n) => self.request.extend(buffer.iter().take(n)),
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
            self.response = respond(&self.request, metrics).map(String::into_bytes);
        }
        let Some(response) = &self.response else {
            return true;
        };
        let rest = response.get(self.sent..).unwrap_or_default();
        if rest.is_empty() {
            // Until the reader closes, too: what it has sent and we have not read would take the answer away from it.
            return match self.stream.read(&mut buffer) {
                Ok(n) => n != 0,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            };
        }
        match self.stream.write(rest) {
            Ok(n) => self.sent += n,
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
        self.sent < response.len() || self.stream.shutdown(Shutdown::Write).is_ok()
    }
}

/// The answer to a request, as soon as enough of it is there.
fn respond(request: &[u8], metrics: impl FnOnce() -> String) -> Option<String> {
    let complete = request.windows(4).any(|bytes| bytes == b"\r\n\r\n")
        || request.windows(2).any(|bytes| bytes == b"\n\n");
    if !complete {
        let long = "the request is too long\n";
        return (request.len() > LONGEST)
            .then(|| plain("431 Request Header Fields Too Large", long));
    }
    let line = request.split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
    let line = str::from_utf8(line).unwrap_or_default();
    let words: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = words.as_slice() else {
        return Some(plain("400 Bad Request", "this is not HTTP\n"));
    };
    if !version.starts_with("HTTP/1.") {
        return Some(plain("400 Bad Request", "this is not HTTP/1.1\n"));
    }
    if !matches!(*method, "GET" | "HEAD") {
        let refusal = plain("405 Method Not Allowed", "metrics are only read\n");
        return Some(refusal.replacen("\r\n", "\r\nAllow: GET, HEAD\r\n", 1));
    }
    let (path, _) = target.split_once('?').unwrap_or((target, ""));
    let (status, kind, body) = match path {
        "/metrics" => ("200 OK", TEXT_FORMAT, metrics()),
        "/" => ("200 OK", PLAIN, "Lunar: /metrics\n".to_owned()),
        _ => ("404 Not Found", PLAIN, "there is /metrics\n".to_owned()),
    };
    let mut response = head(status, kind, body.len());
    if *method == "GET" {
        response.push_str(&body);
    }
    Some(response)
}

const PLAIN: &str = "text/plain; charset=utf-8";
/// The version of Prometheus's text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

fn plain(status: &str, body: &str) -> String {
    head(status, PLAIN, body.len()) + body
}

fn head(status: &str, kind: &str, length: usize) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(request: &str) -> Option<String> {
        respond(request.as_bytes(), || "x 1\n".to_owned())
    }

    #[test]
    fn metrics_are_given_to_who_asks_for_them() {
        let response = answer("GET /metrics?x=y HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert!(response.contains("Content-Type: text/plain; version=0.0.4"));
        assert!(response.contains("Content-Length: 4\r\n"));
        assert!(response.ends_with("\r\n\r\nx 1\n"));
        let head = answer("HEAD /metrics HTTP/1.0\n\n").unwrap();
        assert!(head.ends_with("\r\n\r\n"));
        assert!(head.contains("Content-Length: 4\r\n"));
    }

    #[test]
    fn everything_else_is_refused() {
        for (request, status) in [
            ("GET /secret HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET /metrics\r\n\r\n", "400"),
            ("GET  /metrics HTTP/1.1\r\n\r\n", "400"),
            ("GET /metrics HTTP/2\r\n\r\n", "400"),
            ("\r\n\r\n", "400"),
            ("\u{1}\u{2}\n\n", "400"),
        ] {
            let response = answer(request).unwrap();
            assert!(
                response.starts_with(&format!("HTTP/1.1 {status} ")),
                "{request:?}: {response}"
            );
        }
        assert!(answer("GET /metrics HTTP/1.1\r\nHost: a\r\n").is_none());
        let endless = "x".repeat(LONGEST + 1);
        assert!(answer(&endless).unwrap().starts_with("HTTP/1.1 431 "));
        assert!(respond(b"GET \xff\xfe HTTP/1.1\r\n\r\n", String::new).is_some());
    }
}
