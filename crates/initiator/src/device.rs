//! Whatever disks are behind a socket: a SCSI controller's or a block device.

use std::path::Path;

use crate::block::BlockDevice;
use crate::initiator::connect;
use crate::message::{Channel, Request};
use crate::{Error, Initiator, Options, Session, protocol};

/// What a vhost-user socket leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A virtio-scsi controller.
    Scsi,
    /// A virtio-blk device.
    Block,
}

impl Kind {
    /// What a server is that offers these features. Of the bits that are a device type's own (0 to 23), virtio-scsi
    /// knows four (VS-010); every usable block device offers one of the others.
    fn of(offered: u64) -> Kind {
        const NOT_SCSI: u64 = 0xFF_FFF0;
        match offered & NOT_SCSI {
            0 => Kind::Scsi,
            _ => Kind::Block,
        }
    }
}

/// A device of either kind, with its rings running.
#[derive(Debug)]
pub enum Device {
    /// A virtio-scsi controller.
    Scsi(Box<Initiator>),
    /// A virtio-blk device.
    Block(Box<BlockDevice>),
}

impl Device {
    /// Connects to the socket at `path`, finds out what it leads to unless `kind` says so, and starts all rings.
    pub fn connect(
        path: impl AsRef<Path>,
        kind: Option<Kind>,
        options: Options,
    ) -> Result<Device, Error> {
        let channel = Channel::new(connect(path.as_ref())?, options.timeout);
        let offered = channel.ask_word(Request::GetFeatures, &[])?;
        match kind.unwrap_or(Kind::of(offered)) {
            Kind::Scsi => {
                /// The control queue and the event queue are counted, too (VU-016).
                const OTHERS: u64 = 2;
                let session = Session::negotiate(channel, &options)?;
                enough_queues(&session, options.queues, OTHERS)?;
                let initiator = Initiator::start(session, options)?;
                Ok(Device::Scsi(Box::new(initiator)))
            }
            Kind::Block => {
                let session = BlockDevice::negotiate(channel, &options)?;
                enough_queues(&session, options.queues, 0)?;
                let device = BlockDevice::start(session, options)?;
                Ok(Device::Block(Box::new(device)))
            }
        }
    }

    /// Of which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Device::Scsi(_) => Kind::Scsi,
            Device::Block(_) => Kind::Block,
        }
    }

    /// The connection.
    pub fn session(&self) -> &Session {
        match self {
            Device::Scsi(initiator) => initiator.session(),
            Device::Block(device) => device.session(),
        }
    }
}

fn enough_queues(session: &Session, wanted: u16, others: u64) -> Result<(), Error> {
    let offered = match session.protocol_features() & protocol::MQ {
        0 => 1,
        _ => session.queue_count()?.saturating_sub(others),
    };
    if u64::from(wanted) > offered {
        return Err(Error::TooFewQueues { wanted, offered });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature;

    #[test]
    fn the_kind_of_a_device_shows_in_its_features() {
        let all = feature::VERSION_1 | feature::EVENT_IDX | feature::PROTOCOL_FEATURES;
        assert_eq!(Kind::of(all), Kind::Scsi);
        let scsi = feature::INOUT | feature::HOTPLUG | feature::CHANGE | feature::T10_PI;
        assert_eq!(Kind::of(all | scsi), Kind::Scsi);
        assert_eq!(Kind::of(all | feature::BLK_SIZE), Kind::Block);
        assert_eq!(Kind::of(all | feature::BLK_FLUSH), Kind::Block);
    }
}
