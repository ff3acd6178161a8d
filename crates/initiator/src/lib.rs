//! The driver side: connects to a vhost-user SCSI socket and issues commands.
