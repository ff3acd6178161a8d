//! What the Control page says about task sets (SPC-4 7.5.8, SC-022).

/// TST in byte 2, as far as it is used: one task set for each nexus.
const TST: u8 = 0x20;
/// QERR in byte 3.
const QERR: u8 = 0x06;
/// UA_INTLCK_CTRL in byte 4.
const INTERLOCK: u8 = 0x30;
/// TAS in byte 5.
const TAS: u8 = 0x40;

/// Where the bits of UA_INTLCK_CTRL are, which stand where TST has its bit.
const INTERLOCK_SHIFT: u32 = 1;

/// How the tasks of a logical unit affect each other. The bits stand where the page has them, but for UA_INTLCK_CTRL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskRules(u8);

/// QERR: what a CHECK CONDITION means for the other tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorSpread {
    /// Nothing.
    Nobody,
    /// Those of the task set are aborted.
    TaskSet,
    /// Those of the task set that come from the same nexus are aborted.
    Nexus,
}

impl TaskRules {
    /// The bits of the page that the rules are made of, as (byte, bits).
    pub const CHANGEABLE: [(usize, u8); 4] = [(2, TST), (3, QERR), (4, INTERLOCK), (5, TAS)];

    /// From bytes 2 to 5 of the page.
    ///
    /// # Errors
    /// Byte and bit of a QERR or UA_INTLCK_CTRL that does not exist.
    pub const fn new([byte2, byte3, byte4, byte5]: [u8; 4]) -> Result<Self, (usize, u8)> {
        if byte3 & QERR == 0x04 {
            return Err((3, 2));
        }
        if byte4 & INTERLOCK == 0x10 {
            return Err((4, 5));
        }
        let interlock = (byte4 & INTERLOCK) >> INTERLOCK_SHIFT;
        Ok(Self(byte2 & TST | byte3 & QERR | interlock | byte5 & TAS))
    }

    /// From [`bits`](Self::bits).
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// One byte for all of them.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// TST: each nexus has a task set of its own.
    #[must_use]
    pub const fn set_for_each_nexus(self) -> bool {
        self.0 & TST != 0
    }

    /// TAS: tasks that were aborted by another nexus end with TASK ABORTED, instead of a unit attention.
    #[must_use]
    pub const fn task_aborted_status(self) -> bool {
        self.0 & TAS != 0
    }

    /// UA_INTLCK_CTRL is not 00b: a unit attention is pending until REQUEST SENSE fetches it, however often it is
    /// reported.
    #[must_use]
    pub const fn keeps_attentions(self) -> bool {
        self.0 & 0x20 >> INTERLOCK_SHIFT != 0
    }

    /// UA_INTLCK_CTRL is 11b: moreover, a command that was turned away (BUSY, RESERVATION CONFLICT, TASK SET FULL) leaves
    /// a unit attention.
    #[must_use]
    pub const fn remembers_refusals(self) -> bool {
        self.0 & 0x10 >> INTERLOCK_SHIFT != 0
    }

    /// QERR.
    #[must_use]
    pub const fn error_spread(self) -> ErrorSpread {
        match self.0 & QERR {
            0 => ErrorSpread::Nobody,
            0x02 => ErrorSpread::TaskSet,
            _ => ErrorSpread::Nexus,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_what_the_page_says() {
        assert_eq!(TaskRules::new([0, 0x10, 0, 0]), Ok(TaskRules::default()));
        assert_eq!(TaskRules::new([0, 0x04, 0, 0]), Err((3, 2)));
        assert_eq!(TaskRules::new([0, 0, 0x10, 0]), Err((4, 5)));
        let tst = TaskRules::new([0x24, 0x12, 0x08, 0]).unwrap();
        assert!(tst.set_for_each_nexus() && !tst.task_aborted_status());
        assert!(!tst.keeps_attentions() && !tst.remembers_refusals());
        assert_eq!(tst.error_spread(), ErrorSpread::TaskSet);
        for (byte, remembers) in [(0x20, false), (0x30, true)] {
            let rules = TaskRules::new([0, 0, byte, 0]).unwrap();
            assert!(!rules.set_for_each_nexus() && rules.keeps_attentions());
            assert_eq!(rules.remembers_refusals(), remembers);
        }
        let tas = TaskRules::new([0, 0x06, 0, 0x40]).unwrap();
        assert!(!tas.set_for_each_nexus() && tas.task_aborted_status());
        assert_eq!(tas.error_spread(), ErrorSpread::Nexus);
        assert_eq!(TaskRules::from_bits(tas.bits()), tas);
    }
}
