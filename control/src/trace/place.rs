//! What the compiler and the tables know of a place in the network: its next hop, its policies, its name.

use std::net::IpAddr;

use fastpath::policy::End;
use fastpath::port::PortId;
use fastpath::tables::{NextHop, Way};

use super::Tracer;
use crate::compile::PortRole;
use crate::policy::legs::Party;

/// The end that a next hop leads to.
pub(super) const fn end_of(way: Way, out: PortId) -> End {
    match way {
        Way::Pod => End::Pod(out),
        Way::Host => End::Host,
        Way::Uplink => End::Uplink(out),
        Way::Tunnel => End::Elsewhere,
    }
}

impl Tracer<'_> {
    pub(super) fn hop(&self, address: IpAddr) -> &NextHop {
        self.tables.next_hop(match address {
            IpAddr::V4(address) => self.tables.fib4.lookup(address.into()),
            IpAddr::V6(address) => self.tables.fib6.lookup(address.into()),
        })
    }

    /// Where packets to an address go, unless they are dropped.
    pub(super) fn end_towards(&self, address: IpAddr) -> Option<End> {
        let (way, _, out) = self.hop(address).origin()?;
        Some(end_of(way, out))
    }

    /// Whoever is there.
    pub(super) fn party_at(&self, end: End) -> Party {
        let pod = match end {
            End::Pod(port) => self.party(&self.port_name(port)),
            End::Host => Some(Party::Host(self.compiler.desired().node_name.clone())),
            End::Uplink(_) | End::Elsewhere => None,
        };
        pod.unwrap_or_else(|| self.outside(end))
    }

    /// Beyond the node, behind the host endpoint that is there.
    pub(super) fn outside(&self, end: End) -> Party {
        Party::Outside {
            node: self.compiler.desired().node_name.clone(),
            endpoint: self.host_endpoint(end).map(str::to_owned),
        }
    }

    pub(super) fn host_endpoint(&self, end: End) -> Option<&str> {
        let hosts = self.tables.policies.hosts.as_ref()?;
        hosts.of(end).map(|endpoint| &*endpoint.name)
    }

    pub(super) fn party(&self, interface: &str) -> Option<Party> {
        let id = self.compiler.policy().endpoint(interface)?;
        Some(Party::Workload(id.clone()))
    }

    pub(super) fn port_name(&self, port: PortId) -> String {
        let port = self.compiler.ports().get(port);
        port.map_or_else(
            || "?".to_owned(),
            |spec| match spec.role {
                PortRole::Host(_) => "the host's port".to_owned(),
                PortRole::Uplink | PortRole::Pod => spec.name.clone(),
            },
        )
    }
}
