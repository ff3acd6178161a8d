//! The loop, and the thread it runs on.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::handle::Handle;
use crate::remote::{Mailbox, Remote};
use crate::ring::{Event, Ring};
use crate::{App, Token};

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
    /// The processor to stay on.
    pub cpu: Option<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            name: "reactor".into(),
            entries: 256,
            spin: Duration::from_micros(32),
            cpu: None,
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

    /// Ends the loop once every operation in flight has completed, and joins the thread. Returns whether the thread
    /// ended orderly, that is, without a panic.
    pub fn stop(self) -> bool {
        self.remote.mailbox.stop();
        self.join.join().is_ok()
    }
}

/// Starts a reactor thread. `make` builds the application there; this returns when it has, or when the ring could not
/// be set up.
pub fn spawn<A: App>(
    config: Config,
    make: impl FnOnce(Handle) -> A + Send + 'static,
) -> std::io::Result<Thread<A::Message>> {
    let mailbox = Mailbox::new()?;
    let remote = Remote {
        mailbox: Arc::clone(&mailbox),
    };
    let (started, start) = std::sync::mpsc::sync_channel(1);
    let join = std::thread::Builder::new()
        .name(config.name.clone())
        .spawn(move || {
            if let Some(cpu) = config.cpu {
                pin(cpu);
            }
            match Ring::new(config.entries) {
                Ok(ring) => {
                    let _closer = Closer(&mailbox);
                    let handle = Handle::new(ring, Arc::clone(&mailbox.bell));
                    Handle::set_current(Some(handle.clone()));
                    let _unset = Unset;
                    let mut app = make(handle.clone());
                    let _ = started.send(Ok(()));
                    run(&mut app, &handle, &mailbox, config.spin);
                    handle.executor.clear();
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        })?;
    match start.recv() {
        Ok(Ok(())) => Ok(Thread { remote, join }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(std::io::Error::other(
            "the reactor thread ended while it was starting",
        )),
    }
}

/// A processor that is not there leaves the thread unpinned.
fn pin(cpu: usize) {
    if cpu < rustix::thread::CpuSet::MAX_CPU {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
}

/// Refuses messages once the thread is gone, however it ended: whoever waits for an answer then learns it.
struct Closer<'a, M>(&'a Mailbox<M>);

impl<M> Drop for Closer<'_, M> {
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

fn run<A: App>(app: &mut A, handle: &Handle, mailbox: &Mailbox<A::Message>, spin: Duration) {
    let Ok(event) = mailbox.bell.event().try_clone() else {
        return;
    };
    let ring: &Ring = &handle.ring;
    // Ready events of this watch need no handling: the wake-up is all.
    let bell = ring.watch(event, Some(BELL));
    let mut spinning = Spin::new(spin);
    let mut stopping = false;
    let mut grace = STOPPING_TURNS;
    loop {
        let mut worked = false;
        ring.begin_turn();
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
            stopping = mailbox.stopping();
        }
        worked |= app.poll();
        ring.forget_now();
        worked |= ring.reap(|event| match event {
            Event::Complete(token, result) => app.complete(token, result),
            Event::Ready(BELL) => {}
            Event::Ready(token) => app.ready(token),
        });
        // Every wake rings the bell, so a quiet one saves the look at the list of tasks.
        if woken || mailbox.bell.is_woken() {
            worked |= handle.executor.run();
        }
        app.flush();
        ring.submit();
        if stopping && ring.in_flight() == 0 {
            // An application that always finds work must not keep the thread alive.
            grace = grace.saturating_sub(1);
            if !worked || grace == 0 {
                break;
            }
        }
        if worked {
            spinning.restart();
            continue;
        }
        if !stopping && spinning.goes_on() {
            std::hint::spin_loop();
            continue;
        }
        if !app.arm() && mailbox.bell.lie_down() {
            let asleep = Instant::now();
            ring.wait();
            mailbox.bell.get_up();
            spinning.slept(asleep.elapsed());
        }
        app.disarm();
    }
    ring.unwatch(bell);
}

/// The reactor's own watch.
const BELL: Token = Token(u64::MAX);

/// How long to look for work before sleeping: grows while sleeps turn out short (work comes sooner than a wake-up
/// costs), shrinks while they turn out long.
struct Spin {
    max: Duration,
    now: Duration,
    since: Option<Instant>,
}

impl Spin {
    fn new(max: Duration) -> Spin {
        Spin {
            max,
            now: max / 4,
            since: None,
        }
    }

    /// There was work.
    fn restart(&mut self) {
        self.since = None;
    }

    fn goes_on(&mut self) -> bool {
        if self.now.is_zero() {
            return false;
        }
        match self.since {
            None => {
                self.since = Some(Instant::now());
                true
            }
            Some(since) => since.elapsed() < self.now,
        }
    }

    fn slept(&mut self, time: Duration) {
        self.since = None;
        self.now = if time < self.max {
            (self.now * 2).max(Duration::from_micros(4)).min(self.max)
        } else {
            self.now / 2
        };
    }
}
