//! Kubernetes services: what kube-proxy does for the host, the dataplane does for its pods.
//!
//! [`objects`] is what `Service` and `EndpointSlice` say of it, whoever tells: files or the API server. [`calculate`] makes of them which
//! endpoints a service has on this node.

mod calculate;
mod kept;
pub mod objects;

pub use calculate::calculate;
pub use kept::Objects;
