//! What the program says about itself. People read it and scripts match it: a change here is a change for both.

use crate::program::{Place, golden, stderr, stdout};

fn said(arguments: &[&str]) -> String {
    let output = Place::new().run(arguments);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    stdout(&output)
}

#[test]
fn capabilities_are_json_whatever_else_is_written() {
    for arguments in [
        &["--print-capabilities"][..],
        &["serve", "--print-capabilities"],
        &[
            "serve",
            "--no-such-option",
            "--fd",
            "x",
            "--print-capabilities",
            "no.img",
        ],
    ] {
        let json: serde_json::Value = serde_json::from_str(&said(arguments)).unwrap();
        assert_eq!(json, serde_json::json!({"type": "scsi", "features": []}));
    }
}

#[test]
fn devices_are_listed_as_qemu_lists_them() {
    let expected = "\
name \"scsi-hd\", bus SCSI, alias \"scsi-disk\", desc \"virtual SCSI disk\"
name \"virtio-scsi-pci\", bus vhost-user, alias \"virtio-scsi\", desc \"virtio-scsi controller with a vhost-user socket of its own\"
";
    for spelling in [["--device", "help"], ["-device", "help"], ["-device", "?"]] {
        assert_eq!(said(&["serve", spelling[0], spelling[1]]), expected);
    }
}

#[test]
fn properties_of_a_disk() {
    let text = said(&["serve", "-device", "scsi-hd,help"]);
    assert_eq!(text, said(&["serve", "-device", "scsi-disk,drive=x,?"]));
    golden("scsi-hd", &text);
}

#[test]
fn properties_of_a_controller() {
    golden(
        "virtio-scsi-pci",
        &said(&["serve", "-device", "virtio-scsi,help"]),
    );
}

#[test]
fn properties_of_a_drive() {
    golden("drive", &said(&["serve", "-drive", "help"]));
}

#[test]
fn block_drivers_and_their_properties() {
    golden("blockdev", &said(&["serve", "--blockdev", "help"]));
    golden(
        "blockdev-file",
        &said(&["serve", "--blockdev", "file,help"]),
    );
}

#[test]
fn help_of_the_program() {
    golden("lunar", &said(&["--help"]));
    golden("serve", &said(&["serve", "--help"]));
    golden("bench", &said(&["bench", "--help"]));
}

#[test]
fn version_is_the_package_version() {
    assert_eq!(
        said(&["--version"]),
        format!("lunar {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn every_command_has_a_manual_page() {
    let page = said(&["man", "config", "dump"]);
    assert!(page.contains(".TH lunar-config-dump 1"), "{page}");
    assert!(said(&["man"]).contains(".SH SUBCOMMANDS"));

    let place = Place::new();
    assert!(place.run(&["man", "--output", "man1"]).status.success());
    let pages = std::fs::read_dir(place.path("man1")).unwrap();
    let names: Vec<_> = pages.map(|page| page.unwrap().file_name()).collect();
    for name in ["lunar.1", "lunar-serve.1", "lunar-config-dump.1"] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }

    let refused = place.run(&["man", "no", "such"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("lunar no such is no command"));
}
