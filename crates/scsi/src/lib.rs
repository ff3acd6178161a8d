//! The SCSI wire: CDBs, the command table, sense, INQUIRY and VPD, mode pages, LUN addresses.
//!
//! This crate knows how things look between an initiator and a target, and nothing else: it does no I/O, keeps no state,
//! and is used by both sides. The central type is the [`table::Row`], one command of the standards: [`table::decode`]
//! turns 32 bytes from a guest into a row or into the sense data that refuses them.
//!
//! **Errors** are [`Sense`] values, because that is what they become on the wire; the parsers of replies, which an
//! initiator uses, answer `None` for what they cannot read. **Threading**: there are only values and constants here.
//! **Allocation**: only the builders of variable-length parameter data append to a caller's `Vec`.
//!
//! Bytes are a guest's (or a hostile target's): every read is bounded by construction, see [`be`].
//! IDs such as `SC-031` number the project's requirements.

pub mod alua;
pub mod be;
pub mod capacity;
pub mod cdb;
pub mod copy;
pub mod inquiry;
pub mod lba_status;
pub mod log;
pub mod lun;
pub mod mode;
pub mod naa;
pub mod report_luns;
pub mod reservation;
pub mod rsoc;
pub mod sense;
pub mod status;
pub mod table;
pub mod unmap;
pub mod vpd;

pub use cdb::Cdb;
pub use lun::{Lun, LunAddress};
pub use sense::{AdditionalSense, Sense, SenseKey};
pub use status::Status;
pub use table::{DeviceType, Features, Operation, Profile, Row, decode};
