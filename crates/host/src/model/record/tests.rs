use std::time::Duration;

use super::super::Address;
use super::*;
use crate::file::{self, File, Settings};
use crate::keyval::{BLOCKDEV, DEVICE, DRIVE, OBJECT};

fn declare(lines: &[&str]) -> Model {
    let mut model = Model::default();
    for line in lines {
        let (option, text) = line.split_once(' ').unwrap();
        match option {
            "drive" => {
                let options = Options::parse(text, DRIVE).unwrap();
                model.add_drive(options, line).unwrap();
            }
            "blockdev" => {
                let options = Options::parse(text, BLOCKDEV).unwrap();
                model.add_blockdev(options, line).unwrap();
            }
            "device" => {
                let options = Options::parse(text, DEVICE).unwrap();
                model.add_device(options, line).unwrap();
            }
            "object" => {
                let options = Options::parse(text, OBJECT).unwrap();
                model.add_object(options).unwrap();
            }
            "image" => model
                .add_image(text, model.controllers()[0].disks.len())
                .unwrap(),
            other => panic!("{other}"),
        }
    }
    model.add_automatic_disks().unwrap();
    model
}

fn text(model: &Model) -> String {
    let declarations = model.declarations();
    let objects = declarations.iter();
    file::write(
        &Settings::default(),
        objects.map(|object| (object.kind.table(), &object.options)),
    )
}

fn load(text: &str) -> Model {
    let file = File::parse("dump", text.to_owned()).unwrap();
    let mut model = Model::default();
    for one in file.objects() {
        model.add_object(one.options.clone()).expect(text);
    }
    for one in file.blockdevs() {
        model.add_blockdev(one.options.clone(), "").expect(text);
    }
    for one in file.drives() {
        model.add_drive(one.options.clone(), "").expect(text);
    }
    for one in file.devices() {
        model.add_device(one.options.clone(), "").expect(text);
    }
    model
}

/// All that matters of a model: not where it was declared, what unnamed nodes are called, or that an address was chosen.
fn essence(model: &Model) -> String {
    let mut model = model.clone();
    for node in model.nodes.values_mut() {
        node.origin.clear();
        node.record = Record::default();
    }
    for drive in model.drives.values_mut() {
        drive.origin.clear();
        drive.record = Record::default();
        drive.automatic = false;
    }
    for controller in &mut model.controllers {
        controller.record = Record::default();
        controller.options.socket = None;
        let bus = controller.bus.clone();
        for (address, disk) in &mut controller.disks {
            disk.record = Record::default();
            disk.origin.clear();
            disk.options.bus = Some(bus.clone());
            disk.options.target = Some(address.target.into());
            disk.options.lun = Some(address.lun);
        }
    }
    let Model {
        nodes,
        drives,
        controllers,
        ..
    } = model;
    format!("{nodes:#?}\n{drives:#?}\n{controllers:#?}")
}

const EVERYTHING: &[&str] = &[
    "device virtio-scsi-pci,id=scsi0,socket=/run/a,num_queues=3,addr=5",
    "device virtio-scsi,socket=/run/b,nohotplug",
    "blockdev file,node-name=z,filename=/z,,z.img,cache.direct=on",
    "blockdev qcow2,node-name=a,file=z,read-only=on",
    "blockdev raw,node-name=part,offset=1M,size=4K,file.driver=file,file.filename=/p.img,file.node-name=whole",
    "blockdev raw,node-name=other,file=whole",
    "blockdev blkdebug,node-name=bad,image.driver=null-co,inject-error.0.iotype=write,inject-error.0.once=on",
    "drive file=/d.img,cache=none,cache.writeback=off,id=d,throttling.iops-total=100",
    "drive file=/auto.qcow2",
    "image /i.img",
    "device scsi-hd,drive=bad,bus=scsi.0,share-rw,serial=0x1,wwn=0xffffffffffffffff,werror=enospc",
    "device scsi-hd,drive=bad,share-rw,serial=0x1,wwn=0xffffffffffffffff,werror=enospc,id=x",
    "device scsi-hd,drive=d,scsi-id=7,lun=100,bootindex=0",
    "device scsi-disk,drive=other,scsi-id=7",
];

#[test]
fn what_is_declared_again_is_the_same() {
    let model = declare(EVERYTHING);
    let written = text(&model);
    let again = load(&written);
    assert_eq!(essence(&model), essence(&again), "{written}");
    assert_eq!(text(&again), written);
}

#[test]
fn what_has_gone_changes_nothing_about_the_rest() {
    let mut model = declare(&[
        "device virtio-scsi-pci,socket=/run/a",
        "device virtio-scsi-pci,socket=/run/b",
        "image /gone.img",
        "drive file=/kept.img,if=none",
        "device scsi-hd,drive=disk1,bus=scsi.1",
    ]);
    let disk = |model: &Model| {
        let (controller, address, disk) = model.disks().next().unwrap();
        let port = disk.options.port_index.unwrap_or(controller.number);
        let initiator = controller.options.initiator.clone();
        let initiator = initiator.unwrap_or_else(|| controller.name().to_owned());
        (
            port,
            initiator,
            address,
            disk.options.config.clone(),
            disk.name.clone(),
        )
    };
    let first = Address { target: 0, lun: 0 };
    model.remove_disk("scsi.0", first).unwrap();
    model.remove_controller("scsi.0").unwrap();
    let before = disk(&model);
    assert_eq!((before.0, before.1.as_str()), (2, "scsi.1"));
    let again = load(&text(&model));
    assert_eq!(disk(&again), before);
    // And once more.
    assert_eq!(disk(&load(&text(&again))), before);
}

#[test]
fn addresses_stay_where_others_have_left() {
    let mut model = declare(&[
        "device virtio-scsi-pci,id=s,socket=/run/a",
        "image /a.img",
        "image /b.img",
    ]);
    model
        .remove_disk("s.0", Address { target: 0, lun: 0 })
        .unwrap();
    let again = load(&text(&model));
    let addresses: Vec<_> = again.disks().map(|(_, address, _)| address).collect();
    assert_eq!(addresses, [Address { target: 1, lun: 0 }]);
}

#[test]
fn a_node_outlives_what_it_was_declared_in() {
    let mut model = declare(EVERYTHING);
    // "other" uses the file that "part" is written around.
    model.remove_node("part").unwrap();
    let again = load(&text(&model));
    assert_eq!(
        again.node("whole").unwrap().driver,
        model.node("whole").unwrap().driver
    );
    assert_eq!(again.disks().count(), model.disks().count());
}

#[test]
fn paths_are_written_so_that_they_lead_there_from_anywhere() {
    let model = declare(&[
        "device virtio-scsi-pci,id=s,socket=run/a",
        "drive file=a.img,format=raw",
        "blockdev qcow2,node-name=n,file.driver=file,file.filename=b.img",
    ]);
    let here = std::env::current_dir().unwrap();
    let written = text(&model);
    for path in ["run/a", "a.img", "b.img"] {
        let path = here.join(path).display().to_string();
        assert!(written.contains(&format!("\"{path}\"")), "{written}");
    }
}

#[test]
fn a_thread_keeps_the_processors_as_they_were_written() {
    let mut model = declare(&["object iothread,id=io,cpus=node0"]);
    let declared = "[[object]]\nqom-type = \"iothread\"\nid = \"io\"\ncpus = \"node0\"\n";
    assert_eq!(text(&model), declared);

    model.set_poll("io", Duration::from_micros(7)).unwrap();
    assert_eq!(text(&model), format!("{declared}poll-max-ns = 7000\n"));
    let again = load(&text(&model));
    let [was, is] = [&model, &again].map(|model| model.iothread("io").unwrap());
    assert_eq!((was.poll, &was.cpus), (is.poll, &is.cpus));
}
