//! Moves frames: batches, stages, the pipeline, pollers and packet I/O.
//!
//! A packet's way: [`io::PacketIo::recv`], then [`pipeline::Pipeline::run`] with the [`stage`]s in order,
//! reading one snapshot of the [`tables::Tables`] that control published.

pub mod batch;
pub mod capture;
pub mod counters;
pub mod event;
pub mod frame;
pub mod hold;
pub mod io;
pub mod limiter;
pub mod pipeline;
pub mod poller;
pub mod port;
pub mod reason;
pub mod snapshot;
pub mod stage;
pub mod tables;
