//! `--qemu-monitor`: when an error stops a disk, the machine that uses it is paused as well, through QEMU's own monitor,
//! and goes on with the disk.
//!
//! What is wanted of a machine is a state, not a list of orders: it is to be *held* while a disk of it is stopped. One
//! thread hears of what happens in the host and says so to a thread for each machine, which brings its QEMU to that state
//! however long this takes. So neither the data path nor our monitor waits for a QEMU, one that hangs keeps none of the
//! others waiting, and one that cannot be reached at the moment is tried again.
//!
//! Only a machine that we have paused is resumed by us. If somebody else resumes one that is held, that is meant for the
//! disk, too: what has failed is tried again.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lunar_host::{DeviceInfo, End, Event, Host, IoStatus, Subscription};
use lunar_monitor::{Client, ClientError};
use serde_json::{Value, json};

/// How long QEMU has for an answer, and until it is asked again if it gives none.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);
/// How long a QEMU that was to go on is looked for before it is given up as gone.
const SEARCH: Duration = Duration::from_secs(60);

/// What holds machines while their disks are stopped.
#[derive(Debug)]
pub struct Machines {
    events: Subscription,
    watcher: JoinHandle<()>,
}

impl Machines {
    /// Begins. `default` is the monitor of controllers that have none of their own.
    pub fn start(host: &Arc<Host>, default: Option<PathBuf>) -> std::io::Result<Machines> {
        let events = host.events();
        let watcher = Watcher {
            host: Arc::clone(host),
            default,
            machines: BTreeMap::new(),
        };
        let thread = std::thread::Builder::new().name("machines".into());
        let own = events.clone();
        Ok(Machines {
            events,
            watcher: thread.spawn(move || watcher.watch(&own))?,
        })
    }

    /// Ends, and lets go of the machines that are held.
    pub fn stop(self) {
        self.events.close();
        if self.watcher.join().is_err() {
            tracing::error!("the thread that pauses machines has panicked");
        }
    }
}

struct Watcher {
    host: Arc<Host>,
    default: Option<PathBuf>,
    /// By the path of their monitor.
    machines: BTreeMap<PathBuf, Machine>,
}

impl Watcher {
    fn watch(mut self, events: &Subscription) {
        loop {
            match events.next() {
                Ok(occurrence) => match occurrence.event {
                    Event::Stop | Event::Resume | Event::BlockIoError { .. } => {}
                    Event::DeviceDeleted { .. } if !self.machines.is_empty() => {}
                    _ => continue,
                },
                Err(End::Over) => return,
                Err(end) => {
                    tracing::error!(error = %end, "machines are no longer paused with their disks");
                    return;
                }
            }
            let held = self.to_be_held();
            for (path, machine) in &self.machines {
                machine.hold(held.contains(path));
            }
            for path in held {
                if !self.machines.contains_key(&path) {
                    let host = Arc::clone(&self.host);
                    let machine = Machine::start(path.clone(), move || host.retry());
                    machine.hold(true);
                    self.machines.insert(path, machine);
                }
            }
        }
    }

    /// The monitors of machines of which a disk is stopped.
    fn to_be_held(&self) -> BTreeSet<PathBuf> {
        let stopped = |device: &DeviceInfo| device.io_status != IoStatus::Ok;
        let mut buses: Vec<_> = self.host.devices().into_iter().filter(stopped).collect();
        if buses.is_empty() {
            return BTreeSet::new();
        }
        buses.sort_by(|a, b| a.bus.cmp(&b.bus));
        buses.dedup_by(|a, b| a.bus == b.bus);
        let model = self.host.model();
        let monitors = buses.iter().filter_map(|device| {
            let own = model.controller(&device.bus)?.options.qemu_monitor.as_ref();
            own.map(PathBuf::from).or_else(|| self.default.clone())
        });
        monitors.collect()
    }
}

/// A machine and the thread that holds it. Dropped, it lets go of it.
#[derive(Debug)]
struct Machine {
    wanted: Arc<Wanted>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Wanted {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    held: bool,
    /// QEMU says that somebody has resumed it.
    resumed: bool,
    ended: bool,
}

impl Machine {
    fn start(path: PathBuf, retry: impl Fn() + Send + 'static) -> Machine {
        let wanted = Arc::<Wanted>::default();
        let keeper = Keeper {
            path,
            wanted: Arc::clone(&wanted),
            ours: false,
        };
        let thread = std::thread::Builder::new()
            .name("machine".into())
            .spawn(move || keeper.run(&retry));
        if let Err(error) = &thread {
            tracing::error!(%error, "a machine cannot be paused with its disk");
        }
        Machine {
            wanted,
            thread: thread.ok(),
        }
    }

    fn hold(&self, held: bool) {
        self.wanted.change(|state| state.held = held);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.wanted.change(|state| {
            state.held = false;
            state.ended = true;
        });
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that pauses a machine has panicked");
        }
    }
}

impl Wanted {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for what `until` waits for, for a limited time. Whether it came.
    fn wait(&self, time: Option<Duration>, until: impl Fn(&State) -> bool) -> bool {
        let state = self.lock();
        let waits = |state: &mut State| !until(state);
        match time {
            None => drop(self.changed.wait_while(state, waits)),
            Some(time) => {
                let waited = self.changed.wait_timeout_while(state, time, waits);
                let (_state, late) = waited.unwrap_or_else(PoisonError::into_inner);
                return !late.timed_out();
            }
        }
        true
    }
}

/// Brings one QEMU to the state that is wanted.
struct Keeper {
    path: PathBuf,
    wanted: Arc<Wanted>,
    /// The machine does not run because of us.
    ours: bool,
}

impl Keeper {
    fn run(mut self, retry: &impl Fn()) {
        loop {
            self.wanted.wait(None, |state| state.held || state.ended);
            if self.wanted.lock().ended {
                return;
            }
            self.hold(retry);
        }
    }

    /// From the time when the machine is to be held to the time when it goes on.
    fn hold(&mut self, retry: &impl Fn()) {
        let mut told = false;
        let mut since = None;
        loop {
            let (held, ended) = {
                let state = self.wanted.lock();
                (state.held, state.ended)
            };
            if !held && !self.ours {
                return;
            }
            let error = match self.attend(retry) {
                Ok(()) => return,
                Err(error) => error,
            };
            if !told {
                tracing::warn!(%error, "a disk of this machine is stopped, and its QEMU cannot be told");
                told = true;
            }
            let searched = !held && since.get_or_insert_with(Instant::now).elapsed() > SEARCH;
            if !held && (searched || ended || !self.path.exists()) {
                let path = self.path.display();
                tracing::warn!(
                    "{path}: the machine was paused, and there is nobody to tell that it may go on"
                );
                self.ours = false;
                return;
            }
            self.wanted.wait(Some(PAUSE), |state| {
                state.held != held || state.ended != ended
            });
        }
    }

    /// One session with QEMU, to the time when the machine goes on.
    fn attend(&mut self, retry: &impl Fn()) -> Result<(), ClientError> {
        let wanted = Arc::clone(&self.wanted);
        let hear = move |event: Value| {
            if event.get("event").and_then(Value::as_str) == Some("RESUME") {
                wanted.change(|state| state.resumed = true);
            }
        };
        let mut qemu = Client::connect_within(&self.path, PATIENCE, hear)?;
        loop {
            // Whatever it was, it is looked at now.
            self.wanted.change(|state| state.resumed = false);
            let running = is_running(&mut qemu)?;
            if !self.wanted.lock().held {
                if self.ours && !running {
                    qemu.execute::<Value>("cont", json!({}))?;
                }
                self.ours = false;
                return Ok(());
            }
            match (running, self.ours) {
                (true, false) => {
                    // Also if there is no answer, it may have happened.
                    self.ours = true;
                    qemu.execute::<Value>("stop", json!({}))?;
                    tracing::info!(monitor = %self.path.display(), "paused, because a disk of it is stopped");
                    continue;
                }
                (true, true) => {
                    self.ours = false;
                    retry();
                }
                (false, _) => {}
            }
            self.await_news(&mut qemu)?;
        }
    }

    /// Waits until something else is wanted, QEMU resumes, or it has gone.
    fn await_news(&self, qemu: &mut Client) -> Result<(), ClientError> {
        let news = |state: &State| !state.held || state.resumed;
        while !self.wanted.wait(Some(PAUSE), news) {
            if is_running(qemu)? {
                break;
            }
        }
        Ok(())
    }
}

fn is_running(qemu: &mut Client) -> Result<bool, ClientError> {
    let status: Value = qemu.execute("query-status", json!({}))?;
    Ok(status.get("running").and_then(Value::as_bool) == Some(true))
}
