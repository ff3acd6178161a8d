//! READ, WRITE, SYNCHRONIZE CACHE, READ CAPACITY, VERIFY.

mod support;

use lunar_block::OpKind;
use lunar_devices::{DiskConfig, OnOffAuto};
use support::*;

const SIZE: usize = 64 << 10;

fn pattern(blocks: usize, seed: u8) -> Vec<u8> {
    (0..blocks * 512)
        .map(|i| (i / 512) as u8 ^ (i as u8) ^ seed)
        .collect()
}

#[test]
fn what_is_written_is_read_back_with_every_size_of_cdb() {
    on_disk(SIZE, DiskConfig::default(), |disk| async move {
        let writes: [&[u8]; 4] = [
            &[0x0A, 0, 0, 3, 2, 0],
            &[0x2A, 0, 0, 0, 0, 5, 0, 0, 2, 0],
            &[0xAA, 0, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0],
            &[0x8A, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0],
        ];
        for (i, cdb) in writes.iter().enumerate() {
            let data = pattern(2, i as u8);
            disk.tell(cdb, &data).await.good();
            let at = (3 + 2 * i) * 512;
            assert_eq!(disk.bytes()[at..at + 1024], data);
            let mut read = cdb.to_vec();
            read[0] -= 2;
            assert_eq!(disk.ask(&read, 1024).await.good(), data);
        }
    });
}
