//! Reservations of a logical unit that is in use: who sees them, what they keep out, and how they are changed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use lunar_scsi::reservation::{Capabilities, Effect, Out, Parameters};
use lunar_scsi::{AdditionalSense, Sense, SenseKey};

use super::store::{self, Keeper, RestoreError, Store};
use super::{Consequences, Refusal, Registrant, Request, Reservations, Result, Surroundings};
use crate::state::Shared;
use crate::{LuState, NexusId};

/// How a PERSISTENT RESERVE OUT command goes on.
pub enum Persisted {
    /// It is over.
    Now(Result<Preempted>),
    /// It is over when the state has been saved.
    Later(Pin<Box<dyn Future<Output = Result<Preempted>> + Send>>),
}

impl std::fmt::Debug for Persisted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Persisted::Now(result) => f.debug_tuple("Now").field(result).finish(),
            Persisted::Later(_) => f.debug_struct("Later").finish_non_exhaustive(),
        }
    }
}

/// The nexuses that a PREEMPT has thrown out, as far as they are there.
pub type Preempted = Vec<NexusId>;

impl Shared {
    /// The names of a nexus.
    fn registrant(&self, nexus: NexusId) -> Option<Registrant> {
        let found = self.nexuses.iter().find(|n| n.id == nexus)?;
        Some(found.registrant())
    }

    /// Whether a nexus is kept from what `effect` says by anybody's reservation; `tells` is a command that only says
    /// what is there (SC-042, SC-045).
    pub(crate) fn excludes(&self, nexus: NexusId, effect: Effect, tells: bool) -> bool {
        if self.legacy.is_some_and(|holder| holder != nexus) && !tells {
            return true;
        }
        self.registrant(nexus)
            .is_some_and(|who| self.reservations.excludes(who, effect))
    }

    /// The copy that becomes the state, and what that means to others.
    fn reserve_out(
        &self,
        nexus: NexusId,
        request: &OutRequest,
        can_persist: bool,
    ) -> Result<(Reservations, Consequences)> {
        // SPC-2: the two kinds of reservations exclude each other.
        let from = self.registrant(nexus).ok_or(Refusal::Conflict)?;
        if self.legacy.is_some() {
            return Err(Refusal::Conflict);
        }
        let mut target_ports: Vec<u16> =
            self.nexuses.iter().map(|n| n.path.port.relative).collect();
        target_ports.sort_unstable();
        let mut next = self.reservations.clone();
        let consequences = next.apply(
            &Request {
                from,
                action: request.action,
                scope_and_type: request.scope_and_type,
                parameters: request.parameters.clone(),
            },
            Surroundings {
                target_ports: &target_ports,
                can_persist,
            },
        )?;
        Ok((next, consequences))
    }

    /// Makes a copy the state.
    fn commit(&mut self, next: Reservations, consequences: Consequences) -> Preempted {
        self.reservations = next;
        for (who, attention) in consequences.attentions {
            let concerned = self.nexuses.iter_mut().filter(|n| n.registrant() == who);
            concerned.for_each(|nexus| nexus.attentions.raise(attention));
        }
        let preempted =
            |nexus: &&crate::state::Nexus| consequences.preempted.contains(&nexus.registrant());
        self.nexuses
            .iter()
            .filter(preempted)
            .map(|n| n.id)
            .collect()
    }
}

/// A PERSISTENT RESERVE OUT command without its sender.
#[derive(Clone, Debug)]
pub struct OutRequest {
    /// What it asks for.
    pub action: Out,
    /// Byte 2 of its CDB.
    pub scope_and_type: u8,
    /// Its parameter list.
    pub parameters: Parameters,
}

/// The state could not be saved: it has not changed.
fn not_saved() -> Refusal {
    let failed = AdditionalSense::INTERNAL_TARGET_FAILURE;
    Refusal::Check(Sense::new(SenseKey::HardwareError, failed))
}

impl LuState {
    /// Restores what `store` has kept, and keeps there what is to survive a loss of power from now on. For a unit that
    /// nobody uses yet, once.
    ///
    /// # Errors
    /// What was kept cannot be trusted.
    pub fn keep_reservations(
        &self,
        store: Box<dyn Store>,
    ) -> std::result::Result<(), RestoreError> {
        let restored = store::load(&*store)?;
        // A unit keeps to its first store.
        let _: std::result::Result<(), Keeper> = self.keeper.set(Keeper::new(store));
        if let Some(restored) = restored {
            self.change(|shared| shared.reservations = restored);
        }
        Ok(())
    }

    /// PERSISTENT RESERVE OUT. If there is a store, its keeper carries out one command after the other, and saves
    /// what has to be saved before it becomes the state.
    pub(crate) fn persistent_reserve_out(
        self: &Arc<Self>,
        nexus: NexusId,
        request: OutRequest,
    ) -> Persisted {
        let Some(keeper) = self.keeper.get() else {
            return Persisted::Now(self.reserve_out_unsaved(nexus, &request));
        };
        let state = Arc::clone(self);
        let later = keeper.run(move |store| state.reserve_out_saved(store, nexus, &request));
        Persisted::Later(Box::pin(async {
            later.await.unwrap_or_else(|_| Err(not_saved()))
        }))
    }

    fn reserve_out_unsaved(&self, nexus: NexusId, request: &OutRequest) -> Result<Preempted> {
        self.change(|shared| {
            let (next, consequences) = shared.reserve_out(nexus, request, false)?;
            Ok(shared.commit(next, consequences))
        })
    }

    /// Only the keeper's jobs come here, one at a time, so nobody else changes the reservations meanwhile.
    fn reserve_out_saved(
        &self,
        store: &dyn Store,
        nexus: NexusId,
        request: &OutRequest,
    ) -> Result<Preempted> {
        let (next, consequences, persisted) = {
            let shared = self.lock();
            let (next, consequences) = shared.reserve_out(nexus, request, true)?;
            (next, consequences, shared.reservations.persists())
        };
        if next.persists() || persisted {
            store::save(store, &next).map_err(|_| not_saved())?;
        }
        self.change(|shared| Ok(shared.commit(next, consequences)))
    }

    /// What PERSISTENT RESERVE IN shows; a conflict while the unit is reserved as in SPC-2.
    pub(crate) fn persistent_reservations<T>(
        &self,
        show: impl FnOnce(&Reservations, Capabilities) -> T,
    ) -> Result<T> {
        let shared = self.lock();
        if shared.legacy.is_some() {
            return Err(Refusal::Conflict);
        }
        let capabilities = Capabilities {
            can_persist: self.keeper.get().is_some(),
            persists: shared.reservations.persists(),
        };
        Ok(show(&shared.reservations, capabilities))
    }

    /// RESERVE of SPC-2.
    pub(crate) fn reserve(&self, nexus: NexusId) -> Result<()> {
        self.change(|shared| {
            let who = shared.registrant(nexus).ok_or(Refusal::Conflict)?;
            if shared.reservations.has_registrations() {
                return match shared.reservations.tolerates_legacy(who) {
                    true => Ok(()),
                    false => Err(Refusal::Conflict),
                };
            }
            match shared.legacy {
                Some(holder) if holder != nexus => Err(Refusal::Conflict),
                _ => {
                    shared.legacy = Some(nexus);
                    Ok(())
                }
            }
        })
    }

    /// RELEASE of SPC-2, which does nothing for those who do not hold the reservation.
    pub(crate) fn release(&self, nexus: NexusId) -> Result<()> {
        self.change(|shared| {
            let who = shared.registrant(nexus).ok_or(Refusal::Conflict)?;
            if shared.reservations.has_registrations() && !shared.reservations.tolerates_legacy(who)
            {
                return Err(Refusal::Conflict);
            }
            shared.legacy.take_if(|holder| *holder == nexus);
            Ok(())
        })
    }
}
