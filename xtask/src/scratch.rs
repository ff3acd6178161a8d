//! Temporary directories that go away even when we are killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// A temporary directory. A janitor, out of reach of the terminal's signals, waits for the end of a pipe
/// that only we hold open, and then removes it: after a normal end, Ctrl-C, or `kill -9` alike.
pub struct Scratch {
    path: PathBuf,
    janitor: Child,
}

impl Scratch {
    /// Makes a new directory where temporary files go.
    pub fn new() -> Result<Self> {
        Self::below(&std::env::temp_dir())
    }

    /// Makes one whose files are in memory.
    pub fn in_memory() -> Result<Self> {
        Self::below(Path::new("/dev/shm"))
    }

    fn below(directory: &Path) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Short: a Unix socket's path has at most 107 bytes.
        let path = directory.join(format!("lunar-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let janitor = {
            use std::os::unix::process::CommandExt;
            Command::new("sh")
                .args(["-c", "cat >/dev/null; exec rm -rf -- \"$1\"", "janitor"])
                .arg(&path)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .process_group(0)
                .spawn()
                .context("cannot start the janitor")?
        };
        Ok(Self { path, janitor })
    }

    /// A file in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Leaves the directory in place for good.
    pub fn keep(mut self) -> PathBuf {
        // Losing this race would only remove what was to be kept; `kill` comes before the pipe closes.
        let _ = self.janitor.kill();
        self.path.clone()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
    }
}
