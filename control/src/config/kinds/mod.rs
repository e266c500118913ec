//! The kinds of `projectcalico.org/v3`, one file each. Field names and meaning are Calico's.

mod bgp_configuration;
mod block_affinity;
mod felix_configuration;
mod felix_fields;
mod ip_pool;
mod node;
pub(super) mod passive;
mod workload_endpoint;

pub use bgp_configuration::BgpConfiguration;
pub use block_affinity::BlockAffinity;
pub use felix_configuration::FelixConfiguration;
pub use ip_pool::IpPool;
pub use node::Node;
pub use workload_endpoint::{EndpointPort, WorkloadEndpoint};
pub(crate) use workload_endpoint::{endpoint_port, named_ports};
