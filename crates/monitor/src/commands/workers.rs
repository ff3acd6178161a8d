//! What the threads of the data path have done.

use std::sync::Arc;

use lunar_host::{Host, WorkerThread};

use crate::Error;
use crate::schema::{Empty, qapi};

qapi! {
    /// A thread that serves requests, and what it has done since it was started. `rounds` are turns of its loop in which it
    /// found requests; `interrupts-held` is how often an interrupt that was wanted had to wait because more was to come;
    /// `kicks` are wake-ups by drivers.
    struct WorkerInfo {
        id: String,
        thread_id = "thread-id": i64,
        requests: u64,
        rounds: u64,
        interrupts: u64,
        interrupts_held = "interrupts-held": u64,
        kicks: u64,
        sleeps: u64,
    }
}

/// `x-lunar-workers`.
pub fn query(host: &Arc<Host>, _: Empty) -> Result<Vec<WorkerInfo>, Error> {
    let info = |thread: WorkerThread| WorkerInfo {
        id: thread.name,
        thread_id: thread.id.into(),
        requests: thread.stats.requests,
        rounds: thread.stats.rounds,
        interrupts: thread.stats.interrupts,
        interrupts_held: thread.stats.held,
        kicks: thread.stats.kicks,
        sleeps: thread.stats.sleeps,
    };
    Ok(host.workers().threads().into_iter().map(info).collect())
}
