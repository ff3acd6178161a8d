//! A guest's memory as the kernel's fixed buffers, on one worker (`fixed-buffers=on`).
//!
//! It is registered while the worker has rings of the guest, in the background: until that is done, and where it cannot be
//! done, operations work as without.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use lunar_reactor::{Handle, Registered};
use lunar_virtqueue::Region;

/// See the module.
#[derive(Clone)]
pub(crate) struct FixedMemory(Rc<Inner>);

struct Inner {
    id: Arc<str>,
    reactor: Handle,
    /// What is to be registered.
    wanted: RefCell<Vec<Arc<Region>>>,
    /// What is.
    held: RefCell<Vec<(Arc<Region>, Registered)>>,
}

fn has(regions: &[Arc<Region>], region: &Arc<Region>) -> bool {
    regions.iter().any(|other| Arc::ptr_eq(other, region))
}

impl FixedMemory {
    /// None yet. `id` is the controller's name, for the log.
    pub fn new(id: Arc<str>, reactor: Handle) -> FixedMemory {
        FixedMemory(Rc::new(Inner {
            id,
            reactor,
            wanted: RefCell::default(),
            held: RefCell::default(),
        }))
    }

    /// These regions and no others are the guest's memory from now on.
    pub fn set(&self, regions: &[Arc<Region>]) {
        let before = self.0.wanted.replace(regions.to_vec());
        self.0
            .held
            .borrow_mut()
            .retain(|(held, _)| has(regions, held));
        for region in regions.iter().filter(|region| !has(&before, region)) {
            let (this, region) = (self.clone(), Arc::clone(region));
            let reactor = self.0.reactor.clone();
            reactor.spawn(async move { this.register(region).await });
        }
    }

    async fn register(&self, region: Arc<Region>) {
        let Inner {
            id,
            reactor,
            wanted,
            held,
        } = &*self.0;
        let registered = reactor.register_memory(Arc::<Region>::clone(&region)).await;
        match registered {
            Ok(registered) => {
                let mut held = held.borrow_mut();
                let is_new = !held.iter().any(|(other, _)| Arc::ptr_eq(other, &region));
                if is_new && has(&wanted.borrow(), &region) {
                    tracing::debug!("{id}: {} MiB are fixed buffers", region.size() >> 20);
                    held.push((region, registered));
                }
            }
            Err(error) => tracing::warn!(
                "{id}: {} MiB of the guest's memory are not registered with the kernel, and not used as fixed buffers: {error}; \
                 the limit of locked memory (ulimit -l, LimitMEMLOCK=) has to be as large as the guest's memory for each worker",
                region.size() >> 20
            ),
        }
    }
}
