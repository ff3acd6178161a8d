//! What the Control page says about task sets (SPC-4 7.5.8, SC-022).

/// TST in byte 2, as far as it is used: one task set for each nexus.
const TST: u8 = 0x20;
/// QERR in byte 3.
const QERR: u8 = 0x06;
/// TAS in byte 5.
const TAS: u8 = 0x40;

/// How the tasks of a logical unit affect each other. The bits stand where the page has them; they do not collide.
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
    pub const CHANGEABLE: [(usize, u8); 3] = [(2, TST), (3, QERR), (5, TAS)];

    /// From bytes 2, 3 and 5 of the page. `None` for a QERR that does not exist.
    #[must_use]
    pub const fn new(byte2: u8, byte3: u8, byte5: u8) -> Option<Self> {
        if byte3 & QERR == 0x04 {
            return None;
        }
        Some(Self(byte2 & TST | byte3 & QERR | byte5 & TAS))
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
        assert_eq!(TaskRules::new(0, 0x10, 0), Some(TaskRules::default()));
        assert_eq!(TaskRules::new(0, 0x04, 0), None);
        let tst = TaskRules::new(0x24, 0x12, 0).unwrap();
        assert!(tst.set_for_each_nexus() && !tst.task_aborted_status());
        assert_eq!(tst.error_spread(), ErrorSpread::TaskSet);
        let tas = TaskRules::new(0, 0x06, 0x40).unwrap();
        assert!(!tas.set_for_each_nexus() && tas.task_aborted_status());
        assert_eq!(tas.error_spread(), ErrorSpread::Nexus);
        assert_eq!(TaskRules::from_bits(tas.bits()), tas);
    }
}
