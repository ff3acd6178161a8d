//! The vhost-user back-end server for virtio-scsi controllers.
