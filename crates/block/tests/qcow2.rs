//! The two ways to a qcow2 image, at once: what goes straight to clusters never meets one that belongs to somebody else.
#![cfg(test)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "patterns are cut to bytes"
)]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lunar_block::{DataHandle, Error, Image, NodeOptions, Op, OpKind, run};
use lunar_reactor::Handle;
use lunar_sgl::Sgl;
use support::{Memory, Reactor, disk_dir, open_qcow2, qcow2_file, sh, str};
use tokio::sync::Semaphore;

const K64: u64 = 65536;

fn unmap() -> NodeOptions {
    NodeOptions {
        discard_unmap: true,
        ..NodeOptions::default()
    }
}

async fn write(handle: &Handle, io: &Rc<dyn DataHandle>, offset: u64, content: &[u8], fua: bool) {
    let memory = Memory::with(&[content.len()], 0, content);
    let op = Op::write(offset, memory.sgl(), fua);
    run(handle, io, op).await.unwrap();
}

async fn read(handle: &Handle, io: &Rc<dyn DataHandle>, offset: u64, len: usize) -> Vec<u8> {
    let memory = Memory::new(&[len], 0);
    let op = Op::read(offset, memory.sgl());
    run(handle, io, op).await.unwrap();
    memory.content()
}

/// Runs `steps` with the image, and says how many operations went straight.
macro_rules! straight {
    ($image:expr, $steps:expr) => {{
        let before = $image.stats().straight;
        $steps;
        $image.stats().straight - before
    }};
}

#[test]
fn what_is_allocated_is_read_and_written_straight_and_nothing_else() {
    let dir = disk_dir();
    let path = qcow2_file(dir.path(), "x.qcow2", 16 * K64, &[]);
    let image = open_qcow2(&path, &unmap()).unwrap();
    Reactor::new().run(move |handle| async move {
        let io = image.open(&handle).unwrap();
        let (h, io) = (&handle, &io);
        let n = straight!(image, {
            read(h, io, 0, 512).await;
            write(h, io, 0, &[1; 4096], false).await;
        });
        assert_eq!(n, 0, "it was not allocated");
        let n = straight!(image, {
            assert_eq!(read(h, io, 0, 4096).await, [1; 4096]);
            write(h, io, 8192, &[2; 512], false).await;
            assert_eq!(read(h, io, 8192, 1024).await[..512], [2; 512]);
            assert_eq!(read(h, io, K64 - 512, 512).await, [0; 512]);
        });
        assert_eq!(n, 4);
        assert!(image.stats().map_memory > 0);

        // The new cluster's place is in memory only.
        let n = straight!(image, write(h, io, 0, &[3; 512], true).await);
        assert_eq!(n, 0, "durable, but not findable");
        let n = straight!(image, {
            write(h, io, 0, &[4; 512], true).await;
            run(h, io, Op::flush()).await.unwrap();
        });
        assert_eq!(n, 2);

        // What reaches into a cluster that is not allocated.
        assert_eq!(
            straight!(image, read(h, io, 0, K64 as usize + 512).await),
            0
        );
        for zero in [
            Op::discard(0, K64),
            Op::write_zeroes(0, K64, false, false),
            Op::write_zeroes(512, 512, false, false),
        ] {
            write(h, io, 0, &[5; 4096], false).await;
            assert_eq!(straight!(image, read(h, io, 0, 4096).await), 1, "{zero:?}");
            assert_eq!(straight!(image, run(h, io, zero).await.unwrap()), 0);
            assert_eq!(straight!(image, read(h, io, 0, 512).await), 0, "{zero:?}");
        }
        assert_eq!(image.stats().errors, 0);
    });
}

#[test]
fn all_of_an_image_that_is_allocated_is_learnt_as_it_is_read() {
    let dir = disk_dir();
    let path = qcow2_file(
        dir.path(),
        "x.qcow2",
        256 * K64,
        &["-o", "preallocation=full"],
    );
    let image = open_qcow2(&path, &NodeOptions::default()).unwrap();
    Reactor::new().run(move |handle| async move {
        let io = image.open(&handle).unwrap();
        let n = straight!(image, {
            for cluster in 0..256 {
                read(&handle, &io, cluster * K64, 512).await;
            }
        });
        assert_eq!(n, 252, "one in 64 makes the detour");
    });
}

#[test]
fn clusters_that_others_refer_to_are_not_written_straight() {
    let dir = disk_dir();
    let path = qcow2_file(dir.path(), "x.qcow2", 16 * K64, &[]);
    sh(
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 7 0 1M", str(&path)],
    );
    sh("qemu-img", &["snapshot", "-c", "before", str(&path)]);
    let image = open_qcow2(&path, &NodeOptions::default()).unwrap();
    let i = Arc::clone(&image);
    Reactor::new().run(move |handle| async move {
        let io = i.open(&handle).unwrap();
        let n = straight!(i, {
            assert_eq!(read(&handle, &io, 0, 4096).await, [7; 4096]);
            assert_eq!(read(&handle, &io, 0, 4096).await, [7; 4096]);
            write(&handle, &io, 0, &[8; 512], false).await;
        });
        assert_eq!(n, 0);
        let n = straight!(i, {
            write(&handle, &io, 512, &[9; 512], false).await;
            assert_eq!(read(&handle, &io, 1024, 512).await, [7; 512]);
        });
        assert_eq!(n, 2, "the copy is ours alone");
    });
    image.close().unwrap();
    drop(image);
    sh("qemu-img", &["check", "-q", str(&path)]);
    sh("qemu-img", &["snapshot", "-a", "before", str(&path)]);
    sh(
        "qemu-io",
        &["-f", "qcow2", "-c", "read -P 7 0 1M", str(&path)],
    );
}

#[test]
fn a_resized_image_is_learnt_anew() {
    let dir = disk_dir();
    let path = qcow2_file(dir.path(), "x.qcow2", 16 * K64, &[]);
    let image = open_qcow2(&path, &NodeOptions::default()).unwrap();
    let reactor = Reactor::new();
    let steps = |image: &Arc<dyn Image>, byte: u8| {
        let image = Arc::clone(image);
        reactor.run(move |handle| async move {
            let io = image.open(&handle).unwrap();
            let found = read(&handle, &io, 8 * K64, 512).await;
            write(&handle, &io, 8 * K64, &[byte; 512], false).await;
            assert_eq!(
                straight!(image, read(&handle, &io, 8 * K64, 512).await),
                1,
                "it is known"
            );
            found
        })
    };
    assert_eq!(steps(&image, 1), [0; 512]);
    image.resize(4 * K64).unwrap();
    image.resize(16 * K64).unwrap();
    assert_eq!(steps(&image, 2), [0; 512], "what was cut off is gone");
    image.close().unwrap();
    drop(image);
    sh("qemu-img", &["check", "-q", str(&path)]);
}

/// Numbers that look random (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Something after which a range holds zeroes.
    fn zeroing(&mut self, image: &Arc<dyn Image>) -> OpKind {
        match self.below(3) {
            0 if image.info().discard_zeroes => OpKind::Discard,
            n => OpKind::WriteZeroes {
                unmap: n == 1,
                fua: self.below(8) == 0,
            },
        }
    }
}

/// A cluster of an image, and what is to be in it.
struct Owned {
    offset: u64,
    content: Vec<u8>,
}

/// One of those who use the image at once: the clusters that it owns keep what it writes.
async fn owner(
    handle: Handle,
    image: Arc<dyn Image>,
    mut clusters: Vec<Owned>,
    mut numbers: Numbers,
    over: Arc<AtomicBool>,
) -> Vec<Owned> {
    let io = image.open(&handle).unwrap();
    while !over.load(Ordering::Relaxed) {
        let which = numbers.below(clusters.len() as u64) as usize;
        let Owned { offset, content } = &mut clusters[which];
        let size = content.len() as u64;
        let from = numbers.below(size / 512) * 512;
        let len = match numbers.below(4) {
            0 => size - from,
            _ => 512.min(size - from),
        };
        let at = from as usize..(from + len) as usize;
        match numbers.below(16) {
            0 => run(&handle, &io, Op::flush()).await.unwrap(),
            // The whole cluster goes, and can be another's next.
            1 | 2 => {
                let op = Op::new(numbers.zeroing(&image), *offset, size, Sgl::EMPTY);
                run(&handle, &io, op).await.unwrap();
                content.fill(0);
            }
            3 => {
                let op = Op::new(numbers.zeroing(&image), *offset + from, len, Sgl::EMPTY);
                run(&handle, &io, op).await.unwrap();
                content[at].fill(0);
            }
            4..9 => {
                content[at.clone()].fill(numbers.next() as u8 | 1);
                let fua = numbers.below(8) == 0;
                write(&handle, &io, *offset + from, &content[at], fua).await;
            }
            _ => {
                let found = read(&handle, &io, *offset + from, len as usize).await;
                assert!(found == content[at], "at {}", *offset + from);
            }
        }
    }
    clusters
}

/// Writes to the same clusters that it discards, at the same time: what is in them then nobody knows, but whoever gets
/// them next must not be hit by a write that comes late.
async fn vandal(
    handle: Handle,
    image: Arc<dyn Image>,
    clusters: Vec<u64>,
    size: u64,
    over: Arc<AtomicBool>,
) {
    let io = image.open(&handle).unwrap();
    let at_once = Arc::new(Semaphore::new(4));
    let mut numbers = Numbers(clusters[0] + 0x9E37_79B9);
    while !over.load(Ordering::Relaxed) {
        let permit = Arc::clone(&at_once).acquire_owned().await.unwrap();
        let offset = clusters[numbers.below(clusters.len() as u64) as usize];
        let zeroing = (numbers.below(4) == 0).then(|| numbers.zeroing(&image));
        let (h, io) = (handle.clone(), Rc::clone(&io));
        handle.spawn(async move {
            match zeroing {
                Some(kind) => {
                    let op = Op::new(kind, offset, size, Sgl::EMPTY);
                    run(&h, &io, op).await.unwrap();
                }
                None => write(&h, &io, offset, &vec![0xBB; size as usize], false).await,
            }
            drop(permit);
        });
    }
    drop(at_once.acquire_many(4).await.unwrap());
}

/// Owners and vandals on three reactors; then QEMU looks at the image.
fn keep_out_of_each_others_way(dir: &Path, cluster: u64, options: &NodeOptions) {
    const OWNERS: u64 = 8;
    const PARTIES: u64 = OWNERS + 2;
    let count = 20 * PARTIES;
    let size = format!("cluster_size={cluster}");
    let path = qcow2_file(dir, "x.qcow2", count * cluster, &["-o", &size]);
    let image = open_qcow2(&path, options).unwrap();
    let reactors: Vec<Reactor> = (0..3).map(|_| Reactor::new()).collect();
    let of = |party: u64| {
        (0..count)
            .filter(move |c| c % PARTIES == party)
            .map(|c| c * cluster)
    };
    let over = Arc::new(AtomicBool::new(false));
    let vandals: Vec<_> = (OWNERS..PARTIES)
        .map(|party| {
            let (image, over) = (Arc::clone(&image), Arc::clone(&over));
            let clusters = of(party).collect();
            reactors[party as usize % 3].start(move |h| vandal(h, image, clusters, cluster, over))
        })
        .collect();
    let owners: Vec<_> = (0..OWNERS)
        .map(|party| {
            let (image, over) = (Arc::clone(&image), Arc::clone(&over));
            let clusters = of(party).map(|offset| Owned {
                offset,
                content: vec![0; cluster as usize],
            });
            let clusters = clusters.collect();
            let numbers = Numbers(party * 7919 + 1);
            reactors[party as usize % 3].start(move |h| owner(h, image, clusters, numbers, over))
        })
        .collect();
    let minute = Duration::from_secs(60);
    let begun = Instant::now();
    let both_ways_were_used = || {
        let stats = image.stats();
        stats.straight > 300 && stats.discards > 100
    };
    while !both_ways_were_used() {
        assert!(begun.elapsed() < minute, "{:?}", image.stats());
        std::thread::sleep(Duration::from_millis(10));
    }
    over.store(true, Ordering::Relaxed);
    let kept: Vec<Owned> = owners
        .into_iter()
        .flat_map(|end| {
            end.recv_timeout(minute)
                .expect("an owner found what it wrote")
        })
        .collect();
    for end in vandals {
        end.recv_timeout(minute).unwrap();
    }
    assert_eq!(image.stats().errors, 0);
    drop(reactors);
    image.close().unwrap();
    drop(image);
    sh("qemu-img", &["check", "-q", str(&path)]);
    let flat = dir.join("flat.raw");
    sh(
        "qemu-img",
        &["convert", "-O", "raw", str(&path), str(&flat)],
    );
    let flat = std::fs::read(&flat).unwrap();
    for Owned { offset, content } in kept {
        let offset = offset as usize;
        assert!(
            flat[offset..offset + content.len()] == content,
            "at {offset}"
        );
    }
}

#[test]
fn nobody_hits_a_cluster_that_has_become_anothers() {
    let shm = tempfile::tempdir_in("/dev/shm").unwrap();
    let disk = disk_dir();
    let o_direct = NodeOptions {
        direct: true,
        ..unmap()
    };
    keep_out_of_each_others_way(shm.path(), 4096, &unmap());
    keep_out_of_each_others_way(shm.path(), 512, &unmap());
    keep_out_of_each_others_way(disk.path(), K64, &o_direct);
    // Zeroed clusters keep their places in the file, but are not to be read there.
    keep_out_of_each_others_way(disk.path(), 4096, &NodeOptions::default());
}

const VICTIM: &str = "LUNAR_TEST_OF_SUDDEN_DEATH";

/// What a process does until it is killed; an ordinary test does nothing here.
#[test]
fn a_process_that_will_be_killed() {
    let Some(path) = std::env::var_os(VICTIM) else {
        return;
    };
    let image = open_qcow2(Path::new(&path), &unmap()).unwrap();
    let reactors = [Reactor::new(), Reactor::new()];
    let ends: Vec<_> = (0..8)
        .map(|party| {
            let (image, never) = (Arc::clone(&image), Arc::default());
            let clusters = (0..64).map(|c| Owned {
                offset: (c * 8 + party) * 4096,
                content: vec![0; 4096],
            });
            let clusters = clusters.collect();
            reactors[party as usize % 2]
                .start(move |h| owner(h, image, clusters, Numbers(party + 1), never))
        })
        .collect();
    println!("begun");
    for end in ends {
        end.recv().unwrap();
    }
}

#[test]
fn an_image_whose_user_was_killed_has_no_errors() {
    use std::io::{BufRead as _, BufReader};
    let dir = disk_dir();
    for round in 0..4 {
        let path = qcow2_file(
            dir.path(),
            "x.qcow2",
            512 * 4096,
            &["-o", "cluster_size=4096"],
        );
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_process_that_will_be_killed", "--nocapture"])
            .env(VICTIM, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        assert!(out.lines().any(|line| line.unwrap().contains("begun")));
        std::thread::sleep(Duration::from_millis(100 + 70 * round));
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        // The kernel ends what was under way, and lets go of the locks, a moment later.
        let begun = Instant::now();
        let image = loop {
            match open_qcow2(&path, &unmap()) {
                Err(Error::InUse(_)) if begun.elapsed() < Duration::from_secs(60) => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                other => break other.unwrap(),
            }
        };
        image.close().unwrap();
        drop(image);
        let check = Command::new("qemu-img")
            .args(["check", "-f", "qcow2", str(&path)])
            .output()
            .unwrap();
        // 3: clusters that nobody refers to.
        assert!(matches!(check.status.code(), Some(0 | 3)), "{check:?}");
    }
}
