//! Self-tests: can the medium be read, and does a flush reach it? The short one reads here and there, the extended one
//! reads everything.

use std::sync::Arc;

use lunar_block::{Buffer, Op, OpKind};
use lunar_scsi::{AdditionalSense, Sense, SenseKey};
use lunar_target::spc::{SelfTest, SelfTestResult};
use lunar_target::{Command, Outcome};

use super::Unit;
use super::background::Running;
use super::medium::{CHUNK, Medium, chunks};
use super::transfer::task;

/// Places that the short test reads: the first and the last block, and some between.
const PLACES: u64 = 32;

/// Bytes that the extended test reads in a second, at the least that is to be expected.
const BYTES_PER_SECOND: u64 = 100 << 20;

/// Seconds that an extended test of so many bytes takes.
pub(super) fn extended_seconds(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_SECOND).max(1)
}

pub(super) fn run(
    unit: &Arc<Unit>,
    test: SelfTest,
    command: &Command<'_>,
) -> Result<Outcome, Sense> {
    unit.power.ready()?;
    let busy = || Sense::not_ready(AdditionalSense::OPERATION_IN_PROGRESS);
    let running = Running::begin(unit).ok_or_else(busy)?;
    let mut medium = Medium::of(unit, command)?;
    if test.background {
        medium = medium.in_background();
    }
    unit.common.self_tests.begin(test);
    let steps = async move {
        let result = examine(&medium, test, &running).await;
        medium.unit().common.self_tests.end(result);
        drop(running);
        result
    };
    if test.background {
        command.reactor.spawn(async move {
            steps.await;
        });
        return Ok(Outcome::good(0));
    }
    Ok(task(async move {
        match steps.await {
            SelfTestResult::Failed(_) => Err(Sense::new(
                SenseKey::HardwareError,
                AdditionalSense::SELF_TEST_FAILED,
            )),
            _ => Ok(0),
        }
    }))
}

async fn examine(medium: &Medium, test: SelfTest, running: &Running) -> SelfTestResult {
    match read(medium, test.extended, running).await {
        Ok(true) => SelfTestResult::Passed,
        Ok(false) => SelfTestResult::Aborted,
        Err(sense) => SelfTestResult::Failed(sense),
    }
}

/// Whether it came to its end.
async fn read(medium: &Medium, all: bool, running: &Running) -> Result<bool, Sense> {
    let unit = medium.unit();
    let (block, capacity) = (u64::from(unit.limits.block_size()), unit.capacity());
    medium.run(Op::flush()).await?;
    if all {
        let mut buffer = Buffer::new(CHUNK as usize);
        for (offset, len) in chunks(0, capacity * block) {
            if running.is_stopped() {
                return Ok(false);
            }
            buffer = medium
                .run_owned(OpKind::Read, offset, len as usize, buffer)
                .await?;
            medium.pause().await?;
        }
        return Ok(true);
    }
    let last = capacity.saturating_sub(1);
    let mut buffer = Buffer::new(unit.limits.block_size() as usize);
    for place in 0..PLACES {
        // Without overflow, also at 2^64 bytes.
        let lba = last / (PLACES - 1) * place + last % (PLACES - 1) * place / (PLACES - 1);
        let len = buffer.len();
        buffer = medium
            .run_owned(OpKind::Read, lba * block, len, buffer)
            .await?;
        medium.pause().await?;
    }
    Ok(true)
}
