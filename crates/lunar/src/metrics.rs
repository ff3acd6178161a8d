//! `--metrics`: what Prometheus and its like are told, over HTTP.
//!
//! One thread answers `GET /metrics` and nothing else. Nobody is trusted: a request is at most a few kilobytes long, an
//! exchange takes at most a few seconds, and there are few at a time; who comes when all places are taken waits in the
//! kernel's queue until one of the others has had its time.

mod exchange;
mod text;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use lunar_host::Host;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use exchange::Exchange;

/// Exchanges at a time.
const PLACES: usize = 16;
/// How long an exchange takes at most.
const TIME: Duration = Duration::from_secs(5);
/// Until accepting is tried again when it has failed: no descriptor is left, say.
const PAUSE: Duration = Duration::from_millis(200);

/// Where metrics are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(SocketAddr);

/// `PORT` is for this machine alone; others need `ADDRESS:PORT`.
impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Address, &'static str> {
        let port = text.strip_prefix("localhost:").unwrap_or(text);
        let address = match port.parse() {
            Ok(port) => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
            Err(_) => text
                .parse()
                .map_err(|_| "must be PORT or ADDRESS:PORT, such as 9750 or 192.0.2.1:9750")?,
        };
        Ok(Address(address))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A listener that nobody is answered on yet.
#[derive(Debug)]
pub struct Bound(TcpListener);

/// The thread that answers.
#[derive(Debug)]
pub struct Metrics {
    end: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl Bound {
    /// Takes the address.
    pub fn bind(address: Address) -> anyhow::Result<Bound> {
        let listener = TcpListener::bind(address.0);
        let listener = listener.and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let listener = listener.with_context(|| format!("--metrics {address}"))?;
        Ok(Bound(listener))
    }

    /// Where that is: port 0 has become another.
    pub fn url(&self) -> Option<String> {
        let address = self.0.local_addr().ok()?;
        Some(format!("http://{address}/metrics"))
    }

    /// Answers from now on.
    pub fn start(self, host: &Arc<Host>) -> anyhow::Result<Metrics> {
        let end = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (host, ended) = (Arc::clone(host), Arc::clone(&end));
        let thread = std::thread::Builder::new().name("metrics".to_owned());
        let thread = thread.spawn(move || {
            if let Err(error) = answer(&self.0, &host, &ended) {
                tracing::error!(%error, "metrics are not given any more");
            }
        })?;
        Ok(Metrics { end, thread })
    }
}

impl Metrics {
    /// Answers no more.
    pub fn stop(self) {
        // The counter cannot be full.
        let _ = rustix::io::write(&self.end, &1u64.to_ne_bytes());
        if self.thread.join().is_err() {
            tracing::error!("the thread of the metrics has panicked");
        }
    }
}

fn answer(listener: &TcpListener, host: &Host, end: &OwnedFd) -> io::Result<()> {
    let mut exchanges: Vec<Exchange> = Vec::new();
    let mut resting: Option<Instant> = None;
    loop {
        let now = Instant::now();
        exchanges.retain(|exchange| exchange.deadline > now);
        resting = resting.filter(|until| *until > now);
        let accepts = exchanges.len() < PLACES && resting.is_none();
        let mut fds = vec![PollFd::new(end, PollFlags::IN)];
        fds.extend(exchanges.iter().map(Exchange::poll));
        if accepts {
            fds.push(PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN));
        }
        let next = exchanges.iter().map(|exchange| exchange.deadline);
        let next = next.chain(resting).min();
        let timeout = next.map(|next| {
            // A little later, so that it has passed.
            let left = next.saturating_duration_since(now) + Duration::from_millis(1);
            Timespec::try_from(left).unwrap_or(Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            })
        });
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        if ready.next() == Some(true) {
            return Ok(());
        }
        let of_exchanges: Vec<bool> = ready.by_ref().take(exchanges.len()).collect();
        let arrived = ready.next() == Some(true);
        drop(fds);
        let mut ready = of_exchanges.into_iter();
        exchanges.retain_mut(|exchange| match ready.next() {
            Some(true) => exchange.go_on(|| text::of(host)),
            _ => true,
        });
        if arrived {
            match listener
                .accept()
                .and_then(|(stream, _)| Exchange::new(stream, now + TIME))
            {
                Ok(exchange) => exchanges.push(exchange),
                // Who has left before we looked is no loss.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a reader of the metrics");
                    resting = Some(now + PAUSE);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_for_this_machine() {
        for (text, address) in [
            ("9750", "127.0.0.1:9750"),
            ("localhost:9750", "127.0.0.1:9750"),
            ("0.0.0.0:1", "0.0.0.0:1"),
            ("[::1]:9750", "[::1]:9750"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), address);
        }
        for text in ["", ":9750", "65536", "example.org:80", "127.0.0.1"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
