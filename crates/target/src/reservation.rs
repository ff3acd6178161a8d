//! Reservations: who may use a logical unit that it shares with others (SPC-4 5.13, SC-040 to SC-046).
//!
//! [`Reservations`] is the state of persistent reservations and the rules by which PERSISTENT RESERVE OUT changes it: a
//! value, without locks and without knowledge of who is there. Registrants are known by the names of their ports, which
//! outlast a nexus and the process. An action works on a copy; the copy is saved, if it is to survive a loss of power,
//! and only then becomes the state (`LuState::persistent_reserve_out`): a crash between any two steps leaves
//! the state before the command or after it.

mod record;
mod service;
mod store;

use lunar_scsi::reservation::{
    self as wire, Destination, Effect, Kind, Out, Parameters, TransportId,
};
use lunar_scsi::{AdditionalSense, Sense};

pub use service::{OutRequest, Persisted, Preempted};
pub(crate) use store::Keeper;
pub use store::{RestoreError, Store};

use crate::UnitAttention;

/// Registrations that one unit keeps: what an initiator can make us remember.
const MAX_REGISTRATIONS: usize = 1024;

/// An I_T nexus by the names of its ends: what can be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Registrant {
    /// The initiator port.
    pub initiator: TransportId,
    /// RELATIVE TARGET PORT IDENTIFIER.
    pub target_port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Registration {
    who: Registrant,
    key: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reservation {
    kind: Kind,
    /// Who has made it; the holder, unless all registrants are.
    holder: Registrant,
}

/// The persistent reservation of a logical unit and its registrations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    generation: u32,
    registrations: Vec<Registration>,
    reservation: Option<Reservation>,
    /// APTPL: all of this survives a loss of power.
    persists: bool,
}

/// A PERSISTENT RESERVE OUT command as the rules see it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who has sent it.
    pub from: Registrant,
    /// What it asks for.
    pub action: Out,
    /// Byte 2 of its CDB.
    pub scope_and_type: u8,
    /// Its parameter list.
    pub parameters: Parameters,
}

/// What a successful command means for others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consequences {
    /// Who has to hear what.
    pub attentions: Vec<(Registrant, UnitAttention)>,
    /// Those whose registrations were preempted.
    pub preempted: Vec<Registrant>,
}

/// Why a command changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// RESERVATION CONFLICT.
    Conflict,
    /// CHECK CONDITION.
    Check(Sense),
}

impl From<Sense> for Refusal {
    fn from(sense: Sense) -> Refusal {
        Refusal::Check(sense)
    }
}

type Result<T> = std::result::Result<T, Refusal>;

/// What the rules need to know of the unit besides its state.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The relative identifiers of its target ports.
    pub target_ports: &'a [u16],
    /// Whether there is where to save the state.
    pub can_persist: bool,
}

impl Reservations {
    /// Whether `who` is kept from commands of this effect (SC-042).
    #[must_use]
    pub fn excludes(&self, who: Registrant, effect: Effect) -> bool {
        match self.reservation {
            Some(reservation) if !self.is_held_by(who) => reservation
                .kind
                .excludes(effect, self.key_of(who).is_some()),
            _ => false,
        }
    }

    /// Whether anybody is registered.
    #[must_use]
    pub fn has_registrations(&self) -> bool {
        !self.registrations.is_empty()
    }

    /// Whether `who` may send RESERVE and RELEASE, which then do nothing: holders may, and registrants where the
    /// reservation admits them (CRH, SC-045).
    #[must_use]
    pub fn tolerates_legacy(&self, who: Registrant) -> bool {
        self.is_held_by(who)
            || self.key_of(who).is_some()
                && self
                    .reservation
                    .is_some_and(|held| held.kind.admits_registrants())
    }

    /// Whether it survives a loss of power.
    #[must_use]
    pub fn persists(&self) -> bool {
        self.persists
    }

    /// Appends READ KEYS data.
    pub fn read_keys(&self, out: &mut Vec<u8>) {
        wire::read_keys(
            out,
            self.generation,
            self.registrations.iter().map(|r| r.key),
        );
    }

    /// Appends READ RESERVATION data.
    pub fn read_reservation(&self, out: &mut Vec<u8>) {
        let shown = self.reservation.map(|Reservation { kind, holder }| {
            let key = match kind.is_held_by_all() {
                true => 0,
                false => self.key_of(holder).unwrap_or(0),
            };
            wire::Reservation { key, kind }
        });
        wire::read_reservation(out, self.generation, shown);
    }

    /// Appends READ FULL STATUS data.
    pub fn read_full_status(&self, out: &mut Vec<u8>) {
        let shown = self
            .registrations
            .iter()
            .map(|registration| wire::FullStatus {
                key: registration.key,
                holds: self
                    .reservation
                    .filter(|_| self.is_held_by(registration.who))
                    .map(|reservation| reservation.kind),
                target_port: registration.who.target_port,
                initiator: registration.who.initiator,
            });
        wire::read_full_status(out, self.generation, shown);
    }

    /// Carries a command out.
    ///
    /// # Errors
    /// Why it must not be carried out; what it has done to this value up to there is then not to be used.
    pub fn apply(&mut self, request: &Request, around: Surroundings<'_>) -> Result<Consequences> {
        let Request { from, action, .. } = *request;
        let parameters = &request.parameters;
        let registers = matches!(action, Out::Register | Out::RegisterAndIgnoreExistingKey);
        if !registers && self.key_of(from) != Some(parameters.key) {
            return Err(Refusal::Conflict);
        }
        if parameters.persist && !around.can_persist {
            let byte = if action == Out::RegisterAndMove {
                17
            } else {
                20
            };
            return Err(Sense::invalid_bits_in_parameters(byte, 0).into());
        }
        let mut told = Consequences::default();
        match action {
            Out::Register | Out::RegisterAndIgnoreExistingKey => {
                self.register(from, action, parameters, around, &mut told)?;
            }
            Out::Reserve => self.reserve(from, Kind::from_cdb(request.scope_and_type)?)?,
            Out::Release => {
                self.release(from, Kind::from_cdb(request.scope_and_type)?, &mut told)?;
            }
            Out::Clear => self.clear(from, &mut told),
            Out::Preempt | Out::PreemptAndAbort => self.preempt(request, &mut told)?,
            Out::RegisterAndMove => self.register_and_move(from, parameters, around)?,
        }
        Ok(told)
    }

    fn register(
        &mut self,
        from: Registrant,
        action: Out,
        parameters: &Parameters,
        around: Surroundings<'_>,
        told: &mut Consequences,
    ) -> Result<()> {
        let registered = self.key_of(from);
        if action == Out::Register && registered.unwrap_or(0) != parameters.key {
            return Err(Refusal::Conflict);
        }
        // SPEC_I_PT is for REGISTER by those who are not registered.
        if parameters.initiators.is_some() && (registered.is_some() || action != Out::Register) {
            return Err(Sense::invalid_bits_in_parameters(20, 3).into());
        }
        if registered.is_none() && parameters.action_key == 0 {
            return Ok(());
        }
        let ports = |initiator: TransportId| {
            let through =
                |&target_port: &u16| parameters.all_target_ports || target_port == from.target_port;
            let ports = around.target_ports.iter().copied().filter(through);
            ports.map(move |target_port| Registrant {
                initiator,
                target_port,
            })
        };
        let own: Vec<_> = ports(from.initiator).collect();
        let others: Vec<_> = parameters
            .initiators
            .iter()
            .flatten()
            .flat_map(|&initiator| ports(initiator))
            .filter(|who| self.key_of(*who).is_none())
            .collect();
        for who in own.into_iter().chain(others) {
            if parameters.action_key == 0 {
                self.unregister(who, told);
            } else {
                self.set_key(who, parameters.action_key)?;
            }
        }
        self.persists = parameters.persist;
        self.count();
        Ok(())
    }

    fn reserve(&mut self, from: Registrant, kind: Kind) -> Result<()> {
        match self.reservation {
            None => {
                self.reservation = Some(Reservation { kind, holder: from });
                Ok(())
            }
            Some(held) if self.is_held_by(from) && held.kind == kind => Ok(()),
            Some(_) => Err(Refusal::Conflict),
        }
    }

    fn release(&mut self, from: Registrant, kind: Kind, told: &mut Consequences) -> Result<()> {
        let Some(held) = self.reservation.filter(|_| self.is_held_by(from)) else {
            return Ok(());
        };
        if held.kind != kind {
            let wrong = AdditionalSense::INVALID_RELEASE_OF_PERSISTENT_RESERVATION;
            return Err(Sense::illegal_request(wrong).into());
        }
        self.reservation = None;
        if kind.admits_registrants() {
            self.tell_others(from, UnitAttention::ReservationsReleased, told);
        }
        Ok(())
    }

    fn clear(&mut self, from: Registrant, told: &mut Consequences) {
        self.tell_others(from, UnitAttention::ReservationsPreempted, told);
        self.registrations.clear();
        self.reservation = None;
        self.count();
    }

    fn preempt(&mut self, request: &Request, told: &mut Consequences) -> Result<()> {
        let from = request.from;
        let key = request.parameters.action_key;
        let takes_over = self
            .reservation
            .filter(|held| match held.kind.is_held_by_all() {
                true => key == 0,
                false => key != 0 && self.key_of(held.holder) == Some(key),
            });
        let Some(held) = takes_over else {
            if key == 0 {
                return Err(Sense::invalid_field_in_parameters(8).into());
            }
            return self.remove_registrations(from, key, told);
        };
        let kind = Kind::from_cdb(request.scope_and_type)?;
        let everybody = held.kind.is_held_by_all();
        let (kept, removed) = self
            .registrations
            .iter()
            .partition::<Vec<_>, _>(|r| r.who == from || !everybody && r.key != key);
        self.registrations = kept;
        self.reservation = Some(Reservation { kind, holder: from });
        self.preempted(from, removed, told);
        if held.kind != kind {
            self.tell_others(from, UnitAttention::ReservationsReleased, told);
        }
        self.count();
        Ok(())
    }

    /// Preempting those who do not hold the reservation, oneself perhaps among them.
    fn remove_registrations(
        &mut self,
        from: Registrant,
        key: u64,
        told: &mut Consequences,
    ) -> Result<()> {
        let (removed, kept) = self
            .registrations
            .iter()
            .partition::<Vec<Registration>, _>(|registration| registration.key == key);
        if removed.is_empty() {
            return Err(Refusal::Conflict);
        }
        self.registrations = kept;
        // Only a reservation that all hold can lose its last holder here.
        if self.registrations.is_empty() {
            self.reservation = None;
        }
        self.preempted(from, removed, told);
        self.count();
        Ok(())
    }

    fn preempted(&self, from: Registrant, removed: Vec<Registration>, told: &mut Consequences) {
        for who in removed
            .into_iter()
            .map(|r| r.who)
            .filter(|&who| who != from)
        {
            told.attentions
                .push((who, UnitAttention::RegistrationsPreempted));
            told.preempted.push(who);
        }
    }

    fn register_and_move(
        &mut self,
        from: Registrant,
        parameters: &Parameters,
        around: Surroundings<'_>,
    ) -> Result<()> {
        let Some(held) = self.reservation else {
            return Err(Sense::invalid_bits_in_cdb(1, 4).into());
        };
        if held.kind.is_held_by_all() || held.holder != from {
            return Err(Refusal::Conflict);
        }
        let Destination {
            unregister,
            target_port,
            initiator,
        } = parameters.destination;
        if parameters.action_key == 0 {
            return Err(Sense::invalid_field_in_parameters(8).into());
        }
        if !around.target_ports.contains(&target_port) {
            return Err(Sense::invalid_field_in_parameters(18).into());
        }
        let to = Registrant {
            initiator,
            target_port,
        };
        if to == from {
            return Err(Sense::invalid_field_in_parameters(24).into());
        }
        self.set_key(to, parameters.action_key)?;
        self.reservation = Some(Reservation { holder: to, ..held });
        if unregister {
            self.registrations.retain(|r| r.who != from);
        }
        self.persists = parameters.persist;
        self.count();
        Ok(())
    }

    /// Ends a registration, and the reservation if it has lost its holder.
    fn unregister(&mut self, who: Registrant, told: &mut Consequences) {
        let before = self.registrations.len();
        let held = self.reservation.filter(|_| self.is_held_by(who));
        self.registrations.retain(|r| r.who != who);
        if before == self.registrations.len() {
            return;
        }
        if let Some(held) = held
            && (!held.kind.is_held_by_all() || self.registrations.is_empty())
        {
            self.reservation = None;
            if held.kind.admits_registrants() {
                self.tell_others(who, UnitAttention::ReservationsReleased, told);
            }
        }
    }

    fn set_key(&mut self, who: Registrant, key: u64) -> Result<()> {
        if let Some(registration) = self.registrations.iter_mut().find(|r| r.who == who) {
            registration.key = key;
            return Ok(());
        }
        if self.registrations.len() >= MAX_REGISTRATIONS {
            let full = AdditionalSense::INSUFFICIENT_REGISTRATION_RESOURCES;
            return Err(Sense::illegal_request(full).into());
        }
        self.registrations.push(Registration { who, key });
        Ok(())
    }

    fn key_of(&self, who: Registrant) -> Option<u64> {
        let mut registrations = self.registrations.iter();
        registrations.find(|r| r.who == who).map(|r| r.key)
    }

    fn is_held_by(&self, who: Registrant) -> bool {
        self.reservation
            .is_some_and(|held| match held.kind.is_held_by_all() {
                true => self.key_of(who).is_some(),
                false => held.holder == who,
            })
    }

    fn tell_others(&self, but: Registrant, what: UnitAttention, told: &mut Consequences) {
        let others = self
            .registrations
            .iter()
            .map(|r| r.who)
            .filter(|&who| who != but);
        told.attentions.extend(others.map(|who| (who, what)));
    }

    fn count(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
