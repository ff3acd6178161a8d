//! What can be checked without running the code: formatting, lints, documentation, licences.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::guest_tests::Tally;
use crate::process::{read, run, step, tied};

/// The licences that a crate of ours may be under; an expression is fine if it offers one of them.
const PERMISSIVE: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// A check's name and function.
type Check = (&'static str, fn() -> Result<()>);

/// Runs all checks; each counts as one test.
pub fn all() -> Tally {
    let checks: [Check; 5] = [
        ("Formatting", formatting),
        ("Lints", lints),
        ("Documentation", documentation),
        ("Licences", licences),
        ("Fuzz targets", fuzz_targets),
    ];
    let mut tally = Tally::default();
    for (name, check) in checks {
        match step(name, check) {
            Ok(()) => tally.passed += 1,
            Err(error) => {
                println!("{error:#}");
                tally.failed += 1;
            }
        }
    }
    tally
}

fn formatting() -> Result<()> {
    run(tied("cargo").args(["fmt", "--all", "--check"]))
}

fn lints() -> Result<()> {
    run(tied("cargo").args([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
}

fn documentation() -> Result<()> {
    run(tied("cargo").env("RUSTDOCFLAGS", "-D warnings").args([
        "doc",
        "--quiet",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ]))
}

/// The fuzz crate is a workspace of its own, because its targets need a sanitizer to link; they compile without.
fn fuzz_targets() -> Result<()> {
    run(tied("cargo").args([
        "check",
        "--quiet",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--bins",
    ]))
}

/// Looks at every crate that ends up in the `lunar` binary.
fn licences() -> Result<()> {
    let metadata = read(tied("cargo").args([
        "metadata",
        "--format-version",
        "1",
        "--filter-platform",
        "x86_64-unknown-linux-gnu",
    ]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let licence_of: BTreeMap<&str, &str> = list(&metadata, "packages")
        .filter_map(|package| {
            Some((
                text(package, "id")?,
                text(package, "license").unwrap_or("none"),
            ))
        })
        .collect();
    let root = list(&metadata, "packages")
        .find(|package| text(package, "name") == Some("lunar"))
        .and_then(|package| text(package, "id"))
        .context("there is no package called lunar")?;
    let nodes: BTreeMap<&str, &Value> = metadata
        .get("resolve")
        .into_iter()
        .flat_map(|resolve| list(resolve, "nodes"))
        .filter_map(|node| Some((text(node, "id")?, node)))
        .collect();

    let mut linked = BTreeSet::from([root]);
    let mut pending = vec![root];
    while let Some(id) = pending.pop() {
        let dependencies = nodes
            .get(id)
            .into_iter()
            .flat_map(|node| list(node, "deps"));
        for dependency in dependencies.filter(|dependency| is_linked(dependency)) {
            let id = text(dependency, "pkg").context("a dependency without package")?;
            if linked.insert(id) {
                pending.push(id);
            }
        }
    }
    let mut refused = Vec::new();
    for id in &linked {
        let licence = licence_of.get(id).copied().unwrap_or("none");
        if !is_permissive(licence) {
            refused.push(format!("{id}: {licence}"));
        }
    }
    if !refused.is_empty() {
        bail!(
            "crates under licences that we do not take:\n{}",
            refused.join("\n")
        );
    }
    println!(
        "    {} crates in the binary, all under permissive licences",
        linked.len()
    );
    Ok(())
}

/// Whether a dependency is more than a build script's or a test's.
fn is_linked(dependency: &Value) -> bool {
    list(dependency, "dep_kinds").any(|kind| kind.get("kind").is_none_or(Value::is_null))
}

/// Whether an SPDX expression lets us choose a permissive licence: every term of the conjunction must offer one.
fn is_permissive(expression: &str) -> bool {
    let normal = expression.replace('/', " OR ").replace(['(', ')'], " ");
    normal.split(" AND ").all(|term| {
        term.split(" OR ")
            .any(|licence| PERMISSIVE.contains(&licence.trim()))
    })
}

fn list<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    value
        .get(name)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn text<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    value.get(name).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::is_permissive;

    #[test]
    fn a_choice_is_permissive_if_one_alternative_is_and_a_conjunction_if_all_are() {
        assert!(is_permissive("MIT OR Apache-2.0"));
        assert!(is_permissive("MIT/Apache-2.0"));
        assert!(is_permissive("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(is_permissive("MIT OR LGPL-2.1-or-later"));
        assert!(!is_permissive("LGPL-3.0-only"));
        assert!(!is_permissive("GPL-2.0-only AND MIT"));
        assert!(!is_permissive("AGPL-3.0-only"));
        assert!(!is_permissive("none"));
    }
}
