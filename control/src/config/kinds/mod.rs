//! The kinds of `projectcalico.org/v3`, and those of Kubernetes that services are made of, one file each. Field names and
//! meaning are Calico's and Kubernetes'.

mod bgp_configuration;
mod block_affinity;
mod endpoint_slice;
mod felix_configuration;
mod felix_fields;
mod ip_pool;
mod node;
pub(super) mod passive;
mod service;
mod workload_endpoint;

pub use bgp_configuration::BgpConfiguration;
pub use block_affinity::BlockAffinity;
pub use endpoint_slice::EndpointSlice;
pub use felix_configuration::FelixConfiguration;
pub use ip_pool::IpPool;
pub use node::Node;
pub use service::Service;
pub use workload_endpoint::{EndpointPort, WorkloadEndpoint};
pub(crate) use workload_endpoint::{endpoint_port, named_ports};
