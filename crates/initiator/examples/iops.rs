//! 4 KiB random reads per second from a vhost-user SCSI socket.
//!
//! `cargo run --release -p lunar-initiator --example iops -- SOCKET [TARGET [LUN [DEPTH [QUEUES [SECONDS]]]]]`
#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::time::Duration;

use lunar_initiator::{Address, Error, Initiator, Load, Options, Pattern, Waiting, load};
use lunar_scsi::Lun;

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u16| {
        let given = arguments.get(at).and_then(|a| a.parse().ok());
        given.unwrap_or(default)
    };
    let Some(socket) = arguments.first() else {
        println!("usage: iops SOCKET [TARGET [LUN [DEPTH [QUEUES [SECONDS]]]]]");
        return Ok(());
    };
    let target = u8::try_from(number(1, 0)).unwrap_or(0);
    let lun = Lun::new(number(2, 0)).unwrap_or(Lun::MAX);
    let (depth, queues) = (number(3, 32), number(4, 1));
    let options = Options {
        queues,
        depth,
        max_data: 4096,
        ..Options::default()
    };
    let mut initiator = Initiator::connect(socket, options)?;
    for waiting in [Waiting::Poll, Waiting::Sleep] {
        let wanted = Load {
            address: Address::new(target, lun),
            write: false,
            pattern: Pattern::Random,
            block_size: 4096,
            depth: depth.into(),
            queues: queues.into(),
            duration: Duration::from_secs(number(5, 5).into()),
            waiting,
        };
        let report = load(&mut initiator, &wanted)?;
        let latencies = &report.latencies;
        println!(
            "{waiting:?}: {:.0} IOPS, {} failed, latency p50 {:?} p99 {:?} p99.9 {:?} max {:?}",
            report.iops(),
            report.failed,
            latencies.percentile(50.0),
            latencies.percentile(99.0),
            latencies.percentile(99.9),
            latencies.max(),
        );
    }
    Ok(())
}
