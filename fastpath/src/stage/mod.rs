//! The stages: plain functions over a batch, in the order of a packet's way.
//!
//! No stage blocks, allocates memory, locks, logs or reads a clock.

pub mod apply;
pub mod decap;
pub mod egress;
pub mod flow;
pub mod fragment;
pub mod icmp;
pub mod neighbour;
pub mod parse;
pub mod probe;
pub mod resolve;
pub mod tunnel_error;
