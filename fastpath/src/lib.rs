#![deny(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]
//! Moves frames: batches, stages, the pipeline, pollers and packet I/O.
//!
//! A packet's way: [`io::PacketIo::recv`], then [`pipeline::Pipeline::run`] with the [`stage`]s in order,
//! reading one snapshot of the [`tables::Tables`] that control published.

pub mod batch;
pub mod capture;
pub mod connections;
pub mod counters;
pub mod event;
pub mod frame;
pub mod group;
pub mod hold;
pub mod io;
pub mod limiter;
pub mod offload;
pub mod pipeline;
pub mod policy;
pub mod poller;
pub mod port;
pub mod reason;
pub mod record;
pub mod snapshot;
pub mod stage;
pub mod stopwatch;
pub mod tables;
pub mod tap;
