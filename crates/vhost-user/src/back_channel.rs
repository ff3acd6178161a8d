//! The channel on which the back end speaks first (VU-030).

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::net::{SendFlags, send};
use vhost::vhost_user::message::BackendReq;

use crate::message::encode_request;

/// Sends requests to the front end, from any thread.
///
/// Nothing is sent while every ring is stopped (VU-041): the front end then holds the device suspended. A change that
/// happens meanwhile is told when the first ring starts.
#[derive(Debug, Default)]
pub(crate) struct BackChannel {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    socket: Option<OwnedFd>,
    config_negotiated: bool,
    rings_run: bool,
    config_changed: bool,
}

impl BackChannel {
    pub(crate) fn set_socket(&self, socket: OwnedFd) {
        self.lock().socket = Some(socket);
    }

    pub(crate) fn set_config_negotiated(&self, negotiated: bool) {
        self.lock().config_negotiated = negotiated;
    }

    pub(crate) fn set_rings_run(&self, run: bool) {
        let mut state = self.lock();
        state.rings_run = run;
        state.tell_config_change();
    }

    /// The configuration space has changed.
    pub(crate) fn config_changed(&self) {
        let mut state = self.lock();
        state.config_changed = true;
        state.tell_config_change();
    }

    /// The front end has gone.
    pub(crate) fn close(&self) {
        *self.lock() = State::default();
    }

    /// No invariant spans the fields, so a panic elsewhere has left nothing half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tell_config_change(&mut self) {
        let (Some(socket), true, true, true) = (
            &self.socket,
            self.config_negotiated,
            self.rings_run,
            self.config_changed,
        ) else {
            return;
        };
        self.config_changed = false;
        let message = encode_request(BackendReq::CONFIG_CHANGE_MSG.into(), &[]);
        // Twelve bytes go whole or not at all, unless the front end has stopped reading; then the channel is of no use.
        match send(socket, &message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(n) if n == message.len() => {}
            outcome => {
                tracing::warn!(
                    ?outcome,
                    "front end does not take CONFIG_CHANGE; back channel closed"
                );
                self.socket = None;
            }
        }
    }
}
