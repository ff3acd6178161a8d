//! vhost-user messages, the front end's half (VU-001 and VU-010 to VU-024).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};

use crate::Error;

/// What a message asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs, reason = "the specification's names")]
pub enum Request {
    GetFeatures = 1,
    SetFeatures = 2,
    SetOwner = 3,
    ResetOwner = 4,
    SetMemTable = 5,
    SetVringNum = 8,
    SetVringAddr = 9,
    SetVringBase = 10,
    GetVringBase = 11,
    SetVringKick = 12,
    SetVringCall = 13,
    SetVringErr = 14,
    GetProtocolFeatures = 15,
    SetProtocolFeatures = 16,
    GetQueueNum = 17,
    SetVringEnable = 18,
    SetBackendReqFd = 21,
    GetConfig = 24,
    SetConfig = 25,
    ResetDevice = 34,
    GetMaxMemSlots = 36,
    AddMemReg = 37,
    RemMemReg = 38,
    SetStatus = 39,
    GetStatus = 40,
}

/// A region of guest memory, as messages describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Guest-physical address.
    pub gpa: u64,
    /// Bytes.
    pub size: u64,
    /// This side's address.
    pub user_addr: u64,
    /// Where it starts in the file.
    pub offset: u64,
}

impl Region {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        words(&[self.gpa, self.size, self.user_addr, self.offset])
    }
}

/// Where a ring's parts are, as user addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// Descriptor table.
    pub desc: u64,
    /// Used ring.
    pub used: u64,
    /// Available ring.
    pub avail: u64,
}

/// The bytes of 64-bit words in the host's order.
pub(crate) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_ne_bytes()).collect()
}

/// The bytes of 32-bit words in the host's order.
pub(crate) fn halves(halves: &[u32]) -> Vec<u8> {
    halves.iter().flat_map(|w| w.to_ne_bytes()).collect()
}

const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;
const HEADER: usize = 12;
/// Longer payloads than this are not read: no answer is.
const MAX_PAYLOAD: u32 = 4096;
/// Descriptors that one message carries at most.
const MAX_FDS: usize = 8;

/// One socket of a vhost-user connection.
#[derive(Clone, Debug)]
pub struct Channel {
    socket: Arc<OwnedFd>,
    timeout: Duration,
}

impl Channel {
    /// Speaks over `stream`; waits at most `timeout` for an answer, and for room to send.
    pub fn new(stream: UnixStream, timeout: Duration) -> Channel {
        Channel {
            socket: Arc::new(stream.into()),
            timeout,
        }
    }

    /// The socket.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Closes the connection in both directions, whoever else holds the socket.
    pub fn close(&self) {
        // It may be closed already, which is the wanted state.
        let _ = shutdown(&*self.socket, Shutdown::Both);
    }

    /// Sends a message and does not wait.
    pub fn send(
        &self,
        request: Request,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        self.send_flagged(request, VERSION, payload, fds)
    }

    /// Sends a message that asks for an acknowledgement, and waits for it (VU-005).
    pub fn send_acknowledged(
        &self,
        request: Request,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        self.send_flagged(request, VERSION | NEED_REPLY, payload, fds)?;
        match self.receive_word(request)? {
            0 => Ok(()),
            _ => Err(Error::Refused(request)),
        }
    }

    /// Sends a message that has an answer of its own, and waits for it.
    pub fn ask(&self, request: Request, payload: &[u8]) -> Result<Vec<u8>, Error> {
        self.send_flagged(request, VERSION, payload, &[])?;
        self.receive(request)
    }

    /// Like [`Channel::ask`], for an answer of one 64-bit word.
    pub fn ask_word(&self, request: Request, payload: &[u8]) -> Result<u64, Error> {
        self.send_flagged(request, VERSION, payload, &[])?;
        self.receive_word(request)
    }

    fn send_flagged(
        &self,
        request: Request,
        flags: u32,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut bytes = halves(&[request as u32, flags, size]);
        bytes.extend_from_slice(payload);
        self.send_bytes(&bytes, fds)
    }

    /// Sends these bytes, whatever they mean, with descriptors attached to the first.
    pub fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let deadline = Instant::now() + self.timeout;
        let mut rest = bytes;
        let mut fds = fds;
        while !rest.is_empty() {
            self.wait_for(PollFlags::OUT, deadline)?;
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(Error::System("sendmsg", Errno::TOOMANYREFS));
            }
            let data = [IoSlice::new(rest)];
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&*self.socket, &data, &mut control, flags) {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    fds = &[];
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Error::Disconnected),
                Err(e) => return Err(Error::System("sendmsg", e)),
            }
        }
        Ok(())
    }

    fn receive_word(&self, request: Request) -> Result<u64, Error> {
        let bytes = self.receive(request)?;
        let bytes = bytes.try_into().map_err(|_| Error::Answer {
            request,
            what: "not one 64-bit word",
        })?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Waits for the answer to `request`.
    fn receive(&self, request: Request) -> Result<Vec<u8>, Error> {
        let (code, flags, payload) = self.receive_any()?;
        let wrong = |what| Err(Error::Answer { request, what });
        if code != request as u32 {
            return wrong("it answers another message");
        }
        if flags & 3 != VERSION || flags & REPLY == 0 {
            return wrong("its flags are not those of a reply");
        }
        Ok(payload)
    }

    /// Waits for a message: its code, flags and payload.
    pub(crate) fn receive_any(&self) -> Result<(u32, u32, Vec<u8>), Error> {
        let deadline = Instant::now() + self.timeout;
        let mut header = [0; HEADER];
        self.receive_bytes(&mut header, deadline)?;
        let mut fields = header
            .chunks_exact(4)
            .map(|c| u32::from_ne_bytes(c.try_into().unwrap_or_default()));
        let mut field = || fields.next().unwrap_or_default();
        let (code, flags, size) = (field(), field(), field());
        let mut payload = vec![0; usize::try_from(size.min(MAX_PAYLOAD)).unwrap_or(0)];
        self.receive_bytes(&mut payload, deadline)?;
        Ok((code, flags, payload))
    }

    fn receive_bytes(&self, to: &mut [u8], deadline: Instant) -> Result<(), Error> {
        let mut done = 0;
        while let Some(rest) = to.get_mut(done..).filter(|r| !r.is_empty()) {
            self.wait_for(PollFlags::IN, deadline)?;
            // Without room for descriptors, the kernel closes those that come along.
            let mut control = RecvAncillaryBuffer::default();
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let mut data = [IoSliceMut::new(rest)];
            match recvmsg(&*self.socket, &mut data, &mut control, flags) {
                Ok(message) if message.bytes == 0 => return Err(Error::Disconnected),
                Ok(message) if message.flags.contains(ReturnFlags::CTRUNC) => {
                    return Err(Error::System("recvmsg", Errno::TOOMANYREFS));
                }
                Ok(message) => done += message.bytes,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Err(Error::Disconnected),
                Err(e) => return Err(Error::System("recvmsg", e)),
            }
        }
        Ok(())
    }

    fn wait_for(&self, flags: PollFlags, deadline: Instant) -> Result<(), Error> {
        let mut fds = [PollFd::new(&*self.socket, flags)];
        match poll_until(&mut fds, deadline)? {
            true => Ok(()),
            false => Err(Error::Timeout("answer")),
        }
    }

    /// Whether the server has closed its end.
    pub(crate) fn is_closed(&self) -> bool {
        let mut fds = [PollFd::new(&*self.socket, PollFlags::RDHUP)];
        let found = poll(&mut fds, Some(&Timespec::default()));
        let gone = PollFlags::RDHUP | PollFlags::HUP;
        found.is_ok() && fds.iter().any(|fd| fd.revents().intersects(gone))
    }
}

/// Waits until one of `fds` has an event; false if the deadline came first.
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], deadline: Instant) -> Result<bool, Error> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec {
            tv_sec: 3600,
            tv_nsec: 0,
        });
        match poll(fds, Some(&timeout)) {
            Ok(0) if Instant::now() >= deadline => return Ok(false),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(e) => return Err(Error::System("poll", e)),
        }
    }
}
