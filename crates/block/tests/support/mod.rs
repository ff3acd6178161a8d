//! A reactor to run tests on, memory like a guest's, and images of every kind.
#![allow(
    unsafe_code,
    dead_code,
    missing_docs,
    reason = "tests make scatter-gather lists of their own memory; not every test uses everything"
)]

pub mod reactor;
pub mod steps;
pub mod suite;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use libc::iovec;
use lunar_block::{Driver, Error, Image, NodeOptions, open_node};
use lunar_sgl::Sgl;

pub use reactor::Reactor;

/// Memory in pieces, each at an address of the wanted oddness.
pub struct Memory {
    pieces: Vec<(Box<[u8]>, usize)>,
    segments: Vec<iovec>,
    len: usize,
}

impl Memory {
    /// `lens` says how long the pieces are; each begins `skew` bytes after a multiple of 4096.
    pub fn new(lens: &[usize], skew: usize) -> Memory {
        let mut pieces: Vec<(Box<[u8]>, usize)> = lens
            .iter()
            .map(|len| {
                let bytes = vec![0xEEu8; len + 2 * 4096].into_boxed_slice();
                let start = bytes.as_ptr().align_offset(4096) + skew % 4096;
                (bytes, start)
            })
            .collect();
        let segments = pieces
            .iter_mut()
            .zip(lens)
            .map(|((bytes, start), len)| iovec {
                iov_base: bytes[*start..].as_mut_ptr().cast(),
                iov_len: *len,
            })
            .collect();
        Memory {
            pieces,
            segments,
            len: lens.iter().sum(),
        }
    }

    pub fn with(lens: &[usize], skew: usize, content: &[u8]) -> Memory {
        let memory = Memory::new(lens, skew);
        assert_eq!(memory.sgl().write_at(0, content), content.len());
        memory
    }

    pub fn sgl(&self) -> Sgl {
        // SAFETY: the memory and the array live as long as `self`, which every test keeps until the operation ends.
        unsafe { Sgl::from_raw(&self.segments, self.len) }
    }

    pub fn content(&self) -> Vec<u8> {
        let mut out = vec![0; self.len];
        assert_eq!(self.sgl().read_at(0, &mut out), self.len);
        out
    }
}

/// Runs `command`, which must succeed.
pub fn sh(command: &str, args: &[&str]) -> String {
    let out = Command::new(command)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{command} is needed for this test (package qemu-utils): {e}"));
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(out.status.success(), "{command} {args:?}: {text}");
    text
}

/// Runs `command`, which must fail; returns what it says.
pub fn sh_fails(command: &str, args: &[&str]) -> String {
    let out = Command::new(command).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success(), "{command} {args:?} succeeded");
    text
}

/// A directory on the disk's file system.
pub fn disk_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

pub fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn raw_file(dir: &Path, name: &str, size: u64) -> PathBuf {
    let path = dir.join(name);
    std::fs::File::create(&path).unwrap().set_len(size).unwrap();
    path
}

pub fn qcow2_file(dir: &Path, name: &str, size: u64, more: &[&str]) -> PathBuf {
    let path = dir.join(name);
    let size = size.to_string();
    let mut args = vec!["create", "-q", "-f", "qcow2"];
    args.extend(more);
    args.extend([str(&path), size.as_str()]);
    sh("qemu-img", &args);
    path
}

pub fn open_file(filename: &Path, options: &NodeOptions) -> Result<Arc<dyn Image>, Error> {
    let filename = filename.to_owned();
    open_node(Driver::File { filename }, options)
}

pub fn open_qcow2(file: &Path, options: &NodeOptions) -> Result<Arc<dyn Image>, Error> {
    let file = file.to_owned();
    open_node(Driver::Qcow2 { file }, options)
}

/// What opening says when it is refused.
pub fn refusal(result: Result<Arc<dyn Image>, Error>) -> String {
    match result {
        Err(Error::Open(message) | Error::InUse(message)) => message,
        other => panic!("expected a refusal, not {other:?}"),
    }
}

pub fn read_only() -> NodeOptions {
    NodeOptions {
        read_only: true,
        ..NodeOptions::default()
    }
}
