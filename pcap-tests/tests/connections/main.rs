//! Connections through the pipeline in memory: state, source NAT, ICMP errors, what
//! becomes of them when endpoints go, and how control sees them.

mod fragments;
mod inspect;
mod node;
mod snat;
mod state;
mod tunnel_errors;
