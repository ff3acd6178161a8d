//! The `lunar` program as its users and their scripts meet it: the real binary, its output, its exit status.
#![cfg(test)]

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
