//! What is told about services.

use std::net::{IpAddr, SocketAddr};

use crate::api::report::{ServiceCounts, ServicePort, Services};
use crate::api::{MAX_PAGE, ServicesParams};
use crate::desired::{self, Service};
use crate::flows::protocol_name;

/// A part of the services. It ends early where endpoints are many.
pub(super) fn page(all: &[Service], params: &ServicesParams) -> Services {
    let only = params.only.as_deref();
    let limit = params.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE);
    let mut page = Services {
        total: 0,
        services: Vec::new(),
        next: None,
    };
    let mut endpoints = 0;
    for service in all {
        for (address, port) in ports(service) {
            if !only.is_none_or(|only| is_meant(service, address, only)) {
                continue;
            }
            let number = page.total;
            page.total += 1;
            if number < params.offset || page.next.is_some() {
                continue;
            }
            if page.services.len() >= limit || endpoints >= MAX_PAGE {
                page.next = Some(number);
                continue;
            }
            let told = told(service, address, port);
            endpoints += told.endpoints.len();
            page.services.push(told);
        }
    }
    page
}

/// How many there are.
pub(super) fn counts(all: &[Service]) -> ServiceCounts {
    let mut counts = ServiceCounts::default();
    // One may be there twice: with other endpoints behind its cluster IPs.
    for same in all.chunk_by(|a, b| (&a.namespace, &a.name) == (&b.namespace, &b.name)) {
        counts.total += 1;
        let mut ports = same.iter().flat_map(ports);
        let lacks = ports.any(|(address, port)| endpoints(address, port).next().is_none());
        counts.without_endpoints += usize::from(lacks);
    }
    counts
}

/// All of its ports at all of its addresses.
fn ports(service: &Service) -> impl Iterator<Item = (IpAddr, &desired::ServicePort)> {
    let at = |address: &IpAddr| {
        let address = *address;
        service.ports.iter().map(move |port| (address, port))
    };
    service.addresses.iter().flat_map(at)
}

/// The endpoints of the address's family.
fn endpoints(
    address: IpAddr,
    port: &desired::ServicePort,
) -> impl Iterator<Item = SocketAddr> + '_ {
    let all = port.backends.iter().copied();
    all.filter(move |it| it.is_ipv4() == address.is_ipv4())
}

/// Whether `only` means it: an address, `namespace/name`, or a name of whatever namespace.
fn is_meant(service: &Service, address: IpAddr, only: &str) -> bool {
    if let Ok(only) = only.parse::<IpAddr>() {
        return only == address;
    }
    match only.split_once('/') {
        Some((namespace, name)) => namespace == service.namespace && name == service.name,
        None => only == service.name,
    }
}

fn told(service: &Service, address: IpAddr, port: &desired::ServicePort) -> ServicePort {
    ServicePort {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        address,
        protocol: protocol_name(port.protocol).into_owned(),
        port: port.port,
        port_name: port.name.clone(),
        affinity: service.affinity,
        endpoints: endpoints(address, port).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, addresses: &[&str], backends: &[&str]) -> Service {
        let port = |protocol, port| desired::ServicePort {
            protocol,
            port,
            name: String::new(),
            backends: backends.iter().map(|it| it.parse().unwrap()).collect(),
        };
        Service {
            namespace: "prod".to_owned(),
            name: name.to_owned(),
            addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
            ports: vec![port(6, 80), port(17, 53)],
            ..Service::default()
        }
    }

    fn all() -> Vec<Service> {
        let backends = ["10.244.1.2:53", "10.244.1.3:53"];
        vec![
            service("dns", &["10.96.0.10", "fd00:96::a"], &backends),
            service("none", &["10.96.0.11"], &[]),
            service("web", &["10.96.0.12"], &backends),
            service("web", &["198.51.100.1"], &backends),
        ]
    }

    /// `name address port/protocol endpoints` of a page.
    fn lines(page: &Services) -> Vec<String> {
        let line = |it: &ServicePort| {
            let (port, count) = (it.port, it.endpoints.len());
            format!("{} {} {port}/{} {count}", it.name, it.address, it.protocol)
        };
        page.services.iter().map(line).collect()
    }

    fn asked(only: &str) -> Services {
        let only = Some(only.to_owned());
        let params = ServicesParams {
            only,
            ..ServicesParams::default()
        };
        page(&all(), &params)
    }

    #[test]
    fn each_port_is_told_at_each_address_with_the_endpoints_of_its_family() {
        let dns = [
            "dns 10.96.0.10 80/tcp 2",
            "dns 10.96.0.10 53/udp 2",
            "dns fd00:96::a 80/tcp 0",
            "dns fd00:96::a 53/udp 0",
        ];
        assert_eq!(lines(&asked("prod/dns")), dns);
        assert_eq!(lines(&asked("dns")), dns);
        assert_eq!(lines(&asked("fd00:96:0::a")), dns[2..]);
        assert_eq!(asked("web").total, 4);
        for nobody in ["other/dns", "prod/", "10.96.0.1", ""] {
            assert_eq!(asked(nobody).total, 0, "{nobody}");
        }
    }

    #[test]
    fn pages_make_the_whole() {
        let whole = page(&all(), &ServicesParams::default());
        assert_eq!(
            (whole.total, whole.services.len(), whole.next),
            (10, 10, None)
        );
        let mut found = Vec::new();
        let mut offset = Some(0);
        while let Some(from) = offset {
            let params = ServicesParams {
                offset: from,
                limit: Some(3),
                only: None,
            };
            let part = page(&all(), &params);
            assert!(part.services.len() <= 3 && part.total == 10);
            offset = part.next;
            found.extend(part.services);
        }
        assert_eq!(found, whole.services);
    }

    #[test]
    fn a_page_has_so_many_endpoints_that_it_is_soon_made() {
        let backends: Vec<String> = (0..6000).map(|it| format!("10.244.1.2:{it}")).collect();
        let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
        let all = [service("large", &["10.96.0.1", "10.96.0.2"], &backends)];
        let part = page(&all, &ServicesParams::default());
        assert_eq!((part.services.len(), part.next), (2, Some(2)));
    }

    #[test]
    fn a_service_that_refuses_somebody_is_one_without_endpoints() {
        let expected = ServiceCounts {
            total: 3,
            without_endpoints: 2,
        };
        assert_eq!(counts(&all()), expected);
        assert_eq!(counts(&[]), ServiceCounts::default());
    }
}
