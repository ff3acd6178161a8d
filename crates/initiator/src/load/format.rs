//! Reads and writes in the two request formats.

use lunar_virtqueue::{Buffer, DriverQueue, GuestMemory};

use super::Failure;
use crate::block::SECTOR;
use crate::request::Places;
use crate::scan::put;
use crate::wire::{self, CDB, REQUEST, RESPONSE, Response};
use crate::{Address, Error, Kind, TaskAttribute};

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Read,
    Write,
}

/// A disk under load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk {
    /// Where requests for it go, on a SCSI controller.
    pub(crate) address: Address,
    /// Bytes of a logical block.
    pub(crate) block_size: u32,
    /// Logical blocks of each request.
    pub(crate) blocks_each: u32,
    /// Places of that size.
    pub(crate) available: u64,
}

impl Disk {
    /// The logical block address of a place.
    pub(crate) fn lba(&self, place: u64) -> u64 {
        place * u64::from(self.blocks_each)
    }
}

/// Bytes of a block request's header (VIRTIO 1.3 §5.2.6).
const HEADER: usize = 16;

/// Writes the header of a request.
pub(crate) fn write_header(
    kind: Kind,
    memory: &GuestMemory,
    at: &Places,
    op: Op,
    disk: &Disk,
    place: u64,
    tag: u64,
) -> Result<(), Error> {
    let lba = disk.lba(place);
    match kind {
        Kind::Scsi => {
            let cdb = cdb(op, lba, disk.blocks_each);
            let header = wire::request(disk.address, tag, TaskAttribute::Simple, &cdb);
            memory.write(at.header, &header)?;
            // So that a response that is not written does not look like the one before.
            memory.write(at.response + 10, &[0xFF; 2])?;
        }
        Kind::Block => {
            let kind: u32 = match op {
                Op::Read => 0,
                Op::Write => 1,
            };
            let sector = lba * (u64::from(disk.block_size) / SECTOR);
            let mut header = [0; HEADER];
            put(&mut header, 0, &kind.to_le_bytes());
            put(&mut header, 8, &sector.to_le_bytes());
            memory.write(at.header, &header)?;
            memory.write(at.response, &[0xFF])?;
        }
    }
    Ok(())
}

/// READ or WRITE in the form that guests choose: of 10 bytes, which every target knows, unless it cannot say it.
fn cdb(op: Op, lba: u64, blocks: u32) -> [u8; CDB] {
    let mut cdb = [0; CDB];
    if let (Ok(lba), Ok(blocks)) = (u32::try_from(lba), u16::try_from(blocks)) {
        let opcode = match op {
            Op::Read => 0x28,
            Op::Write => 0x2A,
        };
        put(&mut cdb, 0, &[opcode]);
        put(&mut cdb, 2, &lba.to_be_bytes());
        put(&mut cdb, 7, &blocks.to_be_bytes());
    } else {
        let opcode = match op {
            Op::Read => 0x88,
            Op::Write => 0x8A,
        };
        put(&mut cdb, 0, &[opcode]);
        put(&mut cdb, 2, &lba.to_be_bytes());
        put(&mut cdb, 10, &blocks.to_be_bytes());
    }
    cdb
}

/// Stages the chain of a request; gives its head. A block device's status byte comes after the data, a SCSI response
/// before them.
pub(crate) fn stage(
    kind: Kind,
    queue: &mut DriverQueue,
    at: &Places,
    op: Op,
    bytes: usize,
) -> Result<u16, Error> {
    let (header, response) = match kind {
        Kind::Scsi => (REQUEST, RESPONSE),
        Kind::Block => (HEADER, 1),
    };
    let buffer = |addr, len| Buffer {
        addr,
        len: u32::try_from(len).unwrap_or(u32::MAX),
    };
    let header = buffer(at.header, header);
    let response = buffer(at.response, response);
    let data = buffer(at.data, bytes);
    let head = match (op, kind) {
        (Op::Write, _) => queue.add(&[header, data], &[response]),
        (Op::Read, Kind::Scsi) => queue.add(&[header], &[response, data]),
        (Op::Read, Kind::Block) => queue.add(&[header], &[data, response]),
    };
    Ok(head?)
}

/// How a returned request ended.
pub(crate) fn outcome(
    kind: Kind,
    memory: &GuestMemory,
    at: &Places,
    written: u32,
) -> Result<Option<Failure>, Error> {
    match kind {
        Kind::Scsi => {
            let mut status_and_response = [0; 2];
            memory.read(at.response + 10, &mut status_and_response)?;
            if status_and_response == [0, 0] {
                return Ok(None);
            }
            let mut bytes = [0; RESPONSE];
            memory.read(at.response, &mut bytes)?;
            let response = Response::parse(&bytes, written);
            Ok(Some(Failure::Scsi {
                response: response.response,
                status: response.status,
                sense: response.sense_key(),
            }))
        }
        Kind::Block => {
            let mut status = [0; 1];
            memory.read(at.response, &mut status)?;
            let [status] = status;
            Ok((status != 0).then_some(Failure::Block { status }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_is_used_where_it_can_say_it() {
        let mut read = [0; CDB];
        read[..10].copy_from_slice(&[0x28, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, 0]);
        assert_eq!(cdb(Op::Read, 0xFFFF_FFFF, 0xFFFF), read);
        let mut write = [0; CDB];
        write[..14].copy_from_slice(&[0x8A, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8]);
        assert_eq!(cdb(Op::Write, 1 << 32, 8), write);
        assert_eq!(cdb(Op::Write, 0, 1 << 16)[0], 0x8A);
    }
}
