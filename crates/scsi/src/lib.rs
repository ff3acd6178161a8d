//! The SCSI wire: CDBs, the command table, sense, INQUIRY and VPD, mode pages, LUN addresses.
