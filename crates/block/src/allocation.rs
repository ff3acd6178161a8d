//! Where an image has data, and where only room for some.

use std::future::Future;
use std::pin::Pin;
use std::sync::{OnceLock, mpsc};

use crate::Error;

/// How a range of an image is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Space is taken for it. What is not allocated reads as zeroes.
    pub allocated: bool,
    /// Bytes that are stored like the first one; more that are may follow.
    pub len: u64,
}

impl Allocation {
    /// Data, as far as anybody knows.
    pub fn data(len: u64) -> Allocation {
        Allocation {
            allocated: true,
            len,
        }
    }

    /// Nothing is stored.
    pub fn hole(len: u64) -> Allocation {
        Allocation {
            allocated: false,
            len,
        }
    }
}

/// The answer to [`DataHandle::allocation`](crate::DataHandle::allocation), to be awaited on the handle's reactor.
pub type AllocationQuery = Pin<Box<dyn Future<Output = Result<Allocation, Error>>>>;

/// Runs something that may block where it keeps no reactor waiting: on one thread for the whole process, in the order
/// of arrival.
pub(crate) async fn offload<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    type Job = Box<dyn FnOnce() + Send>;
    static THREAD: OnceLock<mpsc::Sender<Job>> = OnceLock::new();

    let thread = THREAD.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        // Without the thread every job is dropped, and its owner told so below.
        let _ = std::thread::Builder::new()
            .name("lunar-blocking".into())
            .spawn(move || jobs.into_iter().for_each(|job| job()));
        sender
    });
    let (done, result) = tokio::sync::oneshot::channel();
    let job = move || {
        // Nobody may want to know any more.
        let _ = done.send(work());
    };
    let _ = thread.send(Box::new(job));
    result
        .await
        .unwrap_or_else(|_| Err(Error::from_errno(libc::EAGAIN)))
}
