//! Lunar.
fn main() {}
