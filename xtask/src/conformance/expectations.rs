//! Which tests a disk need not pass, and why.
//!
//! A test may be skipped only for a reason that stands here and holds for the very disk: any other skip is a failure.
//! The reasons are of three kinds: the disk's own (a read-only one is not written to), the tool's need for iSCSI
//! sessions, which no local device can meet, and mistakes of the tool. What it does in sessions, the guest tests of
//! module `sessions` do over two controllers.

use super::disk::{Access, Disk, Provisioning};

/// Tests that are not run.
pub struct LeftOut {
    /// Patterns of `SUITE.TEST`, in the shell's notation.
    pub tests: &'static [&'static str],
    pub on: fn(Disk) -> bool,
    pub why: &'static str,
}

/// What the tool says when it skips a test, and why it has to.
struct Skip {
    /// A part of its words.
    said: &'static str,
    on: fn(Disk) -> bool,
    why: &'static str,
}

/// Failures that are the tool's mistake.
struct Mistake {
    /// The test.
    name: &'static str,
    /// A part of its words on each failure.
    said: &'static str,
    why: &'static str,
}

fn every(_: Disk) -> bool {
    true
}

fn read_only(disk: Disk) -> bool {
    disk.access == Access::ReadOnly
}

/// What the tool does in iSCSI sessions of its own.
const SESSION: &str = "Opens iSCSI sessions or changes what goes through them, which a local device has not. Done over \
                       two controllers by the guest tests `sessions`";

pub const LEFT_OUT: &[LeftOut] = &[
    LeftOut {
        tests: &[
            "CompareAndWrite.*",
            "ExtendedCopy.*",
            "GetLBAStatus.*",
            "MultipathIO.*",
            "OrWrite.*",
            "ReceiveCopyResults.CopyStatus",
            "Sanitize.*",
            "Unmap.*",
            "Write*.*",
        ],
        on: read_only,
        why: "Writes. A write-protected disk refuses that, as the suite ReadOnly proves",
    },
    LeftOut {
        tests: &["GetLBAStatus.UnmapSingle"],
        on: |disk| disk.physical_block() > disk.logical_block(),
        why: "The tool's mistake where a physical block is several logical ones: it asks for one LBA, and expects the \
              answer to begin at a later one. Runs on disks whose blocks are equal",
    },
    LeftOut {
        tests: &["Sanitize.OverwriteReserved"],
        on: every,
        why: "The tool's mistake: it dies before its first command, looking for its iSCSI session (its next version \
              skips the test instead). Done by the guest tests `sessions`",
    },
];

const SKIPS: &[Skip] = &[
    Skip {
        said: "not removable",
        on: |disk| disk.access != Access::Removable,
        why: "Runs on removable disks",
    },
    Skip {
        said: "not write-protected",
        on: |disk| !read_only(disk),
        why: "Runs on read-only disks",
    },
    Skip {
        said: "fully provisioned",
        on: |disk| disk.provisioning == Provisioning::Full || read_only(disk),
        why: "Runs on thin disks that can be written to",
    },
    Skip {
        said: "LBPPB < 2",
        on: |disk| disk.physical_block() == disk.logical_block(),
        why: "Runs on disks whose physical block is several logical ones",
    },
    Skip {
        said: "No alignment restrictions",
        on: |disk| disk.physical_block() == disk.logical_block(),
        why: "Atomic writes of one block and more are aligned anyhow. Runs on disks whose physical block is several \
              logical ones",
    },
    Skip {
        said: "UNMAP is not implemented",
        on: |disk| disk.provisioning == Provisioning::Full,
        why: "A fully provisioned disk has no UNMAP. Runs in full on thin disks",
    },
    Skip {
        said: "BLOCK_ERASE is not implemented",
        on: |disk| disk.provisioning == Provisioning::Full,
        why: "Erases by giving blocks back, which fully provisioned disks never do. Runs on thin disks",
    },
    Skip {
        said: "CRYPTO_ERASE is not implemented",
        on: every,
        why: "Erases by forgetting a key; these images are not encrypted",
    },
    Skip {
        said: "does not support 0-blocks",
        on: every,
        why: "WSNZ of VPD page B0 is one, so that no mistaken zero erases a disk; that it is refused was tested",
    },
    Skip {
        said: "only supported for iSCSI",
        on: every,
        why: SESSION,
    },
    Skip {
        said: "Non-iSCSI multipath",
        on: every,
        why: SESSION,
    },
];

const MISTAKES: &[Mistake] = &[Mistake {
    name: "ReportSupportedOpcodes.OneCommand",
    said: "CDB[0] Usage Data was 0x00, expected 0x7f",
    why: "The tool's mistake: it has no room for the usage data of a 32-byte CDB, which the crates' tests read; all \
          else in the test passed",
}];

/// Why the tool may skip a test with these words on a disk.
pub fn explanation(disk: Disk, said: &str) -> Option<&'static str> {
    let said = said.to_lowercase();
    let skip = SKIPS
        .iter()
        .find(|skip| said.contains(&skip.said.to_lowercase()) && (skip.on)(disk));
    skip.map(|skip| skip.why)
}

/// The tool's mistake that all these failures of a test are.
pub fn mistake(name: &str, failures: &[&str]) -> Option<&'static str> {
    if failures.is_empty() {
        return None;
    }
    let mistake = MISTAKES.iter().find(|mistake| {
        mistake.name == name && failures.iter().all(|said| said.contains(mistake.said))
    });
    mistake.map(|mistake| mistake.why)
}
