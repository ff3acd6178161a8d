//! What is asked, and of whom.

use super::Suite;
use super::contestant::{Contestant, Program};
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
    /// How many logical units there are, if that is the question.
    scale: bool,
}

impl Case {
    /// As in `tmpfs-randread-4k-d32-poll`.
    pub fn name(&self) -> String {
        let image = match self.scale {
            true => "luns",
            false => self.image.name(),
        };
        let (rw, bs, depth) = (
            crate::bench::report::name(self.rw),
            self.bs >> 10,
            self.depth,
        );
        let client = if self.polling { "poll" } else { "sleep" };
        format!("{image}-{rw}-{bs}k-d{depth}-{client}")
    }

    pub fn is_wanted(&self, words: &[String]) -> bool {
        words.is_empty() || words.iter().any(|word| self.name().contains(word.as_str()))
    }
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
                scale: false,
            });
        }
    }
    for polling in [true, false] {
        let luns = [1, 16, 256, 4096];
        cases.push(Case {
            image: Null,
            rw: Rw::Randread,
            bs: 4096,
            depth: 32,
            polling,
            contestants: luns.map(Contestant::with_luns).into(),
            scale: true,
        });
    }
    cases
}
