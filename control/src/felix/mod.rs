//! Felix as a source of updates: Caracal is its external dataplane driver.
//!
//! Felix starts [`proxy`] as its driver, which joins Felix's pipes to a unix socket of the daemon. There [`link`] reads
//! [`frame`]s, whose messages ([`proto`]) [`State`] takes one by one; [`mod@desired`] makes the daemon's `Desired` of it, once
//! Felix has said that its snapshot is complete. [`report`] tells Felix how the endpoints are.
//!
//! What is not understood is closed, and told: an endpoint is not served, a policy denies everything.

pub mod desired;
pub mod frame;
mod host;
pub mod link;
pub mod mtu;
mod parse;
mod policy;
pub mod proto;
pub mod proxy;
pub mod report;
mod rule;
mod set;
mod settings;
pub mod state;
mod workload;

pub use desired::{Calculated, Surroundings};
pub use state::State;

/// Where Calico's CNI plugin looks for the MTU of pods.
pub const DEFAULT_MTU_FILE: &str = "/var/lib/calico/mtu";

/// Where the daemon listens for Felix unless told otherwise: Calico's pods and the node share this directory.
pub const DEFAULT_SOCKET: &str = "/var/run/calico/felix-dataplane.sock";
