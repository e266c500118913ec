//! The flow table against a plain map, from many threads, and over time.
#![cfg(not(loom))]

mod family;
mod model;
mod sweeping;
mod threads;
