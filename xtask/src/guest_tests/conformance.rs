//! A quick selection of the public suites that `cargo xtask conformance` runs in full.

use anyhow::{Result, bail, ensure};

use super::{Figures, Lab};
use crate::conformance::disk::{Access, Block, Disk, Format, Provisioning};
use crate::conformance::log::Verdict;
use crate::conformance::on;

/// Suites that are short and have a test of each kind.
const SUITES: &[&str] = &[
    "CompareAndWrite",
    "Inquiry",
    "Mandatory",
    "ModeSense6",
    "MultipathIO",
    "OrWrite",
    "Prefetch10",
    "PrinReadKeys",
    "PrinReportCapabilities",
    "ProutClear",
    "ProutRegister",
    "ProutReserve",
    "Read16",
    "ReadCapacity16",
    "TestUnitReady",
    "Unmap",
    "Write10",
    "WriteVerify16",
];

pub fn the_quick_suites_pass(lab: &Lab) -> Result<Figures> {
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
    let mut passed = 0;
    for finding in &findings {
        match &finding.verdict {
            Verdict::Passed => passed += 1,
            Verdict::Skipped(_) => {}
            Verdict::Failed(why) => bail!("{}: {why}", finding.name),
        }
    }
    Ok(vec![format!(
        "{passed} of {} tests of libiscsi's passed, the others have a reason to be skipped",
        findings.len()
    )])
}
