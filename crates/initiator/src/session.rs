//! A session with a server: what both sides agreed on, and the messages that the specification puts in order.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::message::{Channel, Region, Request, RingAddresses, halves, words};
use crate::{Error, Options};

/// Virtio feature bits, as masks.
#[expect(missing_docs, reason = "the specification's names")]
pub mod feature {
    pub const INOUT: u64 = 1 << 0;
    pub const HOTPLUG: u64 = 1 << 1;
    pub const CHANGE: u64 = 1 << 2;
    pub const T10_PI: u64 = 1 << 3;
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Of vhost-user, never shown to a guest.
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    pub const VERSION_1: u64 = 1 << 32;
    pub const RING_PACKED: u64 = 1 << 34;

    pub const BLK_SEG_MAX: u64 = 1 << 2;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const BLK_FLUSH: u64 = 1 << 9;
    pub const BLK_TOPOLOGY: u64 = 1 << 10;
    pub const BLK_MQ: u64 = 1 << 12;
}

/// vhost-user protocol feature bits, as masks (VU-003).
#[expect(missing_docs, reason = "the specification's names")]
pub mod protocol {
    pub const MQ: u64 = 1 << 0;
    pub const REPLY_ACK: u64 = 1 << 3;
    pub const BACKEND_REQ: u64 = 1 << 5;
    pub const CONFIG: u64 = 1 << 9;
    pub const RESET_DEVICE: u64 = 1 << 13;
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
}

/// A negotiated connection. Its methods are the messages; where REPLY_ACK was agreed on, they return when the server
/// has done what they ask.
#[derive(Debug)]
pub struct Session {
    channel: Channel,
    offered: u64,
    features: u64,
    protocol_features: u64,
}

impl Session {
    /// Agrees on features: those of `options` that the server offers.
    pub(crate) fn negotiate(channel: Channel, options: &Options) -> Result<Session, Error> {
        let offered = channel.ask_word(Request::GetFeatures, &[])?;
        if offered & feature::VERSION_1 == 0 {
            return Err(Error::Missing("VIRTIO_F_VERSION_1"));
        }
        let mut session = Session {
            channel,
            offered,
            features: offered & (options.features | feature::VERSION_1),
            protocol_features: 0,
        };
        if offered & feature::PROTOCOL_FEATURES != 0 && options.protocol_features != 0 {
            let offered = session
                .channel
                .ask_word(Request::GetProtocolFeatures, &[])?;
            let wanted = offered & options.protocol_features;
            let (request, payload) = (Request::SetProtocolFeatures, words(&[wanted]));
            session.channel.send(request, &payload, &[])?;
            session.protocol_features = wanted;
            session.features |= feature::PROTOCOL_FEATURES;
        }
        session.tell(Request::SetOwner, &[], &[])?;
        session.set_features(session.features)?;
        Ok(session)
    }

    /// The channel, for messages that no method sends.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The process that listens on the socket, if the system says so.
    pub fn server(&self) -> Option<i32> {
        let peer = rustix::net::sockopt::socket_peercred(self.channel.socket()).ok()?;
        Some(peer.pid.as_raw_nonzero().get())
    }

    /// Everything that the server offers.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// The features agreed on.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The protocol features agreed on.
    pub fn protocol_features(&self) -> u64 {
        self.protocol_features
    }

    /// Sends a message that has no answer of its own; waits for the acknowledgement if there is one.
    pub fn tell(
        &self,
        request: Request,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        if self.protocol_features & protocol::REPLY_ACK != 0 {
            self.channel.send_acknowledged(request, payload, fds)
        } else {
            self.channel.send(request, payload, fds)
        }
    }

    /// Returns when the server has done all that it was told, whether or not it acknowledges.
    pub fn settle(&self) -> Result<(), Error> {
        if self.protocol_features & protocol::REPLY_ACK == 0 {
            self.channel.ask_word(Request::GetFeatures, &[])?;
        }
        Ok(())
    }

    /// SET_FEATURES.
    pub fn set_features(&self, features: u64) -> Result<(), Error> {
        self.tell(Request::SetFeatures, &words(&[features]), &[])
    }

    /// SET_MEM_TABLE: replaces the whole memory map.
    pub fn set_memory(&self, regions: &[(Region, &OwnedFd)]) -> Result<(), Error> {
        let count = u32::try_from(regions.len()).unwrap_or(u32::MAX);
        let mut payload = halves(&[count, 0]);
        payload.extend(regions.iter().flat_map(|(r, _)| r.to_bytes()));
        let fds: Vec<_> = regions.iter().map(|(_, fd)| fd.as_fd()).collect();
        self.tell(Request::SetMemTable, &payload, &fds)
    }

    /// ADD_MEM_REG.
    pub fn add_region(&self, region: Region, fd: &OwnedFd) -> Result<(), Error> {
        let payload = [words(&[0]), region.to_bytes()].concat();
        self.tell(Request::AddMemReg, &payload, &[fd.as_fd()])
    }

    /// REM_MEM_REG.
    pub fn remove_region(&self, region: Region) -> Result<(), Error> {
        let payload = [words(&[0]), region.to_bytes()].concat();
        self.tell(Request::RemMemReg, &payload, &[])
    }

    /// GET_MAX_MEM_SLOTS.
    pub fn max_regions(&self) -> Result<u64, Error> {
        self.channel.ask_word(Request::GetMaxMemSlots, &[])
    }

    /// GET_QUEUE_NUM: control and event queue included (VU-016).
    pub fn queue_count(&self) -> Result<u64, Error> {
        self.channel.ask_word(Request::GetQueueNum, &[])
    }

    /// SET_VRING_NUM.
    pub fn set_ring_size(&self, ring: u16, size: u16) -> Result<(), Error> {
        let payload = halves(&[ring.into(), size.into()]);
        self.tell(Request::SetVringNum, &payload, &[])
    }

    /// SET_VRING_ADDR.
    pub fn set_ring_addresses(&self, ring: u16, at: RingAddresses) -> Result<(), Error> {
        let mut payload = halves(&[ring.into(), 0]);
        payload.extend(words(&[at.desc, at.used, at.avail, 0]));
        self.tell(Request::SetVringAddr, &payload, &[])
    }

    /// SET_VRING_BASE, in the encoding of the ring's format (VU-015).
    pub fn set_ring_base(&self, ring: u16, base: u32) -> Result<(), Error> {
        let payload = halves(&[ring.into(), base]);
        self.tell(Request::SetVringBase, &payload, &[])
    }

    /// GET_VRING_BASE: stops the ring once nothing is in flight on it.
    pub fn get_ring_base(&self, ring: u16) -> Result<u32, Error> {
        let request = Request::GetVringBase;
        let answer = self.channel.ask(request, &halves(&[ring.into(), 0]))?;
        let wrong = |what| Error::Answer { request, what };
        let state: [u8; 8] = answer.try_into().map_err(|_| wrong("not a ring state"))?;
        let state = u64::from_ne_bytes(state);
        let expected = u64::from(ring);
        if state & 0xFFFF_FFFF != expected {
            return Err(wrong("the state of another ring"));
        }
        let base = u32::try_from(state >> 32).unwrap_or(u32::MAX);
        match self.features & feature::RING_PACKED == 0 && base > u16::MAX.into() {
            true => Err(wrong("an index above 16 bits")),
            false => Ok(base),
        }
    }

    /// SET_VRING_KICK, SET_VRING_CALL or SET_VRING_ERR; without a descriptor the flag says so (VU-014).
    pub fn set_ring_fd(
        &self,
        request: Request,
        ring: u16,
        fd: Option<&OwnedFd>,
    ) -> Result<(), Error> {
        const NO_FD: u64 = 1 << 8;
        match fd {
            Some(fd) => self.tell(request, &words(&[ring.into()]), &[fd.as_fd()]),
            None => self.tell(request, &words(&[u64::from(ring) | NO_FD]), &[]),
        }
    }

    /// SET_VRING_ENABLE, if protocol features were agreed on: without them rings need no enabling (VU-002).
    pub fn enable_ring(&self, ring: u16, enable: bool) -> Result<(), Error> {
        if self.features & feature::PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        let payload = halves(&[ring.into(), enable.into()]);
        self.tell(Request::SetVringEnable, &payload, &[])
    }

    /// GET_CONFIG: `len` bytes of the configuration space at `offset`.
    pub fn read_config(&self, offset: u32, len: u32) -> Result<Vec<u8>, Error> {
        let request = Request::GetConfig;
        let mut payload = halves(&[offset, len, 0]);
        let header = payload.len();
        payload.resize(header + usize::try_from(len).unwrap_or(0), 0);
        let answer = self.channel.ask(request, &payload)?;
        if answer.len() <= header {
            return Err(Error::Refused(request));
        }
        if answer.len() != payload.len() {
            return Err(Error::Answer {
                request,
                what: "another number of bytes",
            });
        }
        Ok(answer.get(header..).unwrap_or_default().to_vec())
    }

    /// SET_CONFIG, as a driver's write.
    pub fn write_config(&self, offset: u32, bytes: &[u8]) -> Result<(), Error> {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let mut payload = halves(&[offset, len, 0]);
        payload.extend_from_slice(bytes);
        self.tell(Request::SetConfig, &payload, &[])
    }

    /// RESET_DEVICE.
    pub fn reset_device(&self) -> Result<(), Error> {
        self.tell(Request::ResetDevice, &[], &[])
    }

    /// SET_STATUS: the virtio status byte.
    pub fn set_status(&self, status: u8) -> Result<(), Error> {
        self.tell(Request::SetStatus, &words(&[status.into()]), &[])
    }

    /// GET_STATUS.
    pub fn status(&self) -> Result<u64, Error> {
        self.channel.ask_word(Request::GetStatus, &[])
    }
}
