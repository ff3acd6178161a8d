//! One suite for every kind of image, every cache mode and two kinds of file system; and the proof that it notices.
#![cfg(test)]
#![allow(clippy::cast_possible_truncation, reason = "patterns are cut to bytes")]

mod support;

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use lunar_block::{
    DataHandle, DetectZeroes, Driver, Error, Image, Info, NodeOptions, Op, OpKind, Progress, Space,
    Stats, open_node,
};
use lunar_reactor::{Handle, Token};
use support::suite::conforms;
use support::{Reactor, disk_dir, open_file, open_qcow2, qcow2_file, raw_file, sh, str};

/// Neither a multiple of a cluster nor of a page.
const SIZE: u64 = (2 << 20) + 3 * 512;

fn reactors() -> [Reactor; 2] {
    [Reactor::new(), Reactor::new()]
}

/// The option sets that change what an operation becomes.
fn option_sets() -> Vec<NodeOptions> {
    let plain = NodeOptions::default();
    vec![
        plain.clone(),
        NodeOptions {
            discard_unmap: true,
            detect_zeroes: DetectZeroes::Unmap,
            ..plain.clone()
        },
        NodeOptions {
            no_flush: true,
            detect_zeroes: DetectZeroes::On,
            ..plain
        },
    ]
}

#[test]
fn memory_conforms() {
    for options in option_sets() {
        let image = open_node(Driver::Memory { size: SIZE }, &options).unwrap();
        conforms(&reactors(), &image, 30).unwrap();
    }
}

#[test]
fn memory_that_no_cache_holds_conforms() {
    let options = NodeOptions::default();
    let size = (32 << 20) + SIZE;
    let image = open_node(Driver::Memory { size }, &options).unwrap();
    conforms(&reactors(), &image, 3).unwrap();
}

fn files_conform_in(dir: &Path, direct: bool) {
    for options in option_sets() {
        let options = NodeOptions { direct, ..options };
        let path = raw_file(dir, "disk.raw", SIZE);
        let image = open_file(&path, &options).unwrap();
        let model = conforms(&reactors(), &image, 10).unwrap();
        if direct {
            assert!(image.stats().bounces > 0, "no odd buffer was bounced");
        }
        image.close().unwrap();
        assert!(
            std::fs::read(&path).unwrap() == model,
            "the file differs from the model"
        );
    }
}

#[test]
fn a_file_through_the_page_cache_conforms() {
    files_conform_in(disk_dir().path(), false);
}

#[test]
fn a_file_with_o_direct_conforms() {
    files_conform_in(disk_dir().path(), true);
}

#[test]
fn a_file_on_tmpfs_conforms_with_and_without_o_direct() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    files_conform_in(dir.path(), false);
    files_conform_in(dir.path(), true);
}

#[test]
fn a_part_of_a_file_conforms_and_leaves_the_rest_alone() {
    let dir = disk_dir();
    let path = dir.path().join("disk.raw");
    std::fs::write(&path, vec![0x77; usize::try_from(SIZE).unwrap() + 8192]).unwrap();
    for options in option_sets() {
        let file = open_file(&path, &options).unwrap();
        let raw = Driver::Raw {
            file,
            offset: 4096 + 512,
            size: Some(SIZE),
        };
        let image = open_node(raw, &options).unwrap();
        let model = conforms(&reactors(), &image, 10).unwrap();
        image.close().unwrap();
        let file = std::fs::read(&path).unwrap();
        assert!(file[..4608] == [0x77; 4608] && file[4608 + model.len()..] == [0x77; 8192 - 4608]);
        assert!(
            file[4608..4608 + model.len()] == model,
            "the part differs from the model"
        );
    }
}

/// Runs the suite on a qcow2 image, then lets QEMU's tools judge it.
fn qcow2_conforms(dir: &Path, create: &[&str], options: &NodeOptions) {
    let path = qcow2_file(dir, "disk.qcow2", SIZE, create);
    let image = open_qcow2(&path, options).unwrap();
    let model = conforms(&reactors(), &image, 10).unwrap();
    image.close().unwrap();
    drop(image);
    let twin = dir.join("twin.raw");
    std::fs::write(&twin, model).unwrap();
    sh("qemu-img", &["check", "-q", "-f", "qcow2", str(&path)]);
    sh(
        "qemu-img",
        &[
            "compare",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "raw",
            str(&path),
            str(&twin),
        ],
    );
}

#[test]
fn qcow2_conforms_and_qemu_finds_it_clean() {
    let dir = disk_dir();
    for options in option_sets() {
        qcow2_conforms(dir.path(), &[], &options);
    }
}

#[test]
fn qcow2_with_small_clusters_conforms() {
    let [plain, unmap, _] = option_sets().try_into().unwrap();
    qcow2_conforms(disk_dir().path(), &["-o", "cluster_size=512"], &plain);
    qcow2_conforms(disk_dir().path(), &["-o", "cluster_size=4096"], &unmap);
}

#[test]
fn qcow2_version_2_conforms() {
    for options in option_sets() {
        qcow2_conforms(disk_dir().path(), &["-o", "compat=0.10"], &options);
    }
}

#[test]
fn qcow2_with_o_direct_conforms() {
    let dir = disk_dir();
    for options in option_sets() {
        let options = NodeOptions {
            direct: true,
            ..options
        };
        qcow2_conforms(dir.path(), &[], &options);
    }
}

#[test]
fn qcow2_over_a_backing_chain_conforms_and_leaves_the_chain_untouched() {
    let dir = disk_dir();
    let base = dir.path().join("base.raw");
    let content: Vec<u8> = (0..1_000_000u32)
        .map(|i| (i / 512 % 253) as u8 + 1)
        .collect();
    std::fs::write(&base, &content).unwrap();
    let middle = qcow2_file(
        dir.path(),
        "middle.qcow2",
        SIZE,
        &["-b", "base.raw", "-F", "raw"],
    );
    let before = std::fs::read(&middle).unwrap();
    for options in option_sets() {
        qcow2_conforms(dir.path(), &["-b", "middle.qcow2", "-F", "qcow2"], &options);
    }
    assert!(
        std::fs::read(&base).unwrap() == content,
        "the base was changed"
    );
    assert!(
        std::fs::read(&middle).unwrap() == before,
        "the middle image was changed"
    );
}

/// What a false image gets wrong.
#[derive(Clone, Copy, Debug)]
enum Lie {
    LosesTheLastSector,
    KeepsDiscardedData,
    ZeroesOneSectorTooFew,
    ZeroesOneSectorTooMany,
    DropsTheSecondSegment,
    ForgetsFuaWrites,
    RefusesFlushes,
}

#[derive(Debug)]
struct Liar(Arc<dyn Image>, Lie);

struct LiarHandle(Rc<dyn DataHandle>, Lie, u64);

impl Image for Liar {
    fn info(&self) -> Info {
        self.0.info()
    }
    fn open(&self, reactor: &Handle) -> Result<Rc<dyn DataHandle>, Error> {
        Ok(Rc::new(LiarHandle(
            self.0.open(reactor)?,
            self.1,
            self.info().size,
        )))
    }
    fn stats(&self) -> Stats {
        self.0.stats()
    }
    fn space(&self) -> Option<Space> {
        self.0.space()
    }
    fn close(&self) -> Result<(), Error> {
        self.0.close()
    }
}

impl DataHandle for LiarHandle {
    fn start(&self, op: &mut Op, token: Token) -> Progress {
        let zeroing = matches!(op.kind, OpKind::WriteZeroes { .. });
        match self.1 {
            Lie::LosesTheLastSector
                if matches!(op.kind, OpKind::Write { .. })
                    && op.offset + op.len == self.2
                    && op.len == 512 =>
            {
                return Progress::Done(Ok(()));
            }
            Lie::KeepsDiscardedData if op.kind == OpKind::Discard => return Progress::Done(Ok(())),
            Lie::ZeroesOneSectorTooFew if zeroing => op.len -= 512,
            Lie::ZeroesOneSectorTooMany if zeroing && op.offset + op.len < self.2 => op.len += 512,
            Lie::DropsTheSecondSegment if op.kind == OpKind::Read && op.data.count() > 1 => {
                let first = op.data.segments()[0].iov_len;
                let result = self.0.start(op, token);
                op.data.fill_at(first, op.data.len() - first, 0xEE);
                return result;
            }
            Lie::ForgetsFuaWrites if op.kind == (OpKind::Write { fua: true }) => {
                return Progress::Done(Ok(()));
            }
            Lie::RefusesFlushes if op.kind == OpKind::Flush => {
                return Progress::Done(Err(Error::Unsupported));
            }
            _ => {}
        }
        self.0.start(op, token)
    }
    fn resume(&self, op: &mut Op, token: Token, result: i32) -> Progress {
        self.0.resume(op, token, result)
    }
}

#[test]
fn the_suite_notices_every_lie() {
    let options = NodeOptions {
        discard_unmap: true,
        ..NodeOptions::default()
    };
    for lie in [
        Lie::LosesTheLastSector,
        Lie::KeepsDiscardedData,
        Lie::ZeroesOneSectorTooFew,
        Lie::ZeroesOneSectorTooMany,
        Lie::DropsTheSecondSegment,
        Lie::ForgetsFuaWrites,
        Lie::RefusesFlushes,
    ] {
        let honest = open_node(Driver::Memory { size: SIZE }, &options).unwrap();
        let liar: Arc<dyn Image> = Arc::new(Liar(honest, lie));
        assert!(
            conforms(&reactors(), &liar, 10).is_err(),
            "{lie:?} went unnoticed"
        );
    }
}
