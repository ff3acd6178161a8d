//! Rings of both formats, full of anything, seen from both sides. The device must end, hold no more chains than the ring has entries, and
//! give nothing but guest memory; the driver must end as well.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use lunar_virtqueue::{
    AddressSpace, Buffer, Chain, DriverQueue, GuestMemory, PACKED_BASE, Queue, Region,
    RingFeatures, RingLayout,
};

/// Two adjacent regions, so that buffers and tables can cross from one to the other, and one by itself.
const REGIONS: [(u64, u64); 3] = [(0, 0x1000), (0x1000, 0x1000), (0x8000, 0x1000)];
/// The input is laid over guest memory from here on: first the ring, then whatever it points to.
const RING: u64 = 0;

thread_local! {
    static MEMORY: Arc<GuestMemory> = Arc::new(
        GuestMemory::new(REGIONS.map(|(gpa, size)| Arc::new(Region::allocate(gpa, size).unwrap().0)))
            .unwrap(),
    );
}

fuzz_target!(|input: (u8, bool, bool, Option<u32>, u16, Vec<u8>)| {
    let (order, indirect, event_idx, packed_base, split_base, bytes) = input;
    let packed = packed_base.is_some();
    let size = match packed {
        false => 1u16 << (order % 7),
        true => u16::from(order % 64) + 1,
    };
    let base = packed_base.unwrap_or(split_base.into());
    let n = u64::from(size);
    let avail = RING + 16 * n;
    let used = (avail + 6 + 2 * n).next_multiple_of(4);
    let layout = RingLayout {
        size,
        desc: RING,
        avail,
        used,
        space: AddressSpace::Guest,
    };
    let features = RingFeatures {
        indirect,
        event_idx,
        packed,
    };
    let memory = MEMORY.with(Arc::clone);
    for (gpa, size) in REGIONS {
        memory.write(gpa, &vec![0; size as usize]).unwrap();
    }
    let len = bytes.len().min(0x2000);
    memory.write(RING, &bytes[..len]).unwrap();

    // Only a packed ring has bases that are refused; most of what is not refused is its beginning.
    let Ok(mut queue) = Queue::new(&memory, layout, features, base)
        .or_else(|_| Queue::new(&memory, layout, features, PACKED_BASE))
    else {
        panic!("a ring in memory is refused");
    };
    let mut held = Vec::new();
    for round in 0..4 {
        let mut chain = Chain::new();
        while let Ok(true) = queue.pop(&mut chain) {
            for side in [&chain.readable, &chain.writable] {
                // SAFETY: the list is dropped before the chain is touched again; `memory` stays.
                for s in unsafe { side.sgl() }.segments() {
                    let host = s.iov_base as u64;
                    assert!(memory.regions().iter().any(|r| {
                        let offset = host.wrapping_sub(r.user_addr());
                        offset < r.size() && s.iov_len as u64 <= r.size() - offset
                    }));
                }
            }
            held.push(std::mem::take(&mut chain));
            assert!(held.len() <= usize::from(size));
        }
        assert_eq!(usize::from(queue.in_flight()), held.len());
        for chain in held.drain(round.min(held.len())..) {
            queue.push(&chain, 1);
        }
        let _ = queue.publish();
        if !queue.enable_notifications() {
            break;
        }
    }

    let mut driver = DriverQueue::new(&memory, layout, features).unwrap();
    for addr in [0x800, 0x900, 0x8000] {
        let _ = driver.add(&[Buffer { addr, len: 16 }], &[]);
    }
    let _ = driver.publish();
    // The device's ring is anything again; in a packed one it is the driver's as well.
    let at = if packed { RING } else { used };
    let from = (at - RING) as usize;
    memory
        .write(at, bytes.get(from..len).unwrap_or_default())
        .unwrap();
    let mut reaped = 0;
    while let Ok(Some(_)) = driver.reap() {
        reaped += 1;
    }
    assert!(reaped <= 3);
});
