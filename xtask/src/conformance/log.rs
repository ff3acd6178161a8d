//! Reads what `iscsi-test-cu` said.
//!
//! CUnit writes `Suite: NAME`, `  Test: NAME ...`, and at the test's end `passed` or `FAILED` with the failed
//! assertions; between the two stands the tool's own log, which is where a skipped test is known by its words.

use anyhow::{Context, Result, ensure};

use super::disk::Disk;
use super::expectations::{LEFT_OUT, explanation, mistake};

/// Marks a test that is about to run.
pub const LISTED: &str = "@test ";
/// Marks a test that is left out; its place in [`LEFT_OUT`] comes before its name.
pub const LEFT: &str = "@left ";
/// Marks the beginning of a suite's log, or of a part of it.
pub const SUITE: &str = "@suite ";

/// The words of a test that gives up without calling it so.
const GIVES_UP: &str = "does not support 0-blocks";

/// What became of a test.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Passed,
    /// The failed assertions, or how far the tool came.
    Failed(String),
    /// The reason.
    Skipped(&'static str),
}

/// A test and its verdict.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// `SUITE.TEST`
    pub name: String,
    pub verdict: Verdict,
}

impl Finding {
    /// The suite that the test belongs to.
    pub fn suite(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }
}

/// The verdicts on all tests that were to run on a disk, in the tool's order.
pub fn read(disk: Disk, text: &str) -> Result<Vec<Finding>> {
    let mut findings: Vec<Finding> = text.lines().filter_map(listed).collect();
    ensure!(!findings.is_empty(), "no suite is called like that");
    for part in text.split(SUITE).skip(1) {
        let suite = part.lines().next().unwrap_or_default();
        for test in part.split("\n  Test: ").skip(1) {
            let (name, log) = test.split_once(" ...").context("a test without a log")?;
            let name = format!("{suite}.{name}");
            let finding = findings.iter_mut().find(|finding| finding.name == name);
            let finding = finding.with_context(|| format!("{name} ran, but was not listed"))?;
            finding.verdict = verdict(disk, &name, log);
        }
    }
    Ok(findings)
}

/// What is known of a test before any has run.
fn listed(line: &str) -> Option<Finding> {
    let (name, verdict) = match line.strip_prefix(LISTED) {
        Some(name) => (name, Verdict::Failed("the tool died before".to_owned())),
        None => {
            let (place, name) = line.strip_prefix(LEFT)?.split_once(' ')?;
            let rule = LEFT_OUT.get(place.parse::<usize>().ok()?)?;
            (name, Verdict::Skipped(rule.why))
        }
    };
    Some(Finding {
        name: name.to_owned(),
        verdict,
    })
}

/// The verdict on the test with this log.
fn verdict(disk: Disk, name: &str, log: &str) -> Verdict {
    // The tool's log writes "[FAILED] ..."; a line that ends with the word alone is CUnit's.
    if log.lines().any(|line| line.ends_with("FAILED")) {
        let logged: Vec<&str> = log
            .lines()
            .filter_map(|line| line.trim().strip_prefix("[FAILED] "))
            .collect();
        let assertions: Vec<&str> = log
            .lines()
            .skip_while(|line| !line.ends_with("FAILED"))
            .skip(1)
            .take_while(|line| !line.is_empty())
            .collect();
        if let Some(why) = mistake(name, &logged)
            && logged.len() == assertions.len()
        {
            return Verdict::Skipped(why);
        }
        let said = logged.first().or(assertions.first());
        return Verdict::Failed(said.map_or_else(String::new, |said| said.trim().to_owned()));
    }
    if !log.lines().any(|line| line.ends_with("passed")) {
        return Verdict::Failed("the tool died in it".to_owned());
    }
    let Some(said) = log.lines().find_map(skipped) else {
        return Verdict::Passed;
    };
    match explanation(disk, said) {
        Some(why) => Verdict::Skipped(why),
        None => Verdict::Failed(format!("skipped without a known reason: {said}")),
    }
}

/// The words with which a test is skipped, if a line has them.
fn skipped(line: &str) -> Option<&str> {
    let line = line.trim();
    line.strip_prefix("[SKIPPED] ")
        .or_else(|| line.contains(GIVES_UP).then_some(line))
}

#[cfg(test)]
mod tests {
    use super::super::disk::{Access, Block, Format, Provisioning};
    use super::*;

    const DISK: Disk = Disk {
        format: Format::Raw,
        block: Block::B512,
        provisioning: Provisioning::Thin,
        access: Access::Writable,
    };

    fn verdict_of(log: &str) -> Verdict {
        verdict_on(DISK, "S.T", log)
    }

    fn verdict_on(disk: Disk, name: &str, log: &str) -> Verdict {
        let (suite, test) = name.split_once('.').unwrap();
        let text =
            format!("@test {name}\n@suite {suite}\n\nSuite: {suite}\n  Test: {test} ...{log}\n");
        let mut findings = read(disk, &text).unwrap();
        assert_eq!(findings.len(), 1);
        findings.remove(0).verdict
    }

    #[test]
    fn a_test_that_passed_after_all_its_commands_is_passed() {
        assert_eq!(
            verdict_of("\n    Send INQUIRY\n    [OK] INQUIRY\npassed"),
            Verdict::Passed
        );
        assert_eq!(verdict_of("passed"), Verdict::Passed);
    }

    #[test]
    fn a_test_that_passed_because_it_was_skipped_is_skipped_if_the_reason_is_known() {
        for log in [
            "\n    [SKIPPED] Media is not removable. Skipping test.\npassed",
            "    [SKIPPED] Media is not removable. Skipping test.\npassed",
        ] {
            assert_eq!(verdict_of(log), Verdict::Skipped("Runs on removable disks"));
        }
        assert!(matches!(
            verdict_of("\n    WRITESAME10 does not support 0-blocks.WSNZ == 1\n    [OK]\npassed"),
            Verdict::Skipped(_)
        ));
    }

    #[test]
    fn a_test_that_is_skipped_for_no_known_reason_is_failed() {
        for log in [
            "\n    [SKIPPED] UNMAP is not implemented.\npassed",
            "\n    [SKIPPED] Logical unit is fully provisioned. Skipping test.\npassed",
        ] {
            assert!(matches!(verdict_of(log), Verdict::Failed(_)), "{log}");
        }
    }

    #[test]
    fn a_reason_counts_only_on_disks_for_which_it_holds() {
        let log = "    [SKIPPED] Media is not removable. Skipping test.\npassed";
        let disk = Disk {
            access: Access::Removable,
            ..DISK
        };
        assert!(matches!(verdict_on(disk, "S.T", log), Verdict::Failed(_)));
    }

    #[test]
    fn a_failed_test_tells_the_first_failed_command() {
        let log =
            "\n    [FAILED] READ10 failed.\nFAILED\n    1. test_read10_simple.c:43  - res == 0";
        assert_eq!(
            verdict_of(log),
            Verdict::Failed("READ10 failed.".to_owned())
        );
        let log = "FAILED\n    1. test_inquiry.c:43  - res == 0";
        assert_eq!(
            verdict_of(log),
            Verdict::Failed("1. test_inquiry.c:43  - res == 0".to_owned())
        );
    }

    #[test]
    fn only_a_test_whose_every_failure_is_the_tools_mistake_is_skipped_for_it() {
        let name = "ReportSupportedOpcodes.OneCommand";
        let mistake = "    [FAILED] CDB[0] Usage Data was 0x00, expected 0x7f for opcode 0x7f";
        let skipped =
            format!("\n{mistake}\n{mistake}\nFAILED\n    1. a.c:1\n    2. a.c:1\n\nRun Summary");
        assert!(matches!(
            verdict_on(DISK, name, &skipped),
            Verdict::Skipped(_)
        ));
        assert!(matches!(verdict_of(&skipped), Verdict::Failed(_)));
        for other in [
            format!("\n{mistake}\n    [FAILED] else\nFAILED\n    1. a.c:1\n    2. a.c:2\n"),
            format!("\n{mistake}\nFAILED\n    1. a.c:1\n    2. a.c:2\n"),
            "FAILED\n    1. a.c:1\n".to_owned(),
        ] {
            assert!(
                matches!(verdict_on(DISK, name, &other), Verdict::Failed(_)),
                "{other}"
            );
        }
    }

    #[test]
    fn a_test_without_an_end_is_failed() {
        assert_eq!(
            verdict_of("\n    Send READ10"),
            Verdict::Failed("the tool died in it".to_owned())
        );
        let findings = read(DISK, "@test S.T\n@suite S\n").unwrap();
        assert!(matches!(findings[0].verdict, Verdict::Failed(_)));
    }

    #[test]
    fn a_test_that_is_left_out_is_skipped() {
        let findings = read(DISK, "@left 0 S.T\n").unwrap();
        assert_eq!(findings[0].verdict, Verdict::Skipped(LEFT_OUT[0].why));
    }

    #[test]
    fn nothing_to_run_is_an_error() {
        assert!(read(DISK, "Suite: S\n").is_err());
    }
}
