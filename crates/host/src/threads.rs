//! The threads of the data path that are objects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lunar_virtio_scsi::{Controller, WorkerConfig, WorkerId, Workers};

use crate::Error;
use crate::cpus::Cpus;
use crate::live::Live;
use crate::model::{self, IoThread, Place, Taken};

/// Those that there are, by name.
#[derive(Debug)]
pub(crate) struct Threads {
    workers: Arc<Workers>,
    /// How long one looks for work that does not say.
    spin: Duration,
    running: BTreeMap<String, WorkerId>,
}

impl Threads {
    pub fn new(workers: &Arc<Workers>, spin: Duration) -> Threads {
        Threads {
            workers: Arc::clone(workers),
            spin,
            running: BTreeMap::new(),
        }
    }

    /// The worker that an object is.
    pub fn worker(&self, id: Option<&str>) -> Option<WorkerId> {
        self.running.get(id?).copied()
    }

    fn start(&mut self, thread: &IoThread) -> Result<(), Error> {
        let IoThread { id, poll, cpus, .. } = thread;
        // Nobody could tell them apart.
        if self.workers.threads().iter().any(|other| other.name == *id) {
            let (id, taken) = (id.clone(), Taken::Object);
            return Err(model::Error::DuplicateId { id, taken }.into());
        }
        cpus.check().map_err(model::Error::Cpus)?;
        let started = self.workers.add(WorkerConfig {
            name: id.clone(),
            spin: poll.unwrap_or(self.spin),
            cpus: cpus.numbers(),
        });
        let worker = started.map_err(|source| Error::IoThread {
            id: id.clone(),
            source,
        })?;
        self.running.insert(id.clone(), worker);
        Ok(())
    }

    fn stop(&mut self, id: &str) {
        if let Some(worker) = self.running.remove(id) {
            self.workers.remove(worker);
        }
    }
}

/// A thread that is an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoThreadInfo {
    /// Its name.
    pub id: String,
    /// How long it looks for work before it sleeps.
    pub poll: Duration,
    /// The processors that it stays on; none are any.
    pub cpus: Cpus,
}

impl Live {
    /// Starts the threads that are declared.
    pub fn make_threads(&mut self) -> Result<(), Error> {
        let Live { model, threads, .. } = self;
        let mut declared = model.iothreads();
        declared.try_for_each(|thread| threads.start(thread))
    }

    /// Starts this thread, if it is one.
    pub fn make_thread(&mut self, id: &str) -> Result<(), Error> {
        let Live { model, threads, .. } = self;
        match model.iothread(id) {
            Some(thread) => threads.start(thread),
            None => Ok(()),
        }
    }

    pub fn remove_thread(&mut self, id: &str) -> Result<(), model::Error> {
        let mut moving = self.moving.iter();
        if let Some((bus, _)) = moving.find(|(_, to)| to.as_deref() == Some(id)) {
            let controller = self.model.controller(bus);
            let name = controller.map_or(&**bus, model::Controller::name);
            return Err(model::Error::StillUsed {
                name: id.to_owned(),
                by: format!("controller {name}"),
            });
        }
        self.model.remove_object(id)?;
        self.threads.stop(id);
        Ok(())
    }

    /// A controller's queues are about to move: its bus, itself, and where to.
    pub fn begin_move(
        &mut self,
        controller: &str,
        thread: Option<&str>,
    ) -> Result<(String, Arc<Controller>, Option<WorkerId>), model::Error> {
        let absent = || model::Error::Absent {
            what: Taken::Device,
            name: controller.to_owned(),
        };
        let Place::Controller(bus) = self.model.device(controller)?.clone() else {
            return Err(absent());
        };
        if let Some(thread) = thread {
            self.model.check_thread(thread)?;
        }
        let declared = self.model.controller(&bus).ok_or_else(absent)?;
        let name = || declared.name().to_owned();
        if self.leaving.contains(&declared.path) {
            return Err(model::Error::Leaving(name()));
        }
        if self.moving.contains_key(&bus) {
            return Err(model::Error::Moving(name()));
        }
        let adapter = self.adapters.get(&bus).ok_or_else(absent)?;
        let device = Arc::clone(&adapter.controller);
        self.moving.insert(bus.clone(), thread.map(str::to_owned));
        Ok((bus, device, self.threads.worker(thread)))
    }

    /// They are there now, or have stayed.
    pub fn end_move(&mut self, bus: &str, moved: bool) {
        if let Some(thread) = self.moving.remove(bus).filter(|_| moved) {
            self.model.set_thread(bus, thread);
        }
    }

    /// How long a thread looks for work before it sleeps changes.
    pub fn set_poll(&mut self, id: &str, poll: Duration) -> Result<(), model::Error> {
        self.model.set_poll(id, poll)?;
        if let Some(worker) = self.threads.worker(Some(id)) {
            self.threads.workers.set_spin(worker, poll);
        }
        Ok(())
    }

    pub fn thread_infos(&self) -> Vec<IoThreadInfo> {
        let info = |thread: &IoThread| IoThreadInfo {
            id: thread.id.clone(),
            poll: thread.poll.unwrap_or(self.threads.spin),
            cpus: thread.cpus.clone(),
        };
        self.model.iothreads().map(info).collect()
    }
}
