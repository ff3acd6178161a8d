//! What is saved of persistent reservations: a line of text for each registration, and one for the reservation.

use std::fmt::Write as _;

use lunar_scsi::reservation::{Kind, TransportId};

use super::{MAX_REGISTRATIONS, Registrant, Registration, Reservation, Reservations};

/// The first line. The number is that of the format.
const TITLE: &str = "persistent reservations 1";

impl Reservations {
    /// The text that [`decode`](Reservations::decode) reads. A state that does not survive a loss of power is saved as
    /// an empty one.
    pub(crate) fn encode(&self) -> String {
        let mut text = format!("{TITLE}\n");
        if self.persists {
            for Registration { who, key } in &self.registrations {
                let (initiator, port) = (who.initiator.0, who.target_port);
                // Writing to a string does not fail.
                let _ = writeln!(text, "registration {initiator:016x} {port} {key:016x}");
            }
            if let Some(Reservation { kind, holder }) = self.reservation {
                let (initiator, port) = (holder.initiator.0, holder.target_port);
                let _ = writeln!(text, "reservation {} {initiator:016x} {port}", kind as u8);
            }
        }
        text
    }

    /// Reads what [`encode`](Reservations::encode) has written; `None` if it can have written no such thing.
    pub(crate) fn decode(text: &[u8]) -> Option<Reservations> {
        let mut lines = std::str::from_utf8(text).ok()?.lines();
        lines.next().filter(|&title| title == TITLE)?;
        let mut state = Reservations::default();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            match *words {
                ["registration", initiator, port, key] => state.restore(initiator, port, key)?,
                ["reservation", kind, initiator, port] => {
                    state.restore_held(kind, initiator, port)?;
                }
                _ => return None,
            }
        }
        state.persists = state.has_registrations();
        Some(state)
    }

    fn restore(&mut self, initiator: &str, port: &str, key: &str) -> Option<()> {
        let who = registrant(initiator, port)?;
        let key = u64::from_str_radix(key, 16).ok().filter(|&key| key != 0)?;
        let free = self.registrations.len() < MAX_REGISTRATIONS && self.key_of(who).is_none();
        free.then(|| self.registrations.push(Registration { who, key }))
    }

    fn restore_held(&mut self, kind: &str, initiator: &str, port: &str) -> Option<()> {
        let kind = Kind::from_type(kind.parse().ok()?)?;
        let holder = registrant(initiator, port)?;
        let held = match kind.is_held_by_all() {
            true => self.has_registrations(),
            false => self.key_of(holder).is_some(),
        };
        if !held || self.reservation.is_some() {
            return None;
        }
        self.reservation = Some(Reservation { kind, holder });
        Some(())
    }
}

fn registrant(initiator: &str, port: &str) -> Option<Registrant> {
    Some(Registrant {
        initiator: TransportId(u64::from_str_radix(initiator, 16).ok()?),
        target_port: port.parse().ok()?,
    })
}
