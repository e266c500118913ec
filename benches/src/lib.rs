//! What the benches share: interleaved rounds, peers in other processes, counted memory, workloads.

pub mod alloc;
pub mod cpu;
pub mod forwarder;
pub mod generator;
pub mod ours;
pub mod peer;
pub mod policies;
pub mod process;
pub mod rng;
pub mod rounds;
pub mod routes;
pub mod rules;
pub mod scenario;
pub mod setup;
pub mod table;
