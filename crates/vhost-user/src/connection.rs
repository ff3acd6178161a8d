//! The socket: bounded, never blocking for longer than the server wants to run.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send,
};
use rustix::time::Timespec;
use vhost::vhost_user::message::MAX_MSG_SIZE;

use crate::message::{FramingError, MAX_DESCRIPTORS, Message, MessageReader, Reply};

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// The server has been told to stop.
    #[error("the server stops")]
    Stopped,
    /// The front end closed the socket between two messages.
    #[error("closed by the front end")]
    Closed,
    #[error("closed by the front end within a message")]
    Truncated,
    #[error(transparent)]
    Framing(#[from] FramingError),
    #[error(transparent)]
    Refused(#[from] crate::session::Refused),
    #[error("socket: {0}")]
    Socket(#[from] Errno),
}

/// Where a server's thread waits: for the front end, and always for the order to stop as well.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Readable when the server is to stop.
    pub(crate) stop: OwnedFd,
    /// Where front ends connect; a server of one given connection has none.
    pub(crate) listener: Option<UnixListener>,
}

impl Gate {
    /// Waits until `socket` is ready for `events`.
    ///
    /// A second front end that connects meanwhile is sent away, so that its user sees an error instead of silence
    /// (VU-060). It is looked at only when the first one has nothing to say, a hang-up included: the successor of a
    /// front end that died finds its place free.
    fn wait(
        &self,
        socket: &UnixStream,
        events: PollFlags,
        turned_away: &mut u32,
    ) -> Result<(), End> {
        loop {
            let mut fds = vec![
                PollFd::new(&self.stop, PollFlags::IN),
                PollFd::new(socket, events),
            ];
            fds.extend(
                self.listener
                    .as_ref()
                    .map(|l| PollFd::new(l, PollFlags::IN)),
            );
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
            if ready.next() == Some(true) {
                return Err(End::Stopped);
            }
            if ready.next() == Some(true) {
                return Ok(());
            }
            // Each was looked at for itself: the front end may have died, and its successor have connected, between the looks.
            // Whoever connects after a hang-up can be seen only after that.
            let mut first = [PollFd::new(socket, events)];
            if poll(&mut first, Some(&Timespec::default())) != Ok(0) {
                return Ok(());
            }
            if let Some(Ok(_closed_here)) = self.listener.as_ref().map(UnixListener::accept) {
                if *turned_away == 0 {
                    tracing::warn!("a second front end was turned away: one at a time");
                }
                *turned_away = turned_away.saturating_add(1);
            }
        }
    }

    /// Waits for a front end. A failure to accept one (no descriptor is left, say) is told once and tried again.
    pub(crate) fn accept(&self) -> Result<UnixStream, End> {
        let Some(listener) = &self.listener else {
            return Err(End::Stopped);
        };
        let mut told = false;
        let mut pause = None;
        loop {
            let mut fds = vec![PollFd::new(&self.stop, PollFlags::IN)];
            if pause.is_none() {
                fds.push(PollFd::new(listener, PollFlags::IN));
            }
            match poll(&mut fds, pause.as_ref()) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            if fds.first().is_some_and(|fd| !fd.revents().is_empty()) {
                return Err(End::Stopped);
            }
            pause = None;
            match listener.accept() {
                Ok((stream, _)) => return Ok(stream),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    if !told {
                        told = true;
                        tracing::error!(%error, "cannot accept a front end; trying on");
                    }
                    pause = Some(ACCEPT_PAUSE);
                }
            }
        }
    }
}

/// Between two attempts to accept a connection when that fails.
const ACCEPT_PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// One front end's connection.
#[derive(Debug)]
pub(crate) struct Connection<'a> {
    socket: UnixStream,
    gate: &'a Gate,
    reader: MessageReader,
    turned_away: u32,
}

impl<'a> Connection<'a> {
    pub(crate) fn new(socket: UnixStream, gate: &'a Gate) -> Connection<'a> {
        Connection {
            socket,
            gate,
            reader: MessageReader::default(),
            turned_away: 0,
        }
    }

    pub(crate) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// The next message, when it is complete. A front end may take any time over it.
    pub(crate) fn receive(&mut self) -> Result<Message, End> {
        let mut bytes = [0u8; MAX_MSG_SIZE];
        loop {
            let wanted = self.reader.wanted();
            let (into, _) = bytes.split_at_mut_checked(wanted).unwrap_or_default();
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(into)],
                &mut control,
                RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
            );
            let received = match received {
                Err(Errno::AGAIN) => {
                    self.gate
                        .wait(&self.socket, PollFlags::IN, &mut self.turned_away)?;
                    continue;
                }
                Err(Errno::INTR) => continue,
                // A front end that died with replies unread.
                Err(Errno::CONNRESET) => return Err(End::Closed),
                other => other?,
            };
            if received.flags.contains(ReturnFlags::CTRUNC) {
                return Err(FramingError::Descriptors.into());
            }
            if received.bytes == 0 {
                return Err(if self.reader.is_inside_message() {
                    End::Truncated
                } else {
                    End::Closed
                });
            }
            let descriptors = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            });
            let got = into.get(..received.bytes).unwrap_or_default();
            if let Some(message) = self.reader.feed(got, descriptors.flatten())? {
                return Ok(message);
            }
        }
    }

    /// Sends a reply, waiting for a front end that reads slowly.
    pub(crate) fn send(&mut self, reply: &Reply) -> Result<(), End> {
        let bytes = reply.to_bytes();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match send(
                &self.socket,
                rest,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(Errno::AGAIN) => {
                    self.gate
                        .wait(&self.socket, PollFlags::OUT, &mut self.turned_away)?;
                }
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(End::Closed),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}
