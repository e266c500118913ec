//! Where packets come in and go out, by name: what the daemon serves, and what it would.

use std::collections::BTreeMap;
use std::net::IpAddr;

use encap::eth::MacAddr;
use fastpath::port::PortId;

use crate::api::report::Port;
use crate::compile::{PortRole, PortSpec, PortTable};
use crate::desired::Endpoint;

/// Ports, numbered on their own: numbers mean nothing beyond this.
#[derive(Debug, Default)]
pub struct Places {
    pub(super) ports: PortTable,
    addresses: BTreeMap<u32, Vec<IpAddr>>,
}

impl Places {
    /// The ports that the daemon serves.
    pub fn of(served: &[Port]) -> Self {
        let mut places = Self::default();
        for port in served {
            let role = match port.kind.as_str() {
                "uplink" => PortRole::Uplink,
                "host" => PortRole::Host(MacAddr::default()),
                _ => PortRole::Pod,
            };
            let ifindex = places.insert(&port.name, role);
            places.addresses.insert(ifindex, port.addresses.clone());
        }
        places
    }

    /// Adds the interfaces of endpoints that are not served.
    pub fn add(&mut self, endpoints: &[Endpoint]) {
        for endpoint in endpoints {
            if self.ports.by_name(&endpoint.interface).is_none() {
                self.insert(&endpoint.interface, PortRole::Pod);
            }
        }
    }

    pub(super) fn insert(&mut self, name: &str, role: PortRole) -> u32 {
        let ifindex = self.ports.len() as u32 + 1;
        self.ports.insert(PortSpec {
            name: name.to_owned(),
            ifindex,
            mac: MacAddr::default(),
            mtu: 0,
            partial_checksums: false,
            role,
        });
        ifindex
    }

    /// The addresses of an uplink.
    pub(super) fn addresses(&self, ifindex: u32) -> Vec<IpAddr> {
        self.addresses.get(&ifindex).cloned().unwrap_or_default()
    }

    /// The first uplink.
    pub(super) fn uplink(&self) -> Option<PortId> {
        let mut ports = self.ports.iter();
        ports
            .find(|(_, spec)| spec.role == PortRole::Uplink)
            .map(|(id, _)| id)
    }

    /// Pods' interfaces.
    pub(super) fn pods(&self) -> impl Iterator<Item = &str> {
        let pods = self
            .ports
            .iter()
            .filter(|(_, spec)| spec.role == PortRole::Pod);
        pods.map(|(_, spec)| spec.name.as_str())
    }
}
