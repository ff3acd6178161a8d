//! The server of one controller: a socket, a thread, and one front end after the other.

use std::convert::Infallible;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};

use crate::Error;
use crate::back_channel::BackChannel;
use crate::connection::{Connection, End, Gate};
use crate::device::Device;
use crate::message::Message;
use crate::session::{Options, Session};
use crate::socket_file::{Access, SocketFile};

/// A controller's socket, bound and not yet served.
#[derive(Debug)]
pub struct Server {
    name: String,
    gate: Gate,
    /// The connection that was given instead of a listening socket.
    given: Option<UnixStream>,
    /// Removed from the file system when the server ends.
    _file: Option<SocketFile>,
    device: Arc<dyn Device>,
    options: Options,
}

impl Server {
    /// Listens at `path` for front ends of `device`.
    ///
    /// A socket file that a crashed server has left is replaced; one that is in use is an error. From here on front
    /// ends may connect: they wait until [`start`](Server::start).
    pub fn bind(path: &Path, device: Arc<dyn Device>, options: Options) -> Result<Server, Error> {
        let (listener, file) = SocketFile::bind(path, Access::Umask)?;
        Server::new(
            path.display().to_string(),
            Some(listener),
            None,
            Some(file),
            device,
            options,
        )
    }

    /// Serves a socket that somebody else has opened: one that listens, or a connection with a front end, after
    /// which the server ends.
    pub fn from_fd(
        fd: OwnedFd,
        device: Arc<dyn Device>,
        options: Options,
    ) -> Result<Server, Error> {
        let number = fd.as_raw_fd();
        let not_usable = |errno: Errno| Error::Descriptor {
            number,
            source: errno.into(),
        };
        let name = format!("fd {number}");
        let family = rustix::net::sockopt::socket_domain(&fd).map_err(not_usable)?;
        let kind = rustix::net::sockopt::socket_type(&fd).map_err(not_usable)?;
        if family != AddressFamily::UNIX || kind != SocketType::STREAM {
            return Err(not_usable(Errno::PROTOTYPE));
        }
        if rustix::net::sockopt::socket_acceptconn(&fd).map_err(not_usable)? {
            Server::new(name, Some(fd.into()), None, None, device, options)
        } else {
            Server::new(name, None, Some(fd.into()), None, device, options)
        }
    }

    fn new(
        name: String,
        listener: Option<UnixListener>,
        given: Option<UnixStream>,
        file: Option<SocketFile>,
        device: Arc<dyn Device>,
        options: Options,
    ) -> Result<Server, Error> {
        if let Some(listener) = &listener {
            listener.set_nonblocking(true).map_err(Error::Start)?;
        }
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Error::Start(e.into()))?;
        Ok(Server {
            name,
            gate: Gate { stop, listener },
            given,
            _file: file,
            device,
            options,
        })
    }

    /// Serves front ends on a thread of its own.
    pub fn start(self) -> Result<Running, Error> {
        let shared = Arc::new(Shared::default());
        let stop = self.gate.stop.try_clone().map_err(Error::Start)?;
        let thread = std::thread::Builder::new()
            .name("vhost-user".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || self.serve(&shared)
            })
            .map_err(Error::Start)?;
        Ok(Running {
            stop,
            shared,
            thread: Some(thread),
        })
    }

    fn serve(mut self, shared: &Shared) {
        let _span = tracing::info_span!("vhost-user", socket = self.name).entered();
        if let Some(given) = self.given.take() {
            self.serve_one(given, shared);
            return;
        }
        while let Ok(socket) = self.gate.accept() {
            if let End::Stopped = self.serve_one(socket, shared) {
                return;
            }
        }
    }

    /// Serves one front end to its end. It counts as connected from its first message on: who only tries whether the
    /// socket is alive leaves no trace.
    fn serve_one(&self, socket: UnixStream, shared: &Shared) -> End {
        let mut connection = Connection::new(socket, &self.gate);
        let message = match connection.receive() {
            Ok(message) => message,
            Err(End::Closed) => return End::Closed,
            Err(end) => return log_end(end),
        };
        let pid = rustix::net::sockopt::socket_peercred(connection.socket())
            .map(|peer| peer.pid.as_raw_nonzero().get())
            .ok();
        tracing::info!(pid, "front end connected");
        shared.connections.fetch_add(1, Ordering::Relaxed);
        shared.connected.store(true, Ordering::Release);

        let mut session = Session::with_back_channel(
            Arc::clone(&self.device),
            &self.options,
            Arc::clone(&shared.back_channel),
        );
        let Err(end) = converse(&mut session, &mut connection, message);
        // The device lets go of the guest's memory before the front end learns that its connection has ended.
        drop(session);
        shared.connected.store(false, Ordering::Release);
        log_end(end)
    }
}

/// Handles `message` and all that follow.
fn converse(
    session: &mut Session,
    connection: &mut Connection<'_>,
    mut message: Message,
) -> Result<Infallible, End> {
    loop {
        if let Some(reply) = session.handle(message)? {
            connection.send(&reply)?;
        }
        message = connection.receive()?;
    }
}

fn log_end(end: End) -> End {
    match &end {
        End::Stopped | End::Closed => tracing::info!(reason = %end, "front end disconnected"),
        _ => tracing::warn!(reason = %end, "front end disconnected"),
    }
    end
}

/// What the thread and its owner share.
#[derive(Debug, Default)]
struct Shared {
    connected: AtomicBool,
    connections: AtomicU64,
    back_channel: Arc<BackChannel>,
}

/// A server at work; dropping it stops it.
#[derive(Debug)]
pub struct Running {
    stop: OwnedFd,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// A front end is connected.
    pub fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Acquire)
    }

    /// Front ends that have connected so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// The thread has ended: the one connection that was given is over.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Tells the front end, if it wants to know, that the configuration space has changed.
    pub fn config_changed(&self) {
        self.shared.back_channel.config_changed();
    }

    /// Ends the connection, if there is one, disconnects the device, and removes the socket file. What is in flight
    /// completes first.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        // The counter cannot be full: this is the only write.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if thread.join().is_err() {
            tracing::error!("the vhost-user thread has panicked");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
