//! Who runs on which processor.

use anyhow::{Context, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// One processor for whoever serves, another for whoever asks.
pub struct Processors {
    pub server: usize,
    pub client: usize,
}

impl Processors {
    /// The first two that this process may use.
    pub fn choose() -> anyhow::Result<Processors> {
        let allowed = sched_getaffinity(None).context("the processors of this process")?;
        let mut numbers = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
        let (first, second) = (numbers.next(), numbers.next());
        ensure!(
            second.is_some(),
            "there must be two processors: one for the server and one for the client"
        );
        Ok(Processors {
            server: first.unwrap_or_default(),
            client: second.unwrap_or_default(),
        })
    }
}

/// This thread, and what it starts from now on, runs there only.
pub fn stay_on(cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("processor {cpu}"))
}
