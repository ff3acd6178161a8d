//! One front end's session: messages in, replies out, and the device driven in between.
//!
//! [`Session`] knows no socket, so it can be tested and fuzzed message by message. Every message is handled
//! completely before the next one is looked at, and its reply says what is already true.
//!
//! # What is refused, and how
//! A request that is malformed, unknown or impossible is refused: with a non-zero acknowledgement if the front end
//! asked for one, otherwise by ending the connection. To go on silently would leave the two sides with different
//! ideas of the device. The one exception is a ring that cannot be started or used, because the *guest* chose its
//! place and size: it is reported through the ring's error descriptor, and the others go on.

use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use lunar_virtqueue::{GuestMemory, Region};
use vhost::vhost_user::message::{
    FrontendReq, VhostUserConfig, VhostUserMemory, VhostUserMemoryRegion,
    VhostUserProtocolFeatures as Protocol, VhostUserSingleMemoryRegion, VhostUserU64,
    VhostUserVirtioFeatures, VhostUserVringAddr, VhostUserVringState,
};
use vm_memory::ByteValued;

use crate::back_channel::BackChannel;
use crate::device::Device;
use crate::message::{Message, Reply, Shape, parse};
use crate::ring::{Addresses, Ring, RingAt};

/// What can be switched on and off for one server.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Offer the configuration space to the front end (protocol feature CONFIG). QEMU's vhost-user-scsi makes up
    /// its own and warns about the offer; its generic vhost-user device and other VMMs need it.
    pub config: bool,
}

impl Options {
    /// The protocol features that this server has code for: what is not here is not offered.
    fn protocol_features(&self) -> Protocol {
        let config = if self.config {
            Protocol::CONFIG
        } else {
            Protocol::empty()
        };
        Protocol::MQ
            | Protocol::REPLY_ACK
            | Protocol::BACKEND_REQ
            | Protocol::RESET_DEVICE
            | Protocol::CONFIGURE_MEM_SLOTS
            | Protocol::STATUS
            | config
    }
}

/// Memory regions that a front end may add. QEMU has up to 509 for a guest with a full set of hot-plugged memory.
const MAX_MEMORY_SLOTS: usize = 509;

/// FEATURES_OK of the virtio device status.
const FEATURES_OK: u8 = 8;

/// KICK, CALL and ERR: the ring's index in bits 7-0, and "no descriptor" (VU-014).
const RING_INDEX: u64 = 0xff;
const NO_DESCRIPTOR: u64 = 0x100;

/// A request that is not carried out.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The front end asked for something that it should not, or that cannot be.
    Request(String),
    /// The guest's ring cannot be used.
    Ring(String),
}

impl Refusal {
    pub(crate) fn request(reason: impl Into<String>) -> Refusal {
        Refusal::Request(reason.into())
    }

    pub(crate) fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Refusal {
        Refusal::Request(with_sources(&*error.into()))
    }
}

/// Why the session cannot go on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{request}: {reason}")]
pub struct Refused {
    request: String,
    reason: String,
}

/// What a request is answered with.
enum Answer {
    /// Nothing, or an acknowledgement if one was asked for.
    Done,
    /// The request's own reply.
    Reply(Vec<u8>),
}

impl Answer {
    fn number(value: u64) -> Answer {
        Answer::Reply(value.to_ne_bytes().to_vec())
    }
}

/// One front end's session. See the module's documentation.
///
/// Dropping it disconnects the device.
#[derive(Debug)]
pub struct Session {
    device: Arc<dyn Device>,
    offered: Protocol,
    negotiated: Protocol,
    /// As acknowledged, transport bits included.
    features: Option<u64>,
    status: u8,
    rings: Vec<Ring>,
    memory: Arc<GuestMemory>,
    back_channel: Arc<BackChannel>,
    /// A refusal has been logged; the next ones of this session are not.
    complained: bool,
}

impl Session {
    /// A session with a front end that has just connected.
    pub fn new(device: Arc<dyn Device>, options: &Options) -> Session {
        Session::with_back_channel(device, options, Arc::default())
    }

    pub(crate) fn with_back_channel(
        device: Arc<dyn Device>,
        options: &Options,
        back_channel: Arc<BackChannel>,
    ) -> Session {
        let rings = (0..device.queue_count()).map(|_| Ring::default()).collect();
        Session {
            device,
            offered: options.protocol_features(),
            negotiated: Protocol::empty(),
            features: None,
            status: 0,
            rings,
            memory: Arc::default(),
            back_channel,
            complained: false,
        }
    }

    /// Carries out one message. An error ends the session.
    pub fn handle(&mut self, message: Message) -> Result<Option<Reply>, Refused> {
        let request = message.request;
        let acknowledge = message.need_reply && self.negotiated.contains(Protocol::REPLY_ACK);
        let outcome = self.carry_out(message);
        self.back_channel
            .set_rings_run(self.rings.iter().any(Ring::is_running));

        let reply = |payload| Some(Reply { request, payload });
        let refusal = match outcome {
            Ok(Answer::Reply(payload)) => return Ok(reply(payload)),
            Ok(Answer::Done) => {
                return Ok(acknowledge
                    .then(|| 0u64.to_ne_bytes().to_vec())
                    .and_then(reply));
            }
            Err(refusal) => refusal,
        };
        let goes_on = acknowledge && !has_own_reply(request);
        let (Refusal::Request(reason) | Refusal::Ring(reason)) = &refusal;
        if !goes_on && matches!(refusal, Refusal::Request(_)) {
            return Err(Refused {
                request: name(request),
                reason: reason.clone(),
            });
        }
        if !self.complained {
            self.complained = true;
            tracing::warn!(
                request = name(request),
                reason,
                "refused (told once per connection)"
            );
        }
        Ok(goes_on.then(|| 1u64.to_ne_bytes().to_vec()).and_then(reply))
    }

    fn carry_out(&mut self, mut message: Message) -> Result<Answer, Refusal> {
        let request = FrontendReq::try_from(message.request).ok();
        let Some((request, shape)) = request.and_then(|r| Some((r, Shape::of(r)?))) else {
            return Err(Refusal::request("not a request that this back end knows"));
        };
        if !shape.payload.contains(&message.payload.len()) {
            let size = message.payload.len();
            return Err(Refusal::request(format!("{size} bytes of payload")));
        }
        if !shape.descriptors.contains(&message.descriptors.len()) {
            let count = message.descriptors.len();
            return Err(Refusal::request(format!("{count} descriptors")));
        }
        let payload = message.payload.as_slice();
        let descriptors = std::mem::take(&mut message.descriptors);
        match request {
            FrontendReq::GET_FEATURES => {
                let transport = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
                return Ok(Answer::number(self.device.features() | transport));
            }
            FrontendReq::SET_FEATURES => self.set_features(number(payload)?)?,
            FrontendReq::GET_PROTOCOL_FEATURES => return Ok(Answer::number(self.offered.bits())),
            FrontendReq::SET_PROTOCOL_FEATURES => self.set_protocol_features(number(payload)?)?,
            FrontendReq::GET_QUEUE_NUM => return Ok(Answer::number(count(self.rings.len()))),
            FrontendReq::GET_MAX_MEM_SLOTS => return Ok(Answer::number(count(MAX_MEMORY_SLOTS))),
            FrontendReq::SET_OWNER => {}
            FrontendReq::RESET_OWNER => self.disable_rings()?,
            FrontendReq::RESET_DEVICE => self.reset(),
            FrontendReq::SET_STATUS => self.set_status(number(payload)?)?,
            FrontendReq::GET_STATUS => return Ok(Answer::number(self.status.into())),
            FrontendReq::SET_MEM_TABLE => self.set_memory_table(payload, &descriptors)?,
            FrontendReq::ADD_MEM_REG => self.add_memory(payload, &descriptors)?,
            FrontendReq::REM_MEM_REG => {
                let (it, _) = structure::<VhostUserSingleMemoryRegion>(payload)?;
                self.set_memory(self.memory.without_region(
                    it.guest_phys_addr,
                    it.memory_size,
                    it.user_addr,
                ))?;
            }
            FrontendReq::SET_VRING_NUM => {
                let (index, size) = ring_state(payload)?;
                self.ring(index)?.set_size(size)?;
            }
            FrontendReq::SET_VRING_ADDR => self.set_ring_addresses(payload)?,
            FrontendReq::SET_VRING_BASE => {
                let (index, base) = ring_state(payload)?;
                self.ring(index)?.set_base(base)?;
            }
            FrontendReq::GET_VRING_BASE => {
                let (index, _) = ring_state(payload)?;
                let base = self.ring(index)?.stop()?;
                let state = VhostUserVringState::new(index, base);
                return Ok(Answer::Reply(state.as_slice().to_vec()));
            }
            FrontendReq::SET_VRING_KICK => {
                let (index, descriptor) = ring_descriptor(payload, descriptors)?;
                self.ring(index)?.set_kick(descriptor)?;
            }
            FrontendReq::SET_VRING_CALL => {
                let (index, descriptor) = ring_descriptor(payload, descriptors)?;
                self.ring(index)?.set_call(descriptor)?;
            }
            FrontendReq::SET_VRING_ERR => {
                let (index, descriptor) = ring_descriptor(payload, descriptors)?;
                self.ring(index)?.set_err(descriptor)?;
            }
            FrontendReq::SET_VRING_ENABLE => self.enable_ring(payload)?,
            FrontendReq::SET_BACKEND_REQ_FD => {
                if let Some(socket) = descriptors.into_iter().next() {
                    self.back_channel.set_socket(socket);
                }
            }
            FrontendReq::GET_CONFIG => return self.read_config(payload),
            FrontendReq::SET_CONFIG => self.write_config(payload)?,
            other => {
                return Err(Refusal::request(format!("{other:?} is not implemented")));
            }
        }
        Ok(Answer::Done)
    }

    fn set_features(&mut self, acked: u64) -> Result<(), Refusal> {
        if self.features == Some(acked) {
            return Ok(());
        }
        self.status &= !FEATURES_OK;
        self.features = None;
        let transport = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        // QEMU acknowledges some bits as its own properties say, without asking whether they were offered (VU-049);
        // which of them do no harm is for the device to say.
        self.device
            .set_features(acked & !transport)
            .map_err(Refusal::failed)?;
        self.features = Some(acked);
        Ok(())
    }

    fn set_protocol_features(&mut self, bits: u64) -> Result<(), Refusal> {
        let unknown = bits & !self.offered.bits();
        if unknown != 0 {
            return Err(Refusal::request(format!(
                "protocol features {unknown:#x} were not offered"
            )));
        }
        self.negotiated = Protocol::from_bits_truncate(bits);
        self.back_channel
            .set_config_negotiated(self.negotiated.contains(Protocol::CONFIG));
        Ok(())
    }

    /// Bit 30 of the features is negotiated: rings start disabled, and SET_VRING_ENABLE exists (VU-002).
    fn has_ring_enable(&self) -> bool {
        let bit = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        self.features.is_some_and(|features| features & bit != 0)
    }

    fn set_status(&mut self, status: u64) -> Result<(), Refusal> {
        let mut status = u8::try_from(status)
            .map_err(|_| Refusal::request(format!("device status {status:#x}")))?;
        if status == 0 {
            self.reset();
        }
        if self.features.is_none() {
            status &= !FEATURES_OK;
        }
        self.status = status;
        Ok(())
    }

    /// Virtio device reset: the connection, the memory and the descriptors for reporting stay (VU-021).
    fn reset(&mut self) {
        self.device.reset();
        for ring in &mut self.rings {
            ring.reset();
        }
        self.features = None;
        self.status = 0;
    }

    /// RESET_OWNER, which older front ends send at a device reset: the reading of it that all accept (VU-010). Without
    /// SET_VRING_ENABLE there would be no way back, and it is ignored.
    fn disable_rings(&mut self) -> Result<(), Refusal> {
        if self.has_ring_enable() {
            for index in 0..self.rings.len() {
                self.ring(index)?.enable(false)?;
            }
        }
        Ok(())
    }

    fn set_memory_table(&mut self, payload: &[u8], files: &[OwnedFd]) -> Result<(), Refusal> {
        let (header, mut rest) = structure::<VhostUserMemory>(payload)?;
        let mut described = Vec::with_capacity(files.len());
        while !rest.is_empty() {
            let (region, after) = structure::<VhostUserMemoryRegion>(rest)?;
            described.push(region);
            rest = after;
        }
        let announced = usize::try_from(header.num_regions).unwrap_or(usize::MAX);
        if described.len() != announced || files.len() != announced {
            return Err(Refusal::request(format!(
                "{announced} regions announced, {} described, with {} descriptors",
                described.len(),
                files.len()
            )));
        }
        let regions: Vec<_> = described
            .iter()
            .zip(files)
            .map(|(region, file)| map(region, file))
            .collect::<Result<_, _>>()?;
        self.set_memory(GuestMemory::new(regions))
    }

    fn add_memory(&mut self, payload: &[u8], files: &[OwnedFd]) -> Result<(), Refusal> {
        let (region, _) = structure::<VhostUserSingleMemoryRegion>(payload)?;
        let [file] = files else {
            return Err(Refusal::request("not one descriptor"));
        };
        if self.memory.regions().len() >= MAX_MEMORY_SLOTS {
            return Err(Refusal::request("all memory slots are in use"));
        }
        let region = map(&region, file)?;
        self.set_memory(self.memory.with_region(region))
    }

    /// Puts a new map in the place of the old one, which stays if anything fails.
    fn set_memory(
        &mut self,
        memory: Result<GuestMemory, lunar_virtqueue::Error>,
    ) -> Result<(), Refusal> {
        let memory = Arc::new(memory.map_err(Refusal::failed)?);
        self.device
            .set_memory(Arc::clone(&memory))
            .map_err(Refusal::failed)?;
        self.memory = memory;
        Ok(())
    }

    fn ring(&mut self, index: impl TryInto<usize>) -> Result<RingAt<'_>, Refusal> {
        let always_enabled = !self.has_ring_enable();
        let rings = self.rings.len();
        let index = index.try_into().unwrap_or(usize::MAX);
        match self.rings.get_mut(index) {
            Some(ring) => Ok(RingAt {
                ring,
                index,
                device: &*self.device,
                always_enabled,
            }),
            None => Err(Refusal::request(format!(
                "ring {index} of a controller with {rings} rings (is num_queues of the front end's device larger \
                 than {}?)",
                rings.saturating_sub(2)
            ))),
        }
    }

    fn set_ring_addresses(&mut self, payload: &[u8]) -> Result<(), Refusal> {
        let (at, _) = structure::<VhostUserVringAddr>(payload)?;
        let (index, flags) = (at.index, at.flags);
        if flags != 0 {
            return Err(Refusal::request(format!(
                "ring {index} with address flags {flags:#x}"
            )));
        }
        self.ring(index)?.set_addresses(Addresses {
            desc: at.descriptor,
            avail: at.available,
            used: at.used,
        })
    }

    fn enable_ring(&mut self, payload: &[u8]) -> Result<(), Refusal> {
        let (index, value) = ring_state(payload)?;
        if !self.has_ring_enable() {
            return Err(Refusal::request("protocol features are not negotiated"));
        }
        match value {
            0 | 1 => self.ring(index)?.enable(value == 1),
            _ => Err(Refusal::request(format!("ring {index} enabled as {value}"))),
        }
    }

    /// An unreadable range is answered with an empty payload (VU-018).
    fn read_config(&self, payload: &[u8]) -> Result<Answer, Refusal> {
        let (range, rest) = self.config_range(payload)?;
        let mut bytes = vec![0; rest.len()];
        let offset = usize::try_from(range.offset).unwrap_or(usize::MAX);
        Ok(Answer::Reply(
            match self.device.read_config(offset, &mut bytes) {
                Ok(()) => [range.as_slice(), bytes.as_slice()].concat(),
                Err(_) => Vec::new(),
            },
        ))
    }

    /// A write by the driver and a restore after migration differ only in the fields that nobody may change; the
    /// device drops those in both cases.
    fn write_config(&self, payload: &[u8]) -> Result<(), Refusal> {
        let (range, bytes) = self.config_range(payload)?;
        let offset = usize::try_from(range.offset).unwrap_or(usize::MAX);
        self.device
            .write_config(offset, bytes)
            .map_err(Refusal::failed)
    }

    fn config_range<'a>(&self, payload: &'a [u8]) -> Result<(VhostUserConfig, &'a [u8]), Refusal> {
        if !self.negotiated.contains(Protocol::CONFIG) {
            return Err(Refusal::request(
                "protocol feature CONFIG is not negotiated",
            ));
        }
        let (range, rest) = structure::<VhostUserConfig>(payload)?;
        if usize::try_from(range.size) != Ok(rest.len()) {
            let size = range.size;
            return Err(Refusal::request(format!(
                "{size} bytes of configuration announced, {} sent",
                rest.len()
            )));
        }
        Ok((range, rest))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.back_channel.close();
        self.device.disconnect();
    }
}

/// The request has a reply of its own, which a refusal cannot take the place of.
fn has_own_reply(request: u32) -> bool {
    use FrontendReq as R;
    matches!(
        R::try_from(request),
        Ok(R::GET_FEATURES
            | R::GET_PROTOCOL_FEATURES
            | R::GET_QUEUE_NUM
            | R::GET_MAX_MEM_SLOTS
            | R::GET_STATUS
            | R::GET_VRING_BASE
            | R::GET_CONFIG
            | R::GET_INFLIGHT_FD
            | R::SET_DEVICE_STATE_FD
            | R::CHECK_DEVICE_STATE)
    )
}

fn name(request: u32) -> String {
    match FrontendReq::try_from(request) {
        Ok(known) => format!("{known:?}"),
        Err(_) => format!("message {request}"),
    }
}

fn structure<T: ByteValued + Default>(payload: &[u8]) -> Result<(T, &[u8]), Refusal> {
    parse(payload).ok_or_else(|| Refusal::request("payload ends within a structure"))
}

fn number(payload: &[u8]) -> Result<u64, Refusal> {
    Ok(structure::<VhostUserU64>(payload)?.0.value)
}

fn ring_state(payload: &[u8]) -> Result<(u32, u32), Refusal> {
    let (state, _) = structure::<VhostUserVringState>(payload)?;
    Ok((state.index, state.num))
}

/// The ring and the descriptor of KICK, CALL and ERR.
fn ring_descriptor(
    payload: &[u8],
    descriptors: Vec<OwnedFd>,
) -> Result<(u64, Option<OwnedFd>), Refusal> {
    let value = number(payload)?;
    let descriptor = descriptors.into_iter().next();
    let says_none = value & NO_DESCRIPTOR != 0;
    if value & !(RING_INDEX | NO_DESCRIPTOR) != 0 || says_none != descriptor.is_none() {
        return Err(Refusal::request(format!(
            "ring and flags {value:#x} {} a descriptor",
            if says_none { "with" } else { "without" }
        )));
    }
    Ok((value & RING_INDEX, descriptor))
}

fn map(region: &VhostUserMemoryRegion, file: &OwnedFd) -> Result<Arc<Region>, Refusal> {
    Region::map(
        file.as_fd(),
        region.guest_phys_addr,
        region.memory_size,
        region.user_addr,
        region.mmap_offset,
    )
    .map(Arc::new)
    .map_err(Refusal::failed)
}

/// An error's message and those of its sources: a message does not repeat its source's.
pub(crate) fn with_sources(error: &(dyn Error + 'static)) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        message.push_str(": ");
        message.push_str(&error.to_string());
        source = error.source();
    }
    message
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
