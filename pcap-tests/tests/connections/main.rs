//! Connections through the pipeline in memory: state, source NAT, policy, ICMP errors, what
//! becomes of them when endpoints go, and how control sees them.

mod differential;
mod fragments;
mod inspect;
mod node;
mod policy;
mod snat;
mod state;
mod tunnel_errors;
