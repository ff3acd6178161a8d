//! Status codes: the one byte that ends every command (SAM-5 5.3.1).

use std::fmt;

/// How a command ended. Any byte is representable, because an initiator may receive any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Status(pub u8);

impl Status {
    /// The command did what it was asked to do.
    pub const GOOD: Self = Self(0x00);
    /// It did not; the sense data says why.
    pub const CHECK_CONDITION: Self = Self(0x02);
    /// PRE-FETCH: everything that was asked for fits into the cache.
    pub const CONDITION_MET: Self = Self(0x04);
    /// The logical unit cannot take the command now.
    pub const BUSY: Self = Self(0x08);
    /// Another nexus' reservation forbids the command.
    pub const RESERVATION_CONFLICT: Self = Self(0x18);
    /// No room for one more command of this nexus.
    pub const TASK_SET_FULL: Self = Self(0x28);
    /// An auto contingent allegiance is in force.
    pub const ACA_ACTIVE: Self = Self(0x30);
    /// Another nexus aborted the command, and the Control mode page asks to be told (TAS).
    pub const TASK_ABORTED: Self = Self(0x40);
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::GOOD => "GOOD",
            Self::CHECK_CONDITION => "CHECK CONDITION",
            Self::CONDITION_MET => "CONDITION MET",
            Self::BUSY => "BUSY",
            Self::RESERVATION_CONFLICT => "RESERVATION CONFLICT",
            Self::TASK_SET_FULL => "TASK SET FULL",
            Self::ACA_ACTIVE => "ACA ACTIVE",
            Self::TASK_ABORTED => "TASK ABORTED",
            Self(byte) => return write!(f, "status {byte:02X}h"),
        })
    }
}
