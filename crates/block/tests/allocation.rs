//! An image knows where it has data, and how much space that takes.
#![cfg(test)]
#![allow(clippy::cast_possible_truncation, reason = "patterns are cut to bytes")]

mod support;

use std::rc::Rc;
use std::sync::Arc;

use lunar_block::{DataHandle, Driver, Image, NodeOptions, Op, open_node, run};
use support::{Memory, Reactor, disk_dir, open_file, open_qcow2, qcow2_file, raw_file};

/// A multiple of every granularity in these tests.
const UNIT: u64 = 64 << 10;
const SIZE: u64 = 16 * UNIT;

fn options() -> NodeOptions {
    NodeOptions {
        discard_unmap: true,
        ..NodeOptions::default()
    }
}

/// The map of an image from `offset` on: how many units are data, hole, data, and so on.
async fn map(io: &Rc<dyn DataHandle>, mut offset: u64, end: u64) -> Vec<(bool, u64)> {
    let mut found: Vec<(bool, u64)> = Vec::new();
    while offset < end {
        let answer = io.allocation(offset, end - offset).await.unwrap();
        assert!((1..=end - offset).contains(&answer.len), "{answer:?}");
        match found.last_mut() {
            Some((allocated, len)) if *allocated == answer.allocated => *len += answer.len,
            _ => found.push((answer.allocated, answer.len)),
        }
        offset += answer.len;
    }
    found
        .iter()
        .map(|&(data, len)| (data, len / UNIT))
        .collect()
}

/// Two units are written into an empty image, and one of them is discarded.
fn follows_writes_and_discards(image: &Arc<dyn Image>) {
    let image = Arc::clone(image);
    Reactor::new().run(move |handle| async move {
        let io = image.open(&handle).unwrap();
        assert_eq!(map(&io, 0, SIZE).await, [(false, 16)]);
        let len = usize::try_from(2 * UNIT).unwrap();
        let memory = Memory::with(&[len], 0, &vec![7; len]);
        let write = Op::write(3 * UNIT, memory.sgl(), false);
        run(&handle, &io, write).await.unwrap();
        // A file system may keep what is not written out yet to itself.
        run(&handle, &io, Op::flush()).await.unwrap();
        let written = [(false, 3), (true, 2), (false, 11)];
        assert_eq!(map(&io, 0, SIZE).await, written);
        assert_eq!(map(&io, 4 * UNIT, 6 * UNIT).await, [(true, 1), (false, 1)]);
        run(&handle, &io, Op::discard(3 * UNIT, UNIT))
            .await
            .unwrap();
        let discarded = [(false, 4), (true, 1), (false, 11)];
        assert_eq!(map(&io, 0, SIZE).await, discarded);
    });
}

#[test]
fn memory_knows_its_pages() {
    let image = open_node(Driver::Memory { size: SIZE }, &options()).unwrap();
    follows_writes_and_discards(&image);
}

#[test]
fn a_file_knows_its_holes() {
    let dir = disk_dir();
    let path = raw_file(dir.path(), "disk.raw", SIZE);
    let image = open_file(&path, &options()).unwrap();
    follows_writes_and_discards(&image);
    image.close().unwrap();
}

#[test]
fn a_part_of_a_file_knows_the_holes_in_it() {
    let dir = disk_dir();
    let path = raw_file(dir.path(), "disk.raw", SIZE + 4 * UNIT);
    let file = open_file(&path, &options()).unwrap();
    let part = Driver::Raw {
        file: Arc::clone(&file),
        offset: 2 * UNIT,
        size: Some(SIZE),
    };
    let image = open_node(part, &options()).unwrap();
    follows_writes_and_discards(&image);
    image.close().unwrap();
}

#[test]
fn qcow2_knows_its_clusters() {
    let dir = disk_dir();
    let path = qcow2_file(dir.path(), "disk.qcow2", SIZE, &[]);
    let image = open_qcow2(&path, &options()).unwrap();
    follows_writes_and_discards(&image);
    image.close().unwrap();
}

#[test]
fn an_image_that_does_not_know_has_data_everywhere() {
    let null = Driver::Null {
        size: SIZE,
        read_zeroes: true,
        latency_ns: 0,
    };
    let image = open_node(null, &options()).unwrap();
    Reactor::new().run(move |handle| async move {
        let io = image.open(&handle).unwrap();
        assert_eq!(map(&io, 0, SIZE).await, [(true, 16)]);
    });
}

/// What an image takes: empty, with eight units written, and after they were discarded.
fn used(image: &Arc<dyn Image>) -> [u64; 3] {
    let image = Arc::clone(image);
    Reactor::new().run(move |handle| async move {
        let io = image.open(&handle).unwrap();
        let used = async || {
            // A file system may take the space when it writes out.
            run(&handle, &io, Op::flush()).await.unwrap();
            let space = image.space().expect("files know their space");
            assert!(space.available > 0);
            space.used
        };
        let empty = used().await;
        let len = usize::try_from(8 * UNIT).unwrap();
        let memory = Memory::with(&[len], 0, &vec![7; len]);
        let write = Op::write(3 * UNIT, memory.sgl(), false);
        run(&handle, &io, write).await.unwrap();
        let written = used().await;
        let discard = Op::discard(3 * UNIT, 8 * UNIT);
        run(&handle, &io, discard).await.unwrap();
        [empty, written, used().await]
    })
}

#[test]
fn a_file_takes_the_space_of_what_is_written_to_it() {
    let dir = disk_dir();
    let path = raw_file(dir.path(), "disk.raw", SIZE);
    let file = open_file(&path, &options()).unwrap();
    let [empty, written, discarded] = used(&file);
    assert!(written >= empty + 8 * UNIT);
    assert!(discarded < empty + UNIT);
    let raw = |offset, size| {
        let file = Arc::clone(&file);
        open_node(Driver::Raw { file, offset, size }, &options()).unwrap()
    };
    assert_eq!(raw(0, None).space().unwrap().used, discarded);
    assert_eq!(raw(UNIT, None).space(), None, "of a part nobody knows");
}

#[test]
fn a_qcow2_file_takes_the_space_of_what_is_written_to_it() {
    let dir = disk_dir();
    let path = qcow2_file(dir.path(), "disk.qcow2", SIZE, &[]);
    let [empty, written, _] = used(&open_qcow2(&path, &options()).unwrap());
    assert!(written >= empty + 8 * UNIT);
}

#[test]
fn memory_has_no_space_of_its_own() {
    let image = open_node(Driver::Memory { size: SIZE }, &options()).unwrap();
    assert_eq!(image.space(), None);
}
