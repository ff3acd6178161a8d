//! A device that notes what it is told, and a front end that can say anything.
#![allow(
    dead_code,
    missing_docs,
    reason = "shared by several test binaries, each of which uses a part"
)]

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lunar_vhost_user::{Device, DeviceResult, Message};
use lunar_virtio_scsi::RingSetup;
use lunar_virtqueue::{GuestMemory, Region};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vhost::vhost_user::message::FrontendReq;

pub const PROTOCOL_FEATURES: u64 = 1 << 30;
pub const VERSION_1: u64 = 1 << 32;
pub const HOTPLUG: u64 = 1 << 1;
pub const CHANGE: u64 = 1 << 2;
pub const T10_PI: u64 = 1 << 3;

pub const MQ: u64 = 1 << 0;
pub const REPLY_ACK: u64 = 1 << 3;
pub const BACKEND_REQ: u64 = 1 << 5;
pub const CONFIG: u64 = 1 << 9;
pub const RESET_DEVICE: u64 = 1 << 13;
pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
pub const STATUS: u64 = 1 << 16;

/// What a device was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Features(u64),
    Memory(Vec<(u64, u64)>),
    Start {
        index: usize,
        size: u16,
        addresses: [u64; 3],
        base: u32,
        kick: bool,
        call: bool,
        err: bool,
        enabled: bool,
    },
    Enable(usize, bool),
    SetKick(usize, bool),
    SetCall(usize, bool),
    SetErr(usize, bool),
    Stop(usize),
    WriteConfig(usize, Vec<u8>),
    Reset,
    Disconnect,
}

/// A device of six queues and a configuration space of 36 bytes, 0, 1, 2 and so on.
#[derive(Debug, Default)]
pub struct FakeDevice {
    calls: Mutex<Vec<Told>>,
    rings: Mutex<Vec<RingSetup>>,
    /// Addresses of descriptor tables that the guest has put where there is no memory.
    pub bad_ring: u64,
}

impl FakeDevice {
    pub const QUEUES: usize = 6;
    pub const FEATURES: u64 = VERSION_1 | HOTPLUG | 1 << 28 | 1 << 29;
    /// The index at which each queue is found when it is stopped.
    pub const STOPPED_AT: u32 = 77;

    pub fn new() -> Arc<FakeDevice> {
        Arc::new(FakeDevice {
            bad_ring: 0xbad0,
            ..FakeDevice::default()
        })
    }

    /// What was told since the last time.
    pub fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    fn note(&self, call: Told) -> DeviceResult {
        self.calls.lock().unwrap().push(call);
        Ok(())
    }
}

impl Device for FakeDevice {
    fn features(&self) -> u64 {
        FakeDevice::FEATURES
    }
    fn set_features(&self, acked: u64) -> DeviceResult {
        if acked & !(FakeDevice::FEATURES | CHANGE) != 0 {
            return Err("not offered".into());
        }
        self.note(Told::Features(acked))
    }
    fn queue_count(&self) -> usize {
        FakeDevice::QUEUES
    }
    fn read_config(&self, offset: usize, to: &mut [u8]) -> DeviceResult {
        let space: Vec<u8> = (0..36).collect();
        to.copy_from_slice(
            space
                .get(offset..offset + to.len())
                .ok_or("outside of the configuration space")?,
        );
        Ok(())
    }
    fn write_config(&self, offset: usize, from: &[u8]) -> DeviceResult {
        self.note(Told::WriteConfig(offset, from.to_vec()))
    }
    fn set_memory(&self, memory: Arc<GuestMemory>) -> DeviceResult {
        let regions = memory.regions().iter().map(|r| (r.gpa(), r.size()));
        self.note(Told::Memory(regions.collect()))
    }
    fn start_queue(&self, index: usize, ring: RingSetup, enabled: bool) -> DeviceResult {
        if ring.desc == self.bad_ring {
            return Err("not in memory".into());
        }
        self.note(Told::Start {
            index,
            size: ring.size,
            addresses: [ring.desc, ring.avail, ring.used],
            base: ring.base,
            kick: ring.kick.is_some(),
            call: ring.call.is_some(),
            err: ring.err.is_some(),
            enabled,
        })?;
        self.rings.lock().unwrap().push(ring);
        Ok(())
    }
    fn enable_queue(&self, index: usize, enabled: bool) -> DeviceResult {
        self.note(Told::Enable(index, enabled))
    }
    fn set_kick(&self, index: usize, kick: Option<OwnedFd>) -> DeviceResult {
        self.note(Told::SetKick(index, kick.is_some()))
    }
    fn set_call(&self, index: usize, call: Option<OwnedFd>) -> DeviceResult {
        self.note(Told::SetCall(index, call.is_some()))
    }
    fn set_err(&self, index: usize, err: Option<OwnedFd>) -> DeviceResult {
        self.note(Told::SetErr(index, err.is_some()))
    }
    fn stop_queue(&self, index: usize) -> DeviceResult<u32> {
        self.note(Told::Stop(index))?;
        Ok(FakeDevice::STOPPED_AT)
    }
    fn reset(&self) {
        self.rings.lock().unwrap().clear();
        self.note(Told::Reset).unwrap();
    }
    fn disconnect(&self) {
        self.rings.lock().unwrap().clear();
        self.note(Told::Disconnect).unwrap();
    }
}

/// Bytes of several numbers.
pub fn words64(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_ne_bytes()).collect()
}

pub fn words32(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_ne_bytes()).collect()
}

/// SET_VRING_ADDR's payload.
pub fn ring_addresses(index: u32, flags: u32, desc: u64) -> Vec<u8> {
    let mut payload = words32(&[index, flags]);
    payload.extend(words64(&[desc, desc + 0x2000, desc + 0x1000, 0]));
    payload
}

/// The payload of SET_MEM_TABLE for regions of (guest address, size, user address, offset).
pub fn memory_table(regions: &[[u64; 4]]) -> Vec<u8> {
    let mut payload = words32(&[u32::try_from(regions.len()).unwrap(), 0]);
    payload.extend(regions.iter().flat_map(|r| words64(r)));
    payload
}

/// The payload of ADD_MEM_REG and REM_MEM_REG.
pub fn memory_region(region: [u64; 4]) -> Vec<u8> {
    let mut payload = words64(&[0]);
    payload.extend(words64(&region));
    payload
}

/// A file of guest memory.
pub fn memory_file(size: u64) -> OwnedFd {
    Region::allocate(0, size).unwrap().1
}

/// Any descriptor.
pub fn descriptor() -> OwnedFd {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap()
}

pub fn message(request: FrontendReq, payload: Vec<u8>, descriptors: Vec<OwnedFd>) -> Message {
    Message {
        request: request.into(),
        need_reply: true,
        payload,
        descriptors,
    }
}

/// The bytes of a message.
pub fn frame(request: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = words32(&[request, flags, u32::try_from(payload.len()).unwrap()]);
    bytes.extend_from_slice(payload);
    bytes
}

/// A front end that can say anything.
#[derive(Debug)]
pub struct Client(pub UnixStream);

impl Client {
    pub fn connect(path: &std::path::Path) -> Client {
        Client::new(UnixStream::connect(path).unwrap())
    }

    /// No test waits for ever.
    pub fn new(stream: UnixStream) -> Client {
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Client(stream)
    }

    pub fn send_raw(&self, bytes: &[u8], descriptors: &[OwnedFd]) {
        let fds: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)));
        // A server that has closed the connection already is what some tests are about.
        let _ = sendmsg(
            &self.0,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        );
    }

    pub fn send(&self, request: FrontendReq, payload: &[u8], descriptors: &[OwnedFd]) {
        self.send_raw(&frame(request.into(), 1, payload), descriptors);
    }

    /// The next reply's code and payload; nothing when the server has closed the connection.
    pub fn reply(&mut self) -> Option<(u32, Vec<u8>)> {
        let mut header = [0; 12];
        match self.0.read_exact(&mut header) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => panic!("no reply in time"),
            Err(_) => return None,
        }
        let word = |i| u32::from_ne_bytes(*header[i..].first_chunk().unwrap());
        assert_eq!(word(4), 5, "version 1, reply");
        let mut payload = vec![0; usize::try_from(word(8)).unwrap()];
        self.0.read_exact(&mut payload).unwrap();
        Some((word(0), payload))
    }

    /// Asks for a number.
    pub fn ask(&mut self, request: FrontendReq) -> u64 {
        self.send(request, &[], &[]);
        let (code, payload) = self.reply().expect("a reply");
        assert_eq!(code, u32::from(request));
        u64::from_ne_bytes(payload.try_into().unwrap())
    }

    /// Sends a request and returns its acknowledgement; nothing when the connection ended instead.
    pub fn tell(
        &mut self,
        request: FrontendReq,
        payload: &[u8],
        descriptors: &[OwnedFd],
    ) -> Option<u64> {
        self.send_raw(&frame(request.into(), 9, payload), descriptors);
        let (_, payload) = self.reply()?;
        Some(u64::from_ne_bytes(payload.try_into().unwrap()))
    }

    /// Negotiates as QEMU does.
    pub fn negotiate(&mut self, protocol_features: u64) {
        let features = self.ask(FrontendReq::GET_FEATURES);
        assert_ne!(features & PROTOCOL_FEATURES, 0);
        assert_ne!(self.ask(FrontendReq::GET_PROTOCOL_FEATURES) & REPLY_ACK, 0);
        let bits = protocol_features | REPLY_ACK;
        self.send(FrontendReq::SET_PROTOCOL_FEATURES, &words64(&[bits]), &[]);
        self.send(FrontendReq::SET_OWNER, &[], &[]);
        let acked = self.tell(FrontendReq::SET_FEATURES, &words64(&[features]), &[]);
        assert_eq!(acked, Some(0));
    }
}
