//! A session without a socket: requests in, answers out.
#![allow(dead_code, reason = "each test file uses a part")]

use std::os::fd::OwnedFd;
use std::sync::Arc;

use lunar_vhost_user::{Options, Session};
use vhost::vhost_user::message::FrontendReq as R;

use crate::common::*;

/// A session and the device behind it.
pub struct Test {
    pub session: Session,
    pub device: Arc<FakeDevice>,
}

/// How a request was answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Acknowledged,
    Refused,
    Reply(Vec<u8>),
    SessionEnded,
}

impl Test {
    /// Nothing is negotiated yet.
    pub fn fresh(options: Options) -> Test {
        let device = FakeDevice::new();
        let session = Session::new(device.clone(), &options);
        Test { session, device }
    }

    /// Features and protocol features are negotiated.
    pub fn negotiated() -> Test {
        let mut test = Test::fresh(Options { config: true });
        let offered = test.number(R::GET_PROTOCOL_FEATURES);
        test.session
            .handle(message(
                R::SET_PROTOCOL_FEATURES,
                words64(&[offered]),
                vec![],
            ))
            .unwrap();
        let features = test.number(R::GET_FEATURES);
        test.ok(R::SET_FEATURES, words64(&[features]));
        test.device.take();
        test
    }

    pub fn send(&mut self, request: R, payload: Vec<u8>, fds: Vec<OwnedFd>) -> Answer {
        match self.session.handle(message(request, payload, fds)) {
            Err(_) => Answer::SessionEnded,
            Ok(None) => panic!("{request:?} went without an answer"),
            Ok(Some(reply)) => {
                assert_eq!(reply.request, u32::from(request));
                match request {
                    R::GET_VRING_BASE | R::GET_CONFIG => Answer::Reply(reply.payload),
                    _ => match u64::from_ne_bytes(reply.payload.try_into().unwrap()) {
                        0 => Answer::Acknowledged,
                        _ => Answer::Refused,
                    },
                }
            }
        }
    }

    pub fn number(&mut self, request: R) -> u64 {
        let reply = self
            .session
            .handle(message(request, vec![], vec![]))
            .unwrap()
            .unwrap();
        u64::from_ne_bytes(reply.payload.try_into().unwrap())
    }

    pub fn ok(&mut self, request: R, payload: Vec<u8>) {
        assert_eq!(self.send(request, payload, vec![]), Answer::Acknowledged);
    }

    pub fn refused(&mut self, request: R, payload: Vec<u8>) {
        assert_eq!(self.send(request, payload, vec![]), Answer::Refused);
    }

    pub fn ok_with(&mut self, request: R, payload: Vec<u8>, fd: OwnedFd) {
        assert_eq!(self.send(request, payload, vec![fd]), Answer::Acknowledged);
    }

    pub fn set_up_ring(&mut self, index: u32, desc: u64, base: u32) {
        self.ok(R::SET_VRING_NUM, words32(&[index, 128]));
        self.ok(R::SET_VRING_BASE, words32(&[index, base]));
        self.ok(R::SET_VRING_ADDR, ring_addresses(index, 0, desc));
    }

    pub fn start_ring(&mut self, index: u32, desc: u64, base: u32) {
        self.set_up_ring(index, desc, base);
        self.ok_with(R::SET_VRING_KICK, words64(&[index.into()]), descriptor());
    }

    pub fn stop_ring(&mut self, index: u32) -> u32 {
        let Answer::Reply(state) = self.send(R::GET_VRING_BASE, words32(&[index, 0]), vec![])
        else {
            panic!("no base");
        };
        assert_eq!(state[..4], index.to_ne_bytes());
        u32::from_ne_bytes(state[4..].try_into().unwrap())
    }
}
