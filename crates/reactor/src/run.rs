//! The loop, and the thread it runs on.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::handle::Handle;
use crate::remote::{Mailbox, Remote};
use crate::ring::{Event, Ring};
use crate::spin::Spin;
use crate::{App, DEFERRED, Token};

/// Messages handled in one turn, so that a flood of them cannot starve the rings.
const MESSAGES_PER_TURN: usize = 64;

/// Turns without anything in flight that a stopping loop may still find work in.
const STOPPING_TURNS: u32 = 1000;

/// How a reactor is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the thread; the kernel keeps 15 characters.
    pub name: String,
    /// Entries of the submission queue. What is in flight is not bounded by it.
    pub entries: u32,
    /// How long to look for work at most before sleeping; the loop adapts below this.
    pub spin: Duration,
    /// The processors to stay on; without any it runs where the system puts it.
    pub cpus: Vec<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            name: "reactor".into(),
            entries: 256,
            spin: Duration::from_micros(32),
            cpus: Vec::new(),
        }
    }
}

/// A running reactor.
#[derive(Debug)]
pub struct Thread<M> {
    remote: Remote<M>,
    join: JoinHandle<()>,
}

impl<M: Send + 'static> Thread<M> {
    /// Where to send messages.
    pub fn remote(&self) -> &Remote<M> {
        &self.remote
    }

    /// Has it look for work for so long at most before it sleeps, from the next time on that there is nothing to do.
    pub fn set_spin(&self, spin: Duration) {
        self.remote.mailbox.set_spin(spin);
    }

    /// Ends the loop once every operation in flight has completed, and joins the thread. Returns whether the thread
    /// ended orderly, that is, without a panic.
    pub fn stop(self) -> bool {
        self.remote.mailbox.stop();
        self.join.join().is_ok()
    }
}

/// Starts a reactor thread. `make` builds the application there, so that what it allocates is near its processors; this
/// returns when it has.
///
/// # Errors
/// The thread could not be started or may not run on these processors, or the ring could not be set up.
pub fn spawn<A: App>(
    config: Config,
    make: impl FnOnce(Handle) -> A + Send + 'static,
) -> std::io::Result<Thread<A::Message>> {
    let (started, start) = std::sync::mpsc::sync_channel(1);
    let join = std::thread::Builder::new()
        .name(config.name.clone())
        .spawn(move || {
            let reactor = pin(&config.cpus).and_then(|()| Reactor::new(config.entries, make));
            match reactor {
                Ok(mut reactor) => {
                    reactor.mailbox.0.set_spin(config.spin);
                    let _ = started.send(Ok(reactor.remote()));
                    reactor.run();
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        })?;
    match start.recv() {
        Ok(Ok(remote)) => Ok(Thread { remote, join }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(std::io::Error::other(
            "the reactor thread ended while it was starting",
        )),
    }
}

/// Keeps the calling thread on these processors, if there are any. The system leaves out what is not there, and refuses
/// when nothing is left.
fn pin(cpus: &[usize]) -> std::io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for &cpu in cpus.iter().filter(|cpu| **cpu < CpuSet::MAX_CPU) {
        set.set(cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// Refuses messages once the reactor is gone, however it ended: whoever waits for an answer then learns it.
struct Closer<M>(Arc<Mailbox<M>>);

impl<M> Drop for Closer<M> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Takes the thread's handle away before the thread's other values go.
struct Unset;

impl Drop for Unset {
    fn drop(&mut self) {
        Handle::set_current(None);
    }
}

/// A reactor on the thread that made it, for a thread that has a loop of its own and takes [turns](Reactor::turn) in it;
/// [`spawn`] gives a reactor a thread. One thread has one at a time.
pub struct Reactor<A: App> {
    app: A,
    _unset: Unset,
    handle: Handle,
    mailbox: Closer<A::Message>,
    /// The watch of the event by which other threads wake this one.
    bell: usize,
    stopping: bool,
}

impl<A: App> std::fmt::Debug for Reactor<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reactor")
            .field("stopping", &self.stopping)
            .finish_non_exhaustive()
    }
}

impl<A: App> Reactor<A> {
    /// Sets a ring with so many submission entries up, and lets `make` build the application.
    ///
    /// # Errors
    /// The ring could not be set up.
    pub fn new(entries: u32, make: impl FnOnce(Handle) -> A) -> std::io::Result<Reactor<A>> {
        let mailbox = Mailbox::new()?;
        let event = mailbox.bell.event().try_clone()?;
        let mailbox = Closer(mailbox);
        let handle = Handle::new(Ring::new(entries)?, Arc::clone(&mailbox.0.bell));
        Handle::set_current(Some(handle.clone()));
        let unset = Unset;
        // Ready events of this watch need no handling: the wake-up is all.
        let bell = handle.ring.watch(event, Some(BELL));
        Ok(Reactor {
            app: make(handle.clone()),
            _unset: unset,
            handle,
            mailbox,
            bell,
            stopping: false,
        })
    }

    /// Where to send messages.
    pub fn remote(&self) -> Remote<A::Message> {
        Remote {
            mailbox: Arc::clone(&self.mailbox.0),
        }
    }

    /// Does everything that there is to do now, within bounds, and returns whether there was anything. It never sleeps.
    pub fn turn(&mut self) -> bool {
        let Reactor { app, handle, .. } = self;
        let mailbox = &*self.mailbox.0;
        let mut worked = false;
        handle.ring.begin_turn();
        let woken = mailbox.bell.take_woken();
        if woken {
            for _ in 0..MESSAGES_PER_TURN {
                let Some(message) = mailbox.take() else { break };
                app.message(message);
                worked = true;
            }
            if worked {
                // There may be more than one turn's worth.
                mailbox.bell.look_again();
            }
            self.stopping = mailbox.stopping();
        }
        worked |= handle.ring.retry(|token| app.complete(token, DEFERRED));
        worked |= app.poll();
        handle.ring.forget_now();
        worked |= handle.ring.reap(|event| match event {
            Event::Complete(token, result) => app.complete(token, result),
            Event::Ready(BELL) => {}
            Event::Ready(token) => app.ready(token),
        });
        // Every wake rings the bell, so a quiet one saves the look at the list of tasks.
        if woken || mailbox.bell.is_woken() {
            worked |= handle.executor.run();
        }
        app.flush();
        handle.ring.submit();
        worked
    }

    /// Takes turns until it is told to stop, and sleeps when there is nothing to do.
    fn run(&mut self) {
        let mut spinning = Spin::new(Duration::from_nanos(self.mailbox.0.spin()));
        let mut grace = STOPPING_TURNS;
        loop {
            let in_kernel = self.handle.ring.in_flight() > 0;
            let worked = self.turn();
            if self.stopping && self.handle.ring.is_idle() {
                // An application that always finds work must not keep the thread alive.
                grace = grace.saturating_sub(1);
                if !worked || grace == 0 {
                    break;
                }
            }
            if worked {
                spinning.worked(in_kernel);
                continue;
            }
            spinning.limit(self.mailbox.0.spin());
            if !self.stopping && spinning.goes_on(in_kernel) {
                std::hint::spin_loop();
                continue;
            }
            let bell = &self.mailbox.0.bell;
            if !self.app.arm() && bell.lie_down() {
                let since = spinning.sleeps();
                self.handle.ring.wait();
                bell.get_up();
                spinning.slept(since, in_kernel);
            }
            self.app.disarm();
        }
    }
}

impl<A: App> Drop for Reactor<A> {
    fn drop(&mut self) {
        self.handle.ring.unwatch(self.bell);
        // Tasks hold the handle, and the handle the tasks.
        if !std::thread::panicking() {
            self.handle.executor.clear();
        }
    }
}

/// The reactor's own watch.
const BELL: Token = Token(u64::MAX);
