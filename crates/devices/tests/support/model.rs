//! What commands may do to the medium, said once more and as simply as possible.

/// The content of a disk whose unmapped blocks read as zeroes.
pub struct Model {
    /// Every byte.
    pub bytes: Vec<u8>,
    /// Bytes in a block.
    pub block: usize,
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |n, &b| n << 8 | usize::from(b))
}

/// What a CDB is for, whatever its length.
#[derive(PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    CompareAndWrite,
    OrWrite,
    WriteSame,
    Unmap,
    Format,
    Overwrite,
    BlockErase,
    Other,
}

fn kind(cdb: &[u8]) -> Kind {
    match (cdb[0], cdb.get(8..10)) {
        (0x08 | 0x28 | 0xA8 | 0x88, _) | (0x7F, Some([0, 0x09])) => Kind::Read,
        (0x0A | 0x2A | 0xAA | 0x8A | 0x2E | 0xAE | 0x8E | 0x9C, _)
        | (0x7F, Some([0, 0x0B | 0x0C])) => Kind::Write,
        (0x41 | 0x93, _) | (0x7F, Some([0, 0x0D])) => Kind::WriteSame,
        (0x42, _) => Kind::Unmap,
        (0x89, _) => Kind::CompareAndWrite,
        (0x8B, _) => Kind::OrWrite,
        (0x04, _) => Kind::Format,
        (0x48, _) if cdb[1] & 0x1F == 1 => Kind::Overwrite,
        (0x48, _) if cdb[1] & 0x1F == 2 => Kind::BlockErase,
        _ => Kind::Other,
    }
}

/// First block and number of blocks that a READ, WRITE or WRITE SAME CDB names.
fn range(cdb: &[u8]) -> (usize, usize) {
    match cdb[0] >> 5 {
        3 => (number(&cdb[12..20]), number(&cdb[28..32])),
        0 => {
            let blocks = if cdb[4] == 0 {
                256
            } else {
                usize::from(cdb[4])
            };
            (number(&cdb[1..4]) & 0x1F_FFFF, blocks)
        }
        4 => (number(&cdb[2..10]), number(&cdb[10..14])),
        5 => (number(&cdb[2..6]), number(&cdb[6..10])),
        _ => (number(&cdb[2..6]), number(&cdb[7..9])),
    }
}

impl Model {
    /// A command has ended with GOOD: follows it. The medium must be the same afterwards.
    pub fn good(&mut self, cdb: &[u8], out: &[u8]) {
        let block = self.block;
        match kind(cdb) {
            Kind::Write => {
                let (lba, blocks) = range(cdb);
                let len = blocks * block;
                self.bytes[lba * block..][..len].copy_from_slice(&out[..len]);
            }
            Kind::CompareAndWrite => {
                let (lba, blocks) = range(cdb);
                let len = blocks * block;
                let medium = &mut self.bytes[lba * block..][..len];
                assert_eq!(*medium, out[..len], "it was expected, and so replaced");
                medium.copy_from_slice(&out[len..2 * len]);
            }
            Kind::OrWrite => {
                let (lba, blocks) = range(cdb);
                for (byte, ones) in self.bytes[lba * block..][..blocks * block]
                    .iter_mut()
                    .zip(out)
                {
                    *byte |= ones;
                }
            }
            Kind::WriteSame => {
                let (lba, blocks) = range(cdb);
                let no_data = match cdb[0] {
                    0x93 => cdb[1] & 1 != 0,
                    0x7F => cdb[10] & 1 != 0,
                    _ => false,
                };
                for to in self.bytes[lba * block..][..blocks * block].chunks_mut(block) {
                    if no_data {
                        to.fill(0);
                    } else {
                        to.copy_from_slice(&out[..block]);
                    }
                }
            }
            Kind::Unmap if number(&cdb[7..9]) >= 8 => {
                let list = &out[8..8 + number(&out[2..4])];
                for descriptor in list.chunks_exact(16) {
                    let (lba, blocks) = (number(&descriptor[..8]), number(&descriptor[8..12]));
                    self.bytes[lba * block..][..blocks * block].fill(0);
                }
            }
            Kind::Format => {
                let header = if cdb[1] & 0x20 != 0 { 8 } else { 4 };
                let has_pattern = cdb[1] & 0x10 != 0 && out[1] & 0x08 != 0 && out[header + 1] == 1;
                let length = if has_pattern {
                    number(&out[header + 2..header + 4])
                } else {
                    0
                };
                self.fill(if has_pattern {
                    &out[header + 4..][..length]
                } else {
                    &[0]
                });
            }
            Kind::Overwrite => self.fill(&out[4..number(&cdb[7..9])]),
            Kind::BlockErase => self.fill(&[0]),
            _ => {}
        }
    }

    /// Whether a command that ends with GOOD may have changed the medium.
    #[allow(dead_code, reason = "only the fuzz target asks")]
    pub fn changes(&self, cdb: &[u8]) -> bool {
        match kind(cdb) {
            Kind::Read | Kind::Other => false,
            Kind::Unmap => number(&cdb[7..9]) > 8,
            Kind::Format | Kind::Overwrite | Kind::BlockErase => true,
            Kind::Write | Kind::CompareAndWrite | Kind::OrWrite => range(cdb).1 != 0,
            Kind::WriteSame => true,
        }
    }

    /// Every block is the pattern, again and again.
    fn fill(&mut self, pattern: &[u8]) {
        for block in self.bytes.chunks_mut(self.block) {
            for (to, from) in block.iter_mut().zip(pattern.iter().cycle()) {
                *to = *from;
            }
        }
    }

    /// What a READ that has ended with GOOD has returned, if the command was one.
    pub fn read(&self, cdb: &[u8]) -> Option<&[u8]> {
        if kind(cdb) != Kind::Read {
            return None;
        }
        let (lba, blocks) = range(cdb);
        Some(&self.bytes[lba * self.block..][..blocks * self.block])
    }
}
