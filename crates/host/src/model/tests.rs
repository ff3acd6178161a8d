use super::*;
use crate::keyval::{BLOCKDEV, DEVICE, DRIVE};

/// Declares `lines` (an option and its value each), as the command line would.
fn declare(lines: &[&str]) -> Result<Model, Error> {
    let mut model = Model::default();
    for line in lines {
        let (option, text) = line.split_once(' ').unwrap();
        match option {
            "drive" => model
                .add_drive(Options::parse(text, DRIVE)?, line)
                .map(drop)?,
            "blockdev" => model
                .add_blockdev(Options::parse(text, BLOCKDEV)?, line)
                .map(drop)?,
            "device" => model
                .add_device(Options::parse(text, DEVICE)?, line)
                .map(drop)?,
            "image" => model.add_image(text, model.controllers()[0].disks.len())?,
            other => panic!("{other}"),
        }
    }
    Ok(model)
}

const CONTROLLER: &str = "device virtio-scsi-pci,id=scsi0";
const DRIVES: [&str; 3] = [
    "drive id=disk0,file=a.img,if=none,format=raw",
    "drive id=disk1,file=b.qcow2,if=none",
    "drive id=ro,file=c.img,if=none,format=raw,readonly=on",
];

/// With a controller and three drives there are `lines` more.
fn extend(lines: &[&str]) -> Result<Model, Error> {
    let mut all = vec![CONTROLLER];
    all.extend(DRIVES);
    all.extend(lines);
    declare(&all)
}

fn addresses(model: &Model) -> Vec<(String, u8, u16, String)> {
    let controllers = model.controllers().iter();
    controllers
        .flat_map(|controller| {
            controller.disks.iter().map(|(address, disk)| {
                (
                    controller.bus.clone(),
                    address.target,
                    address.lun,
                    disk.name.clone(),
                )
            })
        })
        .collect()
}

fn places(model: &Model) -> Vec<(u8, u16)> {
    addresses(model)
        .into_iter()
        .map(|(_, target, lun, _)| (target, lun))
        .collect()
}

#[test]
fn free_addresses_are_chosen_as_qemu_chooses_them() {
    let drive = |n: usize| format!("blockdev null-co,node-name=n{n}");
    let drives: Vec<_> = (0..6).map(drive).collect();
    let mut lines: Vec<&str> = vec![CONTROLLER];
    lines.extend(drives.iter().map(String::as_str));
    lines.extend([
        "device scsi-hd,drive=n0,scsi-id=1,lun=0",
        "device scsi-hd,drive=n1", // first target with a free LUN 0
        "device scsi-hd,drive=n2", // target 1 is taken
        "device scsi-hd,drive=n3,scsi-id=1", // first free LUN of the target
        "device scsi-hd,drive=n4,lun=1", // first target with a free LUN 1
        "device scsi-hd,drive=n5,scsi-id=1,lun=-1",
    ]);
    let model = declare(&lines).unwrap();
    let mut found = addresses(&model);
    found.sort_by(|a, b| a.3.cmp(&b.3));
    let found: Vec<_> = found
        .into_iter()
        .map(|(_, target, lun, _)| (target, lun))
        .collect();
    assert_eq!(found, [(1, 0), (0, 0), (2, 0), (1, 1), (0, 1), (1, 2)]);
}

#[test]
fn a_gap_between_luns_is_filled_first() {
    let model = extend(&[
        "device scsi-hd,drive=disk0,scsi-id=5,lun=0",
        "device scsi-hd,drive=disk1,scsi-id=5,lun=2",
        "device scsi-hd,drive=ro,scsi-id=5",
    ]);
    assert_eq!(places(&model.unwrap()), [(5, 0), (5, 1), (5, 2)]);
}

#[test]
fn targets_and_luns_run_out_with_a_message() {
    let mut model = declare(&[CONTROLLER]).unwrap();
    let mut nodes = 0;
    let mut add = |text: &str| {
        nodes += 1;
        let node = format!("driver=null-co,node-name=n{nodes}");
        model.add_blockdev(Options::parse(&node, BLOCKDEV).unwrap(), "x")?;
        let device = format!("scsi-hd,drive=n{nodes}{text}");
        model.add_device(Options::parse(&device, DEVICE).unwrap(), "x")
    };
    for _ in 0..256 {
        add("").unwrap();
    }
    assert_eq!(add(""), Err(Error::NoFreeTarget));
    for lun in 2..=catalog::MAX_LUN {
        add(&format!(",scsi-id=7,lun={lun}")).unwrap();
    }
    add(",scsi-id=7").unwrap();
    assert_eq!(add(",scsi-id=7"), Err(Error::NoFreeLun { target: 7 }));
}

#[test]
fn buses_are_named_as_qemu_names_them() {
    let model = declare(&[
        "device virtio-scsi-pci",
        "device virtio-scsi,id=vm1",
        "device virtio-scsi-pci",
    ])
    .unwrap();
    let buses: Vec<_> = model.controllers().iter().map(|c| c.bus.as_str()).collect();
    assert_eq!(buses, ["scsi.0", "vm1.0", "scsi.1"]);
}

#[test]
fn a_disk_without_bus_goes_to_the_first_controller() {
    let model = extend(&[
        "device virtio-scsi-pci,id=scsi1",
        "device scsi-hd,drive=disk0",
        "device scsi-hd,drive=disk1,bus=scsi1.0",
    ])
    .unwrap();
    let buses: Vec<_> = addresses(&model).into_iter().map(|(bus, ..)| bus).collect();
    assert_eq!(buses, ["scsi0.0", "scsi1.0"]);
}

#[test]
fn images_get_a_target_each_and_qcow2_goes_by_the_name() {
    let model = declare(&[CONTROLLER, "image a.img", "image b.QCOW2", "image c,d=e"]).unwrap();
    assert_eq!(places(&model), [(0, 0), (1, 0), (2, 0)]);
    let disks: Vec<_> = model.controllers()[0].disks.values().collect();
    let driver = |n: usize| &model.node(&disks[n].node).unwrap().driver;
    assert!(matches!(driver(0), NodeDriver::File { .. }));
    assert!(matches!(driver(1), NodeDriver::Qcow2 { .. }));
    assert!(matches!(driver(2), NodeDriver::File { filename } if filename == Path::new("c,d=e")));
}

#[test]
fn an_image_without_a_name_is_identified_by_its_path_without_telling_it() {
    let identity = |path: &str| {
        let model = declare(&[CONTROLLER, &format!("image {path}")]).unwrap();
        let disk = model.controllers()[0]
            .disks
            .values()
            .next()
            .unwrap()
            .clone();
        disk.options.config.identity
    };
    assert_eq!(
        identity("/nowhere/secret.img"),
        identity("/nowhere/secret.img")
    );
    assert_ne!(
        identity("/nowhere/secret.img"),
        identity("/elsewhere/secret.img")
    );
    assert!(!identity("/nowhere/secret.img").contains("secret"));
    let model = extend(&["device scsi-hd,drive=disk0"]).unwrap();
    let disk = model.controllers()[0].disks.values().next().unwrap();
    assert_eq!(disk.options.config.identity, "disk0");
}

#[test]
fn cache_modes_mean_what_they_mean_in_qemu() {
    for (text, direct, no_flush, write_cache) in [
        ("", false, false, OnOffAuto::Auto),
        (",cache=none", true, false, OnOffAuto::Auto),
        (",cache=writethrough", false, false, OnOffAuto::Off),
        (",cache=directsync", true, false, OnOffAuto::Off),
        (",cache=unsafe", false, true, OnOffAuto::Auto),
        (
            ",cache=none,cache.direct=off",
            false,
            false,
            OnOffAuto::Auto,
        ),
        (",cache.writeback=off", false, false, OnOffAuto::Off),
    ] {
        let drive = format!("drive id=d,file=a.qcow2,if=none{text}");
        let model = declare(&[CONTROLLER, &drive, "device scsi-hd,drive=d"]).unwrap();
        let disk = model.controllers()[0].disks.values().next().unwrap();
        let node = model.node(&disk.node).unwrap();
        let file = model.node(node.driver.file().unwrap()).unwrap();
        assert_eq!(
            (node.options.direct, file.options.direct),
            (direct, direct),
            "{text}"
        );
        assert_eq!(
            (node.options.no_flush, file.options.no_flush),
            (no_flush, no_flush),
            "{text}"
        );
        assert_eq!(disk.options.config.write_cache, write_cache, "{text}");
    }
}

#[test]
fn write_cache_of_the_device_goes_before_that_of_the_drive() {
    let model = declare(&[
        CONTROLLER,
        "drive id=d,file=a.img,if=none,cache=writethrough",
        "device scsi-hd,drive=d,write-cache=on",
    ])
    .unwrap();
    let disk = model.controllers()[0].disks.values().next().unwrap();
    assert_eq!(disk.options.config.write_cache, OnOffAuto::On);
}

#[test]
fn nested_nodes_inherit_what_qemu_passes_on() {
    let model = declare(&[
        "blockdev qcow2,node-name=q,discard=unmap,cache.direct=on,read-only=on,\
         file.driver=file,file.filename=a,,b.qcow2,file.locking=off",
        r#"blockdev {"driver":"raw","node-name":"r","file":{"driver":"host_device","filename":"/dev/x"}}"#,
    ])
    .unwrap();
    let q = model.node("q").unwrap();
    let file = model.node(q.driver.file().unwrap()).unwrap();
    let NodeDriver::File { filename } = &file.driver else {
        panic!("{file:?}");
    };
    assert_eq!(filename, Path::new("a,b.qcow2"));
    assert!(file.options.direct && file.options.read_only && file.options.discard_unmap);
    let r = model.node("r").unwrap();
    let device = model.node(r.driver.file().unwrap()).unwrap();
    assert!(device.options.discard_unmap && !r.options.discard_unmap);
    assert!(matches!(device.driver, NodeDriver::HostDevice { .. }));
}

#[test]
fn a_file_may_be_cut_into_parts() {
    let model = declare(&[
        CONTROLLER,
        "blockdev file,node-name=f,filename=a.img",
        "blockdev raw,node-name=p0,file=f,size=1M",
        "blockdev raw,node-name=p1,file=f,offset=1M,size=1M",
        "device scsi-hd,drive=p0",
        "device scsi-hd,drive=p1",
    ]);
    assert_eq!(places(&model.unwrap()).len(), 2);
}

#[test]
fn sharing_is_agreed_by_all_users_or_harmless() {
    let shared = extend(&[
        "device virtio-scsi-pci,id=second",
        "device scsi-hd,drive=disk1,share-rw=on",
        "device scsi-hd,drive=disk1,share-rw=on,bus=second.0",
        "device scsi-hd,drive=ro",
        "device scsi-hd,drive=ro,bus=second.0",
    ])
    .unwrap();
    let disk = shared.controllers()[0].disks.values().next().unwrap();
    let node = shared.node(&disk.node).unwrap();
    assert!(node.options.share_rw);
    assert!(
        shared
            .node(node.driver.file().unwrap())
            .unwrap()
            .options
            .share_rw
    );
}

#[test]
fn drives_without_a_device_get_one_unless_they_decline() {
    let mut model = declare(&[
        CONTROLLER,
        "drive file=a.img,format=raw",
        "drive id=named,file=b.img",
        "drive id=spare,file=c.img,if=none",
        "device scsi-hd,drive=named,scsi-id=3",
    ])
    .unwrap();
    model.add_automatic_disks().unwrap();
    assert_eq!(places(&model), [(0, 0), (3, 0)]);
    let unused: Vec<_> = model
        .unused_drives()
        .map(|drive| drive.id.as_str())
        .collect();
    assert_eq!(unused, ["spare"]);
}

/// What each mistake is answered with.
#[test]
fn mistakes_are_named_with_their_remedy() {
    for (line, message) in [
        (
            "device scsi-hd,drive=dsk0",
            "no drive or node is called \"dsk0\" (there are: disk0, disk1, ro)",
        ),
        ("device scsi-hd", "drive=NAME is missing"),
        ("device drive=disk0", "the device's name is missing"),
        (
            "device scsi-hdd,drive=disk0",
            "no device is called \"scsi-hdd\"; did you mean \"scsi-hd\"?; --device help lists them",
        ),
        (
            "device e1000",
            "no device is called \"e1000\"; --device help lists them",
        ),
        (
            "device scsi-cd,drive=disk0",
            "CD/DVD drives are not served yet (scsi-cd); use scsi-hd for a disk",
        ),
        (
            "device scsi-hd,drive=disk0,scsi-id=256",
            "scsi-id=256: must be a number from 0 to 255",
        ),
        (
            "device scsi-hd,drive=disk0,lun=16384",
            "lun=16384: must be a number from 0 to 16383",
        ),
        (
            "device scsi-hd,drive=disk0,channel=1",
            "channel=1: must be 0",
        ),
        (
            "device scsi-hd,drive=disk0,bus=scsi1.0",
            "no bus is called \"scsi1.0\" (there are: scsi0.0)",
        ),
        (
            "device scsi-hd,drive=disk0,seriall=x",
            "scsi-hd has no property \"seriall\"; did you mean \"serial\"?",
        ),
        (
            "device virtio-scsi-pci,id=scsi0",
            "the device \"scsi0\" exists already; choose another name",
        ),
        (
            "device scsi-hd,drive=disk0,id=0disk",
            "\"0disk\" is not a good name: it must begin with a letter and go on with letters, digits, \"-\", \".\" or \"_\"",
        ),
        (
            "drive id=disk0,file=x",
            "the drive \"disk0\" exists already; choose another name",
        ),
        (
            "blockdev null-co,node-name=disk0",
            "the drive \"disk0\" exists already; choose another name",
        ),
        ("drive id=x", "file=PATH is missing"),
        ("drive file=x,if=ide", "if=ide: must be none or scsi"),
        (
            "drive file=x,format=vmdk",
            "format=vmdk: must be raw or qcow2",
        ),
        (
            "drive file=x,throttling.iops-total=5,throttling.iops-read=5",
            "throttling: iops-total cannot be used together with iops-read or iops-write",
        ),
        (
            "blockdev blkdebug,node-name=x,image=y,inject-error.0.errno=0",
            "blkdebug: a rule has an error, a latency, or both",
        ),
        (
            "blockdev blkdebug,node-name=x,image=y,inject-error.0.errno=5,inject-error.1.iotype=reed",
            "iotype=reed: must be any, read, write, flush, discard or write-zeroes",
        ),
        ("blockdev blkdebug,node-name=x", "file=NODE is missing"),
        (
            "drive file=x,rerror=enospc",
            "rerror=enospc: must be auto, report, ignore or stop",
        ),
        (
            "drive file=x.qcow2,offset=1M",
            "offset and size are for raw images; a qcow2 image is served whole",
        ),
        (
            "drive file=x.iso",
            "CD/DVD drives are not served yet; give format=raw and media=disk to serve the image as a disk",
        ),
        ("blockdev null-co", "node-name=NAME is missing"),
        ("blockdev file,node-name=x", "filename=PATH is missing"),
        ("blockdev memory,node-name=x", "size=BYTES is missing"),
        ("blockdev raw,node-name=x", "file=NODE is missing"),
        (
            "blockdev raw,node-name=x,file=nope",
            "no node is called \"nope\"; declare it first with --blockdev",
        ),
        (
            "blockdev vmdk,node-name=x,file=y",
            "no block driver is called \"vmdk\" (there are: file, host_device, raw, qcow2, null-co, memory, blkdebug, throttle)",
        ),
        (
            "blockdev qcow2,node-name=x,file.driver=memory,file.size=1M",
            "qcow2 needs a node of driver file or host_device; \"#block4\" is none",
        ),
        (
            "blockdev raw,node-name=x,file=y,file.driver=file",
            "file= names a node and file.* declares one; write only one of them",
        ),
        (
            "blockdev raw,node-name=x,file.driver=null-co,file.node-name=ro",
            "the drive \"ro\" exists already; choose another name",
        ),
        (
            "blockdev null-co,node-name=x,read-only",
            "at character 21: this property needs \"=\" and a value",
        ),
    ] {
        assert_eq!(extend(&[line]).unwrap_err().to_string(), message, "{line}");
    }
}

#[test]
fn clashes_between_devices_name_both() {
    for (first, second, message) in [
        (
            "device scsi-hd,drive=disk0,scsi-id=1,lun=2,id=first",
            "device scsi-hd,drive=disk1,scsi-id=1,lun=2",
            "target 1 LUN 2 of bus scsi0.0 is taken by first; choose another scsi-id or lun, or leave them out",
        ),
        (
            "device scsi-hd,drive=disk0,id=x",
            "device scsi-hd,drive=disk1,id=x",
            "the device \"x\" exists already; choose another name",
        ),
        (
            "device scsi-hd,drive=disk0,id=x",
            "device scsi-hd,drive=disk0",
            "\"disk0\" is in use by x; sharing it needs share-rw=on on every device, or a read-only image",
        ),
        (
            "device scsi-hd,drive=disk0,share-rw=on",
            "device scsi-hd,drive=disk0",
            "\"disk0\" is in use by disk0; sharing it needs share-rw=on on every device, or a read-only image",
        ),
        (
            "device scsi-hd,drive=disk0,share-rw=on,id=x",
            "device scsi-hd,drive=disk0,share-rw=on",
            "\"disk0\" is on bus scsi0.0 already, as x; a second path to a disk leads through another controller",
        ),
        (
            "device scsi-hd,drive=disk0,bootindex=1",
            "device scsi-hd,drive=disk1,bootindex=1",
            "bootindex 1 is taken by disk0; choose another",
        ),
        (
            "blockdev qcow2,node-name=q,file.driver=file,file.filename=a,file.node-name=f",
            "device scsi-hd,drive=f",
            "\"f\" is in use by node q; sharing it needs share-rw=on on every device, or a read-only image",
        ),
    ] {
        assert_eq!(
            extend(&[first, second]).unwrap_err().to_string(),
            message,
            "{second}"
        );
    }
}

#[test]
fn a_refused_declaration_changes_nothing() {
    let mut model = extend(&["device scsi-hd,drive=disk0,scsi-id=0"]).unwrap();
    let before = format!("{:?}", (&model.drives, &model.controllers, &model.nodes));
    for line in [
        "scsi-hd,drive=disk1,scsi-id=0,lun=0",
        "scsi-hd,drive=disk0",
        "scsi-hd,drive=disk1,bus=none",
    ] {
        let options = Options::parse(line, DEVICE).unwrap();
        model.add_device(options, line).unwrap_err();
    }
    let nested = "raw,node-name=x,file.driver=raw,file.file.driver=null-co,file.node-name=disk0";
    let options = Options::parse(nested, BLOCKDEV).unwrap();
    model.add_blockdev(options, nested).unwrap_err();
    assert_eq!(
        format!("{:?}", (&model.drives, &model.controllers, &model.nodes)),
        before
    );
}

/// `model` as text, without the counters of generated names, which only grow.
fn shown(model: &Model) -> String {
    let Model {
        nodes,
        drives,
        controllers,
        devices,
        ..
    } = model;
    format!("{:#?}", (nodes, drives, controllers, devices))
}

#[test]
fn what_is_removed_leaves_the_model_as_it_was_before() {
    let mut model = extend(&["device scsi-hd,drive=ro,id=kept"]).unwrap();
    let before = shown(&model);
    let add = |model: &mut Model, text: &str| {
        let options = Options::parse(text, DEVICE).unwrap();
        model.add_device(options, text)
    };
    for _ in 0..2 {
        let nested = "qcow2,node-name=q,file.driver=file,file.filename=q.qcow2";
        let options = Options::parse(nested, BLOCKDEV).unwrap();
        model.add_blockdev(options, nested).unwrap();
        let drive = Options::parse("id=d,file=d.qcow2,if=none", DRIVE).unwrap();
        model.add_drive(drive, "d").unwrap();
        let controller = add(&mut model, "virtio-scsi-pci,id=more").unwrap();
        assert_eq!(controller, Place::Controller("more.0".into()));
        assert_eq!(model.controller("more.0").unwrap().number, 2);
        for device in [
            "scsi-hd,drive=q,id=on-q,share-rw=on",
            "scsi-hd,drive=d,bus=more.0",
        ] {
            add(&mut model, device).unwrap();
        }
        let refused = model.remove_node("q").unwrap_err().to_string();
        assert_eq!(refused, "\"q\" is in use by on-q; remove that first");
        let Place::Disk { bus, address } = model.device("on-q").unwrap().clone() else {
            panic!("it is a disk");
        };
        let removed = model.remove_disk(&bus, address).unwrap();
        assert_eq!(removed.nodes.len(), 0, "it was declared by itself");
        assert!(!model.node("q").unwrap().options.share_rw);
        let first = Address { target: 0, lun: 0 };
        let removed = model.remove_disk("more.0", first).unwrap();
        let names: Vec<_> = removed
            .nodes
            .iter()
            .map(|node| node.driver.name())
            .collect();
        assert_eq!(names, ["qcow2", "file"]);
        assert!(model.remove_disk("more.0", first).is_none());
        model.remove_controller("more.0").unwrap();
        assert_eq!(model.remove_node("q").unwrap().len(), 2);
        assert_eq!(shown(&model), before);
    }
}

#[test]
fn a_part_of_something_else_is_not_removed_by_itself() {
    let mut model =
        extend(&["blockdev raw,node-name=r,file.driver=null-co,file.node-name=inner"]).unwrap();
    let of_drive = model.node_of("disk0").unwrap().name.clone();
    for (name, message) in [
        (
            "inner",
            "\"inner\" is in use by node r; remove that first".to_owned(),
        ),
        (
            &*of_drive,
            format!("{of_drive:?} belongs to the drive \"disk0\"; remove that instead"),
        ),
        ("none", "there is no node \"none\"".to_owned()),
    ] {
        assert_eq!(model.remove_node(name).unwrap_err().to_string(), message);
    }
}
