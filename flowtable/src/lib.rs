#![forbid(unsafe_code)]
// Indexing is allowed: tables are searched by numbers that are masked to their length.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Everything a packet is looked up in. No I/O, no clock, no threads: time is an argument.

pub mod acl;
pub mod conn;
pub mod flow;
pub mod fragments;
pub mod lpm;
mod prefetch;
pub mod service;
mod simd;
pub mod snat;
mod tick;

pub use prefetch::prefetch;
pub use tick::Tick;
