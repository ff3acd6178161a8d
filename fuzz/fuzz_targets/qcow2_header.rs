//! Any bytes as a qcow2 image: opening it and reading a little must end, without panic and with bounded memory.
//!
//! An image comes from the host's administrator, but from wherever they got it. The magic and version are put in place
//! so that the fuzzer does not have to find them; the bytes are the first part of a file of at most 2 MiB, so that
//! tables may lie inside.
#![no_main]

use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use lunar_block::{Driver, Locking, NodeOptions, open_node};
use lunar_reactor::{App, Config, Handle, Thread, Token};

type Job = Box<dyn FnOnce(&Handle) + Send>;

struct Runner(Handle);

impl App for Runner {
    type Message = Job;
    fn message(&mut self, job: Job) {
        job(&self.0);
    }
    fn complete(&mut self, _token: Token, _result: i32) {}
}

thread_local! {
    static REACTOR: Thread<Job> = lunar_reactor::spawn(Config::default(), Runner).expect("a reactor");
}

const LENGTH: usize = 2 << 20;

fuzz_target!(|data: &[u8]| {
    let mut image = data.to_vec();
    if let Some(start) = image.first_chunk_mut() {
        *start = [0x51, 0x46, 0x49, 0xFB, 0, 0, 0, 2 + data[0] % 2];
    }
    // A short input stays short: truncation is a case too.
    if data.len() > 112 {
        image.resize(LENGTH, 0);
    }
    let mut file = tempfile::NamedTempFile::new_in("/dev/shm").expect("a temporary file");
    file.write_all(&image).expect("its content");
    let options = NodeOptions {
        read_only: true,
        locking: Locking::Off,
        ..NodeOptions::default()
    };
    let driver = Driver::Qcow2 {
        file: file.path().to_owned(),
    };
    let Ok(image) = open_node(driver, &options) else {
        return;
    };
    let (send, receive) = mpsc::channel();
    REACTOR.with(|reactor| {
        let image = image.clone();
        let sent = reactor.remote().send(Box::new(move |handle: &Handle| {
            let handle = handle.clone();
            handle.clone().spawn(async move {
                let io = image.open(&handle).expect("a data handle");
                let size = image.info().size;
                for offset in [0, size / 2 / 512 * 512, size.saturating_sub(4096)] {
                    let data = memory(4096.min(size));
                    let op = lunar_block::Op::read(offset, data.sgl());
                    // Damaged tables are errors, not panics.
                    let _ = lunar_block::run(&handle, &io, op).await;
                }
                let _ = send.send(());
            });
        }));
        assert!(sent);
    });
    receive
        .recv_timeout(Duration::from_secs(10))
        .expect("reading ends");
    let _ = image.close();
});

struct Memory {
    _bytes: Box<[u8]>,
    segments: [libc::iovec; 1],
}

impl Memory {
    fn sgl(&self) -> lunar_sgl::Sgl {
        // SAFETY: the caller keeps `self` until the operation is over.
        unsafe { lunar_sgl::Sgl::from_raw(&self.segments, self.segments[0].iov_len) }
    }
}

fn memory(len: u64) -> Memory {
    let mut bytes = vec![0; len as usize].into_boxed_slice();
    let segments = [libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    }];
    Memory {
        _bytes: bytes,
        segments,
    }
}
