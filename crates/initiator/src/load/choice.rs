//! Which place is accessed next, and how.

use super::format::{Disk, Op};
use super::stamp::mix;
use super::{Access, Load};
use crate::Error;

/// What a request is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) op: Op,
    /// The index of the disk.
    pub(crate) disk: usize,
    /// In units of a request's size.
    pub(crate) place: u64,
    /// When verifying: how often the place has been written, this time included; 0 if what is there is not known.
    pub(crate) generation: u32,
}

/// Random numbers.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// A number below `limit`, evenly.
    fn below(&mut self, limit: u64) -> u64 {
        let product = u128::from(self.next()) * u128::from(limit);
        u64::try_from(product >> 64).unwrap_or(0)
    }
}

/// Chooses for one queue: a disk in turn, then a place there.
#[derive(Debug)]
pub(crate) struct Chooser {
    access: Access,
    random: Random,
    turn: usize,
    /// For each disk.
    walks: Vec<Walk>,
    /// The disk that the last look at all places has come to.
    swept: usize,
}

/// One disk's places, as one queue goes over them.
#[derive(Debug)]
struct Walk {
    available: u64,
    /// The next place, of those who go one after another.
    next: u64,
    /// When verifying, the first of the places that are this queue's alone.
    first: u64,
    /// When verifying, the state of each of these.
    notes: Vec<Note>,
}

/// What is known of a place.
#[derive(Clone, Copy, Debug, Default)]
struct Note {
    generation: u32,
    in_flight: bool,
}

/// Places that are verified at most: their notes take 512 MiB.
const NOTES: u64 = 1 << 26;

impl Chooser {
    /// For the queue number `queue`.
    pub(crate) fn new(load: &Load, disks: &[Disk], queue: u64) -> Chooser {
        let queues = u64::from(load.queues.max(1));
        let count = u64::try_from(disks.len()).unwrap_or(u64::MAX).max(1);
        let walks = disks.iter().map(|disk| {
            let part = match load.access {
                Access::Verify => disk.available.min(NOTES / count) / queues,
                _ => disk.available / queues,
            };
            let notes = match load.access {
                Access::Verify => usize::try_from(part).unwrap_or(0),
                _ => 0,
            };
            Walk {
                available: disk.available,
                next: part * queue,
                first: part * queue,
                notes: vec![Note::default(); notes],
            }
        });
        Chooser {
            access: load.access,
            random: Random(mix(load.seed ^ mix(queue))),
            turn: 0,
            walks: walks.collect(),
            swept: 0,
        }
    }

    /// How many requests can be in flight: when verifying, each has a place of its own.
    pub(crate) fn depth(&self, wanted: usize) -> Result<usize, Error> {
        if self.access != Access::Verify {
            return Ok(wanted);
        }
        let least = self.walks.iter().map(|walk| walk.notes.len()).min();
        match least.unwrap_or(0) {
            0 => Err(Error::Missing("a place for each queue to verify")),
            places => Ok(wanted.min(places)),
        }
    }

    /// The next request.
    pub(crate) fn next(&mut self) -> Option<Choice> {
        let disk = self.turn;
        self.turn = match disk + 1 {
            next if next < self.walks.len() => next,
            _ => 0,
        };
        let walk = self.walks.get_mut(disk)?;
        let op = match self.access {
            Access::RandomRead | Access::Read => Op::Read,
            Access::RandomWrite | Access::Write => Op::Write,
            Access::RandomMixed { reads } => match self.random.below(100) < u64::from(reads) {
                true => Op::Read,
                false => Op::Write,
            },
            Access::Verify => return walk.verify(&mut self.random, disk),
        };
        let place = match self.access {
            Access::Read | Access::Write => {
                let place = walk.next;
                walk.next = match place + 1 {
                    next if next < walk.available => next,
                    _ => 0,
                };
                place
            }
            _ => self.random.below(walk.available),
        };
        Some(Choice {
            op,
            disk,
            place,
            generation: 0,
        })
    }

    /// A place more to be looked at when all is over: each that was written is, once.
    pub(crate) fn sweep(&mut self) -> Option<Choice> {
        while let Some(walk) = self.walks.get_mut(self.swept) {
            let disk = self.swept;
            let known = walk.notes.pop_while_unknown();
            let index = u64::try_from(walk.notes.len()).unwrap_or(0);
            if let Some(generation) = known {
                return Some(Choice {
                    op: Op::Read,
                    disk,
                    place: walk.first + index,
                    generation,
                });
            }
            self.swept += 1;
        }
        None
    }

    /// A request has ended; whether the place now has what the choice says.
    pub(crate) fn done(&mut self, choice: &Choice, known: bool) {
        let Some(walk) = self.walks.get_mut(choice.disk) else {
            return;
        };
        let index = usize::try_from(choice.place.saturating_sub(walk.first));
        if let Some(note) = index.ok().and_then(|index| walk.notes.get_mut(index)) {
            *note = Note {
                generation: if known { choice.generation } else { 0 },
                in_flight: false,
            };
        }
    }
}

impl Walk {
    /// A place that no request is under way for: written if it is not known, else written or read.
    fn verify(&mut self, random: &mut Random, disk: usize) -> Option<Choice> {
        let len = u64::try_from(self.notes.len()).ok()?;
        let start = usize::try_from(random.below(len)).ok()?;
        let free = |note: &&mut Note| !note.in_flight;
        let (before, after) = self.notes.split_at_mut_checked(start)?;
        let found = (start..).zip(after).find(|(_, note)| free(note));
        let (index, note) = found.or_else(|| (0..).zip(before).find(|(_, note)| free(note)))?;
        note.in_flight = true;
        let read = note.generation > 0 && random.below(2) == 0;
        let (op, generation) = match read {
            true => (Op::Read, note.generation),
            false => (Op::Write, note.generation.wrapping_add(1).max(1)),
        };
        Some(Choice {
            op,
            disk,
            place: self.first + u64::try_from(index).ok()?,
            generation,
        })
    }
}

/// Taking notes off their end.
trait Sweep {
    /// The generation of the last place that was written, which is taken off with all behind it.
    fn pop_while_unknown(&mut self) -> Option<u32>;
}

impl Sweep for Vec<Note> {
    fn pop_while_unknown(&mut self) -> Option<u32> {
        while let Some(note) = self.pop() {
            if note.generation > 0 {
                return Some(note.generation);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::{Address, Limit, Waiting};

    fn load(access: Access) -> Load {
        Load {
            disks: Vec::new(),
            access,
            block_size: 4096,
            depth: 4,
            queues: 2,
            limit: Limit::Time(Duration::ZERO),
            ramp: Duration::ZERO,
            waiting: Waiting::Sleep,
            seed: 7,
        }
    }

    fn chooser(access: Access, places: &[u64], queue: u64) -> Chooser {
        let disks: Vec<_> = places
            .iter()
            .map(|&available| Disk {
                address: Address([0; 8]),
                block_size: 512,
                blocks_each: 8,
                available,
            })
            .collect();
        Chooser::new(&load(access), &disks, queue)
    }

    #[test]
    fn random_places_cover_every_disk_and_stay_inside() {
        let mut chooser = chooser(Access::RandomRead, &[10, 20], 0);
        let mut hits = [vec![0u32; 10], vec![0u32; 20]];
        for _ in 0..3000 {
            let choice = chooser.next().unwrap();
            assert_eq!(choice.op, Op::Read);
            hits[choice.disk][usize::try_from(choice.place).unwrap()] += 1;
        }
        assert!(hits[0].iter().all(|&n| n > 75), "{hits:?}");
        assert!(hits[1].iter().all(|&n| n > 35), "{hits:?}");
    }

    #[test]
    fn sequential_places_go_round_from_each_queues_own_start() {
        let mut chooser = chooser(Access::Write, &[6], 1);
        let places: Vec<_> = (0..7).map(|_| chooser.next().unwrap().place).collect();
        assert_eq!(places, [3, 4, 5, 0, 1, 2, 3]);
    }

    #[test]
    fn a_mixture_has_the_wanted_share_of_reads() {
        for reads in [0, 30, 100] {
            let mut chooser = chooser(Access::RandomMixed { reads }, &[10], 0);
            let all = (0..10_000).map(|_| chooser.next().unwrap().op);
            let found = all.filter(|&op| op == Op::Read).count() / 100;
            assert!(found.abs_diff(reads.into()) <= 2, "{found} of {reads} %");
        }
    }

    #[test]
    fn when_verifying_no_place_is_used_twice_at_once_nor_by_two_queues() {
        let mut all = BTreeSet::new();
        for queue in 0..2 {
            let mut chooser = chooser(Access::Verify, &[8], queue);
            assert_eq!(chooser.depth(32).unwrap(), 4);
            let own: Vec<_> = (0..4).map(|_| chooser.next().unwrap()).collect();
            assert!(own.iter().all(|choice| choice.op == Op::Write));
            all.extend(own.iter().map(|choice| choice.place));
            assert_eq!(chooser.next(), None);
            chooser.done(&own[2], true);
            assert_eq!(chooser.next().unwrap().place, own[2].place);
        }
        assert_eq!(all, (0..8).collect());
    }

    #[test]
    fn the_last_look_is_at_what_was_written_only() {
        let mut chooser = chooser(Access::Verify, &[8, 8], 0);
        let mut written = BTreeSet::new();
        for good in [true, false, true, true] {
            let choice = chooser.next().unwrap();
            chooser.done(&choice, good);
            if good {
                written.insert((choice.disk, choice.place));
            } else {
                written.remove(&(choice.disk, choice.place));
            }
        }
        let swept: Vec<_> = std::iter::from_fn(|| chooser.sweep()).collect();
        let places: BTreeSet<_> = swept.iter().map(|c| (c.disk, c.place)).collect();
        assert_eq!((places, swept.len()), (written.clone(), written.len()));
        assert!(swept.iter().all(|choice| choice.generation > 0));
    }
}
