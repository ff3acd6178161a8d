//! What every image must do, whatever it is made of.
//!
//! The suite compares an image with an exact model, byte for byte. It returns what it has found wrong instead of
//! panicking, so that images that lie on purpose can be used to show that it looks (see `conformance.rs`).

use std::rc::Rc;
use std::sync::Arc;

use lunar_block::{DataHandle, Error, Image, Op, OpKind, run};
use lunar_reactor::Handle;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRng, TestRunner};

use super::{Memory, Reactor};

type Found = Result<(), String>;

const SECTOR: u64 = 512;

/// One step of a random sequence.
#[derive(Clone, Debug)]
struct Step {
    kind: OpKind,
    offset: u64,
    sectors: u64,
    fill: u8,
    skew: usize,
    cut: usize,
}

fn step(size: u64) -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        4 => Just(OpKind::Read),
        4 => any::<bool>().prop_map(|fua| OpKind::Write { fua }),
        1 => Just(OpKind::Flush),
        1 => Just(OpKind::Discard),
        2 => any::<(bool, bool)>().prop_map(|(unmap, fua)| OpKind::WriteZeroes { unmap, fua }),
    ];
    let sectors = prop_oneof![12 => 1u64..16, 4 => 1u64..300, 1 => Just(u64::MAX)];
    let skew = prop_oneof![3 => Just(0usize), 1 => 1usize..4096, 1 => Just(512usize)];
    // One write in four is all zeroes, for detect-zeroes.
    let fill = prop_oneof![3 => 1u8.., 1 => Just(0u8)];
    let cut = prop_oneof![2 => Just(usize::MAX), 1 => Just(512usize), 1 => 1usize..5000];
    (kind, 0..size / SECTOR, sectors, fill, skew, cut).prop_map(
        move |(kind, sector, sectors, fill, skew, cut)| Step {
            kind,
            offset: sector * SECTOR,
            sectors: sectors.min(size / SECTOR - sector),
            fill,
            skew,
            cut,
        },
    )
}

/// An image, what it should hold, and the way to it.
struct Bench {
    reactor: Handle,
    io: Rc<dyn DataHandle>,
    model: Vec<u8>,
    can_discard: bool,
    discard_zeroes: bool,
}

impl Bench {
    async fn op(&self, op: Op) -> Result<(), Error> {
        run(&self.reactor, &self.io, op).await
    }

    async fn read(&self, offset: u64, lens: &[usize], skew: usize) -> Result<Vec<u8>, String> {
        let memory = Memory::new(lens, skew);
        let done = self.op(Op::read(offset, memory.sgl())).await;
        done.map_err(|e| format!("read at {offset}: {e}"))?;
        Ok(memory.content())
    }

    /// Compares a range of the image with the model.
    async fn check(&self, from: usize, to: usize, after: &str) -> Found {
        let got = self.read(from as u64, &[to - from], 0).await?;
        same(&got, &self.model[from..to], from, after)
    }

    async fn step(&mut self, step: &Step) -> Found {
        let from = usize::try_from(step.offset).unwrap();
        let len = usize::try_from(step.sectors * SECTOR).unwrap();
        let range = from..from + len;
        let mut lens = vec![step.cut.min(len)];
        lens.push(len - lens[0]);
        let what = format!("{step:?}");
        let fail = |e: Error| format!("{what}: {e}");
        match step.kind {
            OpKind::Read => {
                let got = self.read(step.offset, &lens, step.skew).await?;
                return same(&got, &self.model[range], from, &what);
            }
            OpKind::Write { fua } => {
                let content = pattern(len, step.fill);
                let memory = Memory::with(&lens, step.skew, &content);
                let op = Op::write(step.offset, memory.sgl(), fua);
                self.op(op).await.map_err(fail)?;
                if memory.content() != content {
                    return Err(format!("{what} changed the buffer"));
                }
                self.model[range].copy_from_slice(&content);
            }
            OpKind::Flush => self.op(Op::flush()).await.map_err(fail)?,
            OpKind::WriteZeroes { unmap, fua } => {
                let op = Op::write_zeroes(step.offset, len as u64, unmap, fua);
                self.op(op).await.map_err(fail)?;
                self.model[range].fill(0);
            }
            OpKind::Discard => {
                self.op(Op::discard(step.offset, len as u64))
                    .await
                    .map_err(fail)?;
                if self.discard_zeroes {
                    self.model[range].fill(0);
                } else if self.can_discard {
                    // Anything may be there now; from here on it must stay.
                    let got = self.read(step.offset, &[len], 0).await?;
                    self.model[range].copy_from_slice(&got);
                }
            }
        }
        let near = from.saturating_sub(8192)..(from + len + 8192).min(self.model.len());
        self.check(near.start, near.end, &what).await
    }
}

fn same(got: &[u8], want: &[u8], base: usize, after: &str) -> Found {
    // Whole slices first: byte by byte is slow without optimisation.
    if got == want {
        return Ok(());
    }
    let at = got.iter().zip(want).position(|(a, b)| a != b);
    let at = at.unwrap_or(got.len().min(want.len()));
    Err(format!(
        "after {after}: byte {} is {:#x?}, not {:#x?}",
        base + at,
        got.get(at),
        want.get(at)
    ))
}

/// Bytes that differ from sector to sector; zeroes for 0.
fn pattern(len: usize, fill: u8) -> Vec<u8> {
    let mut content = vec![fill; len];
    if fill != 0 {
        for (i, sector) in content.chunks_mut(512).enumerate() {
            sector.fill(fill ^ i as u8);
        }
    }
    content
}

async fn bench(reactor: Handle, image: Arc<dyn Image>) -> Result<Bench, String> {
    let info = image.info();
    let io = image.open(&reactor).map_err(|e| e.to_string())?;
    let mut bench = Bench {
        reactor,
        io,
        model: Vec::new(),
        can_discard: info.can_discard,
        discard_zeroes: info.discard_zeroes,
    };
    let size = usize::try_from(info.size).unwrap();
    bench.model = bench.read(0, &[size], 0).await?;
    Ok(bench)
}

/// The steps that every implementation has got wrong once.
fn corners(size: u64) -> Vec<Step> {
    let step = |kind, offset, sectors, skew, cut| Step {
        kind,
        offset,
        sectors,
        fill: 0xA5,
        skew,
        cut,
    };
    let write = OpKind::Write { fua: false };
    let zero = |unmap| OpKind::WriteZeroes { unmap, fua: true };
    let last = size - SECTOR;
    vec![
        step(write, 0, size / SECTOR, 0, usize::MAX),
        step(OpKind::Read, 0, size / SECTOR, 1, 777),
        step(write, 0, 1, 0, usize::MAX),
        step(write, last, 1, 3, 100),
        step(OpKind::Read, last, 1, 511, 511),
        step(OpKind::Write { fua: true }, 4096, 8, 0, 4096),
        step(zero(false), 512, 1, 0, 0),
        step(zero(true), 512 * 7, 1, 0, 0),
        step(zero(false), 65536 - 512, 130, 0, 0),
        step(zero(true), 65536 - 512, 130, 0, 0),
        step(write, 131072 + 512, 3, 0, 1),
        step(OpKind::Discard, 131072, 2, 0, 0),
        step(OpKind::Discard, 131072 - 512, 300, 0, 0),
        step(OpKind::Discard, last, 1, 0, 0),
        step(zero(true), last, 1, 0, 0),
        step(OpKind::Flush, 0, 0, 0, 0),
        step(OpKind::Read, 0, 0, 0, 0),
        step(write, last, 0, 0, 0),
    ]
}

async fn follows_the_model(
    reactor: Handle,
    image: Arc<dyn Image>,
    sequences: usize,
) -> Result<Vec<u8>, String> {
    let size = image.info().size;
    let mut bench = bench(reactor, image).await?;
    for step in corners(size) {
        bench.step(&step).await?;
    }
    let rng = TestRng::deterministic_rng(Config::default().rng_algorithm);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = prop::collection::vec(step(size), 20);
    for _ in 0..sequences {
        let steps = strategy.new_tree(&mut runner).unwrap().current();
        for step in steps {
            bench.step(&step).await?;
        }
        bench
            .check(0, bench.model.len(), "a whole sequence")
            .await?;
    }
    Ok(bench.model)
}

async fn takes_lists_longer_than_the_kernel_does(reactor: Handle, image: Arc<dyn Image>) -> Found {
    let bench = bench(reactor, image).await?;
    let lens = vec![512; 1500];
    let content = pattern(512 * 1500, 0x5A);
    let memory = Memory::with(&lens, 512, &content);
    let op = Op::write(SECTOR, memory.sgl(), false);
    bench.op(op).await.map_err(|e| e.to_string())?;
    same(
        &bench.read(SECTOR, &lens, 0).await?,
        &content,
        512,
        "a long list",
    )
}

/// Writers on one reactor, each in its own stripes, all at once. Stripes of several writers share clusters and blocks.
async fn writes_stripes(
    reactor: Handle,
    image: Arc<dyn Image>,
    writer: u64,
    writers: u64,
) -> Found {
    let bench = Rc::new(bench(reactor.clone(), image).await?);
    let stripes = bench.model.len() as u64 / SECTOR / writers;
    let (send, receive) = std::sync::mpsc::channel();
    let lanes = 8;
    for lane in 0..lanes {
        let (bench, send) = (Rc::clone(&bench), send.clone());
        reactor.spawn(async move {
            for stripe in (lane..stripes).step_by(lanes as usize).take(40) {
                let offset = (stripe * writers + writer) * SECTOR;
                let content = vec![(stripe * 7 + writer + 1) as u8 | 1; 512];
                let memory = Memory::with(&[512], (stripe % 3) as usize, &content);
                let wrote = bench
                    .op(Op::write(offset, memory.sgl(), stripe % 5 == 0))
                    .await;
                let _ = send.send((offset, content, wrote));
            }
        });
    }
    drop(send);
    let mut done = 0;
    loop {
        match receive.try_recv() {
            Ok((offset, content, wrote)) => {
                wrote.map_err(|e| format!("concurrent write at {offset}: {e}"))?;
                let got = bench.read(offset, &[512], 0).await?;
                same(
                    &got,
                    &content,
                    usize::try_from(offset).unwrap(),
                    "concurrent writes",
                )?;
                done += 1;
            }
            Err(std::sync::mpsc::TryRecvError::Empty) => reactor.yield_now().await,
            Err(std::sync::mpsc::TryRecvError::Disconnected) => break,
        }
    }
    if done == 0 {
        return Err("no concurrent write was made".into());
    }
    Ok(())
}

/// Runs everything; returns what the image must hold at the end.
pub fn conforms(
    reactors: &[Reactor; 2],
    image: &Arc<dyn Image>,
    sequences: usize,
) -> Result<Vec<u8>, String> {
    let before = image.stats();
    let size = image.info().size;
    if !size.is_multiple_of(SECTOR) || size < 1 << 20 {
        return Err(format!("a size of {size} does not suit the suite"));
    }
    let [one, two] = reactors;
    let share = || Arc::clone(image);
    let i = share();
    one.run(move |r| takes_lists_longer_than_the_kernel_does(r, i))?;
    let (a, b) = (share(), share());
    let a = one.start(move |r| writes_stripes(r, a, 0, 2));
    let b = two.start(move |r| writes_stripes(r, b, 1, 2));
    for end in [a, b] {
        let minute = std::time::Duration::from_secs(60);
        end.recv_timeout(minute)
            .map_err(|e| format!("concurrent writers: {e}"))??;
    }
    let i = share();
    let model = one.run(move |r| follows_the_model(r, i, sequences))?;

    // The other reactor sees the same.
    let i = share();
    let seen = two.run(move |r| async move { bench(r, i).await.map(|b| b.model) })?;
    same(&seen, &model, 0, "everything, on the other reactor")?;

    let after = image.stats();
    if after.errors != before.errors || after.writes <= before.writes || after.read_bytes == 0 {
        return Err(format!("the statistics do not tell: {after:?}"));
    }
    Ok(model)
}
