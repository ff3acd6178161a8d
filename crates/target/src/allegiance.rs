//! Auto contingent allegiance (SAM-5 5.9).
//!
//! An initiator may ask, with the NACA bit of a command's CONTROL byte, that its task set stops should the command end
//! with CHECK CONDITION. From then on nothing is executed but, one after the other, commands with the ACA attribute of the
//! nexus that has met the error, until that nexus says CLEAR ACA, or is lost, or is preempted, or the unit is reset.
//!
//! What SAM calls blocked does not exist here: whether a command that has not begun had entered the task set before the
//! error, or was still on its way, nobody outside can tell, so it is told that there is an ACA. Thus no guest can keep
//! another's command, and the memory that it points to, for as long as it likes. What had begun comes to its end before
//! the error is reported; that is the transport's part.

use lunar_scsi::{AdditionalSense, Sense, Status};

use crate::{NexusId, Ticket};

/// A command, as far as an allegiance is concerned.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// NACA of the CONTROL byte.
    pub naca: bool,
    /// Names it, if it has the ACA attribute.
    pub aca: Option<Ticket>,
    /// It is PREEMPT AND ABORT, which ends an allegiance of others and so is not kept from being executed by it.
    pub preempts: bool,
}

/// What becomes of a command that has met an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is reported.
    Reported,
    /// It is reported when everything of its task set is over that was begun before: there is an allegiance now. All
    /// nexuses have this task set, or only this one.
    Established {
        /// All nexuses.
        everybody: bool,
    },
    /// There was an allegiance already, before the command was over: it ends with this status, as if it had not been
    /// begun.
    Forestalled(Status),
}

/// How a command ends because of an allegiance, or for want of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Status(Status),
    /// 5/49/00: the ACA attribute means nothing now.
    NoAllegiance,
}

impl Refusal {
    pub(crate) fn sense() -> Sense {
        Sense::illegal_request(AdditionalSense::INVALID_MESSAGE_ERROR)
    }
}

#[derive(Debug)]
struct Allegiance {
    /// Who has met the error.
    faulted: NexusId,
    /// All nexuses share the task set (TST).
    everybody: bool,
    /// The command with the ACA attribute that is being executed.
    command: Option<Ticket>,
}

/// Those of a logical unit: one, or one for each nexus if each has a task set of its own.
#[derive(Debug, Default)]
pub(crate) struct Allegiances(Vec<Allegiance>);

impl Allegiances {
    fn own(&mut self, nexus: NexusId) -> Option<&mut Allegiance> {
        self.0.iter_mut().find(|one| one.faulted == nexus)
    }

    /// Whether there is one that commands of this nexus must mind.
    pub(crate) fn concern(&self, nexus: NexusId) -> bool {
        self.0
            .iter()
            .any(|one| one.everybody || one.faulted == nexus)
    }

    /// What keeps a command from being executed. One with the ACA attribute that nothing keeps from it is the one that is
    /// being executed, until it is [`over`](Allegiances::over).
    pub(crate) fn admit(&mut self, nexus: NexusId, manner: Manner) -> Result<(), Refusal> {
        if let Some(own) = self.own(nexus) {
            return match (own.command, manner.aca) {
                (None, Some(_)) => {
                    own.command = manner.aca;
                    Ok(())
                }
                (Some(present), Some(this)) if present == this => Ok(()),
                _ => Err(Refusal::Status(Status::ACA_ACTIVE)),
            };
        }
        if let Some(status) = self.refusal(nexus, manner) {
            return Err(Refusal::Status(status));
        }
        match manner.aca {
            Some(_) => Err(Refusal::NoAllegiance),
            None => Ok(()),
        }
    }

    /// How a command ends that is not [admitted](Allegiances::admit), if it must not be executed.
    pub(crate) fn refusal(&self, nexus: NexusId, manner: Manner) -> Option<Status> {
        let admitted = |one: &Allegiance| manner.aca.is_some() && one.command == manner.aca;
        if let Some(own) = self.0.iter().find(|one| one.faulted == nexus) {
            return (!admitted(own)).then_some(Status::ACA_ACTIVE);
        }
        let foreign = self.0.iter().any(|one| one.everybody) && !manner.preempts;
        let knows_aca = manner.naca || manner.aca.is_some();
        foreign.then_some(match knows_aca {
            true => Status::ACA_ACTIVE,
            false => Status::BUSY,
        })
    }

    /// A command ends with CHECK CONDITION.
    pub(crate) fn fault(&mut self, nexus: NexusId, manner: Manner, everybody: bool) -> Fault {
        if manner.aca.is_some() {
            // The error of an ACA command ends the allegiance in which it was met.
            self.0
                .retain(|one| one.faulted != nexus || one.command != manner.aca);
        }
        if !manner.naca {
            return Fault::Reported;
        }
        if let Some(status) = self.refusal(nexus, manner) {
            return Fault::Forestalled(status);
        }
        self.0.push(Allegiance {
            faulted: nexus,
            everybody,
            command: None,
        });
        Fault::Established { everybody }
    }

    /// A command with the ACA attribute is over, executed or not.
    pub(crate) fn over(&mut self, nexus: NexusId, command: Ticket) {
        if let Some(own) = self.own(nexus) {
            own.command.take_if(|present| *present == command);
        }
    }

    /// The allegiance of this nexus ends.
    pub(crate) fn clear(&mut self, nexus: NexusId) {
        self.0.retain(|one| one.faulted != nexus);
    }

    /// All end.
    pub(crate) fn clear_all(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NexusId = NexusId(1);
    const B: NexusId = NexusId(2);
    const NORMAL: Manner = Manner {
        naca: false,
        aca: None,
        preempts: false,
    };
    const NACA: Manner = Manner {
        naca: true,
        ..NORMAL
    };
    const PREEMPTS: Manner = Manner {
        preempts: true,
        ..NORMAL
    };
    const ACA_ACTIVE: Result<(), Refusal> = Err(Refusal::Status(Status::ACA_ACTIVE));

    fn aca(naca: bool) -> Manner {
        Manner {
            naca,
            aca: Some(Ticket::new()),
            ..NORMAL
        }
    }

    /// The allegiances after an error of A.
    fn faulted(everybody: bool) -> Allegiances {
        let mut all = Allegiances::default();
        let fault = all.fault(A, NACA, everybody);
        assert_eq!(fault, Fault::Established { everybody });
        all
    }

    #[test]
    fn an_error_without_naca_establishes_nothing() {
        let mut all = Allegiances::default();
        assert_eq!(all.fault(A, NORMAL, true), Fault::Reported);
        assert_eq!(all.admit(A, NORMAL), Ok(()));
        assert!(!all.concern(A));
    }

    #[test]
    fn the_aca_attribute_without_an_allegiance_is_an_invalid_message() {
        assert_eq!(
            Allegiances::default().admit(A, aca(false)),
            Err(Refusal::NoAllegiance)
        );
        assert_eq!(
            faulted(false).admit(B, aca(false)),
            Err(Refusal::NoAllegiance)
        );
    }

    #[test]
    fn the_faulted_nexus_has_one_aca_command_at_a_time_and_nothing_else() {
        let mut all = faulted(true);
        for refused in [NORMAL, NACA, PREEMPTS] {
            assert_eq!(all.admit(A, refused), ACA_ACTIVE);
        }
        let first = aca(false);
        assert_eq!(all.admit(A, first), Ok(()));
        assert_eq!(all.admit(A, first), Ok(()), "it has waited in line");
        let second = aca(false);
        assert_eq!(all.admit(A, second), ACA_ACTIVE);
        all.over(A, second.aca.unwrap());
        assert_eq!(all.admit(A, aca(false)), ACA_ACTIVE, "the first still runs");
        all.over(A, first.aca.unwrap());
        assert_eq!(all.admit(A, aca(false)), Ok(()));
    }

    #[test]
    fn who_shares_the_task_set_is_told_busy_or_aca_active_but_may_preempt() {
        let mut all = faulted(true);
        assert!(all.concern(B));
        assert_eq!(
            all.admit(B, NORMAL),
            Err(Refusal::Status(Status::BUSY)),
            "it does not know what an ACA is"
        );
        assert_eq!(all.admit(B, NACA), ACA_ACTIVE);
        assert_eq!(all.admit(B, aca(false)), ACA_ACTIVE);
        assert_eq!(all.admit(B, PREEMPTS), Ok(()));
        all.clear(B);
        assert_eq!(all.admit(B, NACA), ACA_ACTIVE, "it is not B's");
        all.clear(A);
        assert_eq!(all.admit(B, NORMAL), Ok(()));
    }

    #[test]
    fn who_has_a_task_set_of_its_own_notices_nothing_and_may_have_its_own_allegiance() {
        let mut all = faulted(false);
        assert!(!all.concern(B));
        assert_eq!(all.admit(B, NORMAL), Ok(()));
        let everybody = false;
        assert_eq!(
            all.fault(B, NACA, everybody),
            Fault::Established { everybody }
        );
        assert_eq!(all.admit(B, NORMAL), ACA_ACTIVE);
        all.clear(A);
        assert_eq!(all.admit(A, NORMAL), Ok(()));
        assert_eq!(all.admit(B, NORMAL), ACA_ACTIVE);
    }

    #[test]
    fn an_error_in_the_shadow_of_another_establishes_nothing() {
        let mut all = faulted(true);
        let active = Fault::Forestalled(Status::ACA_ACTIVE);
        assert_eq!(all.fault(A, NACA, true), active);
        assert_eq!(all.fault(B, NACA, true), active);
        assert_eq!(all.fault(B, NORMAL, true), Fault::Reported);
        all.clear(A);
        assert!(!all.concern(A) && !all.concern(B));
    }

    #[test]
    fn the_error_of_an_aca_command_ends_the_allegiance_and_naca_establishes_another() {
        for (naca, then) in [
            (false, Fault::Reported),
            (true, Fault::Established { everybody: true }),
        ] {
            let mut all = faulted(true);
            let command = aca(naca);
            assert_eq!(all.admit(A, command), Ok(()));
            assert_eq!(all.fault(A, command, true), then);
            assert_eq!(all.concern(A), naca);
            // It is not the command of the new one.
            assert_eq!(all.admit(A, aca(false)).is_ok(), naca);
        }
        let mut all = faulted(true);
        let (present, refused) = (aca(false), aca(false));
        assert_eq!(all.admit(A, present), Ok(()));
        all.fault(A, refused, true);
        assert!(all.concern(A), "one that was not executed ends nothing");
    }
}
