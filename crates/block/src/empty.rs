//! What a drive without a medium has for an image: no bytes, and an error for whoever wants some.

use std::rc::Rc;
use std::sync::Arc;

use lunar_reactor::{Handle, Token};

use crate::{DataHandle, Error, Image, Info, Op, Progress, Space, Stats};

/// The image.
#[derive(Debug)]
struct Empty;

/// The image of a drive that has no medium.
pub fn no_medium() -> Arc<dyn Image> {
    Arc::new(Empty)
}

impl Image for Empty {
    fn info(&self) -> Info {
        Info {
            size: 0,
            read_only: false,
            request_align: 1,
            discard_granularity: 4096,
            can_discard: false,
            discard_zeroes: false,
            flushes: false,
            volatile: false,
            name: "no medium".into(),
        }
    }

    fn has_medium(&self) -> bool {
        false
    }

    fn open(&self, _: &Handle) -> Result<Rc<dyn DataHandle>, Error> {
        Ok(Rc::new(EmptyHandle))
    }

    fn stats(&self) -> Stats {
        Stats::default()
    }

    fn space(&self) -> Option<Space> {
        None
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

struct EmptyHandle;

impl DataHandle for EmptyHandle {
    fn start(&self, _: &mut Op, _: Token) -> Progress {
        Progress::Done(Err(Error::Unsupported))
    }

    fn resume(&self, _: &mut Op, _: Token, _: i32) -> Progress {
        Progress::Done(Err(Error::Unsupported))
    }
}
