//! A reactor that runs what tests give it.

#![allow(dead_code, missing_docs, reason = "not every test uses everything")]

use std::future::Future;
use std::sync::mpsc;

use lunar_reactor::{App, Config, Handle, Thread, Token};

type Job = Box<dyn FnOnce(&Handle) + Send>;

struct Runner(Handle);

impl App for Runner {
    type Message = Job;
    fn message(&mut self, job: Job) {
        job(&self.0);
    }
    fn complete(&mut self, token: Token, result: i32) {
        panic!("no test starts direct operations, but {token:?} completed with {result}");
    }
}

/// A reactor thread that runs what tests give it.
pub struct Reactor(Option<Thread<Job>>);

impl Reactor {
    pub fn new() -> Reactor {
        Reactor(Some(
            lunar_reactor::spawn(Config::default(), Runner).unwrap(),
        ))
    }

    /// Runs this on its thread.
    pub fn send(&self, job: impl FnOnce(&Handle) + Send + 'static) {
        assert!(self.0.as_ref().unwrap().remote().send(Box::new(job)));
    }

    /// Whether it ends without a panic.
    pub fn stop(mut self) -> bool {
        self.0.take().unwrap().stop()
    }

    /// Starts a task; the receiver gets its result, or is cut off if the task panics.
    pub fn start<T, F>(&self, task: impl FnOnce(Handle) -> F + Send + 'static) -> mpsc::Receiver<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (send, receive) = mpsc::channel();
        self.send(move |handle| {
            let future = task(handle.clone());
            handle.spawn(async move {
                let _ = send.send(future.await);
            });
        });
        receive
    }

    /// Runs a task to its end.
    pub fn run<T, F>(&self, task: impl FnOnce(Handle) -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        self.start(task)
            .recv_timeout(std::time::Duration::from_secs(60))
            .expect("the task ends")
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            thread.stop();
        }
    }
}
