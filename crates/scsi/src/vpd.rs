//! Vital product data pages (SPC-4 7.8, SBC-3 6.6): what INQUIRY with EVPD = 1 returns.
//!
//! Pages of variable length append themselves to a `Vec`; the fixed ones are structures with a `to_bytes`.

mod designator;

pub use designator::{Association, Designator, Identifier, designators};

use crate::be::Fields;
use crate::copy::{self, Limits};
use crate::inquiry::Peripheral;

/// PAGE CODE values.
pub mod code {
    /// Supported VPD Pages.
    pub const SUPPORTED_PAGES: u8 = 0x00;
    /// Unit Serial Number.
    pub const UNIT_SERIAL_NUMBER: u8 = 0x80;
    /// Device Identification.
    pub const DEVICE_IDENTIFICATION: u8 = 0x83;
    /// Management Network Addresses.
    pub const MANAGEMENT_NETWORK_ADDRESSES: u8 = 0x85;
    /// Extended INQUIRY Data.
    pub const EXTENDED_INQUIRY: u8 = 0x86;
    /// Mode Page Policy.
    pub const MODE_PAGE_POLICY: u8 = 0x87;
    /// SCSI Ports.
    pub const SCSI_PORTS: u8 = 0x88;
    /// Power Condition.
    pub const POWER_CONDITION: u8 = 0x8a;
    /// Third-party Copy.
    pub const THIRD_PARTY_COPY: u8 = 0x8f;
    /// Block Limits.
    pub const BLOCK_LIMITS: u8 = 0xb0;
    /// Block Device Characteristics.
    pub const BLOCK_DEVICE_CHARACTERISTICS: u8 = 0xb1;
    /// Logical Block Provisioning.
    pub const LOGICAL_BLOCK_PROVISIONING: u8 = 0xb2;
}

/// Appends a page: its header, what `body` appends, and the PAGE LENGTH, which counts the latter.
fn page(out: &mut Vec<u8>, peripheral: Peripheral, code: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([peripheral.to_byte(), code, 0, 0]);
    body(out);
    let length = u16::try_from(out.len() - start - 4).unwrap_or(u16::MAX);
    if let Some(field) = out.get_mut(start + 2..start + 4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// Page 00h: the codes of all pages that the unit has, ascending, this one included.
pub fn supported_pages(out: &mut Vec<u8>, peripheral: Peripheral, codes: &[u8]) {
    page(out, peripheral, code::SUPPORTED_PAGES, |out| {
        out.extend_from_slice(codes)
    });
}

/// Page 80h.
pub fn unit_serial_number(out: &mut Vec<u8>, peripheral: Peripheral, serial: &str) {
    page(out, peripheral, code::UNIT_SERIAL_NUMBER, |out| {
        out.extend_from_slice(serial.as_bytes())
    });
}

/// Page 83h.
pub fn device_identification(
    out: &mut Vec<u8>,
    peripheral: Peripheral,
    designators: &[Designator<'_>],
) {
    page(out, peripheral, code::DEVICE_IDENTIFICATION, |out| {
        designators
            .iter()
            .for_each(|designator| designator.append_to(out));
    });
}

/// Page 85h: there is no address.
#[must_use]
pub const fn management_network_addresses(peripheral: Peripheral) -> [u8; 4] {
    let code = code::MANAGEMENT_NETWORK_ADDRESSES;
    [peripheral.to_byte(), code, 0, 0]
}

/// Page 86h (SC-014).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ExtendedInquiry {
    /// V_SUP: there can be a volatile cache.
    pub volatile_cache: bool,
    /// EXTENDED SELF-TEST COMPLETION MINUTES.
    pub extended_self_test_minutes: u16,
    /// MAXIMUM SUPPORTED SENSE DATA LENGTH.
    pub max_sense: u8,
}

impl ExtendedInquiry {
    /// The page: task attributes SIMPLE, ORDERED and HEAD OF QUEUE, unit attentions cleared for the nexus that is lost
    /// (LUICLR), no protection information.
    #[must_use]
    pub fn to_bytes(&self, peripheral: Peripheral) -> [u8; 64] {
        let mut page = [0u8; 64];
        page.put::<0, 4>([peripheral.to_byte(), code::EXTENDED_INQUIRY, 0, 0x3c]);
        page.put_u8::<5>(0x07); // HEADSUP, ORDSUP, SIMPSUP
        page.put_u8::<6>(u8::from(self.volatile_cache));
        page.put_u8::<7>(0x01); // LUICLR
        page.put_u16::<10>(self.extended_self_test_minutes);
        page.put_u8::<13>(self.max_sense);
        page
    }
}

/// Page 87h (SC-015): one copy of every mode page, shared by all nexuses.
#[must_use]
pub const fn mode_page_policy(peripheral: Peripheral) -> [u8; 8] {
    let all_pages = [0x3f, 0xff, 0x00, 0x00];
    let [page, subpage, policy, reserved] = all_pages;
    [
        peripheral.to_byte(),
        code::MODE_PAGE_POLICY,
        0,
        4,
        page,
        subpage,
        policy,
        reserved,
    ]
}

/// Page 8Ah: all idle and standby conditions exist, and leaving them takes no time.
#[must_use]
pub fn power_condition(peripheral: Peripheral) -> [u8; 18] {
    let mut page = [0u8; 18];
    page.put::<0, 6>([
        peripheral.to_byte(),
        code::POWER_CONDITION,
        0,
        14,
        0x03, // STANDBY_Y, STANDBY_Z
        0x07, // IDLE_C, IDLE_B, IDLE_A
    ]);
    page
}

/// Page 8Fh (SPC-4 7.8.17): the commands of the copy manager, and what they take.
pub fn third_party_copy(
    out: &mut Vec<u8>,
    peripheral: Peripheral,
    limits: Limits,
    commands: &[(u8, &[u8])],
) {
    page(out, peripheral, code::THIRD_PARTY_COPY, |out| {
        descriptor(out, 0x0001, |out| {
            let list = commands.iter().flat_map(|(opcode, actions)| {
                let count = u8::try_from(actions.len()).unwrap_or(u8::MAX);
                [*opcode, count].into_iter().chain(actions.iter().copied())
            });
            list_of_bytes(out, list);
        });
        descriptor(out, 0x0004, |out| {
            let mut parameters = [0; 28];
            parameters.put_u16::<4>(limits.cscds);
            parameters.put_u16::<6>(limits.segments);
            parameters.put_u32::<8>(limits.list_bytes());
            out.extend(parameters);
        });
        descriptor(out, 0x0008, |out| {
            list_of_bytes(out, copy::code::SUPPORTED.into_iter());
        });
        descriptor(out, 0x8001, |out| {
            let mut general = [0; 32];
            general.put_u32::<0>(limits.concurrent.into());
            general.put_u32::<4>(limits.concurrent.into());
            general.put_u32::<8>(limits.segment_bytes);
            general.put_u8::<12>(limits.granularity);
            out.extend(general);
        });
    });
}

/// Appends a third-party copy descriptor, padded to whole words.
fn descriptor(out: &mut Vec<u8>, kind: u16, body: impl FnOnce(&mut Vec<u8>)) {
    let mut content = Vec::new();
    body(&mut content);
    content.resize(content.len().next_multiple_of(4), 0);
    out.extend(kind.to_be_bytes());
    out.extend(
        u16::try_from(content.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes(),
    );
    out.extend(content);
}

/// Appends bytes behind their number.
fn list_of_bytes(out: &mut Vec<u8>, list: impl Iterator<Item = u8>) {
    let start = out.len();
    out.push(0);
    out.extend(list);
    let count = u8::try_from(out.len() - start - 1).unwrap_or(u8::MAX);
    if let Some(field) = out.get_mut(start) {
        *field = count;
    }
}

/// Appends more entries to a page 83h that is the last thing in `page`.
pub fn append_designators(page: &mut Vec<u8>, designators: &[Designator<'_>]) {
    let before = page.len();
    designators
        .iter()
        .for_each(|designator| designator.append_to(page));
    let added = page.len() - before;
    if let Some([_, code, high, low, ..]) = page.first_chunk_mut::<4>()
        && *code == code::DEVICE_IDENTIFICATION
    {
        let length = usize::from(u16::from_be_bytes([*high, *low])) + added;
        [*high, *low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    }
}

/// A target port in page 88h.
#[derive(Clone, Copy, Debug)]
pub struct ScsiPort<'a> {
    /// RELATIVE PORT IDENTIFIER.
    pub relative: u16,
    /// Its names.
    pub designators: &'a [Designator<'a>],
}

/// Page 88h while it is written.
#[derive(Debug)]
pub struct ScsiPorts<'a>(&'a mut Vec<u8>);

impl ScsiPorts<'_> {
    /// Appends a port. There is no initiator port in any.
    pub fn push(&mut self, port: &ScsiPort<'_>) {
        let out = &mut *self.0;
        let [high, low] = port.relative.to_be_bytes();
        out.extend([0, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0]);
        let start = out.len();
        for designator in port.designators {
            designator.append_to(out);
        }
        let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
        if let Some(field) = out.get_mut(start - 2..start) {
            field.copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// Page 88h: the ports that `ports` appends.
pub fn scsi_ports(
    out: &mut Vec<u8>,
    peripheral: Peripheral,
    ports: impl FnOnce(&mut ScsiPorts<'_>),
) {
    page(out, peripheral, code::SCSI_PORTS, |out| {
        ports(&mut ScsiPorts(out))
    });
}

/// Page B0h (SC-016): what the unit takes at once. Lengths are in logical blocks, and 0 says "not reported".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BlockLimits {
    /// WSNZ: WRITE SAME with NUMBER OF LOGICAL BLOCKS 0 is refused.
    pub write_same_nonzero: bool,
    /// MAXIMUM COMPARE AND WRITE LENGTH.
    pub max_compare_and_write: u8,
    /// OPTIMAL TRANSFER LENGTH GRANULARITY.
    pub optimal_granularity: u16,
    /// MAXIMUM TRANSFER LENGTH.
    pub max_transfer: u32,
    /// OPTIMAL TRANSFER LENGTH.
    pub optimal_transfer: u32,
    /// MAXIMUM PREFETCH LENGTH.
    pub max_prefetch: u32,
    /// MAXIMUM UNMAP LBA COUNT; FFFFFFFFh = no limit. 0 exactly if the unit has no UNMAP.
    pub max_unmap_blocks: u32,
    /// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT; FFFFFFFFh = no limit. 0 exactly if the unit has no UNMAP.
    pub max_unmap_descriptors: u32,
    /// OPTIMAL UNMAP GRANULARITY.
    pub unmap_granularity: u32,
    /// UNMAP GRANULARITY ALIGNMENT, if it is valid (UGAVALID).
    pub unmap_alignment: Option<u32>,
    /// MAXIMUM WRITE SAME LENGTH.
    pub max_write_same: u64,
    /// MAXIMUM ATOMIC TRANSFER LENGTH. 0 exactly if the unit has no WRITE ATOMIC.
    pub max_atomic: u32,
    /// ATOMIC ALIGNMENT.
    pub atomic_alignment: u32,
    /// ATOMIC TRANSFER LENGTH GRANULARITY.
    pub atomic_granularity: u32,
}

impl BlockLimits {
    /// The page; its length is 60 (SBC-3). There are no atomic boundaries.
    #[must_use]
    pub fn to_bytes(&self, peripheral: Peripheral) -> [u8; 64] {
        let mut page = [0u8; 64];
        page.put::<0, 4>([peripheral.to_byte(), code::BLOCK_LIMITS, 0, 0x3c]);
        page.put_u8::<4>(u8::from(self.write_same_nonzero));
        page.put_u8::<5>(self.max_compare_and_write);
        page.put_u16::<6>(self.optimal_granularity);
        page.put_u32::<8>(self.max_transfer);
        page.put_u32::<12>(self.optimal_transfer);
        page.put_u32::<16>(self.max_prefetch);
        page.put_u32::<20>(self.max_unmap_blocks);
        page.put_u32::<24>(self.max_unmap_descriptors);
        page.put_u32::<28>(self.unmap_granularity);
        if let Some(alignment) = self.unmap_alignment {
            page.put_u32::<32>(0x8000_0000 | alignment);
        }
        page.put_u64::<36>(self.max_write_same);
        page.put_u32::<44>(self.max_atomic);
        page.put_u32::<48>(self.atomic_alignment);
        page.put_u32::<52>(self.atomic_granularity);
        page
    }
}

/// Page B1h (SC-017): what kind of medium it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BlockDeviceCharacteristics {
    /// MEDIUM ROTATION RATE in revolutions per minute; 0 = not reported, 1 = does not rotate.
    pub rotation_rate: u16,
    /// WABEREQ: blocks can be read after SANITIZE's BLOCK ERASE without being written first. Otherwise there is no such
    /// operation.
    pub readable_after_block_erase: bool,
    /// FUAB: SYNCHRONIZE CACHE and FUA as SBC-3 means them. VBULS and the form factor stay zero.
    pub fuab: bool,
}

impl BlockDeviceCharacteristics {
    /// The page; its length is 3Ch exactly (Windows refuses any other).
    #[must_use]
    pub fn to_bytes(&self, peripheral: Peripheral) -> [u8; 64] {
        let mut page = [0u8; 64];
        page.put::<0, 4>([
            peripheral.to_byte(),
            code::BLOCK_DEVICE_CHARACTERISTICS,
            0,
            0x3c,
        ]);
        page.put_u16::<4>(self.rotation_rate);
        page.put_u8::<7>(u8::from(self.readable_after_block_erase) << 6);
        page.put_u8::<8>(u8::from(self.fuab) << 1);
        page
    }
}

/// PROVISIONING TYPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum ProvisioningType {
    /// Every block has its place (or the unit does not say).
    #[default]
    Full = 0,
    /// Resource provisioned.
    Resource = 1,
    /// Thin provisioned.
    Thin = 2,
}

/// Page B2h (SC-017): how blocks are given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LogicalBlockProvisioning {
    /// LBPU: UNMAP is supported.
    pub unmap: bool,
    /// LBPWS: WRITE SAME(16) with UNMAP is supported.
    pub write_same_16: bool,
    /// LBPWS10: WRITE SAME(10) with UNMAP is supported.
    pub write_same_10: bool,
    /// LBPRZ = 001b: unmapped blocks read as zeroes. It must agree with READ CAPACITY(16).
    pub reads_zeroes: bool,
    /// PROVISIONING TYPE.
    pub provisioning: ProvisioningType,
    /// THRESHOLD EXPONENT: logical blocks in a threshold set, as a power of two. 0 exactly if the unit has no thresholds.
    pub threshold_exponent: u8,
}

impl LogicalBlockProvisioning {
    /// The page; no anchored blocks, no provisioning group.
    #[must_use]
    pub fn to_bytes(&self, peripheral: Peripheral) -> [u8; 8] {
        let flags = u8::from(self.unmap) << 7
            | u8::from(self.write_same_16) << 6
            | u8::from(self.write_same_10) << 5
            | u8::from(self.reads_zeroes) << 2;
        let code = code::LOGICAL_BLOCK_PROVISIONING;
        [
            peripheral.to_byte(),
            code,
            0,
            4,
            self.threshold_exponent,
            flags,
            self.provisioning as u8,
            0,
        ]
    }
}

#[cfg(test)]
mod tests;
