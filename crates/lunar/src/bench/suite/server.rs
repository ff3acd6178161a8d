//! The servers that are measured.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use rustix::process::{Pid, Signal, kill_process};

use super::pinning::{Processors, stay_on};

/// How long a server may take until it can be connected to.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server at work; it ends when this goes.
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    pub fn start(
        mut command: Command,
        sockets: &[PathBuf],
        directory: &Path,
        processors: &Processors,
    ) -> anyhow::Result<Server> {
        let log = directory.join("log");
        let messages = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(messages.try_clone()?);
        stay_on(processors.server)?;
        let child = command.stderr(messages).spawn();
        let program = command.get_program().display().to_string();
        let mut server = Server {
            child: child.context(program)?,
            log,
        };
        let deadline = Instant::now() + PATIENCE;
        while !sockets.iter().all(|socket| socket.exists()) {
            if let Some(status) = server.child.try_wait()? {
                let error = anyhow!("it ended with {status}");
                return Err(server.explain(error));
            }
            if Instant::now() > deadline {
                let error = anyhow!("no socket after {PATIENCE:?}");
                return Err(server.explain(error));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // It may listen a moment after its socket is there; to try would be to connect, which some take once only.
        std::thread::sleep(Duration::from_millis(50));
        Ok(server)
    }

    pub fn process(&self) -> Option<i32> {
        i32::try_from(self.child.id()).ok()
    }

    /// What went wrong, and what the server said last.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        match log.lines().rev().find(|line| !line.trim().is_empty()) {
            Some(last) => anyhow!("{error:#}; the server's last words: {}", last.trim()),
            None => error,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It cannot have gone without being waited for.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
