//! Interrupts are held back as a controller says, and none is lost.
#![cfg(test)]

mod support;

use std::time::Duration;

use lunar_initiator::{Access, Limit, Load, Waiting};
use support::*;

#[test]
fn a_controller_holds_its_interrupts_back_as_it_was_declared_and_then_as_it_is_told() {
    let place = Place::new(&[
        "device virtio-scsi-pci,id=scsi0,socket=@/s,num_queues=1,coalesce-us=500,coalesce-max=64",
        "blockdev null-co,node-name=n,size=1M",
        "device scsi-hd,drive=n",
    ]);
    let mut guest = place.guest("s");
    guest.attentions(0, 0);
    // The guest learns of what is done by interrupts alone, so one that is lost would end this.
    let load = Load {
        disks: vec![address(0, 0)],
        access: Access::RandomRead,
        block_size: 4096,
        depth: 32,
        queues: 1,
        limit: Limit::Count(20_000),
        ramp: Duration::ZERO,
        waiting: Waiting::Sleep,
        seed: 1,
    };
    let mut held = || {
        let counted = || {
            let threads = place.host.workers().threads().into_iter();
            threads.map(|thread| thread.stats.held).sum::<u64>()
        };
        let before = counted();
        let report = guest.0.load(&load, &mut |_| {}).unwrap();
        assert_eq!(report.completed(), 20_000, "{report:?}");
        counted() - before
    };
    assert!(held() > 0);
    let tell = |value| place.host.change_controller("scsi0", "coalesce-us", value);
    tell("0").unwrap();
    assert_eq!(held(), 0);
    tell("50").unwrap();
    assert!(held() > 0);
    let refused = tell("10001").unwrap_err().line();
    assert_eq!(
        refused,
        "coalesce-us=10001: must be a number from 0 to 10000"
    );
    assert!(held() > 0);
}
