//! The reactor's behaviour, through its public interface.
#![cfg(test)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use lunar_reactor::{
    AlignedBuf, App, Config, DEFERRED, File, Handle, IoBuf, Syscall, Thread, Token, Watch, spawn,
};
use lunar_sgl::Sgl;

type Job = Box<dyn FnOnce(&mut Bench) + Send>;

/// An application that runs closures sent to it and remembers what it was told.
struct Bench {
    handle: Handle,
    completed: Sender<(u64, i32)>,
    ready: Sender<u64>,
    watches: Vec<Watch>,
    work: VecDeque<u32>,
    /// Claims to have found work, for ever.
    restless: bool,
}

impl App for Bench {
    type Message = Job;

    fn message(&mut self, job: Job) {
        job(self);
    }
    fn complete(&mut self, token: Token, result: i32) {
        let _ = self.completed.send((token.0, result));
    }
    fn ready(&mut self, token: Token) {
        let _ = self.ready.send(token.0);
    }
    fn poll(&mut self) -> bool {
        self.restless || self.work.pop_front().is_some()
    }
    fn arm(&mut self) -> bool {
        !self.work.is_empty()
    }
}

struct Fixture {
    thread: Option<Thread<Job>>,
    completed: Receiver<(u64, i32)>,
    ready: Receiver<u64>,
}

impl Fixture {
    fn new() -> Fixture {
        let (completed, completed_rx) = channel();
        let (ready, ready_rx) = channel();
        let thread = spawn(Config::default(), move |handle| Bench {
            handle,
            completed,
            ready,
            watches: Vec::new(),
            work: VecDeque::new(),
            restless: false,
        })
        .unwrap();
        Fixture {
            thread: Some(thread),
            completed: completed_rx,
            ready: ready_rx,
        }
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce(&mut Bench) -> T + Send + 'static) -> T {
        let (tx, rx) = channel();
        let sent =
            self.thread
                .as_ref()
                .unwrap()
                .remote()
                .send(Box::new(move |bench: &mut Bench| {
                    let _ = tx.send(job(bench));
                }));
        assert!(sent);
        rx.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    /// Runs a future to its end on the reactor.
    fn block_on<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        make: impl FnOnce(Handle) -> F + Send + 'static,
    ) -> T {
        let (tx, rx) = channel();
        self.run(move |bench| {
            let future = make(bench.handle.clone());
            bench.handle.spawn(async move {
                let _ = tx.send(future.await);
            });
        });
        rx.recv_timeout(Duration::from_secs(20)).unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        assert!(
            self.thread.take().unwrap().stop(),
            "the reactor thread panicked"
        );
    }
}

fn file_with(content: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.into()
}

#[test]
fn a_direct_read_completes_with_the_count_and_fills_the_memory() {
    let fixture = Fixture::new();
    let fd = file_with(&[7u8; 8192]);
    let memory: &'static mut [u8] = Box::leak(vec![0u8; 4096].into_boxed_slice());
    let addr = memory.as_mut_ptr().expose_provenance();
    fixture.run(move |bench| {
        let file = bench.handle.register(fd);
        let base: *mut u8 = std::ptr::with_exposed_provenance_mut(addr);
        let segments: &'static [libc::iovec] = Box::leak(Box::new([
            libc::iovec {
                iov_base: base.cast(),
                iov_len: 1024,
            },
            libc::iovec {
                iov_base: base.wrapping_add(1024).cast(),
                iov_len: 3072,
            },
        ]));
        // SAFETY: memory and array are leaked.
        #[allow(unsafe_code, reason = "a test's stand-in for guest memory")]
        let data = unsafe { Sgl::from_raw(segments, 4096) };
        bench.handle.submit(
            &file,
            Syscall::Read {
                data,
                offset: 4096,
                rw_flags: 0,
            },
            Token(42),
        );
    });
    assert_eq!(
        fixture
            .completed
            .recv_timeout(Duration::from_secs(20))
            .unwrap(),
        (42, 4096)
    );
    assert_eq!(memory[0], 7);
    assert_eq!(memory[4095], 7);
}

#[test]
fn awaited_operations_write_sync_and_read_back() {
    let fixture = Fixture::new();
    let fd = file_with(&[]);
    let back = fixture.block_on(move |handle| async move {
        let file = handle.register(fd);
        handle.allocate(&file, 0, 0, 4096).await.unwrap();
        let mut buf = AlignedBuf::new(4096, 4096);
        assert_eq!(buf.as_ptr().addr() % 4096, 0);
        buf.fill(0x5A);
        let (count, _) = handle.write(&file, IoBuf::Owned(buf), 0, 0).await;
        assert_eq!(count.unwrap(), 4096);
        handle.sync(&file, true).await.unwrap();
        let (count, buf) = handle
            .read(&file, IoBuf::Owned(AlignedBuf::new(8192, 512)), 0, 0)
            .await;
        let IoBuf::Owned(buf) = buf else {
            panic!("another buffer came back")
        };
        (count.unwrap(), buf.to_vec())
    });
    assert_eq!(back.0, 4096, "a read over the end of the file is short");
    assert!(back.1[..4096].iter().all(|&b| b == 0x5A) && back.1[4096..].iter().all(|&b| b == 0));
}

#[test]
fn an_error_is_the_kernels_errno() {
    let fixture = Fixture::new();
    let (_read_end, write_end) = std::io::pipe().unwrap();
    let error = fixture.block_on(move |handle| async move {
        let file = handle.register(write_end.into());
        handle.allocate(&file, 0, 0, 4096).await.unwrap_err()
    });
    assert_eq!(error.raw_os_error(), Some(libc::ESPIPE));
}

#[test]
fn a_dropped_future_leaves_its_memory_to_the_kernel() {
    let fixture = Fixture::new();
    let (read_end, mut write_end) = std::io::pipe().unwrap();
    let read_end = OwnedFd::from(read_end);
    fixture.block_on(move |handle| async move {
        let file = handle.register(read_end);
        {
            let read = handle.read(&file, IoBuf::Owned(AlignedBuf::new(16, 1)), u64::MAX, 0);
            let mut read = Box::pin(read);
            // Polled once, so that the operation is under way; then dropped.
            std::future::poll_fn(|cx| {
                assert!(read.as_mut().poll(cx).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
        }
        handle.yield_now().await;
    });
    write_end.write_all(b"late bytes").unwrap();
    // Stopping waits for the orphan; the buffer was still its own (an address sanitizer would see otherwise).
}

#[test]
fn many_more_operations_than_ring_entries_all_complete() {
    let fixture = Fixture::new();
    let fd = file_with(&[1u8; 4096]);
    fixture.run(move |bench| {
        let file = bench.handle.register(fd);
        for i in 0..5000 {
            bench
                .handle
                .submit(&file, Syscall::Sync { data_only: true }, Token(i));
        }
    });
    let mut seen: Vec<u64> = (0..5000)
        .map(|_| {
            fixture
                .completed
                .recv_timeout(Duration::from_secs(20))
                .unwrap()
        })
        .map(|(t, r)| {
            assert_eq!(r, 0);
            t
        })
        .collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..5000));
}

#[test]
fn delivered_results_reach_the_application_and_awaitables() {
    let fixture = Fixture::new();
    fixture.run(|bench| bench.handle.deliver(Token(5), -5));
    assert_eq!(
        fixture
            .completed
            .recv_timeout(Duration::from_secs(20))
            .unwrap(),
        (5, -5)
    );

    let results = fixture.block_on(|handle| async move {
        let mut awaitable = handle.awaitable();
        let stale = { handle.awaitable().token() };
        handle.deliver(stale, 99);
        handle.deliver(awaitable.token(), 1);
        handle.deliver(awaitable.token(), 2);
        vec![awaitable.result().await, awaitable.result().await]
    });
    assert_eq!(results, [1, 2]);
    assert!(
        fixture.completed.try_recv().is_err(),
        "nothing else reached the application"
    );
}

#[test]
fn a_watched_descriptor_wakes_a_sleeping_loop_each_time() {
    let fixture = Fixture::new();
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let watched = event.try_clone().unwrap();
    fixture.run(move |bench| {
        let watch = bench.handle.watch(&watched, Token(9)).unwrap();
        bench.watches.push(watch);
    });
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(5));
        rustix::io::write(&event, &1u64.to_ne_bytes()).unwrap();
        assert_eq!(
            fixture.ready.recv_timeout(Duration::from_secs(20)).unwrap(),
            9
        );
    }
    fixture.run(|bench| bench.watches.clear());
    rustix::io::write(&event, &1u64.to_ne_bytes()).unwrap();
    assert!(
        fixture
            .ready
            .recv_timeout(Duration::from_millis(50))
            .is_err(),
        "a dropped watch is silent"
    );
}

#[test]
fn tasks_of_two_reactors_wake_each_other_through_a_lock() {
    let (a, b) = (Fixture::new(), Fixture::new());
    let (tx_a, rx_b) = channel::<std::task::Waker>();
    // A waits for its flag with nothing but a waker; B wakes it from another thread.
    let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (done_tx, done) = channel();
    let seen = flag.clone();
    a.run(move |bench| {
        bench.handle.spawn(async move {
            std::future::poll_fn(|cx| {
                if seen.load(std::sync::atomic::Ordering::SeqCst) {
                    return std::task::Poll::Ready(());
                }
                let _ = tx_a.send(cx.waker().clone());
                std::task::Poll::Pending
            })
            .await;
            let _ = done_tx.send(());
        });
    });
    let waker = rx_b.recv_timeout(Duration::from_secs(20)).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    b.run(move |_| {
        flag.store(true, std::sync::atomic::Ordering::SeqCst);
        waker.wake();
    });
    done.recv_timeout(Duration::from_secs(20)).unwrap();
}

#[test]
fn sleep_waits_and_a_dropped_sleep_does_not_hold_the_stop_up() {
    let fixture = Fixture::new();
    let start = Instant::now();
    fixture.block_on(|handle| async move { handle.sleep(Duration::from_millis(20)).await });
    assert!(start.elapsed() >= Duration::from_millis(20));
    fixture.run(|bench| {
        let handle = bench.handle.clone();
        bench
            .handle
            .spawn(async move { handle.sleep(Duration::from_secs(3600)).await });
    });
}

/// What a thread of this process has used, in nanoseconds.
fn processor_time(tid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/schedstat")).unwrap();
    let used = stat.split_whitespace().next();
    used.unwrap().parse().unwrap()
}

#[test]
fn an_idle_reactor_uses_no_processor_time() {
    let fixture = Fixture::new();
    let tid = fixture.run(|_| rustix::thread::gettid().as_raw_nonzero().get());
    std::thread::sleep(Duration::from_millis(50));
    let before = processor_time(tid);
    std::thread::sleep(Duration::from_millis(300));
    let used = processor_time(tid) - before;
    assert!(
        used < 1_000_000,
        "{used} ns of processor time in 300 ms of idleness"
    );
}

#[test]
fn how_long_a_reactor_looks_for_work_can_be_changed_while_it_runs() {
    let fixture = Fixture::new();
    let thread = fixture.thread.as_ref().unwrap();
    let tid = fixture.run(|_| rustix::thread::gettid().as_raw_nonzero().get());
    let used = || {
        let before = processor_time(tid);
        std::thread::sleep(Duration::from_millis(200));
        processor_time(tid) - before
    };
    for _ in 0..2 {
        thread.set_spin(Duration::from_secs(3600));
        fixture.run(|_| ());
        let busy = used();
        assert!(busy > 20_000_000, "{busy} ns while it looked for work");
        // It learns of this while it looks.
        thread.set_spin(Duration::ZERO);
        std::thread::sleep(Duration::from_millis(20));
        let idle = used();
        assert!(idle < 1_000_000, "{idle} ns while it slept");
    }
}

#[test]
fn work_announced_while_arming_is_not_slept_over() {
    let fixture = Fixture::new();
    // `arm` reports the queue's content, so a loop that ignored it would sleep with work left.
    fixture.run(|bench| bench.work.extend(0..1000));
    let left = fixture.run(|bench| bench.work.len());
    assert!(left <= 1000);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(fixture.run(|bench| bench.work.len()), 0);
}

#[test]
fn a_message_to_an_ended_reactor_is_refused() {
    let fixture = Fixture::new();
    let remote = fixture.thread.as_ref().unwrap().remote().clone();
    drop(fixture);
    assert!(!remote.send(Box::new(|_| ())));
}

#[test]
fn a_registered_file_may_be_dropped_while_its_operation_runs() {
    let fixture = Fixture::new();
    let fd = file_with(&[3u8; 4096]);
    let other = file_with(&[4u8; 4096]);
    let read = fixture.block_on(move |handle| async move {
        let shared = Rc::new(RefCell::new(Vec::new()));
        let file = handle.register(fd);
        let inner = handle.clone();
        let sink = shared.clone();
        let keep = file.clone();
        handle.spawn(async move {
            let (count, buf) = inner
                .read(&keep, IoBuf::Owned(AlignedBuf::new(4096, 1)), 0, 0)
                .await;
            let IoBuf::Owned(buf) = buf else { return };
            drop(keep);
            sink.borrow_mut().extend_from_slice(&buf[..count.unwrap()]);
        });
        drop(file);
        // The slot may be taken by the next file at once.
        let next = handle.register(other);
        let (_, _) = handle
            .read(&next, IoBuf::Owned(AlignedBuf::new(4096, 1)), 0, 0)
            .await;
        handle.sleep(Duration::from_millis(5)).await;
        shared.take()
    });
    assert_eq!(read, vec![3u8; 4096]);
}

#[test]
fn an_application_that_always_finds_work_can_be_stopped() {
    let fixture = Fixture::new();
    fixture.run(|bench| bench.restless = true);
    // Dropping the fixture joins the thread.
}

/// A list of leaked memory, in `count` segments of `len` bytes each.
fn leaked(count: usize, len: usize) -> Sgl {
    let segments: Vec<libc::iovec> = (0..count)
        .map(|_| libc::iovec {
            iov_base: Box::leak(vec![0u8; len].into_boxed_slice())
                .as_mut_ptr()
                .cast(),
            iov_len: len,
        })
        .collect();
    // SAFETY: memory and array are leaked.
    #[allow(unsafe_code, reason = "a test's stand-in for guest memory")]
    unsafe {
        Sgl::from_raw(segments.leak(), count * len)
    }
}

#[test]
fn a_call_in_place_gives_what_the_ring_gives() {
    let fixture = Fixture::new();
    let results = fixture.block_on(|handle| async move {
        let (writable, read_only) = (file_with(&[7u8; 8192]), tempfile::NamedTempFile::new());
        let read_only = std::fs::File::open(read_only.unwrap().path()).unwrap();
        let files = [handle.register(writable), handle.register(read_only.into())];
        let nowhere = [libc::iovec {
            iov_base: std::ptr::without_provenance_mut(8),
            iov_len: 512,
        }];
        // SAFETY: the kernel looks whether memory is there; nobody else does.
        #[allow(unsafe_code, reason = "a guest's memory that has gone")]
        let gone = unsafe { Sgl::from_raw(&nowhere, 512) };
        let mut calls = Vec::new();
        for (data, offset) in [
            (leaked(1, 4096), 0),
            (leaked(3, 1024), 4096),
            (leaked(1, 4096), 6000),
            (leaked(2, 4096), 1 << 40),
            (leaked(1100, 4), 0),
            (gone, 0),
        ] {
            for rw_flags in [0, libc::RWF_DSYNC, 1 << 30] {
                calls.push(Syscall::Read {
                    data,
                    offset,
                    rw_flags,
                });
                if offset < 1 << 40 {
                    calls.push(Syscall::Write {
                        data,
                        offset,
                        rw_flags,
                    });
                }
            }
        }
        // What is wrong in two ways may be called either.
        calls.push(Syscall::Read {
            data: leaked(1, 512),
            offset: u64::MAX - 5,
            rw_flags: 0,
        });
        for data_only in [false, true] {
            calls.push(Syscall::Sync { data_only });
        }
        for (mode, len) in [(0, 100), (libc::FALLOC_FL_PUNCH_HOLE, 100)] {
            calls.push(Syscall::Allocate {
                mode,
                offset: 0,
                len,
            });
        }
        let mut results = Vec::new();
        let mut completion = handle.awaitable();
        for file in &files {
            for &call in &calls {
                handle.submit(file, call, completion.token());
                let ring = completion.result().await;
                handle.yield_now().await;
                results.push((format!("{call:?}"), handle.attempt(file, call), ring));
            }
        }
        results
    });
    let distinct: std::collections::BTreeSet<i32> = results.iter().map(|r| r.2).collect();
    assert!(distinct.len() >= 7, "only {distinct:?} were compared");
    let differ: Vec<_> = results.iter().filter(|r| r.1 != Some(r.2)).collect();
    assert!(differ.is_empty(), "{differ:#?}");
}

#[test]
fn one_turn_does_a_bounded_amount_in_place_and_the_next_one_as_much_again() {
    let fixture = Fixture::new();
    let moved = fixture.block_on(|handle| async move {
        let file = handle.register(file_with(&[7u8; 1 << 16]));
        let read = |len| Syscall::Read {
            data: leaked(1, len),
            offset: 0,
            rw_flags: 0,
        };
        assert_eq!(handle.attempt(&file, read((1 << 20) + 1)), None);
        let call = read(1 << 16);
        let mut moved = Vec::new();
        for _ in 0..3 {
            let done = (0..100).filter_map(|_| handle.attempt(&file, call));
            moved.push(done.sum::<i32>());
            handle.sleep(Duration::from_millis(1)).await;
        }
        moved
    });
    assert_eq!(moved, [1 << 20; 3]);
}

/// Reads in place whatever is asked for, later if it has to be, and says in which turn each was read.
struct Patient {
    handle: Handle,
    file: File,
    turn: u32,
    read: Sender<(u32, u64)>,
}

impl Patient {
    /// The token says how much, in units of 64 KiB, and which one it is.
    fn start(&mut self, token: Token) {
        let call = Syscall::Read {
            data: leaked(1, usize::try_from(token.0 >> 32).unwrap() << 16),
            offset: 0,
            rw_flags: 0,
        };
        match self.handle.attempt(&self.file, call) {
            Some(_) => self.read.send((self.turn, token.0)).unwrap(),
            None => assert!(self.handle.defer(&call, token), "{token:?}"),
        }
    }
}

impl App for Patient {
    type Message = Vec<u64>;

    fn message(&mut self, tokens: Vec<u64>) {
        for token in tokens {
            self.start(Token(token));
        }
    }
    fn complete(&mut self, token: Token, result: i32) {
        assert_eq!(result, DEFERRED);
        self.start(token);
    }
    fn flush(&mut self) {
        self.turn += 1;
    }
}

#[test]
fn what_exceeds_a_turn_is_done_in_the_following_ones_in_its_order_and_before_the_end() {
    let (read, done) = channel();
    let reactor = spawn(Config::default(), move |handle| Patient {
        file: handle.register(file_with(&[7u8; 1 << 20])),
        handle,
        turn: 0,
        read,
    })
    .unwrap();
    // 1 to 16 times 64 KiB: few of them end with a turn's allowance.
    let tokens: Vec<u64> = (0..200).map(|i| (i % 16 + 1) << 32 | i).collect();
    assert!(reactor.remote().send(tokens.clone()));
    assert!(reactor.stop());
    let done: Vec<(u32, u64)> = done.iter().collect();
    let order: Vec<u64> = done.iter().map(|(_, token)| *token).collect();
    let in_turn = |turn| done.iter().filter(move |(t, _)| *t == turn);
    let last = done.iter().map(|(turn, _)| *turn).max().unwrap();
    for turn in 0..=last {
        let moved: u64 = in_turn(turn).map(|(_, token)| (token >> 32) << 16).sum();
        assert!(moved <= 1 << 20, "{moved} bytes in turn {turn}");
    }
    assert_eq!(order, tokens);
    assert!(last >= 100, "{last} turns");
}

#[test]
fn what_no_turn_has_time_for_and_what_a_task_waits_for_is_not_deferred() {
    let fixture = Fixture::new();
    fixture.block_on(|handle| async move {
        let read = |len| Syscall::Read {
            data: leaked(1, len),
            offset: 0,
            rw_flags: 0,
        };
        assert!(!handle.defer(&read((1 << 20) + 1), Token(1)));
        let completion = handle.awaitable();
        assert!(!handle.defer(&read(512), completion.token()));
    });
}
