//! The images that are measured.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use rustix::fs::{Advice, fadvise};

use super::Suite;
use super::case::Image;

/// The images made so far, which go when this goes.
pub struct Files<'a> {
    options: &'a Suite,
    made: BTreeMap<Image, PathBuf>,
}

impl<'a> Files<'a> {
    pub fn new(options: &'a Suite) -> anyhow::Result<Files<'a>> {
        for directory in [&options.memory, &options.disk] {
            if !directory.is_dir() {
                bail!("{}: not a directory", directory.display());
            }
        }
        Ok(Files {
            options,
            made: BTreeMap::new(),
        })
    }

    /// The file of an image, if it is in one: every byte is there.
    pub fn image(&mut self, image: Image) -> anyhow::Result<Option<PathBuf>> {
        let directory = match image {
            Image::Null | Image::Memory => return Ok(None),
            Image::Tmpfs | Image::Qcow2Tmpfs => &self.options.memory,
            Image::Direct | Image::Qcow2Direct => &self.options.disk,
        };
        if let Some(path) = self.made.get(&image) {
            return Ok(Some(path.clone()));
        }
        let name = if image.is_qcow2() { "qcow2" } else { "raw" };
        let name = format!("lunar-bench-{}.{name}", std::process::id());
        let path = directory.canonicalize()?.join(name);
        // Removed even if it is not finished.
        self.made.insert(image, path.clone());
        let raw = match image.is_qcow2() {
            true => path.with_extension("fill"),
            false => path.clone(),
        };
        let filled = fill(&raw, self.options.size).with_context(|| raw.display().to_string());
        if image.is_qcow2() {
            let converted = filled.and_then(|()| convert(&raw, &path));
            let _ = std::fs::remove_file(&raw);
            converted?;
        } else {
            filled?;
        }
        Ok(Some(path))
    }
}

/// Writes back what the host's cache has of a file, and forgets it: what one turn has left there is no help to the next, nor
/// is it written at its cost.
pub fn cool(path: &Path) -> std::io::Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
}

impl Drop for Files<'_> {
    fn drop(&mut self) {
        for path in self.made.values() {
            // There is nobody to tell.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Bytes that are no zeroes, so that nobody can save them.
fn fill(path: &Path, mebibytes: u32) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut block = vec![0; 1 << 20];
    for _ in 0..mebibytes {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_ne_bytes());
        }
        file.write_all(&block)?;
    }
    file.sync_all()
}

fn convert(raw: &Path, qcow2: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", "raw", "-O", "qcow2"]);
    let output = command.arg(raw).arg(qcow2).output();
    let output = output.context("qemu-img, which makes qcow2 images (apt install qemu-utils)")?;
    if !output.status.success() {
        bail!("qemu-img: {}", String::from_utf8_lossy(&output.stderr));
    }
    File::open(qcow2)?.sync_all()?;
    Ok(())
}
