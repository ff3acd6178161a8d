//! Reads what `iscsi-test-cu` said.
//!
//! CUnit writes `Suite: NAME`, `  Test: NAME ...`, and at the test's end `passed` or `FAILED` with the failed
//! assertions; between the two stands the tool's own log, which is where a skipped test is known by its words.

use anyhow::{Result, ensure};

/// Marks a test that is about to run.
pub const LISTED: &str = "@test ";
/// Marks a test that is left out.
pub const LEFT: &str = "@left ";
/// Marks the beginning of a suite's log.
pub const SUITE: &str = "@suite ";

/// Tests that need an iSCSI session, but run without one, and why they cannot tell anything then.
const SESSION_ONLY: &[(&str, &str)] = &[(
    "CompareAndWrite.InvalidDataOutSize",
    "Changes the length in the iSCSI PDU, which a local device has not",
)];

/// What the tool takes for failures by its own mistake, and the mistake. A test is skipped for it if nothing else in it
/// failed.
const MISTAKES: &[(&str, &str)] = &[(
    "CDB[0] Usage Data was 0x00, expected 0x7f",
    "The tool has no room for the usage data of a 32-byte CDB; all else in the test passed",
)];

/// What became of a test.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Passed,
    /// The failed assertions, or how far the tool came.
    Failed(String),
    /// The tool's reason.
    Skipped(String),
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

/// The verdicts on all tests that were to run, in the tool's order.
pub fn read(text: &str) -> Result<Vec<Finding>> {
    let mut findings: Vec<Finding> = text.lines().filter_map(listed).collect();
    ensure!(!findings.is_empty(), "no suite is called like that");
    for suite in text.split(SUITE).skip(1) {
        let name = suite.lines().next().unwrap_or_default();
        let name = name.strip_prefix("SCSI.").unwrap_or(name);
        for test in suite.split("\n  Test: ").skip(1) {
            let test_name = test.split(" ...").next().unwrap_or_default();
            let name = format!("{name}.{test_name}");
            let listed = findings.iter_mut().find(|finding| finding.name == name);
            ensure!(listed.is_some(), "{name} ran, but was not listed");
            if let Some(finding) = listed {
                finding.verdict = session_only(&name).unwrap_or_else(|| verdict(test));
            }
        }
    }
    Ok(findings)
}

/// What is known of a test before any has run.
fn listed(line: &str) -> Option<Finding> {
    let (name, verdict) = match line.strip_prefix(LISTED) {
        Some(name) => (name, Verdict::Failed("the tool died before".to_owned())),
        None => (
            line.strip_prefix(LEFT)?,
            Verdict::Skipped("Not run: it writes".to_owned()),
        ),
    };
    Some(Finding {
        name: name.strip_prefix("SCSI.")?.to_owned(),
        verdict,
    })
}

/// Why nothing follows from what a test does on a local device.
fn session_only(name: &str) -> Option<Verdict> {
    let (_, why) = SESSION_ONLY.iter().find(|(test, _)| *test == name)?;
    Some(Verdict::Skipped((*why).to_owned()))
}

/// The verdict on the test with this log.
fn verdict(log: &str) -> Verdict {
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
        let mistake = MISTAKES
            .iter()
            .find(|(words, _)| logged.iter().all(|line| line.contains(words)));
        if let Some((_, why)) = mistake
            && !logged.is_empty()
            && logged.len() == assertions.len()
        {
            return Verdict::Skipped((*why).to_owned());
        }
        let said = logged.first().or(assertions.first());
        return Verdict::Failed(said.map_or_else(String::new, |said| said.trim().to_owned()));
    }
    if !log.lines().any(|line| line.ends_with("passed")) {
        return Verdict::Failed("the tool died in it".to_owned());
    }
    match log
        .lines()
        .find_map(|line| line.trim().strip_prefix("[SKIPPED] "))
    {
        Some(reason) => Verdict::Skipped(plain(reason)),
        None => Verdict::Passed,
    }
}

/// The reason without what is said everywhere.
fn plain(reason: &str) -> String {
    let reason = reason.trim().trim_end_matches('.');
    let reason = reason.strip_suffix("Skipping test").unwrap_or(reason);
    reason.trim().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict_of(log: &str) -> Verdict {
        let text = format!("@test SCSI.S.T\n@suite SCSI.S\n\nSuite: S\n  Test: T ...{log}\n");
        let mut findings = read(&text).unwrap();
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
    fn a_test_that_passed_because_it_was_skipped_is_skipped_for_the_reason_given() {
        let log = "\n    [SKIPPED] Media is not removable. Skipping test.\npassed";
        assert_eq!(
            verdict_of(log),
            Verdict::Skipped("Media is not removable".to_owned())
        );
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
        let mistake = "    [FAILED] CDB[0] Usage Data was 0x00, expected 0x7f for opcode 0x7f";
        let skipped =
            format!("\n{mistake}\n{mistake}\nFAILED\n    1. a.c:1\n    2. a.c:1\n\nRun Summary");
        assert!(matches!(verdict_of(&skipped), Verdict::Skipped(_)));
        for other in [
            format!("\n{mistake}\n    [FAILED] else\nFAILED\n    1. a.c:1\n    2. a.c:2\n"),
            format!("\n{mistake}\nFAILED\n    1. a.c:1\n    2. a.c:2\n"),
            "FAILED\n    1. a.c:1\n".to_owned(),
        ] {
            assert!(matches!(verdict_of(&other), Verdict::Failed(_)), "{other}");
        }
    }

    #[test]
    fn a_test_without_an_end_is_failed() {
        assert_eq!(
            verdict_of("\n    Send READ10"),
            Verdict::Failed("the tool died in it".to_owned())
        );
        let findings = read("@test SCSI.S.T\n@suite SCSI.S\n").unwrap();
        assert!(matches!(findings[0].verdict, Verdict::Failed(_)));
    }

    #[test]
    fn a_test_that_is_left_out_is_skipped() {
        let findings = read("@left SCSI.S.T\n").unwrap();
        assert_eq!(
            findings[0].verdict,
            Verdict::Skipped("Not run: it writes".to_owned())
        );
    }

    #[test]
    fn nothing_to_run_is_an_error() {
        assert!(read("Suite: S\n").is_err());
    }
}
