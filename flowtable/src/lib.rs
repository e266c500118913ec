#![forbid(unsafe_code)]
//! Everything a packet is looked up in. No I/O, no clock, no threads: time is an argument.

pub mod lpm;
mod prefetch;
mod tick;

pub use tick::Tick;
