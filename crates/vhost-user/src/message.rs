//! Messages: how bytes and descriptors from the socket become one request, and what a request must look like.
//!
//! [`MessageReader`] assembles messages without knowing sockets: it says how many bytes it wants next, takes what
//! arrived, and yields a [`Message`] when one is complete. It never wants a byte beyond the current message, because
//! the kernel hands out descriptors with the bytes they were sent with: reading ahead would give one message the
//! descriptors of the next (VU-001).

use std::mem::size_of;
use std::os::fd::OwnedFd;

use vhost::vhost_user::message::{
    FrontendReq, MAX_MSG_SIZE, VhostUserConfig, VhostUserHeaderFlag, VhostUserMemory,
    VhostUserMemoryRegion, VhostUserSingleMemoryRegion, VhostUserU64, VhostUserVringAddr,
    VhostUserVringState,
};
use vm_memory::ByteValued;

/// Bytes of a message's header: request, flags and payload size, 32 bits each in the host's byte order.
pub const HEADER_SIZE: usize = 12;

/// Descriptors that one message may carry: one for each region of SET_MEM_TABLE (VU-011).
pub const MAX_DESCRIPTORS: usize = 8;

/// Bytes of configuration space that GET_CONFIG and SET_CONFIG may move: as large as any virtio device's.
const MAX_CONFIG: usize = 256;

/// The protocol version in every header.
const VERSION: u32 = 1;

/// Why the byte stream cannot be followed any longer: the connection ends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FramingError {
    /// Not a version 1 request.
    #[error("message {request} has flags {flags:#x}: not a request of protocol version 1")]
    Flags {
        /// The header's request code.
        request: u32,
        /// The header's flags.
        flags: u32,
    },
    /// The payload is larger than any message defined.
    #[error("message {request} announces {size} bytes of payload")]
    Oversize {
        /// The header's request code.
        request: u32,
        /// The header's payload size.
        size: u32,
    },
    /// More descriptors than any message carries.
    #[error("a message carries more than {MAX_DESCRIPTORS} descriptors")]
    Descriptors,
}

/// One complete message from the front end. Descriptors that nobody takes out are closed with it.
#[derive(Debug)]
pub struct Message {
    /// The request code, known or not.
    pub request: u32,
    /// The sender wants an acknowledgement (if it has negotiated REPLY_ACK).
    pub need_reply: bool,
    /// What follows the header.
    pub payload: Vec<u8>,
    /// What came along.
    pub descriptors: Vec<OwnedFd>,
}

/// A reply to the front end.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// The code of the request that is answered.
    pub request: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Reply {
    /// The reply as it goes over the socket.
    pub fn to_bytes(&self) -> Vec<u8> {
        let flags = VERSION | VhostUserHeaderFlag::REPLY.bits();
        encode(self.request, flags, &self.payload)
    }
}

/// A message as it goes over a socket. `payload` is one of ours, and small.
pub(crate) fn encode(request: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER_SIZE + payload.len());
    for word in [request, flags, size] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// The bytes of a message that wants no acknowledgement.
pub(crate) fn encode_request(request: u32, payload: &[u8]) -> Vec<u8> {
    encode(request, VERSION, payload)
}

/// Assembles messages. See the module's documentation.
#[derive(Debug, Default)]
pub struct MessageReader {
    header: Option<Header>,
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    request: u32,
    flags: u32,
    size: usize,
}

impl MessageReader {
    /// How many bytes the current message still needs before anything can be decided: never zero, at most 4096.
    pub fn wanted(&self) -> usize {
        let goal = self.header.map_or(HEADER_SIZE, |header| header.size);
        goal.saturating_sub(self.bytes.len())
    }

    /// Whether a message has begun and is not complete.
    pub fn is_inside_message(&self) -> bool {
        self.header.is_some() || !self.bytes.is_empty()
    }

    /// Takes what has arrived: at most [`wanted`](Self::wanted) bytes, and the descriptors that came with them.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        descriptors: impl IntoIterator<Item = OwnedFd>,
    ) -> Result<Option<Message>, FramingError> {
        debug_assert!(bytes.len() <= self.wanted());
        self.bytes.extend_from_slice(bytes);
        for descriptor in descriptors {
            if self.descriptors.len() == MAX_DESCRIPTORS {
                return Err(FramingError::Descriptors);
            }
            self.descriptors.push(descriptor);
        }
        if self.wanted() > 0 {
            return Ok(None);
        }
        let header = match self.header {
            Some(header) => header,
            None => {
                let header = parse_header(&self.bytes)?;
                self.bytes.clear();
                self.header = Some(header);
                header
            }
        };
        if self.wanted() > 0 {
            return Ok(None);
        }
        self.header = None;
        Ok(Some(Message {
            request: header.request,
            need_reply: header.flags & VhostUserHeaderFlag::NEED_REPLY.bits() != 0,
            payload: std::mem::take(&mut self.bytes),
            descriptors: std::mem::take(&mut self.descriptors),
        }))
    }
}

fn parse_header(bytes: &[u8]) -> Result<Header, FramingError> {
    let mut words = bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&word| u32::from_ne_bytes(word));
    let mut word = || words.next().unwrap_or_default();
    let (request, flags, size) = (word(), word(), word());
    let version = flags & VhostUserHeaderFlag::VERSION.bits();
    if version != VERSION || flags & VhostUserHeaderFlag::REPLY.bits() != 0 {
        return Err(FramingError::Flags { request, flags });
    }
    match usize::try_from(size) {
        Ok(size) if size <= MAX_MSG_SIZE => Ok(Header {
            request,
            flags,
            size,
        }),
        _ => Err(FramingError::Oversize { request, size }),
    }
}

/// What an implemented request must look like: its payload's size, and how many descriptors it carries.
pub(crate) struct Shape {
    pub(crate) payload: std::ops::RangeInclusive<usize>,
    pub(crate) descriptors: std::ops::RangeInclusive<usize>,
}

impl Shape {
    /// The shape of `request`, or nothing when this server does not implement it. The one list of what it implements.
    pub(crate) fn of(request: FrontendReq) -> Option<Shape> {
        use FrontendReq as R;
        let exactly = |size: usize| size..=size;
        let (payload, descriptors) = match request {
            R::GET_FEATURES
            | R::SET_OWNER
            | R::RESET_OWNER
            | R::GET_PROTOCOL_FEATURES
            | R::GET_QUEUE_NUM
            | R::RESET_DEVICE
            | R::GET_MAX_MEM_SLOTS
            | R::GET_STATUS => (exactly(0), 0..=0),
            R::SET_FEATURES | R::SET_PROTOCOL_FEATURES | R::SET_STATUS => {
                (exactly(size_of::<VhostUserU64>()), 0..=0)
            }
            R::SET_MEM_TABLE => {
                let fixed = size_of::<VhostUserMemory>();
                let region = size_of::<VhostUserMemoryRegion>();
                (
                    fixed + region..=fixed + MAX_DESCRIPTORS * region,
                    1..=MAX_DESCRIPTORS,
                )
            }
            R::ADD_MEM_REG => (exactly(size_of::<VhostUserSingleMemoryRegion>()), 1..=1),
            // Front ends exist that send the region's descriptor along (VU-023).
            R::REM_MEM_REG => (exactly(size_of::<VhostUserSingleMemoryRegion>()), 0..=1),
            R::SET_VRING_NUM | R::SET_VRING_BASE | R::GET_VRING_BASE | R::SET_VRING_ENABLE => {
                (exactly(size_of::<VhostUserVringState>()), 0..=0)
            }
            R::SET_VRING_ADDR => (exactly(size_of::<VhostUserVringAddr>()), 0..=0),
            R::SET_VRING_KICK | R::SET_VRING_CALL | R::SET_VRING_ERR => {
                (exactly(size_of::<VhostUserU64>()), 0..=1)
            }
            R::SET_BACKEND_REQ_FD => (exactly(0), 1..=1),
            R::GET_CONFIG | R::SET_CONFIG => {
                let fixed = size_of::<VhostUserConfig>();
                (fixed..=fixed + MAX_CONFIG, 0..=0)
            }
            _ => return None,
        };
        Some(Shape {
            payload,
            descriptors,
        })
    }
}

/// The structure at the start of `bytes`, and what follows it.
pub(crate) fn parse<T: ByteValued + Default>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (mine, rest) = bytes.split_at_checked(size_of::<T>())?;
    let mut value = T::default();
    value.as_mut_slice().copy_from_slice(mine);
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed_in_pieces(bytes: &[u8], piece: usize) -> Vec<Result<Message, FramingError>> {
        let mut reader = MessageReader::default();
        let mut out = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = reader.wanted().min(piece).min(rest.len());
            let (now, later) = rest.split_at(n);
            rest = later;
            match reader.feed(now, []) {
                Ok(None) => {}
                Ok(Some(message)) => out.push(Ok(message)),
                Err(e) => {
                    out.push(Err(e));
                    break;
                }
            }
        }
        out
    }

    #[test]
    fn messages_are_found_however_the_stream_is_cut() {
        let mut stream = encode(2, 9, &7u64.to_ne_bytes());
        stream.extend(encode(1, 1, &[]));
        stream.extend(encode(1000, 1, &[5; MAX_MSG_SIZE]));
        for piece in [1, 3, 11, 12, 13, 5000] {
            let got: Vec<_> = feed_in_pieces(&stream, piece)
                .into_iter()
                .map(|m| m.map(|m| (m.request, m.need_reply, m.payload)))
                .collect();
            let want = vec![
                Ok((2, true, 7u64.to_ne_bytes().to_vec())),
                Ok((1, false, vec![])),
                Ok((1000, false, vec![5; MAX_MSG_SIZE])),
            ];
            assert_eq!(got, want, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_stream_that_is_not_vhost_user_is_given_up_at_its_first_header() {
        let cases = [
            (
                encode(1, 0, &[]),
                FramingError::Flags {
                    request: 1,
                    flags: 0,
                },
            ),
            (
                encode(1, 2, &[]),
                FramingError::Flags {
                    request: 1,
                    flags: 2,
                },
            ),
            (
                encode(1, 5, &[]),
                FramingError::Flags {
                    request: 1,
                    flags: 5,
                },
            ),
            (
                [1u32, 1, 4097]
                    .iter()
                    .flat_map(|w| w.to_ne_bytes())
                    .collect(),
                FramingError::Oversize {
                    request: 1,
                    size: 4097,
                },
            ),
            (
                [1u32, 1, u32::MAX]
                    .iter()
                    .flat_map(|w| w.to_ne_bytes())
                    .collect(),
                FramingError::Oversize {
                    request: 1,
                    size: u32::MAX,
                },
            ),
        ];
        for (stream, want) in cases {
            let mut got = feed_in_pieces(&stream, 4096);
            assert_eq!(got.len(), 1);
            assert_eq!(got.pop().unwrap().unwrap_err(), want);
        }
    }

    #[test]
    fn descriptors_belong_to_the_message_they_arrive_with_and_are_bounded() {
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let message = encode(14, 1, &0u64.to_ne_bytes());
        let (header, payload) = message.split_at(HEADER_SIZE);
        let mut reader = MessageReader::default();
        assert!(reader.feed(header, [null()]).unwrap().is_none());
        let first = reader.feed(payload, []).unwrap().unwrap();
        assert_eq!(first.descriptors.len(), 1);
        assert!(reader.feed(header, []).unwrap().is_none());
        let second = reader.feed(payload, []).unwrap().unwrap();
        assert_eq!(second.descriptors.len(), 0);

        let nine: Vec<_> = (0..9).map(|_| null()).collect();
        assert_eq!(
            reader.feed(header, nine).unwrap_err(),
            FramingError::Descriptors
        );
    }
}
