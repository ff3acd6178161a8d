//! Virtqueues, both sides, and the guest memory map.
