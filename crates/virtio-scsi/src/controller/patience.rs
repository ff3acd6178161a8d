//! Waiting for commands in flight.
//!
//! What the kernel has begun cannot be called back, and may write into the guest's memory until it is over. So a ring
//! stops when storage has answered, and whoever asked for that waits: a front end, in the middle of its machine, for as
//! long as the host's disk hangs. All that can be done is to say why.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::{Controller, State};
use crate::Error;
use crate::worker::Message;

/// How long storage may take without a word of it.
const PATIENCE: Duration = Duration::from_secs(3);

/// Addresses that are named in one line of the log.
const NAMED: usize = 4;

impl Controller {
    /// Waits for the answer of a queue that ends when nothing is in flight any more.
    pub(super) fn await_storage(
        &self,
        state: &State,
        index: usize,
        answer: &Receiver<u32>,
    ) -> Result<u32, Error> {
        let begun = Instant::now();
        match answer.recv_timeout(PATIENCE) {
            Err(RecvTimeoutError::Timeout) => {}
            answer => return answer.map_err(|_| Error::Stopped),
        }
        let controller = &self.config.id;
        tracing::warn!(
            "controller {controller}, queue {index}: has to stop, and waits for commands in flight: {}",
            self.in_flight(state)
        );
        let answer = answer.recv().map_err(|_| Error::Stopped)?;
        let seconds = begun.elapsed().as_secs();
        tracing::warn!("controller {controller}, queue {index}: has stopped after {seconds} s");
        Ok(answer)
    }

    /// How many commands storage has not answered, and whose, for people.
    fn in_flight(&self, state: &State) -> String {
        let nexus = self.nexus;
        let (reply, commands) = channel();
        for &worker in state.members() {
            let reply = reply.clone();
            // One that has been stopped has no commands.
            let _: Result<(), Error> = self
                .workers
                .send(worker, Message::InFlight { nexus, reply });
        }
        drop(reply);
        let mut units = BTreeMap::<(u8, u16), usize>::new();
        for address in commands {
            *units.entry(address).or_default() += 1;
        }
        let named = units.iter().take(NAMED);
        let mut named: Vec<String> = named
            .map(|((target, lun), count)| format!("{count} of target {target} LUN {lun}"))
            .collect();
        if units.len() > NAMED {
            named.push("others".to_owned());
        }
        named.join(", ")
    }
}
