//! Finding out that a file or device has grown by itself.
//!
//! A file grows by the hand of a program that opens it, makes it longer and closes it; the last of this is what inotify
//! tells of. To be told of every change would mean to be told of every write of our own guests. Devices tell nobody:
//! while there are any, their size is looked at every few seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::Host;

/// How often devices are looked at.
const PERIOD: Duration = Duration::from_secs(5);

/// What is watched, for which nodes.
#[derive(Debug)]
pub(crate) struct Growth {
    inotify: OwnedFd,
    /// There is something to consider, besides files.
    wake: OwnedFd,
    watched: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    /// Names of nodes by the watch of their file.
    files: BTreeMap<i32, BTreeSet<String>>,
    /// Names of nodes that are devices.
    devices: BTreeSet<String>,
    ended: bool,
}

impl Growth {
    /// `None` when the system has no watches left: then only explicit orders find growth.
    pub fn new() -> Option<Arc<Growth>> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        match (inotify, wake) {
            (Ok(inotify), Ok(wake)) => Some(Arc::new(Growth {
                inotify,
                wake,
                watched: Mutex::default(),
            })),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(%error, "growing files are not noticed");
                None
            }
        }
    }

    /// The node is in the file at `path`.
    pub fn add_file(&self, node: &str, path: &Path) {
        let mut watched = self.lock();
        match inotify::add_watch(&self.inotify, path, WatchFlags::CLOSE_WRITE) {
            Ok(watch) => {
                let nodes = watched.files.entry(watch).or_default();
                nodes.insert(node.to_owned());
            }
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "it is not noticed when it grows");
            }
        }
    }

    /// The node is a device.
    pub fn add_device(&self, node: &str) {
        self.lock().devices.insert(node.to_owned());
        self.wake();
    }

    /// The node is about to be closed.
    pub fn remove(&self, node: &str) {
        let mut watched = self.lock();
        watched.devices.remove(node);
        watched.files.retain(|&watch, nodes| {
            nodes.remove(node);
            if nodes.is_empty() {
                // The file may be gone, and its watch with it.
                let _ = inotify::remove_watch(&self.inotify, watch);
            }
            !nodes.is_empty()
        });
    }

    /// Follows what is watched on a thread of its own, until it is told to end or the host is gone.
    pub fn follow(self: &Arc<Growth>, host: Weak<Host>) -> std::io::Result<JoinHandle<()>> {
        let growth = Arc::clone(self);
        let thread = std::thread::Builder::new().name("lunar-growth".into());
        thread.spawn(move || {
            while let Some(nodes) = growth.next() {
                let Some(host) = host.upgrade() else {
                    return;
                };
                for node in nodes {
                    // It may have been removed in the meantime.
                    if let Err(error) = host.refresh(&node) {
                        tracing::debug!(node, error = %error.line(), "not looked at");
                    }
                }
            }
        })
    }

    /// Ends the following.
    pub fn end(&self) {
        self.lock().ended = true;
        self.wake();
    }

    /// The nodes that may have grown; waits for some. `None` at the end.
    fn next(&self) -> Option<Vec<String>> {
        let period = Timespec {
            tv_sec: PERIOD.as_secs().cast_signed(),
            tv_nsec: 0,
        };
        loop {
            let polled = {
                let watched = self.lock();
                if watched.ended {
                    return None;
                }
                !watched.devices.is_empty()
            };
            let mut fds = [
                PollFd::new(&self.inotify, PollFlags::IN),
                PollFd::new(&self.wake, PollFlags::IN),
            ];
            let timeout = polled.then_some(&period);
            if let Ok(0) = poll(&mut fds, timeout) {
                return Some(self.lock().devices.iter().cloned().collect());
            }
            // Only whether there was something.
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
            let closed = self.closed_files();
            if !closed.is_empty() {
                return Some(closed);
            }
        }
    }

    /// The nodes whose files somebody has finished writing to.
    fn closed_files(&self) -> Vec<String> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut watches = BTreeSet::new();
        while let Ok(event) = events.next() {
            watches.insert(event.wd());
        }
        let watched = self.lock();
        let nodes = watches
            .iter()
            .filter_map(|watch| watched.files.get(watch))
            .flatten();
        nodes.cloned().collect()
    }

    fn wake(&self) {
        // The counter cannot be full.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
