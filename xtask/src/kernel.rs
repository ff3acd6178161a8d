//! Takes the ELF kernel out of a distribution's compressed one.
//!
//! QEMU boots an ELF kernel through its PVH entry point: no firmware hand-over in real mode, and no emulated
//! decompression, which saves three seconds a boot.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::process::{spawn, tied};

/// Writes the ELF kernel inside `bzimage` to `elf`.
pub fn extract(bzimage: &Path, elf: &Path) -> Result<()> {
    let image =
        std::fs::read(bzimage).with_context(|| format!("cannot read {}", bzimage.display()))?;
    let payload =
        payload(&image).with_context(|| format!("{} is no bzImage", bzimage.display()))?;
    let decompressor: &[&str] = match payload {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            &["xz", "--decompress", "--stdout", "--single-stream"]
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => &["zstd", "--decompress", "--stdout"],
        [0x1f, 0x8b, ..] => &["gzip", "--decompress", "--stdout"],
        _ => bail!("{}: compressed in a way not known here", bzimage.display()),
    };
    let (program, arguments) = decompressor.split_first().context("no decompressor")?;
    let mut child = spawn(
        tied(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(std::fs::File::create(elf)?)
            .stderr(Stdio::null()),
    )?;
    // It stops reading at the end of the stream; what follows is padding.
    let _ = child.stdin.take().context("no pipe")?.write_all(payload);
    child.wait()?;
    let mut magic = [0; 4];
    std::io::Read::read_exact(&mut std::fs::File::open(elf)?, &mut magic)?;
    if &magic != b"\x7fELF" {
        bail!("{}: no ELF kernel inside", bzimage.display());
    }
    Ok(())
}

/// The compressed kernel, found through the setup header (Documentation/arch/x86/boot.rst).
fn payload(image: &[u8]) -> Option<&[u8]> {
    const SETUP_SECTORS: usize = 0x1f1;
    const MAGIC: usize = 0x202;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24c;
    let word = |at: usize| -> Option<usize> {
        let bytes = image.get(at..at.checked_add(4)?)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    if image.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let setup = (usize::from(*image.get(SETUP_SECTORS)?) + 1) * 512;
    let start = setup.checked_add(word(PAYLOAD_OFFSET)?)?;
    image.get(start..start.checked_add(word(PAYLOAD_LENGTH)?)?)
}
