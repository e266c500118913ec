//! Since when each pod's port has belonged to what it belongs to now.

use std::collections::BTreeMap;

use fastpath::port::PortId;

use super::ports::PortSpec;
use crate::desired::{Endpoint, EndpointIdentity};

/// The endpoint behind each port, and since which generation. An endpoint that is deleted and made again, moves to another
/// interface or gets other addresses is another one: connections of the one before must not reach it.
#[derive(Debug, Default)]
pub(super) struct Incarnations {
    ports: BTreeMap<PortId, (Identity, u64)>,
    /// The last generation in which one went away or became another one.
    changed: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Identity {
    ifindex: u32,
    endpoint: EndpointIdentity,
}

impl Incarnations {
    /// Takes what is behind each pod's port as of this generation.
    pub(super) fn follow<'a>(
        &mut self,
        pods: impl Iterator<Item = (PortId, &'a PortSpec, &'a Endpoint)>,
        generation: u64,
    ) {
        let mut before = std::mem::take(&mut self.ports);
        for (port, spec, endpoint) in pods {
            let now = Identity {
                ifindex: spec.ifindex,
                endpoint: endpoint.identity(),
            };
            let since = match before.remove(&port) {
                Some((identity, since)) if identity == now => since,
                _ => generation,
            };
            if since == generation {
                self.changed = generation;
            }
            self.ports.insert(port, (now, since));
        }
        if !before.is_empty() {
            self.changed = generation;
        }
    }

    /// The last generation in which an endpoint came, went away or became another one.
    pub(super) const fn changed(&self) -> u64 {
        self.changed
    }

    /// The generation since which the port has belonged to its endpoint; 0 for ports of none.
    pub(super) fn since(&self, port: PortId) -> u64 {
        self.ports.get(&port).map_or(0, |(_, since)| *since)
    }
}

#[cfg(test)]
mod tests {
    use encap::eth::MacAddr;

    use super::*;
    use crate::compile::PortRole;
    use crate::desired::EndpointId;

    fn endpoint(name: &str, addr: &str) -> Endpoint {
        Endpoint {
            id: EndpointId {
                namespace: "default".to_owned(),
                name: name.to_owned(),
            },
            workload: name.to_owned(),
            interface: "cali1".to_owned(),
            mac: None,
            ipv4_nets: vec![addr.parse().unwrap()],
            ipv6_nets: Vec::new(),
            allowed_spoofed_prefixes: Vec::new(),
            profiles: Vec::new(),
        }
    }

    #[test]
    fn an_endpoint_with_another_address_name_or_interface_is_another_one() {
        let spec = |ifindex| PortSpec {
            name: "cali1".to_owned(),
            ifindex,
            mac: MacAddr([2; 6]),
            mtu: 1500,
            partial_checksums: true,
            role: PortRole::Pod,
        };
        let port = PortId(3);
        let mut incarnations = Incarnations::default();
        let mut since = |generation, spec: &PortSpec, endpoint: Option<&Endpoint>| {
            let pods = endpoint.map(|endpoint| (port, spec, endpoint));
            incarnations.follow(pods.into_iter(), generation);
            incarnations.since(port)
        };
        let first = endpoint("a", "10.0.0.1/32");
        assert_eq!(since(1, &spec(7), Some(&first)), 1);
        let mut relabelled = first.clone();
        relabelled.profiles = vec!["p".to_owned()];
        assert_eq!(since(2, &spec(7), Some(&relabelled)), 1, "still the same");
        assert_eq!(since(3, &spec(7), Some(&endpoint("a", "10.0.0.2/32"))), 3);
        assert_eq!(since(4, &spec(7), Some(&endpoint("b", "10.0.0.2/32"))), 4);
        assert_eq!(since(5, &spec(8), Some(&endpoint("b", "10.0.0.2/32"))), 5);
        assert_eq!(since(6, &spec(8), None), 0, "nobody's");
        assert_eq!(since(7, &spec(8), Some(&endpoint("b", "10.0.0.2/32"))), 7);
    }
}
