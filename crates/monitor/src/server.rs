//! Clients on sockets and on standard input, all served by one thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lunar_vhost_user::{Access, SocketFile};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::command::Table;
use crate::event::{Limiter, Notice};
use crate::session::{Session, line};
use crate::{Error, Version};

/// Clients that are served at a time. A connection costs a descriptor, of which images need many.
pub const MAX_CLIENTS: usize = 64;

/// Read from a client at a time.
const CHUNK: usize = 1 << 16;

/// A client with more than this to read does not get further commands carried out.
const BACKPRESSURE: usize = 1 << 16;

/// A client with more than this to read when there is an event has stopped reading.
const MAX_UNREAD: usize = 1 << 20;

/// Commands of one client before the others have their turn.
const TURN: usize = 16;

/// Clients that are accepted before the others have their turn.
const ACCEPT_TURN: usize = 16;

/// How long a client has at the end to read what was said to it.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long nobody is accepted after that has failed, for want of descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The most that a write to a pipe takes without waiting, once the pipe is writable (`PIPE_BUF`).
const PIPE_WRITE: usize = 4096;

/// Where clients are met.
#[derive(Debug)]
pub enum Endpoint {
    /// A socket on which any number of clients connect.
    Socket(UnixListener, SocketFile),
    /// Two pipes, or a terminal twice: one client.
    Pair(OwnedFd, OwnedFd),
}

impl Endpoint {
    /// A socket at `path`, for this user alone.
    pub fn bind(path: &Path) -> Result<Endpoint, lunar_vhost_user::Error> {
        let (listener, file) = SocketFile::bind(path, Access::Owner)?;
        Ok(Endpoint::Socket(listener, file))
    }

    /// Standard input and output.
    pub fn stdio() -> io::Result<Endpoint> {
        Ok(Endpoint::Pair(
            io::stdin().as_fd().try_clone_to_owned()?,
            io::stdout().as_fd().try_clone_to_owned()?,
        ))
    }
}

/// A server that is ready to be started.
#[derive(Debug)]
pub struct Server<S> {
    table: Table<S>,
    subject: S,
    version: Version,
    listeners: Vec<(UnixListener, SocketFile)>,
    clients: Vec<Client>,
    /// Nobody is accepted before this.
    pause: Option<Instant>,
    inbox: Arc<Inbox>,
}

impl<S: Send + Sync + 'static> Server<S> {
    /// Will carry out the commands of `table` on `subject` for the clients of all `endpoints`.
    pub fn new(
        table: Table<S>,
        subject: S,
        version: Version,
        endpoints: Vec<Endpoint>,
    ) -> io::Result<Server<S>> {
        let mut server = Server {
            table,
            subject,
            version,
            listeners: Vec::new(),
            clients: Vec::new(),
            pause: None,
            inbox: Arc::new(Inbox::new()?),
        };
        for endpoint in endpoints {
            match endpoint {
                Endpoint::Socket(listener, file) => {
                    listener.set_nonblocking(true)?;
                    server.listeners.push((listener, file));
                }
                Endpoint::Pair(input, output) => {
                    let client = Client::new(Stream::Pair(input, output), &server.version);
                    server.clients.push(client);
                }
            }
        }
        Ok(server)
    }

    /// What tells the clients of events.
    pub fn notifier(&self) -> Notifier {
        Notifier(Arc::clone(&self.inbox))
    }

    /// Serves on a thread of its own.
    pub fn start(self) -> io::Result<Running> {
        let inbox = Arc::clone(&self.inbox);
        let thread = std::thread::Builder::new()
            .name("monitor".into())
            .spawn(move || self.serve())?;
        Ok(Running {
            inbox,
            thread: Some(thread),
        })
    }

    fn serve(mut self) {
        while !self.inbox.lock().stop {
            if let Err(error) = self.round() {
                tracing::error!(%error, "the monitor has failed");
                return;
            }
        }
        self.notify();
        self.farewell();
    }

    /// Waits until there is something to do, and does it.
    fn round(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.pause = self.pause.filter(|until| now < *until);
        let listeners = match self.pause {
            None => self.listeners.as_slice(),
            Some(_) => &[],
        };
        let mut fds = vec![PollFd::new(&self.inbox.wake, PollFlags::IN)];
        for (listener, _) in listeners {
            fds.push(PollFd::new(listener, PollFlags::IN));
        }
        let first_client = fds.len();
        for client in &self.clients {
            client.poll_fds(&mut fds);
        }
        let busy = self.clients.iter().any(Client::may_proceed);
        let deadline = self.inbox.lock().limiter.deadline();
        let wait = deadline
            .into_iter()
            .chain(self.pause)
            .map(|until| until.saturating_duration_since(now))
            .min()
            .map(|wait| if busy { Duration::ZERO } else { wait })
            .or(busy.then_some(Duration::ZERO));
        let timeout = wait.and_then(|wait| Timespec::try_from(wait).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        let (woken, others) = ready.split_at(1);
        let (knocked, spoken) = others.split_at((first_client - 1).min(others.len()));

        if woken.iter().any(|flags| !flags.is_empty()) {
            let _ = rustix::io::read(&self.inbox.wake, &mut [0; 8]);
        }
        let mut spoken = spoken.chunks(2);
        for client in &mut self.clients {
            let Some([input, output]) = spoken.next() else {
                break;
            };
            if !input.is_empty() {
                client.receive();
            }
            client.heard_of_output(*output);
            client.proceed(&self.table, &self.subject);
        }
        self.notify();
        for client in &mut self.clients {
            client.send();
        }
        self.clients.retain(|client| !client.gone);
        let knocked: Vec<usize> = (0..)
            .zip(knocked)
            .filter(|(_, flags)| !flags.is_empty())
            .map(|(i, _)| i)
            .collect();
        for number in knocked {
            self.accept(number);
        }
        Ok(())
    }

    /// Tells every client that has begun its session what has happened.
    fn notify(&mut self) {
        let notices = self.inbox.take();
        for notice in notices {
            let message = notice.to_message();
            for client in &mut self.clients {
                client.tell(&message);
            }
        }
    }

    fn accept(&mut self, number: usize) {
        let Some((listener, _)) = self.listeners.get(number) else {
            return;
        };
        for _ in 0..ACCEPT_TURN {
            match listener.accept() {
                Ok((stream, _)) => {
                    let client = Client::new(Stream::Socket(stream), &self.version);
                    admit(&mut self.clients, client);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a monitor client");
                    self.pause = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    /// Gives the clients time to read what they have not read yet.
    fn farewell(&mut self) {
        let end = Instant::now() + FAREWELL;
        loop {
            for client in &mut self.clients {
                client.send();
            }
            self.clients
                .retain(|client| !client.gone && !client.output.is_empty());
            let left = end.saturating_duration_since(Instant::now());
            if self.clients.is_empty() || left.is_zero() {
                return;
            }
            let mut fds: Vec<_> = self
                .clients
                .iter()
                .map(|client| PollFd::from_borrowed_fd(client.stream.output(), PollFlags::OUT))
                .collect();
            let _ = poll(&mut fds, Timespec::try_from(left).ok().as_ref());
            let ready: Vec<_> = fds.iter().map(PollFd::revents).collect();
            for (client, ready) in self.clients.iter_mut().zip(ready) {
                client.heard_of_output(ready);
            }
        }
    }
}

/// Takes a client in; if there are too many, in the place of the one that has said nothing for longest.
fn admit(clients: &mut Vec<Client>, mut client: Client) {
    if clients.len() >= MAX_CLIENTS {
        let idle = clients.iter().position(Client::is_idle);
        match idle {
            Some(idle) => {
                clients.remove(idle);
            }
            None => {
                client.output = line(&serde_json::json!({"error": Error::generic(format!(
                    "this monitor serves {MAX_CLIENTS} clients, and all are there; try again later"
                ))}));
                client.send();
                return;
            }
        }
    }
    clients.push(client);
}

/// A connection.
#[derive(Debug)]
enum Stream {
    Socket(UnixStream),
    Pair(OwnedFd, OwnedFd),
}

impl Stream {
    fn input(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Socket(stream) => stream.as_fd(),
            Stream::Pair(input, _) => input.as_fd(),
        }
    }

    fn output(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Socket(stream) => stream.as_fd(),
            Stream::Pair(_, output) => output.as_fd(),
        }
    }

    /// Writes without waiting.
    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match self {
            Stream::Socket(stream) => rustix::net::send(
                stream,
                bytes,
                rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL,
            ),
            // Not ours alone, so that it stays as it is: whoever shares the terminal does not expect it to refuse.
            Stream::Pair(_, output) => {
                let some = bytes.get(..PIPE_WRITE).unwrap_or(bytes);
                rustix::io::write(output, some)
            }
        }
    }

    /// Reads what is there; called only when something is.
    fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Stream::Socket(stream) => {
                rustix::net::recv(stream, buffer, rustix::net::RecvFlags::DONTWAIT)
                    .map(|(read, _)| read)
            }
            Stream::Pair(input, _) => rustix::io::read(input, buffer),
        }
    }
}

/// Someone at the other end.
#[derive(Debug)]
struct Client {
    stream: Stream,
    session: Session,
    /// Received and not yet looked at.
    input: Vec<u8>,
    /// Said and not yet sent.
    output: Vec<u8>,
    writable: bool,
    /// No more will come; what has come is still answered.
    ended: bool,
    gone: bool,
}

impl Client {
    fn new(stream: Stream, version: &Version) -> Client {
        Client {
            // A socket that has just been made takes what fits; for others poll says so first.
            writable: matches!(stream, Stream::Socket(_)),
            stream,
            session: Session::default(),
            input: Vec::new(),
            output: Session::greeting(version),
            ended: false,
            gone: false,
        }
    }

    /// Two entries: one for its input, one for its output.
    fn poll_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        let reads = self.input.is_empty() && !self.ended && !self.is_behind();
        let input = if reads {
            PollFlags::IN
        } else {
            PollFlags::empty()
        };
        let writes = !self.output.is_empty();
        let output = if writes {
            PollFlags::OUT
        } else {
            PollFlags::empty()
        };
        fds.push(PollFd::from_borrowed_fd(self.stream.input(), input));
        fds.push(PollFd::from_borrowed_fd(self.stream.output(), output));
    }

    /// It has so much to read that nothing more is done for it.
    fn is_behind(&self) -> bool {
        self.output.len() > BACKPRESSURE
    }

    /// There may be a command to carry out although nothing new has come.
    fn may_proceed(&self) -> bool {
        !self.input.is_empty() && !self.is_behind()
    }

    /// Its place may be given to another.
    fn is_idle(&self) -> bool {
        matches!(self.stream, Stream::Socket(_)) && !self.session.is_negotiated()
    }

    /// What `poll` says of its output.
    fn heard_of_output(&mut self, flags: PollFlags) {
        self.writable |= flags.contains(PollFlags::OUT);
        // A pipe without a reader stays so. A socket may still have commands to read.
        let broken = flags.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
        self.gone |= broken && matches!(self.stream, Stream::Pair(..));
    }

    fn receive(&mut self) {
        if self.ended || !self.input.is_empty() {
            // Nothing was asked for: the other end has gone altogether.
            self.gone |= self.ended;
            return;
        }
        let mut buffer = vec![0; CHUNK];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.ended = true,
            Ok(read) => {
                buffer.truncate(read);
                self.input = buffer;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.gone = true,
        }
    }

    /// Carries out some of its commands.
    fn proceed<S>(&mut self, table: &Table<S>, subject: &S) {
        for _ in 0..TURN {
            if !self.may_proceed() || self.gone {
                break;
            }
            let mut rest = self.input.as_slice();
            let answer = self.session.next(&mut rest, table, subject);
            let taken = self.input.len() - rest.len();
            self.input.drain(..taken);
            self.output.extend(answer.unwrap_or_default());
        }
        if self.input.is_empty() {
            // An idle client keeps no buffer.
            self.input = Vec::new();
        }
    }

    /// Tells it of an event, if it reads.
    fn tell(&mut self, message: &[u8]) {
        if !self.session.is_negotiated() {
            return;
        }
        if self.output.len() > MAX_UNREAD {
            tracing::warn!("a monitor client does not read its events; it is disconnected");
            self.gone = true;
            return;
        }
        self.output.extend(message);
    }

    /// Sends what can be sent without waiting.
    fn send(&mut self) {
        let mut sent = 0;
        while let Some(rest) = self.output.get(sent..).filter(|rest| !rest.is_empty()) {
            let once = matches!(self.stream, Stream::Pair(..));
            if once && !std::mem::take(&mut self.writable) {
                break;
            }
            match self.stream.write(rest) {
                Ok(written) => sent += written,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.gone = true;
                    break;
                }
            }
        }
        self.output.drain(..sent);
        if self.output.is_empty() {
            self.output = Vec::new();
            self.gone |= self.ended && self.input.is_empty();
        }
    }
}

/// What other threads leave for the monitor's.
#[derive(Debug)]
struct Inbox {
    state: Mutex<Waiting>,
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct Waiting {
    notices: Vec<Notice>,
    limiter: Limiter,
    stop: bool,
}

impl Inbox {
    fn new() -> io::Result<Inbox> {
        Ok(Inbox {
            state: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be told now.
    fn take(&self) -> Vec<Notice> {
        let mut state = self.lock();
        let mut notices = std::mem::take(&mut state.notices);
        notices.extend(state.limiter.due(Instant::now()));
        notices
    }

    fn wake(&self) {
        // The counter cannot be full, and if it were, the thread would be awake.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// Tells clients of events, from any thread and without waiting.
#[derive(Clone, Debug)]
pub struct Notifier(Arc<Inbox>);

impl Notifier {
    /// Tells every client, or holds back what is limited.
    pub fn notify(&self, notice: Notice) {
        let mut state = self.0.lock();
        let told = state.limiter.admit(notice, Instant::now());
        state.notices.extend(told);
        drop(state);
        // Also for a notice that is held back: the thread has to know until when.
        self.0.wake();
    }
}

/// A server at work; dropping it stops it.
#[derive(Debug)]
pub struct Running {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// What tells the clients of events.
    pub fn notifier(&self) -> Notifier {
        Notifier(Arc::clone(&self.inbox))
    }

    /// Ends all sessions, after clients that read have got what was said to them.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.inbox.lock().stop = true;
        self.inbox.wake();
        if thread.join().is_err() {
            tracing::error!("the monitor's thread has panicked");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
