//! The server as a whole.

use std::sync::Arc;

use lunar_host::{Host, RunState, WorkerThread};

use crate::schema::{Empty, qapi};
use crate::{Error, VersionInfo, VersionTriple};

qapi! {
    /// What the machine would be doing; ours has three states of QEMU's many.
    enum RunStateName {
        /// Requests are taken.
        Running = "running",
        /// They wait.
        Paused = "paused",
        /// Those of a disk wait that an error has stopped.
        IoError = "io-error",
    }

    /// Whether requests are taken.
    struct StatusInfo {
        running: bool,
        status: RunStateName,
    }

    /// Why the server ends.
    enum ShutdownCause {
        /// SIGTERM, SIGINT or SIGHUP.
        HostSignal = "host-signal",
        /// `quit`.
        HostQmpQuit = "host-qmp-quit",
    }

    /// The server ends.
    struct Shutdown {
        guest: bool,
        reason: ShutdownCause,
    }

    /// A thread that serves requests.
    struct IOThreadInfo {
        id: String,
        thread_id = "thread-id": i64,
        poll_max_ns = "poll-max-ns": i64,
        poll_grow = "poll-grow": i64,
        poll_shrink = "poll-shrink": i64,
        aio_max_batch = "aio-max-batch": i64,
    }

    /// A line as people type it.
    struct HumanCommand {
        command_line = "command-line": String,
    }
}

/// `query-status`.
pub fn status(host: &Arc<Host>, _: Empty) -> Result<StatusInfo, Error> {
    let status = match host.status() {
        RunState::Running => RunStateName::Running,
        RunState::Paused => RunStateName::Paused,
        RunState::IoError => RunStateName::IoError,
    };
    Ok(StatusInfo {
        running: status == RunStateName::Running,
        status,
    })
}

/// `stop`.
pub fn stop(host: &Arc<Host>, _: Empty) -> Result<Empty, Error> {
    host.pause()?;
    Ok(Empty {})
}

/// `cont`.
pub fn cont(host: &Arc<Host>, _: Empty) -> Result<Empty, Error> {
    host.resume()?;
    Ok(Empty {})
}

/// `query-iothreads`. A worker looks for work for a fixed time, which neither grows nor shrinks.
pub fn iothreads(host: &Arc<Host>, _: Empty) -> Result<Vec<IOThreadInfo>, Error> {
    let workers = host.workers().threads();
    let info = |worker: WorkerThread| IOThreadInfo {
        id: worker.name,
        thread_id: worker.id.into(),
        poll_max_ns: i64::try_from(worker.spin.as_nanos()).unwrap_or(i64::MAX),
        poll_grow: 0,
        poll_shrink: 0,
        aio_max_batch: 0,
    };
    Ok(workers.into_iter().map(info).collect())
}

/// `query-version`.
pub fn version(_: &Arc<Host>, _: Empty) -> Result<VersionInfo, Error> {
    Ok(version_info())
}

/// Lunar's version, where QEMU has its own.
pub fn version_info() -> VersionInfo {
    let number = |text: &str| text.parse().unwrap_or_default();
    VersionInfo {
        qemu: VersionTriple {
            major: number(env!("CARGO_PKG_VERSION_MAJOR")),
            minor: number(env!("CARGO_PKG_VERSION_MINOR")),
            micro: number(env!("CARGO_PKG_VERSION_PATCH")),
        },
        package: format!("Lunar {}", env!("CARGO_PKG_VERSION")),
    }
}

/// `x-lunar-config`.
pub fn configuration(host: &Arc<Host>, _: Empty) -> Result<String, Error> {
    Ok(host.configuration())
}

/// `quit`.
pub fn quit(host: &Arc<Host>, _: Empty) -> Result<Empty, Error> {
    host.quit();
    Ok(Empty {})
}

/// `human-monitor-command`. What goes wrong is text for people, too.
pub fn human(host: &Arc<Host>, arguments: HumanCommand) -> Result<String, Error> {
    Ok(crate::hmp::run(host, &arguments.command_line))
}
