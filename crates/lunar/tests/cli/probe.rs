//! `lunar probe` against `lunar serve`.

use crate::program::{Place, Server, stderr, stdout};

fn served(place: &Place) -> Server {
    place.image("a.img", 1 << 20);
    place.serve(
        &[
            "--socket-path",
            "s",
            "a.img",
            "--blockdev",
            "memory,node-name=m,size=3G",
            "--device",
            "scsi-hd,drive=m,scsi-id=255,lun=16383,logical_block_size=4096,wwn=0x5000c500deadbeef,\
             serial=S3,vendor=ACME,product=ROCKET,ver=2.0,removable=on",
        ],
        &["s"],
    )
}

#[test]
fn units_are_listed_like_lsscsi_does() {
    let place = Place::new();
    let _server = served(&place);
    let output = place.run(&["probe", "s"]);
    assert!(output.status.success(), "{output:?}");
    let text = stdout(&output);
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].starts_with("[0:0:0:0]        disk  LUNAR"),
        "{text}"
    );
    assert!(lines[0].contains("1 MiB"), "{text}");
    assert_eq!(
        lines[1],
        "[0:0:255:16383]  disk  ACME   ROCKET          2.0  3 GiB  naa.5000c500deadbeef"
    );
    assert_eq!(lines[2..], ["2 logical units"]);
}

#[test]
fn json_has_everything() {
    let place = Place::new();
    let _server = served(&place);
    let output = place.run(&["probe", "--json", "s"]);
    assert!(output.status.success(), "{output:?}");
    let units: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(units.as_array().unwrap().len(), 2);
    let unit = &units[1];
    assert_eq!(unit["target"], 255);
    assert_eq!(unit["lun"], 16383);
    assert_eq!(unit["type"], "disk");
    assert_eq!(unit["removable"], true);
    assert_eq!(unit["vendor"], "ACME");
    assert_eq!(unit["product"], "ROCKET");
    assert_eq!(unit["revision"], "2.0");
    assert_eq!(unit["serial"], "S3");
    assert_eq!(unit["blocks"], (3_u64 << 30) / 4096);
    assert_eq!(unit["block-size"], 4096);
    let designators = unit["designators"].as_array().unwrap();
    assert!(
        designators.contains(&"naa.5000c500deadbeef".into()),
        "{designators:?}"
    );
}

#[test]
fn nobody_listens() {
    let place = Place::new();
    let output = place.run(&["probe", "s"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).starts_with("lunar: s: "),
        "{}",
        stderr(&output)
    );
}

#[test]
fn three_hundred_units_over_all_targets_are_found() {
    let place = Place::new();
    let mut arguments = vec!["--socket-path".to_owned(), "s".to_owned()];
    // LUN 0 of every target, and the last LUN of the first 44.
    for number in 0..300 {
        let (target, lun) = (number % 256, number / 256 * 16383);
        arguments.extend([
            "--blockdev".to_owned(),
            format!("null-co,node-name=n{number}"),
            "--device".to_owned(),
            format!("scsi-hd,drive=n{number},scsi-id={target},lun={lun}"),
        ]);
    }
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let _server = place.serve(&arguments, &["s"]);
    let output = place.run(&["probe", "s"]);
    let text = stdout(&output);
    assert!(text.ends_with("\n300 logical units\n"), "{text}");
    for address in ["[0:0:0:0]", "[0:0:43:16383]", "[0:0:255:0]"] {
        assert!(text.contains(address), "{address}");
    }
}
