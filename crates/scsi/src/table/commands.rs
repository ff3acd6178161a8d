//! The rows of the command table.
//!
//! A row gives the command's name and its CDB usage data (SPC-4 6.35), exactly as REPORT SUPPORTED OPERATION CODES
//! returns them (SC-072), then what deviates from the defaults of [`new`](Row::new). Bits that only some units support
//! are not in the usage data but in [`optional`](Row::optional). The CONTROL byte is zero; its NACA bit is
//! added for every unit that is one.

use crate::cdb::NACA;

use super::{AccessClass, DeviceTypes, Direction, Features, OptionalBits, ReservationClass, Row};

/// Bits that mean something in every position of a byte.
const F: u8 = 0xff;

const DPO_FUA: &[OptionalBits] = &[OptionalBits::new(Features::DPO_FUA, 1, 0x18)];
const DPO: &[OptionalBits] = &[OptionalBits::new(Features::DPO_FUA, 1, 0x10)];
/// The same of a 32-byte CDB, where the flags of byte 1 are in byte 10.
const DPO_FUA_32: &[OptionalBits] = &[OptionalBits::new(Features::DPO_FUA, 10, 0x18)];
const DPO_32: &[OptionalBits] = &[OptionalBits::new(Features::DPO_FUA, 10, 0x10)];
const UNMAP_32: &[OptionalBits] = &[OptionalBits::new(Features::PROVISIONING, 10, 0x08)];
const UNMAP: &[OptionalBits] = &[OptionalBits::new(Features::PROVISIONING, 1, 0x08)];
const SAVE: &[OptionalBits] = &[OptionalBits::new(Features::SAVING, 1, 0x01)];
const LOEJ: &[OptionalBits] = &[OptionalBits::new(Features::REMOVABLE, 4, 0x02)];

impl OptionalBits {
    #[expect(
        clippy::indexing_slicing,
        reason = "evaluated at compile time, where an index out of bounds is an error"
    )]
    const fn new(feature: Features, byte: usize, bits: u8) -> Self {
        let mut place = [0; 16];
        place[byte] = bits;
        Self {
            feature,
            bits: u128::from_ne_bytes(place),
        }
    }
}

/// How a row is written down.
impl Row {
    /// A command of disks that is refused to those whom a reservation shuts out of writing.
    const fn new(
        operation: Operation,
        direction: Direction,
        name: &'static str,
        usage: &'static [u8],
    ) -> Self {
        Self {
            operation,
            name,
            direction,
            reservation: ReservationClass::Write,
            access: AccessClass::Active,
            passes_unit_attention: false,
            nominal_timeout: 0,
            recommended_timeout: 30,
            usage,
            optional: &[],
            service_action: None,
            devices: DeviceTypes::DISK,
            requires: Features::empty(),
            allowed: allowed(usage, false),
            naca: naca(usage),
        }
    }

    const fn on(self, devices: DeviceTypes) -> Self {
        Self { devices, ..self }
    }

    const fn requires(self, requires: Features) -> Self {
        Self { requires, ..self }
    }

    const fn optional(self, optional: &'static [OptionalBits]) -> Self {
        Self { optional, ..self }
    }

    const fn reservation(self, reservation: ReservationClass) -> Self {
        Self {
            reservation,
            ..self
        }
    }

    const fn access(self, access: AccessClass) -> Self {
        Self { access, ..self }
    }

    const fn passes_unit_attention(self) -> Self {
        Self {
            passes_unit_attention: true,
            access: AccessClass::Always,
            ..self
        }
    }

    /// What stands where SCSI-2 had the LUN, in the three high bits of byte 1, is ignored. Linux writes it there for the
    /// first look at a unit of a target that it does not know yet.
    const fn ignores_lun_field(self) -> Self {
        let [low, high] = self.allowed;
        let mut place = [0; 16];
        place[1] = 0xe0;
        Self {
            allowed: [low | u128::from_ne_bytes(place), high],
            ..self
        }
    }

    /// The five low bits of byte 1 are a service action.
    #[expect(
        clippy::indexing_slicing,
        reason = "evaluated at compile time, where an index out of bounds is an error"
    )]
    const fn with_service_action(self) -> Self {
        let action = self.usage[1] & 0x1f;
        Self {
            service_action: Some(action as u16),
            allowed: allowed(self.usage, true),
            ..self
        }
    }

    /// Bytes 8 and 9 are a service action: a variable-length CDB (SPC-4 4.2.3).
    #[expect(
        clippy::indexing_slicing,
        reason = "evaluated at compile time, where an index out of bounds is an error"
    )]
    const fn with_long_service_action(self) -> Self {
        let action = u16::from_be_bytes([self.usage[8], self.usage[9]]);
        Self {
            service_action: Some(action),
            ..self
        }
    }

    const fn recommended_timeout(self, seconds: u32) -> Self {
        Self {
            recommended_timeout: seconds,
            ..self
        }
    }
}

/// Defines [`Operation`] and the rows from one list.
macro_rules! commands {
    ($($(#[$doc:meta])* $operation:ident, $direction:ident: [$(($name:literal, $usage:expr)$(.$set:ident($($with:expr)?))*),+ $(,)?],)*) => {
        /// What a logical unit does: the key its command handlers are found by.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Operation {
            $($(#[$doc])* $operation,)*
        }

        const UNSORTED: &[Row] = &[
            $($(Row::new(Operation::$operation, Direction::$direction, $name, &$usage)$(.$set($($with)?))*,)+)*
        ];
    };
}

use AccessClass::{Settled, Standby};
use ReservationClass::{Always, PreventAllow, Read, Reservation, StartStop};

const ALL_UNITS: DeviceTypes = DeviceTypes::UNITS.union(DeviceTypes::WELL_KNOWN);
const UNITS: DeviceTypes = DeviceTypes::UNITS;
const ALL: DeviceTypes = ALL_UNITS.union(DeviceTypes::ABSENT);

/// Usage data of a 32-byte block command: its service action and the flags that every unit has. The tags of protection
/// information mean nothing to a unit without it, which ignores them (SBC-3 5.36); tools send them nevertheless.
const fn long(action: u8, flags: u8) -> [u8; 32] {
    [
        0x7f, 0, 0, 0, 0, 0, 0, 0x18, 0, action, flags, 0, F, F, F, F, F, F, F, F, F, F, F, F, F,
        F, F, F, F, F, F, F,
    ]
}

commands! {
    /// Can the medium be accessed? SPC-4.
    TestUnitReady, None: [
        ("TEST UNIT READY", [0x00, 0, 0, 0, 0, 0]).on(ALL_UNITS).reservation(Always),
    ],
    /// Report sense data as parameter data. SPC-4.
    RequestSense, In: [
        ("REQUEST SENSE", [0x03, 0x01, 0, 0, F, 0]).on(ALL).reservation(Always).passes_unit_attention(),
    ],
    /// Standard INQUIRY data or a VPD page. SPC-4.
    Inquiry, In: [
        ("INQUIRY", [0x12, 0x01, F, F, F, 0])
            .on(ALL).reservation(Always).passes_unit_attention().ignores_lun_field(),
    ],
    /// The logical units of this target. SPC-4.
    ReportLuns, In: [
        ("REPORT LUNS", [0xa0, 0, F, 0, 0, 0, F, F, F, F, 0, 0]).on(ALL).reservation(Always).passes_unit_attention(),
    ],
    /// The commands of this unit. SPC-4.
    ReportSupportedOperationCodes, In: [
        ("REPORT SUPPORTED OPERATION CODES", [0xa3, 0x0c, 0x87, F, F, F, F, F, F, F, 0, 0])
            .with_service_action().on(DeviceTypes::UNITS).reservation(Read),
    ],
    /// The task management functions of this unit. SPC-4.
    ReportSupportedTaskManagementFunctions, In: [
        ("REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", [0xa3, 0x0d, 0x80, 0, 0, 0, F, F, F, F, 0, 0])
            .with_service_action().on(DeviceTypes::UNITS).reservation(Read),
    ],
    /// Mode pages behind a 4-byte header. SPC-4.
    ModeSense6, In: [("MODE SENSE(6)", [0x1a, 0x08, F, F, F, 0]).reservation(Read).access(Standby)],
    /// Mode pages behind an 8-byte header. SPC-4.
    ModeSense10, In: [("MODE SENSE(10)", [0x5a, 0x18, F, F, 0, 0, 0, F, F, 0]).reservation(Read).access(Standby)],
    /// Change mode pages. SPC-4.
    ModeSelect6, Out: [("MODE SELECT(6)", [0x15, 0x10, 0, 0, F, 0]).optional(SAVE).access(Standby)],
    /// Change mode pages. SPC-4.
    ModeSelect10, Out: [("MODE SELECT(10)", [0x55, 0x10, 0, 0, 0, 0, 0, F, F, 0]).optional(SAVE).access(Standby)],
    /// What the unit has counted. SPC-4.
    LogSense, In: [("LOG SENSE", [0x4d, 0, F, F, 0, F, F, F, F, 0]).reservation(Always).access(Standby)],
    /// Start counting anew. SPC-4.
    LogSelect, Out: [("LOG SELECT", [0x4c, 0x02, F, F, 0, 0, 0, F, F, 0]).access(Standby)],
    /// Test the unit, or send it a diagnostic page. SPC-4.
    SendDiagnostic, Out: [("SEND DIAGNOSTIC", [0x1d, 0xf7, 0, F, F, 0]).recommended_timeout(600).access(Standby)],
    /// Diagnostic pages. SPC-4.
    ReceiveDiagnosticResults, In: [
        ("RECEIVE DIAGNOSTIC RESULTS", [0x1c, 0x01, F, F, F, 0]).reservation(Read).access(Standby),
    ],
    /// Memory of the unit, read. SPC-4.
    ReadBuffer, In: [("READ BUFFER", [0x3c, 0x1f, F, F, F, F, F, F, F, 0])
        .reservation(Read).access(AccessClass::Always)],
    /// Memory of the unit, written. SPC-4.
    WriteBuffer, Out: [("WRITE BUFFER", [0x3b, 0x1f, F, F, F, F, F, F, F, 0]).access(AccessClass::Always)],
    /// The unit's clock. SPC-4.
    ReportTimestamp, In: [
        ("REPORT TIMESTAMP", [0xa3, 0x0f, 0, 0, 0, 0, F, F, F, F, 0, 0])
            .with_service_action().reservation(Always),
    ],
    /// Set the unit's clock. SPC-4.
    SetTimestamp, Out: [
        ("SET TIMESTAMP", [0xa4, 0x0f, 0, 0, 0, 0, F, F, F, F, 0, 0]).with_service_action(),
    ],
    /// What an administrator calls the unit. SPC-4.
    ReportIdentifyingInformation, In: [
        ("REPORT IDENTIFYING INFORMATION", [0xa3, 0x05, 0, 0, 0, 0, F, F, F, F, 0xfe, 0])
            .with_service_action().reservation(Always),
    ],
    /// Call the unit something. SPC-4.
    SetIdentifyingInformation, Out: [
        ("SET IDENTIFYING INFORMATION", [0xa4, 0x06, 0, 0, 0, 0, F, F, F, F, 0xfe, 0])
            .with_service_action().requires(Features::SAVING),
    ],
    /// Who has registered, and who holds the persistent reservation. SPC-4.
    PersistentReserveIn, In: [
        ("PERSISTENT RESERVE IN, READ KEYS", [0x5e, 0x00, 0, 0, 0, 0, 0, F, F, 0])
            .with_service_action().on(UNITS).reservation(Reservation).access(Standby),
        ("PERSISTENT RESERVE IN, READ RESERVATION", [0x5e, 0x01, 0, 0, 0, 0, 0, F, F, 0])
            .with_service_action().on(UNITS).reservation(Reservation).access(Standby),
        ("PERSISTENT RESERVE IN, REPORT CAPABILITIES", [0x5e, 0x02, 0, 0, 0, 0, 0, F, F, 0])
            .with_service_action().on(UNITS).reservation(Reservation).access(Standby),
        ("PERSISTENT RESERVE IN, READ FULL STATUS", [0x5e, 0x03, 0, 0, 0, 0, 0, F, F, 0])
            .with_service_action().on(UNITS).reservation(Reservation).access(Standby),
    ],
    /// Register, and reserve persistently. SPC-4.
    PersistentReserveOut, Out: [
        ("PERSISTENT RESERVE OUT, REGISTER", [0x5f, 0x00, F, 0, 0, F, F, F, F, 0])
            .with_service_action().on(UNITS).reservation(Reservation).access(Standby),
        ("PERSISTENT RESERVE OUT, RESERVE", [0x5f, 0x01, F, 0, 0, F, F, F, F, 0])
            .with_service_action().on(UNITS).reservation(Reservation).access(Standby),
        ("PERSISTENT RESERVE OUT, RELEASE", [0x5f, 0x02, F, 0, 0, F, F, F, F, 0])
            .with_service_action().on(UNITS).reservation(Reservation).access(Standby),
        ("PERSISTENT RESERVE OUT, CLEAR", [0x5f, 0x03, F, 0, 0, F, F, F, F, 0])
            .with_service_action().on(UNITS).reservation(Reservation).access(Standby),
        ("PERSISTENT RESERVE OUT, PREEMPT", [0x5f, 0x04, F, 0, 0, F, F, F, F, 0])
            .with_service_action().on(UNITS).reservation(Reservation).access(Standby),
        ("PERSISTENT RESERVE OUT, PREEMPT AND ABORT", [0x5f, 0x05, F, 0, 0, F, F, F, F, 0])
            .with_service_action().on(UNITS).reservation(Reservation).access(Standby).recommended_timeout(60),
        ("PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY", [0x5f, 0x06, F, 0, 0, F, F, F, F, 0])
            .with_service_action().on(UNITS).reservation(Reservation).access(Standby),
        ("PERSISTENT RESERVE OUT, REGISTER AND MOVE", [0x5f, 0x07, F, 0, 0, F, F, F, F, 0])
            .with_service_action().on(UNITS).reservation(Reservation).access(Standby),
    ],
    /// Reserve until a reset or a loss of the nexus. SPC-2; the third-party and extent forms are not supported.
    Reserve, None: [
        ("RESERVE(6)", [0x16, 0, 0, 0, 0, 0]).on(UNITS).reservation(Reservation).access(Standby),
        ("RESERVE(10)", [0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0]).on(UNITS).reservation(Reservation).access(Standby),
    ],
    /// End what [`Reserve`](Operation::Reserve) has begun. SPC-2.
    Release, None: [
        ("RELEASE(6)", [0x17, 0, 0, 0, 0, 0]).on(UNITS).reservation(Reservation).access(Standby),
        ("RELEASE(10)", [0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0]).on(UNITS).reservation(Reservation).access(Standby),
    ],
    /// How well the logical unit is reached through each port. SPC-4.
    ReportTargetPortGroups, In: [
        ("REPORT TARGET PORT GROUPS", [0xa3, 0xea, 0, 0, 0, 0, F, F, F, F, 0, 0])
            .with_service_action().on(UNITS).reservation(Always).access(AccessClass::Always),
    ],
    /// Move the logical unit to other ports. SPC-4.
    SetTargetPortGroups, Out: [
        ("SET TARGET PORT GROUPS", [0xa4, 0x0a, 0, 0, 0, 0, F, F, F, F, 0, 0])
            .with_service_action().on(UNITS).requires(Features::EXPLICIT_ALUA).access(Settled),
    ],
    /// Capacity and block size. SBC-3.
    ReadCapacity10, In: [("READ CAPACITY(10)", [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        .reservation(Always).access(AccessClass::Always)],
    /// Capacity, block size, provisioning, protection. SBC-3.
    ReadCapacity16, In: [
        ("READ CAPACITY(16)", [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 0])
            .with_service_action().reservation(Always).access(AccessClass::Always),
    ],
    /// Copy between logical units. SPC-4.
    ExtendedCopy, Out: [
        ("EXTENDED COPY(LID1)", [0x83, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 0])
            .with_service_action().recommended_timeout(120),
    ],
    /// What has become of a copy. SPC-4.
    ReceiveCopyStatus, In: [
        ("RECEIVE COPY STATUS(LID1)", [0x84, 0x00, F, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 0])
            .with_service_action().reservation(Always),
    ],
    /// What a copy may be. SPC-4.
    ReceiveCopyParameters, In: [
        ("RECEIVE COPY OPERATING PARAMETERS", [0x84, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 0])
            .with_service_action().reservation(Always),
    ],
    /// Which blocks have space. SBC-3.
    GetLbaStatus, In: [
        ("GET LBA STATUS", [0x9e, 0x12, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0])
            .with_service_action().reservation(Always),
    ],
    /// Blocks to the initiator. SBC-3.
    Read, In: [
        ("READ(6)", [0x08, 0x1f, F, F, F, 0]).reservation(Read),
        ("READ(10)", [0x28, 0, F, F, F, F, 0, F, F, 0]).optional(DPO_FUA).reservation(Read),
        ("READ(12)", [0xa8, 0, F, F, F, F, F, F, F, F, 0, 0]).optional(DPO_FUA).reservation(Read),
        ("READ(16)", [0x88, 0, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0]).optional(DPO_FUA).reservation(Read),
        ("READ(32)", long(0x09, 0)).with_long_service_action().optional(DPO_FUA_32).reservation(Read),
    ],
    /// Blocks from the initiator. SBC-3.
    Write, Out: [
        ("WRITE(6)", [0x0a, 0x1f, F, F, F, 0]),
        ("WRITE(10)", [0x2a, 0, F, F, F, F, 0, F, F, 0]).optional(DPO_FUA),
        ("WRITE(12)", [0xaa, 0, F, F, F, F, F, F, F, F, 0, 0]).optional(DPO_FUA),
        ("WRITE(16)", [0x8a, 0, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0]).optional(DPO_FUA),
        ("WRITE(32)", long(0x0b, 0)).with_long_service_action().optional(DPO_FUA_32),
    ],
    /// Check that blocks can be read; with BYTCHK, that they equal the data sent. SBC-3.
    Verify, Out: [
        ("VERIFY(10)", [0x2f, 0x06, F, F, F, F, 0, F, F, 0]).optional(DPO).reservation(Read),
        ("VERIFY(12)", [0xaf, 0x06, F, F, F, F, F, F, F, F, 0, 0]).optional(DPO).reservation(Read),
        ("VERIFY(16)", [0x8f, 0x06, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0]).optional(DPO).reservation(Read),
        ("VERIFY(32)", long(0x0a, 0x06)).with_long_service_action().optional(DPO_32).reservation(Read),
    ],
    /// Blocks from the initiator, and check that they can be read; with BYTCHK, that they equal the data sent. SBC-3.
    WriteAndVerify, Out: [
        ("WRITE AND VERIFY(10)", [0x2e, 0x02, F, F, F, F, 0, F, F, 0]).optional(DPO),
        ("WRITE AND VERIFY(12)", [0xae, 0x02, F, F, F, F, F, F, F, F, 0, 0]).optional(DPO),
        ("WRITE AND VERIFY(16)", [0x8e, 0x02, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0]).optional(DPO),
        ("WRITE AND VERIFY(32)", long(0x0c, 0x02)).with_long_service_action().optional(DPO_32),
    ],
    /// Replace blocks if they have the content that the initiator expects. SBC-3.
    CompareAndWrite, Out: [
        ("COMPARE AND WRITE", [0x89, 0, F, F, F, F, F, F, F, F, 0, 0, 0, F, 0, 0]).optional(DPO_FUA),
    ],
    /// Set bits. SBC-3.
    OrWrite, Out: [
        ("ORWRITE(16)", [0x8b, 0, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0]).optional(DPO_FUA),
    ],
    /// Blocks from the initiator, all at once. SBC-4.
    WriteAtomic, Out: [
        ("WRITE ATOMIC(16)", [0x9c, 0, F, F, F, F, F, F, F, F, 0, 0, F, F, 0, 0]).optional(DPO_FUA)
            .requires(Features::ATOMIC_WRITE),
    ],
    /// Blocks into the cache, where a later READ finds them. SBC-3.
    PreFetch, None: [
        ("PRE-FETCH(10)", [0x34, 0x02, F, F, F, F, 0x1f, F, F, 0]).reservation(Read),
        ("PRE-FETCH(16)", [0x90, 0x02, F, F, F, F, F, F, F, F, F, F, F, F, 0x1f, 0]).reservation(Read),
    ],
    /// The flaws of the medium. SBC-3.
    ReadDefectData10, In: [
        ("READ DEFECT DATA(10)", [0x37, 0, 0x1f, 0, 0, 0, 0, F, F, 0]).reservation(Read),
    ],
    /// The same, with a longer list. SBC-3.
    ReadDefectData12, In: [
        ("READ DEFECT DATA(12)", [0xb7, 0x1f, F, F, F, F, F, F, F, F, 0, 0]).reservation(Read),
    ],
    /// Write what is cached to the medium. SBC-3. SYNC_NV, which SBC-4 dropped, asks for less than is done anyway.
    SynchronizeCache, None: [
        ("SYNCHRONIZE CACHE(10)", [0x35, 0x06, F, F, F, F, 0, F, F, 0]).recommended_timeout(60),
        ("SYNCHRONIZE CACHE(16)", [0x91, 0x06, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0]).recommended_timeout(60),
    ],
    /// Give blocks back. SBC-3.
    Unmap, Out: [
        ("UNMAP", [0x42, 0, 0, 0, 0, 0, 0, F, F, 0]).requires(Features::PROVISIONING).recommended_timeout(60),
    ],
    /// One block's data to many blocks. SBC-3.
    WriteSame, Out: [
        ("WRITE SAME(10)", [0x41, 0, F, F, F, F, 0, F, F, 0]).optional(UNMAP).recommended_timeout(120),
        ("WRITE SAME(16)", [0x93, 0x01, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0])
            .optional(UNMAP).recommended_timeout(120),
        ("WRITE SAME(32)", long(0x0d, 0x01)).with_long_service_action().optional(UNMAP_32).recommended_timeout(120),
    ],
    /// Start, stop, load and eject. SBC-3.
    StartStopUnit, None: [
        ("START STOP UNIT", [0x1b, 0x01, 0, 0x0f, 0xf5, 0]).optional(LOEJ).reservation(StartStop),
    ],
    /// Make all blocks alike. SBC-3.
    FormatUnit, Out: [
        ("FORMAT UNIT", [0x04, 0x3f, 0, 0, 0, 0]).recommended_timeout(7200),
    ],
    /// Make what was on the medium irrecoverable. SBC-3.
    Sanitize, Out: [
        ("SANITIZE, OVERWRITE", [0x48, 0xa1, 0, 0, 0, 0, 0, F, F, 0])
            .with_service_action().requires(Features::SANITIZE).recommended_timeout(7200),
        ("SANITIZE, BLOCK ERASE", [0x48, 0xa2, 0, 0, 0, 0, 0, F, F, 0])
            .with_service_action().requires(Features::SANITIZE.union(Features::BLOCK_ERASE)).recommended_timeout(7200),
        ("SANITIZE, EXIT FAILURE MODE", [0x48, 0xbf, 0, 0, 0, 0, 0, F, F, 0])
            .with_service_action().requires(Features::SANITIZE),
    ],
    /// Lock the medium in. SPC-4, SBC-3.
    PreventAllowMediumRemoval, None: [
        ("PREVENT ALLOW MEDIUM REMOVAL", [0x1e, 0, 0, 0, 0x01, 0])
            .requires(Features::REMOVABLE).reservation(PreventAllow),
    ],
}

/// All rows, in ascending order of opcode and service action.
pub(super) static TABLE: [Row; UNSORTED.len()] = sorted();

/// The rows of each opcode.
static INDEX: [&[Row]; 256] = index(&TABLE);

/// The rows that share an opcode.
#[inline]
pub(super) fn with_opcode(opcode: u8) -> &'static [Row] {
    INDEX.get(usize::from(opcode)).copied().unwrap_or_default()
}

/// Ones wherever a CDB with this usage data may have ones. The identity (opcode and service action) has been compared
/// already, and what lies behind the CDB's end is nobody's concern.
#[expect(
    clippy::indexing_slicing,
    reason = "evaluated at compile time, where an index out of bounds is an error"
)]
const fn allowed(usage: &[u8], has_service_action: bool) -> [u128; 2] {
    let mut halves = [[0xff; 16]; 2];
    let mut at = 1;
    while at < usage.len() {
        let long_action = usage[0] == 0x7f && (at == 8 || at == 9);
        let action = if long_action {
            0xff
        } else if at == 1 && has_service_action {
            0x1f
        } else {
            0
        };
        halves[at / 16][at % 16] = usage[at] | action;
        at += 1;
    }
    [
        u128::from_ne_bytes(halves[0]),
        u128::from_ne_bytes(halves[1]),
    ]
}

/// Where these commands have NACA: in the last byte, but for the variable-length ones.
#[expect(
    clippy::indexing_slicing,
    reason = "evaluated at compile time, where an index out of bounds is an error"
)]
const fn naca(usage: &[u8]) -> u128 {
    let mut place = [0; 16];
    let control = if usage[0] == 0x7f { 1 } else { usage.len() - 1 };
    place[control] = NACA;
    u128::from_ne_bytes(place)
}

const fn sort_key(row: &Row) -> u32 {
    let action = match row.service_action() {
        Some(action) => action as u32,
        None => 0,
    };
    (row.opcode() as u32) << 16 | action
}

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated at compile time, where an index out of bounds is an error"
)]
const fn sorted() -> [Row; UNSORTED.len()] {
    let mut rows = [UNSORTED[0]; UNSORTED.len()];
    let mut count = 0;
    while count < rows.len() {
        let row = UNSORTED[count];
        let mut at = count;
        while at > 0 && sort_key(&rows[at - 1]) > sort_key(&row) {
            rows[at] = rows[at - 1];
            at -= 1;
        }
        rows[at] = row;
        count += 1;
    }
    rows
}

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated at compile time, where an index out of bounds is an error"
)]
const fn index(table: &'static [Row]) -> [&'static [Row]; 256] {
    let mut index: [&[Row]; 256] = [&[]; 256];
    let mut rest = table;
    while let [first, ..] = rest {
        let mut count = 1;
        while count < rest.len() && rest[count].opcode() == first.opcode() {
            count += 1;
        }
        let (same, others) = rest.split_at(count);
        index[first.opcode() as usize] = same;
        rest = others;
    }
    index
}
