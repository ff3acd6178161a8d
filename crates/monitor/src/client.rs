//! The other end: a program that gives a running server commands, and hears of events.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How long a server has for its greeting. What listens on other sockets, such as a controller's, says nothing.
const GREETING: Duration = Duration::from_secs(10);

/// A session with a server. Answers come in the order of the commands, events at any time, on a thread of their own.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    answers: Receiver<Value>,
    patience: Option<Duration>,
    server: String,
}

/// Why there is no session, or no answer that helps.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody answers there.
    #[error("{}: no server takes commands here", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Somebody else does.
    #[error("{}: what answers here speaks no QMP", .0.display())]
    Stranger(PathBuf),
    /// It does not want us, for the reason that it gives.
    #[error("{0}")]
    Turned(String),
    /// It went away.
    #[error("the server has closed the connection")]
    Gone,
    /// It takes its time. The session is of no use any more.
    #[error("the server does not answer")]
    Silent,
    /// It refuses the command, in its own words.
    #[error("{0}")]
    Refused(String),
    /// Its answer is not what this version understands.
    #[error("{command}: the server's answer is not understood")]
    Answer {
        /// The command.
        command: String,
        /// What is wrong with the answer.
        source: serde_json::Error,
    },
}

impl Client {
    /// Begins a session at a monitor's socket. Each event is handed to `event` as it came, until the connection ends.
    ///
    /// # Errors
    /// Nobody answers there, or nobody who speaks QMP, or it has enough clients.
    pub fn connect(
        path: &Path,
        event: impl FnMut(Value) + Send + 'static,
    ) -> Result<Client, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| refused(path, source))?;
        Client::begin(stream, path, None, event)
    }

    /// The same with a server that may hang: it has this long for each answer, and must have room for a client now.
    ///
    /// # Errors
    /// As those of [`Client::connect`].
    pub fn connect_within(
        path: &Path,
        patience: Duration,
        event: impl FnMut(Value) + Send + 'static,
    ) -> Result<Client, ClientError> {
        let connect = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            // Without waiting: a server that accepts nobody would keep us for ever.
            rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
            let stream = UnixStream::from(socket);
            stream.set_nonblocking(false)?;
            stream.set_write_timeout(Some(patience))?;
            Ok(stream)
        };
        let stream = connect().map_err(|source| refused(path, source))?;
        Client::begin(stream, path, Some(patience), event)
    }

    fn begin(
        stream: UnixStream,
        path: &Path,
        patience: Option<Duration>,
        event: impl FnMut(Value) + Send + 'static,
    ) -> Result<Client, ClientError> {
        let refused = |source| refused(path, source);
        let stranger = || ClientError::Stranger(path.to_owned());
        let mut reader = BufReader::new(stream.try_clone().map_err(refused)?);
        stream
            .set_read_timeout(Some(patience.unwrap_or(GREETING)))
            .map_err(refused)?;
        let mut greeting = String::new();
        reader.read_line(&mut greeting).map_err(|_| stranger())?;
        stream.set_read_timeout(None).map_err(refused)?;
        let greeting: Value = serde_json::from_str(&greeting).map_err(|_| stranger())?;
        let text = |pointer: &str| greeting.pointer(pointer).and_then(Value::as_str);
        if let Some(reason) = text("/error/desc") {
            return Err(ClientError::Turned(reason.to_owned()));
        }
        let server = text("/QMP/version/package")
            .ok_or_else(stranger)?
            .to_owned();
        let (sender, answers) = channel();
        std::thread::Builder::new()
            .name("answers".into())
            .spawn(move || receive(reader, &sender, event))
            .map_err(refused)?;
        let mut client = Client {
            stream,
            answers,
            patience,
            server,
        };
        client.execute::<Value>("qmp_capabilities", json!({}))?;
        Ok(client)
    }

    /// What the server says it is.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Sends a message as it is, and returns the whole answer to it.
    ///
    /// # Errors
    /// The server has gone.
    pub fn ask(&mut self, message: &Value) -> Result<Value, ClientError> {
        writeln!(self.stream, "{message}").map_err(|_| ClientError::Gone)?;
        match self.patience {
            None => self.answers.recv().map_err(|_| ClientError::Gone),
            Some(time) => self
                .answers
                .recv_timeout(time)
                .map_err(|error| match error {
                    RecvTimeoutError::Timeout => ClientError::Silent,
                    RecvTimeoutError::Disconnected => ClientError::Gone,
                }),
        }
    }

    /// What a command returns.
    ///
    /// # Errors
    /// The server refuses it, has gone, or answers something else.
    pub fn execute<R: DeserializeOwned>(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<R, ClientError> {
        let mut answer = self.ask(&json!({"execute": command, "arguments": arguments}))?;
        if let Some(error) = answer.get("error") {
            let reason = error.get("desc").and_then(Value::as_str);
            let reason = reason.unwrap_or("the server gives no reason");
            return Err(ClientError::Refused(reason.to_owned()));
        }
        let value = answer.get_mut("return").map(Value::take);
        serde_json::from_value(value.unwrap_or_default()).map_err(|source| ClientError::Answer {
            command: command.to_owned(),
            source,
        })
    }

    /// What the server says to a line as people type it.
    ///
    /// # Errors
    /// The server has gone, or knows no such lines. That the line is wrong is part of what it says.
    pub fn line(&mut self, line: &str) -> Result<String, ClientError> {
        let arguments = json!({"command-line": line});
        self.execute("human-monitor-command", arguments)
    }

    /// Waits until the server closes the connection, and every event has been handed over.
    pub fn wait_for_end(&mut self) {
        while self.answers.recv().is_ok() {}
    }
}

fn refused(path: &Path, source: std::io::Error) -> ClientError {
    ClientError::Connect {
        path: path.to_owned(),
        source,
    }
}

impl Drop for Client {
    /// Ends the thread that waits for answers, and with it the events.
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// Hands answers and events on, until the connection ends or nobody wants answers any more.
fn receive(reader: impl BufRead, answers: &Sender<Value>, mut event: impl FnMut(Value)) {
    for line in reader.lines() {
        let Ok(message) = line
            .map_err(serde_json::Error::io)
            .and_then(|line| serde_json::from_str::<Value>(&line))
        else {
            return;
        };
        if message.get("event").is_some() {
            event(message);
        } else if answers.send(message).is_err() {
            return;
        }
    }
}
