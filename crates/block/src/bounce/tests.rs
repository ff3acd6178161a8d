//! A medium whose blocks are longer than those of the operations, under several reactors at once.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and its numbers are small"
)]

use std::future::Future;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use lunar_reactor::Handle;

use crate::host::tests::REQUEST_ALIGN;
use crate::reactor::Reactor;
use crate::{
    Buffer, DataHandle, Driver, Image, NodeOptions, Op, OpKind, open_node, run, run_owned,
};

const SECTOR: u64 = 512;
/// Of a block of the medium.
const SECTORS: u64 = 8;
/// Of the part of the image that is written to: few, so that operations meet.
const BLOCKS: u64 = 4;

/// Between the reading of a block and the writing of it time passes, in which everything can happen.
pub(super) async fn dawdle(reactor: &Handle) {
    reactor.sleep(Duration::from_micros(100)).await;
}

/// Runs as many tasks on each of two reactors until all are over, and returns what they return. They are numbered.
fn on_two_reactors<T: Send + 'static, F: Future<Output = T> + 'static>(
    image: &Arc<dyn Image>,
    tasks: u64,
    task: impl Fn(Handle, Rc<dyn DataHandle>, u64) -> F + Clone + Send + 'static,
) -> Vec<T> {
    let reactors = [Reactor::new(), Reactor::new()];
    let (results, all) = mpsc::channel();
    let together = Arc::new(Barrier::new(2));
    for (n, reactor) in (0..).zip(&reactors) {
        let (image, task, results) = (Arc::clone(image), task.clone(), results.clone());
        let together = Arc::clone(&together);
        reactor.send(move |handle| {
            let io = image.open(handle).unwrap();
            together.wait();
            for i in 0..tasks {
                let (work, results) = (
                    task(handle.clone(), Rc::clone(&io), n * tasks + i),
                    results.clone(),
                );
                handle.spawn(async move {
                    let _ = results.send(work.await);
                });
            }
        });
    }
    let patience = Duration::from_secs(60);
    let all = (0..2 * tasks)
        .map(|_| all.recv_timeout(patience).unwrap())
        .collect();
    assert!(reactors.into_iter().all(Reactor::stop));
    all
}

/// Repeatable randomness.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Fills sectors with a number that no other operation writes; zero is written as zeroes, or discarded.
async fn fill(
    handle: &Handle,
    io: &Rc<dyn DataHandle>,
    sectors: &Range<u64>,
    number: u64,
    discard: bool,
) {
    let (offset, len) = (
        sectors.start * SECTOR,
        (sectors.end - sectors.start) * SECTOR,
    );
    let done = match number {
        0 if discard => run(handle, io, Op::discard(offset, len)).await,
        0 => run(handle, io, Op::write_zeroes(offset, len, true, false)).await,
        _ => {
            let mut buffer = Buffer::new(len as usize);
            for bytes in buffer.chunks_mut(8) {
                bytes.copy_from_slice(&number.to_le_bytes());
            }
            let kind = OpKind::Write { fua: false };
            run_owned(handle, io, kind, offset, len as usize, buffer)
                .await
                .0
        }
    };
    done.unwrap();
}

/// What each of these sectors was filled with.
async fn read(handle: &Handle, io: &Rc<dyn DataHandle>, sectors: Range<u64>) -> Vec<u64> {
    let len = ((sectors.end - sectors.start) * SECTOR) as usize;
    let offset = sectors.start * SECTOR;
    let (kind, buffer) = (OpKind::Read, Buffer::new(len));
    let (done, buffer) = run_owned(handle, io, kind, offset, len, buffer).await;
    done.unwrap();
    let whole = |sector: &[u8]| {
        let first = &sector[..8];
        assert!(sector.chunks(8).all(|part| part == first), "torn");
        u64::from_le_bytes(first.try_into().unwrap())
    };
    buffer.chunks(SECTOR as usize).map(whole).collect()
}

/// What is in the image.
fn content(image: &Arc<dyn Image>) -> Vec<u64> {
    let contents = on_two_reactors(image, 1, |handle, io, _| async move {
        read(&handle, &io, 0..BLOCKS * SECTORS).await
    });
    assert!(contents[0] == contents[1]);
    contents[0].clone()
}

/// Every task writes to sectors of its own, one in each block, and knows what is in them.
fn nobody_disturbs_others(image: &Arc<dyn Image>) {
    let disturbed = on_two_reactors(image, SECTORS / 2, |handle, io, own| async move {
        let mut random = Random(own + 1);
        let mut known = [0; BLOCKS as usize];
        for number in 1..200 {
            let block = random.below(BLOCKS);
            let sector = block * SECTORS + own;
            let (sectors, known) = (sector..sector + 1, &mut known[block as usize]);
            let found = read(&handle, &io, sectors.clone()).await[0];
            if found != *known {
                return Some(format!("sector {sector} has {found}, not {known}"));
            }
            *known = number * u64::from(random.below(3) > 0);
            fill(&handle, &io, &sectors, *known, random.below(2) > 0).await;
        }
        None
    });
    let disturbed: Vec<String> = disturbed.into_iter().flatten().collect();
    assert!(disturbed.is_empty(), "{disturbed:?}");
}

/// What a task has written, and when: nobody else's clock shows the same.
struct Written {
    begun: u64,
    ended: u64,
    sectors: Range<u64>,
    number: u64,
}

/// Tasks write anywhere. What is in a sector at the end is what somebody has written who did not end before another began.
fn no_write_is_lost(image: &Arc<dyn Image>, seed: u64) {
    let clock = Arc::new(AtomicU64::new(1));
    let written = on_two_reactors(image, 4, move |handle, io, task| {
        let (clock, mut random) = (
            Arc::clone(&clock),
            Random(seed.wrapping_mul(31) + task * 7 + 1),
        );
        async move {
            let mut written = Vec::new();
            for _ in 0..40 {
                let unit = if random.below(2) > 0 { SECTORS } else { 1 };
                let units = BLOCKS * SECTORS / unit;
                let first = random.below(units);
                let count = 1 + random.below((units - first).min(2 * SECTORS / unit));
                let sectors = first * unit..(first + count) * unit;
                let begun = clock.fetch_add(1, Ordering::SeqCst);
                let number = begun * u64::from(random.below(4) > 0);
                fill(&handle, &io, &sectors, number, random.below(2) > 0).await;
                written.push(Written {
                    begun,
                    ended: clock.fetch_add(1, Ordering::SeqCst),
                    sectors,
                    number,
                });
            }
            written
        }
    });
    for (sector, found) in (0..).zip(content(image)) {
        let writes: Vec<&Written> = written
            .iter()
            .flatten()
            .filter(|w| w.sectors.contains(&sector))
            .collect();
        let last_begun = writes.iter().map(|w| w.begun).max().unwrap_or(0);
        let mut possible: Vec<u64> = writes
            .iter()
            .filter(|w| w.ended > last_begun)
            .map(|w| w.number)
            .collect();
        if writes.is_empty() {
            possible.push(0);
        }
        assert!(
            possible.contains(&found),
            "sector {sector} has {found}, and not one of {possible:?}"
        );
    }
}

/// Opens an image in a file whose medium has long blocks, tests it, and closes it.
fn with_long_blocks(open: impl Fn(&Path) -> Arc<dyn Image>, test: impl FnOnce(&Arc<dyn Image>)) {
    let dir = tempfile::tempdir().unwrap();
    REQUEST_ALIGN.set(Some((SECTORS * SECTOR) as u32));
    let image = open(dir.path());
    assert_eq!(image.info().request_align, 4096);
    test(&image);
    image.close().unwrap();
    REQUEST_ALIGN.set(None);
}

fn options() -> NodeOptions {
    NodeOptions {
        discard_unmap: true,
        ..NodeOptions::default()
    }
}

fn file(dir: &Path) -> Arc<dyn Image> {
    let filename = dir.join("disk.raw");
    let file = std::fs::File::create(&filename).unwrap();
    file.set_len(1 << 20).unwrap();
    open_node(Driver::File { filename }, &options()).unwrap()
}

fn qcow2(dir: &Path) -> Arc<dyn Image> {
    let file = dir.join("disk.qcow2");
    let mut create = std::process::Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k"]);
    let created = create.arg(&file).arg("1M").status();
    assert!(created.unwrap().success(), "qemu-img is needed");
    open_node(Driver::Qcow2 { file }, &options()).unwrap()
}

#[test]
fn writers_of_parts_of_a_block_do_not_disturb_each_other_in_a_file() {
    with_long_blocks(file, nobody_disturbs_others);
}

#[test]
fn writers_of_parts_of_a_block_do_not_disturb_each_other_in_qcow2() {
    with_long_blocks(qcow2, nobody_disturbs_others);
}

#[test]
fn whole_writes_are_not_lost_to_parts_in_a_file() {
    for seed in 0..20 {
        with_long_blocks(file, |image| no_write_is_lost(image, seed));
    }
}

#[test]
fn whole_writes_are_not_lost_to_parts_in_qcow2() {
    for seed in 0..10 {
        with_long_blocks(qcow2, |image| no_write_is_lost(image, seed));
    }
}
