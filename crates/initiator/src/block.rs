//! A vhost-user block device, from the driver's side: as much of it as a load needs.

use crate::message::Channel;
use crate::ram::Ram;
use crate::request::{Lane, Places};
use crate::{Capacity, Error, Options, Ring, Session, feature, protocol};

/// Features to accept, where offered: what a guest's driver takes, but for optional commands.
const FEATURES: u64 = feature::BLK_SEG_MAX
    | feature::BLK_SIZE
    | feature::BLK_FLUSH
    | feature::BLK_TOPOLOGY
    | feature::BLK_MQ;
/// The unit of sector numbers, and of the capacity, whatever the size of a block (VIRTIO 1.3 §5.2.4).
pub(crate) const SECTOR: u64 = 512;
const PAGE: u64 = 4096;

/// A block device behind a vhost-user socket, with its rings running.
#[derive(Debug)]
pub struct BlockDevice {
    session: Session,
    ram: Ram,
    rings: Vec<Ring>,
    /// For each ring its requests.
    areas: Vec<u64>,
    capacity: Capacity,
    options: Options,
}

impl BlockDevice {
    /// Agrees on features; what is wanted of the transport is in `options`.
    pub(crate) fn negotiate(channel: Channel, options: &Options) -> Result<Session, Error> {
        let transport = feature::INDIRECT_DESC | feature::EVENT_IDX | feature::RING_PACKED;
        let options = Options {
            features: options.features & transport | FEATURES,
            ..options.clone()
        };
        Session::negotiate(channel, &options)
    }

    /// Starts all rings of a session.
    pub(crate) fn start(session: Session, options: Options) -> Result<BlockDevice, Error> {
        if session.protocol_features() & protocol::CONFIG == 0 {
            return Err(Error::Missing("its configuration space"));
        }
        let capacity = capacity(&session)?;
        let page = |bytes: u64| bytes.next_multiple_of(PAGE);
        let queues = u64::from(options.queues);
        let area = u64::from(options.depth) * request_bytes(&options);
        let rings = page(Ring::bytes(options.queue_size)) * queues;
        let mut ram = Ram::new(rings, area * queues, options.regions)?;
        let rings: Vec<Ring> = (0..options.queues)
            .map(|index| Ring::new(index, options.queue_size, &mut ram, &session))
            .collect::<Result<_, Error>>()?;
        let areas = (0..options.queues)
            .map(|_| ram.take(area))
            .collect::<Result<_, Error>>()?;
        let mut device = BlockDevice {
            session,
            ram,
            rings,
            areas,
            capacity,
            options,
        };
        device.ram.announce(&device.session)?;
        for ring in &mut device.rings {
            ring.start(&device.session, &device.ram, device.options.start)?;
        }
        Ok(device)
    }

    /// The connection.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Its size.
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    pub(crate) fn lanes(&mut self) -> Vec<Lane<'_>> {
        let size = request_bytes(&self.options);
        let lanes = self.rings.iter_mut().zip(&self.areas).map(|(ring, &area)| {
            let places = (0..self.options.depth).map(|index| {
                let start = area + u64::from(index) * size;
                Places::new(index.into(), start, start + PAGE)
            });
            Lane {
                ring,
                memory: self.ram.memory().clone(),
                places: places.collect(),
                room: usize::try_from(self.options.max_data).unwrap_or(0),
                timeout: self.options.timeout,
            }
        });
        lanes.collect()
    }
}

/// Bytes of one request: a page for header and status, and the data.
fn request_bytes(options: &Options) -> u64 {
    PAGE + u64::from(options.max_data).next_multiple_of(PAGE)
}

/// What the configuration space says of the size (VIRTIO 1.3 §5.2.4).
fn capacity(session: &Session) -> Result<Capacity, Error> {
    /// As far as the block size.
    const LENGTH: u32 = 24;
    let config = session.read_config(0, LENGTH)?;
    let sectors = config.first_chunk().copied().unwrap_or_default();
    let block_size = match session.features() & feature::BLK_SIZE {
        0 => 512,
        _ => config.last_chunk().copied().map_or(0, u32::from_le_bytes),
    };
    let bytes = u64::from_le_bytes(sectors).saturating_mul(SECTOR);
    Ok(Capacity {
        blocks: bytes / u64::from(block_size.max(1)),
        block_size,
    })
}
