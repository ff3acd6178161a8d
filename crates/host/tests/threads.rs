//! Threads that serve the controllers that name them.
#![cfg(test)]

mod support;

use support::*;

/// How often a thread has gone to sleep.
fn sleeps(thread: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn a_controller_with_an_iothread_has_all_its_queues_there() {
    let place = Place::new(&[
        "object iothread,id=io,poll-max-ns=0",
        "device virtio-scsi-pci,id=scsi0,socket=@/s,num_queues=2,config=on,iothread=io",
        "blockdev null-co,node-name=n,size=1M",
        "device scsi-hd,drive=n,scsi-id=0",
    ]);
    let mut guest = place.guest("s");
    guest.attentions(0, 0);
    let threads = place.host.workers().threads();
    let counts = || {
        threads
            .iter()
            .map(|thread| sleeps(thread.id))
            .collect::<Vec<_>>()
    };
    let before = counts();
    for _ in 0..50 {
        guest.read(0, 0, 0);
    }
    let after = counts();
    assert_eq!(threads.len(), 3);
    assert_eq!(before[..2], after[..2], "workers that serve nobody");
    assert!(after[2] > before[2], "{before:?} {after:?}");
    assert!(place.host.configuration().contains("iothread = \"io\""));
    assert!(
        place
            .host
            .configuration()
            .contains("[[object]]\nqom-type = \"iothread\"\nid = \"io\"")
    );
}
