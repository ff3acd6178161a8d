//! Data that say where they belong and when they were written, so that whatever comes back can be judged.

use super::Mismatch;

/// What a block of data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Which run wrote it.
    pub(crate) run: u64,
    /// The index of the disk among those under load.
    pub(crate) disk: u32,
    /// How often the place had been written, this time included.
    pub(crate) generation: u32,
    /// Where it belongs.
    pub(crate) lba: u64,
}

const WORD: usize = 8;
/// Words that hold the stamp itself; the others follow from it.
const HEAD: usize = 3;

impl Stamp {
    fn head(&self) -> [u64; HEAD] {
        let which = u64::from(self.disk) << 32 | u64::from(self.generation);
        [self.run, self.lba, which]
    }

    /// All words, for ever.
    fn words(self) -> impl Iterator<Item = u64> {
        let seed = self.run ^ self.lba.rotate_left(24) ^ self.head()[2].rotate_left(48);
        let rest = (1u64..).map(move |index| mix(seed.wrapping_add(index)));
        self.head().into_iter().chain(rest)
    }

    /// Fills a buffer.
    pub(crate) fn fill(self, bytes: &mut [u8]) {
        for (to, word) in bytes.chunks_mut(WORD).zip(self.words()) {
            for (to, from) in to.iter_mut().zip(word.to_le_bytes()) {
                *to = from;
            }
        }
    }

    /// Compares with what was read.
    pub(crate) fn check(self, bytes: &[u8]) -> Option<Mismatch> {
        let same = |(found, word): (&[u8], u64)| word.to_le_bytes().starts_with(found);
        let offset = bytes
            .chunks(WORD)
            .zip(self.words())
            .position(|pair| !same(pair))?
            * WORD;
        Some(Mismatch {
            disk: usize::try_from(self.disk).unwrap_or(usize::MAX),
            lba: self.lba,
            generation: self.generation,
            offset,
            found: Stamp::read(bytes)
                .filter(|found| found.run == self.run)
                .map(|found| (found.lba, found.generation)),
        })
    }

    /// The stamp at the start of a block.
    fn read(bytes: &[u8]) -> Option<Stamp> {
        let mut words = bytes.chunks_exact(WORD).map(|word| {
            let word = word.first_chunk().copied().unwrap_or_default();
            u64::from_le_bytes(word)
        });
        let (run, lba, which) = (words.next()?, words.next()?, words.next()?);
        Some(Stamp {
            run,
            lba,
            disk: u32::try_from(which >> 32).ok()?,
            generation: u32::try_from(which & u64::from(u32::MAX)).ok()?,
        })
    }
}

/// A word in which every bit depends on every bit of `word` (the finalizer of SplitMix64).
pub(crate) fn mix(word: u64) -> u64 {
    let word = word.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        run: 77,
        disk: 1,
        generation: 3,
        lba: 800,
    };

    fn block(stamp: Stamp) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        stamp.fill(&mut bytes);
        bytes
    }

    #[test]
    fn a_block_is_what_was_written_and_nothing_else() {
        assert_eq!(STAMP.check(&block(STAMP)), None);
        for at in [0, 8, 23, 24, 511, 512, 4095] {
            let mut bytes = block(STAMP);
            bytes[at] ^= 1;
            let mismatch = STAMP.check(&bytes).unwrap();
            assert_eq!(mismatch.offset, at / 8 * 8);
        }
    }

    #[test]
    fn a_block_of_the_past_or_of_elsewhere_is_named() {
        let older = Stamp {
            generation: 2,
            ..STAMP
        };
        let mismatch = STAMP.check(&block(older)).unwrap();
        assert_eq!((mismatch.lba, mismatch.generation), (800, 3));
        assert_eq!(mismatch.found, Some((800, 2)));
        let elsewhere = Stamp { lba: 8, ..STAMP };
        let mismatch = STAMP.check(&block(elsewhere)).unwrap();
        assert_eq!(mismatch.found, Some((8, 3)));
        let foreign = Stamp { run: 1, ..STAMP };
        assert_eq!(STAMP.check(&block(foreign)).unwrap().found, None);
        assert_eq!(STAMP.check(&[0; 4096]).unwrap().found, None);
    }
}
