//! Telling the service manager that started us how far we are, if one did: the `sd_notify` protocol.

use lunar_host::Host;
use sd_notify::{NotifyState, notify};

use crate::qemu::count;

/// Everything is there, and front ends can come.
pub fn ready(host: &Host) {
    let (disks, controllers) = (host.devices().len(), host.controllers().len());
    let status = format!(
        "serving {} on {}",
        count(disks, "disk"),
        count(controllers, "controller")
    );
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// The end has begun.
pub fn stopping() {
    let status = "finishing requests and flushing images";
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// It has gone wrong.
pub fn failed(reason: &str) {
    // A status is one line.
    let reason: Vec<&str> = reason.lines().map(str::trim).collect();
    tell(&[NotifyState::Status(&reason.join(" "))]);
}

fn tell(states: &[NotifyState<'_>]) {
    // Without a service manager nothing happens; one that does not listen is no reason to fail.
    if let Err(error) = notify(states) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
