//! Unit attention conditions and the order in which a nexus hears of them.

use lunar_scsi::{AdditionalSense, Sense, Status};

/// Something that an initiator must know before its next command is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitAttention {
    /// 29/00: the logical unit is new to this nexus.
    PowerOn,
    /// 29/03: LOGICAL UNIT RESET was performed.
    LogicalUnitReset,
    /// 29/07: the nexus was lost.
    NexusLoss,
    /// 2C/07: a command was answered BUSY.
    PreviousBusy,
    /// 2C/08: a command was answered TASK SET FULL.
    PreviousTaskSetFull,
    /// 2C/09: a command was answered RESERVATION CONFLICT.
    PreviousReservationConflict,
    /// 2F/00: another initiator has cleared this one's commands.
    CommandsCleared,
    /// 28/00: the medium may have changed.
    MediumChanged,
    /// 2A/01: another initiator has changed mode parameters.
    ModeParametersChanged,
    /// 2A/02: another initiator has set log parameters back.
    LogParametersChanged,
    /// 2A/03: all registrations are gone.
    ReservationsPreempted,
    /// 2A/04: the reservation that this nexus was registered for has ended.
    ReservationsReleased,
    /// 2A/05: the registration of this nexus is gone.
    RegistrationsPreempted,
    /// 2A/06: a target port group has another access state.
    AccessStateChanged,
    /// 2A/09: the capacity has changed.
    CapacityChanged,
    /// 2A/10: another initiator has set the clock.
    TimestampChanged,
    /// 3F/05: another initiator has changed the identifying information.
    IdentifierChanged,
    /// 38/07: a threshold of the space for logical blocks was reached.
    ProvisioningThreshold,
    /// 5D/FF: an informational exception that an initiator has asked for to see what happens.
    FailurePredictionTest,
    /// 3F/0E: the LUNs behind the target have changed.
    ReportedLunsChanged,
}

/// The rank of everything that is not a reset.
const CHANGE: u8 = u8::MAX;

impl UnitAttention {
    /// All of them.
    const ALL: [UnitAttention; 19] = [
        UnitAttention::PreviousBusy,
        UnitAttention::PreviousTaskSetFull,
        UnitAttention::PreviousReservationConflict,
        UnitAttention::PowerOn,
        UnitAttention::LogicalUnitReset,
        UnitAttention::NexusLoss,
        UnitAttention::CommandsCleared,
        UnitAttention::MediumChanged,
        UnitAttention::ModeParametersChanged,
        UnitAttention::LogParametersChanged,
        UnitAttention::ReservationsPreempted,
        UnitAttention::ReservationsReleased,
        UnitAttention::RegistrationsPreempted,
        UnitAttention::AccessStateChanged,
        UnitAttention::CapacityChanged,
        UnitAttention::TimestampChanged,
        UnitAttention::IdentifierChanged,
        UnitAttention::ProvisioningThreshold,
        UnitAttention::ReportedLunsChanged,
    ];

    /// The one that remembers a status by which a command was turned away.
    pub(crate) fn after(status: Status) -> Option<UnitAttention> {
        match status {
            Status::BUSY => Some(UnitAttention::PreviousBusy),
            Status::TASK_SET_FULL => Some(UnitAttention::PreviousTaskSetFull),
            Status::RESERVATION_CONFLICT => Some(UnitAttention::PreviousReservationConflict),
            _ => None,
        }
    }

    /// The one that sense data reports, if it does.
    pub(crate) fn reported_by(sense: &Sense) -> Option<UnitAttention> {
        let mut all = UnitAttention::ALL.into_iter();
        all.find(|attention| attention.sense() == *sense)
    }

    /// The sense data that reports it.
    pub fn sense(self) -> Sense {
        Sense::unit_attention(match self {
            UnitAttention::PowerOn => AdditionalSense::POWER_ON_OR_RESET,
            UnitAttention::LogicalUnitReset => AdditionalSense::BUS_DEVICE_RESET,
            UnitAttention::NexusLoss => AdditionalSense::NEXUS_LOSS,
            UnitAttention::PreviousBusy => AdditionalSense::PREVIOUS_BUSY,
            UnitAttention::PreviousTaskSetFull => AdditionalSense::PREVIOUS_TASK_SET_FULL,
            UnitAttention::PreviousReservationConflict => {
                AdditionalSense::PREVIOUS_RESERVATION_CONFLICT
            }
            UnitAttention::CommandsCleared => {
                AdditionalSense::COMMANDS_CLEARED_BY_ANOTHER_INITIATOR
            }
            UnitAttention::MediumChanged => AdditionalSense::MEDIUM_MAY_HAVE_CHANGED,
            UnitAttention::ModeParametersChanged => AdditionalSense::MODE_PARAMETERS_CHANGED,
            UnitAttention::LogParametersChanged => AdditionalSense::LOG_PARAMETERS_CHANGED,
            UnitAttention::ReservationsPreempted => AdditionalSense::RESERVATIONS_PREEMPTED,
            UnitAttention::ReservationsReleased => AdditionalSense::RESERVATIONS_RELEASED,
            UnitAttention::RegistrationsPreempted => AdditionalSense::REGISTRATIONS_PREEMPTED,
            UnitAttention::AccessStateChanged => AdditionalSense::ALUA_STATE_CHANGED,
            UnitAttention::CapacityChanged => AdditionalSense::CAPACITY_DATA_CHANGED,
            UnitAttention::TimestampChanged => AdditionalSense::TIMESTAMP_CHANGED,
            UnitAttention::IdentifierChanged => AdditionalSense::DEVICE_IDENTIFIER_CHANGED,
            UnitAttention::ProvisioningThreshold => {
                AdditionalSense::THIN_PROVISIONING_SOFT_THRESHOLD
            }
            UnitAttention::FailurePredictionTest => AdditionalSense::FAILURE_PREDICTION_FALSE,
            UnitAttention::ReportedLunsChanged => AdditionalSense::REPORTED_LUNS_DATA_CHANGED,
        })
    }

    /// It is heard of even in place of a reservation conflict (SC-033).
    pub(crate) fn is_reset(self) -> bool {
        self.rank() != CHANGE
    }

    /// SC-034: a lower rank is the graver reset and is heard first.
    fn rank(self) -> u8 {
        match self {
            UnitAttention::PowerOn => 0,
            UnitAttention::LogicalUnitReset => 1,
            UnitAttention::NexusLoss => 2,
            _ => CHANGE,
        }
    }
}

/// What one nexus has not heard yet, oldest first. A condition is in it once at most, which bounds it.
#[derive(Debug, Default)]
pub(crate) struct AttentionQueue(Vec<UnitAttention>);

impl AttentionQueue {
    /// Adds a condition. A reset makes everything that a lesser or older condition could say obsolete: the initiator
    /// starts afresh.
    pub(crate) fn raise(&mut self, attention: UnitAttention) {
        let rank = attention.rank();
        if rank == CHANGE {
            if !self.0.contains(&attention) {
                self.0.push(attention);
            }
            return;
        }
        let gravest = self.0.first().filter(|a| a.rank() <= rank).copied();
        self.0.clear();
        self.0.push(gravest.unwrap_or(attention));
    }

    /// Puts one back that was taken and not reported.
    pub(crate) fn put_back(&mut self, attention: UnitAttention) {
        if !self.0.contains(&attention) {
            self.0.insert(0, attention);
        }
    }

    /// The one to report next.
    pub(crate) fn first(&self) -> Option<UnitAttention> {
        self.0.first().copied()
    }

    /// Takes the one to report next.
    pub(crate) fn take(&mut self) -> Option<UnitAttention> {
        let first = self.first()?;
        self.0.remove(0);
        Some(first)
    }

    /// Whether there is nothing to report.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Drops a condition that the initiator has learnt of in another way.
    pub(crate) fn clear(&mut self, attention: UnitAttention) {
        self.0.retain(|a| *a != attention);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::UnitAttention::*;
    use super::*;

    fn after(raised: &[UnitAttention]) -> Vec<UnitAttention> {
        let mut queue = AttentionQueue::default();
        for &attention in raised {
            queue.raise(attention);
        }
        queue.0
    }

    #[test]
    fn changes_are_heard_in_the_order_they_happened() {
        let order = [CapacityChanged, ReportedLunsChanged, ModeParametersChanged];
        assert_eq!(after(&order), order);
    }

    #[test]
    fn a_reset_purges_what_came_before_it() {
        assert_eq!(after(&[CapacityChanged, NexusLoss]), [NexusLoss]);
        assert_eq!(after(&[NexusLoss, LogicalUnitReset]), [LogicalUnitReset]);
    }

    #[test]
    fn the_graver_reset_stands_for_the_lesser() {
        assert_eq!(after(&[PowerOn, LogicalUnitReset]), [PowerOn]);
        assert_eq!(
            after(&[LogicalUnitReset, CapacityChanged, NexusLoss]),
            [LogicalUnitReset]
        );
    }

    #[test]
    fn a_change_after_a_reset_follows_it() {
        assert_eq!(
            after(&[PowerOn, CapacityChanged]),
            [PowerOn, CapacityChanged]
        );
    }

    proptest! {
        #[test]
        fn the_queue_is_bounded_and_starts_with_its_only_reset(raised in prop::collection::vec(prop::sample::select(&UnitAttention::ALL[..]), 0..64)) {
            let queue = after(&raised);
            prop_assert!(queue.len() <= UnitAttention::ALL.len());
            for (i, attention) in queue.iter().enumerate() {
                prop_assert!(!queue[..i].contains(attention));
                prop_assert!(i == 0 || attention.rank() == CHANGE);
            }
            if let Some(last) = raised.last() {
                prop_assert!(!queue.is_empty());
                prop_assert!(last.rank() != CHANGE || queue.contains(last));
            }
        }
    }
}
