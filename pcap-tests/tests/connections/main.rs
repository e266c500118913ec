//! Connections through the pipeline in memory: state, source NAT, policy, ICMP errors, what
//! becomes of them when endpoints go, and how control sees them.

mod attacks;
mod changes;
mod differential;
mod error_limits;
mod fragments;
mod host_policy;
mod inspect;
mod judged;
mod keep;
mod kept_file;
mod legs;
mod node;
mod offload;
mod oracle;
mod policy;
mod queries;
mod random_hosts;
mod random_packets;
mod random_policy;
mod records;
mod same;
mod schedule;
mod services;
mod services_change;
mod snat;
mod stacks;
mod state;
mod traffic;
mod tunnel_errors;
mod tunnels_of_pods;
mod untracked;
