//! The `lunar` program as its users and their scripts meet it: the real binary, its output, its exit status.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation in a test is its verdict"
)]

mod bad_input;
mod bench;
mod client;
mod config;
mod help;
mod probe;
mod program;
mod reservations;
mod serve;
mod service;
