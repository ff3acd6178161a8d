//! The header, checked before anything else touches the image.
//!
//! The qcow2 implementation beneath does not look at `crypt_method` (an encrypted image would open as plain data) and
//! clears auto-clear bits before it refuses an image. So everything that is to be refused is refused here, with a
//! remedy, while the file is only being read. The limits are QEMU's (`docs/interop/qcow2.rst` and its implementation).

use super::extension::{self, Extensions};

const MAGIC: u32 = 0x5146_49fb;
/// Length of a version 2 header, and of the part of a version 3 header that everybody knows.
const LENGTH_V2: u64 = 72;
const LENGTH_V3: u64 = 104;
pub(super) const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
const MAX_NAME: u64 = 1023;

/// What we need to know of an image that may be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub version: u32,
    pub size: u64,
    pub cluster_size: u64,
    pub backing: Option<Backing>,
    /// Bitmaps of changed blocks, which a writer that does not know them makes worthless.
    pub has_bitmaps: bool,
}

/// The image beneath.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backing {
    pub file: String,
    pub format: String,
}

/// Reads `len` bytes at an offset; what is past the end of the file reads as zeroes.
pub(crate) type ReadAt<'a> = &'a dyn Fn(u64, usize) -> std::io::Result<Vec<u8>>;

/// A big-endian field.
fn be32(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(|b| b.first_chunk());
    field.map_or(0, |b| u32::from_be_bytes(*b))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..).and_then(|b| b.first_chunk());
    field.map_or(0, |b| u64::from_be_bytes(*b))
}

/// Checks the header of the image `name`, a file of `file_len` bytes. The error says what is wrong and what to do.
pub(crate) fn check(name: &str, file_len: u64, read: ReadAt<'_>) -> Result<Header, String> {
    let io = |e: std::io::Error| format!("its header cannot be read: {e}");
    let fixed = read(0, 112).map_err(io)?;
    if file_len < LENGTH_V2 {
        return Err(if file_len >= 4 && be32(&fixed, 0) == MAGIC {
            truncated(name, "header", LENGTH_V2, file_len)
        } else {
            "it is not a qcow2 image; if it is a raw one, use format=raw".into()
        });
    }
    if be32(&fixed, 0) != MAGIC {
        return Err("it is not a qcow2 image; if it is a raw one, use format=raw".into());
    }
    let version = be32(&fixed, 4);
    if !matches!(version, 2 | 3) {
        return Err(format!(
            "it is qcow2 version {version}, supported are 2 and 3; convert it with qemu-img convert -O qcow2 {name} NEW"
        ));
    }
    let crypt_method = be32(&fixed, 32);
    if crypt_method != 0 {
        return Err(format!(
            "it is encrypted (crypt_method {crypt_method}), which is not supported; decrypt it with qemu-img convert"
        ));
    }
    let cluster_bits = be32(&fixed, 20);
    if !(9..=21).contains(&cluster_bits) {
        return Err(corrupt(
            name,
            &format!("cluster_bits is {cluster_bits}, not 9 to 21"),
        ));
    }
    let cluster_size = 1u64 << cluster_bits;

    let header_length = if version == 2 {
        LENGTH_V2
    } else {
        if file_len < LENGTH_V3 {
            return Err(truncated(name, "header", LENGTH_V3, file_len));
        }
        check_features(name, be64(&fixed, 72))?;
        let refcount_order = be32(&fixed, 96);
        if refcount_order > 6 {
            return Err(corrupt(
                name,
                &format!("refcount_order is {refcount_order}, not 0 to 6"),
            ));
        }
        u64::from(be32(&fixed, 100))
    };
    if version == 3 && !(LENGTH_V3..=cluster_size).contains(&header_length) {
        return Err(corrupt(
            name,
            &format!("its header_length is {header_length}"),
        ));
    }

    let size = be64(&fixed, 24);
    check_table(
        name,
        "L1 table",
        be64(&fixed, 40),
        u64::from(be32(&fixed, 36)) * 8,
        MAX_L1_BYTES,
        cluster_size,
        file_len,
    )?;
    let covered = u64::from(be32(&fixed, 36))
        .saturating_mul(cluster_size)
        .saturating_mul(cluster_size / 8);
    if covered < size {
        return Err(corrupt(
            name,
            &format!("its L1 table covers {covered} of {size} bytes"),
        ));
    }
    let refcount_bytes = u64::from(be32(&fixed, 56)) * cluster_size;
    if refcount_bytes == 0 {
        return Err(corrupt(name, "it has no refcount table"));
    }
    check_table(
        name,
        "refcount table",
        be64(&fixed, 48),
        refcount_bytes,
        MAX_REFCOUNT_TABLE_BYTES,
        cluster_size,
        file_len,
    )?;

    let first = read(0, usize::try_from(cluster_size).unwrap_or_default()).map_err(io)?;
    let extensions =
        extension::parse(&first, header_length).map_err(|what| corrupt(name, &what))?;
    let backing = backing(name, &fixed, &first, &extensions)?;
    Ok(Header {
        version,
        size,
        cluster_size,
        backing,
        has_bitmaps: version == 3 && be64(&fixed, 88) & 1 != 0 && extensions.bitmaps,
    })
}

fn check_features(name: &str, incompatible: u64) -> Result<(), String> {
    let convert = format!("convert it with qemu-img convert -O qcow2 {name} NEW");
    let unsupported = |what: &str| Err(format!("it {what}, which is not supported; {convert}"));
    if incompatible >> 5 != 0 {
        return unsupported(&format!(
            "needs features that are not known here (incompatible_features {incompatible:#x})"
        ));
    }
    if incompatible & 1 << 0 != 0 {
        return Err(format!(
            "it was not closed properly (dirty bit set); repair it with qemu-img check -r all {name}"
        ));
    }
    if incompatible & 1 << 1 != 0 {
        return Err(format!(
            "it is marked as corrupt; repair it with qemu-img check -r all {name}"
        ));
    }
    if incompatible & 1 << 2 != 0 {
        return unsupported("keeps its data in an external data file");
    }
    if incompatible & 1 << 3 != 0 {
        return unsupported("is compressed with another method than zlib");
    }
    if incompatible & 1 << 4 != 0 {
        return unsupported("has extended L2 entries");
    }
    Ok(())
}

fn check_table(
    name: &str,
    what: &str,
    offset: u64,
    bytes: u64,
    max: u64,
    cluster_size: u64,
    file_len: u64,
) -> Result<(), String> {
    if bytes > max {
        return Err(corrupt(
            name,
            &format!("its {what} has {bytes} bytes, more than {max}"),
        ));
    }
    if bytes == 0 {
        return Ok(());
    }
    if offset == 0 || !offset.is_multiple_of(cluster_size) {
        return Err(corrupt(name, &format!("its {what} begins at {offset:#x}")));
    }
    match offset.checked_add(bytes) {
        Some(end) if end <= file_len => Ok(()),
        Some(end) => Err(truncated(name, what, end, file_len)),
        None => Err(corrupt(name, &format!("its {what} begins at {offset:#x}"))),
    }
}

fn backing(
    name: &str,
    fixed: &[u8],
    first_cluster: &[u8],
    extensions: &Extensions,
) -> Result<Option<Backing>, String> {
    let (offset, len) = (be64(fixed, 8), u64::from(be32(fixed, 16)));
    if offset == 0 || len == 0 {
        return Ok(None);
    }
    let bad = || corrupt(name, "the name of its backing file is not in the header");
    if len > MAX_NAME {
        return Err(bad());
    }
    let start = usize::try_from(offset).map_err(|_| bad())?;
    let end = start
        .checked_add(usize::try_from(len).map_err(|_| bad())?)
        .ok_or_else(bad)?;
    let bytes = first_cluster.get(start..end).ok_or_else(bad)?;
    let file = String::from_utf8(bytes.to_vec())
        .map_err(|_| corrupt(name, "the name of its backing file is not UTF-8"))?;
    let format = extensions.backing_format.clone().ok_or_else(|| {
        format!(
            "it names the backing file {file} but not its format, which is never guessed; state it with \
             qemu-img rebase -u -F FORMAT -b {file} {name}"
        )
    })?;
    Ok(Some(Backing { file, format }))
}

fn corrupt(name: &str, what: &str) -> String {
    format!(
        "it is damaged: {what}; examine it with qemu-img check {name}, or restore it from a backup"
    )
}

fn truncated(name: &str, what: &str, end: u64, file_len: u64) -> String {
    format!(
        "it is truncated: its {what} ends at {end}, the file at {file_len}; examine it with qemu-img check {name}, or \
         restore it from a backup"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sound image without clusters: 64 KiB clusters, 1 GiB, refcount table at 0x10000, L1 table at 0x30000.
    fn sound() -> Vec<u8> {
        let mut image = vec![0; 0x40000];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_be_bytes());
        put(4, &3u32.to_be_bytes());
        put(20, &16u32.to_be_bytes());
        put(24, &(1u64 << 30).to_be_bytes());
        put(36, &2u32.to_be_bytes());
        put(40, &0x30000u64.to_be_bytes());
        put(48, &0x10000u64.to_be_bytes());
        put(56, &1u32.to_be_bytes());
        put(96, &4u32.to_be_bytes());
        put(100, &112u32.to_be_bytes());
        image
    }

    fn open(image: &[u8]) -> Result<Header, String> {
        check("disk.qcow2", image.len() as u64, &|offset, len| {
            let mut out = vec![0; len];
            let from = image
                .get(usize::try_from(offset).unwrap()..)
                .unwrap_or_default();
            let n = from.len().min(len);
            out[..n].copy_from_slice(&from[..n]);
            Ok(out)
        })
    }

    /// What `open` says about the sound image with `bytes` at `at`.
    fn patched(at: usize, bytes: &[u8]) -> String {
        let mut image = sound();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        open(&image).unwrap_err()
    }

    #[test]
    fn a_sound_header_tells_size_and_clusters() {
        let header = open(&sound()).unwrap();
        assert_eq!((header.version, header.size), (3, 1 << 30));
        assert_eq!((header.cluster_size, header.backing), (65536, None));
    }

    #[test]
    fn every_flaw_has_its_own_message_and_a_remedy() {
        let be = u32::to_be_bytes;
        for (at, bytes, what, remedy) in [
            (0, be(7).to_vec(), "not a qcow2 image", "format=raw"),
            (4, be(4).to_vec(), "version 4", "qemu-img convert"),
            (20, be(8).to_vec(), "cluster_bits is 8", "qemu-img check"),
            (20, be(63).to_vec(), "cluster_bits is 63", "qemu-img check"),
            (
                32,
                be(1).to_vec(),
                "encrypted (crypt_method 1)",
                "qemu-img convert",
            ),
            (
                32,
                be(2).to_vec(),
                "encrypted (crypt_method 2)",
                "qemu-img convert",
            ),
            (36, be(u32::MAX).to_vec(), "L1 table has", "qemu-img check"),
            (36, be(1).to_vec(), "covers 536870912 of", "qemu-img check"),
            (
                40,
                0x30200u64.to_be_bytes().to_vec(),
                "L1 table begins",
                "qemu-img check",
            ),
            (
                40,
                0x40000u64.to_be_bytes().to_vec(),
                "truncated: its L1 table",
                "backup",
            ),
            (
                40,
                (u64::MAX << 16).to_be_bytes().to_vec(),
                "L1 table",
                "backup",
            ),
            (
                48,
                0x50000u64.to_be_bytes().to_vec(),
                "truncated: its refcount",
                "backup",
            ),
            (56, be(0).to_vec(), "no refcount table", "qemu-img check"),
            (
                56,
                be(u32::MAX).to_vec(),
                "refcount table has",
                "qemu-img check",
            ),
            (
                72,
                1u64.to_be_bytes().to_vec(),
                "dirty",
                "qemu-img check -r all disk.qcow2",
            ),
            (
                72,
                2u64.to_be_bytes().to_vec(),
                "corrupt",
                "qemu-img check -r all disk.qcow2",
            ),
            (
                72,
                4u64.to_be_bytes().to_vec(),
                "external data file",
                "qemu-img convert",
            ),
            (
                72,
                8u64.to_be_bytes().to_vec(),
                "compressed",
                "qemu-img convert",
            ),
            (
                72,
                16u64.to_be_bytes().to_vec(),
                "extended L2",
                "qemu-img convert",
            ),
            (
                72,
                (1u64 << 40).to_be_bytes().to_vec(),
                "not known here",
                "qemu-img convert",
            ),
            (96, be(7).to_vec(), "refcount_order is 7", "qemu-img check"),
            (
                100,
                be(72).to_vec(),
                "header_length is 72",
                "qemu-img check",
            ),
        ] {
            let message = patched(at, &bytes);
            assert!(message.contains(what), "{what}: {message}");
            assert!(message.contains(remedy), "{remedy}: {message}");
        }
    }

    #[test]
    fn a_file_cut_at_any_byte_is_refused() {
        let image = sound();
        for len in [0, 3, 4, 71, 72, 103, 104, 112, 65536, 0x30000, 0x3000f] {
            let message = open(&image[..len]).unwrap_err();
            assert!(
                message.contains("truncated") || message.contains("not a qcow2"),
                "{len}: {message}"
            );
        }
    }

    #[test]
    fn a_backing_file_without_format_is_refused_and_named() {
        let mut image = sound();
        image[8..16].copy_from_slice(&512u64.to_be_bytes());
        image[16..20].copy_from_slice(&8u32.to_be_bytes());
        image[512..520].copy_from_slice(b"base.img");
        let message = open(&image).unwrap_err();
        assert!(
            message.contains("base.img") && message.contains("rebase -u -F"),
            "{message}"
        );

        image[112..116].copy_from_slice(&0xe279_2acau32.to_be_bytes());
        image[116..120].copy_from_slice(&3u32.to_be_bytes());
        image[120..123].copy_from_slice(b"raw");
        let backing = open(&image).unwrap().backing.unwrap();
        assert_eq!(
            (backing.file.as_str(), backing.format.as_str()),
            ("base.img", "raw")
        );
    }

    #[test]
    fn an_extension_that_leaves_the_first_cluster_is_refused() {
        assert!(patched(112, &[0, 0, 0, 9, 0xff, 0xff, 0xff, 0xff]).contains("extension"));
    }
}
