//! Connections through the pipeline in memory: state, source NAT, ICMP errors, and what becomes of them when endpoints go.

mod attacks;
mod fragments;
mod node;
mod same;
mod schedule;
mod snat;
mod stacks;
mod state;
mod traffic;
