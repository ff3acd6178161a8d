//! What is asked, and of whom.

use super::Suite;
use super::contestant::{Contestant, Program, Shape};
use crate::bench::args::Rw;

/// Where the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Image {
    /// Nowhere.
    Null,
    /// In the server's own memory.
    Memory,
    /// A raw file in a file system in memory.
    Tmpfs,
    /// A raw file on a disk, past the host's cache.
    Direct,
    /// A qcow2 image that is allocated throughout, in a file system in memory.
    Qcow2Tmpfs,
    /// The same on a disk, past the host's cache.
    Qcow2Direct,
}

impl Image {
    fn name(self) -> &'static str {
        match self {
            Image::Null => "null",
            Image::Memory => "memory",
            Image::Tmpfs => "tmpfs",
            Image::Direct => "direct",
            Image::Qcow2Tmpfs => "qcow2-tmpfs",
            Image::Qcow2Direct => "qcow2-direct",
        }
    }

    pub fn is_qcow2(self) -> bool {
        matches!(self, Image::Qcow2Tmpfs | Image::Qcow2Direct)
    }

    pub fn is_direct(self) -> bool {
        matches!(self, Image::Direct | Image::Qcow2Direct)
    }
}

/// One question.
#[derive(Clone, Debug)]
pub struct Case {
    pub image: Image,
    pub rw: Rw,
    /// Bytes of a request.
    pub bs: u32,
    pub depth: u16,
    /// The client never sleeps.
    pub polling: bool,
    /// The first is the one that the others are compared with.
    pub contestants: Vec<Contestant>,
    /// What there are several of, if that is the question.
    scale: Option<&'static str>,
}

impl Case {
    /// As in `tmpfs-randread-4k-d32-poll`.
    pub fn name(&self) -> String {
        let image = self.scale.unwrap_or(self.image.name());
        let (rw, bs, depth) = (
            crate::bench::report::name(self.rw),
            self.bs >> 10,
            self.depth,
        );
        let client = if self.polling { "poll" } else { "sleep" };
        format!("{image}-{rw}-{bs}k-d{depth}-{client}")
    }
}

/// Whether one of these words is in the name, or there are none.
pub fn is_wanted(name: &str, words: &[String]) -> bool {
    words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
}

/// The whole matrix, for the peers that are here.
pub fn all(options: &Suite) -> Vec<Case> {
    use Image::{Direct, Memory, Null, Qcow2Direct, Qcow2Tmpfs, Tmpfs};
    let small = |image| {
        let both = [Rw::Randread, Rw::Randwrite];
        both.map(|rw| [(image, rw, 4096, 32), (image, rw, 4096, 1)])
            .concat()
    };
    let memory = [Rw::Randread, Rw::Randwrite].map(|rw| (Memory, rw, 4096, 32));
    let large = |image| {
        [Rw::Read, Rw::Write]
            .map(|rw| (image, rw, 128 << 10, 8))
            .to_vec()
    };
    let questions = [
        small(Null),
        memory.to_vec(),
        small(Tmpfs),
        large(Tmpfs),
        small(Direct),
        large(Direct),
        small(Qcow2Tmpfs),
        small(Qcow2Direct),
    ];
    let programs = Program::found();
    let mut cases = Vec::new();
    for (image, rw, bs, depth) in questions.concat() {
        for polling in [true, false] {
            cases.push(Case {
                image,
                rw,
                bs,
                depth,
                polling,
                contestants: Contestant::for_image(image, polling, &programs, options),
                scale: None,
            });
        }
    }
    for (scale, shapes) in [
        ("luns", luns()),
        ("queues", queues()),
        ("controllers", controllers()),
    ] {
        // Clients that have one processor together cannot poll.
        let alone = |shape: &Shape| shape.queues * shape.controllers == 1;
        for polling in [true, false] {
            if polling && !shapes.iter().all(alone) {
                continue;
            }
            cases.push(Case {
                image: Null,
                rw: Rw::Randread,
                bs: 4096,
                depth: 32,
                polling,
                contestants: shapes.iter().copied().map(Contestant::Lunar).collect(),
                scale: Some(scale),
            });
        }
    }
    cases
}

fn luns() -> Vec<Shape> {
    let shape = |luns| Shape { luns, ..Shape::ONE };
    [1, 16, 256, 4096].map(shape).into()
}

/// The server has one processor, so a second worker is no gain here. What it costs shows.
fn queues() -> Vec<Shape> {
    let shape = |(queues, workers)| Shape {
        queues,
        workers,
        ..Shape::ONE
    };
    [(1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (4, 2)]
        .map(shape)
        .into()
}

fn controllers() -> Vec<Shape> {
    let shape = |controllers| Shape {
        controllers,
        ..Shape::ONE
    };
    [1, 2, 4, 8].map(shape).into()
}
