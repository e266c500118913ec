//! Connections through the pipeline in memory: state, source NAT, policy, ICMP errors, and what becomes of them when endpoints go.

mod differential;
mod fragments;
mod node;
mod policy;
mod snat;
mod state;
mod tunnel_errors;
