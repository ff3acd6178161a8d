//! Files beside an image: what a logical unit must not forget when the process ends or is killed.
//!
//! A [`Sidecar`] holds one record, which is replaced as a whole: written to a temporary file, synced, renamed over the
//! old one, and the directory synced. After a crash at any point there is the old record or the new one. It carries the
//! identity of the unit that it belongs to and a checksum; what is torn, cut short or somebody else's is refused with a
//! message, never ignored: a lost record would be a lost fence or a medium that was only half erased.
//!
//! Reservations, saved mode pages and unfinished SANITIZE operations are kept like this, each in a file of its own kind.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lunar_reactor::Sequence;

/// What a sidecar begins with; the last byte is the version of the format.
const MAGIC: [u8; 8] = *b"LUNAR\0\0\x01";
/// The longest file that is read: far more than any record needs, and little to have in memory.
const LONGEST: u64 = 16 << 20;

/// Why a record cannot be used or kept.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}", path = .path.display())]
pub struct SidecarError {
    path: PathBuf,
    problem: String,
}

impl SidecarError {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong with it.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

/// One record of one logical unit, in a file.
#[derive(Clone, Debug)]
pub struct Sidecar(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    owner: Vec<u8>,
    /// Held while the file is replaced or removed: there is one temporary file.
    writing: Mutex<()>,
    /// What tasks have asked for: the last one to ask is the last one to write.
    asked: Sequence,
}

impl Sidecar {
    /// The record in `path` that belongs to the unit which `owner` identifies. Nothing is read or written yet.
    #[must_use]
    pub fn new(path: PathBuf, owner: &[u8]) -> Sidecar {
        Sidecar(Arc::new(Inner {
            path,
            owner: owner.to_vec(),
            writing: Mutex::default(),
            asked: Sequence::default(),
        }))
    }

    /// The file for records of a `kind` beside `image`: `disk.img.lunar-KIND` for `disk.img`.
    #[must_use]
    pub fn beside(image: &Path, kind: &str) -> PathBuf {
        let mut name = image.file_name().unwrap_or_default().to_owned();
        name.push(".lunar-");
        name.push(kind);
        image.with_file_name(name)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The record as it was stored last; `None` if there is none. Blocking.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or belongs to another unit.
    pub fn load(&self) -> Result<Option<Vec<u8>>, SidecarError> {
        let inner = &self.0;
        let bytes = match read(&inner.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(inner.refuse(error.to_string())),
        };
        let (owner, payload) = decode(&bytes).ok_or_else(|| {
            inner.refuse("is damaged; restore it, or remove it if what it says can be lost".into())
        })?;
        if owner != inner.owner {
            let remedy = "belongs to another logical unit; name another file, or remove it";
            return Err(inner.refuse(remedy.into()));
        }
        Ok(Some(payload.to_vec()))
    }

    /// Replaces the record. When this returns, it is on stable storage. Blocking.
    ///
    /// # Errors
    /// What the system says; then the old record is still there, or, if only the last step failed, the new one.
    pub fn store(&self, record: &[u8]) -> Result<(), SidecarError> {
        let inner = &self.0;
        let bytes = encode(&inner.owner, record);
        let _writing = inner.writing.lock().unwrap_or_else(PoisonError::into_inner);
        replace(&inner.path, &bytes).map_err(|error| inner.refuse(error.to_string()))
    }

    /// Removes the record, durably. Nothing happens when there is none. Blocking.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self) -> Result<(), SidecarError> {
        let inner = &self.0;
        let _writing = inner.writing.lock().unwrap_or_else(PoisonError::into_inner);
        match std::fs::remove_file(&inner.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            done => done.and_then(|()| sync_directory(&inner.path)),
        }
        .map_err(|error| inner.refuse(error.to_string()))
    }

    /// [`store`](Sidecar::store) from a task: the reactor goes on meanwhile.
    ///
    /// # Errors
    /// As [`store`](Sidecar::store).
    pub async fn keep(&self, record: Vec<u8>) -> Result<(), SidecarError> {
        let sidecar = self.clone();
        self.apart(move || sidecar.store(&record)).await
    }

    /// [`remove`](Sidecar::remove) from a task: the reactor goes on meanwhile.
    ///
    /// # Errors
    /// As [`remove`](Sidecar::remove).
    pub async fn forget(&self) -> Result<(), SidecarError> {
        let sidecar = self.clone();
        self.apart(move || sidecar.remove()).await
    }

    /// Why a record that is whole and the unit's own, but makes no sense, is not used.
    pub(crate) fn senseless(&self) -> SidecarError {
        let remedy =
            "was written by another version; use that, or remove it if what it says can be lost";
        self.0.refuse(remedy.into())
    }

    async fn apart(
        &self,
        work: impl FnOnce() -> Result<(), SidecarError> + Send + 'static,
    ) -> Result<(), SidecarError> {
        let done = self.0.asked.offload(work).await;
        done.unwrap_or_else(|not_done| Err(self.0.refuse(not_done.to_string())))
    }
}

impl Inner {
    fn refuse(&self, problem: String) -> SidecarError {
        SidecarError {
            path: self.path.clone(),
            problem,
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, LONGEST), &mut bytes)?;
    Ok(bytes)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_directory(path)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Magic, then owner and payload behind their lengths (32 bits, big-endian), then the CRC of all that.
fn encode(owner: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for field in [owner, payload] {
        bytes.extend(u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(field);
    }
    bytes.extend(crc32(&bytes).to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (body, crc) = bytes.split_last_chunk()?;
    if u32::from_be_bytes(*crc) != crc32(body) {
        return None;
    }
    let (owner, rest) = field(body.strip_prefix(&MAGIC)?)?;
    let (payload, rest) = field(rest)?;
    rest.is_empty().then_some((owner, payload))
}

/// A length and as many bytes; and what follows.
fn field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)
}

/// CRC-32 of ISO 3309, bit by bit: records are small and rare.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_checksum_is_the_well_known_one() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn a_record_is_found_again_and_can_be_replaced_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = Sidecar::beside(&dir.path().join("disk.img"), "pr");
        assert_eq!(path, dir.path().join("disk.img.lunar-pr"));
        let sidecar = Sidecar::new(path.clone(), b"unit");
        assert_eq!(sidecar.load().unwrap(), None);
        for record in [&b"first"[..], b"", b"third, longer"] {
            sidecar.store(record).unwrap();
            assert_eq!(
                Sidecar::new(path.clone(), b"unit").load().unwrap().unwrap(),
                record
            );
        }
        let files = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(files, 1, "no temporary file is left");
        sidecar.remove().unwrap();
        sidecar.remove().unwrap();
        assert_eq!(sidecar.load().unwrap(), None);
    }

    #[test]
    fn a_temporary_file_that_a_crash_left_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        let sidecar = Sidecar::new(path.clone(), b"unit");
        sidecar.store(b"old").unwrap();
        std::fs::write(dir.path().join("record.new"), b"half of a lon").unwrap();
        assert_eq!(sidecar.load().unwrap().unwrap(), b"old");
        sidecar.store(b"new").unwrap();
        assert_eq!(sidecar.load().unwrap().unwrap(), b"new");
    }

    #[test]
    fn a_foreign_record_is_refused_with_its_path_and_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        Sidecar::new(path.clone(), b"one").store(b"x").unwrap();
        let error = Sidecar::new(path.clone(), b"two").load().unwrap_err();
        let expected = format!(
            "{}: belongs to another logical unit; name another file, or remove it",
            path.display()
        );
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_directory_that_does_not_exist_is_an_error_when_storing() {
        let dir = tempfile::tempdir().unwrap();
        let sidecar = Sidecar::new(dir.path().join("no/record"), b"unit");
        assert!(sidecar.store(b"x").is_err());
    }

    proptest! {
        #[test]
        fn what_is_torn_or_altered_anywhere_is_not_taken(
            owner: Vec<u8>,
            payload: Vec<u8>,
            at: prop::sample::Index,
            bit in 0..8u8,
        ) {
            let bytes = encode(&owner, &payload);
            prop_assert_eq!(decode(&bytes), Some((&owner[..], &payload[..])));
            let at = at.index(bytes.len());
            prop_assert_eq!(decode(&bytes[..at]), None, "cut");
            let mut altered = bytes;
            altered[at] ^= 1 << bit;
            prop_assert_eq!(decode(&altered), None);
        }
    }
}
