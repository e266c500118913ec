//! From objects to the endpoints of each service.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};

use super::objects::{Endpoint, EndpointSlice, Service};
use crate::desired;

/// The services as pods of the node `node` reach them, in the order of namespaces and names.
///
/// As kube-proxy has it (`pkg/proxy/topology.go`): endpoints that are ready; if none is, those that still serve while they terminate. To
/// the cluster IPs of a service that is local to nodes, the node's own only; to its other addresses, which `externalTrafficPolicy` is
/// about, a node's pods reach all.
/// An address that is a service's cluster IP is never another's external one: whoever may make services could else take what others say.
pub fn calculate<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node: &str,
) -> Vec<desired::Service> {
    let services: Vec<&Service> = services.into_iter().collect();
    let inside = services.iter().flat_map(|it| &it.cluster_ips).copied();
    let inside: HashSet<IpAddr> = inside.collect();
    let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        let key = (slice.namespace.as_str(), slice.service.as_str());
        by_service.entry(key).or_default().push(slice);
    }
    let mut all = Vec::new();
    for service in &services {
        let key = (service.namespace.as_str(), service.name.as_str());
        let slices = by_service.get(&key).map_or(&[][..], Vec::as_slice);
        all.extend(ways_to(service, slices, &inside, node));
    }
    all.sort_by(|a, b| {
        let name = a
            .namespace
            .cmp(&b.namespace)
            .then_with(|| a.name.cmp(&b.name));
        name.then_with(|| a.addresses.cmp(&b.addresses))
    });
    all
}

/// One, or two where other endpoints are behind the cluster IPs than behind the other addresses.
fn ways_to(
    service: &Service,
    slices: &[&EndpointSlice],
    all_inside: &HashSet<IpAddr>,
    node: &str,
) -> Vec<desired::Service> {
    let inside = service.cluster_ips.iter().copied();
    let outside = service
        .external_ips
        .iter()
        .chain(&service.load_balancer_ips);
    let outside = outside.copied().filter(|it| !all_inside.contains(it));
    let ways = if service.internal_local {
        [
            way_to(service, slices, inside, Some(node)),
            way_to(service, slices, outside, None),
        ]
    } else {
        [way_to(service, slices, inside.chain(outside), None), None]
    };
    ways.into_iter().flatten().collect()
}

fn way_to(
    service: &Service,
    slices: &[&EndpointSlice],
    addresses: impl Iterator<Item = IpAddr>,
    node: Option<&str>,
) -> Option<desired::Service> {
    let addresses: BTreeSet<IpAddr> = addresses.collect();
    if addresses.is_empty() {
        return None;
    }
    let mut ports: Vec<_> = service
        .ports
        .iter()
        .map(|port| desired::ServicePort {
            protocol: port.protocol,
            port: port.port,
            name: port.name.clone(),
            backends: backends(service, slices, (&port.name, port.protocol), node),
        })
        .collect();
    ports.sort();
    ports.dedup_by_key(|it| (it.protocol, it.port));
    let own: BTreeSet<IpAddr> = service.cluster_ips.iter().copied().collect();
    Some(desired::Service {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        own_addresses: own.intersection(&addresses).copied().collect(),
        addresses: addresses.into_iter().collect(),
        ports,
        affinity: service.client_ip_affinity,
    })
}

/// The usable endpoints of one port.
fn backends(
    service: &Service,
    slices: &[&EndpointSlice],
    (name, protocol): (&str, u8),
    node: Option<&str>,
) -> Vec<SocketAddr> {
    let is_near = |it: &Endpoint| node.is_none_or(|node| it.node.as_deref() == Some(node));
    let of = |is_usable: fn(&Endpoint) -> bool| -> BTreeSet<SocketAddr> {
        let mut found = BTreeSet::new();
        for slice in slices {
            let ports = slice.ports.iter();
            let ports = ports.filter(|it| it.name == name && it.protocol == protocol);
            for port in ports {
                let endpoints = slice
                    .endpoints
                    .iter()
                    .filter(|it| is_usable(it) && is_near(it));
                found.extend(endpoints.map(|it| SocketAddr::new(it.address, port.port)));
            }
        }
        found
    };
    let ready = if service.publish_not_ready {
        of(|_| true)
    } else {
        of(|it| it.ready)
    };
    // Each family by itself: a client of one has no use for the other's.
    let lacks = |v4: bool| ready.iter().all(|it| it.is_ipv4() != v4);
    let lacking = [lacks(false), lacks(true)];
    let ending = of(|it| it.serving && it.terminating).into_iter();
    let ending = ending.filter(|it| lacking[usize::from(it.is_ipv4())]);
    let mut found: Vec<_> = ready.iter().copied().chain(ending).collect();
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::super::objects::{Port, SlicePort};
    use super::*;

    fn endpoint(address: &str, node: &str) -> Endpoint {
        Endpoint {
            address: address.parse().expect("an address"),
            ready: true,
            serving: true,
            terminating: false,
            node: Some(node.to_owned()),
        }
    }

    fn service() -> Service {
        Service {
            namespace: "kube-system".to_owned(),
            name: "kube-dns".to_owned(),
            cluster_ips: vec![addr("10.96.0.10"), addr("fd00:96::a")],
            load_balancer_ips: vec![addr("198.51.100.1")],
            ports: [("dns", 17, 53), ("dns-tcp", 6, 53)]
                .map(|(name, protocol, port)| Port {
                    name: name.to_owned(),
                    protocol,
                    port,
                })
                .to_vec(),
            ..Service::default()
        }
    }

    fn slice(endpoints: Vec<Endpoint>) -> EndpointSlice {
        EndpointSlice {
            namespace: "kube-system".to_owned(),
            name: "kube-dns-1".to_owned(),
            service: "kube-dns".to_owned(),
            endpoints,
            ports: vec![
                SlicePort {
                    name: "dns".to_owned(),
                    protocol: 17,
                    port: 5353,
                },
                SlicePort {
                    name: "dns-tcp".to_owned(),
                    protocol: 6,
                    port: 5354,
                },
            ],
        }
    }

    fn addr(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn backends(all: &[desired::Service], protocol: u8) -> Vec<String> {
        let ports = all[0].ports.iter().filter(|it| it.protocol == protocol);
        ports
            .flat_map(|it| it.backends.iter().map(ToString::to_string))
            .collect()
    }

    #[test]
    fn each_port_has_the_endpoints_of_its_name() {
        let slices = [
            slice(vec![
                endpoint("10.244.2.2", "b"),
                endpoint("10.244.1.2", "a"),
            ]),
            slice(vec![
                endpoint("fd00:244::2", "a"),
                endpoint("10.244.1.2", "a"),
            ]),
        ];
        let all = calculate(&[service()], &slices, "a");
        assert_eq!(all.len(), 1);
        assert_eq!(
            all[0].addresses,
            ["10.96.0.10", "198.51.100.1", "fd00:96::a"].map(addr)
        );
        assert_eq!(all[0].own_addresses, ["10.96.0.10", "fd00:96::a"].map(addr));
        let ports: Vec<_> = all[0]
            .ports
            .iter()
            .map(|it| (it.protocol, it.port))
            .collect();
        assert_eq!(ports, [(6, 53), (17, 53)]);
        assert_eq!(
            backends(&all, 17),
            ["10.244.1.2:5353", "10.244.2.2:5353", "[fd00:244::2]:5353"]
        );
        assert_eq!(
            backends(&all, 6),
            ["10.244.1.2:5354", "10.244.2.2:5354", "[fd00:244::2]:5354"]
        );
    }

    #[test]
    fn another_namespaces_slice_is_another_services() {
        let mut other = slice(vec![endpoint("10.244.1.2", "a")]);
        other.namespace = "default".to_owned();
        let all = calculate(&[service()], &[other], "a");
        assert_eq!(backends(&all, 17), [""; 0]);
    }

    #[test]
    fn who_is_not_ready_is_left_out_and_who_terminates_is_the_last_resort() {
        let not_ready = Endpoint {
            ready: false,
            serving: false,
            ..endpoint("10.244.1.3", "a")
        };
        let ending = Endpoint {
            ready: false,
            terminating: true,
            ..endpoint("10.244.1.4", "a")
        };
        let ended = Endpoint {
            serving: false,
            address: addr("10.244.1.5"),
            ..ending.clone()
        };
        let all = vec![endpoint("10.244.1.2", "a"), not_ready, ending, ended];
        let of = |endpoints: &[Endpoint], service: &Service| {
            let all = calculate(
                std::slice::from_ref(service),
                &[slice(endpoints.to_vec())],
                "a",
            );
            backends(&all, 17)
        };
        assert_eq!(of(&all, &service()), ["10.244.1.2:5353"]);
        assert_eq!(of(&all[1..], &service()), ["10.244.1.4:5353"]);
        let six = Endpoint {
            ready: false,
            terminating: true,
            ..endpoint("fd00:244::2", "a")
        };
        let of_both = [all[0].clone(), all[2].clone(), six];
        assert_eq!(
            of(&of_both, &service()),
            ["10.244.1.2:5353", "[fd00:244::2]:5353"],
            "of IPv6 there is no other"
        );
        let published = Service {
            publish_not_ready: true,
            ..service()
        };
        assert_eq!(of(&all, &published).len(), 4);
    }

    #[test]
    fn a_cluster_ip_is_nobody_elses_external_one() {
        let thief = Service {
            namespace: "default".to_owned(),
            name: "dns".to_owned(),
            cluster_ips: vec![addr("10.96.0.66")],
            load_balancer_ips: vec![addr("198.51.100.2")],
            external_ips: vec![addr("10.96.0.10")],
            ..service()
        };
        let all = calculate(&[thief, service()], &[], "a");
        assert_eq!(all[0].addresses, ["10.96.0.66", "198.51.100.2"].map(addr));
        assert!(all[1].addresses.contains(&addr("10.96.0.10")));
    }

    #[test]
    fn a_local_service_has_the_nodes_own_endpoints_but_at_outside_addresses() {
        let local = Service {
            internal_local: true,
            ..service()
        };
        let slices = [slice(vec![
            endpoint("10.244.1.2", "a"),
            endpoint("10.244.2.2", "b"),
        ])];
        let all = calculate(&[local], &slices, "a");
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].addresses, ["10.96.0.10", "fd00:96::a"].map(addr));
        assert_eq!(backends(&all, 17), ["10.244.1.2:5353"]);
        assert_eq!(all[1].addresses, ["198.51.100.1"].map(addr));
        assert_eq!(all[0].own_addresses, all[0].addresses);
        assert!(all[1].own_addresses.is_empty());
        assert_eq!(
            backends(&all[1..], 17),
            ["10.244.1.2:5353", "10.244.2.2:5353"]
        );
    }
}
