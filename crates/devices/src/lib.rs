//! SCSI logical units: the disk.
