//! Kubernetes services.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Ports of services, or a part of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// How many there are in all of those that are meant.
    pub total: usize,
    /// One for each address, protocol and port; by namespace and name.
    pub services: Vec<ServicePort>,
    /// What to ask for as `offset`, when there are more.
    pub next: Option<usize>,
}

/// A port of a service at one of its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// The service's namespace.
    pub namespace: String,
    /// The service's name.
    pub name: String,
    /// Where clients send: a cluster IP, an external IP, or one of a load balancer.
    pub address: IpAddr,
    /// The protocol's name.
    pub protocol: String,
    /// Where clients send.
    pub port: u16,
    /// The port's name; empty if it has none.
    pub port_name: String,
    /// Whether a client stays with its endpoint.
    pub affinity: bool,
    /// What is behind it, of the address's family. None: clients are refused.
    pub endpoints: Vec<SocketAddr>,
}

/// How many services there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCounts {
    /// Those with addresses.
    pub total: usize,
    /// Of these, those of which a port has no endpoint at one of its addresses.
    pub without_endpoints: usize,
}
