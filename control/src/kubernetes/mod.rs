//! Services of a Kubernetes cluster, from its API server.
//!
//! A thread of its own lists and watches `Service` and `EndpointSlice` (`watch.rs`), keeps what matters of them (`kept.rs`), and gives
//! the control loop all services as this node's pods are to reach them, whenever that has changed (`link.rs`). The API server
//! being away changes nothing.

#[cfg(feature = "kubernetes")]
mod access;
#[cfg(feature = "kubernetes")]
mod convert;
#[cfg(feature = "kubernetes")]
mod kept;
mod link;
#[cfg(feature = "kubernetes")]
mod watch;
#[cfg(feature = "kubernetes")]
mod work;

pub use link::{Condition, Failure, Link, Timing};
