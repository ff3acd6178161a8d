//! Any byte stream from a front end, cut anywhere, with descriptors at any place: the session never panics, and what
//! it asks of the device always keeps the contract of `Device`.
//!
//! The first byte of each piece says how many descriptors come with it, of which kind, and where the piece is cut; so
//! the fuzzer can mutate messages and framing independently.
#![no_main]

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock};

use libfuzzer_sys::fuzz_target;
use lunar_vhost_user::{Device, DeviceResult, MessageReader, Options, Session};
use lunar_virtio_scsi::RingSetup;
use lunar_virtqueue::{GuestMemory, Region};

const QUEUES: usize = 5;

/// A device that checks its contract: which queues run, and which memory is in use.
#[derive(Debug, Default)]
struct Oracle {
    running: Mutex<[bool; QUEUES]>,
}

impl Oracle {
    fn assert_running(&self, index: usize) -> DeviceResult {
        assert!(
            self.running.lock().unwrap()[index],
            "queue {index} does not run"
        );
        Ok(())
    }
}

impl Device for Oracle {
    fn features(&self) -> u64 {
        1 << 32 | 1 << 29 | 1 << 28 | 0b0110
    }
    fn set_features(&self, acked: u64) -> DeviceResult {
        // Which bits do no harm though they were not offered is the device's to say; this one wants none.
        match acked & !self.features() {
            0 => Ok(()),
            _ => Err("not offered".into()),
        }
    }
    fn queue_count(&self) -> usize {
        QUEUES
    }
    fn read_config(&self, offset: usize, to: &mut [u8]) -> DeviceResult {
        match offset.checked_add(to.len()) {
            Some(end) if end <= 36 => Ok(()),
            _ => Err("outside".into()),
        }
    }
    fn write_config(&self, _: usize, _: &[u8]) -> DeviceResult {
        Ok(())
    }
    fn set_memory(&self, memory: Arc<GuestMemory>) -> DeviceResult {
        assert!(memory.regions().len() <= 509);
        Ok(())
    }
    fn start_queue(&self, index: usize, ring: RingSetup, _: bool) -> DeviceResult {
        assert!((1..=32768).contains(&ring.size));
        if ring.desc & 0xf != 0 {
            return Err("misaligned".into());
        }
        let was = std::mem::replace(&mut self.running.lock().unwrap()[index], true);
        assert!(!was, "queue {index} runs already");
        Ok(())
    }
    fn enable_queue(&self, index: usize, _: bool) -> DeviceResult {
        self.assert_running(index)
    }
    fn set_kick(&self, index: usize, _: Option<OwnedFd>) -> DeviceResult {
        self.assert_running(index)
    }
    fn set_call(&self, index: usize, _: Option<OwnedFd>) -> DeviceResult {
        self.assert_running(index)
    }
    fn set_err(&self, index: usize, _: Option<OwnedFd>) -> DeviceResult {
        self.assert_running(index)
    }
    fn stop_queue(&self, index: usize) -> DeviceResult<u32> {
        let was = std::mem::replace(&mut self.running.lock().unwrap()[index], false);
        assert!(was, "queue {index} does not run");
        Ok(7)
    }
    fn reset(&self) {
        *self.running.lock().unwrap() = [false; QUEUES];
    }
    fn disconnect(&self) {
        self.reset();
    }
}

/// Descriptors to pass along: a file of 64 KiB, and something that is no memory.
fn descriptors(kinds: u8) -> impl Iterator<Item = OwnedFd> {
    static FILES: OnceLock<[OwnedFd; 2]> = OnceLock::new();
    let files = FILES.get_or_init(|| {
        let memory = Region::allocate(0, 0x10000).unwrap().1;
        let null = std::fs::File::open("/dev/null").unwrap();
        [memory, null.into()]
    });
    let count = usize::from(kinds & 0x3);
    let file = &files[usize::from(kinds >> 2 & 1)];
    (0..count).map(|_| file.try_clone().unwrap())
}

fuzz_target!(|stream: &[u8]| {
    let device = Arc::new(Oracle::default());
    let mut session = Session::new(device.clone(), &Options { config: true });
    let mut reader = MessageReader::default();
    let mut rest = stream;
    while let Some((&how, after)) = rest.split_first() {
        let wanted = reader.wanted();
        assert!(wanted > 0 && wanted <= 4096);
        let cut = match how >> 3 {
            0 => wanted,
            n => wanted.min(usize::from(n)),
        };
        let (piece, after) = after.split_at(cut.min(after.len()));
        rest = after;
        match reader.feed(piece, descriptors(how)) {
            Err(_) => break,
            Ok(None) => {}
            Ok(Some(message)) => {
                let request = message.request;
                match session.handle(message) {
                    Err(_) => break,
                    Ok(None) => {}
                    Ok(Some(reply)) => assert_eq!(reply.request, request),
                }
            }
        }
    }
    drop(session);
    assert_eq!(*device.running.lock().unwrap(), [false; QUEUES]);
});
