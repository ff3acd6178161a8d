//! What SAM keeps for every logical unit, shared by all reactors and nexuses.
//!
//! The data path asks one question per command, "is there anything for me?", and almost always the answer is no. So
//! every change, whatever it is, moves one atomic number, the *epoch*; a reactor remembers in [`Seen`] up to which
//! epoch it knows that nothing concerns its nexus, and takes the lock only when the two differ.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use lunar_scsi::alua::AccessClass;
use lunar_scsi::mode::{ModePages, TaskRules};
use lunar_scsi::reservation::Effect;
use lunar_scsi::{Cdb, Row, Sense, Status};
use lunar_sgl::prefetch::Lines;

use crate::access::Groups;
use crate::allegiance::{self, Allegiances, Fault, Manner};
use crate::attention::{AttentionQueue, UnitAttention};
use crate::line::{Extent, Line, Ticket};
use crate::path::Path;
use crate::reservation::{Keeper, Registrant, Reservations};

/// An I_T nexus: one initiator port (a controller, that is, one VM port) as this target sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NexusId(pub u32);

/// Whom a unit attention concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Every nexus.
    All,
    /// One nexus.
    Only(NexusId),
    /// Every nexus but the one that caused it.
    AllBut(NexusId),
}

impl Who {
    fn includes(self, nexus: NexusId) -> bool {
        match self {
            Who::All => true,
            Who::Only(only) => only == nexus,
            Who::AllBut(but) => but != nexus,
        }
    }
}

/// The epoch up to which one reactor knows that a logical unit's state holds nothing for one nexus. A reactor keeps
/// one for each pair of logical unit and nexus that it serves.
#[derive(Debug, Default)]
pub struct Seen(Cell<u64>);

/// A command as far as the state of its logical unit can be in its way.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What it has to do with auto contingent allegiances.
    pub manner: Manner,
    /// What it may touch, if it has to wait for those who want to be alone.
    pub extent: Option<&'a Extent>,
    /// Its row and its CDB, if it has a row.
    pub row: Option<(&'a Row, Cdb<'a>)>,
    /// It is executed while a unit attention is pending.
    pub passes_attention: bool,
}

/// What a reactor finds when it looks at a logical unit whose epoch has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing is in the way of the command.
    Clear,
    /// Somebody wants to be alone: the command has to wait in line.
    Wait,
    /// A unit attention, which has to be reported in place of the command.
    Attention(UnitAttention),
    /// It ends with this status: RESERVATION CONFLICT, ACA ACTIVE or BUSY.
    Status(Status),
    /// It is refused: the unit cannot be reached through this target port now, or the ACA attribute has no meaning.
    Refused(Sense),
}

/// The part that every logical unit has: unit attentions and removal prevention per nexus, reservations, the access
/// states of its target port groups, the line of those who want to be alone, the changeable bits of the control mode
/// page.
#[derive(Debug)]
#[repr(C)]
pub struct LuState {
    /// With what follows, what READ and WRITE look at.
    epoch: AtomicU64,
    software_write_protect: AtomicBool,
    descriptor_sense: AtomicBool,
    task_rules: AtomicU8,
    shared: Mutex<Shared>,
    /// Where reservations are saved.
    pub(crate) keeper: OnceLock<Keeper>,
}

/// What is read and changed under the lock.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) nexuses: Vec<Nexus>,
    pub(crate) reservations: Reservations,
    /// The holder of an SPC-2 reservation.
    pub(crate) legacy: Option<NexusId>,
    pub(crate) groups: Groups,
    allegiances: Allegiances,
    pub(crate) line: Line,
}

#[derive(Debug)]
pub(crate) struct Nexus {
    pub(crate) id: NexusId,
    pub(crate) path: Path,
    pub(crate) attentions: AttentionQueue,
    prevents_removal: bool,
}

impl Nexus {
    /// The names by which reservations know it.
    pub(crate) fn registrant(&self) -> Registrant {
        Registrant {
            initiator: self.path.initiator,
            target_port: self.path.port.relative,
        }
    }
}

/// Another nexus reaches the logical unit through a target port with this relative identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the logical unit has another target port {0}; every port needs its own port_index")]
pub struct PortTaken(pub u16);

impl Default for LuState {
    fn default() -> LuState {
        LuState {
            // Ahead of every fresh `Seen`, so that the first command looks.
            epoch: AtomicU64::new(1),
            shared: Mutex::default(),
            keeper: OnceLock::new(),
            descriptor_sense: AtomicBool::new(false),
            software_write_protect: AtomicBool::new(false),
            task_rules: AtomicU8::new(TaskRules::default().bits()),
        }
    }
}

impl LuState {
    /// A nexus can reach this unit from now on, by this way; 29/00 is the first thing it hears (SC-035). Nothing happens
    /// when it could already.
    ///
    /// # Errors
    /// Another nexus has taken the target port.
    pub fn add_nexus(&self, nexus: NexusId, path: Path) -> Result<(), PortTaken> {
        self.change(|shared| {
            let nexuses = &mut shared.nexuses;
            if nexuses.iter().any(|n| n.id == nexus) {
                return Ok(());
            }
            let relative = path.port.relative;
            if nexuses.iter().any(|n| n.path.port.relative == relative) {
                return Err(PortTaken(relative));
            }
            let mut attentions = AttentionQueue::default();
            attentions.raise(UnitAttention::PowerOn);
            shared.nexuses.push(Nexus {
                id: nexus,
                path,
                attentions,
                prevents_removal: false,
            });
            Ok(())
        })
    }

    /// A nexus can no longer reach this unit: everything kept for it is forgotten, but for
    /// its registration.
    pub fn remove_nexus(&self, nexus: NexusId) {
        self.change(|shared| {
            let groups = &mut shared.groups;
            let gone = |n: &mut Nexus| n.id == nexus;
            for nexus in shared.nexuses.extract_if(.., gone) {
                groups.forget(&nexus.path.port);
            }
            shared.legacy.take_if(|holder| *holder == nexus);
            shared.allegiances.clear(nexus);
        });
    }

    /// Whether anybody can reach this unit.
    pub fn has_nexus(&self) -> bool {
        !self.lock().nexuses.is_empty()
    }

    /// Whether several can.
    pub fn is_shared(&self) -> bool {
        self.lock().nexuses.len() > 1
    }

    /// Queues a unit attention.
    pub fn raise(&self, who: Who, attention: UnitAttention) {
        self.change(|shared| {
            for nexus in shared.nexuses.iter_mut().filter(|n| who.includes(n.id)) {
                nexus.attentions.raise(attention);
            }
        });
    }

    /// LOGICAL UNIT RESET: 29/03 for every nexus, the control mode page back to its defaults, removal allowed,
    /// an SPC-2 reservation ended (VS-054). The transport has ended the tasks before; it calls [`crate::LogicalUnit::reset`], which calls this.
    pub fn reset(&self) {
        self.descriptor_sense.store(false, Ordering::Relaxed);
        self.software_write_protect.store(false, Ordering::Relaxed);
        self.set_task_rules(TaskRules::default());
        self.change(|shared| {
            shared.legacy = None;
            shared.allegiances.clear_all();
            for nexus in &mut shared.nexuses {
                nexus.prevents_removal = false;
                nexus.attentions.raise(UnitAttention::LogicalUnitReset);
            }
        });
    }

    /// The nexus was lost, or its device was reset: 29/07 for it, its removal prevention and SPC-2 reservation end, other nexuses notice
    /// nothing (VS-057).
    pub fn nexus_loss(&self, nexus: NexusId) {
        self.change(|shared| {
            shared.legacy.take_if(|holder| *holder == nexus);
            shared.allegiances.clear(nexus);
            if let Some(nexus) = shared.nexuses.iter_mut().find(|n| n.id == nexus) {
                nexus.prevents_removal = false;
                nexus.attentions.raise(UnitAttention::NexusLoss);
            }
        });
    }

    /// Whether nothing can concern this nexus, at the price of one atomic read.
    #[inline]
    pub fn is_quiet(&self, seen: &Seen) -> bool {
        self.epoch.load(Ordering::Acquire) == seen.0.get()
    }

    /// Adds where that is in memory which each command looks at.
    pub fn lines(&self, lines: &mut Lines) {
        lines.add(&self.epoch);
    }

    /// Looks whether anything is in the way of a command, in the order of SC-033. A unit attention is taken, unless it has
    /// to stay until REQUEST SENSE fetches it (UA_INTLCK_CTRL). `seen` remembers that there is nothing at all for the nexus.
    pub fn look(&self, nexus: NexusId, seen: &Seen, asked: Asked<'_>) -> Look {
        let mut shared = self.lock();
        match shared.allegiances.admit(nexus, asked.manner) {
            Ok(()) => {}
            Err(allegiance::Refusal::Status(status)) => return Look::Status(status),
            Err(allegiance::Refusal::NoAllegiance) => {
                return Look::Refused(allegiance::Refusal::sense());
            }
        }
        let blocks = |extent: &Extent| shared.line.blocks(extent);
        if asked.extent.is_some_and(blocks) {
            return Look::Wait;
        }
        let keeps = self.task_rules().keeps_attentions();
        let pending = match asked.passes_attention {
            true => None,
            false => shared.attention(nexus),
        };
        if let Some(reset) = pending.filter(|attention| attention.is_reset()) {
            return shared.report(nexus, reset, keeps);
        }
        if let Some((row, cdb)) = asked.row {
            let effect = row.reservation.effect(cdb);
            if shared.excludes(nexus, effect, row.minds_no_reservation(cdb)) {
                return Look::Status(Status::RESERVATION_CONFLICT);
            }
        }
        if let Some(change) = pending {
            return shared.report(nexus, change, keeps);
        }
        let access = shared.access_state(nexus);
        if access.refusal().is_none() && shared.has_nothing_for(nexus) {
            // Under the lock nobody moves the epoch: what was read above is what it stands for.
            seen.0.set(self.epoch.load(Ordering::Relaxed));
        }
        match (asked.row, access.refusal()) {
            (Some((row, _)), Some(refusal)) if !row.access.is_executed_in(access) => {
                Look::Refused(refusal)
            }
            _ => Look::Clear,
        }
    }

    /// A command ends with CHECK CONDITION: what that means for the others of its task set. If it is not reported now, a
    /// unit attention that it was to report is pending again.
    pub fn fault(&self, nexus: NexusId, manner: Manner, sense: Option<&Sense>) -> Fault {
        if !manner.naca && manner.aca.is_none() {
            return Fault::Reported;
        }
        let everybody = !self.task_rules().set_for_each_nexus();
        self.change(|shared| {
            let fault = shared.allegiances.fault(nexus, manner, everybody);
            if let Fault::Forestalled(_) = fault
                && let Some(attention) = sense.and_then(UnitAttention::reported_by)
                && let Some(attentions) = shared.queue(nexus)
            {
                attentions.put_back(attention);
            }
            fault
        })
    }

    /// How a command ends that has waited since it was looked at, if an auto contingent allegiance is in its way now.
    pub fn aca_refusal(&self, nexus: NexusId, manner: Manner) -> Option<Status> {
        self.lock().allegiances.refusal(nexus, manner)
    }

    /// A command with the ACA attribute is over.
    pub fn aca_command_over(&self, nexus: NexusId, command: Ticket) {
        self.change(|shared| shared.allegiances.over(nexus, command));
    }

    /// CLEAR ACA: the auto contingent allegiance of this nexus ends, if there is one.
    pub fn clear_aca(&self, nexus: NexusId) {
        self.change(|shared| shared.allegiances.clear(nexus));
    }

    /// Whether a nexus may access the medium by a command that it has sent to another unit, as EXTENDED COPY does: no
    /// reservation keeps it from that (SC-042), and its target port reaches the medium.
    pub fn admits(&self, nexus: NexusId, effect: Effect) -> bool {
        let shared = self.lock();
        let access = shared.access_state(nexus);
        !shared.excludes(nexus, effect, false) && AccessClass::Active.is_executed_in(access)
    }

    /// Takes the unit attention that a nexus has to hear next (REQUEST SENSE returns it as data: SC-032).
    pub fn take_attention(&self, nexus: NexusId) -> Option<UnitAttention> {
        self.lock().queue(nexus)?.take()
    }

    /// A command was turned away with this status: its nexus may want to hear of it once more (UA_INTLCK_CTRL).
    pub fn turned_away(&self, nexus: NexusId, status: Status) {
        if self.task_rules().remembers_refusals()
            && let Some(attention) = UnitAttention::after(status)
        {
            self.raise(Who::Only(nexus), attention);
        }
    }

    /// Drops one kind of unit attention of a nexus (REPORT LUNS answers 3F/0E: SC-034), unless REQUEST SENSE alone may.
    pub fn clear_attention(&self, nexus: NexusId, attention: UnitAttention) {
        if !self.task_rules().keeps_attentions()
            && let Some(nexus) = self.lock().nexuses.iter_mut().find(|n| n.id == nexus)
        {
            nexus.attentions.clear(attention);
        }
    }

    /// PREVENT ALLOW MEDIUM REMOVAL of one nexus. Whether it is known: an unknown one cannot hold a prevention.
    pub fn prevent_removal(&self, nexus: NexusId, prevent: bool) -> bool {
        match self.lock().nexuses.iter_mut().find(|n| n.id == nexus) {
            Some(nexus) => {
                nexus.prevents_removal = prevent;
                true
            }
            None => false,
        }
    }

    /// Whether any nexus prevents removal.
    pub fn removal_prevented(&self) -> bool {
        self.lock().nexuses.iter().any(|n| n.prevents_removal)
    }

    /// Nobody prevents removal any longer: an operator has taken the medium by force.
    pub fn allow_removal(&self) {
        for nexus in &mut self.lock().nexuses {
            nexus.prevents_removal = false;
        }
    }

    /// D_SENSE of the control mode page: sense data goes out in descriptor format.
    #[inline]
    pub fn descriptor_sense(&self) -> bool {
        self.descriptor_sense.load(Ordering::Relaxed)
    }

    /// What the control mode page says holds from now on.
    pub fn follow(&self, pages: &ModePages) {
        self.set_descriptor_sense(pages.descriptor_sense());
        self.set_software_write_protect(pages.software_write_protect());
        self.set_task_rules(pages.task_rules().unwrap_or_default());
    }

    /// Sets D_SENSE.
    pub fn set_descriptor_sense(&self, on: bool) {
        self.descriptor_sense.store(on, Ordering::Relaxed);
    }

    /// SWP of the control mode page: the initiator has asked that writes be refused.
    #[inline]
    pub fn software_write_protect(&self) -> bool {
        self.software_write_protect.load(Ordering::Relaxed)
    }

    /// Sets SWP.
    pub fn set_software_write_protect(&self, on: bool) {
        self.software_write_protect.store(on, Ordering::Relaxed);
    }

    /// TST, QERR, UA_INTLCK_CTRL and TAS of the control mode page.
    pub fn task_rules(&self) -> TaskRules {
        TaskRules::from_bits(self.task_rules.load(Ordering::Relaxed))
    }

    /// Sets them.
    pub fn set_task_rules(&self, rules: TaskRules) {
        self.task_rules.store(rules.bits(), Ordering::Relaxed);
    }

    /// Changes the state and then moves the epoch, so that whoever reads the new epoch finds the change.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Shared) -> T) -> T {
        let mut shared = self.lock();
        let result = change(&mut shared);
        self.epoch.fetch_add(1, Ordering::Release);
        result
    }

    /// Changes the line. Whoever joins it is seen by every command that starts from now on.
    pub(crate) fn change_line<T>(&self, change: impl FnOnce(&mut Line) -> T) -> T {
        self.change(|shared| change(&mut shared.line))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Shared> {
        // The closures above leave the state whole at every step: a panic elsewhere in the process is no reason to
        // lose the unit.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn queue(&mut self, nexus: NexusId) -> Option<&mut AttentionQueue> {
        let mut nexuses = self.nexuses.iter_mut();
        Some(&mut nexuses.find(|n| n.id == nexus)?.attentions)
    }

    /// The unit attention that a nexus has to hear next.
    fn attention(&mut self, nexus: NexusId) -> Option<UnitAttention> {
        self.queue(nexus)?.first()
    }

    /// It is heard.
    fn report(&mut self, nexus: NexusId, attention: UnitAttention, keep: bool) -> Look {
        if !keep {
            self.queue(nexus).and_then(AttentionQueue::take);
        }
        Look::Attention(attention)
    }

    /// Whether nothing is in the way of any command that has access to the medium.
    fn has_nothing_for(&self, nexus: NexusId) -> bool {
        let pending = self
            .nexuses
            .iter()
            .any(|n| n.id == nexus && !n.attentions.is_empty());
        // While there is a line, every command has to ask anew.
        let allegiance = self.allegiances.concern(nexus);
        !pending
            && !allegiance
            && self.line.is_empty()
            && !self.excludes(nexus, Effect::Write, false)
    }
}

#[cfg(test)]
mod tests {
    use lunar_scsi::reservation::TransportId;

    use super::*;

    const A: NexusId = NexusId(1);
    const B: NexusId = NexusId(2);

    fn add(state: &LuState, nexus: NexusId) {
        let number = u16::try_from(nexus.0).unwrap();
        let path = Path::new(TransportId(nexus.0.into()), number);
        state.add_nexus(nexus, path).unwrap();
    }

    /// Everything pending for a nexus, in order.
    fn drain(state: &LuState, nexus: NexusId) -> Vec<UnitAttention> {
        std::iter::from_fn(|| state.take_attention(nexus)).collect()
    }

    fn look(state: &LuState, seen: &Seen) -> Look {
        let asked = Asked {
            manner: Manner::default(),
            extent: Some(&None),
            row: None,
            passes_attention: false,
        };
        state.look(A, seen, asked)
    }

    #[test]
    fn a_new_nexus_hears_power_on_once() {
        let state = LuState::default();
        add(&state, A);
        add(&state, A);
        assert_eq!(drain(&state, A), [UnitAttention::PowerOn]);
        add(&state, A);
        assert_eq!(drain(&state, A), []);
    }

    #[test]
    fn the_unit_is_quiet_only_after_the_queue_was_seen_empty() {
        let state = LuState::default();
        add(&state, A);
        let seen = Seen::default();
        assert!(!state.is_quiet(&seen));
        assert_eq!(look(&state, &seen), Look::Attention(UnitAttention::PowerOn));
        assert!(!state.is_quiet(&seen), "there might have been a second one");
        assert_eq!(look(&state, &seen), Look::Clear);
        assert!(state.is_quiet(&seen));
        state.raise(Who::AllBut(A), UnitAttention::ModeParametersChanged);
        assert!(!state.is_quiet(&seen), "every change moves the epoch");
        assert_eq!(look(&state, &seen), Look::Clear);
        assert!(state.is_quiet(&seen));
    }

    #[test]
    fn an_attention_reaches_those_it_concerns() {
        let state = LuState::default();
        for nexus in [A, B] {
            add(&state, nexus);
        }
        for nexus in [A, B] {
            drain(&state, nexus);
        }
        state.raise(Who::AllBut(A), UnitAttention::ModeParametersChanged);
        state.raise(Who::Only(A), UnitAttention::CommandsCleared);
        state.raise(Who::All, UnitAttention::CapacityChanged);
        assert_eq!(
            drain(&state, A),
            [
                UnitAttention::CommandsCleared,
                UnitAttention::CapacityChanged
            ]
        );
        assert_eq!(
            drain(&state, B),
            [
                UnitAttention::ModeParametersChanged,
                UnitAttention::CapacityChanged
            ]
        );
    }

    #[test]
    fn reset_tells_everyone_and_restores_the_defaults() {
        let state = LuState::default();
        for nexus in [A, B] {
            add(&state, nexus);
        }
        for nexus in [A, B] {
            drain(&state, nexus);
        }
        state.set_descriptor_sense(true);
        state.set_software_write_protect(true);
        assert!(state.prevent_removal(A, true));
        state.reset();
        assert!(!state.descriptor_sense());
        assert!(!state.software_write_protect());
        assert!(!state.removal_prevented());
        for nexus in [A, B] {
            assert_eq!(drain(&state, nexus), [UnitAttention::LogicalUnitReset]);
        }
    }

    #[test]
    fn nexus_loss_concerns_that_nexus_alone() {
        let state = LuState::default();
        for nexus in [A, B] {
            add(&state, nexus);
        }
        for nexus in [A, B] {
            drain(&state, nexus);
            assert!(state.prevent_removal(nexus, true));
        }
        state.nexus_loss(A);
        assert_eq!(drain(&state, A), [UnitAttention::NexusLoss]);
        assert_eq!(drain(&state, B), []);
        assert!(state.removal_prevented(), "B still prevents it");
        state.remove_nexus(B);
        assert!(!state.removal_prevented());
    }

    #[test]
    fn a_command_that_was_turned_away_is_remembered_once_if_the_page_says_so() {
        let statuses = [
            Status::BUSY,
            Status::TASK_SET_FULL,
            Status::RESERVATION_CONFLICT,
            Status::ACA_ACTIVE,
        ];
        let remembered = [
            UnitAttention::PreviousBusy,
            UnitAttention::PreviousTaskSetFull,
            UnitAttention::PreviousReservationConflict,
        ];
        for (control, expected) in [(0, &[][..]), (0x20, &[]), (0x30, &remembered)] {
            let state = LuState::default();
            add(&state, A);
            drain(&state, A);
            state.set_task_rules(TaskRules::new([0, 0, control, 0]).unwrap());
            for status in statuses.into_iter().chain(statuses) {
                state.turned_away(A, status);
            }
            assert_eq!(drain(&state, A), expected);
        }
    }

    #[test]
    fn an_interlocked_attention_stays_until_it_is_taken() {
        let state = LuState::default();
        add(&state, A);
        state.set_task_rules(TaskRules::new([0, 0, 0x20, 0]).unwrap());
        let seen = Seen::default();
        for _ in 0..3 {
            assert_eq!(look(&state, &seen), Look::Attention(UnitAttention::PowerOn));
        }
        state.clear_attention(A, UnitAttention::PowerOn);
        assert_eq!(drain(&state, A), [UnitAttention::PowerOn]);
        assert_eq!(look(&state, &seen), Look::Clear);
    }

    #[test]
    fn an_attention_that_was_forestalled_is_reported_later() {
        let state = LuState::default();
        for nexus in [A, B] {
            add(&state, nexus);
        }
        for nexus in [A, B] {
            drain(&state, nexus);
        }
        let naca = Manner {
            naca: true,
            ..Manner::default()
        };
        let established = Fault::Established { everybody: true };
        assert_eq!(state.fault(B, naca, None), established);
        let attention = UnitAttention::CapacityChanged;
        assert_eq!(
            state.fault(A, naca, Some(&attention.sense())),
            Fault::Forestalled(Status::ACA_ACTIVE)
        );
        assert_eq!(drain(&state, A), [attention]);
    }
}
