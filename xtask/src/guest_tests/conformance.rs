//! A quick selection of the public suites that `cargo xtask conformance` runs in full.

use anyhow::{Result, ensure};

use super::{Figures, Lab};
use crate::conformance::disk::{Access, Block, Disk, Format, Provisioning};
use crate::conformance::log::Verdict;
use crate::conformance::on;

/// Suites that are short and have a test of each kind; on this disk none of their tests has a reason to be skipped.
const SUITES: &[&str] = &[
    "Inquiry",
    "Mandatory",
    "ModeSense6",
    "OrWrite",
    "Prefetch10",
    "Read16",
    "ReadCapacity16",
    "TestUnitReady",
    "Unmap",
    "Write10",
    "WriteVerify16",
];

pub fn the_quick_suites_pass_without_a_skip(lab: &Lab) -> Result<Figures> {
    let disk = Disk {
        format: Format::Qcow2,
        block: Block::B4096,
        provisioning: Provisioning::Thin,
        access: Access::Writable,
    };
    let findings = on(lab, disk, SUITES, None)?;
    for suite in SUITES {
        ensure!(
            findings.iter().any(|finding| finding.suite() == *suite),
            "the tool has no suite {suite}"
        );
    }
    for finding in &findings {
        ensure!(
            finding.verdict == Verdict::Passed,
            "{}: {:?}",
            finding.name,
            finding.verdict
        );
    }
    Ok(vec![format!("{} tests of libiscsi's", findings.len())])
}
