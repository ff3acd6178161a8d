//! Memory of our own for the operations of a task.
#![allow(
    unsafe_code,
    reason = "describing our own memory as a scatter-gather list is a promise about its lifetime"
)]

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use lunar_reactor::{AlignedBuf, Handle};
use lunar_sgl::{Sgl, SglBuf};

use crate::{DataHandle, Error, Op, OpKind, run};

/// Memory that a task reads an image into or writes it from, aligned so that no image bounces it.
#[derive(Debug)]
pub struct Buffer(AlignedBuf);

impl Buffer {
    /// `len` zero bytes.
    pub fn new(len: usize) -> Buffer {
        Buffer(AlignedBuf::new(len, 4096))
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Reads or writes the first `len` bytes of `buffer` at `offset`, and returns the buffer.
///
/// The future may be dropped at any time: the operation then goes on with the buffer it owns.
///
/// # Errors
/// As the image's; [`Error::OutOfRange`] when the buffer is shorter than `len`.
pub async fn run_owned(
    reactor: &Handle,
    io: &Rc<dyn DataHandle>,
    kind: OpKind,
    offset: u64,
    len: usize,
    mut buffer: Buffer,
) -> (Result<(), Error>, Buffer) {
    let Some(bytes) = buffer.get_mut(..len) else {
        return (Err(Error::OutOfRange), buffer);
    };
    let segment = [libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: len,
    }];
    let mut completion = reactor.awaitable();
    let token = completion.token();
    let slot = Rc::new(RefCell::new(None));
    let operation = {
        let (slot, reactor, io) = (Rc::clone(&slot), reactor.clone(), Rc::clone(io));
        async move {
            let segment = Box::new(segment);
            // SAFETY: the reactor drives this future to its end, and until then `segment` and `buffer` stay in it;
            // neither the boxed array nor the buffer's heap memory moves with it.
            let data = unsafe { Sgl::from_raw(&*segment, len) };
            let result = run(&reactor, &io, Op::new(kind, offset, len as u64, data)).await;
            *slot.borrow_mut() = Some((result, buffer));
            reactor.deliver(token, 0);
        }
    };
    reactor.spawn(operation);
    loop {
        completion.result().await;
        if let Some(done) = slot.borrow_mut().take() {
            return done;
        }
    }
}

/// Reads into or writes from a part of a guest's buffer.
///
/// Like [`run`], the future must be driven to its end.
///
/// # Errors
/// As the image's.
pub async fn run_list(
    reactor: &Handle,
    io: &Rc<dyn DataHandle>,
    kind: OpKind,
    offset: u64,
    list: SglBuf,
) -> Result<(), Error> {
    // SAFETY: `list` lives in this future, which ends after the operation.
    let data = unsafe { list.as_sgl() };
    run(reactor, io, Op::new(kind, offset, data.len() as u64, data)).await
}
