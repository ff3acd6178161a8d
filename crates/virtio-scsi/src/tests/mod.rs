//! Behaviour of the device, seen from the driver.
#![allow(
    clippy::cast_possible_truncation,
    reason = "sizes in these tests are small"
)]

mod allegiance;
mod coalescing;
mod copies;
mod erasing;
mod events;
mod fake;
mod harness;
mod hostile;
mod life_cycle;
mod line;
mod moves;
mod requests;
mod task_management;
mod task_set;
