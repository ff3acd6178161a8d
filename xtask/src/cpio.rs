//! Writes initramfs archives: the "new ASCII" cpio format of the kernel's `driver-api/early-userspace/buffer-format.rst`.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive under construction. Everything in it belongs to root; missing parent directories are added.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    present: BTreeSet<String>,
}

impl Archive {
    /// Adds a directory.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        if path.is_empty() || self.present.contains(path) {
            return Ok(());
        }
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// Adds a file with its permission bits.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> Result<()> {
        self.entry(path, REGULAR | permissions, (0, 0), content)
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        self.entry(path, SYMLINK | 0o777, (0, 0), target.as_bytes())
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) -> Result<()> {
        self.entry(path, CHARACTER_DEVICE | 0o600, (major, minor), &[])
    }

    /// Whether the archive holds this path already.
    pub fn contains(&self, path: &str) -> bool {
        self.present.contains(path)
    }

    /// The finished archive; its length is a multiple of four, so that another one may follow.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.header("TRAILER!!!", 0, (0, 0), 0)?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent)?;
        }
        self.present.insert(path.to_owned());
        self.header(path, mode, device, content.len())?;
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn header(&mut self, path: &str, mode: u32, device: (u32, u32), length: usize) -> Result<()> {
        let length = u32::try_from(length)
            .with_context(|| format!("{path} is too large for an initramfs"))?;
        let name_length = u32::try_from(path.len() + 1)?;
        let inode = u32::try_from(self.present.len())?;
        let fields = [
            inode,
            mode,
            0,
            0,
            1,
            0,
            length,
            0,
            0,
            device.0,
            device.1,
            name_length,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
