//! Registered memory, as operations see it.
#![cfg(test)]
#![allow(unsafe_code, reason = "the test maps what stands for a guest's memory")]

use std::ffi::c_void;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use lunar_reactor::{App, Config, Handle, IoBuf, Token, spawn};
use lunar_sgl::{Mapped, Sgl};
use rustix::mm::{self, MapFlags, ProtFlags};

/// An application without any work of its own.
struct Idle;

impl App for Idle {
    type Message = Box<dyn FnOnce() + Send>;

    fn message(&mut self, job: Self::Message) {
        job();
    }
    fn complete(&mut self, _token: Token, _result: i32) {}
}

/// Runs a future to its end on a reactor.
fn on_a_reactor<T: Send + 'static, F: Future<Output = T> + 'static>(
    make: impl FnOnce(Handle) -> F + Send + 'static,
) -> T {
    let thread = spawn(Config::default(), |_| Idle).unwrap();
    let (tx, rx) = channel();
    let sent = thread.remote().send(Box::new(move || {
        let reactor = Handle::current().unwrap();
        let future = make(reactor.clone());
        reactor.spawn(async move {
            let _ = tx.send(future.await);
        });
    }));
    assert!(sent);
    let result = rx.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(thread.stop(), "the reactor's thread panicked");
    result
}

const PAGE: usize = 4096;
const PAGES: u8 = 16;
const SIZE: usize = PAGE * PAGES as usize;

/// Pages that can be exchanged for others, as a balloon does it.
struct Memory(NonNull<c_void>);

// SAFETY: it is an address, and all access is by copies.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

// SAFETY: the mapping is never undone; it is only replaced.
unsafe impl Mapped for Memory {
    fn range(&self) -> (*mut u8, usize) {
        (self.0.as_ptr().cast(), SIZE)
    }
}

impl Memory {
    fn map(at: *mut c_void, flags: MapFlags) -> *mut c_void {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a place of the kernel's choice, or one that is this test's own.
        unsafe { mm::mmap_anonymous(at, SIZE, access, MapFlags::PRIVATE | flags) }.unwrap()
    }

    fn new() -> Arc<Memory> {
        let start = Memory::map(ptr::null_mut(), MapFlags::empty());
        Arc::new(Memory(NonNull::new(start).unwrap()))
    }

    /// Fresh pages take the place of those that were there.
    fn exchange(&self) {
        Memory::map(self.0.as_ptr(), MapFlags::FIXED);
    }

    /// The first byte of each page.
    fn bytes(&self) -> Vec<u8> {
        let first = |page| self.0.as_ptr().cast::<u8>().wrapping_add(page * PAGE);
        // SAFETY: it is mapped, and no operation is under way.
        (0..usize::from(PAGES))
            .map(|page| unsafe { first(page).read() })
            .collect()
    }

    /// All of it, in so many places, the last one first.
    fn list(&self, places: usize) -> IoBuf {
        let len = SIZE / places;
        let segments: Vec<libc::iovec> = (0..places)
            .rev()
            .map(|place| libc::iovec {
                iov_base: self.0.as_ptr().wrapping_byte_add(place * len),
                iov_len: len,
            })
            .collect();
        // SAFETY: the memory stays mapped, and the list is copied.
        IoBuf::List(unsafe { Sgl::from_raw(&segments, SIZE) }.slice(0, SIZE))
    }
}

/// A file whose pages begin with their numbers.
fn numbered() -> File {
    let file = tempfile::tempfile().unwrap();
    for page in 0..PAGES {
        file.write_all_at(&[page; PAGE], u64::from(page) * PAGE as u64)
            .unwrap();
    }
    file
}

#[test]
fn operations_go_to_and_from_registered_memory_in_one_place_and_in_several() {
    for places in [1, 2, usize::from(PAGES)] {
        let (seen, written) = on_a_reactor(move |reactor| async move {
            let memory = Memory::new();
            let registered = reactor.register_memory(memory.clone()).await.unwrap();
            let fd = numbered();
            let copy = tempfile::tempfile().unwrap();
            let [from, to] = [&fd, &copy].map(|f| reactor.register(f.try_clone().unwrap().into()));
            let (read, list) = reactor.read(&from, memory.list(places), 0, 0).await;
            assert_eq!(read.unwrap(), SIZE);
            let (written, _list) = reactor.write(&to, list, 0, 0).await;
            assert_eq!(written.unwrap(), SIZE);
            drop(registered);
            let mut bytes = vec![0; SIZE];
            copy.read_exact_at(&mut bytes, 0).unwrap();
            (memory.bytes(), bytes)
        });
        let pages: Vec<u8> = (0..PAGES).collect();
        let per_place = usize::from(PAGES) / places;
        let expected: Vec<u8> = pages.chunks(per_place).rev().flatten().copied().collect();
        assert_eq!(seen, expected, "{places} places");
        let first_bytes: Vec<u8> = written.iter().step_by(PAGE).copied().collect();
        assert_eq!(first_bytes, pages, "{places} places");
    }
}

/// That is the price, and how one can tell that it is used.
#[test]
fn pages_stay_those_that_were_registered_until_they_are_no_longer() {
    let (during, after) = on_a_reactor(|reactor| async move {
        let memory = Memory::new();
        let file = reactor.register(numbered().into());
        let registered = reactor.register_memory(memory.clone()).await.unwrap();
        memory.exchange();
        let (read, _list) = reactor.read(&file, memory.list(1), 0, 0).await;
        assert_eq!(read.unwrap(), SIZE);
        let during = memory.bytes();
        drop(registered);
        let (read, _list) = reactor.read(&file, memory.list(1), 0, 0).await;
        assert_eq!(read.unwrap(), SIZE);
        (during, memory.bytes())
    });
    assert_eq!(during, [0; PAGES as usize]);
    assert_eq!(after, (0..PAGES).collect::<Vec<u8>>());
}
