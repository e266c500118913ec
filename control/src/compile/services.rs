//! From services as they are wanted to those that pollers look addresses up in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use fastpath::tables;
use flowtable::service::{Frontend, ServiceAddr, Services};
use ipnet::IpNet;

use crate::desired::{Desired, Service, ServiceLoopPrevention};

/// Compiles services. A port whose backends did not change keeps what was made of them: to choose among many takes a large table.
#[derive(Debug, Default)]
pub(super) struct ServiceCompiler {
    wanted: Arc<Vec<Service>>,
    /// The ranges that only services have.
    cidrs: Vec<IpNet>,
    tables: tables::Services,
}

impl ServiceCompiler {
    /// Takes the services of another wanted state.
    pub(super) fn update(&mut self, desired: &Desired) {
        let prevention = desired.felix.service_loop_prevention;
        self.tables.incomplete = desired.services_incomplete;
        self.tables.refuses_strays = prevention == ServiceLoopPrevention::Reject;
        let cidrs = match prevention {
            ServiceLoopPrevention::Disabled => Vec::new(),
            ServiceLoopPrevention::Drop | ServiceLoopPrevention::Reject => {
                desired.service_cidrs.all().collect()
            }
        };
        let services = &desired.services;
        if Arc::ptr_eq(&self.wanted, services) && self.cidrs == cidrs {
            return;
        }
        self.tables.v4 = compile(services, &cidrs, &self.tables.v4);
        self.tables.v6 = compile(services, &cidrs, &self.tables.v6);
        (self.wanted, self.cidrs) = (Arc::clone(services), cidrs);
    }

    /// Those in force.
    pub(super) const fn tables(&self) -> &tables::Services {
        &self.tables
    }
}

/// An address of one family.
trait Family: ServiceAddr {
    /// None: it is of the other one.
    fn of(address: IpAddr) -> Option<Self>;

    /// The addresses of a network.
    fn range(net: &IpNet) -> Option<RangeInclusive<Self>> {
        Some(Self::of(net.network())?..=Self::of(net.broadcast())?)
    }
}

impl Family for u32 {
    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address.to_bits()),
            IpAddr::V6(_) => None,
        }
    }
}

impl Family for u128 {
    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address.to_bits()),
        }
    }
}

/// What a frontend is made of: its backends, and whether clients stay with theirs.
type Content<'a, A> = (&'a [(A, u16)], bool);

/// The services of one family. An address has the backends of its own family alone.
fn compile<A: Family>(
    services: &[Service],
    cidrs: &[IpNet],
    before: &Arc<Services<A>>,
) -> Arc<Services<A>> {
    let made = before.iter().map(|(_, it)| it);
    let made: HashMap<Content<'_, A>, &Arc<Frontend<A>>> = made
        .map(|it| ((it.backends(), it.has_affinity()), it))
        .collect();
    let mut entries = Vec::new();
    // Of two at one place the last of these counts, and the first by name should.
    for service in services.iter().rev() {
        let addresses: Vec<A> = of_family(&service.addresses).collect();
        if addresses.is_empty() {
            continue;
        }
        for port in &service.ports {
            let backends = port.backends.iter();
            let backends: Vec<(A, u16)> = backends
                .filter_map(|it| Some((A::of(it.ip())?, it.port())))
                .collect();
            let same = made.get(&(backends.as_slice(), service.affinity));
            let frontend = same.map(|it| Arc::clone(it));
            let frontend =
                frontend.unwrap_or_else(|| Arc::new(Frontend::new(backends, service.affinity)));
            let places = addresses.iter().map(|it| (*it, port.protocol, port.port));
            entries.extend(places.map(|place| (place, Arc::clone(&frontend))));
        }
    }
    let own = services.iter().flat_map(|it| of_family(&it.own_addresses));
    let now = Services::new(entries, own).alone_in(cidrs.iter().filter_map(A::range));
    if now == **before {
        return Arc::clone(before);
    }
    Arc::new(now)
}

fn of_family<A: Family>(addresses: &[IpAddr]) -> impl Iterator<Item = A> {
    addresses.iter().filter_map(|it| A::of(*it))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use flowtable::service::Service as Found;

    use super::*;
    use crate::desired::ServicePort;

    fn service(name: &str, addresses: &[&str], backends: &[&str]) -> Service {
        let addresses: Vec<IpAddr> = addresses.iter().map(|it| it.parse().unwrap()).collect();
        Service {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            own_addresses: addresses.clone(),
            addresses,
            ports: vec![port(80, backends)],
            affinity: false,
        }
    }

    fn port(port: u16, backends: &[&str]) -> ServicePort {
        ServicePort {
            protocol: 6,
            port,
            name: String::new(),
            backends: backends.iter().map(|it| it.parse().unwrap()).collect(),
        }
    }

    fn tables(services: Vec<Service>) -> tables::Services {
        let mut compiler = ServiceCompiler::default();
        compiler.update(&desired(services));
        compiler.tables().clone()
    }

    fn desired(services: impl Into<Arc<Vec<Service>>>) -> Desired {
        Desired {
            services: services.into(),
            ..Desired::default()
        }
    }

    fn v4(address: &str) -> u32 {
        u32::of(address.parse().unwrap()).unwrap()
    }

    fn v6(address: &str) -> u128 {
        u128::of(address.parse().unwrap()).unwrap()
    }

    /// The backends at port 80 of an address.
    fn backends<A: Family>(services: &Services<A>, address: A) -> Option<Vec<(A, u16)>> {
        match services.at(address, 6, 80) {
            Found::Port(frontend) => Some(frontend.backends().to_vec()),
            Found::None | Found::NoPort | Found::Stray => None,
        }
    }

    /// What port 80 of an address was made of.
    fn frontend(services: &Services<u32>, address: &str) -> Arc<Frontend<u32>> {
        let place = (v4(address), 6, 80);
        let mut all = services.iter();
        let found = all.find(|(at, _)| **at == place);
        Arc::clone(found.unwrap().1)
    }

    #[test]
    fn an_address_has_the_backends_of_its_family() {
        let (one, other) = ("10.96.0.1", "fd00:96::1");
        let dual = service(
            "a",
            &[one, other],
            &["10.244.1.2:8080", "[fd00:244::2]:8081"],
        );
        let tables = tables(vec![dual]);
        assert_eq!(
            backends(&tables.v4, v4(one)),
            Some(vec![(v4("10.244.1.2"), 8080)])
        );
        assert_eq!(
            backends(&tables.v6, v6(other)),
            Some(vec![(v6("fd00:244::2"), 8081)])
        );
    }

    #[test]
    fn a_port_without_backends_is_there_and_has_none() {
        let (one, other) = ("10.96.0.1", "fd00:96::1");
        let tables = tables(vec![service("a", &[one, other], &["10.244.1.2:80"])]);
        assert_eq!(backends(&tables.v6, v6(other)), Some(Vec::new()));
        assert_eq!(tables.v4.at(v4(one), 17, 80), Found::NoPort);
        assert_eq!(tables.v4.at(v4("10.96.0.2"), 6, 80), Found::None);
    }

    #[test]
    fn other_ports_of_an_external_address_are_somebody_elses() {
        let shared = Service {
            own_addresses: Vec::new(),
            ..service("a", &["192.0.2.1"], &[])
        };
        let tables = tables(vec![shared]);
        assert_eq!(backends(&tables.v4, v4("192.0.2.1")), Some(Vec::new()));
        assert_eq!(tables.v4.at(v4("192.0.2.1"), 6, 22), Found::None);
    }

    #[test]
    fn an_address_of_no_service_leads_nowhere_where_only_services_are() {
        let mut compiler = ServiceCompiler::default();
        let mut desired = desired(vec![service("a", &["10.96.0.1"], &[])]);
        desired.service_cidrs.cluster = vec!["10.96.0.0/12".parse().unwrap()];
        desired.service_cidrs.external = vec!["fd00:99::/64".parse().unwrap()];
        let at = |compiler: &ServiceCompiler, four: &str, six: &str| {
            let tables = compiler.tables();
            let (four, six) = (tables.v4.at(v4(four), 6, 81), tables.v6.at(v6(six), 6, 81));
            (four == Found::Stray, six == Found::Stray)
        };
        compiler.update(&desired);
        assert_eq!(at(&compiler, "10.111.255.255", "fd00:99::"), (true, true));
        assert_eq!(at(&compiler, "10.112.0.0", "fd00:98::"), (false, false));
        assert_eq!(
            compiler.tables().v4.at(v4("10.96.0.1"), 6, 81),
            Found::NoPort
        );
        assert!(!compiler.tables().refuses_strays);

        desired.felix.service_loop_prevention = ServiceLoopPrevention::Reject;
        compiler.update(&desired);
        assert_eq!(at(&compiler, "10.96.0.2", "fd00:99::1"), (true, true));
        assert!(compiler.tables().refuses_strays);

        desired.felix.service_loop_prevention = ServiceLoopPrevention::Disabled;
        compiler.update(&desired);
        assert_eq!(at(&compiler, "10.96.0.2", "fd00:99::1"), (false, false));
    }

    #[test]
    fn of_two_services_at_one_place_the_first_counts() {
        let both = vec![
            service("a", &["10.96.0.1"], &["10.244.1.2:80"]),
            service("b", &["10.96.0.1"], &["10.244.1.3:80"]),
        ];
        let expected = Some(vec![(v4("10.244.1.2"), 80)]);
        assert_eq!(backends(&tables(both).v4, v4("10.96.0.1")), expected);
    }

    #[test]
    fn what_did_not_change_is_not_made_again() {
        let services = [
            service("a", &["10.96.0.1", "192.0.2.1"], &["10.244.1.2:80"]),
            service("b", &["10.96.0.2", "fd00:96::2"], &["10.244.1.3:80"]),
        ];
        let mut compiler = ServiceCompiler::default();
        let wanted = Arc::new(services.to_vec());
        compiler.update(&desired(Arc::clone(&wanted)));
        let before = compiler.tables().clone();
        let of = |tables: &tables::Services, address| frontend(&tables.v4, address);
        // One for both of its addresses.
        let same = of(&before, "192.0.2.1");
        assert!(Arc::ptr_eq(&of(&before, "10.96.0.1"), &same));

        let equal = Arc::new(services.to_vec());
        for services in [wanted, equal] {
            compiler.update(&desired(services));
            assert!(Arc::ptr_eq(&compiler.tables().v4, &before.v4));
        }

        let mut changed = services.to_vec();
        let added: SocketAddr = "10.244.1.4:80".parse().unwrap();
        changed[1].ports[0].backends.push(added);
        compiler.update(&desired(changed.clone()));
        let after = compiler.tables().clone();
        assert!(Arc::ptr_eq(&of(&after, "10.96.0.1"), &same));
        assert!(!Arc::ptr_eq(
            &of(&after, "10.96.0.2"),
            &of(&before, "10.96.0.2")
        ));
        assert_eq!(of(&after, "10.96.0.2").backends().len(), 2);
        // Nothing of IPv6 has changed.
        assert!(Arc::ptr_eq(&after.v6, &before.v6));

        // The same backends are chosen from in another way.
        changed[0].affinity = true;
        compiler.update(&desired(changed.clone()));
        assert!(of(compiler.tables(), "10.96.0.1").has_affinity());
        changed.remove(0);
        compiler.update(&desired(changed));
        assert_eq!(compiler.tables().v4.iter().count(), 1);
    }
}
