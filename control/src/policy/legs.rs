//! The legs of a packet's way: which endpoints' policies it meets, and in what order.

use std::fmt;
use std::net::IpAddr;

use super::model::{Direction, HostEndpoint, Model, WorkloadId};

/// One end of a packet's way, seen from a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Party {
    /// A pod of the node.
    Workload(WorkloadId),
    /// The node itself, by name.
    Host(String),
    /// Anything beyond the node's own interfaces.
    Outside {
        /// The node, by name.
        node: String,
        /// Host endpoint of the interface that the packet comes in or leaves by ([`host_endpoint`]).
        endpoint: Option<String>,
    },
}

/// One step of a packet's way, at which it may be dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leg {
    /// Policy of a host endpoint before connections are tracked. What it allows skips the endpoint's later legs.
    HostUntracked(String, Direction),
    /// Policy of a host endpoint before destinations are translated, on the way in. What it allows skips the
    /// endpoint's later legs.
    HostPreDnat(String),
    /// Policy of a host endpoint for packets that the host forwards.
    HostForward(String, Direction),
    /// Policy of a host endpoint for the host's own packets.
    HostNormal(String, Direction),
    /// What a pod may always send to its host: multicast and neighbour discovery of IPv6.
    WorkloadToHostAlways,
    /// Policy of a pod.
    Workload(WorkloadId, Direction),
    /// `defaultEndpointToHostAction` of a node.
    EndpointToHost(String),
    /// From a host to its own pod: always allowed.
    HostToWorkload,
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostUntracked(endpoint, direction) => {
                write!(
                    f,
                    "{} of host endpoint {endpoint}, untracked",
                    direction.as_str()
                )
            }
            Self::HostPreDnat(endpoint) => {
                write!(f, "ingress of host endpoint {endpoint}, before DNAT")
            }
            Self::HostForward(endpoint, direction) => {
                write!(
                    f,
                    "{} of host endpoint {endpoint}, forwarded",
                    direction.as_str()
                )
            }
            Self::HostNormal(endpoint, direction) => {
                write!(f, "{} of host endpoint {endpoint}", direction.as_str())
            }
            Self::WorkloadToHostAlways => f.write_str("what a pod may always send to its host"),
            Self::Workload(id, direction) => write!(f, "{} of {id}", direction.as_str()),
            Self::EndpointToHost(node) if node.is_empty() => f.write_str("pod to its host"),
            Self::EndpointToHost(node) => write!(f, "pod to its host {node}"),
            Self::HostToWorkload => f.write_str("host to its pod"),
        }
    }
}

/// The host endpoint that an interface of a node has: one with its name, or one without a name and with one of the
/// interface's addresses; of several the one with the smallest id; else the node's endpoint for all interfaces.
pub fn host_endpoint<'m>(
    model: &'m Model,
    node: &str,
    interface: &str,
    addresses: &[IpAddr],
) -> Option<&'m str> {
    let is_it = |endpoint: &HostEndpoint| {
        let mut expected = endpoint.expected.iter();
        endpoint.interface == interface
            || endpoint.interface.is_empty() && expected.any(|address| addresses.contains(address))
    };
    first(model, node, is_it).or_else(|| wildcard(model, node))
}

/// A node's endpoint for all interfaces that have none of their own.
pub fn wildcard<'m>(model: &'m Model, node: &str) -> Option<&'m str> {
    first(model, node, HostEndpoint::is_wildcard)
}

fn first<'m>(
    model: &'m Model,
    node: &str,
    is_it: impl Fn(&HostEndpoint) -> bool,
) -> Option<&'m str> {
    // The map is sorted by id.
    let mut endpoints = model.host_endpoints.iter();
    endpoints
        .find(|(_, endpoint)| endpoint.node == node && is_it(endpoint))
        .map(|(id, _)| id.as_str())
}

/// The way of a packet within one node.
pub fn legs(model: &Model, from: &Party, to: &Party) -> Vec<Leg> {
    use Direction::{Egress, Ingress};
    let mut legs = Vec::new();
    match (from, to) {
        (Party::Host(_), Party::Host(_)) => {}
        (Party::Host(_), Party::Workload(_)) => legs.push(Leg::HostToWorkload),
        (Party::Host(_), Party::Outside { endpoint, .. }) => {
            if let Some(endpoint) = endpoint {
                legs.push(Leg::HostUntracked(endpoint.clone(), Egress));
                legs.push(Leg::HostNormal(endpoint.clone(), Egress));
            }
        }
        (Party::Workload(id), Party::Host(node)) => {
            if let Some(endpoint) = interface_endpoint(model, from) {
                legs.push(Leg::HostPreDnat(endpoint));
            }
            legs.push(Leg::WorkloadToHostAlways);
            legs.push(Leg::Workload(id.clone(), Egress));
            legs.push(Leg::EndpointToHost(node.clone()));
        }
        (Party::Outside { endpoint, .. }, Party::Host(_)) => {
            if let Some(endpoint) = endpoint {
                legs.push(Leg::HostUntracked(endpoint.clone(), Ingress));
                legs.push(Leg::HostPreDnat(endpoint.clone()));
                legs.push(Leg::HostNormal(endpoint.clone(), Ingress));
            }
        }
        (
            Party::Workload(_) | Party::Outside { .. },
            Party::Workload(_) | Party::Outside { .. },
        ) => {
            forwarded(model, from, to, &mut legs);
        }
    }
    legs
}

fn forwarded(model: &Model, from: &Party, to: &Party, legs: &mut Vec<Leg>) {
    if let Some(endpoint) = interface_endpoint(model, from) {
        if matches!(from, Party::Outside { .. }) {
            legs.push(Leg::HostUntracked(endpoint.clone(), Direction::Ingress));
        }
        legs.push(Leg::HostPreDnat(endpoint.clone()));
        legs.push(Leg::HostForward(endpoint, Direction::Ingress));
    }
    if let Party::Workload(id) = from {
        legs.push(Leg::Workload(id.clone(), Direction::Egress));
    }
    if let Party::Workload(id) = to {
        legs.push(Leg::Workload(id.clone(), Direction::Ingress));
    }
    if let Some(endpoint) = interface_endpoint(model, to) {
        legs.push(Leg::HostForward(endpoint, Direction::Egress));
    }
}

/// The host endpoint of the interface towards a party. A pod's interface has the node's wildcard, if there is one.
fn interface_endpoint(model: &Model, party: &Party) -> Option<String> {
    match party {
        Party::Outside { endpoint, .. } => endpoint.clone(),
        Party::Workload(id) => {
            let node = model
                .workloads
                .get(id)
                .map_or("", |workload| &workload.node);
            wildcard(model, node).map(str::to_owned)
        }
        Party::Host(_) => None,
    }
}
