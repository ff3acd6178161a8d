//! Images change their size under open data handles.
#![cfg(test)]
#![allow(clippy::cast_possible_truncation, reason = "patterns are cut to bytes")]

mod support;

use std::fs::OpenOptions;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use lunar_block::{DataHandle, Driver, Error, Image, NodeOptions, Op, open_node, run};
use lunar_reactor::Handle;
use support::{
    Memory, Reactor, disk_dir, open_file, open_qcow2, qcow2_file, raw_file, read_only, sh, str,
};

const MIB: u64 = 1 << 20;

async fn write(handle: &Handle, io: &Rc<dyn DataHandle>, offset: u64, byte: u8) {
    let memory = Memory::with(&[4096], 0, &[byte; 4096]);
    let op = Op::write(offset, memory.sgl(), false);
    run(handle, io, op).await.unwrap();
}

async fn read(handle: &Handle, io: &Rc<dyn DataHandle>, offset: u64) -> Vec<u8> {
    let memory = Memory::new(&[4096], 0);
    run(handle, io, Op::read(offset, memory.sgl()))
        .await
        .unwrap();
    memory.content()
}

/// From another thread, as resizing blocks.
fn resize(image: &Arc<dyn Image>, size: u64) {
    let image = Arc::clone(image);
    let resized = std::thread::spawn(move || image.resize(size)).join();
    resized.unwrap().unwrap();
}

/// 2 MiB become 5, then 1, under one data handle.
fn grows_and_shrinks(image: &Arc<dyn Image>) {
    let image = Arc::clone(image);
    Reactor::new().run(move |handle| async move {
        let io = image.open(&handle).unwrap();
        write(&handle, &io, 0, 7).await;
        write(&handle, &io, 2 * MIB - 4096, 8).await;
        resize(&image, 5 * MIB);
        assert_eq!(image.info().size, 5 * MIB);
        assert_eq!(read(&handle, &io, 5 * MIB - 4096).await, [0; 4096]);
        write(&handle, &io, 5 * MIB - 4096, 9).await;
        assert_eq!(read(&handle, &io, 5 * MIB - 4096).await, [9; 4096]);
        assert_eq!(read(&handle, &io, 2 * MIB - 4096).await, [8; 4096]);
        run(&handle, &io, Op::flush()).await.unwrap();
        resize(&image, MIB);
        assert_eq!(image.info().size, MIB);
        assert_eq!(read(&handle, &io, 0).await, [7; 4096]);
        resize(&image, 2 * MIB);
        // What was cut off does not come back.
        assert_eq!(read(&handle, &io, 2 * MIB - 4096).await, [0; 4096]);
    });
}

#[test]
fn a_file_ends_where_it_is_told_to() {
    let dir = disk_dir();
    let path = raw_file(dir.path(), "x.raw", 2 * MIB);
    let image = open_file(&path, &NodeOptions::default()).unwrap();
    grows_and_shrinks(&image);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 2 * MIB);
}

fn part(file: Arc<dyn Image>, offset: u64, size: Option<u64>) -> Arc<dyn Image> {
    let part = Driver::Raw { file, offset, size };
    open_node(part, &NodeOptions::default()).unwrap()
}

#[test]
fn the_rest_of_a_file_is_resized_with_the_file_and_a_fixed_part_is_not() {
    let dir = disk_dir();
    let path = raw_file(dir.path(), "x.raw", 3 * MIB);
    let file = open_file(&path, &NodeOptions::default()).unwrap();
    let rest = part(Arc::clone(&file), MIB, None);
    grows_and_shrinks(&rest);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 3 * MIB);
    assert_eq!(file.info().size, 3 * MIB);
    let fixed = part(file, 0, Some(MIB));
    assert!(matches!(fixed.resize(2 * MIB), Err(Error::Resize(_))));
    assert_eq!(fixed.info().size, MIB);
    assert!(rest.resize(u64::MAX / 512 * 512).is_err());
    assert_eq!(rest.info().size, 2 * MIB);
}

fn check(path: &Path, size: u64) {
    sh("qemu-img", &["check", str(path)]);
    let info = sh("qemu-img", &["info", str(path)]);
    assert!(info.contains(&format!("({size} bytes)")), "{info}");
}

#[test]
fn a_qcow2_image_is_resized_as_its_format_wants_it() {
    let dir = disk_dir();
    let path = qcow2_file(dir.path(), "x.qcow2", 2 * MIB, &[]);
    let image = open_qcow2(&path, &NodeOptions::default()).unwrap();
    grows_and_shrinks(&image);
    let most = (32 << 20) / 8 * (65536 / 8) * 65536;
    assert!(matches!(image.resize(most + 512), Err(Error::Resize(_))));
    // More than the first table had room for.
    image.resize(100 << 30).unwrap();
    image.close().unwrap();
    drop(image);
    check(&path, 100 << 30);
}

#[test]
fn a_longer_backing_file_does_not_show_through_the_new_end() {
    let dir = disk_dir();
    let base = dir.path().join("base.raw");
    std::fs::write(&base, vec![0x55; (4 * MIB) as usize]).unwrap();
    let path = qcow2_file(dir.path(), "x.qcow2", MIB, &["-b", str(&base), "-F", "raw"]);
    let image = open_qcow2(&path, &NodeOptions::default()).unwrap();
    let shared = Arc::clone(&image);
    Reactor::new().run(move |handle| async move {
        let io = shared.open(&handle).unwrap();
        assert_eq!(read(&handle, &io, MIB - 4096).await, [0x55; 4096]);
        resize(&shared, 8 * MIB);
        for offset in [MIB, 4 * MIB - 4096, 4 * MIB, 8 * MIB - 4096] {
            assert_eq!(read(&handle, &io, offset).await, [0; 4096], "{offset}");
        }
        assert_eq!(read(&handle, &io, MIB - 4096).await, [0x55; 4096]);
    });
    image.close().unwrap();
    check(&path, 8 * MIB);
}

#[test]
fn what_is_read_only_or_in_memory_keeps_its_size() {
    let dir = disk_dir();
    let path = raw_file(dir.path(), "x.raw", MIB);
    let image = open_file(&path, &read_only()).unwrap();
    assert!(matches!(image.resize(2 * MIB), Err(Error::Resize(_))));
    let memory = Driver::Memory { size: MIB };
    let memory = open_node(memory, &NodeOptions::default()).unwrap();
    assert!(matches!(memory.resize(2 * MIB), Err(Error::Resize(_))));
    assert_eq!((image.info().size, memory.info().size), (MIB, MIB));
}

#[test]
fn growth_by_others_is_found_and_shrinking_by_others_is_not_taken_over() {
    let dir = disk_dir();
    let path = raw_file(dir.path(), "x.raw", MIB);
    let file = open_file(&path, &NodeOptions::default()).unwrap();
    let rest = part(Arc::clone(&file), 512, None);
    let other = OpenOptions::new().write(true).open(&path).unwrap();
    other.set_len(3 * MIB).unwrap();
    assert_eq!(rest.info().size, MIB - 512);
    rest.refresh().unwrap();
    assert_eq!(
        (file.info().size, rest.info().size),
        (3 * MIB, 3 * MIB - 512)
    );
    other.set_len(2 * MIB).unwrap();
    rest.refresh().unwrap();
    assert_eq!(
        (file.info().size, rest.info().size),
        (3 * MIB, 3 * MIB - 512)
    );
}
